"""The contract with the real `openai` client and on the wire. The engine is a stub: its answers are known."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from inference.models import Completion, Deployment, Prompt, Version
from projects.services import SYSTEM, create_api_key
from tests.cast import Cast
from tests.inference.stub_engine import StubEngine
from tests.processes import Process

TEXT = "word0 word1 word2 word3 "


def asking(part: str = "say", **more: Any) -> dict[str, Any]:
    return {"model": "kitchen", "messages": [{"role": "user", "content": f"Please: {part}"}], **more}


@pytest.fixture
def client(fault_web: Process, cast: Cast) -> Any:
    return OpenAI(base_url=f"{fault_web.url}/v1", api_key=cast.key, max_retries=0, timeout=30)


def test_whole_streamed_and_raw(client: Any, cast: Cast) -> None:
    whole = client.chat.completions.create(**asking(n=2))
    assert [choice.message.content for choice in whole.choices] == [TEXT, TEXT]
    assert len({choice.completion_id for choice in whole.choices}) == 2
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (5, 8)
    raw = client.chat.completions.with_raw_response.create(**asking())
    assert raw.headers["X-Ratchet-Version"] == "kitchen@v1"
    assert raw.headers["X-Request-Id"]
    assert raw.parse().choices[0].message.content == TEXT
    with client.chat.completions.with_streaming_response.create(**asking(stream=True)) as response:
        assert list(response.iter_lines())[-2:] == ["data: [DONE]", ""]
    with client.chat.completions.create(**asking(stream=True)) as stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == TEXT
    assert Completion.objects.filter(digest=cast.v1.digest, state="finished").count() == 5


def test_asynchronously(fault_web: Process, cast: Cast) -> None:
    async def scene() -> tuple[str, str]:
        async with AsyncOpenAI(base_url=f"{fault_web.url}/v1", api_key=cast.key, max_retries=0) as client:
            whole: Any = await client.chat.completions.create(**asking())
            stream: Any = await client.chat.completions.create(**asking(stream=True))
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            assert (await client.models.retrieve("kitchen@v1")).id == "kitchen@v1"
            return whole.choices[0].message.content, "".join(pieces)

    assert asyncio.run(scene()) == (TEXT, TEXT)


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["kitchen", "kitchen@v1"]
    assert client.models.retrieve("kitchen").owned_by == "ratchet"
    with pytest.raises(openai.NotFoundError, match="There is no model garden"):
        client.models.retrieve("garden")


def test_errors_are_the_clients_exceptions(client: Any, cast: Cast) -> None:
    _, reader = create_api_key(project=cast.project, name="r", scopes=["data:read"], actor=SYSTEM)
    for part, key, model, kind in (
        ("say", "nothing", "kitchen", openai.AuthenticationError),
        ("say", reader, "kitchen", openai.PermissionDeniedError),
        ("say", cast.key, "kitchen@v9", openai.NotFoundError),
        ("refuse", cast.key, "kitchen", openai.BadRequestError),
        ("busy", cast.key, "kitchen", openai.RateLimitError),
        ("starting", cast.key, "kitchen", openai.InternalServerError),
    ):
        for is_streamed in (False, True):
            with pytest.raises(kind) as raised:
                body = asking(part, stream=is_streamed) | {"model": model}
                client.with_options(api_key=key).chat.completions.create(**body)
            assert type(raised.value) is kind
            assert raised.value.code
            assert raised.value.request_id == raised.value.response.headers["X-Request-Id"]


CANNOT: dict[str, tuple[dict[str, Any], str, str]] = {
    "JSON": ({"response_format": {"type": "json_object"}}, "response_format", "Ask for JSON"),
    "a schema": ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format", "JSON"),
    "a tool, by force": ({"tool_choice": "required"}, "tool_choice", "calls no tools"),
    "a tool's answer": (
        {"messages": [{"role": "tool", "content": "4", "tool_call_id": "x"}]},
        "messages.0.role",
        "calls no tools",
    ),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages.0.content",
        "image_url, and this model reads text alone",
    ),
    "log probabilities": ({"logprobs": True, "top_logprobs": 2}, "logprobs", "does not tell how likely"),
    "speech": ({"modalities": ["text", "audio"]}, "modalities", "answers are text"),
    "five stops": ({"stop": list("abcde")}, "stop", "a list of at most 4"),
    "an empty stop": ({"stop": ["a", ""]}, "stop", "of 1 to 256 characters"),
}


def test_what_it_cannot_do_is_said_in_a_sentence(client: Any, stubs: tuple[StubEngine, StubEngine]) -> None:
    for name, (change, param, sentence) in CANNOT.items():
        with pytest.raises(openai.BadRequestError, match=sentence) as raised:
            client.chat.completions.create(**{**asking(), **change})
        assert raised.value.param == param, name
        is_known = param in ("response_format", "tool_choice", "logprobs", "modalities")
        assert (raised.value.code == "unsupported_parameter") is is_known, name
    assert not any(stub.asked for stub in stubs)


def test_what_it_need_not_know_is_ignored_and_the_rest_reaches_the_engine(
    client: Any, stubs: tuple[StubEngine, StubEngine]
) -> None:
    messages: list[Any] = [
        {"role": "developer", "content": "Be kind."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Two"}, {"type": "text", "text": "lines: say"}],
        },
    ]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    answer = client.chat.completions.create(
        model="kitchen",
        messages=messages,
        tools=[tool],
        tool_choice="auto",
        response_format={"type": "text"},
        seed=7,
        stop="\n\n",
        logprobs=False,
        max_completion_tokens=9,
        top_p=0.5,
        metadata={"a": "b"},
        store=False,
        extra_body={"something_new": [1]},
    )
    assert answer.choices[0].message.content == TEXT
    (body,) = (body for stub in stubs for body in stub.asked)
    kept = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Two\nlines: say"}]
    assert body["messages"] == kept
    assert (body["seed"], body["stop"], body["max_tokens"], body["top_p"]) == (7, ["\n\n"], 9, 0.5)
    assert not {"tools", "metadata", "something_new", "response_format"} & set(body)
    assert Prompt.objects.get().messages == kept
    row: Any = Completion.objects.get()
    assert row.sampling == {"max_tokens": 9, "top_p": 0.5, "seed": 7, "stop": ["\n\n"]}
    assert (row.tokens_in, row.tokens_out, row.finish_reason) == (5, 4, "stop")
    assert row.ttft_ms <= row.total_ms
    assert row.gap_p99_ms >= row.gap_mean_ms >= 0


@pytest.mark.parametrize("wants_usage", [False, True])
def test_the_stream_on_the_wire(fault_web: Process, cast: Cast, wants_usage: bool) -> None:
    body = asking(n=2, stream=True, stream_options={"include_usage": wants_usage})
    url = f"{fault_web.url}/v1/chat/completions"
    response = httpx.post(url, json=body, headers=cast.auth(), timeout=30, trust_env=False)
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.headers["Cache-Control"] == "no-store"
    *frames, end = response.text.split("\n\n")
    assert end == "", "each frame ends with an empty line"
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
    assert frames.pop() == "data: [DONE]"
    chunks = [json.loads(frame[6:]) for frame in frames]
    rows = {row.index: row for row in Completion.objects.all()}
    for chunk in chunks:
        assert chunk["id"] == f"chatcmpl-{rows[0].id}"
        assert (chunk["object"], chunk["model"]) == ("chat.completion.chunk", "kitchen@v1")
        assert chunk["system_fingerprint"] == cast.v1.digest
        assert ("usage" in chunk) is wants_usage
    if wants_usage:
        last = chunks.pop()
        assert (last["choices"], last["usage"]["completion_tokens"], last["usage"]["total_tokens"]) == (
            [],
            8,
            13,
        )
        assert all(chunk["usage"] is None for chunk in chunks)
    for index, row in rows.items():
        mine = [chunk for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert {chunk["completion_id"] for chunk in mine} == {str(row.id)}
        assert mine[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in mine) == row.text
        assert [chunk["choices"][0]["finish_reason"] for chunk in mine][-1] == "stop"
        assert all(chunk["choices"][0]["finish_reason"] is None for chunk in mine[:-1])


def test_a_canary_has_its_share_and_keeps_its_users(client: Any, cast: Cast) -> None:
    v2 = Version.objects.create(project=cast.project, number=2, kind="adapter", digest="sha256:2")
    Deployment.objects.create(
        project=cast.project, number=2, kind="canary", champion=cast.v1, canary=v2, canary_share=0.3
    )

    def version_for(text: str = "say", **more: Any) -> str:
        return str(client.chat.completions.create(**asking(text, **more)).model)

    served = {user: version_for(user=user) for user in (f"visitor-{number}" for number in range(60))}
    assert 8 <= list(served.values()).count("kitchen@v2") <= 28
    for user in list(served)[:10]:
        assert version_for("another say", user=user) == served[user], "whatever they ask"
    first = {text: version_for(text) for text in (f"{number} say" for number in range(20))}
    assert set(first.values()) == {"kitchen@v1", "kitchen@v2"}
    for text, version in list(first.items())[:6]:
        question = {"role": "user", "content": f"Please: {text}"}
        turns = [question, {"role": "assistant", "content": "So."}, {"role": "user", "content": "And: say"}]
        answer = client.chat.completions.create(model="kitchen", messages=turns)
        assert answer.model == version, "a conversation stays with its version"
