"""What trains in full beside an update: a fresh task head, biases, and the copies of tensors that are tied.

Heads (paper §5.2, code): transformers names such classes `…ForSequenceClassification`,
`…ForImageClassificationWithTeacher` and the like, and says which child is the pretrained body (`base_model_prefix`);
what lies beside the body is the head. Where the body is taken apart (CLIP's image tower), the head is known by its
name. Biases train beside low-rank updates (`LoRA(bias=…)`) or alone (`BitFit`).
"""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from loralab.core.names import inside, modules_by_path, unwrapped
from loralab.core.updates.tokens import TokenUpdate
from loralab.core.updates.update import Update
from loralab.errors import SpecError, TargetError
from loralab.models.families.aliases import HEAD_NAMES
from loralab.models.nf4 import quantized_layers
from loralab.nn.tensors import tensor_of

_HEADED = ("Classification", "QuestionAnswering", "MultipleChoice", "Regression")


def fresh_heads(model: nn.Module) -> list[str]:
    """Paths of the modules beside the pretrained body of a classification-type model; empty for any other model."""
    inner = unwrapped(model)
    body = getattr(inner, "base_model_prefix", "")
    if not body or not any(_is_headed(cls.__name__) for cls in type(inner).__mro__):
        return []
    children = dict(inner.named_children())
    return [
        name
        for name, child in children.items()
        if (name != body if body in children else name in HEAD_NAMES) and next(child.parameters(), None) is not None
    ]


def heads_of(model: nn.Module, names: Sequence[str] | None) -> list[str]:
    """Paths of the modules to train in full beside a method: those of these names, or by default the heads; and,
    whatever is named, what no checkpoint has filled.

    Raises TargetError for a name that no module has.
    """
    chosen = fresh_heads(model) if names is None else _named(model, names)
    chosen = list(dict.fromkeys([*chosen, *_unfilled_modules(model)]))
    return [path for path in chosen if not any(path.startswith(f"{other}.") for other in chosen)]


def unfilled_tensors(model: nn.Module) -> list[str]:
    """Names of a head's parameters that the checkpoint did not hold, so that they are random; of models that were
    loaded from none, nothing is known: empty.

    transformers marks what it has loaded (`_is_hf_initialized`), and keeps the mark when a model is moved or converted.
    """
    inner = unwrapped(model)
    body, heads = getattr(inner, "base_model_prefix", ""), fresh_heads(model)
    found, filled = [], False
    for path, module in modules_by_path(model).items():
        is_head = inside(path, heads)
        is_pooler = bool(heads) and path.removeprefix(f"{body}.").split(".")[0] == "pooler"
        for name, parameter in module.named_parameters(recurse=False):
            loaded = getattr(parameter, "_is_hf_initialized", False)
            filled |= loaded
            if not loaded and (is_head or is_pooler):
                found.append(f"{path}.{name}")
    return found if filled else []


def random_beside(model: nn.Module, updates: Mapping[str, Update]) -> list[str]:
    """The unfilled tensors that these updates do not replace: with them alone the model's outputs are random."""
    held = {f"{path}.{name}" for path, update in updates.items() for name in update.replacements()}
    return [name for name in unfilled_tensors(model) if name not in held]


def _named(model: nn.Module, names: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for name in names:
        paths = [path for path in modules_by_path(model) if path == name or path.endswith("." + name)]
        if not paths:
            raise TargetError(f"modules_to_save names {name!r}, but the model has no such module")
        whole = [path for path in paths if modules_by_path(model)[path].state_dict()]
        if not whole:
            raise TargetError(f"modules_to_save names {name!r}, which has no tensors that could train; leave it out")
        found |= dict.fromkeys(whole)
    return list(found)


def _unfilled_modules(model: nn.Module) -> list[str]:
    """The heads, and what beside them is part of one (BERT's pooler), with a tensor that is unfilled."""
    heads = fresh_heads(model)
    owners = [name.rpartition(".")[0] for name in unfilled_tensors(model)]
    return [next((head for head in heads if inside(path, [head])), path) for path in owners]


def head_updates(model: nn.Module, heads: Sequence[str]) -> dict[str, Update]:
    """Each head, trained in full."""
    by_path = modules_by_path(model)
    for path in heads:
        refuse_quantized(by_path[path], f"training {path} in full")
    return {path: saved_in_full(by_path[path]) for path in heads}


def saved_in_full(module: nn.Module, buffers: Iterable[tuple[str, Tensor]] | None = None) -> Update:
    """An update that replaces the tensors of a module: parameters by a trained copy, these buffers (None: all) by one
    of their own."""
    update = Update({})
    for name, parameter in module.named_parameters():
        update.replace(name, parameter)
    for name, buffer in module.named_buffers() if buffers is None else buffers:
        update.replace(name, buffer, trains=False)
    return update


def refuse_quantized(module: nn.Module, what: str) -> None:
    """SpecError where a module that is to train in full holds layers whose weights are quantised, and so frozen."""
    count = sum(1 for _ in quantized_layers(module))
    if count:
        raise SpecError(
            f"{what} would train {count} dense layers that are quantised and therefore frozen; adapt them with lora, "
            "or load the base without quantize"
        )


def _is_headed(class_name: str) -> bool:
    _, marked, task = class_name.partition("For")
    return bool(marked) and any(kind in task for kind in _HEADED)


def add_biases(model: nn.Module, updates: dict[str, Update], which: str, heads: Sequence[str]) -> None:
    """Let biases train: `none`, those of adapted modules (`lora_only`), or `all` outside the heads."""
    if which == "none":
        return
    by_path = modules_by_path(model)
    for path, module in by_path.items():
        bias = module._parameters.get("bias")
        in_head = inside(path, heads)
        owner, name = _reader(by_path, path, "bias")
        if bias is None or in_head or (which == "lora_only" and owner not in updates):
            continue
        updates.setdefault(owner, Update({})).replace(name, bias)


def bias_updates(model: nn.Module, heads: Sequence[str]) -> dict[str, Update]:
    """Every bias vector outside the heads, also those with longer names (`in_proj_bias`, `q_bias`), to be trained."""
    by_path, updates = modules_by_path(model), dict[str, Update]()
    for path, module in by_path.items():
        if inside(path, heads):
            continue
        for local, parameter in module._parameters.items():
            if parameter is not None and parameter.dim() == 1 and (local == "bias" or local.endswith("_bias")):
                owner, name = _reader(by_path, path, local)
                updates.setdefault(owner, Update({})).replace(name, parameter)
    return updates


def _reader(by_path: Mapping[str, nn.Module], path: str, local: str) -> tuple[str, str]:
    """(the module that reads this module's bias, its name there): an attention reads its out_proj's by itself."""
    parent, _, leaf = path.rpartition(".")
    if leaf == "out_proj" and isinstance(by_path.get(parent), nn.MultiheadAttention):
        return parent, f"out_proj.{local}"
    return path, local


def tied_paths(model: nn.Module) -> dict[str, list[str]]:
    """Module path → the other modules that hold the very same weight tensor."""
    holders: dict[int, list[str]] = {}
    for path, module in modules_by_path(model).items():
        for parameter in module._parameters.values():
            if parameter is not None and parameter.dim() > 1:
                holders.setdefault(id(parameter), []).append(path)
    return {path: [p for p in paths if p != path] for paths in holders.values() if len(paths) > 1 for path in paths}


def tie_notes(model: nn.Module, updates: Mapping[str, Update]) -> list[str]:
    """What to tell the user about adapted modules whose weight is tied to another's."""
    ties = tied_paths(model)
    apart = {path: [other for other in ties.get(path, ()) if not share_rows(updates, path, other)] for path in updates}
    return [
        f"{path} shares its weight with {', '.join(others)}: the update applies to {path} alone, "
        "and merging unties the two"
        for path, others in apart.items()
        if others
    ]


def share_rows(updates: Mapping[str, Update], *paths: str) -> bool:
    """Whether these modules have the same rows trained, and nothing else of their weight."""
    rows = {path: update for path in paths if isinstance(update := updates.get(path), TokenUpdate)}
    return len(rows) == len(paths) and len({update.follows or path for path, update in rows.items()}) == 1


def share_ties(updates: Mapping[str, Update], by_path: Mapping[str, nn.Module]) -> None:
    """Let tensors that are one tensor in the base have one trained copy, where several updates replace them."""
    copies: dict[int, nn.Parameter] = {}
    for path, update in updates.items():
        for name, tensor in update.replacements().items():
            if isinstance(tensor, nn.Parameter):
                first = copies.setdefault(id(tensor_of(by_path[path], name)), tensor)
                update.share(name, first)
