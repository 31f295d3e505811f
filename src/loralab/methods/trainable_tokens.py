"""Single rows of the embedding that train beside an adapter: the usual way to teach a model new tokens.

Which modules hold those rows: the model's input embedding, or those that are named; and, where the output head is tied
to the embedding, the head with it, as in PEFT. The rows themselves are `core/updates/tokens.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from loralab.core.names import inside, modules_by_path, slots, unwrapped
from loralab.core.plan import Plan
from loralab.core.updates.tokens import TokenUpdate
from loralab.core.updates.update import WHOLE, Update
from loralab.errors import SpecError, TargetError
from loralab.methods.beside import tie_notes, tied_paths
from loralab.nn.tensors import tensor_of

Tokens = Sequence[int] | Mapping[str, Sequence[int]]
"""Indices in the model's input embedding, or by the names of modules."""

USUAL_EMBEDDING = "embed_tokens"
"""The name to look for in a model that does not say which its input embedding is."""


def token_problems(name: str, tokens: Tokens | None) -> list[str]:
    """What cannot be of indices whatever the model, as sentences."""
    if tokens is None:
        return []
    listed = (
        {f"{name}[{key!r}]": each for key, each in tokens.items()} if isinstance(tokens, Mapping) else {name: tokens}
    )
    if not listed or not all(listed.values()):
        return [f"{name} is {tokens!r}, which names no token; leave it out"]
    return [problem for label, each in listed.items() for problem in _index_problems(label, each)]


def _index_problems(label: str, indices: Sequence[int]) -> list[str]:
    negative = sorted({index for index in indices if index < 0})
    twice = (
        sorted({index for index in indices if list(indices).count(index) > 1})
        if len(set(indices)) < len(indices)
        else []
    )
    found = [f"{label} holds {', '.join(map(str, negative))}; indices count from 0"] if negative else []
    return found + ([f"{label} holds {', '.join(map(str, twice))} more than once"] if twice else [])


def with_tokens(planned: Plan, model: nn.Module, tokens: Tokens) -> Plan:
    """The plan with the rows of these tokens trained as well. SpecError where a module is adapted otherwise too."""
    updates, rows = dict(planned.updates), token_updates(model, tokens)
    taken = [path for path in rows if _is_taken(path, updates, planned.heads)]
    if taken:
        raise SpecError(
            f"trainable_token_indices names rows of {', '.join(taken)}, which is adapted or trained in full (or tied "
            "to a module that is): choose one; leave it out of targets and modules_to_save, or leave out "
            "trainable_token_indices"
        )
    for path, update in rows.items():
        for name, bias in updates.get(path, Update({})).replacements().items():
            update.share(name, nn.Parameter(bias))
        updates[path] = update
    return replace(
        planned, updates=updates, notes=(*planned.notes, *tie_notes(model, rows), *padding_notes(model, rows))
    )


def _is_taken(path: str, updates: Mapping[str, Update], heads: Sequence[str]) -> bool:
    """Whether more than the bias of this module is another's already."""
    in_head = inside(path, heads)
    return in_head or (path in updates and (updates[path].is_insertion or WHOLE in updates[path].replacements()))


# -- which modules ----------------------------------------------------------------------------------------------


def token_updates(model: nn.Module, tokens: Tokens) -> dict[str, Update]:
    """Module path → its rows, as the base has them. Raises TargetError for a module that is none, or holds no rows of
    tokens; SpecError for an index that is beyond its rows."""
    chosen = chosen_rows(model, tokens)
    by_path = modules_by_path(model)
    _refuse_beyond(chosen, by_path)
    made: dict[str, Update] = {}
    for path, leader in leaders(model, chosen).items():
        weight = tensor_of(by_path[path], WHOLE)
        made[path] = TokenUpdate(chosen[leader or path], weight.shape[1], weight.device, leader).start(by_path[path])
    return made


def leaders(model: nn.Module, chosen: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Path of every module whose rows train → the one whose rows it shares, empty for its own.

    Tied modules share them, also those that were not named beside an embedding, unless other indices were named for
    some: then each is alone (PEFT's rule).
    """
    by_path, ties = modules_by_path(model), tied_paths(model)
    ordered = sorted(chosen, key=lambda path: not isinstance(by_path[path], nn.Embedding))
    found: dict[str, str] = {}
    for path in ordered:
        if path in found:
            continue
        found[path] = ""
        partners = [other for other in ties.get(path, ()) if _holds_rows(by_path[other])]
        alike = all(list(chosen.get(other, chosen[path])) == list(chosen[path]) for other in partners)
        if alike and isinstance(by_path[path], nn.Embedding):
            found |= dict.fromkeys(partners, path)
    return found


def input_embedding(model: nn.Module) -> str | None:
    """The path of the module that the model says embeds its input, else of the one with the usual name, if any."""
    inner = unwrapped(model)
    by_path = modules_by_path(model)
    try:
        said = inner.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        said = None
    if isinstance(said, nn.Module):
        return next((path for path, module in by_path.items() if module is unwrapped(said)), None)
    named = [path for path in by_path if path == USUAL_EMBEDDING or path.endswith(f".{USUAL_EMBEDDING}")]
    return named[0] if len(named) == 1 else None


def chosen_rows(model: nn.Module, tokens: Tokens) -> dict[str, tuple[int, ...]]:
    """Module path → the indices asked for there."""
    if isinstance(tokens, Mapping):
        named = {path: tuple(indices) for name, indices in tokens.items() for path in _named(model, name)}
    else:
        path = input_embedding(model)
        if path is None:
            raise TargetError(
                f"trainable_token_indices needs the input embedding, and {type(unwrapped(model)).__name__} does not "
                f"say which module that is; name it: {{'tok_emb': {list(tokens)[:4]}}} (embeddings: "
                f"{_embeddings(model)})"
            )
        named = {path: tuple(tokens)}
    by_path = modules_by_path(model)
    unfit = [f"{path} ({type(by_path[path]).__name__})" for path in named if not _holds_rows(by_path[path])]
    if unfit:
        raise TargetError(
            f"trainable_token_indices names {', '.join(unfit)}, which has no rows that can train by themselves: "
            "choose an embedding without max_norm or a dense output head, not quantised (embeddings: "
            f"{_embeddings(model)})"
        )
    return named


def _named(model: nn.Module, name: str) -> list[str]:
    """Paths of the modules of this name, or whose path ends in it at a dot; an alias gives the module's first path."""
    first = {id(module): path for path, module in modules_by_path(model).items()}
    found = [first[id(slot.module)] for slot in slots(model) if slot.path == name or slot.path.endswith(f".{name}")]
    if not found:
        raise TargetError(
            f"trainable_token_indices names {name!r}, but the model has no such module "
            f"(embeddings: {_embeddings(model)})"
        )
    return list(dict.fromkeys(found))


def _holds_rows(module: nn.Module) -> bool:
    weight = module._parameters.get(WHOLE)
    is_matrix = isinstance(weight, Tensor) and weight.dim() == 2 and weight.is_floating_point()
    if isinstance(module, nn.Embedding):
        return is_matrix and module.max_norm is None
    return is_matrix and isinstance(module, nn.Linear)


def _embeddings(model: nn.Module) -> str:
    return ", ".join(path for path, each in modules_by_path(model).items() if isinstance(each, nn.Embedding)) or "none"


def beyond(chosen: Mapping[str, Sequence[int]], by_path: Mapping[str, nn.Module]) -> list[str]:
    """A sentence for every module that has fewer rows than the indices say."""
    problems = []
    for path, indices in chosen.items():
        count = len(tensor_of(by_path[path], WHOLE))
        over = [index for index in indices if index >= count]
        if over:
            problems.append(
                f"token {', '.join(map(str, over[:8]))} of {path}, which has {count} rows (0 to {count - 1})"
            )
    return problems


def _refuse_beyond(chosen: Mapping[str, Sequence[int]], by_path: Mapping[str, nn.Module]) -> None:
    problems = beyond(chosen, by_path)
    if problems:
        raise SpecError(f"trainable_token_indices asks for {'; '.join(problems)}. {RESIZE}")


RESIZE = "Add the new tokens to the tokenizer and resize the model first: model.resize_token_embeddings(len(tokenizer))"


# -- what to tell -----------------------------------------------------------------------------------------------


def padding_notes(model: nn.Module, updates: Mapping[str, Update]) -> list[str]:
    """What to tell of a padding token among the rows: an embedding trains none for it, as ever in torch."""
    by_path = modules_by_path(model)
    return [
        f"token {by_path[path].padding_idx} is the padding_idx of {path}, whose row gets no gradient there"
        for path, update in updates.items()
        if isinstance(update, TokenUpdate) and update.padding_row(by_path[path]) is not None
    ]
