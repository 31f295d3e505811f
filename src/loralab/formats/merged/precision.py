"""In which precision to compare a merged model with the live adapter.

The sharper the better: in bfloat16 both models round so much on their way that they differ by more than a weak
adapter does (measured on SmolLM2-135M: by 1 to 2 in logits up to 38; in float32 by 0.3 where the files are bfloat16
and by 0.0001 where they are float32). float32 needs memory, though; the files' own dtype needs none on a CPU, where
transformers maps such weights from the files.
"""

import psutil
import torch

from loralab.files.shards import TensorFolder
from loralab.formats.merged.folder import source_folder
from loralab.formats.merged.layout import main_dtype
from loralab.models.precision import DTYPES

COPIES = 3
"""The live model, the merged one or its rounded weights, and room for what else is needed."""


def choose_proof_dtype(model: str, requested: str) -> tuple[str, str]:
    """The dtype to load `model` in for a verified merge, and one sentence that says why.

    "auto" is float32 if `COPIES` of the model fit into free memory in it, else the dtype of its files. Raises
    NotFoundError if there is no such model.
    """
    if requested != "auto":
        return requested, f"compared in {requested}, as asked"
    kinds = TensorFolder(source_folder(model)).kinds
    stored = main_dtype(kinds)
    needed = COPIES * sum(torch.Size(kind.shape).numel() for kind in kinds.values()) * torch.float32.itemsize
    free = psutil.virtual_memory().available
    own = next((name for name, dtype in DTYPES.items() if dtype == stored), "float32")
    if needed <= free or own == "float32":
        return "float32", "compared in float32, where rounding disturbs the comparison least"
    return own, (
        f"compared in {own}, the dtype of the files: float32 would need {needed / 1e9:.1f} GB of memory, "
        f"{free / 1e9:.1f} GB is free"
    )
