"""What is to be said of how texts became targets: right, but perhaps not what one would think."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from loralab.tasks.encoding.chat import Templated, prompt_is_kept
from loralab.tasks.encoding.marking import Marked
from loralab.tasks.encoding.template import marks_answers
from loralab.tasks.encoding.turn_end import TurnEnd
from loralab.tasks.example import Conversation


def spanning_remarks(marked: Sequence[Marked]) -> list[str]:
    """Of tokens that are of a prompt and its answer both."""
    spanned = sum(each.spanned for each in marked)
    if not spanned:
        return []
    return [
        f"in {spanned} of {len(marked)} examples a token spans the end of the prompt and the beginning of its answer: "
        "it is learned as the answer's, but generation begins after other tokens; let the answers begin with a space "
        "or a line break"
    ]


def conversation_remarks(
    conversations: Sequence[Conversation],
    written: Sequence[Templated],
    tokenizer: PreTrainedTokenizerBase,
    end: TurnEnd,
) -> list[str]:
    """Of turns that are no targets, of a prompt that no finished turn has, and of ends that are not learned."""
    return [*_of_turns(written, tokenizer), *_of_prompt(conversations[0], tokenizer), *_of_ends(written, end)]


def _of_turns(written: Sequence[Templated], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    if marks_answers(tokenizer):
        return ["what the chat template marks as the assistant's ({% generation %}) is learned, and nothing else"]
    left, learned = sum(each.left for each in written), sum(len(each.targets) for each in written)
    if not left:
        return []
    return [
        f"the chat template writes {left} of {left + learned} assistant turns otherwise once more turns follow: they "
        f"are read, but only the other {learned} are learned, among them the last turn of every conversation"
    ]


def _of_prompt(conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    if marks_answers(tokenizer) or prompt_is_kept(conversation, tokenizer):
        return []
    return [
        "the chat template's generation prompt holds what it does not write into a finished turn (an opened thinking, "
        "say): the answers are learned, and generated here, without it"
    ]


def _of_ends(written: Sequence[Templated], end: TurnEnd) -> list[str]:
    mark = end.written.strip()
    if not mark:
        return ["the chat template writes no end after an answer: a model cannot learn from it where to stop"]
    without = sum(not each.text[: each.targets[-1][1]].rstrip().endswith(mark) for each in written)
    if not without:
        return []
    return [
        f"in {without} of {len(written)} conversations {mark!r}, which ends a turn, is not among what is learned: the "
        "model does not learn to stop there"
    ]
