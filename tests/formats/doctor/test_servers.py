"""What of an adapter would not survive on vLLM, SGLang and llama.cpp."""

from dataclasses import asdict
from pathlib import Path

import pytest

import loralab as ll
from loralab.errors import SpecError
from loralab.formats.doctor.servers import SERVERS, Move, move_to
from loralab.formats.read import read_adapter
from serving.causal import causal
from serving.test_registry import write

BOTH = ["q_proj", "v_proj"]


def moved(path: Path, spec: object, server: str) -> Move:
    return move_to(read_adapter(write(causal("llama"), path / "mine", spec)), server)


def said(move: Move, severity: str) -> str:
    return "; ".join(each.what for each in move.lost if each.severity == severity)


@pytest.mark.parametrize("server", SERVERS)
def test_plain_lora_survives_everywhere(tmp_path: Path, server: str) -> None:
    move = moved(tmp_path, ll.LoRA(rank=4, targets=BOTH), server)
    assert move.whole, asdict(move)
    assert "mine" in move.start[-1]


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(
    "spec",
    [
        ll.LoRA(rank=2, targets=BOTH, magnitude=True),
        ll.LoRA(rank=2, targets=["q_proj"], modules_to_save=["lm_head"]),
        ll.PrefixEmbedding(prefix=2),
    ],
    ids=["dora", "head", "prefix"],
)
def test_what_is_more_than_low_rank_does_not(tmp_path: Path, server: str, spec: object) -> None:
    move = moved(tmp_path, spec, server)
    assert not move.whole
    assert said(move, "error")


@pytest.mark.parametrize("server, whole", [("vllm", True), ("sglang", False), ("llama.cpp", True)])
def test_the_scale_of_rslora_is_lost_where_it_is_not_read(tmp_path: Path, server: str, whole: bool) -> None:
    move = moved(tmp_path, ll.LoRA(rank=4, targets=BOTH, rank_stabilized=True), server)
    assert move.whole is whole
    assert ("use_rslora" in said(move, "warning")) is not whole


@pytest.mark.parametrize("server, whole", [("vllm", False), ("sglang", False), ("llama.cpp", True)])
def test_one_alpha_for_all_is_read_by_some(tmp_path: Path, server: str, whole: bool) -> None:
    spec = ll.LoRA(rank=4, alpha=8, targets=BOTH, alpha_pattern={"q_proj": 2})
    assert moved(tmp_path, spec, server).whole is whole


@pytest.mark.parametrize("server, whole", [("vllm", False), ("sglang", False), ("llama.cpp", True)])
def test_vera_survives_where_it_is_converted_to_its_pairs(tmp_path: Path, server: str, whole: bool) -> None:
    assert moved(tmp_path, ll.VeRA(rank=4, targets=BOTH), server).whole is whole


def test_flags_fit_the_rank(tmp_path: Path) -> None:
    assert "--max-lora-rank 16 " in moved(tmp_path, ll.LoRA(rank=4, targets=BOTH), "vllm").start[0]
    read = read_adapter(write(causal("llama"), tmp_path / "wide", ll.LoRA(rank=24, targets=["q_proj"])))
    assert "--max-lora-rank 32 " in move_to(read, "vllm").start[0]
    assert "--max-lora-rank 24 " in move_to(read, "sglang").start[0]


def test_an_unknown_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"vllm, sglang, llama\.cpp"):
        moved(tmp_path, ll.LoRA(rank=4, targets=BOTH), "ollama")
