"""Which models an engine takes."""

import pytest
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from loralab.errors import SpecError
from loralab.serving.engine.trial import refuse_unservable
from serving.causal import CAUSAL, causal


@pytest.mark.parametrize("kind", CAUSAL)
def test_causal_models_are_taken(kind: str) -> None:
    refuse_unservable(causal(kind))


def test_one_whose_rows_are_not_apart_is_refused() -> None:
    model = causal("llama")

    def mixed(module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        return output + 100 * output.flip(0)

    handle = model.lm_head.register_forward_hook(mixed)
    with pytest.raises(SpecError, match="would disturb each other"):
        refuse_unservable(model)
    handle.remove()
    refuse_unservable(model)


def test_an_encoder_and_decoder_is_refused() -> None:
    model = T5ForConditionalGeneration(T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=50))
    with pytest.raises(SpecError, match="causal language models"):
        refuse_unservable(model)
