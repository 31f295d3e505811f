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


AnyEncoded = Encoded | EncodedImage
