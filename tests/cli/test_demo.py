"""The demo: its page at 80 columns, and (slowly) the whole of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loralab.cli.verbs.demo import show

Ask = Callable[..., dict[str, Any]]

ANSWER: dict[str, Any] = {
    "before": {"loss": 3.981, "rouge_l": 11.04},
    "after": {"loss": 2.764, "rouge_l": 30.21},
    "adapter_bytes": 937_100,
    "model_bytes": 269_100_000,
    "merge": {
        "out": "out/merged",
        "tensors": 60,
        "max_abs_logit_error": 0.02,
        "tolerance": 0.1,
        "mean_kl": 1e-5,
        "argmax_agreement": 1.0,
    },
    "adapter": Path("out/adapter"),
    "examples": 64,
    "trainable_params": 230_400,
    "total_params": 134_515_008,
    "samples": [
        {
            "prompt": f"def a_function_with_a_long_name(and, [many], arguments):\n    pass{' ' * 90}",
            "reference": "Return " + "many words " * 9,
            "before": "def [a_function]\n" * 5,
            "after": "",
        }
    ],
    "seconds": 200.2,
}


def test_page_fits_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    show(ANSWER)
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 80
    for expected in ("3.981", "2.764", "11.0", "30.2", "937.1 kB", "269.1 MB", "(0.35%)", "[many]", "(nothing)"):
        assert expected in page


@pytest.mark.slow
def test_demo(smollm2: Path, tmp_path: Path, ask: Ask) -> None:
    answer = ask("demo", "--steps", 4, "--batch-size", 4, "--limit", 4, "--out", tmp_path / "demo")
    assert set(answer) >= {"before", "after", "adapter_bytes", "model_bytes", "merge"}
    assert answer["after"]["loss"] < answer["before"]["loss"]
    assert answer["adapter_bytes"] < answer["model_bytes"] / 100
    assert answer["merge"]["max_abs_logit_error"] <= answer["merge"]["tolerance"]
