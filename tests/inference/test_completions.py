"""Completions end once, are reaped when their process died, and are made elsewhere or in bulk."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from inference.client import EngineRefused
from inference.models import Completion
from inference.services.completions import (
    REAP_SECONDS,
    finish_completion,
    record_completion,
    sample_completion,
    sample_completions,
    touch_completions,
)
from inference.stats import percentile, version_latency
from inference.tasks import reap_completions
from projects.errors import Invalid, Problem, TooMany, Unavailable
from tests.cast import Cast
from tests.inference.stub_engine import StubEngine

Stubs = tuple[StubEngine, StubEngine]


def test_the_first_end_stands(cast: Cast) -> None:
    completion = cast.answer(cast.prompt(), state="running")
    twin = Completion.objects.get(id=completion.id)
    assert finish_completion(completion=completion, state="stopped", text="So", finish_reason="cancelled")
    assert not finish_completion(completion=twin, state="finished", text="So far", finish_reason="stop")
    completion.refresh_from_db()
    assert (completion.state, completion.text) == ("stopped", "So")
    assert completion.finished is not None


def test_what_no_process_makes_any_more_is_failed_with_its_text(cast: Cast) -> None:
    dead, alive, done = (
        cast.answer(cast.prompt(), state=state) for state in ("running", "running", "finished")
    )
    touch_completions({dead.id: "So far", alive.id: "So", done.id: "Nothing"})
    long_ago = timezone.now() - timedelta(seconds=REAP_SECONDS + 1)
    Completion.objects.filter(id__in=[dead.id, alive.id, done.id]).update(touched=long_ago)
    touch_completions({alive.id: "So good"})
    reap_completions()
    rows = {row.id: (row.state, row.text) for row in Completion.objects.all()}
    assert rows == {
        dead.id: ("failed", "So far"),
        alive.id: ("running", "So good"),
        done.id: ("finished", done.text),
    }
    dead.refresh_from_db()
    assert (dead.error, dead.is_judgeable) == ("The process that made this answer died.", False)


def test_answers_made_elsewhere(cast: Cast) -> None:
    prompt = cast.prompt()
    made = record_completion(project=cast.project, prompt=prompt, text="So.", version_label="gpt-old")
    assert (made.state, made.version, made.is_judgeable) == ("finished", None, True)
    for change in (
        {"text": " "},
        {"text": "a\x00"},
        {"text": "x" * 200_001},
        {"version_label": "kitchen@v1"},
        {"version_label": ""},
        {"version_label": "x" * 101},
        {"prompt": cast.prompt(project=cast.garden)},
    ):
        values: dict[str, Any] = {"prompt": prompt, "text": "So.", "version_label": "gpt-old", **change}
        with pytest.raises(Invalid):
            record_completion(project=cast.project, **values)
    assert Completion.objects.count() == 1


@pytest.fixture
def stub(stubs: Stubs, settings: Any) -> StubEngine:
    settings.ENGINE_URLS = [stubs[0].url]
    return stubs[0]


def test_a_sample_is_a_finished_row(cast: Cast, stub: StubEngine) -> None:
    prompt = cast.prompt("Please: say", split=None)
    made = sample_completion(project=cast.project, prompt=prompt, version=cast.v1, sampling={"max_tokens": 9})
    assert (made.state, made.text, made.tokens_in, made.tokens_out) == (
        "finished",
        "word0 word1 word2 word3 ",
        5,
        4,
    )
    assert made.ttft_ms is not None
    assert made.total_ms is not None
    assert 0 < made.ttft_ms <= made.total_ms
    assert stub.asked[0]["max_tokens"] == 9
    assert stub.asked[0]["model"] == cast.v1.engine_name


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("die", Unavailable),
        ("garbage", Unavailable),
        ("endless", Unavailable),
        ("busy", TooMany),
        ("starting", Unavailable),
        ("absent", Unavailable),
        ("refuse", Problem),
    ],
)
def test_a_failed_sample_writes_nothing(cast: Cast, stub: StubEngine, part: str, kind: type[Problem]) -> None:
    prompt = cast.prompt(f"Please: {part}", split=None)
    with pytest.raises(kind):
        sample_completion(project=cast.project, prompt=prompt, version=cast.v1, sampling={})
    assert not Completion.objects.exists()


def test_many_samples_are_asked_at_once(cast: Cast, stub: StubEngine) -> None:
    parts = ["say", "refuse"] * 4
    prompts = [cast.prompt(f"{number}: {part}", split=None) for number, part in enumerate(parts)]
    results = list(sample_completions(project=cast.project, prompts=prompts, version=cast.v1, sampling={}))
    made = [completion for completion, _ in results if completion is not None]
    errors = [error for _, error in results if error is not None]
    assert {completion.prompt_id for completion in made} == {prompt.id for prompt in prompts[::2]}
    assert [type(error) for error in errors] == [EngineRefused] * 4
    assert list(sample_completions(project=cast.project, prompts=[], version=cast.v1, sampling={})) == []


@pytest.mark.unit
def test_percentiles_by_nearest_rank() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert percentile([7.0], 0.01) == 7
    assert percentile([], 0.5) is None


def test_latency_by_version(cast: Cast) -> None:
    prompt = cast.prompt()
    for _ in range(3):
        cast.answer(prompt, "x" * 40)  # 10 tokens; first at 80 ms, all at 400 ms
    cast.answer(prompt, state="failed")
    cast.answer(prompt, state="running")
    record_completion(project=cast.project, prompt=prompt, text="So.", version_label="gpt-old")
    cast.answer(cast.prompt(project=cast.garden))
    old = cast.answer(prompt)
    Completion.objects.filter(id=old.id).update(created=timezone.now() - timedelta(hours=2))
    (row,) = version_latency(cast.project, timezone.now() - timedelta(hours=1))
    assert (row.version, row.completions, row.failed) == ("kitchen@v1", 3, 1)
    assert row.tokens == 30 + 7
    assert (row.ttft_ms_p50, row.ttft_ms_p99, row.total_ms_p50, row.gap_ms_p99) == (80, 80, 400, 20)
    assert row.tokens_per_second == pytest.approx(9 / 0.32)
    assert row.completions_per_minute == pytest.approx(3 / 60, rel=0.01)
    assert row.as_dict()["version"] == "kitchen@v1"
