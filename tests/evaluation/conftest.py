"""The tokenizer of single bytes, as a fixture."""

import pytest
from transformers import PreTrainedTokenizerFast

from tiny import byte_tokenizer


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()
