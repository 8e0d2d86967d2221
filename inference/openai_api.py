"""The OpenAI protocol: GET /v1/models, one of them, and POST /v1/chat/completions, with a project's key.

Beyond the protocol, each choice and chunk carries `completion_id`, which feedback takes; `model` is always
`slug@vN`, the version that answers, and `system_fingerprint` its digest. Unknown parameters are ignored,
known ones are checked strictly, and whatever is wrong is a 400 before the stream begins.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from pydantic import BeforeValidator, Field

from inference.generation import Ask, Delta, Generation
from inference.relay import hub, prepare_ask
from inference.services.prompts import validate_messages
from inference.services.versions import ModelNotFound, current, held_versions
from inference.sse import EventStream
from projects.auth import authenticate_key
from projects.bodies import LenientBody, parse_body, parse_json, refuse_compressed
from projects.errors import Invalid, error_body, require_method
from projects.models import ApiKey
from projects.offload import in_database

MAX_CHOICES = 8
SIGN_OF_LIFE_SECONDS = 15.0
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256


def read_stops(value: object) -> list[object]:
    """OpenAI takes one text or a list of them. Raises ValueError."""
    stops = value if isinstance(value, list) else [value]
    if len(stops) > MAX_STOPS or not all(
        isinstance(stop, str) and 1 <= len(stop) <= MAX_STOP_CHARACTERS for stop in stops
    ):
        raise ValueError(
            f"must be a text, or a list of at most {MAX_STOPS}, of 1 to {MAX_STOP_CHARACTERS} characters each"
        )
    return stops


class StreamOptions(LenientBody):
    include_usage: bool | None = None


class ChatBody(LenientBody):
    """POST /v1/chat/completions."""

    model: Annotated[str, Field(min_length=1)]
    messages: list[Any]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[list[str], BeforeValidator(read_stops)] | None = None
    user: Annotated[str, Field(max_length=200)] | None = None
    store: bool | None = None  # false: the answer is never sampled for raters
    # What we cannot do is refused where it is demanded: an answer that pretends would break the caller.
    response_format: Any = None
    tool_choice: Any = None
    function_call: Any = None
    logprobs: Any = None
    modalities: Any = None

    def refuse_what_we_cannot(self) -> None:
        """Raises Invalid with a sentence that says what to do instead."""
        wanted = self.response_format
        if wanted is not None and not (isinstance(wanted, dict) and wanted.get("type") == "text"):
            raise Invalid(
                'response_format can only be {"type": "text"}: nothing here holds an answer to JSON. '
                "Ask for JSON in the messages, and check what comes.",
                param="response_format",
                code="unsupported_parameter",
            )
        for name, choice in (("tool_choice", self.tool_choice), ("function_call", self.function_call)):
            if choice not in (None, "none", "auto"):
                raise Invalid(
                    f'{name} can only be "none" or "auto": this model calls no tools, it answers in text.',
                    param=name,
                    code="unsupported_parameter",
                )
        if self.logprobs:
            raise Invalid(
                "logprobs can only be false: an engine here does not tell how likely its tokens were.",
                param="logprobs",
                code="unsupported_parameter",
            )
        if self.modalities not in (None, [], ["text"]):
            raise Invalid(
                'modalities can only be ["text"]: answers are text.',
                param="modalities",
                code="unsupported_parameter",
            )

    def sampling(self) -> dict[str, Any]:
        """What is asked of the engine and kept with the completion. Raises Invalid."""
        wanted = self.max_completion_tokens or self.max_tokens
        if wanted is not None and wanted > settings.CONTEXT_LENGTH:
            raise Invalid(
                f"max_tokens may be at most the context of {settings.CONTEXT_LENGTH} tokens, got {wanted}.",
                param="max_tokens" if self.max_completion_tokens is None else "max_completion_tokens",
            )
        values = {
            "max_tokens": wanted,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop": self.stop or None,
        }
        return {name: value for name, value in values.items() if value is not None}


@csrf_exempt
async def chat_completions(request: HttpRequest) -> HttpResponseBase:
    """Generate; the version is bound here and never changes in mid-answer."""
    began = time.monotonic()
    require_method(request, "POST")
    body, ask = await in_database(_admit, request)
    generation = await hub().start(ask, began=began)
    if not body.stream:
        await generation.wait()
        return _whole(generation)
    wants_usage = bool(body.stream_options and body.stream_options.include_usage)
    request_id = getattr(request, "request_id", "")
    return EventStream(
        _frames(generation, wants_usage=wants_usage, request_id=request_id),
        headers={"X-Ratchet-Version": ask.label},
    )


@csrf_exempt
async def models(request: HttpRequest) -> HttpResponseBase:
    """What this key can ask for: the project, and each version that the engines hold for it."""
    require_method(request, "GET", "HEAD")
    return JsonResponse({"object": "list", "data": await in_database(_model_list, request)})


@csrf_exempt
async def model(request: HttpRequest, name: str) -> HttpResponseBase:
    """One of them, by the name that a request would use."""
    require_method(request, "GET", "HEAD")
    found = next((one for one in await in_database(_model_list, request) if one["id"] == name), None)
    if found is None:
        raise ModelNotFound(
            f"There is no model {name[:80]}. GET /v1/models lists what can be asked.", param="model"
        )
    return JsonResponse(found)


def _admit(request: HttpRequest) -> tuple[ChatBody, Ask]:
    """Who asks, for what, of which version. Raises Problem; nothing is written yet."""
    key = authenticate_key(request, scope=ApiKey.Scope.GENERATE)
    refuse_compressed(request)
    try:
        body = parse_body(ChatBody, parse_json(request.body))
        body.refuse_what_we_cannot()
        messages = validate_messages(body.messages)
        sampling = body.sampling()
    except Invalid as problem:
        problem.status = 400  # the OpenAI protocol knows no 422
        raise
    first = next(message["content"] for message in messages if message["role"] == "user")
    ask = prepare_ask(
        project=key.project,
        model=body.model,
        sticky=body.user or f"{key.id}\n{first}",
        messages=messages,
        sampling=sampling,
        n=body.n or 1,
        subject=body.user or "",
        api_key=key,
        opted_out=body.store is False,
    )
    return body, ask


def _model_list(request: HttpRequest) -> list[dict[str, Any]]:
    key = authenticate_key(request, scope=ApiKey.Scope.GENERATE)
    champion = current(key.project).champion
    named = [(key.project.slug, champion)]
    named += [(version.label, version) for version in held_versions(key.project)]
    return [
        {
            "id": name,
            "object": "model",
            "created": int(version.created.timestamp()),
            "owned_by": "ratchet",
            "root": version.label,
            "system_fingerprint": version.digest,
        }
        for name, version in named
    ]


async def _frames(
    generation: Generation, *, wants_usage: bool, request_id: str
) -> AsyncGenerator[bytes, None]:
    """The answer as server-sent events: the role at once, text as it comes, the end when it is committed."""
    head = _head(generation) | {"object": "chat.completion.chunk"}
    if wants_usage:
        head["usage"] = None

    def chunk(index: int, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        completion_id = str(generation.choices[index].id)
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": None,
            "finish_reason": finish_reason,
            "completion_id": completion_id,
        }
        return _frame({**head, "completion_id": completion_id, "choices": [choice]})

    for choice in generation.choices:
        yield chunk(choice.index, {"role": "assistant", "content": ""})
    async with aclosing(generation.follow(sign_of_life=SIGN_OF_LIFE_SECONDS)) as events:
        async for event in events:
            if isinstance(event, Delta):
                yield chunk(event.index, {"content": event.text})
            else:
                yield b": waiting\n\n"
    if generation.problem is not None:
        yield _frame(error_body(generation.problem, request_id))
        return
    for choice in generation.choices:
        yield chunk(choice.index, {}, choice.finish_reason or "stop")
    if wants_usage:
        yield _frame({**head, "choices": [], "usage": _usage(generation)})
    yield b"data: [DONE]\n\n"


def _whole(generation: Generation) -> HttpResponseBase:
    if generation.problem is not None:
        raise generation.problem
    choices = [
        {
            "index": choice.index,
            "message": {"role": "assistant", "content": choice.text},
            "logprobs": None,
            "finish_reason": choice.finish_reason or "stop",
            "completion_id": str(choice.id),
        }
        for choice in generation.choices
    ]
    body = _head(generation) | {
        "object": "chat.completion",
        "choices": choices,
        "usage": _usage(generation),
    }
    return JsonResponse(body, headers={"X-Ratchet-Version": generation.ask.label})


def _head(generation: Generation) -> dict[str, Any]:
    first = str(generation.choices[0].id)
    return {
        "id": f"chatcmpl-{first}",
        "created": generation.created,
        "model": generation.ask.label,
        "system_fingerprint": generation.ask.version.digest,
        "completion_id": first,
    }


def _usage(generation: Generation) -> dict[str, int]:
    usage = generation.usage
    tokens_in = usage.tokens_in if usage else 0
    tokens_out = usage.tokens_out if usage else sum(choice.pieces for choice in generation.choices)
    return {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
    }


def _frame(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
