"""The engines hold what the database says they should, and drift is seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from django.conf import settings

from inference.client import EngineClient
from inference.models import Replica
from inference.services.completions import sample_completion
from inference.services.deployments import promote, rollback
from inference.services.leases import acquire_lease, release_lease
from inference.services.reconciler import LEASE, reconcile
from inference.services.versions import mark_candidate, release_candidate
from inference.tasks import reconcile as reconcile_task
from projects.errors import Unavailable
from projects.services import SYSTEM
from tests.cast import Cast
from tests.inference.adapters import new_version
from tests.processes import Process

pytestmark = pytest.mark.model


def held() -> set[str]:
    client = EngineClient(settings.ENGINE_URLS[0], api_key=settings.ENGINE_API_KEY)
    return {name for name, card in client.models().items() if not card.is_base}


def test_a_restarted_engine_is_refilled(cast: Cast, engine: Process, tmp_path: Path) -> None:
    version = new_version(cast.project, tmp_path)
    promote(project=cast.project, version=version, actor=SYSTEM, reason="live")
    engine.kill()
    (seen,) = reconcile()
    assert (seen.is_healthy, seen.message) == (False, "does not answer")
    engine.start()
    assert held() == set()
    (seen,) = reconcile()
    assert (seen.is_healthy, seen.missing) == (True, [])
    assert seen.loaded["kitchen-v2"] == version.digest
    assert held() == {"kitchen-v2"}


def test_the_champion_is_pinned_and_no_other(cast: Cast, engine: Process, tmp_path: Path) -> None:
    client = EngineClient(settings.ENGINE_URLS[0], api_key=settings.ENGINE_API_KEY)
    for seed in (2, 3):
        version = new_version(cast.project, tmp_path, seed=seed)
        promote(project=cast.project, version=version, actor=SYSTEM, reason="next")
        reconcile()
    pins = {name: card.is_pinned for name, card in client.models().items() if not card.is_base}
    assert pins == {"kitchen-v2": False, "kitchen-v3": True}


def test_candidates_are_held_as_long_as_they_are_candidates(
    cast: Cast, engine: Process, tmp_path: Path
) -> None:
    version = new_version(cast.garden, tmp_path)
    assert mark_candidate(version)
    assert not mark_candidate(version), "it is one already"
    reconcile_task()
    assert held() == {"garden-v2"}
    assert release_candidate(version)
    reconcile_task()
    assert held() == set()


def test_what_is_not_ours_stays(cast: Cast, engine: Process, tmp_path: Path) -> None:
    client = EngineClient(settings.ENGINE_URLS[0], api_key=settings.ENGINE_API_KEY)
    path = str(new_version(cast.project, tmp_path).folder)
    client.load("somebody-elses", path)
    client.load("kitchen-v77", path)
    reconcile()
    assert held() == {"somebody-elses"}
    client.unload("somebody-elses")


def test_a_damaged_version_is_shown_as_missing(cast: Cast, engine: Process, tmp_path: Path) -> None:
    good, bad = (new_version(cast.project, tmp_path, seed=seed) for seed in (2, 3))
    mark_candidate(good)
    mark_candidate(bad)
    (bad.folder / "adapter_config.json").write_text("{}")
    (seen,) = reconcile()
    assert seen.missing == ["kitchen-v3"]
    assert "kitchen@v3 are damaged" in seen.message
    assert held() == {"kitchen-v2"}, "the others are loaded all the same"
    release_candidate(good)
    release_candidate(bad)
    reconcile()


def test_files_deleted_while_loaded(cast: Cast, engine: Process, tmp_path: Path) -> None:
    """What is loaded serves on; what cannot be loaded again is shown; and the way back is open."""
    version = new_version(cast.project, tmp_path)
    promote(project=cast.project, version=version, actor=SYSTEM, reason="live")
    shutil.rmtree(version.folder)
    (seen,) = reconcile()
    assert (seen.missing, held()) == ([], {"kitchen-v2"})
    sampling = {"max_tokens": 2}
    answer = sample_completion(project=cast.project, prompt=cast.prompt(), version=version, sampling=sampling)
    assert answer.state == "finished"
    engine.kill()
    engine.start()
    (seen,) = reconcile()
    assert seen.missing == ["kitchen-v2"]
    assert "kitchen@v2 are damaged" in seen.message
    version.refresh_from_db()
    with pytest.raises(Unavailable, match="roll back") as refused:
        sample_completion(project=cast.project, prompt=cast.prompt(), version=version, sampling=sampling)
    assert refused.value.code == "version_damaged"
    assert rollback(project=cast.project, actor=SYSTEM, reason="its files are gone").champion == cast.v1


def test_only_one_mends_at_a_time(cast: Cast, engine: Process, tmp_path: Path) -> None:
    mark_candidate(new_version(cast.project, tmp_path))
    holder = acquire_lease(name=LEASE, seconds=60)
    assert holder is not None
    assert acquire_lease(name=LEASE, seconds=60) is None
    reconcile()
    assert held() == set(), "another is at work"
    assert Replica.objects.get().missing == ["kitchen-v2"], "but what is there is seen and shown"
    release_lease(name=LEASE, holder=holder)
    reconcile()
    assert held() == {"kitchen-v2"}


def test_a_lease_lapses_with_its_holder(db: None) -> None:
    assert acquire_lease(name=LEASE, seconds=-1) is not None
    holder = acquire_lease(name=LEASE, seconds=60)
    assert holder is not None
    assert acquire_lease(name=LEASE, seconds=60) is None


def test_an_engine_that_is_configured_no_more_is_forgotten(cast: Cast, engine: Process) -> None:
    Replica.objects.create(url="http://127.0.0.1:1", is_healthy=True)
    assert [row.url for row in reconcile()] == settings.ENGINE_URLS
