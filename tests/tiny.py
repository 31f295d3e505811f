"""Whole model folders small enough to train in a second, and data for them: written to disk as a user's would be."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes: any text, one token a byte, known without a download."""
    tokens = ["<pad>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>", chat_template=TEMPLATE
    )


def write_llama(folder: Path, **changes: object) -> Path:
    """A random language model with the tokenizer of bytes."""
    torch.manual_seed(0)
    settings = {"num_key_value_heads": 2, "max_position_embeddings": 256, "vocab_size": 258, "pad_token_id": 0}
    config = LlamaConfig(**SMALL | settings | {"bos_token_id": None, "eos_token_id": 1} | changes)
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def write_bert(folder: Path) -> Path:
    """A random encoder without a head, with the tokenizer of bytes."""
    torch.manual_seed(0)
    config = BertConfig(**SMALL, max_position_embeddings=256, vocab_size=258, pad_token_id=0)
    BertModel(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def write_t5(folder: Path) -> Path:
    """A random encoder-decoder, with the tokenizer of bytes."""
    torch.manual_seed(0)
    config = T5Config(
        d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4, vocab_size=258, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def write_vit(folder: Path, **changes: object) -> Path:
    """A random image classifier of two classes, for 8×8 pixels, without an image processor."""
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(**SMALL, image_size=8, patch_size=4, **changes)).save_pretrained(folder)
    return folder


def write_image(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> Path:
    """An image of one colour, in the format that the path's ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def write_images(folder: Path, train: int = 12, test: int = 4) -> Path:
    """Reddish and bluish images in a folder for each class; two splits."""
    for split, first, number in (("train", 0, train), ("test", train, test)):
        for i in range(first, first + number):
            write_image(folder / split / "red" / f"{i}.png", (200 + i, 2 * i, 40))
            write_image(folder / split / "blue" / f"{i}.png", (40, 2 * i, 200 + i))
    return folder


def write_lines(path: Path, lines: Iterable[dict[str, object]]) -> Path:
    """A JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_pairs(folder: Path, count: int = 48) -> Path:
    """A task that can be learned: say the letter back, in pieces of different lengths; three splits."""
    for split, start, number in (("train", 0, count), ("validation", 3, 8), ("test", 5, 8)):
        lines = [
            {"prompt": f"say {chr(97 + (start + i) % 7) * (1 + i % 5)}:", "completion": chr(97 + (start + i) % 7)}
            for i in range(number)
        ]
        write_lines(folder / f"{split}.jsonl", lines)
    return folder


def write_preferences(folder: Path, count: int = 48) -> Path:
    """Questions with a good and a bad answer, a third of them held out."""
    folder.mkdir()
    rows = [{"prompt": f"Is {n} right?", "chosen": f"yes {n * n}", "rejected": f"no {n}"} for n in range(count)]
    write_lines(folder / "test.jsonl", rows[: count // 3])
    write_lines(folder / "train.jsonl", rows[count // 3 :])
    return folder


def write_labels(folder: Path, count: int = 48) -> Path:
    """Texts of two classes that differ in one letter; two splits."""
    for split, number in (("train", count), ("validation", 12)):
        lines = [
            {"text": f"it is {'good' if i % 2 else 'bad'} {i}", "label": "yes" if i % 2 else "no"}
            for i in range(number)
        ]
        write_lines(folder / f"{split}.jsonl", lines)
    return folder
