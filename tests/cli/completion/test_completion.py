"""`loralab completion`: what the Tab key offers, asked of real shells where they are installed."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loralab.cli.completion.words import NAMES
from loralab.cli.fields import config_fields
from loralab.cli.main import main
from loralab.cli.table import ANALYSES, VERBS
from loralab.cli.verbs.train import VERB as TRAIN
from loralab.models.embedded import EMBEDDED
from loralab.tasks.table import READERS

SOURCE = Path(__file__).resolve().parents[3] / "src"
OFFERED = [
    ("tr", ["train"]),
    ("analyse sub", ["subspace"]),
    ("help analyse ran", ["rank"]),
    ("train --meth", ["--method"]),
    ("train --method lora-", ["lora-fa", "lora-xs"]),
    ("train --method = bitf", ["bitfit"]),
    ("train --dtype ''", ["auto", "float32", "bfloat16", "float16"]),
    ("train --rank ''", []),
    ("train --data d", ["data.jsonl"]),
    ("train --config r", ["run.toml"]),
    ("train --model my", ["my model"]),
    ("train --model smo", ["smollm2-135m"]),
    ("inspect my", ["my model"]),
    ("compare --methods lora,bitf", ["lora,bitfit"]),
    ("bench l", ["latency"]),
    ("completion f", ["fish"]),
]
"""What is typed -> what can follow; the last word is the one that is completed."""


@pytest.fixture
def script(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", request.param]) == 0
    return capsys.readouterr().out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files and a folder, one with a space in its name."""
    (tmp_path / "my model").mkdir()
    for name in ("data.jsonl", "run.toml"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("script", ["bash"], indirect=True)
@pytest.mark.parametrize(("typed", "offered"), OFFERED, ids=str)
def test_what_bash_offers(typed: str, offered: list[str], script: str, folder: Path) -> None:
    words = ["loralab", *shlex.split(typed)]
    asked = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _loralab 2>/dev/null"
    shown = '(( ${#COMPREPLY[@]} )) && printf "%s\\n" "${COMPREPLY[@]}"'
    command = ["bash", "--norc", "-c", f"{script}\n{asked}; {shown}; true"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    assert done.stdout.splitlines() == offered
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize("script", ["fish"], indirect=True)
def test_what_fish_offers(script: str, folder: Path) -> None:
    asked = f"{script}\ncomplete -C 'loralab train --method lora-'"
    done = subprocess.run(["fish", "--no-config", "-c", asked], capture_output=True, text=True, cwd=folder, check=True)
    assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == ["lora-fa", "lora-xs"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh_understands_it(script: str) -> None:
    subprocess.run(["zsh", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("script", ["bash", "zsh", "fish"], indirect=True)
def test_every_verb_and_every_flag_is_in_it(script: str) -> None:
    words = set(re.findall(r"[\w-]+", script))
    assert {*VERBS, *ANALYSES} <= words
    flags = {flag.lstrip("-") for field in config_fields(TRAIN.config) for flag in field.flags}
    assert flags | {"config", "json", "help-all"} <= {word.lstrip("-") for word in words}


def test_names_are_those_of_the_tables() -> None:
    assert sorted(NAMES["task"]) == sorted(READERS)
    assert sorted(NAMES["model"]) == sorted(EMBEDDED)


def test_a_shell_can_ask_for_it_at_its_start() -> None:
    loading = "import sys; from loralab.cli.main import main; main(['completion', 'bash'])"
    heavy = (
        "print([name for name in ('torch', 'transformers', 'numpy', 'rich') if name in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", f"{loading}; {heavy}"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(SOURCE)}, check=True)
    assert done.stderr.strip() == "[]"
