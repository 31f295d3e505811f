"""What clients send. A field that would change the answer and is not supported is refused, never ignored.

OpenAI's names (https://platform.openai.com/docs/api-reference), and vLLM's for adapters.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from loralab.serving.engine.request import SamplingSettings

MOST_STOPS = 16
LONGEST_STOP = 1024
MOST_ANSWERS = 16
MOST_PROMPTS = 1024
MOST_MESSAGES = 4096
COLDEST = 0.001
"""The lowest temperature above 0: scores divided by less are no numbers any more."""
LONGEST_TEXT = 1_000_000
"""Characters of a prompt; what fits is counted in tokens later."""

Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
Name = Annotated[str, Field(max_length=256)]
Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
Bias = Annotated[float, Field(ge=-100, le=100, strict=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, strict=False)]
Label = Annotated[str, Field(max_length=1024)]


class Body(BaseModel):
    """A body in which every field is known; one that is null is one that was left out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def without_nulls(cls, content: Any) -> Any:
        """OpenAI's clients write null for what they leave to the server."""
        if not isinstance(content, Mapping):
            return content
        return {name: value for name, value in content.items() if value is not None}


class StreamOptions(Body):
    """What a stream ends with."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """Of no effect: nothing is padded."""


class CompletionFields(Body):
    """What both kinds of completion share."""

    model: Name
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] = 1
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10, strict=False)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1, strict=False)] = 1.0
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] = 0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: Annotated[dict[Annotated[str, Field(max_length=9)], Bias], Field(max_length=1024)] | None = None
    user: Label | None = None
    metadata: Annotated[dict[Label, Label], Field(max_length=16)] | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    service_tier: Literal["auto", "default"] | None = None
    """Of no effect on an answer, these five."""

    @field_validator("temperature")
    @classmethod
    def not_too_cold(cls, temperature: float) -> float:
        """0, or enough to divide by."""
        if 0 < temperature < COLDEST:
            raise ValueError(f"0 (always the likeliest token), or at least {COLDEST}")
        return temperature

    @model_validator(mode="after")
    def options_are_of_streams(self) -> "CompletionFields":
        """As OpenAI has it."""
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream true")
        return self

    @property
    def answers(self) -> int:
        """How many are asked for."""
        return self.n

    @property
    def stops(self) -> list[str]:
        """The texts that end an answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def sampling(self, seed: int) -> SamplingSettings:
        """In the engine's words."""
        return SamplingSettings(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(0, self.top_k),
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias={int(id): bias for id, bias in (self.logit_bias or {}).items()},
            seed=seed,
        )


class CompletionBody(CompletionFields):
    """POST /v1/completions."""

    prompt: (
        Text
        | Annotated[list[Text], Field(max_length=MOST_PROMPTS)]
        | list[int]
        | Annotated[list[list[int]], Field(max_length=MOST_PROMPTS)]
    )
    max_tokens: Annotated[int, Field(ge=1)] = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool = False
    best_of: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def can_be_answered(self) -> "CompletionBody":
        """Of what OpenAI's completions can do, all but what would need other answers than those that are sent."""
        if self.best_of not in (None, self.n):
            raise ValueError(f"best_of {self.best_of} is not supported; leave it out, or give n")
        if self.echo and self.logprobs is not None:
            raise ValueError("echo is not supported with logprobs: those of a prompt are not computed")
        return self

    @property
    def answers(self) -> int:
        """One for each prompt, `n` times."""
        several = isinstance(self.prompt, list) and not all(isinstance(each, int) for each in self.prompt)
        return self.n * (len(self.prompt) if several else 1)


class TextPart(Body):
    """A piece of a message."""

    type: Literal["text"]
    text: Text


class MessageBody(Body):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    name: Label | None = None
    refusal: None = None

    def plain(self) -> dict[str, str]:
        """As a chat template takes it."""
        texts = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": texts}


class ResponseFormat(Body):
    """What an answer is written in: whatever the model writes."""

    type: Literal["text"]


class ChatBody(CompletionFields):
    """POST /v1/chat/completions."""

    messages: Annotated[list[MessageBody], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    store: Literal[False] | None = None

    @model_validator(mode="after")
    def tops_are_of_logprobs(self) -> "ChatBody":
        """As OpenAI has it."""
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs true")
        return self


class PairBody(Body):
    """Two texts that are classified together."""

    text: Text
    text_pair: Text


Classified = Text | PairBody


class ClassifyBody(Body):
    """POST /v1/classify, as vLLM has it, and pairs."""

    model: Name
    input: Classified | Annotated[list[Classified], Field(min_length=1, max_length=MOST_PROMPTS)]
    user: Label | None = None
    """Of no effect."""

    @property
    def inputs(self) -> list[str | PairBody]:
        """One by one."""
        return self.input if isinstance(self.input, list) else [self.input]


class LoadBody(Body):
    """POST /v1/load_lora_adapter."""

    lora_name: Name
    lora_path: Annotated[str, Field(max_length=4096)]


class UnloadBody(Body):
    """POST /v1/unload_lora_adapter."""

    lora_name: Name
    lora_int_id: int | None = None
    """vLLM's; of no effect."""
