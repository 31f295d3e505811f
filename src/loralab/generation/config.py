"""How text is generated. It imports nothing, so that the command line can show it at once."""

from dataclasses import dataclass
from typing import TypedDict

from loralab.errors import SpecError


@dataclass(frozen=True)
class GenerationConfig:
    """Greedy search; beam search with more than one beam; sampling with a temperature above 0."""

    max_new_tokens: int = 64
    """Tokens that an output may have."""

    beams: int = 1
    """Beams of the beam search; 1 is greedy."""

    length_penalty: float = 1.0
    """Beams are ranked by Σ log p / length^penalty: above 1 favours long outputs, below 1 short ones."""

    no_repeat_ngram: int = 0
    """An output may not hold the same sequence of this many tokens twice; 0 allows it. Sequences of the prompt
    may be repeated, since copying from it is often the task.
    """

    temperature: float = 0.0
    """0: the most probable token. Above: sampling, the flatter the higher."""

    top_p: float = 1.0
    """Sample only from the most probable tokens that hold this share of the probability."""

    seed: int = 0
    """Seed of the sampling; the global random state is left alone."""

    batch_size: int = 16
    """Prompts in a batch; inputs that beams are searched for at once. One token after the other, up to four times as
    many answers are written at once, as far as their cache stays small beside the weights."""

    def __post_init__(self) -> None:
        """Raises `SpecError` for the first value that cannot be."""
        least: dict[str, float] = {"max_new_tokens": 1, "beams": 1, "batch_size": 1} | {
            "no_repeat_ngram": 0,
            "temperature": 0.0,
        }
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise SpecError(f"generation: {name} is {getattr(self, name)}; it must be at least {bound}")
        if not 0.0 < self.top_p <= 1.0:
            raise SpecError(f"generation: top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.beams > 1 and self.temperature > 0:
            raise SpecError("generation: beams and a temperature exclude each other; set beams 1 or temperature 0")
        if self.top_p < 1.0 and self.temperature == 0:
            raise SpecError("generation: top_p is for sampling; set a temperature above 0")


class GenerationSettings(TypedDict, total=False):
    """The same by name, for type checkers: what Python may pass one by one."""

    max_new_tokens: int
    beams: int
    length_penalty: float
    no_repeat_ngram: int
    temperature: float
    top_p: float
    seed: int
    batch_size: int
