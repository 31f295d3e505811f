"""The files of what turns texts or images into a model's input, written into a folder.

It knows nothing of adapters, and nothing of what the files say.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from loralab.extras import deferred
from loralab.files.whole import whole_files
from loralab.models.processor_names import remove_processor
from loralab.models.quiet import quiet_transformers

if TYPE_CHECKING:
    import transformers
else:
    transformers = deferred("transformers")


def replace_processor(
    processor: "transformers.PreTrainedTokenizerBase | transformers.BaseImageProcessor", folder: Path
) -> None:
    """Write a tokenizer with its chat template, or an image processor, in place of any that lies in the folder.

    Raises OutputError if the disk is full or the place is not writable.
    """
    if isinstance(processor, transformers.PreTrainedTokenizerBase) and processor.is_fast:
        processor.backend_tokenizer.no_truncation()  # what the last call set, which no text is to be read with later
        processor.backend_tokenizer.no_padding()
    with whole_files(folder) as draft, quiet_transformers():
        processor.save_pretrained(draft)
        written = {each.name for each in draft.iterdir()}
    remove_processor(folder, written)
