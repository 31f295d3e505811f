"""The files of what turns texts or images into a model's input, written into a folder.

It knows nothing of adapters, and nothing of what the files say.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from loralab.extras import deferred
from loralab.files.drafts import draft_folder, remove
from loralab.models.quiet import quiet_transformers

if TYPE_CHECKING:
    import transformers
else:
    transformers = deferred("transformers")


def write_processor(
    processor: "transformers.PreTrainedTokenizerBase | transformers.BaseImageProcessor", folder: Path
) -> set[str]:
    """Write a tokenizer with its chat template, or an image processor, into a folder that is not in its place yet; the
    names of its files. Raises OSError where writing fails.
    """
    if isinstance(processor, transformers.PreTrainedTokenizerBase) and processor.is_fast:
        processor.backend_tokenizer.no_truncation()  # what the last call set, which no text is to be read with later
        processor.backend_tokenizer.no_padding()
    with draft_folder(folder, "processor") as draft, quiet_transformers():
        processor.save_pretrained(draft)
        written = {each.name for each in draft.iterdir()}
        for name in written:
            remove(folder / name)
            (draft / name).rename(folder / name)
    return written
