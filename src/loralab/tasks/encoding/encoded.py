"""One example as a model takes it, before it is put into a batch."""

from dataclasses import dataclass

from loralab.nn.targets import IGNORED
from loralab.tasks.encoding.images import EncodedImage


@dataclass(frozen=True)
class Encoded:
    """One example as token ids."""

    input_ids: list[int]
    labels: list[int] | int | float | None
    """Per token the token itself where it is a target and `IGNORED` elsewhere; or the class or value; or None where
    it is not known.
    """
    token_type_ids: list[int] | None = None
    """Which text of a pair a token is of, for tokenizers that say."""
    decoded: bool = False
    """The labels are tokens of a decoder, beside the encoder's `input_ids` and not among them."""
    weight: float = 1.0
    """What each target counts in the training loss."""

    @property
    def targets(self) -> int:
        """The number of tokens, or of labels, that the loss is taken on."""
        if isinstance(self.labels, list):
            return sum(label != IGNORED for label in self.labels)
        return int(self.labels is not None)

    @property
    def tokens(self) -> int:
        """All real tokens that a model runs over."""
        return len(self.input_ids) + (self.targets if self.decoded else 0)

    @property
    def width(self) -> int:
        """The longer of its rows in a batch, in tokens: an encoder-decoder has two."""
        return max(len(self.input_ids), len(self.labels) if isinstance(self.labels, list) else 0)


@dataclass(frozen=True)
class EncodedPair:
    """Two answers to one prompt, the first preferred."""

    chosen: Encoded
    rejected: Encoded
    weight: float = 1.0
    """What the pair counts in the training loss."""

    @property
    def sides(self) -> tuple[Encoded, Encoded]:
        """Chosen, rejected."""
        return self.chosen, self.rejected

    @property
    def targets(self) -> int:
        """The loss is taken on the pair."""
        return 1

    @property
    def tokens(self) -> int:
        """All real tokens of both sides."""
        return self.chosen.tokens + self.rejected.tokens

    @property
    def width(self) -> int:
        """The longest row of either."""
        return max(self.chosen.width, self.rejected.width)


@dataclass(frozen=True)
class EncodedRow:
    """Several examples of a causal language model one after another, to be kept apart by their positions."""

    examples: tuple[Encoded, ...]
    places: tuple[int, ...]
    """Of each among all examples."""

    @property
    def targets(self) -> int:
        """Of all examples."""
        return sum(each.targets for each in self.examples)

    @property
    def tokens(self) -> int:
        """Of all examples."""
        return sum(each.tokens for each in self.examples)

    @property
    def width(self) -> int:
        """The row has room for nothing else."""
        return self.tokens


AnyEncoded = Encoded | EncodedPair | EncodedRow | EncodedImage


def mass_of(encoded: AnyEncoded) -> float:
    """What its targets count together in the training loss: their number, where it has no weight."""
    if isinstance(encoded, EncodedRow):
        return sum(map(mass_of, encoded.examples))
    return encoded.targets * encoded.weight
