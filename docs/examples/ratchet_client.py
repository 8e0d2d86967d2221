"""A thin client of Ratchet's API: one file, httpx and nothing else. Copy it into your project.

    with Ratchet("https://ratchet.example", "rk_...") as ratchet:
        answer = ratchet.add_completion(messages=[...], text="...", version_label="gpt-x")
        ratchet.rate(answer["id"], 1, subject="user-17")

Every method answers with the JSON of the API as a dict, or raises RatchetError. What the server says is for
later (429, 503), and a connection that broke, is tried again. That is safe: each judgement carries an id of
its own and every other request an Idempotency-Key. All of it is described at /api/docs/ of your server.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

Json = dict[str, Any]
BATCH = 500  # judgements in one request, at most


class RatchetError(Exception):
    """A refusal. `code` is stable and for programs; the message is a sentence and says what to do."""

    def __init__(self, status: int, error: Json) -> None:
        self.status = status
        self.code = str(error.get("code", ""))
        self.param: str | None = error.get("param")
        self.request_id = str(error.get("request_id", ""))
        self.error = error  # `already_judged` also has the `id` of the first judgement
        super().__init__(f"{status} {self.code}: {error.get('message', '')}")


class Ratchet:
    """One project's API. A key belongs to a project, so no call names it."""

    def __init__(self, url: str, key: str, *, timeout: float = 30.0, tries: int = 4) -> None:
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/api/v1",
            headers={"Authorization": f"Bearer {key}"},
            timeout=timeout,
        )
        self._tries = tries

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    # --- what comes in -----------------------------------------------------------------------------------
    def add_prompts(self, prompts: Iterable[Json]) -> Json:
        """Send any number of prompts as one stream: `{"messages": [...], "external_id"?, "tags"?}` each."""
        lines = (json.dumps(prompt).encode() + b"\n" for prompt in prompts)
        return self._once("POST", "/prompts", content=lines, headers={"Content-Type": "application/x-ndjson"})

    def add_completion(self, *, text: str, version_label: str, **more: Any) -> Json:
        """An answer that your own stack made, to `messages=[...]` or to `prompt_id=`."""
        return self._call("POST", "/completions", json={"text": text, "version_label": version_label, **more})

    def rate(self, completion_id: str, value: int, **more: Any) -> Json:
        """-1 or +1, or a value of the scale `aspect=`; `reasons=`, `comment=`, `subject=`, `supersedes=`."""
        return self.judge({"kind": "rating", "completion_id": completion_id, "value": value, **more})

    def prefer(self, candidates: Sequence[str], ranks: Sequence[int], **more: Any) -> Json:
        """Answers to one prompt in the order in which they were shown; rank 1 is best, equal ranks tie."""
        said = {"kind": "preference", "candidates": list(candidates), "ranks": list(ranks)}
        return self.judge({**said, **more})

    def correct(self, completion_id: str, text: str, **more: Any) -> Json:
        """The whole better text."""
        return self.judge({"kind": "correction", "completion_id": completion_id, "text": text, **more})

    def judge(self, judgement: Json) -> Json:
        """One judgement of any kind."""
        return self._call("POST", "/feedback", json={"id": uuid7(), **judgement})

    def judge_all(self, judgements: Iterable[Json]) -> Iterator[Json]:
        """Any number of judgements; for each `{"status", "id"}` or `{"status", "error"}`, in their order."""
        waiting: list[Json] = []
        for judgement in judgements:
            waiting.append({"id": uuid7(), **judgement})
            if len(waiting) == BATCH:
                yield from self._batch(waiting)
                waiting = []
        if waiting:
            yield from self._batch(waiting)

    def retract(self, feedback_id: str) -> Json:
        """Take a judgement of this key back."""
        return self._call("DELETE", f"/feedback/{feedback_id}")

    # --- what goes out -----------------------------------------------------------------------------------
    def feedback(self, **filters: Any) -> Iterator[Json]:
        """All judgements, newest first; `kind=`, `completion_id=`, `subject=`, `since=`, `until=`, ..."""
        return self.items("/feedback", **filters)

    def items(self, path: str, **filters: Any) -> Iterator[Json]:
        """Every item of a list such as `/prompts` or `/versions`, page by page."""
        page = self._call("GET", path, params=filters)
        yield from page["items"]
        while page["next"]:
            page = self._call("GET", path, params={**filters, "cursor": page["next"]})
            yield from page["items"]

    def export(self, **filters: Any) -> Iterator[Json]:
        """The whole log of judgements as one stream, oldest first."""
        with self._http.stream("GET", "/feedback/export", params=filters) as response:
            if response.is_error:
                response.read()
                raise _error(response)
            for line in response.iter_lines():
                yield json.loads(line)

    # --- how -----------------------------------------------------------------------------------------------
    def _batch(self, items: list[Json]) -> list[Json]:
        results: list[Json] = self._call("POST", "/feedback/batch", json={"items": items})["results"]
        return results

    def _call(self, method: str, path: str, **request: Any) -> Json:
        """Until it is answered: by the same Idempotency-Key the server knows a request that it has done."""
        headers = {"Idempotency-Key": str(uuid.uuid4())} if method == "POST" else {}
        for attempt in range(1, self._tries + 1):
            try:
                return self._once(method, path, headers=headers, **request)
            except httpx.TransportError:
                if attempt == self._tries:
                    raise
                time.sleep(0.5 * 2**attempt)
            except _Later as later:
                if attempt == self._tries:
                    raise later.refusal from None
                time.sleep(later.seconds)
        raise AssertionError("tries is at least 1")

    def _once(self, method: str, path: str, **request: Any) -> Json:
        response = self._http.request(method, path, **request)
        if response.is_success:
            answer: Json = response.json()
            return answer
        refusal = _error(response)
        is_in_flight = refusal.code == "idempotency_in_flight"
        if response.status_code in (429, 503) or is_in_flight:
            raise _Later(refusal, float(response.headers.get("Retry-After", 1)))
        raise refusal


class _Later(RatchetError):
    """Not now; `seconds` is how long to wait."""

    def __init__(self, refusal: RatchetError, seconds: float) -> None:
        super().__init__(refusal.status, refusal.error)
        self.refusal, self.seconds = refusal, seconds


def _error(response: httpx.Response) -> RatchetError:
    """A proxy on the way may answer with something that is no JSON."""
    try:
        return RatchetError(response.status_code, response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return RatchetError(response.status_code, {"message": response.text[:200]})


def uuid7() -> str:
    """An id that sorts by its time, as the API wants it (in Python's own library from 3.14 on)."""
    number = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10))
    number = number & ~(0xF << 76) | 7 << 76  # version
    number = number & ~(0x3 << 62) | 2 << 62  # variant
    return str(uuid.UUID(int=number))
