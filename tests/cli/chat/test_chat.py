"""`loralab chat` with its lines piped in: what it answers, and what it refuses."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loralab.cli.main import main
from tiny import write_bert, write_pairs, write_t5

FEW = ["--max-new-tokens", "6", "--dtype", "float32"]
"""In bfloat16 two engines may round otherwise: each chooses its weights' layout by what is quicker at its start."""
Talk = Callable[..., dict[str, Any]]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put lines into stdin."""
    return lambda text: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


@pytest.fixture
def talk(pipe: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> Talk:
    """What was said, with `--json`, and what stood on stderr."""

    def talk(lines: str, *flags: object) -> dict[str, Any]:
        pipe(lines)
        assert main(["chat", *map(str, flags), *FEW, "--json"]) == 0
        said = capsys.readouterr()
        answer: dict[str, Any] = json.loads(said.out.splitlines()[-1])
        return answer | {"err": said.err}

    return talk


def answers(said: dict[str, Any]) -> list[str]:
    return [turn["content"] for turn in said["messages"] if turn["role"] == "assistant"]


def test_every_line_is_answered_on_stdout_and_all_else_is_said_on_stderr(
    model: Path, pipe: Callable[[str], None], talk: Talk, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = answers(talk("5 + 12\n\nand 3?\n", "--model", model))
    pipe("5 + 12\n\nand 3?\n")
    assert main(["chat", "--model", str(model), *FEW]) == 0
    assert capsys.readouterr().out == "".join(f"{text}\n" for text in wanted)
    assert len(wanted) == 2


def test_a_first_answer_is_that_of_generate(
    model: Path, adapters: list[Path], talk: Talk, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a chat template, and for an adapter that was trained on conversations too."""
    for adapter in (None, adapters[0]):
        flags = ["--model", str(model), *([] if adapter is None else ["--adapter", str(adapter)])]
        assert main(["generate", *flags, *FEW, "--prompt", "5 + 12", "--chat", "--json"]) == 0
        (written,) = json.loads(capsys.readouterr().out.splitlines()[-1])["completions"]
        assert answers(talk("5 + 12\n", *flags)) == [written]


def test_the_first_adapter_answers_until_another_is_asked(model: Path, adapters: list[Path], talk: Talk) -> None:
    talks, pairs = adapters
    both = ["--model", model, "--adapter", talks, "--adapter", pairs]
    lines = "say a:\n/undo\n"
    alone = [answers(talk("say a:\n", "--model", model, *more)) for more in ([], ["--adapter", pairs])]
    said = talk(f"{lines}/adapter pairs\n{lines}/base\nsay a:\n", *both)
    assert (answers(said), said["adapter"]) == (alone[0], None)
    said = talk("/adapter pairs\nsay a:\n", *both)
    assert (answers(said), said["adapter"]) == (alone[1], "pairs")
    assert talk("", "--model", model, "--adapter", f"{talks},{pairs}")["adapter"] == "talks"
    assert alone[0] != alone[1]


def test_a_runs_checkpoint_answers_under_the_runs_name(model: Path, tmp_path: Path, talk: Talk) -> None:
    run, data = tmp_path / "run", write_pairs(tmp_path / "data")
    flags = ["--model", model, "--task", "jsonl", "--data", data, "--out", run, "--eval-limit", 0, "--lr", 0.1]
    assert main(["train", *map(str, [*flags, "--steps", 4, "--save-every", 2])]) == 0
    at_two = ["--model", model, "--adapter", run, "--checkpoint", 2]
    said = talk("say a:\n", *at_two)
    assert said["adapter"] == "run"
    folder = run / "checkpoints" / "step-00000002"
    assert answers(said) == answers(talk("say a:\n", "--model", model, "--adapter", folder))


def test_the_model_sees_what_was_said(model: Path, talk: Talk) -> None:
    later = answers(talk("say a:\nsay b:\n", "--model", model))[1]
    assert later != answers(talk("say b:\n", "--model", model))[0]
    assert later != answers(talk("say a:\n/reset\nsay b:\n", "--model", model))[-1]


def test_a_system_message_stands_before_everything(model: Path, talk: Talk) -> None:
    said = talk("say a:\n", "--model", model, "--system", "Be short.")
    assert said["messages"][0] == {"role": "system", "content": "Be short."}
    assert answers(said) != answers(talk("say a:\n", "--model", model))


def test_old_turns_that_do_not_fit_are_left_out_loudly(model: Path, talk: Talk) -> None:
    said = talk(f"{'a' * 150}\n{'b' * 150}\n", "--model", model)
    assert "(2 older turns do not fit into the model's context: it no longer sees them)" in said["err"]
    assert answers(said)[1] == answers(talk(f"{'b' * 150}\n", "--model", model))[0]


def test_a_turn_that_cannot_fit_is_refused(
    model: Path, pipe: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    pipe("a" * 300 + "\n")
    assert main(["chat", "--model", str(model), *FEW]) == 2
    assert "write less, or ask for fewer with --max-new-tokens" in capsys.readouterr().err


def test_without_a_template_a_text_goes_on(tiny: Path, talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    said = talk("count 1:\n and 2:\n", "--model", tiny)
    assert "has no chat template: what you write is continued as a text" in said["err"]
    first, second = answers(said)
    assert main(["generate", "--model", str(tiny), *FEW, "--prompt", f"count 1:{first}\n and 2:", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["completions"] == [second]


def test_an_encoder_decoder_answers_too(tmp_path: Path, talk: Talk) -> None:
    assert len(answers(talk("one\ntwo\n", "--model", write_t5(tmp_path)))) == 2


def test_answers_leave_room_for_questions(model: Path, pipe: Callable[[str], None], capsys) -> None:
    pipe("")
    assert main(["chat", "--model", str(model)]) == 0
    assert "answers have at most 128 tokens: half of the model's context" in capsys.readouterr().err


def test_two_slashes_begin_a_text_with_one(model: Path, talk: Talk) -> None:
    assert talk("//base\n", "--model", model)["messages"][0]["content"] == "/base"


@pytest.mark.parametrize("verb", ["chat", "generate"])
def test_a_classifier_writes_no_text(
    verb: str, classifier: Path, model: Path, tmp_path: Path, pipe: Callable[[str], None], capsys
) -> None:
    merged, bert = tmp_path / "merged", write_bert(tmp_path / "bert")
    assert main(["merge", "--model", str(model), "--adapter", str(classifier), "--out", str(merged)]) == 0
    refused = {
        "classes was trained for sequence-classification, which": [model, "--adapter", classifier],
        "is LlamaForSequenceClassification, which": [merged],
        "is an encoder (bert), which": [bert],
    }
    for message, flags in refused.items():
        capsys.readouterr()
        pipe("a\n")
        assert main([verb, "--model", *map(str, flags)]) == 2
        assert f"{message} writes no text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--adapter", "{talks}", "--adapter", "{talks}/../talks"], "have the same name, 'talks'"),
        (["--adapter", "nowhere"], "no such folder: nowhere"),
        (["--temperature", "-1"], "temperature is -1"),
        (["--model", "{tiny}", "--system", "x"], "--system needs a chat template"),
    ],
)
def test_what_cannot_be_talked_to(
    flags: list[str], message: str, model: Path, tiny: Path, adapters: list[Path], pipe: Callable[[str], None], capsys
) -> None:
    pipe("a\n")
    given = [flag.format(talks=adapters[0], tiny=tiny) for flag in flags]
    assert main(["chat", "--model", str(model), *given]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_command_in_a_script_is_an_error(
    model: Path, pipe: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    pipe("/bse\n")
    assert main(["chat", "--model", str(model), *FEW]) == 2
    assert "unknown command /bse (did you mean base?)" in capsys.readouterr().err
