"""Versions: numbered once, copied and checked, never overwritten; and which of them a name means."""

from __future__ import annotations

import resource
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connections

from inference.artifact import verify, write_atomically, write_manifest
from inference.models import Deployment, Version
from inference.services.deployments import current_deployment
from inference.services.versions import (
    DamagedArtifact,
    ModelNotFound,
    NoRoom,
    mark_candidate,
    register_version,
    resolve_version,
    start_project,
)
from projects.errors import Conflict, Invalid
from projects.models import Membership, Project
from projects.services import SYSTEM, Actor
from tests.cast import Cast
from tests.inference.adapters import build_adapter, new_version


def test_a_project_serves_from_its_first_moment(cast: Cast) -> None:
    project = start_project(slug="night", name="Night", actor=Actor(user=cast.ada), gate_share=0.3)
    deployment = current_deployment(project)
    assert (deployment.number, deployment.kind, deployment.user) == (1, "first", cast.ada)
    base = deployment.champion
    assert (base.number, base.kind, base.label) == (1, "base", "night@v1")
    assert base.digest
    assert project.gate_share == 0.3
    with pytest.raises(Conflict):
        start_project(slug="night", name="Again", actor=SYSTEM)
    with pytest.raises(Invalid):
        start_project(slug="not a slug", name="x", actor=SYSTEM)
    assert Project.objects.filter(slug="not a slug").count() == 0


def test_a_registered_version_is_a_checked_copy(cast: Cast, tmp_path: Path) -> None:
    artifact = build_adapter(tmp_path / "artifact")
    version = register_version(project=cast.project, kind="adapter", artifact=artifact)
    assert (version.number, version.label, version.engine_name) == (2, "kitchen@v2", "kitchen-v2")
    assert version.manifest["method"] == "dpo"
    shutil.rmtree(artifact)
    assert verify(version.folder, expected_digest=version.digest, servable=True)
    home = version.folder.parent
    assert sorted(path.name for path in home.iterdir()) == ["v2"], "nothing is left beside it"


@pytest.mark.parametrize("harm", ["changed", "missing", "added", "linked", "pickle", "no manifest"])
def test_a_damaged_artifact_is_no_version(cast: Cast, tmp_path: Path, harm: str) -> None:
    artifact = build_adapter(tmp_path / "artifact")
    weights = artifact / "adapter_model.safetensors"
    if harm == "changed":
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    elif harm == "missing":
        weights.unlink()
    elif harm == "added":
        (artifact / "extra.json").write_text("{}")
    elif harm == "linked":
        weights.rename(tmp_path / "elsewhere")
        weights.symlink_to(tmp_path / "elsewhere")
    elif harm == "pickle":
        (artifact / "training_args.bin").write_bytes(b"x")
        write_manifest(artifact)
    else:
        (artifact / "manifest.json").unlink()
    with pytest.raises(DamagedArtifact) as refused:
        register_version(project=cast.project, kind="adapter", artifact=artifact)
    assert refused.value.code == "damaged_artifact"
    assert list(cast.project.versions.values_list("number", flat=True)) == [1]
    home = new_version(cast.project, tmp_path).folder.parent
    assert [path.name for path in home.iterdir()] == ["v2"], "the number is still free, and nothing is left"


def test_a_full_disk_leaves_nothing_behind(cast: Cast, tmp_path: Path) -> None:
    """The kernel refuses to write more than 30 MB into one file, as it does when there is no room."""
    artifact = build_adapter(tmp_path / "artifact")
    with (artifact / "large.json").open("wb") as large:
        large.truncate(40_000_000)
    write_manifest(artifact)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000_000, usual[1]))
    try:
        with pytest.raises(NoRoom, match=r"has no room for the version: File too large"):
            register_version(project=cast.project, kind="adapter", artifact=artifact)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert list(cast.project.versions.values_list("number", flat=True)) == [1]
    home = Path(settings.ARTIFACTS_DIR) / "versions" / str(cast.project.id)
    assert list(home.iterdir()) == []
    assert register_version(project=cast.project, kind="adapter", artifact=artifact).number == 2


def test_threads_that_write_one_file_do_not_meet(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: write_atomically(tmp_path / "word", b"%d" % number), range(80)))
    assert [path.name for path in tmp_path.iterdir()] == ["word"]


def test_what_a_crash_left_is_cleared_away(cast: Cast, tmp_path: Path) -> None:
    first = new_version(cast.project, tmp_path, seed=1)
    orphan = first.folder.parent / "v3"
    orphan.mkdir()
    (orphan / "half").write_text("a")
    version = new_version(cast.project, tmp_path, seed=2)
    assert version.folder == orphan
    assert verify(version.folder, expected_digest=version.digest)


@pytest.mark.django_db(transaction=True)
def test_registrations_at_the_same_time_get_different_numbers(cast: Cast, tmp_path: Path) -> None:
    artifacts = [build_adapter(tmp_path / str(seed), seed=seed) for seed in range(5)]
    together, made = threading.Barrier(5), []

    def go(artifact: Path) -> None:
        try:
            together.wait()
            made.append(register_version(project=cast.project, kind="adapter", artifact=artifact))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=go, args=(artifact,)) for artifact in artifacts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(version.number for version in made) == [2, 3, 4, 5, 6]
    for version in made:
        assert verify(version.folder, expected_digest=version.digest)


def test_what_a_name_means(cast: Cast, tmp_path: Path) -> None:
    def meant(model: str, sticky: str = "x") -> Version:
        return resolve_version(project=cast.project, model=model, sticky=sticky)

    second, third = (new_version(cast.project, tmp_path, seed=seed) for seed in (2, 3))
    assert meant("kitchen") == meant("kitchen@v1") == cast.v1
    with pytest.raises(ModelNotFound, match="not loaded"):
        meant("kitchen@v2")
    with pytest.raises(ModelNotFound, match="no candidate"):
        meant("kitchen@candidate")
    mark_candidate(second)
    assert meant("kitchen@candidate") == meant("kitchen@v2") == second
    mark_candidate(third)
    assert meant("kitchen@candidate") == third, "the newest"
    Deployment.objects.create(
        project=cast.project, number=2, kind="promote", champion=second, previous=cast.v1
    )
    assert meant("kitchen") == second
    assert meant("kitchen@v1") == cast.v1, "the way back is held too"
    reward = register_version(
        project=cast.project, kind="reward", artifact=build_adapter(tmp_path / "reward")
    )
    mark_candidate(reward)
    for model in (reward.label, "garden", "garden@v1", "kitchen@v99", "kitchen@v²", "kitchen@v", "@v1", ""):
        with pytest.raises(ModelNotFound):
            meant(model)


def test_commands(cast: Cast, tmp_path: Path, settings: Any) -> None:
    said = StringIO()
    call_command("start_project", slug="night", name="Night", manager="carol", stdout=said)
    assert said.getvalue() == "night serves night@v1.\n"
    assert Membership.objects.get(user=cast.carol, project__slug="night").role == "manager"
    with pytest.raises(CommandError, match="There is already a project night"):
        call_command("start_project", slug="night", name="Night")
    with pytest.raises(Conflict) as refused:
        start_project(slug="night", name="Night", actor=SYSTEM)
    assert refused.value.code == "slug_taken"
    with pytest.raises(CommandError, match="There is no user nobody"):
        call_command("start_project", slug="day", name="Day", manager="nobody")
    with pytest.raises(CommandError, match="has served nothing before night@v1"):
        call_command("rollback", project="night", reason="why not")
    with pytest.raises(CommandError, match="There is no project day"):
        call_command("rollback", project="day", reason="why not")
    second = new_version(cast.project, tmp_path)
    Deployment.objects.create(
        project=cast.project, number=2, kind="promote", champion=second, previous=cast.v1
    )
    said = StringIO()
    call_command("rollback", project="kitchen", reason="it was worse", stdout=said)
    assert said.getvalue() == "kitchen serves kitchen@v1 again.\n"
    assert current_deployment(cast.project).reason == "it was worse"
