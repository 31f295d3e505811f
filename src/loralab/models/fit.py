"""Whether a checkpoint filled a model: what may be fresh, what may be left over, and what is an error.

It loads nothing: it judges transformers' report.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loralab.errors import ModelLoadError, some
from loralab.models.families.aliases import output_head_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FRESH = "fresh, to be trained in full: "
"""How the remark begins that names what the checkpoint did not fill."""


def judge_fit(
    name: str, model: "PreTrainedModel", head_may_be_fresh: bool, report: dict[str, Any]
) -> tuple[tuple[str, ...], list[str]]:
    """The fresh modules and remarks about the keys; raises `ModelLoadError` if a part of the base is missing.

    `report` holds "missing_keys" and "unexpected_keys" (names), "mismatched_keys" (name, found and due shape).
    """
    mismatched = {str(entry[0]): entry[1:] for entry in report["mismatched_keys"]}
    absent = sorted({*report["missing_keys"], *mismatched})
    wrong = [key for key in absent if not (head_may_be_fresh and _is_head(model, key))]
    surplus = sorted(report["unexpected_keys"])
    stray = [key for key in surplus if _belongs_to_base(model, key)]
    if wrong or stray:
        raise ModelLoadError(_broken(name, model, wrong, stray, mismatched))
    fresh = tuple(dict.fromkeys(key.rpartition(".")[0] for key in absent))
    remarks = []
    if fresh:
        remarks.append(FRESH + ", ".join(fresh))
    remarks += [f"{key} {_shapes(shapes)}: initialised afresh" for key, shapes in mismatched.items()]
    if surplus:
        remarks.append(f"not needed by {type(model).__name__}, left in the file: {some(surplus, 4)}")
    return fresh, remarks


def _is_head(model: "PreTrainedModel", key: str) -> bool:
    """Heads stand beside the base model; BERT's pooler within it is part of the head, and often not saved."""
    inside = key.removeprefix(f"{model.base_model_prefix}.")
    return key.split(".")[0] in output_head_names(model) or inside.split(".")[0] == "pooler"


def _belongs_to_base(model: "PreTrainedModel", key: str) -> bool:
    """Whether a key without a place in the model sits inside its base: a checkpoint with more layers, say.

    A mask token that stood for hidden patches in pretraining is left out: it has no place in a classifier of images.
    """
    base = model.base_model
    if base is model or key.endswith(".mask_token"):
        return False
    parts = {name for name, _ in base.named_children()} - {"pooler"}
    return key.removeprefix(f"{model.base_model_prefix}.").split(".")[0] in parts


def _broken(name: str, model: "PreTrainedModel", wrong: list[str], stray: list[str], mismatched: dict[str, Any]) -> str:
    """All that does not fit, at once."""
    missing = [key for key in wrong if key not in mismatched]
    shapes = [f"{key} {_shapes(mismatched[key])}" for key in wrong if key in mismatched]
    problems = [("missing: ", missing), ("misshapen: ", shapes), ("surplus: ", stray)]
    misfits = "; ".join(problem + some(keys, 4) for problem, keys in problems if keys)
    return (
        f"model {name!r}: the checkpoint does not fit {type(model).__name__} as config.json has it; {misfits}; "
        "check that the weights and config.json belong together, and that the kind of model is right"
    )


def _shapes(held_and_due: Sequence[Sequence[int]]) -> str:
    held, due = held_and_due
    return f"is {list(held)} in the checkpoint and {list(due)} in the model"
