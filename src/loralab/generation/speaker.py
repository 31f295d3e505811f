"""A model in a conversation: the turns so far in, the next one out while it is written, under one of its adapters.

With a chat template the turns go through it; without one they are one text that goes on. It knows nothing of terminals.
Of what was said it keeps what the model computed of it, so that a turn is not read again with every turn that follows.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loralab.core.attach import activate
from loralab.errors import SpecError
from loralab.generation.config import GenerationConfig
from loralab.generation.ends import NO_MORE, Ends, turn_ends
from loralab.generation.generate import end_ids, generate_ids
from loralab.generation.resident import ResidentEngine
from loralab.generation.stream import TextStream
from loralab.tasks.encoding.encode import encode_prompts
from loralab.tasks.encoding.turn_end import ANSWER
from loralab.tasks.example import Conversation, Example, Message

NO_LIMIT = 2**31


@dataclass(frozen=True)
class Spoken:
    """A turn that a model wrote."""

    text: str
    cut: bool
    """Whether it had to end because of `max_new_tokens`."""


@dataclass(frozen=True)
class ModelSpeaker:
    """A model with adapters on it, by name; `None` is the base."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    config: GenerationConfig
    room: Callable[[PreTrainedModel], int | None]
    """Tokens that fit into the model under the adapter that is active; None where there is no end."""
    of_turns: Collection[str | None] = ()
    """Who was trained on conversations: they are asked as they were trained."""
    adapters: Collection[str] = ()
    _engine: ResidentEngine = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_engine", ResidentEngine(self.model))

    @property
    def has_template(self) -> bool:
        """Whether turns go through a chat template."""
        return self.tokenizer.chat_template is not None

    def fitting(self, turns: Sequence[Message], who: str | None) -> Sequence[Message]:
        """The turns without the oldest exchanges, where all do not fit beside an answer; a system message stays.

        Raises `SpecError` where the last turn alone is too long.
        """
        self._let_speak(who)
        room = self.room(self.model)
        if room is None:
            return turns
        if not self.model.config.is_encoder_decoder:
            room -= self.config.max_new_tokens
        while (size := len(self._ids(turns, who))) > room:
            fewer = _without_oldest(turns)
            if fewer is None:
                raise SpecError(
                    f"this turn comes to {size} tokens, and {max(room, 0)} fit beside an answer of "
                    f"{self.config.max_new_tokens}; write less, or ask for fewer with --max-new-tokens"
                )
            turns = fewer
        return turns

    def speak(self, turns: Sequence[Message], who: str | None, write: Callable[[str], None]) -> Spoken:
        """The turn after these, which `write` is given piece by piece."""
        self._let_speak(who)
        ends = turn_ends(self.tokenizer) if self.has_template else NO_MORE
        stream = TextStream(self.tokenizer, write, end_ids(self.model, self.tokenizer, ends), ends)
        config = replace(self.config, seed=self.config.seed + len(turns))  # another draw for every turn
        self._generate(turns, who, config, ends, stream)
        whole = stream.text()
        return Spoken(whole, len(stream.ids) >= config.max_new_tokens)

    def _generate(
        self, turns: Sequence[Message], who: str | None, config: GenerationConfig, ends: Ends, stream: TextStream
    ) -> None:
        generate_ids(self.model, [self._ids(turns, who)], config, self.tokenizer, ends, stream, self._engine)

    def _let_speak(self, who: str | None) -> None:
        if self.adapters:
            activate(self.model, who)

    def _ids(self, turns: Sequence[Message], who: str | None) -> list[int]:
        prompt = _conversation(turns, who in self.of_turns) if self.has_template else Example(_text(turns), "")
        encoder_decoder = bool(self.model.config.is_encoder_decoder)
        return encode_prompts([prompt], self.tokenizer, NO_LIMIT, encoder_decoder=encoder_decoder)[0]


def _conversation(turns: Sequence[Message], as_in_training: bool) -> Conversation:
    """The turns, to be answered as the template asks for an answer, or as one stands in a finished conversation."""
    return Conversation((*turns, Message("assistant", ANSWER)) if as_in_training else tuple(turns))


def _text(turns: Sequence[Message]) -> str:
    """The turns as one text; a line ends after each that the model wrote."""
    return "".join(turn.content + ("" if turn.role == "user" else "\n") for turn in turns)


def _without_oldest(turns: Sequence[Message]) -> list[Message] | None:
    """The turns without the first question and its answer; None where only the last question is left."""
    first = int(turns[0].role == "system")
    later = [place for place, turn in enumerate(turns) if turn.role == "user" and place > first]
    return [*turns[:first], *turns[later[0] :]] if later else None
