"""Which files a tokenizer or an image processor has in a folder, and taking them out of it.

It knows nothing of what they say, nor of the libraries that write them, so that a folder can be cleared without those.
"""

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


def processor_files() -> set[str]:
    """All names that a tokenizer or an image processor may have written into a folder."""
    return {*TOKENIZER_FILES, *IMAGE_FILES, MORE_TEMPLATES}
