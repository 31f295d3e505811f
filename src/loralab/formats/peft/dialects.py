"""PEFT's other forms of adapter that come to a plain LoRA, rewritten as one: configuration and tensors, exactly.

Each dialect is recognised by its configuration and rewritten before anything else reads it. Knows nothing of models.
Shapes: R rank, I inputs, O outputs.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loralab.errors import AdapterFileError, some
from loralab.files.values import is_count, is_finite
from loralab.formats.peft.keys import PREFIX, A, B, heads_peft_saves, plain_names, plain_path

Content = dict[str, Any]
Tensors = dict[str, Tensor]

ADALORA = "ADALORA"
_BUDGET = ("target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step")
"""What AdaLoRA's configuration has more than LoRA's: how the ranks were chosen in training."""
_EPSILON = 1e-5
"""What PEFT adds to the rank that it divides by."""
_BY_ITS_WRITER = "get the adapter again, or merge it into its base with the PEFT that wrote it (0.1 or 0.2)"


@dataclass(frozen=True)
class PlainLora:
    """An adapter_config.json and tensors of plain LoRA, and what to tell the user of how they came about."""

    content: Content
    tensors: Tensors
    notes: tuple[str, ...] = ()


def as_plain_lora(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> PlainLora:
    """The adapter as plain LoRA, unchanged where it is that already. AdapterFileError where it cannot be rewritten."""
    plain = PlainLora(dict(content), dict(tensors))
    for is_it, rewrite in _DIALECTS:
        if is_it(plain.content):
            rewritten = rewrite(plain.content, plain.tensors)
            plain = PlainLora(rewritten.content, rewritten.tensors, (*plain.notes, *rewritten.notes))
    _refuse_both(plain)
    return plain


def _refuse_both(plain: PlainLora) -> None:
    """PEFT of 2023 could adapt a module and train it in full as well; later ones drop its factors in silence."""
    in_full, task = plain.content.get("modules_to_save"), plain.content.get("task_type")
    listed = in_full if isinstance(in_full, list) else [in_full]
    names = (*(each for each in listed if isinstance(each, str)), *heads_peft_saves(str(task)))
    factors = {plain_path(key.partition(".lora_")[0]) for key in plain.tensors if ".lora_" in key}
    both = sorted(path for path in factors if any(each.endswith(names) for each in _within(path)))
    if both and plain.content.get("peft_type") == "LORA":
        raise AdapterFileError(
            f"{some(both)} is trained in full (modules_to_save {in_full!r}, task_type {task!r}) and has low-rank "
            "factors in the file as well, which later PEFTs drop: which of the two counts is not known. Merge it "
            "with the PEFT that wrote it, or train it again with the module in target_modules or modules_to_save alone"
        )


def _within(path: str) -> Iterator[str]:
    """The path, and those of the modules around it."""
    pieces = path.split(".")
    return (".".join(pieces[:end]) for end in range(len(pieces), 0, -1))


# -- AdaLoRA ----------------------------------------------------------------------------------------------------


def _from_adalora(content: Content, tensors: Tensors) -> PlainLora:
    """ΔW = B·diag(E)·A·s/(r + 1e-5) with r the rank that training began with; every layer of the rank it was left."""
    alpha, initial = content.get("lora_alpha", 8), content.get("init_r", 12)
    if not is_finite(alpha) or not is_count(initial):
        raise AdapterFileError(f"an AdaLoRA adapter has lora_alpha {alpha!r} and init_r {initial!r}; get it again")
    others = dict(plain_names(tensors)[0])
    ranks, alphas = dict[str, int](), dict[str, float]()
    for stem in [key.removesuffix(".lora_E") for key in others if key.endswith(".lora_E")]:
        A_RI, B_OR, left = _product(others, stem)
        if left or f"{stem}.base_layer.bias" in others:
            ranks[stem] = len(A_RI)
            alphas[stem] = (alpha if alpha > 0 else left) * len(A_RI) / (initial + _EPSILON)
            others |= {f"{stem}.{A}": A_RI, f"{stem}.{B}": B_OR}
    if not ranks:
        raise AdapterFileError("an AdaLoRA adapter has no layer of a rank above 0: there is nothing in it")
    note = f"an AdaLoRA adapter, read as the plain LoRA it is, of ranks {min(ranks.values())} to {max(ranks.values())}"
    plain = {f"{PREFIX}{key}": each for key, each in others.items()}
    return PlainLora(_as_lora_config(content, ranks, alphas), plain, (note,))


def _product(tensors: Tensors, stem: str) -> tuple[Tensor, Tensor, int]:
    """(diag(E)·A [R, I], B [O, R], how many singular values are left), taken out of the tensors; of rank 1, and zero,
    where none is.
    """
    A_RI, B_OR, E_R1 = (_taken(tensors, f"{stem}.{name}").float() for name in ("lora_A", "lora_B", "lora_E"))
    left = len(E_R1)
    if len(A_RI) != left or B_OR.shape[1] != left:
        raise AdapterFileError(f"{stem} has {left} singular values, which do not fit its factors; get it again")
    if not left:
        return A_RI.new_zeros(1, A_RI.shape[1]), B_OR.new_zeros(len(B_OR), 1), 0
    return A_RI * E_R1, B_OR, left


def _taken(tensors: Tensors, key: str) -> Tensor:
    if key not in tensors or tensors[key].dim() != 2:
        raise AdapterFileError(f"{key} of an AdaLoRA adapter is missing or not a matrix; get the file again")
    return tensors.pop(key)


def _as_lora_config(content: Content, ranks: Mapping[str, int], alphas: Mapping[str, float]) -> Content:
    """The configuration with what AdaLoRA reads otherwise, or not at all, put in LoRA's terms: layer by layer."""
    usual = Counter(ranks.values()).most_common(1)[0][0]
    return {key: value for key, value in content.items() if key not in _BUDGET} | {
        "peft_type": "LORA",
        "r": usual,
        "lora_alpha": next(alphas[stem] for stem in ranks if ranks[stem] == usual),
        "rank_pattern": {f"^{re.escape(stem)}": rank for stem, rank in ranks.items()},
        "alpha_pattern": {f"^{re.escape(stem)}": alpha for stem, alpha in alphas.items()},
        "target_modules": "|".join(map(re.escape, ranks)),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "init_lora_weights": True,
        "use_rslora": False,
    }


# -- PEFT 0.1 and 0.2: slices of a fused projection --------------------------------------------------------------------


def _from_enabled(content: Content, tensors: Tensors) -> PlainLora:
    """`enable_lora: [true, false, true]`: n of N equal slices of the outputs are adapted, all from one A [n·R, I]."""
    enabled, rank, alpha = content["enable_lora"], content.get("r", 8), content.get("lora_alpha", 8)
    sound = isinstance(enabled, list) and any(enabled) and all(isinstance(each, bool) for each in enabled)
    if not sound or not is_count(rank) or not is_finite(alpha):
        raise AdapterFileError(
            f"enable_lora is {enabled!r}, r {rank!r} and lora_alpha {alpha!r}: which slices of the fused projections "
            f"are adapted cannot be known; {_BY_ITS_WRITER}"
        )
    spread, ranks = dict(tensors), sum(enabled) * rank
    for key in [key for key in tensors if key.endswith(f".{A}")]:
        other = key.removesuffix(A) + B
        if len(tensors[key]) != ranks or other not in tensors:
            raise AdapterFileError(
                f"{key} and {other} are not factors of {sum(enabled)} slices with rank {rank}, which enable_lora "
                f"{enabled} makes them; {_BY_ITS_WRITER}"
            )
        spread[other] = _placed(other, _ungrouped(other, tensors[other], ranks), enabled)
    kept = {key: value for key, value in content.items() if key not in ("enable_lora", "merge_weights")}
    note = f"enable_lora {enabled} of an early PEFT: read as whole layers of rank {ranks}, zero in the other slices"
    return PlainLora(kept | {"r": ranks, "lora_alpha": alpha * sum(enabled)}, spread, (note,))


def _ungrouped(key: str, grouped: Tensor, ranks: int) -> Tensor:
    """The weight [O, K, 1] of a convolution of ranks/K groups → [O, ranks], zero between the groups.

    PEFT 0.1 and 0.2 make two groups of it, however many slices there are.
    """
    held = grouped.shape[1] if grouped.dim() == 3 and grouped.shape[2] == 1 else 0
    if not held or ranks % held or len(grouped) % (ranks // held):
        raise AdapterFileError(
            f"{key} is {list(grouped.shape)}, no convolution of width 1 over {ranks} ranks; {_BY_ITS_WRITER}"
        )
    whole: Tensor = torch.block_diag(*grouped.squeeze(-1).chunk(ranks // held))  # type: ignore[no-untyped-call]
    return whole


def _placed(key: str, stacked: Tensor, enabled: list[bool]) -> Tensor:
    """[n·O/N, R] → [O, R]: each slice in its place, zero in the others."""
    if len(stacked) % sum(enabled):
        raise AdapterFileError(f"{key} has {len(stacked)} rows, which are not {sum(enabled)} slices; {_BY_ITS_WRITER}")
    slices = iter(stacked.chunk(sum(enabled)))
    height = len(stacked) // sum(enabled)
    return torch.cat([next(slices) if each else stacked.new_zeros(height, stacked.shape[1]) for each in enabled])


# -- methods that differ from LoRA in training only ----------------------------------------------------------------


def _without(setting: str, infix: str, name: str) -> Callable[[Content, Tensors], PlainLora]:
    """A method that in inference is the plain LoRA beside which its own tensors stand."""

    def rewrite(content: Content, tensors: Tensors) -> PlainLora:
        kept = {key: tensor for key, tensor in tensors.items() if infix not in key}
        note = (
            f"it was trained with {name}, which in inference computes what its A and B alone compute: they are read, "
            "and would be trained on as plain LoRA"
        )
        return PlainLora(content | {setting: None}, kept, (note,))

    return rewrite


_DIALECTS: list[tuple[Callable[[Content], bool], Callable[[Content, Tensors], PlainLora]]] = [
    (lambda content: content.get("peft_type") == ADALORA, _from_adalora),
    (lambda content: content.get("enable_lora") is not None, _from_enabled),
    (lambda content: bool(content.get("velora_config")), _without("velora_config", ".lora_velora_", "VeLoRA")),
    (
        lambda content: bool(content.get("monteclora_config")),
        _without("monteclora_config", ".lora_monteclora_", "MonteCLoRA"),
    ),
]
