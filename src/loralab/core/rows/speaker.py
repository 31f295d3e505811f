"""Who speaks: no adapter, one by its name, or several at once, whose updates add up."""

from collections.abc import Sequence

from loralab.core.adapter import AdapterSet
from loralab.core.layer import Speaker, in_words
from loralab.core.updates.sum import why_not_summed
from loralab.errors import SpecError


def speaker(adapters: AdapterSet, asked: str | Sequence[str] | None) -> Speaker | None:
    """The adapters that were asked for, each known and, where they are several, each a sum's member.

    Raises UnknownAdapterError for a name that is not on the model; SpecError for no names, for a name given twice,
    and for adapters that have no sum (DoRA, heads and biases, prefixes and inserted layers).
    """
    if asked is None:
        return None
    if isinstance(asked, str):
        return adapters.adapter(asked).name
    names = tuple(asked)
    _check_names(names)
    for name in names:
        adapters.adapter(name)
    if len(names) == 1:
        return names[0]
    for name in names:
        _refuse_unsummable(adapters, name, names)
    return names


def _check_names(names: tuple[object, ...]) -> None:
    if not names:
        raise SpecError("an empty list names no adapter; give at least one name, or None for the base alone")
    if not all(isinstance(name, str) for name in names):
        raise SpecError(f"{list(names)!r} is not a list of adapters: give their names alone")
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise SpecError(
            f"{', '.join(map(repr, twice))} is named more than once; name each adapter once "
            "(combine(model, {'a': 2.0, …}) makes a weighted sum)"
        )


def _refuse_unsummable(adapters: AdapterSet, name: str, names: tuple[str, ...]) -> None:
    for path, update in adapters.adapter(name).updates.items():
        why = why_not_summed(update)
        if why:
            raise SpecError(
                f"{in_words(names)} have no sum: at {path} '{name}' is {why}. Only low-rank changes of weights add up: "
                "activate one adapter at a time, or name them per sequence with rows()"
            )
