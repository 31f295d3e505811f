"""What clients send. A field that would change the answer and is not supported is refused, never ignored.

OpenAI's names (https://platform.openai.com/docs/api-reference), and vLLM's for adapters.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from loralab.serving.engine.request import SamplingSettings

MOST_STOPS = 16
MOST_ANSWERS = 16
LONGEST_TEXT = 1_000_000
"""Characters of a prompt; what fits is counted in tokens later."""

Text = Annotated[str, Field(max_length=LONGEST_TEXT)]


class Body(BaseModel):
    """A body in which every field is known."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Body):
    """What a stream ends with."""

    include_usage: bool = False


class CompletionFields(Body):
    """What both kinds of completion share."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] = 1
    stop: str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None
    seed: int | None = None
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False, strict=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, strict=False)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2, strict=False)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, strict=False)] = 0.0
    logit_bias: Annotated[dict[str, float], Field(max_length=1024)] | None = None
    user: str | None = None
    """Of no effect, as with OpenAI."""

    @property
    def stops(self) -> list[str]:
        """The texts that end an answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def sampling(self, seed: int) -> SamplingSettings:
        """In the engine's words; OpenAI's default temperature is 1."""
        return SamplingSettings(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(0, self.top_k or 0),
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias={int(id): bias for id, bias in (self.logit_bias or {}).items()},
            seed=seed,
        )


class CompletionBody(CompletionFields):
    """POST /v1/completions."""

    prompt: Text | list[Text] | list[int] | list[list[int]]
    max_tokens: Annotated[int, Field(ge=1)] | None = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Literal[False] = False
    best_of: Annotated[int, Field(ge=1)] | None = None
    suffix: None = None


class TextPart(Body):
    """A piece of a message."""

    type: Literal["text"]
    text: Text


class MessageBody(Body):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    name: str | None = None
    refusal: None = None

    def plain(self) -> dict[str, str]:
        """As a chat template takes it."""
        texts = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": texts}


class ChatBody(CompletionFields):
    """POST /v1/chat/completions."""

    messages: Annotated[list[MessageBody], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    store: Literal[False] | None = None


class LoadBody(Body):
    """POST /v1/load_lora_adapter."""

    lora_name: str
    lora_path: str


class UnloadBody(Body):
    """POST /v1/unload_lora_adapter."""

    lora_name: str
    lora_int_id: int | None = None
    """vLLM's; of no effect."""
