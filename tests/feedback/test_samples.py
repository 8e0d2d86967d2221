"""Imported prompts are answered by chosen versions and become comparisons: each once, people first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from feedback.models import SampleRequest, Task
from feedback.services import samples
from feedback.services.samples import request_samples, tick_samples
from feedback.services.sources import sweep_answers
from inference.models import Completion, Lease, Prompt, Version
from inference.services.leases import acquire_lease, renew_lease
from inference.services.prompts import record_prompt, split_for
from inference.services.reconciler import desired_versions
from projects.services import SYSTEM
from tests.cast import Cast, error_of
from tests.inference.stub_engine import StubEngine
from tests.processes import Process


@pytest.fixture
def stub(settings: Any) -> Iterator[StubEngine]:
    """An engine whose answers are numbered, so that no two say the same."""
    engine = StubEngine("A").start()
    engine.is_numbering = True
    settings.ENGINE_URLS = [engine.url]
    yield engine
    engine.stop()


@pytest.fixture
def v2(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> Version:
    """The stub serves any name, so nothing has to be loaded."""
    monkeypatch.setattr(samples, "load_on_all", lambda version: 0.0)
    return Version.objects.create(
        project=cast.project, number=2, kind="adapter", path="v/2", digest="sha256:2"
    )


def ask(cast: Cast, **body: Any) -> Any:
    return cast.post("samples", body, key=cast.manage_key)


def seen(cast: Cast, made: Any) -> dict[str, Any]:
    return dict(cast.get(f"samples/{made.json()['id']}").json())


def prompts(cast: Cast, count: int, part: str = "say") -> list[Prompt]:
    """For training, and their last word says what the engine does."""
    made: list[Prompt] = []
    for number in range(1000):
        messages = [{"role": "user", "content": f"Question {number}: {part}"}]
        if split_for(cast.project, messages) == "train" and len(made) < count:
            made.append(record_prompt(project=cast.project, messages=messages)[0])
    return made


def finish() -> None:
    for _ in range(20):
        if not tick_samples():
            return
    raise AssertionError("it never ends")


# --- it works --------------------------------------------------------------------------------------------
def test_two_versions_answer_and_raters_compare(cast: Cast, stub: StubEngine, v2: Version) -> None:
    asked = prompts(cast, 5)
    cast.prompt("A gate prompt: say", split="gate")
    made = ask(cast, versions=["kitchen@v1", 2], overlap=3)
    assert made.status_code == 201
    assert (made.json()["status"], made.json()["prompts"]) == ("running", 5)
    finish()
    row = seen(cast, made)
    assert (row["status"], row["done"], row["tasks"], row["alike"], row["refused"]) == (
        "finished",
        5,
        5,
        0,
        0,
    )
    assert row["finished"] is not None
    tasks = Task.objects.filter(source="import", kind="compare", overlap=3)
    assert {task.prompt for task in tasks} == set(asked)
    assert all(set(task.completions.values_list("version__number", flat=True)) == {1, 2} for task in tasks)
    assert {body["model"] for body in stub.asked} == {cast.v1.engine_name, "kitchen-v2"}
    assert "kitchen-v2" in desired_versions(), "an engine holds it while somebody samples from it"


def test_several_samples_of_one_version_are_ranked(cast: Cast, stub: StubEngine) -> None:
    prompts(cast, 2)
    made = ask(cast, versions=["v1"], samples=4)
    finish()
    assert [task.completions.count() for task in Task.objects.all()] == [4, 4]
    assert seen(cast, made)["tasks"] == 2
    again = ask(cast, versions=["v1"], samples=4)
    finish()
    assert (Completion.objects.count(), Task.objects.count()) == (8, 2), "what is there is not made again"
    assert seen(cast, again)["status"] == "finished"


def test_prompts_are_chosen_by_tag_and_limit(cast: Cast, stub: StubEngine, v2: Version) -> None:
    asked = prompts(cast, 6)
    for prompt in asked[2:]:
        prompt.tags = ["eggs"]
        prompt.save(update_fields=["tags"])
    made = ask(cast, versions=[1, 2], tags=["eggs", "ham"], limit=3)
    finish()
    assert seen(cast, made)["tasks"] == 3
    assert set(Task.objects.values_list("prompt", flat=True)) == {one.pk for one in asked[2:5]}


def test_answers_that_say_the_same_are_no_question(cast: Cast, stub: StubEngine, v2: Version) -> None:
    stub.is_numbering = False
    prompts(cast, 2)
    made = ask(cast, versions=[1, 2])
    finish()
    row = seen(cast, made)
    assert (row["status"], row["tasks"], row["alike"]) == ("finished", 0, 2)


# --- faults ----------------------------------------------------------------------------------------------
class Killed(BaseException):
    """What a worker that dies in the middle raises."""


@pytest.mark.parametrize("after", [1, 5, 9])
def test_nothing_is_doubled_when_the_worker_dies(
    cast: Cast, stub: StubEngine, v2: Version, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Whole answers stay and count; the lease lapses, and another worker goes on."""
    prompts(cast, 5)
    ask(cast, versions=[1, 2])
    calls: list[int] = []

    def dies(**more: Any) -> bool:
        calls.append(1)
        if len(calls) == after:
            raise Killed
        return renew_lease(**more)

    with monkeypatch.context() as patched:
        patched.setattr(samples, "renew_lease", dies)
        patched.setattr(samples, "release_lease", lambda **_: None)  # a killed process releases nothing
        with pytest.raises(Killed):
            finish()
    sweep_answers(project=cast.project)
    assert not Task.objects.exclude(source="import").exists(), "the sweep leaves what is in hand alone"
    assert tick_samples() == 0, "the dead worker's lease still runs"
    monkeypatch.setattr(samples, "acquire_lease", lambda **more: _lapsed(**more))
    finish()
    assert Completion.objects.count() == 10
    assert Task.objects.count() == 5
    assert SampleRequest.objects.get().status == "finished"


def _lapsed(**more: Any) -> Any:
    Lease.objects.all().delete()
    return acquire_lease(**more)


def test_a_worker_that_was_overtaken_writes_no_more(
    cast: Cast, stub: StubEngine, v2: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts(cast, 4)
    ask(cast, versions=[1, 2])
    monkeypatch.setattr(samples, "renew_lease", lambda **_: False)
    tick_samples()
    assert Completion.objects.count() == 1, "the answer that came as it woke"
    assert not Task.objects.exists()


def test_people_come_first(cast: Cast, stub: StubEngine, v2: Version, settings: Any) -> None:
    settings.SAMPLE_CONCURRENCY = 2
    prompts(cast, 1)
    made = ask(cast, versions=[1, 2])
    waiting = [cast.answer(cast.prompt("Hurry?"), state="running") for _ in range(2)]
    assert tick_samples() == 0
    assert "people are being answered" in seen(cast, made)["message"]
    assert not stub.asked
    Completion.objects.filter(pk=waiting[0].pk).update(state="failed")
    finish()
    assert seen(cast, made)["status"] == "finished"


@pytest.mark.parametrize(
    ("part", "said"), [("busy", "places"), ("starting", "does not answer"), ("absent", "loading")]
)
def test_an_engine_that_gives_nothing_is_waited_for(
    cast: Cast, stub: StubEngine, v2: Version, part: str, said: str
) -> None:
    prompts(cast, 1, part)
    made = ask(cast, versions=[1, 2])
    finish()
    row = seen(cast, made)
    assert row["status"] == "running"
    assert said in row["message"]
    assert not Completion.objects.exists()


def test_a_prompt_that_the_engine_refuses_is_left_out(cast: Cast, stub: StubEngine, v2: Version) -> None:
    prompts(cast, 2)
    prompts(cast, 1, "refuse")
    made = ask(cast, versions=[1, 2])
    finish()
    row = seen(cast, made)
    assert (row["status"], row["done"], row["tasks"], row["refused"]) == ("finished", 3, 2, 1)


def test_a_version_that_is_gone_fails_it_in_words(cast: Cast, stub: StubEngine, v2: Version) -> None:
    prompts(cast, 1)
    made = ask(cast, versions=[1, 2])
    Version.objects.filter(pk=v2.pk).update(status="erased")
    finish()
    row = seen(cast, made)
    assert (row["status"], row["message"]) == ("failed", "v2 is damaged or erased.")


# --- asking ----------------------------------------------------------------------------------------------
def test_it_can_be_called_off(cast: Cast, stub: StubEngine, v2: Version) -> None:
    prompts(cast, 2)
    made = ask(cast, versions=[1, 2])
    path = f"samples/{made.json()['id']}/cancel"
    assert cast.post(path, key=cast.key).status_code == 403
    assert cast.post(path, key=cast.foreign_key).status_code == 404
    assert cast.post(path, key=cast.manage_key).json()["status"] == "cancelled"
    assert error_of(cast.post(path, key=cast.manage_key))["code"] == "samples_over"
    finish()
    assert not stub.asked
    assert [row["id"] for row in cast.get("samples").json()["items"]] == [made.json()["id"]]
    assert cast.get("samples", key=cast.foreign_key).json()["items"] == []


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"versions": [1]}, "invalid_value", "samples"),
        ({"versions": [1, 1]}, "invalid_value", "versions"),
        ({"versions": [1, 2], "samples": 5}, "invalid_value", "samples"),
        ({"versions": [1, 9]}, "version_not_found", "versions"),
        ({"versions": ["garden@v1", 1]}, "version_not_found", "versions"),
        ({"versions": [1, 3]}, "invalid_value", "versions"),
        ({"versions": []}, "invalid_value", "versions"),
        ({"versions": [1, 2], "limit": 0}, "invalid_value", "limit"),
        ({"versions": [1, 2], "tags": ["ham"]}, "no_prompts", "tags"),
        ({"versions": [1, 2], "kind": "rate"}, "unknown_field", "kind"),
    ],
)
def test_what_makes_no_sense_is_said(
    cast: Cast, v2: Version, body: dict[str, Any], code: str, param: str
) -> None:
    Version.objects.create(project=cast.project, number=3, kind="reward", path="v/3", digest="sha256:3")
    prompts(cast, 1)
    error = error_of(ask(cast, **body))
    assert (error["code"], error["param"]) == (code, param)
    assert not SampleRequest.objects.exists()


def test_without_a_prompt_or_a_temperature_there_is_nothing_to_ask(cast: Cast) -> None:
    assert error_of(ask(cast, versions=[1], samples=2))["code"] == "no_prompts"
    prompts(cast, 1)
    cast.project.temperature = 0.0
    cast.project.save(update_fields=["temperature"])
    assert "temperature 0" in error_of(ask(cast, versions=[1], samples=2))["message"]


def test_a_service_does_the_same_for_pages(cast: Cast, v2: Version) -> None:
    asked: Sequence[Version] = [cast.v1, v2]
    prompts(cast, 3)
    row = request_samples(project=cast.project, versions=asked, actor=SYSTEM, limit=2)
    assert (row.prompts, row.candidates, str(row)) == (2, 2, "0 of 2 prompts by kitchen@v1, kitchen@v2")


@pytest.mark.model
def test_a_real_engine_answers(cast: Cast, engine: Process) -> None:
    prompts(cast, 3)
    made = ask(cast, versions=["v1"], samples=2)
    finish()
    row = seen(cast, made)
    assert (row["status"], row["done"], row["tasks"] + row["alike"]) == ("finished", 3, 3)
    assert row["tasks"] >= 2
    assert Completion.objects.filter(version=cast.v1, tokens_out__gt=0).count() == 6
