"""A model to look at between its blocks, as the flags name it: shared by the analyses of layers."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from loralab.cli.opening import AdaptedModel, Training, load_adapted, load_base, training_of
from loralab.errors import SpecError

if TYPE_CHECKING:
    from rich.console import Console

    from loralab.models.load import LoadedModel

WIDTH = 80


@dataclass(frozen=True, kw_only=True)
class StreamConfig(AdaptedModel):
    """A model, an adapter if one is named, and the text to run through it."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Precision of the model. bfloat16 rounds the residual stream by 0.4 %, as much as some blocks add to it."""

    data: str | None = None
    """The text: a file, or JSON lines with a "text" each; its last fifth is left for measuring. Without it the sources
    of Python's standard library."""

    seed: int = 0
    """Of the choice of pieces of the text."""


def open_stream(config: AdaptedModel) -> "LoadedModel":
    """The model with its adapter, if one is named. Raises SpecError for what is neither decoder nor encoder."""
    return load_adapted(config, _training(config.model, config.adapter))


def open_decoder(model: str, dtype: str) -> "LoadedModel":
    """A causal language model, for what measures perplexity. Raises SpecError for another kind."""
    training = _training(model, None)
    if training.kind != "causal-lm":
        raise SpecError(f"model {model!r} is an encoder: it has no perplexity to measure; give a causal language model")
    return load_base(model, dtype, training)


def _training(model: str, adapter: str | None) -> Training:
    from loralab.models.families.table import FAMILY_BY_TYPE
    from loralab.models.load import read_config

    config = read_config(model)
    family = FAMILY_BY_TYPE.get(config.model_type)
    architecture = "decoder" if family is None else family.architecture
    if architecture not in ("decoder", "encoder"):
        raise SpecError(
            f"model {model!r} is of type {config.model_type!r} ({architecture}): layers are analysed in one line of "
            "blocks over text; give a decoder or an encoder"
        )
    if adapter is not None:
        known = training_of(adapter)
        return Training("causal-lm") if known.kind == "generation" else known
    return Training("causal-lm" if architecture == "decoder" else "sequence-classification")


def console() -> "Console":
    """Where tables are printed: 80 columns, nothing coloured by itself."""
    from rich.console import Console

    return Console(width=WIDTH, highlight=False)


def print_files(files: list[str]) -> None:
    """The written files, a line each."""
    for path in files:
        print(path)
