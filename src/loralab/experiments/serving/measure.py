"""`bench serve`: rounds in which every contender answers the same prompts, and the ratios within a round."""

import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from loralab.experiments.latency.measure import machine_now
from loralab.experiments.latency.rounds import order_in_round
from loralab.experiments.latency.rows import Machine
from loralab.experiments.serving.config import ServingConfig
from loralab.experiments.serving.contenders import EAGER, Answering, AnswerTimes, threads_of
from loralab.experiments.serving.peers import STAND_INS, found, sentences
from loralab.files.whole import write_json
from loralab.models.load import load_model
from loralab.progress import tracked

Round = Mapping[str, AnswerTimes]


@dataclass(frozen=True)
class Bar:
    """A ratio that is asked for: of tokens a second, or of the time to the first token, where less is better."""

    name: str
    over: str
    under: str
    asked: float
    of: str = "tokens"
    compiled: float | None = None
    """What is asked for with compiled kernels, where that is more."""


BARS = (
    Bar("mixed_over_base", "mixed", "base", 0.85, compiled=0.9),
    Bar("one_adapter_over_base", "one adapter", "base", 0.9),
    Bar("base_over_generate", "base", "generate", 2.1),
    Bar("one_request_over_generate", "one base", "generate one", 1.8, compiled=2.4),
    Bar("mixed_over_rows", "mixed", "rows and generate", 3.5),
    Bar("mixed_over_peft", "mixed", "peft adapter_names", 6.5, compiled=9.0),
    Bar("many_registered_over_mixed", "mixed of many", "mixed", 0.95),
    Bar("first_token_mixed_over_base", "mixed", "base", 2.0, "first token"),
    Bar("mixed_over_base_eager", f"mixed{EAGER}", f"base{EAGER}", 0.85),
    Bar("one_request_over_generate_eager", f"one base{EAGER}", "generate one", 1.8),
    Bar("mixed_over_eager", "mixed", f"mixed{EAGER}", 1.0),
    Bar("base_over_eager", "base", f"base{EAGER}", 1.0),
    Bar("one_request_over_eager", "one base", f"one base{EAGER}", 1.0),
)


@dataclass(frozen=True)
class RatioOverRounds:
    """A bar's ratio over the rounds."""

    name: str
    median: float
    least: float
    most: float
    asked: float

    @property
    def met(self) -> bool:
        """By the median."""
        return self.median <= self.asked if self.name.startswith("first_token") else self.median >= self.asked


def measure_serving(config: ServingConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """All of it as JSON has it. SpecError for values out of range; what `load_model` raises."""
    config.validate()
    loaded = load_model(config.model, dtype=config.dtype, device=config.device)
    for sentence in (*loaded.notes, *sentences()):
        say(sentence)
    with threads_of(config), TemporaryDirectory() as folder:
        place = machine_now()
        answering = Answering(loaded.model, config, Path(folder))
        say(answering.engine.how)
        with closing(answering):
            rounds = _rounds(answering, config.rounds)
        answer = _answer(config, place, answering, rounds)
    answer["dtype"] = str(loaded.model.dtype).removeprefix("torch.")
    if config.out is not None:
        path = Path(config.out) / "serve.json"
        write_json(path, answer)
        answer["files"] = [str(path)]
    return answer


def ratios_of(rounds: Sequence[Round], compiled: bool = False) -> list[RatioOverRounds]:
    """Those whose contenders have run, the engine with compiled kernels or without."""
    found_ratios = []
    for bar in BARS:
        if all(bar.over in each and bar.under in each for each in rounds):
            values = [_value(each[bar.over], bar) / _value(each[bar.under], bar) for each in rounds]
            asked = bar.compiled if compiled and bar.compiled is not None else bar.asked
            found_ratios.append(RatioOverRounds(bar.name, median(values), min(values), max(values), asked))
    return found_ratios


def _value(outcome: AnswerTimes, bar: Bar) -> float:
    if bar.of == "tokens":
        return outcome.tokens_per_second
    assert outcome.first_token_seconds is not None
    return outcome.first_token_seconds


def _rounds(answering: Answering, count: int) -> Sequence[Round]:
    """Everybody in turn, after two tokens of each that only warm up."""
    table = answering.table()
    answering.new_tokens = 2
    for contender in table.values():
        contender()
    answering.new_tokens = answering.config.new_tokens
    rounds = []
    for number in tracked(range(count), "rounds"):
        gc.collect()
        rounds.append({name: table[name]() for name in order_in_round(list(table), number)})
    return rounds


def _answer(config: ServingConfig, place: Machine, answering: Answering, rounds: Sequence[Round]) -> dict[str, Any]:
    engine, eager = answering.engine, answering.eager
    ratios = ratios_of(rounds, engine.is_compiled)
    return {
        "model": config.model,
        "how": engine.how,
        "how_eager": None if eager is None else eager.how,
        "compiled": engine.is_compiled,
        "requests": config.requests,
        "adapter_rank": config.adapter_rank,
        "prompt_tokens": config.prompt_tokens,
        "new_tokens": config.new_tokens,
        "registered": config.registered,
        "rounds": config.rounds,
        **asdict(place),
        "contenders": {name: _middle([each[name] for each in rounds]) for name in sorted(rounds[0])},
        "ratios": {each.name: {**asdict(each), "met": each.met} for each in ratios},
        "peers_found": found(),
        "stand_ins": STAND_INS,
        "files": [],
    }


def _middle(outcomes: Sequence[AnswerTimes]) -> dict[str, float | None]:
    firsts = [each.first_token_seconds for each in outcomes if each.first_token_seconds is not None]
    return {
        "tokens_per_second": median(each.tokens_per_second for each in outcomes),
        "first_token_seconds": median(firsts) if firsts else None,
    }
