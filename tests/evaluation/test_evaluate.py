import math

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from loralab.errors import SpecError
from loralab.evaluation.evaluate import evaluate
from loralab.evaluation.generate import generate
from loralab.generation.config import GenerationConfig
from loralab.metrics.rouge import rouge_l
from loralab.models.load import load_model
from loralab.tasks.example import Conversation, Example, LabelledExample, Message
from loralab.tasks.table import open_task
from loralab.tasks.task import ROUGE, Task

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
WORDS = [Example("one ", "two"), Example("three four ", "five", ("five", "six seven")), Example("", "x")]
WRITE = Task("toy", "generation", {"test": lambda: WORDS}, ROUGE)
JUDGED = [LabelledExample(text, None, len(text) % 2) for text in ("a", "bb", "ccc", "dddd")]
JUDGE = Task("toy", "classification", {"test": lambda: JUDGED}, ("accuracy", "f1", "matthews"), ("0", "1"))
VALUED = [LabelledExample(text, "pair", float(len(text))) for text in ("a", "bb", "ccc", "dddd")]
VALUE = Task("toy", "regression", {"test": lambda: VALUED}, ("pearson", "spearman"))


@pytest.fixture
def llama(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=1, pad_token_id=0, **SIZES)
    return LlamaForCausalLM(config)


def bert(tokenizer: PreTrainedTokenizerFast, outputs: int) -> PreTrainedModel:
    config = BertConfig(vocab_size=len(tokenizer), num_labels=outputs, max_position_embeddings=32, **SIZES)
    return BertForSequenceClassification(config)


def test_a_random_model_is_near_the_uniform_loss(llama, tokenizer) -> None:
    found = evaluate(llama, tokenizer, WRITE, "test")
    assert found.loss == pytest.approx(math.log(len(tokenizer)), rel=0.05)
    assert found.metrics == {"perplexity": pytest.approx(math.exp(found.loss))}
    assert (found.task, found.split, found.examples, found.samples) == ("toy", "test", 3, ())


def test_limit_batch_size_and_mode(llama, tokenizer) -> None:
    llama.train()
    whole = evaluate(llama, tokenizer, WRITE, "test", batch_size=1)
    assert evaluate(llama, tokenizer, WRITE, "test", batch_size=3).loss == pytest.approx(whole.loss, rel=1e-5)
    assert evaluate(llama, tokenizer, WRITE, "test", limit=1).examples == 1
    assert llama.training


def test_generated_texts_are_scored_against_all_references(llama, tokenizer) -> None:
    config = GenerationConfig(max_new_tokens=8, batch_size=2)
    found = evaluate(llama, tokenizer, WRITE, "test", generate=True, generation=config)
    texts = generate(llama, tokenizer, [example.prompt for example in WORDS], config)
    assert [sample.prediction for sample in found.samples] == [text.strip() for text in texts]
    assert found.samples[1].references == ("five", "six seven")
    assert found.metrics["rouge_l"] == rouge_l(texts, [example.answers() for example in WORDS])
    assert set(found.metrics) == {"perplexity", *ROUGE}


def test_a_model_that_sees_nothing_has_the_uniform_loss(llama, tokenizer) -> None:
    torch.nn.init.zeros_(llama.lm_head.weight)
    assert evaluate(llama, tokenizer, WRITE, "test").loss == pytest.approx(math.log(len(tokenizer)), rel=1e-6)


def test_conversations(llama, tokenizer) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<eos>{% endfor %}"
    talk = Conversation((Message("user", "hi"), Message("assistant", "yo")))
    task = Task("toy", "generation", {"test": lambda: [talk]}, ("rouge_l",))
    found = evaluate(llama, tokenizer, task, "test", generate=True, generation=GenerationConfig(4))
    assert (found.samples[0].prompt, found.samples[0].references) == ("hi", ("yo",))


def test_classes_and_values(tokenizer) -> None:
    classes = evaluate(bert(tokenizer, 2), tokenizer, JUDGE, "test")
    assert set(classes.metrics) == {"accuracy", "f1", "matthews"}
    values = evaluate(bert(tokenizer, 1), tokenizer, VALUE, "test")
    assert set(values.metrics) == {"pearson", "spearman"}
    assert values.loss > 0


def test_what_does_not_fit_the_task(llama, tokenizer) -> None:
    with pytest.raises(SpecError, match="no text to generate"):
        evaluate(bert(tokenizer, 2), tokenizer, JUDGE, "test", generate=True)
    with pytest.raises(SpecError, match="has 3 outputs, task toy needs 2"):
        evaluate(bert(tokenizer, 3), tokenizer, JUDGE, "test")
    with pytest.raises(SpecError, match="no split 'train'"):
        evaluate(llama, tokenizer, WRITE, "train")


def test_the_context_of_the_model_cuts_and_says_so(tokenizer) -> None:
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=16, n_embd=16, n_layer=1, n_head=2, pad_token_id=0)
    config.bos_token_id = config.eos_token_id = 1
    task = Task("toy", "generation", {"test": lambda: [Example("x" * 50, " y")]}, ("rouge_l",))
    found = evaluate(GPT2LMHeadModel(config), tokenizer, task, "test", generate=True, generation=GenerationConfig(12))
    assert found.truncated == 1
    assert "longer than 16 tokens" in found.notes[0]
    with pytest.raises(SpecError, match="16 new tokens do not fit"):
        evaluate(GPT2LMHeadModel(config), tokenizer, task, "test", generate=True, generation=GenerationConfig(16))


@pytest.mark.slow
def test_smollm2_knows_little_of_docstrings_before_training(smollm2) -> None:
    """The specification's loss before training is 3.98 (another selection of pairs and prompt)."""
    loaded = load_model("smollm2-135m", dtype="float32")
    found = evaluate(loaded.model, loaded.tokenizer, open_task("docstrings"), "test", limit=48)
    assert 3.3 < found.loss < 4.5
