"""Whether a set of tensors is what it should be: all there, nothing else, of the right shapes, finite."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from loralab.errors import AdapterFileError

MOST_SHOWN = 12


def refuse_unfit(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], whole_numbers: Collection[str] = ()
) -> None:
    """AdapterFileError listing what `problems_of` finds."""
    problems = problems_of(tensors, expected, whole_numbers)
    if problems:
        raise AdapterFileError(f"the adapter does not fit this model: {listed(problems)}")


def problems_of(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], whole_numbers: Collection[str] = ()
) -> list[str]:
    """Every tensor that is missing, extra, misshapen, not finite, or of whole numbers though it is none of
    `whole_numbers`: a sentence each."""
    problems = [f"{key} is missing" for key in expected if key not in tensors]
    problems += [
        f"{key} belongs to nothing that the adapter targets in this model" for key in tensors.keys() - expected
    ]
    for key in sorted(tensors.keys() & expected.keys()):
        found = tuple(tensors[key].shape)
        if found != expected[key]:
            problems.append(f"{key} has shape {list(found)}, not {list(expected[key])}")
        elif not tensors[key].is_floating_point() and key not in whole_numbers:
            problems.append(f"{key} holds {str(tensors[key].dtype).removeprefix('torch.')}, not floating-point numbers")
        elif not is_finite(tensors[key]):
            problems.append(f"{key} holds NaN or infinite values")
    return sorted(problems)


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def listed(problems: Sequence[str]) -> str:
    """Problems in one line, the first ones in full."""
    rest = len(problems) - MOST_SHOWN
    return "; ".join(problems[:MOST_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")
