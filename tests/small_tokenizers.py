"""Small tokenizers of every kind that models have, made here: what they do to spaces and borders is the real thing."""

import json
from collections.abc import Callable
from functools import lru_cache

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece
from tokenizers.trainers import BpeTrainer, WordPieceTrainer
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "the capital of France is Paris, and the answer is yes or no.",
    "def double(x):\n    return x * 2\n\ndef half(x):\n    return x / 2\n",
    "Question: what is 5 + 12?\nAnswer: it is 17 hello hello world",
    "say the letter back: a b c d e f g h i j k l m n o p q r s t u v w x y z <> | _ # éü",
] * 4
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _sentencepiece(scheme: str) -> Tokenizer:
    """As SentencePiece's BPE: ▁ for a space, one more before the text; `legacy` as Llama 2's, by a normalizer."""
    learner = Tokenizer(BPE(unk_token="<unk>"))
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    learner.train_from_iterator(CORPUS, BpeTrainer(vocab_size=350, special_tokens=SPECIAL))
    model = json.loads(learner.to_str())["model"]
    bytes_ = {f"<0x{value:02X}>": len(model["vocab"]) + value for value in range(256)}
    merges = [tuple(pair) for pair in model["merges"]]
    backend = Tokenizer(BPE(model["vocab"] | bytes_, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.add_special_tokens(SPECIAL)
    if scheme == "legacy":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return backend


def _byte_level(trim: bool) -> Tokenizer:
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(CORPUS, BpeTrainer(vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet))
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=trim)
    return backend


def _word_piece() -> Tokenizer:
    backend = Tokenizer(WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(CORPUS, WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL))
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return backend


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "metaspace-always": lambda: _sentencepiece("always"),
    "metaspace-first": lambda: _sentencepiece("first"),
    "llama-legacy": lambda: _sentencepiece("legacy"),
    "byte-level": lambda: _byte_level(trim=False),
    "byte-level-trimmed": lambda: _byte_level(trim=True),
    "word-piece": _word_piece,
}


@lru_cache
def _trained(kind: str) -> str:
    return KINDS[kind]().to_str()


def small_tokenizer(kind: str, template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """One of `KINDS`, with ChatML's tokens added for their own sake."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(kind)),
        unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
    )  # fmt: skip
    tokenizer.add_tokens([AddedToken(name, normalized=False, special=True) for name in ("<|im_start|>", "<|im_end|>")])
    tokenizer.chat_template = template
    return tokenizer
