"""Between texts and token ids, as one tokenizer has it: the base's, or the one that an adapter brings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loralab.errors import DataError, SpecError, first_line
from loralab.generation.ends import NO_MORE, Ends, turn_ends
from loralab.generation.generate import end_ids
from loralab.tasks.encoding.limits import TEMPLATE_ERRORS, limited, refuse_powers


@dataclass(frozen=True)
class Codec:
    """A tokenizer, and what ends an answer in it."""

    tokenizer: PreTrainedTokenizerBase
    ends: frozenset[int]
    """Tokens."""

    @staticmethod
    def of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> "Codec":
        """For this model; a classifier writes nothing that would end."""
        return Codec(tokenizer, frozenset(end_ids(model, tokenizer) if model.can_generate() else ()))

    @cached_property
    def turn(self) -> Ends:
        """What ends a turn of a conversation beside them; nothing where that cannot be told."""
        try:
            return turn_ends(self.tokenizer)
        except DataError:
            return NO_MORE

    def prompt_ids(self, text: str) -> tuple[int, ...]:
        """A text as token ids, begun as the model's texts are."""
        return tuple(self.tokenizer(text)["input_ids"])

    def chat_ids(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """A conversation as token ids, up to where the answer begins."""
        if self.tokenizer.chat_template is None:
            raise SpecError("the model has no chat template: ask /v1/completions")
        turns = [dict(each) for each in messages]
        try:
            refuse_powers(self.tokenizer.get_chat_template())
            with limited():
                text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except (*TEMPLATE_ERRORS, DataError) as problem:
            said = first_line(problem)
            raise SpecError(f"the chat template cannot write this conversation: {said}") from problem
        return tuple(self.tokenizer(str(text), add_special_tokens=False)["input_ids"])

    def text_of(self, ids: Sequence[int]) -> str:
        """Token ids as text, all of them written out."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def token(self, id: int) -> str:
        """A single token as text."""
        return str(self.tokenizer.decode([id]))
