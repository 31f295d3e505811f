"""No result depends on the batch size: every kind of model, every kind of task, whatever pads."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ViTImageProcessorPil,
)

from loralab.evaluation.evaluate import Evaluation, evaluate
from loralab.tasks.encoding.batches import collate
from loralab.tasks.encoding.encode import encode_examples
from loralab.tasks.example import Example, Examples, ImageExample, LabelledExample
from loralab.tasks.task import ROUGE, Task
from loralab.training.objective import batch_loss_sum
from tiny import byte_tokenizer, write_image

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2} | {
    "num_attention_heads": 2, "num_key_value_heads": 2,
}  # fmt: skip
ENDLESS = {"vocab_size": 258, "eos_token_id": 1, "initializer_range": 0.5}
COMMON = {**ENDLESS, "max_position_embeddings": 128}
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128, **COMMON}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24} | {
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_start_token_id": 1, "init_std": 0.5, **COMMON,
}  # fmt: skip
T5 = {"d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0} | {
    "vocab_size": 258, "eos_token_id": 1,
}  # fmt: skip
TYPES: dict[str, dict[str, object]] = {
    "llama": {**SIZES, **COMMON}, "mistral": {**SIZES, **COMMON}, "qwen2": {**SIZES, **COMMON},
    "gemma": {**SIZES, **COMMON, "head_dim": 8}, "gpt_neox": {**SIZES, **COMMON}, "gpt2": GPT, "openai-gpt": GPT,
    "opt": {**SIZES, **COMMON, "ffn_dim": 24, "word_embed_proj_dim": 16},
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2, **COMMON},
    "mixtral": {**SIZES, **COMMON, "num_local_experts": 4},
    "bert": {**SIZES, **COMMON}, "roberta": {**SIZES, **COMMON}, "deberta-v2": {**SIZES, **COMMON},
    "fnet": {**SIZES, **COMMON}, "convbert": {**SIZES, **COMMON, "embedding_size": 16},
    "xlnet": {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24, **ENDLESS},
    "bart": BART, "t5": T5,
}  # fmt: skip
DECODERS = ("llama", "mistral", "qwen2", "gemma", "gpt_neox", "gpt2", "openai-gpt", "opt", "bloom", "mixtral")
ENCODERS = ("bert", "roberta", "deberta-v2", "fnet", "convbert", "xlnet")
PADS = {"the tokenizer's": 0, "another": 7, "none": -1, "end of text": 1, "a letter": 40}
TEXTS = [
    "it",
    "is a long text of many words, and so on and on",
    "short one",
    "a",
    "of the middle length",
    "",
    "end<eos>",
]
JUDGED = [LabelledExample(text, None, i % 3) for i, text in enumerate(TEXTS) if text]
PAIRED = [LabelledExample(text, text[::-1] + "!", i % 3) for i, text in enumerate(TEXTS) if text]
VALUED = [LabelledExample(each.text_a, each.text_b, float(i)) for i, each in enumerate(PAIRED)]
WRITTEN = [Example(text, f"{text[:3]}!") for text in TEXTS]
TASKS: dict[str, tuple[Task, Examples]] = {
    "classification": (Task("toy", "classification", {}, ("accuracy",), ("x", "y", "z")), JUDGED),
    "pair": (Task("toy", "classification", {}, ("accuracy",), ("x", "y", "z")), PAIRED),
    "regression": (Task("toy", "regression", {}, ("pearson",)), VALUED),
    "generation": (Task("toy", "generation", {}, ROUGE), WRITTEN),
}


def task_of(kind: str) -> Task:
    task, examples = TASKS[kind]
    return replace(task, splits={"test": lambda: examples})


def build(model_type: str, auto: type, outputs: int = 3, pad: int = 0) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **TYPES[model_type], num_labels=outputs, pad_token_id=0)
    model = auto.from_config(config).eval()
    model.config.get_text_config().pad_token_id = pad
    return model


def closing(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer, ending every text with its end of text, as those of encoder-decoders do."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <eos>", pair="$A $B <eos>", special_tokens=[("<eos>", 1)]
    )
    return tokenizer


def hold(measure: Callable[[int], Evaluation]) -> None:
    """That batches of 1, 3 and 8 are scored alike."""
    one = measure(1)
    for size in (3, 8):
        found = measure(size)
        assert found.loss == pytest.approx(one.loss, rel=1e-4)
        assert found.metrics == pytest.approx(one.metrics, rel=1e-4)
        assert [each.prediction for each in found.samples] == [each.prediction for each in one.samples]
        assert len(found.outputs) == len(one.outputs)


@pytest.mark.parametrize("kind", ["classification", "pair", "regression"])
@pytest.mark.parametrize("model_type", [*DECODERS, *ENCODERS, "bart", "t5"])
def test_classifiers(model_type: str, kind: str) -> None:
    model = build(model_type, AutoModelForSequenceClassification, 1 if kind == "regression" else 3)
    tokenizer = closing(byte_tokenizer()) if model_type in ("bart", "t5") else byte_tokenizer()
    hold(lambda size: evaluate(model, tokenizer, task_of(kind), "test", batch_size=size))


@pytest.mark.parametrize("pad", PADS.values(), ids=PADS)
@pytest.mark.parametrize("model_type", [*DECODERS, "roberta", "bart"])
def test_classifiers_whose_padding_is_not_the_tokenizers(model_type: str, pad: int) -> None:
    model = build(model_type, AutoModelForSequenceClassification, pad=pad)
    tokenizer = closing(byte_tokenizer()) if model_type == "bart" else byte_tokenizer()
    hold(lambda size: evaluate(model, tokenizer, task_of("classification"), "test", batch_size=size))
    assert model.config.pad_token_id == pad


@pytest.mark.parametrize("model_type", DECODERS)
def test_a_decoder_without_padding_reads_the_last_token(model_type: str) -> None:
    model = build(model_type, AutoModelForSequenceClassification, pad=-1)
    tokenizer = byte_tokenizer()
    found = evaluate(model, tokenizer, task_of("classification"), "test", batch_size=8)
    ids = [torch.tensor([tokenizer(each.text_a)["input_ids"]]) for each in JUDGED]
    with torch.no_grad():
        alone = [int(model(input_ids=each).logits.argmax()) for each in ids]
    assert found.outputs == tuple("xyz"[each] for each in alone)


@pytest.mark.parametrize("pad", [0, 7, -1])
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "bert", "xlnet"])
def test_the_gradient_of_a_batch_is_that_of_its_examples(model_type: str, pad: int) -> None:
    model = build(model_type, AutoModelForSequenceClassification, pad=pad)
    encoded = encode_examples(task_of("classification"), JUDGED, byte_tokenizer(), 64).encoded
    batch_loss_sum(model, collate(encoded, 0), "classification", 0.1).backward()
    together = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    for each in encoded:
        batch_loss_sum(model, collate([each], 0), "classification", 0.1).backward()
    alone = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("pad", [0, 7, -1])
@pytest.mark.parametrize("model_type", [*DECODERS, "bart", "t5"])
def test_language_models(model_type: str, pad: int) -> None:
    auto = AutoModelForSeq2SeqLM if model_type in ("bart", "t5") else AutoModelForCausalLM
    model = build(model_type, auto, pad=pad)
    tokenizer = closing(byte_tokenizer()) if model_type in ("bart", "t5") else byte_tokenizer()
    task = task_of("generation")
    hold(lambda size: evaluate(model, tokenizer, task, "test", batch_size=size, generate=pad == 0, max_length=64))


def test_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model("vit", **SIZES, image_size=8, patch_size=4, num_labels=2, initializer_range=0.5)
    model = AutoModelForImageClassification.from_config(config).eval()
    shades = [(number * 30, 0, 255 - number * 30) for number in range(8)]
    paths = [write_image(tmp_path / f"{i}.png", shade, (8 + i, 8)) for i, shade in enumerate(shades)]
    examples = [ImageExample(path, i % 2, str(i)) for i, path in enumerate(paths)]
    task = Task("toy", "classification", {"test": lambda: examples}, ("accuracy",), ("x", "y"), inputs="images")
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    hold(lambda size: evaluate(model, processor, task, "test", batch_size=size))
