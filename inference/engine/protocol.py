"""Request bodies in, answers out: the part of the OpenAI protocol that we speak, in vLLM's dialect.

Everything a request says is checked here or in `versions.py`, before the generation thread hears of it:
that thread dies of what it cannot take, and with it every answer that it is making.
Unknown parameters are ignored, as vLLM ignores them; known ones with a wrong value are a 400.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from inference.engine.errors import InvalidRequest

MAX_TOP_K = 64
MAX_CHOICES = 8
MAX_STOPS = 4
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class TextPart(_Body):
    type: Literal["text"]
    text: str


class Message(_Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None

    def text(self) -> str:
        """The content as one string; several text parts are separate lines."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""

    def for_template(self) -> dict[str, str]:
        """What a chat template takes. `developer` is the newer name of `system`, which templates know."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.text()}


class StreamOptions(_Body):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None  # vLLM's: each chunk says how many tokens its choice has


class ChatRequest(_Body):
    """Body of POST /v1/chat/completions."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOP_K)] | None = None
    seed: Seed | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    ignore_eos: bool | None = None  # vLLM's, for benchmarks of a fixed length

    @field_validator("messages")
    @classmethod
    def _something_is_said(cls, messages: list[Message]) -> list[Message]:
        for message in messages:
            if message.role == "user" and not message.text().strip():
                raise ValueError("a user message is empty")
        return messages

    @property
    def wanted_tokens(self) -> int | None:
        """The length asked for; the newer name wins."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def wants_usage_chunk(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def wants_usage_in_every_chunk(self) -> bool:
        return self.wants_usage_chunk and bool(
            self.stream_options and self.stream_options.continuous_usage_stats
        )


class LoadRequest(_Body):
    """Body of POST /v1/load_lora_adapter."""

    lora_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}$")]
    lora_path: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
    pinned: bool | None = None  # ours: never unloaded to make room for another. vLLM ignores it


class UnloadRequest(_Body):
    """Body of POST /v1/unload_lora_adapter."""

    lora_name: Annotated[str, Field(min_length=1, max_length=128)]


B = TypeVar("B", bound=_Body)


def parse(kind: type[B], body: bytes) -> B:
    """The body as `kind`. Raises InvalidRequest, with the name of the first wrong parameter."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "json_invalid":
            raise InvalidRequest(
                f"the body is no JSON that we can read: {message}", code="invalid_json"
            ) from error
        param = ".".join(str(part) for part in first["loc"]) or None
        code = "missing_parameter" if first["type"] == "missing" else "invalid_value"
        raise InvalidRequest(f"{param or 'body'}: {message}", code=code, param=param) from error


def usage(*, prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def chunk(
    head: dict[str, Any],
    *,
    index: int,
    delta: dict[str, str],
    finish: str | None = None,
    counted: dict[str, int] | None = None,
) -> dict[str, Any]:
    """One frame of a stream. `head` holds id, created, model and fingerprint; `counted` is usage so far."""
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    frame = {**head, "object": "chat.completion.chunk", "choices": [choice]}
    return {**frame, "usage": counted} if counted else frame


def usage_chunk(head: dict[str, Any], counted: dict[str, int]) -> dict[str, Any]:
    return {**head, "object": "chat.completion.chunk", "choices": [], "usage": counted}


def completion(
    head: dict[str, Any], *, choices: list[tuple[str, str]], counted: dict[str, int]
) -> dict[str, Any]:
    """The whole answer. `choices` are (text, finish reason) in order of index."""
    return {
        **head,
        "object": "chat.completion",
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": text},
                "logprobs": None,
                "finish_reason": finish,
            }
            for index, (text, finish) in enumerate(choices)
        ],
        "usage": counted,
    }
