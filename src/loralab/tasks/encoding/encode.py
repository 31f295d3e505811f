"""Examples as token ids, with the target tokens marked; or as images to be decoded.

Prompt and target are one text and tokenized as one, as a model reads them (`marking` says which tokens are targets); a
target ends with the end-of-text token, a turn of a conversation with what the chat template ends it with. What is too
long loses the LEFT end of its prompt, never a part of its target; only a target that is too long by itself is cut, at
its end. All cuts are counted. It knows nothing of models beyond whether one has an encoder and a decoder.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from loralab.errors import DataError, SpecError
from loralab.nn.targets import IGNORED
from loralab.tasks.encoding.chat import answer_context, templated
from loralab.tasks.encoding.encoded import AnyEncoded, Encoded, EncodedPair
from loralab.tasks.encoding.images import encode_images
from loralab.tasks.encoding.marking import Marked, Spans, mark
from loralab.tasks.encoding.packing import cut_into_windows
from loralab.tasks.encoding.remarks import conversation_remarks, spanning_remarks
from loralab.tasks.encoding.tokens import answer_ids, begun, context_ids, cut_left, empty_text_id, ended, fit, whole_ids
from loralab.tasks.encoding.turn_end import turn_end
from loralab.tasks.example import AnyExample, Conversation, Document, Example, LabelledExample, Preference, weight_of
from loralab.tasks.task import Task

Processor = PreTrainedTokenizerBase | BaseImageProcessor
"""What turns examples into what a model takes: its tokenizer, or the processor of a model that looks at images."""

SHORTEST = 8
"""Below this `max_length` nothing of use fits."""


@dataclass(frozen=True)
class Encoding:
    """Examples as a model takes them, and what it took."""

    encoded: Sequence[AnyEncoded]
    truncated: int
    """How many examples were cut to fit."""
    notes: tuple[str, ...]
    """Sentences for the log."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example, for `batches.epoch_batches`."""
        return [each.tokens for each in self.encoded]


def encode_examples(
    task: Task,
    examples: Sequence[AnyExample],
    processor: Processor,
    max_length: int,
    *,
    encoder_decoder: bool = False,
) -> Encoding:
    """Every example, in order; texts in at most `max_length` tokens (an encoder-decoder: prompt and target each).

    Raises `SpecError` for a `max_length` below `SHORTEST` or a processor that is not for the task's inputs, and
    `DataError` where the tokenizer cannot encode the task: no end-of-text token, or a chat template that does
    not show where a turn begins.
    """
    if task.inputs == "images" and isinstance(processor, BaseImageProcessor):
        return Encoding(encode_images(examples, processor), 0, ())
    if task.inputs == "text" and isinstance(processor, PreTrainedTokenizerBase):
        return _encode_texts(task, examples, processor, max_length, encoder_decoder)
    raise SpecError(
        f"task {task.name} consists of {task.inputs}, but a {type(processor).__name__} was given to read it; "
        "choose a model for that, and its own processor"
    )


def padding_id(processor: Processor) -> int:
    """The id that pads texts; 0 where there is none, and for images, which are not padded."""
    return int(processor.pad_token_id or 0) if isinstance(processor, PreTrainedTokenizerBase) else 0


def _encode_texts(
    task: Task,
    examples: Sequence[AnyExample],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    encoder_decoder: bool,
) -> Encoding:
    if max_length < SHORTEST:
        raise SpecError(f"max_length {max_length}: at least {SHORTEST} tokens are needed")
    if task.kind == "generation" and tokenizer.eos_token_id is None:
        raise DataError("the tokenizer has no end-of-text token; set its eos_token, or a model would never stop")
    if not examples:
        return Encoding([], 0, ())
    pairs = [each for each in examples if isinstance(each, Preference)]
    if pairs:
        return _encode_pairs(pairs, tokenizer, max_length, encoder_decoder)
    kind = "decoded" if encoder_decoder and task.kind == "generation" else type(examples[0]).__name__
    rows, remarks = _ENCODERS[kind](examples, tokenizer, max_length)
    truncated = sum(cut for _, cut in rows)
    where = " (prompts at their left end)" if task.kind == "generation" else ""
    note = f"{truncated} of {len(rows)} examples were longer than {max_length} tokens and were cut{where}"
    empty = sum(not each.input_ids for each, _ in rows)
    said = f"{empty} of {len(rows)} texts are without a token; they are read as the beginning of a text and no more"
    encoded = [
        replace(_not_empty(each, tokenizer), weight=weight_of(example))
        for (each, _), example in zip(rows, examples, strict=True)
    ]
    notes = (*remarks, *([note] if truncated else []), *([said] if empty else []))
    if kind != "Document":
        return Encoding(encoded, truncated, notes)
    cut, long = cut_into_windows(encoded, max_length)
    return Encoding(cut, truncated, (*notes, *long))


def _encode_pairs(
    pairs: Sequence[Preference], tokenizer: PreTrainedTokenizerBase, max_length: int, encoder_decoder: bool
) -> Encoding:
    """Both sides of every pair. Raises `DataError` where some are texts and others conversations."""
    kinds = sorted({type(each.chosen).__name__ for each in pairs})
    if len(kinds) > 1:
        raise DataError("some pairs are of texts and others of conversations; give data of one kind")
    encode = _ENCODERS["decoded" if encoder_decoder else kinds[0]]
    if kinds == ["Conversation"] and not encoder_decoder:
        sides, remarks = _talks_of_pairs(pairs, tokenizer)
    else:
        (chosen, said), (rejected, _) = (
            encode([getattr(each, side) for each in pairs], tokenizer, sys.maxsize) for side in ("chosen", "rejected")
        )
        sides, remarks = [[each for each, _ in side] for side in (chosen, rejected)], said
    bos = tokenizer.bos_token_id
    fitted = [fitted_pair(one, other, max_length, bos) for one, other in zip(*sides, strict=True)]
    encoded = [replace(each, weight=pair.weight) for (each, _), pair in zip(fitted, pairs, strict=True)]
    truncated = sum(cut for _, cut in fitted)
    note = f"{truncated} of {len(pairs)} pairs were longer than {max_length} tokens and were cut, both prompts alike"
    return Encoding(encoded, truncated, (*remarks, *([note] if truncated else [])))


def _talks_of_pairs(
    pairs: Sequence[Preference], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[list[Encoded]], Sequence[str]]:
    """Each side's conversations, of which only the turns that the other does not share are targets."""
    end, sides, remarks = turn_end(tokenizer), [], list[str]()
    for name in ("chosen", "rejected"):
        talks = [side for each in pairs if isinstance(side := getattr(each, name), Conversation)]
        written = [templated(each, tokenizer, end) for each in talks]
        spans = [without_shared(*each) for each in zip(pairs, talks, [each.targets for each in written], strict=True)]
        marked = mark([each.text for each in written], spans, tokenizer, special=False)
        sides.append([_fitted(each, tokenizer, sys.maxsize)[0] for each in marked])
        remarks = [*conversation_remarks(talks, written, tokenizer, end), *spanning_remarks(marked)]
    return sides, remarks


def _not_empty(encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """A blank text has no token where the tokenizer puts none around it; a model needs one to look at."""
    if encoded.input_ids:
        return encoded
    kinds = None if encoded.token_type_ids is None else [0]
    return replace(encoded, input_ids=[empty_text_id(tokenizer)], token_type_ids=kinds)


def encode_prompts(
    examples: Sequence[AnyExample],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    encoder_decoder: bool = False,
) -> list[list[int]]:
    """The ids to generate from: what stands before the (last) target in training, cut on the left."""
    chats = [each for each in examples if isinstance(each, Conversation)]
    if chats:
        ids = context_ids([answer_context(each, tokenizer) for each in chats], tokenizer, special=False)
    elif encoder_decoder:
        ids = whole_ids([each.prompt for each in _written(examples)], tokenizer)
    else:
        ids = context_ids([each.prompt for each in _written(examples)], tokenizer, special=True)
    return [cut_left(each or [empty_text_id(tokenizer)], max_length, tokenizer) for each in ids]


Pairs = tuple[list[tuple[Encoded, bool]], Sequence[str]]
"""Each example, and whether it was cut; and what is to be said of them."""


def _encode_written(examples: Sequence[AnyExample], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Pairs:
    written = _written(examples)
    texts = [each.prompt + each.target for each in written]
    spans = [[(len(each.prompt), len(text))] for each, text in zip(written, texts, strict=True)]
    marked = [_with_ends(each, tokenizer) for each in mark(texts, spans, tokenizer, special=True)]
    return [_fitted(each, tokenizer, max_length) for each in marked], spanning_remarks(marked)


def _with_ends(marked: Marked, tokenizer: PreTrainedTokenizerBase) -> Marked:
    """A text that begins with a token to go on from, as generation does where the prompt gives none, and ends."""
    ids = ended(marked.ids, tokenizer)
    labels = [*marked.labels, *ids[len(marked.ids) :]]
    if labels[0] != IGNORED and not marked.spanned:
        start = begun([], tokenizer)
        ids, labels = start + ids, [IGNORED, *labels]
    return Marked(ids, labels, marked.spanned)


def _encode_documents(examples: Sequence[AnyExample], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Pairs:
    """Whole, to be cut into rows."""
    texts = [Example("", each.text) for each in examples if isinstance(each, Document)]
    return _encode_written(texts, tokenizer, sys.maxsize)


def _encode_conversations(examples: Sequence[AnyExample], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Pairs:
    conversations = [each for each in examples if isinstance(each, Conversation)]
    end = turn_end(tokenizer)
    written = [templated(each, tokenizer, end) for each in conversations]
    marked = mark([each.text for each in written], [each.targets for each in written], tokenizer, special=False)
    remarks = conversation_remarks(conversations, written, tokenizer, end)
    return [_fitted(each, tokenizer, max_length) for each in marked], [*remarks, *spanning_remarks(marked)]


def _encode_decoded(examples: Sequence[AnyExample], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Pairs:
    """For an encoder-decoder: the prompt with the tokenizer's own ending, the target for the decoder."""
    written = _written(examples)
    prompts = whole_ids([each.prompt for each in written], tokenizer)
    targets = answer_ids([each.target.lstrip() for each in written], tokenizer)
    pairs = [
        (
            Encoded(cut_left(prompt, max_length, tokenizer), target[:max_length], decoded=True),
            max(len(prompt), len(target)) > max_length,
        )
        for prompt, target in zip(prompts, targets, strict=True)
    ]
    return pairs, ()


def _encode_labelled(examples: Sequence[AnyExample], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Pairs:
    """One text or a pair, as the tokenizer itself joins and cuts them (the longer text first)."""
    pairs = []
    for each in examples:
        assert isinstance(each, LabelledExample)
        whole = tokenizer(each.text_a, each.text_b, verbose=False)
        cut = len(whole["input_ids"]) > max_length
        if cut:
            whole = tokenizer(
                each.text_a, each.text_b, truncation="longest_first", max_length=max_length, verbose=False
            )
        pairs.append((Encoded(whole["input_ids"], each.label, whole.get("token_type_ids")), cut))
    return pairs, ()


_ENCODERS: dict[str, Callable[[Sequence[AnyExample], PreTrainedTokenizerBase, int], Pairs]] = {
    "Example": _encode_written,
    "Conversation": _encode_conversations,
    "Document": _encode_documents,
    "LabelledExample": _encode_labelled,
    "decoded": _encode_decoded,
}


def _fitted(marked: Marked, tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[Encoded, bool]:
    labels = [IGNORED, *marked.labels[1:]]  # there is nothing before a first token to foresee it from
    ids, labels, cut = fit(marked.ids, labels, max_length, marked.ids[0] == tokenizer.bos_token_id)
    return Encoded(ids, labels), cut


def _written(examples: Sequence[AnyExample]) -> list[Example]:
    written = [each for each in examples if isinstance(each, Example)]
    if len(written) < len(examples):
        raise DataError("this kind of model needs prompts and completions; the data hold conversations or labels")
    return written


# -- pairs of answers: both behind the same tokens of their prompt, however much of it is cut ------------------------


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
    return EncodedPair(_fitted_side(chosen, room, max_length, bos), _fitted_side(rejected, room, max_length, bos)), True


def _prompt(encoded: Encoded) -> int:
    """The tokens before the first target."""
    assert isinstance(encoded.labels, list)
    return next(place for place, label in enumerate(encoded.labels) if label != IGNORED)


def _fitted_side(encoded: Encoded, room: int, max_length: int, bos: int | None) -> Encoded:
    assert isinstance(encoded.labels, list)
    answer = len(encoded.input_ids) - _prompt(encoded)
    most = min(max_length, min(room, _prompt(encoded)) + answer)
    ids, labels, _ = fit(encoded.input_ids, encoded.labels, most, encoded.input_ids[0] == bos)
    return Encoded(ids, labels)


def _cut_ends(encoded: Encoded, max_length: int) -> Encoded:
    """An encoder-decoder's sides: the end of the prompt, the beginning of the answer."""
    assert isinstance(encoded.labels, list)
    return Encoded(encoded.input_ids[-max_length:], encoded.labels[:max_length], decoded=True)
