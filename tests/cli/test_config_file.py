"""`--config`: a TOML file, JSON of the same, or a run's run.json in the place of the flags that made it."""

import json
from pathlib import Path

import pytest

from loralab.cli.config_file import read_config_file
from loralab.cli.main import main
from loralab.cli.verbs.compare import VERB as COMPARE
from loralab.cli.verbs.eval import VERB as EVAL
from loralab.cli.verbs.merge import VERB as MERGE
from loralab.cli.verbs.plan import VERB as PLAN
from loralab.cli.verbs.train import VERB as TRAIN
from loralab.errors import NotFoundError, SpecError


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.toml", "rank 8\n", r"not a TOML file: .*line 1"),
        ("run.json", "{", "not a JSON file"),
        ("run.json", "[]", "holds a JSON list; an object of flags was expected"),
    ],
)
def test_a_file_that_is_none(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SpecError, match=message):
        read_config_file(tmp_path / name, EVAL.config)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        read_config_file(tmp_path / "run.toml", EVAL.config)
    with pytest.raises(SpecError, match="is a folder; name a TOML file"):
        read_config_file(tmp_path, EVAL.config)


def test_json_of_flags_is_what_toml_of_them_is(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"model": "m", "max-length": 9}))
    (tmp_path / "run.toml").write_text('\ufeffmodel = "m"\nmax-length = 9\n')
    one, other = (read_config_file(tmp_path / name, EVAL.config) for name in ("run.json", "run.toml"))
    assert one == other
    assert one.values == {"model": "m", "max-length": 9}


def test_a_run_is_trained_again_from_its_record(adapter: Path, tmp_path: Path) -> None:
    flags = ["--config", str(adapter / "run.json"), "--lr", "0.02"]
    assert main(["train", *flags, "--out", str(tmp_path / "again")]) == 0
    before, after = (json.loads((folder / "run.json").read_text()) for folder in (adapter, tmp_path / "again"))
    changed = {key for key, value in after["config"].items() if value != before["config"][key]}
    assert changed == {"out", "lr"}


def test_a_run_is_not_written_over_by_its_record(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", str(adapter / "run.json")]) == 2
    assert f"{adapter} holds another run; choose another --out" in capsys.readouterr().err


def test_other_verbs_take_what_means_the_same_to_them(adapter: Path) -> None:
    record = adapter / "run.json"
    run = json.loads(record.read_text())["config"]
    shared = {key: run[key] for key in ("model", "task", "data", "max_length")}
    evaluated = read_config_file(record, EVAL.config)
    assert evaluated.values == shared | {"adapter": str(adapter)}
    assert evaluated.notes == (f"{record}: model {run['model']}, task jsonl, data {run['data']}, adapter {adapter}",)
    assert read_config_file(record, MERGE.config).values == {"model": run["model"], "adapter": str(adapter)}
    planned = read_config_file(record, PLAN.config).values
    assert (planned["rank"], planned["batch_size"], planned["method"]) == (2, 4, "lora")
    assert not {"labels", "task", "out"} & set(planned)


def test_trainings_take_all_but_what_is_of_one_call(adapter: Path) -> None:
    record = adapter / "run.json"
    run = json.loads(record.read_text())["config"]
    assert read_config_file(record, TRAIN.config).values == {
        key: value for key, value in run.items() if key not in ("resume", "overwrite")
    }
    assert {"method", "seed", "resume"}.isdisjoint(read_config_file(record, COMPARE.config).values)


def test_eval_of_a_run_needs_no_more_than_its_record(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--config", str(adapter / "run.json"), "--limit", "2", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1])["examples"] == 2
    assert f"adapter {adapter}" in said.err
