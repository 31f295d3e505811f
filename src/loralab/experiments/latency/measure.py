"""`bench latency`: one forward pass of the base, of merged and live LoRA, and of bottleneck adapters (Table 1)."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from loralab.experiments.latency.config import InputSize, LatencyConfig
from loralab.experiments.latency.contenders import Contender, contenders
from loralab.experiments.latency.model import TimedModel, forward_pass, timed_model
from loralab.experiments.latency.operators import OperatorCount, compare_operators, record
from loralab.experiments.latency.plot import draw_slow_down
from loralab.experiments.latency.rounds import time_rounds
from loralab.experiments.latency.rows import Latency, Machine, Timing, as_answer, noise_of, rows_of
from loralab.experiments.latency.table import markdown
from loralab.files.whole import write_json, write_text
from loralab.machine import machine
from loralab.progress import tracked

Say = Callable[[str], None]


def measure_latency(config: LatencyConfig, say: Say) -> Latency:
    """Time everybody in every setting, count operators, and write files if `config.out` says where.

    Raises SpecError for values out of range, and what `timed_model` raises. `say` is told how it goes.
    """
    config.validate()
    threads = torch.get_num_threads()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    try:
        latency = _measure(config, timed_model(config), say)
    finally:
        torch.set_num_threads(threads)
    return latency if config.out is None else _write(latency, Path(config.out))


def count_operators(
    timed: TimedModel, among: Sequence[Contender], setting: InputSize
) -> tuple[dict[Contender, int], dict[str, OperatorCount]]:
    """What each contender trains, and what it executes beside the first, which is the base."""
    call = forward_pass(timed.model, setting)
    parameters, executions = {}, {}
    for contender in among:
        with contender.standing(timed.model) as parameters[contender]:
            executions[str(contender)] = record(call)
    return parameters, compare_operators(executions[str(among[0])], executions)


def _measure(config: LatencyConfig, timed: TimedModel, say: Say) -> Latency:
    for note in timed.notes:
        say(note)
    among, settings = contenders(config.rank, config.sizes), config.all_settings()
    smallest = min(settings, key=lambda setting: setting.tokens)
    parameters, operators = count_operators(timed, among, smallest)
    rows: list[list[Timing]] = []
    for setting in tracked(settings, "settings"):
        say(f"{setting}: {len(among)} contenders, {config.rounds} rounds of {config.repeats} passes")
        call = forward_pass(timed.model, setting)
        rounds = time_rounds(timed.model, call, among, config.rounds, config.repeats)
        rows.append(rows_of(setting, rounds, parameters))
    return Latency(
        model=config.model,
        random_weights=timed.random,
        dtype=str(timed.dtype).removeprefix("torch."),
        machine=machine_now(),
        rounds=config.rounds,
        repeats=config.repeats,
        operators_at=str(smallest),
        operators=operators,
        rows=tuple(row for each in rows for row in each),
        noise=tuple(noise_of(each, config.rounds) for each in rows),
    )


def machine_now() -> Machine:
    """What this runs on."""
    here = machine()
    name = ", ".join(here[part] for part in ("processor", "accelerator") if here[part])
    return Machine(name, here["threads"], torch.__version__, os.getloadavg()[0])


def _write(latency: Latency, folder: Path) -> Latency:
    """latency.json, latency.md and latency.png; what was there of an earlier measurement is replaced."""
    data, table, plot = (folder / f"latency.{ending}" for ending in ("json", "md", "png"))
    written = replace(latency, files=tuple(map(str, (data, table, plot))))
    draw_slow_down(written.rows, plot, _title(written))
    write_text(table, markdown(written))
    write_json(data, as_answer(written))
    return written


def _title(latency: Latency) -> str:
    weights = ", random weights" if latency.random_weights else ""
    where = f"{latency.dtype}, {latency.machine.processor}, {latency.machine.threads_text}"
    return f"Slow-down of one forward pass against the base\n{Path(latency.model).name}{weights}; {where}"
