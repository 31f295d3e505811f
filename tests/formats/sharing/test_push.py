"""Uploading an adapter: huggingface_hub itself against a Hub of our own, and what never leaves."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

import loralab as ll
from formats.sharing.hub_server import TOKEN, Hub, running_hub
from tiny import byte_tokenizer, write_llama

RUN: dict[str, Any] = {
    "config": {"model": "smollm2-135m", "task": "jsonl", "data": "/data/of me/secret.jsonl", "out": "/tmp/runs/sql"},
    "notes": ["/data/of-me/secret.jsonl is one file of 3 objects", "see https://huggingface.co/a/b"],
    "data": {"files": {"secret.jsonl": "c" * 64}},
    "result": {
        "adapter": "/tmp/runs/sql",
        "samples": [{"prompt": "my diary"}],
        "next": {"merge": "loralab merge --out /tmp/runs/m"},
        "metrics": {"loss": 2.5},
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder, as training leaves one."""
    model = LlamaForCausalLM.from_pretrained(write_llama(tmp_path / "base"))
    adapter = ll.attach(model, ll.LoRA(rank=2))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1)
    model.name_or_path = model.config.name_or_path = "smollm2-135m"
    run = ll.save(adapter, tmp_path / "sql", model=model)
    byte_tokenizer().save_pretrained(run)
    (run / "run.json").write_text(json.dumps(RUN))
    rewritten(run, "loralab.json", notes=["begun from /data/of me/secret.jsonl"])
    (run / "samples.jsonl").write_text('{"prompt": "my diary"}\n')
    (run / "checkpoints" / "step-3").mkdir(parents=True)
    (run / "checkpoints" / "step-3" / "optimizer.safetensors").touch()
    (run / "optimizer.pt").touch()
    return run


OWN = {
    "README.md", "adapter_config.json", "adapter_model.safetensors", "loralab.json", "run.json",
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
}  # fmt: skip


def test_a_dry_run_lists_what_would_go_and_what_stays_and_leaves_the_folder_alone(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    push = ll.push_to_hub(folder, "me/sql", dry_run=True)
    assert set(push.files) == OWN
    assert (push.url, push.bytes) == (None, sum(push.files.values()))
    assert push.left_out == {
        "checkpoints": "states of the training and its optimizer",
        "optimizer.pt": "a pickle",
        "samples.jsonl": "texts of the data",
    }
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


# -- the real client --------------------------------------------------------------------------------------------------


def pushed(hub: Hub, *arguments: str, token: str = TOKEN) -> "subprocess.CompletedProcess[str]":
    """`loralab push` in a process of its own: huggingface_hub reads its settings when it is imported."""
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
    command = [sys.executable, "-m", "loralab", "push", *arguments, "--json"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_what_is_uploaded_loads_and_tells_nothing_of_the_machine(folder: Path, tmp_path: Path) -> None:
    with running_hub() as hub:
        done = pushed(hub, str(folder), "me/first", "--private", "--commit-message", "First")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["url"] == f"{hub.url}/me/sql/commit/1"
    asked = hub.repositories["me/first"]
    assert asked.get("visibility") == "private" or asked["private"]  # as later or earlier clients say it
    assert hub.messages == ["First"]
    assert set(hub.files) == OWN
    for name, content in hub.files.items():
        (tmp_path / "got").mkdir(exist_ok=True)
        (tmp_path / "got" / name).write_bytes(content)
        told = [word for word in (b"diary", b"/data/", b"/tmp/", b"of me", b"of-me") if word in content]
        assert told == [], name
    run = json.loads(hub.files["run.json"])
    assert run["config"]["data"] == "secret.jsonl"
    assert run["notes"] == ["secret.jsonl is one file of 3 objects", "see https://huggingface.co/a/b"]
    assert b"# first\n" in hub.files["README.md"]
    model = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    assert "begun from secret.jsonl" in ll.load(model, tmp_path / "got").notes


@pytest.mark.parametrize(
    ("status", "token", "said"),
    [
        (200, "hf_other", "the token is not valid"),
        (403, TOKEN, "the token may not write there"),
        (500, TOKEN, "refused"),
    ],
)
def test_a_hub_that_refuses_is_one_line_and_status_2(folder: Path, status: int, token: str, said: str) -> None:
    with running_hub(status) as hub:
        done = pushed(hub, str(folder), "me/sql", token=token)
    assert done.returncode == 2
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_hub_that_is_not_there_is_one_line(folder: Path) -> None:
    done = pushed(Hub("http://127.0.0.1:9"), str(folder), "me/sql")
    assert done.returncode == 2
    assert "http://127.0.0.1:9 could not be reached" in done.stderr.splitlines()[-1]


def test_without_a_network_or_a_token_nothing_is_tried(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ll.OutputError, match="HF_HUB_OFFLINE is set"):
        ll.push_to_hub(folder, "me/sql")
    monkeypatch.setattr("loralab.formats.sharing.push.is_offline_mode", lambda: False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere")
    with pytest.raises(ll.OutputError, match=r"needs a token .*hf auth login"):
        ll.push_to_hub(folder, "me/sql")
    with pytest.raises(ll.SpecError, match="'a/b/c' cannot be a repository"):
        ll.push_to_hub(folder, "a/b/c", dry_run=True)


# -- what is refused --------------------------------------------------------------------------------------------------


def rewritten(folder: Path, name: str, **changes: Any) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | changes))


def test_a_base_of_this_machine_needs_its_id(folder: Path) -> None:
    rewritten(folder, "adapter_config.json", base_model_name_or_path="/models/mine")
    with pytest.raises(ll.SpecError, match=r"'/models/mine', a folder of this machine .* --base-model"):
        ll.push_to_hub(folder, "me/sql", dry_run=True)
    assert "README.md" in ll.push_to_hub(folder, "me/sql", base_model="somebody/base", dry_run=True).files


def test_an_adapter_that_changes_nothing_is_refused(folder: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(folder.parent / "base")
    ll.save(ll.attach(model, ll.LoRA(rank=2)), folder)
    with pytest.raises(ll.AdapterFileError, match="changes nothing"):
        ll.push_to_hub(folder, "me/sql", dry_run=True)


def test_a_damaged_folder_is_refused_as_loading_refuses_it(folder: Path) -> None:
    whole = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(whole[:-8])
    with pytest.raises(ll.LoralabError, match="adapter_model"):
        ll.push_to_hub(folder, "me/sql", dry_run=True)
    shutil.rmtree(folder)
    with pytest.raises(ll.NotFoundError, match="does not exist"):
        ll.push_to_hub(folder, "me/sql", dry_run=True)


@pytest.mark.parametrize(
    ("line", "said"),
    [(f"my token is {TOKEN}", "a token of the Hugging Face Hub in line 2"), (f"{Path.home()}/x", "home")],
)
def test_a_secret_or_a_path_in_a_card_of_ones_own_is_refused(folder: Path, line: str, said: str) -> None:
    (folder / "README.md").write_text(f"# mine\n{line}\n")
    with pytest.raises(ll.AdapterFileError, match=said):
        ll.push_to_hub(folder, "me/sql", dry_run=True)
