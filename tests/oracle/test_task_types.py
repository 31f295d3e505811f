"""The task type that we record lets PEFT's wrapper of that name call the model, for every sense that models have."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

import loralab as ll
from oracle.case import peft_loads
from oracle.peft_warnings import silenced
from toys import give_effect

pytestmark = silenced
TEXT = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip
SPEECH = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 32,
    "max_source_positions": 4, "max_target_positions": 16, "num_mel_bins": 4, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
Built = tuple[nn.Module, dict[str, Tensor], str]
"""(the model, what it is called with, the name of a layer to adapt)"""


def ids() -> Tensor:
    return torch.arange(3, 9).view(1, 6)


def whisper() -> Built:
    model = hf.WhisperForConditionalGeneration(hf.WhisperConfig(**SPEECH))
    return model, {"input_features": torch.randn(1, 4, 8), "decoder_input_ids": ids()}, "q_proj"


def speech_to_text() -> Built:
    settings = SPEECH | {"max_source_positions": 16, "input_feat_per_channel": 4, "input_channels": 1}
    settings |= {"conv_channels": 16, "num_conv_layers": 1, "conv_kernel_sizes": (3,)}
    settings.pop("num_mel_bins")
    model = hf.Speech2TextForConditionalGeneration(hf.Speech2TextConfig(**settings))
    return model, {"input_features": torch.randn(1, 8, 4), "decoder_input_ids": ids()}, "q_proj"


def llava() -> Built:
    vision = hf.CLIPVisionConfig(**VISION)
    config = hf.LlavaConfig(vision_config=vision, text_config=hf.LlamaConfig(**TEXT), image_token_id=31)
    return hf.LlavaForConditionalGeneration(config), {"input_ids": ids()}, "language_model.layers.0.self_attn.q_proj"


def gemma3() -> Built:
    text = hf.Gemma3TextConfig(**TEXT, head_dim=8)
    config = hf.Gemma3Config(text_config=text, vision_config=hf.SiglipVisionConfig(**VISION), image_token_id=31)
    return hf.Gemma3ForConditionalGeneration(config), {"input_ids": ids()}, "language_model.layers.0.self_attn.q_proj"


def wav2vec2() -> Built:
    settings = {key: TEXT[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    config = hf.Wav2Vec2Config(
        **settings, num_attention_heads=2, conv_dim=(8,), conv_stride=(4,), conv_kernel=(4,), num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, classifier_proj_size=8,
    )  # fmt: skip
    return hf.Wav2Vec2ForSequenceClassification(config), {"input_values": torch.randn(1, 64)}, "q_proj"


def bart() -> Built:
    settings = {key: each for key, each in SPEECH.items() if not key.startswith(("max_", "num_mel"))}
    model = hf.BartForConditionalGeneration(hf.BartConfig(**settings, max_position_embeddings=32))
    return model, {"input_ids": ids(), "decoder_input_ids": ids()}, "q_proj"


def marian() -> Built:
    settings = {key: each for key, each in SPEECH.items() if not key.startswith(("max_", "num_mel"))}
    model = hf.MarianMTModel(hf.MarianConfig(**settings, max_position_embeddings=32))
    return model, {"input_ids": ids(), "decoder_input_ids": ids()}, "q_proj"


def t5() -> Built:
    config = hf.T5Config(
        d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2, vocab_size=32, decoder_start_token_id=0
    )  # fmt: skip
    return hf.T5ForConditionalGeneration(config), {"input_ids": ids(), "decoder_input_ids": ids()}, "q"


def llama() -> Built:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)), {"input_ids": ids()}, "q_proj"


def vilt() -> Built:
    settings = {key: TEXT[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    config = hf.ViltConfig(**settings, num_attention_heads=2, image_size=8, patch_size=4, max_image_length=8)
    inputs = {"input_ids": ids(), "pixel_values": torch.randn(1, 3, 8, 8)}
    return hf.ViltForQuestionAnswering(config), inputs, "query"


CASES: dict[str, tuple[Callable[[], Built], str | None]] = {
    "Whisper": (whisper, None),
    "Speech2Text": (speech_to_text, None),
    "LLaVA": (llava, None),
    "Gemma 3 with images": (gemma3, None),
    "Wav2Vec2 as a classifier": (wav2vec2, None),
    "ViLT, questions": (vilt, None),
    "BART": (bart, "SEQ_2_SEQ_LM"),
    "Marian": (marian, "SEQ_2_SEQ_LM"),
    "T5": (t5, "SEQ_2_SEQ_LM"),
    "Llama": (llama, "CAUSAL_LM"),
}


@pytest.mark.parametrize("case", CASES)
def test_peft_runs_the_model_with_the_task_type_that_it_is_given(tmp_path: Path, case: str) -> None:
    build, task = CASES[case]
    torch.manual_seed(0)
    model, inputs, target = build()
    model.eval()
    adapter = ll.attach(model, ll.LoRA(rank=2, targets=[target]))
    give_effect(adapter)
    ll.save(adapter, tmp_path, model=model)
    with torch.no_grad():
        expected = model(**inputs).logits
    ll.detach(model)
    theirs = peft_loads(model, tmp_path)
    recorded = theirs.peft_config["default"].task_type
    assert (None if recorded is None else str(getattr(recorded, "value", recorded))) == task
    with torch.no_grad():
        torch.testing.assert_close(theirs(**inputs).logits, expected, atol=1e-5, rtol=1e-5)
