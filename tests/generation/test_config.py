import subprocess
import sys

import pytest

from loralab.errors import SpecError
from loralab.generation.config import GenerationConfig


@pytest.mark.parametrize(
    "values, message",
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"beams": 0}, "beams is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram"),
        ({"top_p": 0.0, "temperature": 1.0}, "top_p"),
        ({"top_p": 0.9}, "set a temperature"),
        ({"beams": 2, "temperature": 1.0}, "exclude each other"),
    ],
)
def test_what_cannot_be(values: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        GenerationConfig(**values)


def test_it_imports_no_torch() -> None:
    program = "import sys, loralab.generation.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": ":".join(sys.path)})
