"""No prompt is continued otherwise beside a longer one: whatever the model makes of padding."""

from collections.abc import Callable

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
    XLNetConfig,
    XLNetLMHeadModel,
)

from loralab.errors import SpecError
from loralab.generation.generate import GenerationConfig, generate_ids
from loralab.generation.padding import batches

IDS = {"vocab_size": 258, "pad_token_id": 0, "eos_token_id": None, "bos_token_id": 2}
WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"n_layer": 2, "n_head": 4}
PROMPTS = [[*[66] * 9, 70], [80, 81], [90, 91, 92, 93, 94], [75, 76], [75, 76, 77, 78, 79]]

MIND = {
    "rwkv": lambda: RwkvForCausalLM(RwkvConfig(**IDS, **WIDTHS, attention_hidden_size=32, context_length=64)),
    "xlnet": lambda: XLNetLMHeadModel(XLNetConfig(**IDS, **HEADS, d_model=32, d_inner=32)),
    "recurrent-gemma": lambda: RecurrentGemmaForCausalLM(
        RecurrentGemmaConfig(
            **IDS | WIDTHS | {"num_hidden_layers": 3},
            intermediate_size=32,
            num_attention_heads=4,
            lru_width=32,
            attention_window_size=32,
        )
    ),
}
DO_NOT = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**IDS, **HEADS, n_positions=64, n_embd=32)),
    "bloom": lambda: BloomForCausalLM(BloomConfig(**IDS, **HEADS, hidden_size=32)),
    "mamba": lambda: MambaForCausalLM(MambaConfig(**IDS, **WIDTHS, state_size=4)),
}


def strong(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """With weights so large that every token counts."""
    torch.manual_seed(0)
    model = make().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("name", [*MIND, *DO_NOT])
def test_together_is_alone(name: str, tokenizer) -> None:
    model, config = strong((MIND | DO_NOT)[name]), GenerationConfig(8)
    together = generate_ids(model, PROMPTS, config, tokenizer)
    assert together == [generate_ids(model, [prompt], config, tokenizer)[0] for prompt in PROMPTS]


def shared(model: PreTrainedModel) -> list[list[int]]:
    with torch.inference_mode():
        return batches(model, PROMPTS, GenerationConfig(batch_size=4), 0)


@pytest.mark.parametrize("name", MIND)
def test_prompts_of_one_length_share_a_batch_where_they_may(name: str) -> None:
    alone = [[1], [3], [2], [4], [0]]
    assert shared(strong(MIND[name])) == (alone if name == "rwkv" else [[1, 3], [2, 4], [0]])


@pytest.mark.parametrize("name", DO_NOT)
def test_a_model_that_does_not_mind_is_given_full_batches(name: str) -> None:
    assert shared(strong(DO_NOT[name])) == [[1, 3, 2, 4], [0]]


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]])
def test_beams_that_would_disturb_each_other_are_refused(prompts: list[list[int]], tokenizer) -> None:
    with pytest.raises(SpecError, match=r"RwkvForCausalLM .* so that 3 beams would disturb each other; set beams 1"):
        generate_ids(strong(MIND["rwkv"]), prompts, GenerationConfig(4, beams=3), tokenizer)


def test_without_prompts_there_is_no_batch(llama) -> None:
    assert batches(llama, [], GenerationConfig(), 0) == []
