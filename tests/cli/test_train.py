"""What `loralab train` shows at its end, and that the commands it names are ones."""

import os
import shlex
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loralab.cli.main import main
from loralab.cli.parser import parse_arguments
from loralab.cli.settings import build_config
from loralab.cli.verbs.train import TrainVerbConfig
from loralab.training.command import folded, train_command
from tiny import write_lines

Ask = Callable[..., dict[str, Any]]


def _flags(tiny: Path, data: Path, out: Path) -> list[str]:
    return shlex.split(
        f"--model {tiny} --task jsonl --data {data} --out '{out}' --rank 2 --steps 2 --dtype float32 --eval-limit 4"
    )


def test_the_end_shows_before_and_after_and_what_comes_next(
    tiny: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *_flags(tiny, data, tmp_path / "a run")]) == 0
    shown = capsys.readouterr()
    assert "before" in shown.out
    assert "after" in shown.out
    assert "nan" not in shown.out + shown.err
    assert "loralab merge" in shown.out
    assert "peak_memory_bytes" not in shown.out
    assert all(len(line) <= 80 or "/" in line for line in shown.out.splitlines())


def test_the_loss_of_pairs_is_not_said_to_be_nats(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"{number}?", "chosen": f"yes {number}", "rejected": f"no {number}"} for number in range(40)]
    flags = _flags(tiny, write_lines(tmp_path / "pairs.jsonl", rows), tmp_path / "run")
    assert main(["train", *flags, "--preference", "dpo"]) == 0
    shown = capsys.readouterr().out
    assert "│ loss  " in shown
    assert "nats" not in shown


def test_every_command_that_comes_next_runs(tiny: Path, data: Path, tmp_path: Path, ask: Ask) -> None:
    following = ask("train", *_flags(tiny, data, tmp_path / "a run"))["next"]
    assert list(following) == ["eval", "generate", "inspect", "merge"]
    for command in following.values():
        assert main(shlex.split(folded(command).replace("\\\n", " "))[1:]) == 0


def test_the_command_of_a_run_means_the_same_run(tmp_path: Path) -> None:
    config = TrainVerbConfig(
        model="it's a model", task="jsonl", out=str(tmp_path / "a b"), rank_pattern={"q_proj": 4}, labels=("no", "yes"),
        trainable_token_indices={"embed_tokens": (3, 4)}, layers=(0, 1), best_epoch=True, eval_before=False, lr=1e-5,
        exclude="-odd",
    )  # fmt: skip
    command = shlex.split(folded(train_command(config)).replace("\\\n", " "))
    assert command[:2] == ["loralab", "train"]
    read = parse_arguments("loralab train", TrainVerbConfig, command[2:])
    assert build_config(TrainVerbConfig, read.flags, {}, "") == config


def test_long_commands_are_folded_where_a_shell_goes_on() -> None:
    whole = "loralab eval --model a-model --adapter 'out/a run' --task jsonl --data reviews.csv --split validation"
    first = "  loralab eval --model a-model --adapter 'out/a run' --task jsonl"
    assert folded(whole) == f"{first} \\\n    --data reviews.csv --split validation"
    many = folded(" ".join([whole, *(f"--flag-{n} {'value' * n}" for n in range(1, 9))])).splitlines()
    assert len(many) > 3
    assert max(map(len, many)) <= 80
    assert all(line.endswith(" \\") for line in many[:-1])
    assert all(line.startswith("    --") for line in many[1:]), "a flag stays with its value"
    word = "x" * 90
    assert folded(f"loralab inspect {word}") == f"  loralab inspect \\\n    {word}", "a word is never broken"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_in_its_status_and_the_command_that_goes_on(
    tiny: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    out = tmp_path / "a run"
    flags = [*_flags(tiny, data, out)[:-4], "--eval-limit", "0", "--save-every", "0", "--batch-size", "4"]
    flags[flags.index("--steps") + 1] = "5000"

    def send() -> None:
        while not (out / "metrics.jsonl").is_file() or not (out / "metrics.jsonl").read_text().count("\n"):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    status = main(["train", *flags])
    sender.join()
    said = capsys.readouterr().err
    assert status == 128 + number
    assert "Traceback" not in said
    command = said.partition("To go on:")[2].replace("\\\n", " ")
    assert shlex.split(command)[-1] == "--resume"
    assert main(["generate", "--model", str(tiny), "--adapter", str(out), "--checkpoint", "last", "--prompt", "a"]) == 0
