"""The files of what turns texts or images into a model's input, written into a folder and taken out of it again.

It knows nothing of adapters, and nothing of what the files say.
"""

import shutil
from collections.abc import Collection
from pathlib import Path

from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from loralab.formats.atomic import whole_files
from loralab.models.image_processor import FILES
from loralab.models.quiet import quiet_transformers

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


def replace_processor(processor: PreTrainedTokenizerBase | BaseImageProcessor, folder: Path) -> None:
    """Write a tokenizer with its chat template, or an image processor, in place of any that lies in the folder.

    Raises OutputError if the disk is full or the place is not writable.
    """
    if isinstance(processor, PreTrainedTokenizerBase) and processor.is_fast:
        processor.backend_tokenizer.no_truncation()  # what the last call set, which no text is to be read with later
        processor.backend_tokenizer.no_padding()
    with whole_files(folder) as draft, quiet_transformers():
        processor.save_pretrained(draft)
        written = {each.name for each in draft.iterdir()}
    remove_processor(folder, written)


def remove_processor(folder: Path, but: Collection[str] = ()) -> None:
    """Take the files of a tokenizer or an image processor out of a folder, all but some."""
    for name in {*TOKENIZER_FILES, *FILES}.difference(but):
        (folder / name).unlink(missing_ok=True)
    if MORE_TEMPLATES not in but:
        shutil.rmtree(folder / MORE_TEMPLATES, ignore_errors=True)
