"""liger-kernel's Triton kernels (norms, rotations, gated feed-forwards) on a model, through transformers' own hook.

Its losses are left out: a run computes its own, and asks the body and the head of the model apart. They need a GPU.
"""

from transformers import PreTrainedModel

from loralab.errors import SpecError
from loralab.extras import deferred, require

hook = deferred("transformers.integrations.liger")  # needs accelerate, which only liger's users must have

LOSSES = {"cross_entropy": False, "fused_linear_cross_entropy": False}


def put_liger_kernels(model: PreTrainedModel) -> str:
    """Let the model compute with them, for good; returns a sentence for the log.

    Raises SpecError for a model on the CPU, which Triton does not compile for, and MissingDependencyError.
    """
    if model.device.type == "cpu":
        raise SpecError("liger: its kernels are Triton's and need a GPU, and the model is on the CPU; leave liger out")
    require("liger", "--liger")
    hook.apply_liger_kernel(model, LOSSES)
    return "liger-kernel's norms, rotations and feed-forwards, where it knows the model"
