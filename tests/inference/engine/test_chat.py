"""What an answer looks like, whole and streamed."""

import json
from typing import Any

import openai
import pytest

pytestmark = pytest.mark.model
FIXED = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}


def test_a_whole_answer_has_the_protocols_shape(engine):
    body = engine.chat(**FIXED).json()
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["model"] == "tiny"
    assert body["system_fingerprint"] == engine.card()["ratchet"]["digest"]
    (choice,) = body["choices"]
    assert choice["index"] == 0
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 24
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 24


def test_a_stream_says_the_same_in_pieces(engine):
    whole = engine.text(**FIXED)
    first, *rest, usage = engine.stream(**FIXED, stream_options={"include_usage": True})
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(frame["choices"][0]["delta"].get("content", "") for frame in rest) == whole
    assert [frame["choices"][0]["finish_reason"] for frame in rest[:-1]] == [None] * (len(rest) - 1)
    assert rest[-1]["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 24
    assert len({(frame["id"], frame["model"]) for frame in [first, *rest, usage]}) == 1


def test_no_usage_chunk_unless_it_is_asked_for(engine):
    assert all(frame["choices"] for frame in engine.stream(**FIXED))


def test_each_chunk_counts_its_choices_tokens_when_asked(engine):
    options = {"include_usage": True, "continuous_usage_stats": True}
    *frames, last = engine.stream(n=2, max_tokens=6, ignore_eos=True, stream_options=options)
    for index in (0, 1):
        counts = [
            frame["usage"]["completion_tokens"] for frame in frames if frame["choices"][0]["index"] == index
        ]
        assert counts[0] == 0
        assert counts == sorted(counts)
        assert counts[-1] == 6
    assert last["usage"]["completion_tokens"] == 12


def test_streamed_characters_are_whole(engine):
    """The tiny model's texts are full of broken bytes; what was sent early still stands at the end."""
    for seed in range(2):
        body = {"temperature": 1.5, "seed": seed, "max_tokens": 60, "ignore_eos": True}
        pieces = [frame["choices"][0]["delta"].get("content", "") for frame in engine.stream(**body)]
        assert "".join(pieces) == engine.text(**body)


def test_greedy_and_seeded_answers_repeat(engine):
    greedy = [engine.text(**FIXED) for _ in range(2)]
    assert greedy[0] == greedy[1]
    drawn = [engine.text(temperature=1.0, seed=seed, max_tokens=24, ignore_eos=True) for seed in (7, 7, 8)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_without_a_seed_answers_differ(engine):
    assert len({engine.text(temperature=1.0, max_tokens=24, ignore_eos=True) for _ in range(3)}) == 3


def test_n_choices_differ_and_are_numbered(engine):
    body = engine.chat(n=4, temperature=1.0, seed=3, max_tokens=12, ignore_eos=True).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert len({choice["message"]["content"] for choice in body["choices"]}) == 4
    assert body["usage"]["completion_tokens"] == 48
    frames = engine.stream(n=2, max_tokens=4, ignore_eos=True)
    for index in (0, 1):
        mine = [frame["choices"][0] for frame in frames if frame["choices"][0]["index"] == index]
        assert mine[0]["delta"]["role"] == "assistant"
        assert mine[-1]["finish_reason"] == "length"


def test_a_stop_string_ends_the_answer_and_is_not_shown(engine):
    whole = engine.text(**FIXED)
    stop = whole[5:9]
    body = engine.chat(**FIXED, stop=["nowhere to be found", stop]).json()
    assert body["choices"][0]["message"]["content"] == whole[: whole.index(stop)]
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] < 24
    frames = engine.stream(**FIXED, stop=stop)
    text = "".join(frame["choices"][0]["delta"].get("content", "") for frame in frames)
    assert text == whole[: whole.index(stop)]


def test_the_end_token_ends_the_answer(engine):
    """With a high temperature the tiny model says its end token before long; it is counted and not shown."""
    choices = engine.chat(temperature=2.0, seed=1, max_tokens=200, n=8).json()["choices"]
    assert all("<|im_end|>" not in choice["message"]["content"] for choice in choices)
    assert "stop" in [choice["finish_reason"] for choice in choices]


def test_the_default_length_is_what_fits(engine):
    assert engine.chat(ignore_eos=True).json()["usage"]["total_tokens"] == engine.card()["max_model_len"]


def test_roles_and_parts_reach_the_template(engine):
    """`developer` is read as system, parts are joined; so these two are one prompt."""
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "you"}]
    one = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}]
    two = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi\nyou"}]
    three = [{"role": "user", "content": "Hi\nyou"}]
    texts = [engine.text(**FIXED, messages=messages) for messages in (one, two, three)]
    assert texts[0] == texts[1] != texts[2]
    talk = [*two, {"role": "assistant", "content": None}, {"role": "tool", "content": "4"}, three[0]]
    assert engine.chat(**FIXED, messages=talk).status_code == 200


def test_the_openai_client_is_satisfied(engine):
    client: Any = openai.OpenAI(base_url=f"{engine.url}/v1", api_key="engine-key")
    messages = [{"role": "user", "content": "Hi"}]
    answer = client.chat.completions.create(model="tiny", messages=messages, max_completion_tokens=4)
    assert answer.usage.completion_tokens <= 4
    stream = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=4, stream=True, stream_options={"include_usage": True}
    )
    assert [chunk.usage is not None for chunk in stream][-1]
    with pytest.raises(openai.NotFoundError) as refusal:
        client.chat.completions.create(model="gone", messages=messages)
    assert refusal.value.code == "model_not_found"
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_models_are_described_in_vllms_shape(engine):
    card = engine.card()
    assert card["object"] == "model"
    assert card["parent"] is None
    assert card["max_model_len"] == 512
    assert card["ratchet"]["merge_error"] is None
    assert card["ratchet"]["digest"].startswith("sha256:")
    assert card["ratchet"]["bytes"] > 300_000


def test_what_was_made_is_counted_under_vllms_names(engine):
    def made() -> float:
        lines = engine.http.get("/metrics").text.splitlines()
        return sum(
            float(line.split()[-1]) for line in lines if line.startswith("vllm:generation_tokens_total")
        )

    before = made()
    engine.text(**FIXED)
    assert made() == before + 24
    assert 'vllm:time_to_first_token_seconds_count{model_name="tiny"}' in engine.http.get("/metrics").text


def test_the_first_frame_comes_before_the_first_token(engine):
    """Admission is seen at once, also while a long prompt is being read."""
    body = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "sky " * 200}]}
    with engine.http.stream("POST", "/v1/chat/completions", json=body) as response:
        line = next(response.iter_lines())
    assert json.loads(line.removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"
