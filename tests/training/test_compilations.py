"""Previews and compilations as jobs: progress is seen, a way out is open, and a dead worker is replaced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from projects.services import Actor
from tests.cast import Cast, error_of
from tests.training.conftest import judged
from tests.training.test_dataset_pages import FORM, page_of
from tests.training.test_lineage import taught
from training.models import Compilation, Dataset, Erasure, Run
from training.services import compilations
from training.services.compilations import (
    cancel_compilation,
    preview_of,
    request_compilation,
    run_compilation,
    tick_compilations,
)
from training.services.compiler import compile_dataset, preview_dataset
from training.services.data import rows
from training.services.numbers import create_numbered

# The thread that tells of the progress has a connection of its own, which sees what is committed.
pytestmark = pytest.mark.django_db(transaction=True)
COMPOSE = "/p/kitchen/datasets/compose"


@pytest.fixture
def large(transactional_db: None, cast: Cast, settings: Any, tmp_path: Any) -> Cast:
    """A project whose judgements are too many for a request."""
    settings.ARTIFACTS_DIR, settings.COMPILE_IN_REQUEST = tmp_path, 5
    judged(cast, 12)
    return cast


def ask(cast: Cast, kind: str = "build", **filters: Any) -> Compilation:
    return request_compilation(
        project=cast.project, kind=kind, format="preference", filters=filters, cutoff=None,
        actor=Actor(user=cast.ada),
    )  # fmt: skip


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Compilation], threading.Thread]]:
    """Start a job in a thread; it waits after its first prompt until `go_on` is set."""
    go_on, threads = threading.Event(), []
    monkeypatch.setattr(rows, "WATCH_EVERY", 1)
    monkeypatch.setattr(compilations, "EVERY", 0.05)
    watch = compilations._Teller.watch

    def and_wait(self: Any, read: int) -> None:
        while not go_on.wait(0.02):
            watch(self, read)
        watch(self, read)

    monkeypatch.setattr(compilations._Teller, "watch", and_wait)

    def work(id_: Any) -> None:
        try:
            run_compilation(id_)
        finally:
            connection.close()

    def start(compilation: Compilation) -> threading.Thread:
        thread = threading.Thread(target=work, args=(compilation.pk,))
        thread.go_on = go_on  # type: ignore[attr-defined]  # for the test to set
        threads.append(thread)
        thread.start()
        return thread

    yield start
    go_on.set()
    for thread in threads:
        thread.join(60)


def until(reached: Callable[[], bool], seconds: float = 60) -> None:
    pause, waited = threading.Event(), 0.0
    while not reached():
        assert waited < seconds
        pause.wait(0.05)
        waited += 0.05


def test_a_job_makes_what_the_request_would_have_made(large: Cast):
    job = ask(large)
    whole = compile_dataset(project=large.project, cutoff=job.cutoff, actor=Actor(user=large.ada))
    tick_compilations()
    job.refresh_from_db()
    assert job.status == Compilation.Status.DONE
    assert job.dataset is not None
    assert (job.dataset.digest, job.dataset.pk != whole.pk) == (whole.digest, True)
    look = ask(large, "preview")
    assert run_compilation(look.pk) is not None
    look.refresh_from_db()
    same = preview_dataset(project=large.project, cutoff=look.cutoff)
    assert preview_of(look) == same


def test_its_progress_is_seen_while_it_reads(large: Cast, paused: Any):
    job = ask(large)
    thread = paused(job)

    def is_seen() -> bool:
        job.refresh_from_db()
        return job.status == Compilation.Status.RUNNING and 0 < job.read <= job.total == 12

    until(is_seen)
    body = page_of(large.ada).get(f"/p/kitchen/datasets/jobs/{job.pk}/").content.decode()
    assert "<progress" in body
    assert "every 1s" in body
    assert run_compilation(job.pk) is None, "it is being worked on"
    thread.go_on.set()
    thread.join(60)
    job.refresh_from_db()
    assert job.status == Compilation.Status.DONE


def test_it_is_called_off_in_the_middle_and_leaves_nothing(large: Cast, paused: Any, tmp_path: Any):
    job = ask(large)
    thread = paused(job)
    until(lambda: Compilation.objects.get(pk=job.pk).read > 0)
    answer = page_of(large.ada).post(f"/p/kitchen/datasets/jobs/{job.pk}/cancel")
    assert answer.status_code in (200, 302)
    thread.join(60)
    job.refresh_from_db()
    assert job.status == Compilation.Status.CANCELLED
    assert not Dataset.objects.exists()
    assert not list(tmp_path.glob("datasets/*"))


def test_one_that_waits_is_called_off_at_once_and_once(large: Cast):
    job = cancel_compilation(ask(large))
    assert job.status == Compilation.Status.CANCELLED
    with pytest.raises(compilations.CompilationOver):
        cancel_compilation(job)
    tick_compilations()
    assert not Dataset.objects.exists()


def test_a_worker_that_died_is_replaced(large: Cast, monkeypatch: pytest.MonkeyPatch):
    job = ask(large)

    def die(*args: Any, **kwargs: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(compilations, "compile_dataset", die)
        with pytest.raises(SystemExit):
            run_compilation(job.pk)
    Compilation.objects.update(lease_until=timezone.now())  # as a kill leaves it, a minute later
    tick_compilations()
    job.refresh_from_db()
    assert job.status == Compilation.Status.DONE
    assert Dataset.objects.count() == 1


def test_one_is_made_at_a_time(large: Cast):
    first, second = ask(large), ask(large, "preview")
    Compilation.objects.filter(pk=first.pk).update(
        status="running", lease_until=timezone.now() + compilations.LEASE
    )
    tick_compilations()
    second.refresh_from_db()
    assert second.status == Compilation.Status.WAITING
    Compilation.objects.filter(pk=first.pk).update(lease_until=timezone.now())
    tick_compilations()
    assert set(Compilation.objects.values_list("status", flat=True)) == {"done"}


def test_what_cannot_be_compiled_says_why(large: Cast):
    job = ask(large, versions=["v9"])
    tick_compilations()
    job.refresh_from_db()
    assert job.status == Compilation.Status.FAILED
    assert "other_version" in job.message


def test_the_page_sends_a_large_one_to_a_worker_and_shows_it_live(large: Cast):
    client = page_of(large.ada)
    swapped = {"HX-Request": "true"}
    body = client.post(COMPOSE, {**FORM, "act": "preview"}, headers=swapped).content.decode()
    job = Compilation.objects.get()
    assert f"/datasets/jobs/{job.pk}/" in body
    assert "every 1s" in body
    tick_compilations()
    body = client.get(f"/p/kitchen/datasets/jobs/{job.pk}/", headers=swapped).content.decode()
    assert "Build this dataset" in body
    assert "Short answer" in body
    built = client.post(COMPOSE, {**FORM, "act": "build", "cutoff": job.cutoff.isoformat()}, headers=swapped)
    assert "every 1s" in built.content.decode()
    tick_compilations()
    job = Compilation.objects.get(kind="build")
    answer = client.get(f"/p/kitchen/datasets/jobs/{job.pk}/", headers=swapped)
    assert answer.headers["HX-Redirect"] == "/p/kitchen/datasets/1/"
    client.force_login(large.bob)
    assert client.get(f"/p/kitchen/datasets/jobs/{job.pk}/").status_code == 404
    client.force_login(large.eve)
    assert client.post(f"/p/kitchen/datasets/jobs/{job.pk}/cancel").status_code == 404


def test_without_scripts_the_page_leads_to_the_job(large: Cast):
    client = Client()
    client.force_login(large.ada)
    answer = client.post(COMPOSE, {**FORM, "act": "build"})
    job = Compilation.objects.get()
    assert answer.headers["Location"] == f"/p/kitchen/datasets/jobs/{job.pk}/"
    tick_compilations()
    assert client.get(answer.headers["Location"]).headers["Location"] == "/p/kitchen/datasets/1/"


def test_by_rest_in_the_background(large: Cast):
    said = large.post("datasets", {"background": True}, key=large.manage_key)
    assert (said.status_code, said.json()["status"]) == (202, "waiting")
    path = f"compilations/{said.json()['id']}"
    tick_compilations()
    done = large.get(path).json()
    assert (done["status"], done["dataset"]) == ("done", 1)
    look = large.post("datasets", {"background": True, "dry_run": True}, key=large.manage_key).json()
    assert (
        large.post(f"compilations/{look['id']}/cancel", {}, key=large.manage_key).json()["status"]
        == "cancelled"
    )
    again = large.post(f"compilations/{look['id']}/cancel", {}, key=large.manage_key)
    assert (again.status_code, error_of(again)["code"]) == (409, "compilation_over")
    assert large.get(path, key=large.foreign_key).status_code == 404


# --- what begins with one --------------------------------------------------------------------------------
@pytest.fixture
def huge(large: Cast) -> Cast:
    """Enough to train on, and too much for a request."""
    judged(large, 30, start=100)
    return large


def begun(cast: Cast, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """It is queued and done; what its compilation says in the end."""
    said = cast.post(path, body, key=cast.manage_key)
    assert (said.status_code, said.json()["status"]) == (202, "waiting"), said.content
    assert not Run.objects.exclude(status="finished").exists()
    tick_compilations()
    done: dict[str, Any] = cast.get(f"compilations/{said.json()['id']}").json()
    assert (done["status"], done["message"]) == ("done", "")
    assert done["read"] <= done["total"]
    return done


def test_a_run_begins_with_a_worker(huge: Cast):
    done = begun(huge, "runs", {"method": "dpo", "config": {"epochs": 3}, "seed": 7})
    run = Run.objects.get(number=done["run"])
    assert (run.status, run.seed, run.config["epochs"]) == ("queued", 7, 3)
    same = compile_dataset(project=huge.project, cutoff=run.dataset.cutoff, actor=Actor(user=huge.ada))
    assert run.dataset.digest == same.digest
    again = huge.post("runs", {"dataset": run.dataset.number}, key=huge.manage_key)
    assert again.status_code == 201, "what is compiled already is not read again"


def test_a_pipeline_begins_with_a_worker(base_model: Path, huge: Cast):
    done = begun(huge, "pipelines", {"name": "reward-rloo", "filters": {"per_prompt_cap": 3}})
    run = Run.objects.get(number=done["run"])
    assert run.pipeline is not None
    assert (run.method, run.stage, run.pipeline.filters) == ("reward", 0, {"per_prompt_cap": 3})


def test_a_training_without_a_person_begins_with_a_worker(huge: Cast):
    dataset = compile_dataset(project=huge.project, actor=Actor(user=huge.ada))
    taught(huge, dataset, number=2)
    create_numbered(
        Erasure, project=huge.project, status="done", mode="remove", pseudonym="x", versions=[{"number": 2}]
    )
    done = begun(huge, "erasures/1/retrain", {})
    assert Run.objects.get(number=done["run"]).dataset.number == 2


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("runs", {"method": "dpoo"}, 422),
        ("runs", {"config": {"epoch": 3}}, 422),
        ("runs", {"method": "rloo"}, 422),  # there is no reward model
        ("runs", {"reward": "v9"}, 404),
        ("pipelines", {"name": "dpo-dpo"}, 422),
        ("erasures/9/retrain", {}, 404),
    ],
)
def test_what_no_judgement_could_mend_is_refused_at_once(
    large: Cast, path: str, body: dict[str, Any], status: int
):
    answer = large.post(path, body, key=large.manage_key)
    assert answer.status_code == status
    assert not Compilation.objects.exists()


def test_what_the_judgements_do_not_allow_is_said_by_the_row(large: Cast):
    job = large.post("runs", {}, key=large.manage_key).json()
    tick_compilations()
    done = large.get(f"compilations/{job['id']}").json()
    assert (done["status"], done["run"]) == ("failed", None)
    assert "needs at least 16 pairs" in done["message"]
    assert not Run.objects.exists()


@pytest.mark.parametrize("path", ["runs", "pipelines"])
def test_a_worker_that_died_behind_the_run_begins_no_second_one(
    base_model: Path, huge: Cast, path: str, monkeypatch: pytest.MonkeyPatch
):
    huge.post(path, {} if path == "runs" else {"name": "reward-rloo"}, key=huge.manage_key)

    def die(*args: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(compilations, "_write_down", die)
        tick_compilations()
    Compilation.objects.update(lease_until=timezone.now())  # a minute later
    tick_compilations()
    job = Compilation.objects.get()
    assert (job.status, job.run) == ("done", Run.objects.get())


def test_the_page_goes_on_to_the_run_by_itself(huge: Cast):
    client = page_of(huge.ada)
    answer = client.post("/p/kitchen/runs/start", {"method": "dpo"})
    job = Compilation.objects.get()
    page = f"/p/kitchen/datasets/jobs/{job.pk}/"
    assert answer.headers["Location"] == page
    assert "every 1s" in client.get(page).content.decode()
    tick_compilations()
    swapped = client.get(page, headers={"HX-Request": "true"})
    assert swapped.headers["HX-Redirect"] == "/p/kitchen/runs/1/"
    assert client.get(page).headers["Location"] == "/p/kitchen/runs/1/"
