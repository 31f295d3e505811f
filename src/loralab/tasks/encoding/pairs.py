"""Pairs of answers as token ids: both behind the same tokens of their prompt, however much of it is cut."""

from loralab.nn.targets import IGNORED
from loralab.tasks.encoding.encoded import Encoded, EncodedPair
from loralab.tasks.encoding.marking import Spans
from loralab.tasks.encoding.tokens import fit
from loralab.tasks.example import Conversation, Preference


def without_shared(pair: Preference, side: Conversation, spans: Spans) -> Spans:
    """The targets of a conversation that are its own: the turns behind those that both sides share."""
    own = sum(message.role == "assistant" for message in side.messages[pair.shared :])
    return spans[-own:]


def fitted_pair(chosen: Encoded, rejected: Encoded, max_length: int, bos: int | None) -> tuple[EncodedPair, bool]:
    """Both sides in at most `max_length` tokens, their prompts cut alike at the left; and whether that took a cut."""
    if chosen.decoded:
        cut = max(each.width for each in (chosen, rejected)) > max_length
        return EncodedPair(_cut_ends(chosen, max_length), _cut_ends(rejected, max_length)), cut
    if max(len(each.input_ids) for each in (chosen, rejected)) <= max_length:
        return EncodedPair(chosen, rejected), False
    room = max(1, max_length - max(len(each.input_ids) - _prompt(each) for each in (chosen, rejected)))
    return EncodedPair(_fitted(chosen, room, max_length, bos), _fitted(rejected, room, max_length, bos)), True


def _prompt(encoded: Encoded) -> int:
    """The tokens before the first target."""
    assert isinstance(encoded.labels, list)
    return next(place for place, label in enumerate(encoded.labels) if label != IGNORED)


def _fitted(encoded: Encoded, room: int, max_length: int, bos: int | None) -> Encoded:
    assert isinstance(encoded.labels, list)
    answer = len(encoded.input_ids) - _prompt(encoded)
    most = min(max_length, min(room, _prompt(encoded)) + answer)
    ids, labels, _ = fit(encoded.input_ids, encoded.labels, most, encoded.input_ids[0] == bos)
    return Encoded(ids, labels)


def _cut_ends(encoded: Encoded, max_length: int) -> Encoded:
    """An encoder-decoder's sides: the end of the prompt, the beginning of the answer."""
    assert isinstance(encoded.labels, list)
    return Encoded(encoded.input_ids[-max_length:], encoded.labels[:max_length], decoded=True)
