"""Models that write: what `generate` and `chat` find out before they load one."""

from pathlib import Path

from loralab.cli.opening import Labels, Wanted, wanted_by
from loralab.errors import SpecError

WRITING = ("generation", "causal-lm", "seq2seq-lm")
HEADS = ("Classification", "QuestionAnswering", "MultipleChoice", "MaskedLM")
"""How the names of model classes end that read a text and write none."""


def wanted_writer(model: str, adapter: str | None, labels: Labels = None) -> Wanted:
    """The language model that an adapter was trained on, or the model alone.

    Raises SpecError for an adapter of a classifier, and for a model that is one or has no head to write with.
    """
    wanted = wanted_by(adapter, labels)
    if wanted.kind not in WRITING:
        raise SpecError(
            f"{adapter} was trained for {wanted.kind}, which writes no text; measure it with `loralab eval`, or name "
            "an adapter of a language model"
        )
    refuse_reader(model)
    return wanted


def refuse_reader(model: str) -> None:
    """Raise SpecError for a model that only reads: an encoder, or one with another head than a language model's."""
    from loralab.models.families.table import FAMILY_BY_TYPE
    from loralab.models.load import read_config
    from loralab.models.locate import is_linearized

    config = read_config(str(Path(model).expanduser() / "remaining") if is_linearized(model) else model)
    family = FAMILY_BY_TYPE.get(config.model_type)
    encoder = family is not None and family.architecture == "encoder" and not getattr(config, "is_decoder", False)
    heads = [name for name in config.architectures or () if name.endswith(HEADS)]
    if encoder or heads:
        what = heads[0] if heads else f"an encoder ({config.model_type})"
        raise SpecError(f"model {model!r} is {what}, which writes no text; give a language model, as smollm2-135m")
