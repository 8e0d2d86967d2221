"""The one client of an engine, in vLLM's dialect of the OpenAI protocol: our engine and vLLM alike.

No Django and no torch here. Synchronous calls are for workers and commands; `open_stream` is for the web.
Every failure is an EngineError that says whether another try elsewhere makes sense:

    EngineUnavailable   nothing was made: it refuses connections, is starting, or answers 5xx
    EngineSilent        of these: it takes connections and says nothing
    EngineBusy          it has no room just now (429)
    ModelMissing        it does not hold the version that was asked for (404)
    EngineRefused       the request itself is wrong (other 4xx); trying elsewhere is useless
    EngineBroken        it accepted, and then died, fell silent or sent what is no answer
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

CONNECT_SECONDS = (
    5.0  # a refused connection fails at once; this is for a host that is gone, on a busy machine
)
MAX_EVENT_BYTES = 1_000_000  # a line longer than this is no event of ours


class EngineError(Exception):
    """Something went wrong between us and an engine; `message` can be shown to a caller."""

    def __init__(self, message: str, *, code: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param


class EngineUnavailable(EngineError):
    pass


class EngineSilent(EngineUnavailable):
    pass


class EngineBusy(EngineError):
    pass


class EngineRefused(EngineError):
    pass


class ModelMissing(EngineRefused):
    pass


class EngineBroken(EngineError):
    pass


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """One entry of GET /v1/models. What our engine says under `ratchet` is None where vLLM serves."""

    name: str
    root: str | None = None  # the folder that it was loaded from
    digest: str | None = None
    merge_error: float | None = None  # relative to the size of the update; above 1 the update is lost
    logit_shift: float | None = None  # how far its logits are from the base's
    dtype: str | None = None
    in_flight: int | None = None  # answers that run or wait under this name
    is_base: bool = False
    is_pinned: bool | None = None  # never unloaded to make room for another


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One event of an answer. `tokens` counts this choice's tokens so far, where the engine says so."""

    index: int
    text: str = ""
    finish_reason: str | None = None
    tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of the whole request, all choices together."""

    tokens_in: int
    tokens_out: int


@dataclass(kw_only=True)
class Answer:
    """A whole answer, with times in milliseconds measured here."""

    text: str
    finish_reason: str
    tokens_in: int | None
    tokens_out: int | None
    ttft_ms: float | None
    total_ms: float
    gaps_ms: list[float] = field(default_factory=list)


class EngineClient:
    """Speaks to one engine at `url`. Safe to share between threads."""

    def __init__(self, url: str, *, api_key: str = "") -> None:
        self.url = url.rstrip("/")
        self.headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(
            base_url=self.url,
            headers=self.headers,
            timeout=httpx.Timeout(10.0, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=2.0),
            trust_env=False,  # engines are never behind the proxy of a desktop
            verify=certificates_for(url),
        )

    def is_healthy(self, *, timeout: float = 5.0) -> bool:
        """True when GET /health says so; a starting engine answers 503."""
        try:
            return self._http.get("/health", timeout=timeout).is_success
        except httpx.HTTPError:
            return False

    def is_alive(self, *, timeout: float = 5.0) -> bool:
        """True when it says anything at all: one that is busy or starting does."""
        try:
            self._http.get("/health", timeout=timeout)
        except httpx.HTTPError:
            return False
        return True

    def models(self, *, timeout: float = 10.0) -> dict[str, ModelCard]:
        """What the engine serves, by name."""
        body = self._call("GET", "/v1/models", timeout=timeout)
        try:
            entries = body["data"]
            return {entry["id"]: _card(entry) for entry in entries}
        except (KeyError, TypeError, AttributeError) as error:
            raise EngineBroken(f"{self.url} answers /v1/models with something else") from error

    def load(self, name: str, path: str, *, pinned: bool | None = None, timeout: float = 120.0) -> None:
        """Make the adapter at `path` answer under `name`. Returns when it does.

        `pinned` says whether our engine may unload it to make room for others; None leaves that as it is.
        """
        body: dict[str, Any] = {"lora_name": name, "lora_path": path}
        if pinned is not None:
            body["pinned"] = pinned
        response = self._send("POST", "/v1/load_lora_adapter", body, timeout=timeout)
        if response.status_code == 500:  # vLLM, of files that its worker cannot read; it serves on
            raise EngineRefused(error_of(response).message)
        if not response.is_success:
            raise error_of(response)

    def unload(self, name: str, *, timeout: float = 60.0) -> None:
        self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name}, timeout=timeout)

    def complete(
        self,
        *,
        model: str,
        messages: list[dict[str, Any]],
        sampling: dict[str, Any],
        timeout: float = 600.0,
        silence: float = 60.0,
    ) -> Answer:
        """One whole answer. It is streamed all the same, so that its times are known and silence is seen.

        `timeout` is for all of it, `silence` for the longest wait for anything, in seconds.
        """
        began = time.monotonic()
        text, finish, tokens, usage, times = "", None, None, None, list[float]()
        body = chat_body(model=model, messages=messages, sampling=sampling, n=1)
        limits = httpx.Timeout(min(timeout, silence), connect=CONNECT_SECONDS)
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body, timeout=limits) as response:
                if response.status_code != 200:
                    response.read()
                    raise error_of(response)
                for event in _events(response.iter_lines()):
                    if isinstance(event, Usage):
                        usage = event
                        continue
                    if event.text:
                        times.append(time.monotonic())
                        text += event.text
                    tokens = event.tokens if event.tokens is not None else tokens
                    finish = event.finish_reason or finish
                    if time.monotonic() - began > timeout:
                        raise EngineBroken(f"the answer was not finished after {timeout:.0f} s")
        except httpx.HTTPError as error:
            raise _transport_error(self.url, error, is_begun=bool(times)) from error
        if finish is None:
            raise EngineBroken("the engine ended the answer without a finish reason")
        return Answer(
            text=text,
            finish_reason=finish,
            tokens_in=usage.tokens_in if usage else None,
            tokens_out=usage.tokens_out if usage else tokens,
            ttft_ms=(times[0] - began) * 1000 if times else None,
            total_ms=(time.monotonic() - began) * 1000,
            gaps_ms=[(after - before) * 1000 for before, after in pairwise(times)],
        )

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, timeout: float
    ) -> dict[str, Any]:
        response = self._send(method, path, body, timeout=timeout)
        if not response.is_success:
            raise error_of(response)
        try:
            value = response.json()
        except ValueError:
            return {}  # vLLM answers an unload with a plain sentence
        return value if isinstance(value, dict) else {}

    def _send(self, method: str, path: str, body: dict[str, Any] | None, *, timeout: float) -> httpx.Response:
        limits = httpx.Timeout(timeout, connect=CONNECT_SECONDS)
        try:
            return self._http.request(method, path, json=body, timeout=limits)
        except httpx.HTTPError as error:
            raise _transport_error(self.url, error, is_begun=False) from error


def certificates_for(*urls: str) -> bool:
    """Whether certificates are to be read at all: it takes 0.1 s, and most engines speak in the clear."""
    return any(url.startswith("https:") for url in urls)


class EngineStream:
    """An accepted request. Iterate it for Pieces and one Usage; leaving its context cancels the rest."""

    def __init__(self, url: str, response: httpx.Response) -> None:
        self.url = url
        self._response = response

    async def __aiter__(self) -> AsyncIterator[Piece | Usage]:
        is_done = False
        try:
            async for line in _lines(self._response.aiter_bytes()):
                event = _parse_line(line)
                if event is _DONE:
                    is_done = True
                elif isinstance(event, list):
                    for one in event:
                        yield one
        except httpx.HTTPError as error:
            raise EngineBroken("the engine went away in the middle of the answer") from error
        if not is_done:
            raise EngineBroken("the engine went away in the middle of the answer")


@asynccontextmanager
async def open_stream(
    http: httpx.AsyncClient, url: str, *, headers: dict[str, str], body: dict[str, Any], timeout: float
) -> AsyncIterator[EngineStream]:
    """Ask the engine at `url`; enters when it has accepted. Raises EngineError when it does not.

    `timeout` is for the acceptance, in seconds. Deadlines of the answer itself are the caller's.
    """
    limits = httpx.Timeout(None, connect=CONNECT_SECONDS)
    request = http.build_request(
        "POST", f"{url.rstrip('/')}/v1/chat/completions", json=body, headers=headers, timeout=limits
    )
    try:
        async with asyncio.timeout(timeout):
            response = await http.send(request, stream=True)
    except httpx.HTTPError as error:
        raise _transport_error(url, error, is_begun=False) from error
    except TimeoutError as error:
        raise EngineSilent(f"the engine at {url} did not answer in time") from error
    try:
        if response.status_code != 200:
            try:
                await response.aread()
            except httpx.HTTPError as error:
                raise _transport_error(url, error, is_begun=False) from error
            raise error_of(response)
        yield EngineStream(url, response)
    finally:
        await response.aclose()


def chat_body(
    *, model: str, messages: list[dict[str, Any]], sampling: dict[str, Any], n: int
) -> dict[str, Any]:
    """The request as every engine takes it; None means that the engine's default holds."""
    wanted = {name: value for name, value in sampling.items() if value is not None}
    if n > 1 and wanted.get("temperature") == 0:
        # vLLM refuses several greedy answers. The likeliest token alone is the same by another name.
        wanted |= {"temperature": 1.0, "top_k": 1}
    return {
        "model": model,
        "messages": messages,
        "n": n,
        "stream": True,
        # vLLM counts each choice's tokens in its chunks when asked; who does not know it ignores it.
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        **wanted,
    }


def error_of(response: httpx.Response) -> EngineError:
    """The typed error that an answer other than 200 means."""
    message, code, param = f"the engine answered {response.status_code}", "", None
    try:
        body = response.json()
        inner = body.get("error", body) if isinstance(body, dict) else {}
        if isinstance(inner, dict):
            message = str(inner.get("message") or message)
            code = inner["code"] if isinstance(inner.get("code"), str) else ""
            param = inner["param"] if isinstance(inner.get("param"), str) else None
    except ValueError:
        pass  # no JSON: the status says enough
    status = response.status_code
    if status == 404:
        return ModelMissing(message, code=code, param=param)
    if status == 429:
        return EngineBusy(message, code=code)
    if status in (401, 403):
        return EngineUnavailable("the engine does not accept our ENGINE_API_KEY", code="engine_key")
    if (400 <= status < 500 and status != 408) or status == 507:  # 507: no memory for another version
        return EngineRefused(message, code=code, param=param)
    return EngineUnavailable(message, code=code)


def _transport_error(url: str, error: httpx.HTTPError, *, is_begun: bool) -> EngineError:
    if is_begun:
        return EngineBroken("the engine went away in the middle of the answer")
    if isinstance(error, httpx.TimeoutException):
        return EngineSilent(f"the engine at {url} did not answer in time")
    return EngineUnavailable(f"the engine at {url} cannot be reached")


def _card(entry: dict[str, Any]) -> ModelCard:
    ours = entry.get("ratchet") or {}
    return ModelCard(
        name=entry["id"],
        root=entry.get("root"),
        digest=ours.get("digest"),
        merge_error=ours.get("merge_error"),
        logit_shift=ours.get("logit_shift"),
        dtype=ours.get("dtype"),
        in_flight=ours.get("running", 0) + ours.get("waiting", 0) if ours else None,
        is_base=not entry.get("parent"),
        is_pinned=ours.get("pinned"),
    )


def storable(text: str) -> str:
    """The text without NUL and half characters, which a model can say and a database cannot keep."""
    return _UNSTORABLE.sub("\ufffd", text)


_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_DONE = object()


async def _lines(parts: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The lines of a stream of bytes. Raises EngineBroken for one that is longer than any event of ours."""
    left = b""
    async for part in parts:
        *whole, left = (left + part).split(b"\n") if left else part.split(b"\n")
        if len(left) > MAX_EVENT_BYTES:
            raise EngineBroken("the engine sent something that is no answer")
        for line in whole:
            if line:
                yield line.decode(errors="replace")


def _events(lines: Iterator[str]) -> Iterator[Piece | Usage]:
    """The events of a synchronous stream. Raises EngineBroken when it ends without [DONE]."""
    for line in lines:
        event = _parse_line(line)
        if event is _DONE:
            return
        if isinstance(event, list):
            yield from event
    raise EngineBroken("the engine went away in the middle of the answer")


def _parse_line(line: str) -> list[Piece | Usage] | object | None:
    """One line of the stream: events, _DONE, or None for what says nothing. Raises EngineBroken."""
    if not line.startswith("data:"):
        return None
    data = line[5:].strip()
    if data == "[DONE]":
        return _DONE
    try:
        if len(data) > MAX_EVENT_BYTES:
            raise ValueError("too long")
        body = json.loads(data)
        if "error" in body:
            error = body["error"]
            raise EngineBroken(
                str(error.get("message", "the engine failed")), code=str(error.get("code", ""))
            )
        return _pieces(body)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise EngineBroken("the engine sent something that is no answer") from error


def _pieces(body: dict[str, Any]) -> list[Piece | Usage]:
    events: list[Piece | Usage] = []
    usage = body.get("usage")
    choices = body["choices"]
    for choice in choices:
        text = choice.get("delta", {}).get("content") or ""
        if not isinstance(text, str):
            raise TypeError("content is no text")
        tokens = int(usage["completion_tokens"]) if usage else None
        finish = choice.get("finish_reason")
        if text or finish or tokens is not None:
            index = int(choice["index"])
            events.append(Piece(index=index, text=storable(text), finish_reason=finish, tokens=tokens))
    if usage and not choices:
        events.append(
            Usage(tokens_in=int(usage["prompt_tokens"]), tokens_out=int(usage["completion_tokens"]))
        )
    return events
