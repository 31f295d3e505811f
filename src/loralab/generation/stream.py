"""Text handed on while it is written: as soon as no later token can change it.

What may still change is kept back: half of a character, and what may turn out to be the beginning of an ending text.
"""

from collections.abc import Callable, Collection

from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from loralab.generation.ends import Ends

HALF = "\ufffd"
"""What a tokenizer writes for bytes that are no character yet."""


class TextStream(BaseStreamer):
    """The streamer of one text: `write` is called with each new piece; `ids` are the tokens so far, without an end."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, write: Callable[[str], None], end_ids: Collection[int], ends: Ends
    ) -> None:
        self.ids: list[int] = []
        self._tokenizer, self._write, self._end_ids, self._ends = tokenizer, write, end_ids, ends
        self._written, self._prompted, self._ended = "", False, False

    def put(self, value: Tensor) -> None:
        """The prompt at first, then a token at a time."""
        if not self._prompted:
            self._prompted = True
            return
        for token in value.flatten().tolist():
            self._ended = self._ended or token in self._end_ids
            if not self._ended:
                self.ids.append(token)
        self._hand_on(self._certain(self.text()))

    def end(self) -> None:
        """Nothing more comes: what was kept back is handed on."""
        self._hand_on(self.text())

    def text(self) -> str:
        """All of it so far, up to an ending text."""
        text = self._tokenizer.decode(self.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return self._ends.cut(str(text))

    def _certain(self, text: str) -> str:
        text = text.rstrip(HALF)
        begun = max((_begun(text, end) for end in self._ends.texts), default=0)
        return text[: len(text) - begun]

    def _hand_on(self, text: str) -> None:
        if len(text) > len(self._written) and text.startswith(self._written):
            self._write(text[len(self._written) :])
            self._written = text


def _begun(text: str, end: str) -> int:
    """How many characters at the end of a text may begin an ending text."""
    return next((size for size in range(min(len(end) - 1, len(text)), 0, -1) if text.endswith(end[:size])), 0)
