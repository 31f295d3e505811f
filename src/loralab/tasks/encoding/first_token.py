"""Targets of a decoder that must begin with a certain token, such as BART's <s> or the language of mBART.

Generation puts that token (`forced_bos_token_id`) before every answer, so an answer stands behind it in training too.
"""

from dataclasses import replace

from loralab.tasks.encoding.encode import Encoding
from loralab.tasks.encoding.encoded import AnyEncoded, Encoded


def begin_targets(encoding: Encoding, first: int | None, max_length: int) -> Encoding:
    """The decoders' targets, each with the token `first` before it, where there is one and it does not begin so.

    A target that is too long by that, for `max_length`, loses its last token, and counts as cut.
    """
    if first is None:
        return encoding
    begun = [_begun(each, first) for each in encoding.encoded]
    fitting = [_cut(each, max_length) for each in begun]
    cut = sum(one is not other for one, other in zip(begun, fitting, strict=True))
    return replace(encoding, encoded=fitting, truncated=encoding.truncated + cut)


def _begun(encoded: AnyEncoded, first: int) -> AnyEncoded:
    if not isinstance(encoded, Encoded) or not encoded.decoded or not isinstance(encoded.labels, list):
        return encoded
    return encoded if encoded.labels[:1] == [first] else replace(encoded, labels=[first, *encoded.labels])


def _cut(encoded: AnyEncoded, max_length: int) -> AnyEncoded:
    if not isinstance(encoded, Encoded) or not isinstance(encoded.labels, list) or len(encoded.labels) <= max_length:
        return encoded
    return replace(encoded, labels=encoded.labels[:max_length])
