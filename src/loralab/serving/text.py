"""The text of an answer, as far as it can be sent: whole characters only, and nothing that may turn out to be its end.

A token may hold half a character, and the text that ends an answer may be spread over tokens; both are held back until
it is known what they are.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"
"""What bytes are decoded to that are no whole character yet."""


class TextSoFar:
    """Token ids come in one by one, text goes out piece by piece."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, [stop for stop in stops if stop]
        self._ids: list[int] = []
        self._known, self._decoded = 0, 0
        self._held = ""
        self.stopped = False
        """Whether an ending text has come; the answer is to be ended."""

    def add(self, id: int) -> str:
        """The text that this token makes certain."""
        self._ids.append(id)
        return self._certain(self._new_text())

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        rest = "" if self.stopped else self._cut(self._held + self._tail())
        self._held = ""
        return rest

    def _new_text(self) -> str:
        """The characters that are whole since the last call. The tokens since the last but one are decoded again, for
        what a token is written as depends on the one before it (a space)."""
        before = self._decode(self._ids[self._known : self._decoded])
        now = self._decode(self._ids[self._known :])
        if now.endswith(UNFINISHED) or len(now) <= len(before):
            return ""
        self._known, self._decoded = self._decoded, len(self._ids)
        return now[len(before) :]

    def _tail(self) -> str:
        """The tokens that made no whole character."""
        before = self._decode(self._ids[self._known : self._decoded])
        return self._decode(self._ids[self._known :])[len(before) :]

    def _certain(self, text: str) -> str:
        """Of what is held and what is new: all that cannot be the beginning of an ending text."""
        if self.stopped:
            return ""
        text = self._cut(self._held + text)
        kept = 0 if self.stopped else self._possible_beginning(text)
        self._held = text[len(text) - kept :] if kept else ""
        return text[: len(text) - kept]

    def _cut(self, text: str) -> str:
        """The text before the first ending text in it."""
        places = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        self.stopped = bool(places)
        return text[: min(places)] if places else text

    def _possible_beginning(self, text: str) -> int:
        """How many of the last characters may begin an ending text."""
        lengths = (
            length
            for stop in self._stops
            for length in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:length])
        )
        return max(lengths, default=0)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
