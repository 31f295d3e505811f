"""Single trained rows of embeddings in PEFT's files: `trainable_token_indices`, in both directions.

PEFT 0.21 stores R [T, H] of a module as `<module>.token_adapter.trainable_tokens_delta`; despite the name it replaces
the rows. A list is of the model's input embedding, a mapping names modules by the endings of their paths, also inside a
name. A head that the model's config says is tied to its input embedding has no tensor of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.names import inside, modules_by_path, unwrapped
from loralab.core.updates.tokens import TokenUpdate, is_plain_head, is_plain_lookup
from loralab.core.updates.update import WHOLE, Update
from loralab.errors import AdapterFileError
from loralab.files.tensors import of_shape
from loralab.methods.trainable_tokens import (
    RESIZE,
    Tokens,
    beyond,
    chosen_rows,
    input_embedding,
    leaders,
    token_problems,
)
from loralab.nn.tensors import tensor_of

INDICES = "trainable_token_indices"
"""The key of the configuration."""
DELTA = "token_adapter.trainable_tokens_delta"
COPY = "token_adapter.base_layer.weight"
"""The base's own weight, which PEFT stores beside the rows when it is told to save embeddings."""
_INSIDE_PEFT = ("lora_A", "lora_B", "lora_dropout", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
"""Modules that PEFT puts into those that it adapts, and then looks through by the endings of their names as well."""


# -- the configuration --------------------------------------------------------------------------------------------


def parse_tokens(content: Mapping[str, Any]) -> Tokens | None:
    """The indices that a configuration names, None where it names none."""
    given = content.get(INDICES)
    if isinstance(given, Mapping):
        return {name: tuple(indices) for name, indices in given.items()} or None
    return tuple(given) if given else None


def mistyped_tokens(content: Mapping[str, Any]) -> list[str]:
    """What cannot be of the indices, as sentences."""
    given = content.get(INDICES)
    if not given:
        return []
    listed = list(given.values()) if isinstance(given, Mapping) else [given]
    if not all(isinstance(each, list) and all(type(index) is int for index in each) for each in listed):
        return [f"{INDICES} is {given!r}, not a list of whole numbers, or such lists by module"]
    return token_problems(INDICES, given)


# -- reading ------------------------------------------------------------------------------------------------------


def token_plot(model: nn.Module, tokens: Tokens | None) -> dict[str, tuple[tuple[int, ...], str]]:
    """Module path → (its indices, the path whose rows it shares or nothing), by PEFT's rules; AdapterFileError for what
    this model does not have."""
    if tokens is None:
        return {}
    named = _spelled_out(model, tokens)
    chosen = chosen_rows(model, named)
    refuse_beyond(chosen, modules_by_path(model))
    led = leaders(model, chosen) if ties_by_itself(model) else dict.fromkeys(chosen, "")
    return {path: (chosen[leader or path], leader) for path, leader in led.items()}


def _spelled_out(model: nn.Module, tokens: Tokens) -> Tokens:
    """PEFT's endings as whole paths."""
    if not isinstance(tokens, Mapping):
        if input_embedding(model) is None:
            raise AdapterFileError(
                f"{INDICES} lists rows of the input embedding, and which module of {type(unwrapped(model)).__name__} "
                f'that is cannot be told; name it in adapter_config.json: {{"tok_emb": [...]}}'
            )
        return tokens
    paths = list(modules_by_path(model))
    lost = [name for name in tokens if not any(path.endswith(name) for path in paths)]
    if lost:
        raise AdapterFileError(f"{INDICES} names {', '.join(lost)}, which this model does not have")
    return {path: indices for name, indices in tokens.items() for path in paths if path.endswith(name)}


def refuse_beyond(chosen: Mapping[str, Sequence[int]], by_path: Mapping[str, nn.Module]) -> None:
    """AdapterFileError where a module has fewer rows than the adapter trained."""
    problems = beyond(chosen, by_path)
    if problems:
        raise AdapterFileError(f"the adapter trained {'; '.join(problems)}. {RESIZE}")


def refuse_taken(plotted: Mapping[str, object], adapted: Mapping[str, int], saved: Mapping[str, object]) -> None:
    """AdapterFileError where a module with trained rows has a low-rank update or is saved in full as well."""
    taken = [path for path in plotted if path in adapted or inside(path, saved)]
    if taken:
        raise AdapterFileError(
            f"the adapter trains rows of {', '.join(taken)} ({INDICES}), or of a module that is tied to it, and adapts "
            "or saves the same module otherwise as well, which has no equal here; merge it in PEFT instead"
        )


def expected_rows(
    plotted: Mapping[str, tuple[tuple[int, ...], str]], by_path: Mapping[str, nn.Module], own: Mapping[str, str]
) -> dict[str, Tensor]:
    """Key → the like of the rows; `own` are the keys, by path, of those that the file is to hold."""
    width = {path: tensor_of(by_path[path], WHOLE).shape[1] for path in own}
    return {key: of_shape((len(plotted[path][0]), width[path])) for path, key in own.items()}


# -- writing ------------------------------------------------------------------------------------------------------


def ties_by_itself(model: nn.Module) -> bool:
    """Whether PEFT knows that this model's head is tied to its embedding: what the config says at its top."""
    return bool(getattr(getattr(unwrapped(model), "config", None), "tie_word_embeddings", False))


def written_rows(updates: Mapping[str, Update], model: nn.Module | None) -> dict[str, TokenUpdate]:
    """The updates whose rows go into the file: all but those that PEFT ties by itself.

    Without the model that is not known; rows that are written twice do no harm, since they are the same.
    """
    tied = model is not None and ties_by_itself(model)
    return {
        path: update
        for path, update in updates.items()
        if isinstance(update, TokenUpdate) and not (tied and update.follows)
    }


def config_tokens(updates: Mapping[str, Update], model: nn.Module | None) -> Tokens | None:
    """What `trainable_token_indices` is to say: a list where it is the model's input embedding alone."""
    rows = written_rows(updates, model)
    if not rows:
        return None
    if model is not None and list(rows) == [input_embedding(model)]:
        return next(iter(rows.values())).indices
    return {path: update.indices for path, update in rows.items()}


def why_not_peft_rows(base: nn.Module) -> str | None:
    """Why PEFT would compute something else with rows of this module, None where it does not."""
    if isinstance(base, nn.Embedding):
        return None if is_plain_lookup(base) else "PEFT looks rows up without this embedding's own forward"
    if not is_plain_head(base):
        return "PEFT multiplies rows without this layer's own forward"
    return None if base.bias is None else "PEFT leaves out the bias of a layer of which single rows are trained"


def ambiguous_rows(updates: Mapping[str, Update], model: nn.Module | None) -> list[str]:
    """For every module with trained rows that PEFT would take others for as well, by the ending of its path: why."""
    rows = written_rows(updates, model)
    paths = [*(updates if model is None else modules_by_path(model)), *_INSIDE_PEFT]
    alike = {path: [other for other in paths if other != path and other.endswith(path)] for path in rows}
    return [
        f"{path}: PEFT would take the rows of {', '.join(others)} for it too, whose path ends in its own"
        for path, others in alike.items()
        if others and not set(others) <= set(rows)
    ]


def row_count(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Module → how many of its rows are in a file with plain names."""
    end = f".{DELTA}"
    return {key.removesuffix(end): len(rows) for key, rows in tensors.items() if key.endswith(end)}


def fill_rows(updates: Mapping[str, Update], values: Mapping[str, Tensor]) -> None:
    """Give every module its rows."""
    for path, rows in values.items():
        update = updates[path]
        assert isinstance(update, TokenUpdate)
        if update.follows and not torch.equal(rows, values[update.follows]):
            raise AdapterFileError(
                f"the rows of {path} in the file are not those of {update.follows}, which its weight is tied to "
                "here; load the model with the two untied (tie_word_embeddings=False), or remove those of one"
            )
        update.take(rows)
