"""Which files a tokenizer or an image processor has in a folder, and taking them out of it.

It knows nothing of what they say, nor of the libraries that write them, so that a folder can be cleared without those.
"""

import shutil
from collections.abc import Collection
from pathlib import Path

VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt",
    "tekken.json",
)  # fmt: skip
"""Files of which a tokenizer has one at least."""
TEMPLATE, SETTINGS = "chat_template.jinja", "tokenizer_config.json"
MORE_TEMPLATES = "additional_chat_templates"
"""The folder of those that have a name."""
TOKENIZER_FILES = (
    *VOCABULARIES, TEMPLATE, SETTINGS, "chat_template.json", "special_tokens_map.json", "added_tokens.json",
    "merges.txt",
)  # fmt: skip
"""All that a tokenizer writes into a folder."""
IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")
"""Where a checkpoint may describe its image processor."""


def remove_processor(folder: Path, but: Collection[str] = ()) -> None:
    """Take the files of a tokenizer or an image processor out of a folder, all but some."""
    for name in {*TOKENIZER_FILES, *IMAGE_FILES}.difference(but):
        (folder / name).unlink(missing_ok=True)
    if MORE_TEMPLATES not in but:
        shutil.rmtree(folder / MORE_TEMPLATES, ignore_errors=True)
