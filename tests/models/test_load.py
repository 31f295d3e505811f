"""Loading small models from real folders: what is fresh, what is refused, what is left alone."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForMaskedImageModeling,
    ViTImageProcessorPil,
)
from transformers.utils import logging

from loralab.errors import ModelLoadError, NotFoundError, SpecError
from loralab.models.load import load_model
from tiny import write_vit

WORDS = ["[PAD]", "[UNK]", "</s>", *(f"w{number}" for number in range(29))]
SMALL = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL = {**SMALL, "intermediate_size": 24, "max_position_embeddings": 16}


def save(model: PreTrainedModel, folder: Path, **special: str) -> str:
    """A Hugging Face folder with the model and a tokenizer of 32 words."""
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens = special or {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **tokens).save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


def rewrite(folder: str, change: object) -> None:
    """Change the tensors of a saved model in place: `change(dict)`."""
    file = Path(folder) / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def configure(folder: str, **settings: object) -> None:
    file = Path(folder) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.fixture
def llama(tmp_path: Path) -> str:
    config = LlamaConfig(**SMALL, num_key_value_heads=1, pad_token_id=None, bos_token_id=1, eos_token_id=2)
    return save(LlamaForCausalLM(config), tmp_path / "llama")


@pytest.fixture
def bert(tmp_path: Path) -> str:
    return save(BertModel(BertConfig(**SMALL)), tmp_path / "bert")


def test_a_language_model_is_as_it_was_saved(llama: str) -> None:
    loaded = load_model(llama, dtype="float32", device="cpu")
    saved = load_file(Path(llama) / "model.safetensors")
    assert all(loaded.model.get_parameter(name).equal(tensor) for name, tensor in saved.items())
    assert (loaded.name, loaded.dtype, loaded.fresh) == (llama, torch.float32, ())
    assert loaded.notes == ("float32, as asked",)
    assert not loaded.model.training
    assert loaded.tokenizer("w0 w1").input_ids == [3, 4]


def test_the_dtype_is_the_one_asked_for(llama: str) -> None:
    model = load_model(llama, dtype="bfloat16", device="cpu").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_loading_is_silent_and_leaves_transformers_as_it_was(bert: str, capfd: pytest.CaptureFixture[str]) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_model(bert, kind="sequence-classification", labels=["no", "yes"])
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_an_encoder_gets_a_fresh_head(bert: str) -> None:
    loaded = load_model(bert, kind="sequence-classification", labels=["no", "yes", "maybe"])
    assert loaded.fresh == ("classifier",)
    assert "fresh, to be trained in full: classifier" in loaded.notes
    assert loaded.model.classifier.out_features == 3
    assert loaded.model.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert loaded.model.config.label2id["maybe"] == 2
    assert loaded.model.classifier.weight.std() > 0


def test_the_seed_decides_the_head_and_nothing_else(bert: str) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (
        load_model(bert, kind="sequence-classification", labels=["no", "yes"], seed=seed).model for seed in (1, 1, 2)
    )
    assert torch.random.get_rng_state().equal(state)
    assert first.classifier.weight.equal(again.classifier.weight)
    assert not first.classifier.weight.equal(other.classifier.weight)
    assert first.bert.pooler.dense.weight.equal(other.bert.pooler.dense.weight)


def test_a_pooler_that_was_not_saved_belongs_to_the_head(tmp_path: Path) -> None:
    folder = save(BertForMaskedLM(BertConfig(**SMALL)), tmp_path)
    loaded = load_model(folder, kind="sequence-classification", labels=["no", "yes"])
    assert loaded.fresh == ("bert.pooler.dense", "classifier")
    assert any(note.startswith("not needed by BertForSequenceClassification") for note in loaded.notes)


def test_regression_has_one_output(bert: str) -> None:
    config = load_model(bert, kind="sequence-classification", regression=True).model.config
    assert (config.num_labels, config.problem_type) == (1, "regression")


@pytest.fixture
def classifier(tmp_path: Path) -> str:
    config = BertConfig(**SMALL, id2label={0: "contradiction", 1: "neutral", 2: "entailment"})
    return save(BertForSequenceClassification(config), tmp_path / "classifier")


def test_a_head_that_fits_is_kept(classifier: str) -> None:
    labels = ["contradiction", "neutral", "entailment"]
    loaded = load_model(classifier, kind="sequence-classification", labels=labels, dtype="float32")
    assert loaded.fresh == ()
    assert loaded.notes == ("float32, as asked",)


def test_other_names_for_the_labels_are_noted(classifier: str) -> None:
    loaded = load_model(classifier, kind="sequence-classification", labels=["a", "b", "c"])
    assert "the checkpoint calls its labels contradiction, neutral, entailment; here they are a, b, c" in str(loaded)


def test_without_labels_the_head_stays(classifier: str) -> None:
    loaded = load_model(classifier, kind="sequence-classification")
    assert loaded.model.config.id2label[1] == "neutral"
    assert "no labels were given: the checkpoint's 3 outputs are kept" in loaded.notes


def test_a_head_for_another_number_of_labels_is_made_afresh(classifier: str) -> None:
    loaded = load_model(classifier, kind="sequence-classification", labels=["no", "yes"])
    assert loaded.fresh == ("classifier",)
    assert "classifier.weight is [3, 16] in the checkpoint and [2, 16] in the model: initialised afresh" in loaded.notes
    assert loaded.model.classifier.weight.std() > 0


def test_a_decoder_classifies_and_pads(tmp_path: Path) -> None:
    config = LlamaConfig(**SMALL, num_key_value_heads=1, pad_token_id=None, bos_token_id=1, eos_token_id=2)
    folder = save(LlamaForCausalLM(config), tmp_path, unk_token="[UNK]", eos_token="</s>")
    loaded = load_model(folder, kind="sequence-classification", labels=["no", "yes"])
    assert loaded.fresh == ("score",)
    assert "the tokenizer has no padding token: </s> pads" in loaded.notes
    assert loaded.model.config.pad_token_id == loaded.tokenizer.pad_token_id == 2
    batch = loaded.tokenizer(["w1 w2 w3", "w4"], padding=True, return_tensors="pt")
    with torch.no_grad():
        together = loaded.model(batch.input_ids, attention_mask=batch.attention_mask).logits
        alone = loaded.model(batch.input_ids[1:, :1]).logits
    torch.testing.assert_close(together[1:], alone, rtol=1e-2, atol=1e-2)


def test_a_sequence_to_sequence_model(tmp_path: Path) -> None:
    config = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    loaded = load_model(save(T5ForConditionalGeneration(config), tmp_path), kind="seq2seq-lm")
    assert loaded.fresh == ()
    assert type(loaded.model) is T5ForConditionalGeneration


def test_an_encoder_is_no_language_model(bert: str) -> None:
    with pytest.raises(
        ModelLoadError, match=r"type 'bert'\) cannot be loaded as causal-lm; it can be loaded as sequence-class"
    ):
        load_model(bert)


def test_a_missing_part_of_the_base_is_an_error(bert: str) -> None:
    rewrite(bert, lambda tensors: [tensors.pop(name) for name in list(tensors) if "encoder.layer.1." in name])
    with pytest.raises(ModelLoadError, match=r"missing: bert\.encoder\.layer\.1\.attention.* and 12 more"):
        load_model(bert, kind="sequence-classification", labels=["no", "yes"])


@pytest.mark.parametrize("kind", ["causal-lm", "sequence-classification"])
def test_layers_that_the_config_does_not_have_are_an_error(llama: str, kind: str) -> None:
    configure(llama, num_hidden_layers=1)
    with pytest.raises(ModelLoadError, match=r"surplus: model\.layers\.1\.input_layernorm\.weight"):
        load_model(llama, kind=kind)


def test_another_shape_in_the_base_is_an_error(llama: str) -> None:
    configure(llama, intermediate_size=20)
    with pytest.raises(ModelLoadError, match=r"misshapen: .*mlp\.down_proj\.weight is \[16, 24\] in the checkpoint"):
        load_model(llama)


def test_a_language_models_own_head_may_not_be_fresh(llama: str) -> None:
    rewrite(llama, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(ModelLoadError, match=r"does not fit LlamaForCausalLM .*missing: lm_head\.weight"):
        load_model(llama)


def test_tied_heads_are_not_missed(tmp_path: Path) -> None:
    config = LlamaConfig(**SMALL, num_key_value_heads=1, tie_word_embeddings=True)
    loaded = load_model(save(LlamaForCausalLM(config), tmp_path))
    assert loaded.fresh == ()
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight


def test_a_file_cut_short(llama: str) -> None:
    file = Path(llama) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match=r"cannot be loaded: .*; the file may be cut short"):
        load_model(llama)


@pytest.mark.parametrize("text", ["{", '{"model_type": "no-such-type"}', "{}"])
def test_a_config_that_cannot_be_used(llama: str, text: str) -> None:
    (Path(llama) / "config.json").write_text(text)
    with pytest.raises(ModelLoadError, match=r"its config\.json cannot be used: "):
        load_model(llama)


def test_a_quantised_model(llama: str) -> None:
    configure(llama, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ModelLoadError, match="is quantised; give the checkpoint with its full weights"):
        load_model(llama)


def test_a_folder_without_tokenizer(llama: str) -> None:
    for file in Path(llama).glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelLoadError, match="its tokenizer cannot be loaded"):
        load_model(llama)


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    config = LlamaConfig(**{**SMALL, "vocab_size": 20}, num_key_value_heads=1)
    folder = save(LlamaForCausalLM(config), tmp_path)
    with pytest.raises(ModelLoadError, match="the tokenizer has 32 tokens, the model embeds 20"):
        load_model(folder)


def test_a_tokenizer_that_cannot_pad(tmp_path: Path) -> None:
    folder = save(LlamaForCausalLM(LlamaConfig(**SMALL)), tmp_path, unk_token="[UNK]")
    with pytest.raises(ModelLoadError, match="neither a padding nor an end-of-text token"):
        load_model(folder)


def test_a_hub_id_that_is_not_here() -> None:
    with pytest.raises(NotFoundError, match=r"could not be had from the Hub .*smollm2-135m, minilm-l6.*OFFLINE=1"):
        load_model("no-such-user/no-such-model")


def test_a_kind_that_is_none(llama: str) -> None:
    with pytest.raises(SpecError, match=r"model kind 'image' is not known; choose causal-lm"):
        load_model(llama, kind="image")


def test_labels_are_for_classifiers(llama: str) -> None:
    with pytest.raises(
        SpecError, match="labels and regression are for sequence-classification, image-classification, not for"
    ):
        load_model(llama, labels=["no", "yes"])


def test_an_image_classifier_and_its_processor(tmp_path: Path) -> None:
    folder = write_vit(tmp_path)
    ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.1] * 3).save_pretrained(folder)
    loaded = load_model(str(folder), kind="image-classification", labels=["cat", "dog", "owl"], dtype="bfloat16")
    assert loaded.fresh == ("classifier",)
    assert loaded.model.config.id2label == {0: "cat", 1: "dog", 2: "owl"}
    assert list(loaded.processor.image_mean) == [0.1] * 3
    with pytest.raises(SpecError, match="looks at images and has no tokenizer"):
        _ = loaded.tokenizer


def test_an_image_model_without_a_processor_gets_the_plain_one_and_says_so(tmp_path: Path) -> None:
    loaded = load_model(str(write_vit(tmp_path)), kind="image-classification", labels=["no", "yes"])
    assert loaded.fresh == ()
    assert "no preprocessor_config.json: images are resized to 8×8, their pixels scaled to −1…1" in loaded.notes


def test_an_image_processor_that_cannot_be_used(tmp_path: Path) -> None:
    folder = write_vit(tmp_path)
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "NoSuchProcessor"}{')
    with pytest.raises(ModelLoadError, match="its image processor cannot be loaded: "):
        load_model(str(folder), kind="image-classification")
    ViTImageProcessorPil(size={"height": 9, "width": 9}).save_pretrained(folder)
    with pytest.raises(ModelLoadError, match="its image processor does not fit it: "):
        load_model(str(folder), kind="image-classification")


def test_an_encoder_of_text_does_not_look_at_images(bert: str) -> None:
    with pytest.raises(ModelLoadError, match="cannot be loaded as image-classification; it can be loaded as sequence-"):
        load_model(bert, kind="image-classification", labels=["no", "yes"])


def test_the_mask_token_of_a_pretrained_image_model_is_left_in_the_file(tmp_path: Path) -> None:
    config = ViTConfig(**{**SMALL, "image_size": 8, "patch_size": 4})
    ViTForMaskedImageModeling(config).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), kind="image-classification", labels=["no", "yes"])
    assert loaded.fresh == ("classifier",)
    assert "vit.embeddings.mask_token" in str(loaded.notes)


def test_the_embedded_encoder_classifies(minilm: Path) -> None:
    loaded = load_model("minilm-l6", kind="sequence-classification", labels=["no", "yes"], dtype="float32")
    assert loaded.fresh == ("classifier",)
    assert loaded.name == "minilm-l6"
    batch = loaded.tokenizer(["a film"], ["another"], return_tensors="pt")
    assert batch.input_ids.tolist() == [[101, 1037, 2143, 102, 2178, 102]]
    assert loaded.model(**batch).logits.shape == (1, 2)
