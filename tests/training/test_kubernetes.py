"""Runs as Kubernetes Jobs: what is sent holds against the API's schema, and what comes back is understood.

The cluster is a small server of ours that speaks the same HTTP and runs the container's command here (no real
cluster is at hand; docs/gpus.md says so). The client is the official one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from config.checks import check_settings
from projects.services import SYSTEM
from tests.training.conftest import Scripted
from tests.training.kubernetes import JOBS, SCHEMA, Cluster
from training.launchers import kubernetes
from training.launchers.protocol import Job
from training.models import Run
from training.services.runs import cancel_run

JOB = Job(
    id="0199f0a0-0000-7000-8000-000000000003",
    name="kitchen/3",
    module="training.recipes.dpo",
    folder=Path("/srv/ratchet/artifacts/runs/0199f0a0"),
    fence="00ff00ff00ff00ff",
    processes=2,
)


@pytest.fixture
def on_kubernetes(settings: Any) -> None:
    settings.LAUNCHER = "kubernetes"
    settings.KUBERNETES_NAMESPACE = "lab"
    settings.KUBERNETES_IMAGE = "registry.example/ratchet:1"
    settings.KUBERNETES_CLAIM = "ratchet"
    settings.KUBERNETES_MOUNT = Path("/")
    settings.TRAIN_DEVICE = "auto"


@pytest.fixture
def cluster(on_kubernetes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    made = Cluster()
    monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig(tmp_path / "kubeconfig")))
    kubernetes._api.cache_clear()
    yield made
    made.close()
    kubernetes._api.cache_clear()


def is_begun(run: Run) -> bool:
    return run.step >= 1


@pytest.mark.slow  # the schemas take a second to load
def test_the_manifest_holds_against_the_schema_and_gives_no_rights(on_kubernetes: None):
    job = kubernetes.manifest(JOB)
    kubernetes_validate.validate(job, SCHEMA, strict=True)
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (spec["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert spec["activeDeadlineSeconds"] > JOB.max_seconds
    assert pod["automountServiceAccountToken"] is False
    [container] = pod["containers"]
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "32Gi", "nvidia.com/gpu": "2"}
    assert container["command"][-3:] == ["-m", "training.recipes.dpo", str(JOB.folder)]
    assert "accelerate.commands.launch" in container["command"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    names = {one["name"] for one in container["env"]}
    assert names == {
        "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "PYTHONUNBUFFERED", "RUN_FENCE", "HOME"
    }  # fmt: skip
    for wrong in ({"restartPolicyy": "Never"}, {"restartPolicy": 3}, {"containers": "none"}):
        broken = {**job, "spec": {**spec, "template": {"spec": {**pod, **wrong}}}}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, SCHEMA, strict=True)


def test_a_cpu_asks_for_no_gpu(on_kubernetes: None, settings: Any):
    settings.TRAIN_DEVICE = "cpu"
    [container] = kubernetes.manifest(JOB)["spec"]["template"]["spec"]["containers"]
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}


@pytest.mark.slow
def test_a_run_becomes_a_version(cluster: Cluster, scripted: Scripted):
    run = scripted.tick_until(scripted.run())
    assert (run.status, run.message, run.attempt) == ("finished", "", 1)
    assert run.version is not None
    assert cluster.said.count(f"POST {JOBS}") == 1
    assert (run.folder / "log.txt").is_file()


@pytest.mark.slow
def test_a_killed_pod_is_another_job_that_goes_on(cluster: Cluster, scripted: Scripted):
    run = scripted.tick_until(scripted.run(at={"2": "kill"}))
    assert (run.status, run.attempt) == ("finished", 2)
    assert [row.data["step"] for row in run.events.filter(name="started")] == [0, 1]
    assert len(cluster.jobs) == 2


@pytest.mark.slow
def test_a_cancelled_run_deletes_its_job_and_leaves_a_checkpoint(cluster: Cluster, scripted: Scripted):
    run = scripted.tick_until(scripted.run(steps=500), is_begun)
    cancel_run(run=run, actor=SYSTEM)
    run = scripted.tick_until(run)
    assert (run.status, run.cause) == ("cancelled", "cancelled")
    assert not cluster.jobs and not cluster.children
    assert run.events.filter(name="failed", data__cause="interrupted").exists(), "it heard SIGTERM"


@pytest.mark.slow
def test_a_pod_that_is_deaf_is_killed(cluster: Cluster, scripted: Scripted):
    run = scripted.tick_until(scripted.run(at={"2": "freeze"}), lambda run: (run.folder / "did-2").exists())
    kubernetes.cancel(run.handle)
    assert not kubernetes.poll(run.handle).is_alive
    assert not cluster.children


@pytest.mark.slow
def test_a_node_that_fails_is_named_and_the_run_goes_on(cluster: Cluster, scripted: Scripted):
    run = scripted.tick_until(scripted.run(steps=500), is_begun)
    cluster.take_node()
    run = scripted.tick_until(run, lambda run: run.handle == {})
    assert "on node node-7" in run.message and "DeletionByTaintManager" in run.message
    run = scripted.tick_until(run, lambda run: run.attempt == 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "reason", "job_says", "cause"),
    [
        (137, "OOMKilled", {}, "oom"),
        (137, "Error", {"reason": "DeadlineExceeded", "message": "was active too long"}, "timeout"),
    ],
)
def test_ends_that_the_cluster_brings_are_named(
    cluster: Cluster, scripted: Scripted, settings: Any, code: int, reason: str, job_says: Any, cause: str
):
    settings.RUN_ATTEMPTS = 1
    run = scripted.tick_until(scripted.run(steps=500), is_begun)
    [(pod, child)] = cluster.children.items()
    child.kill()
    child.wait()
    with cluster.lock:
        cluster.children.pop(pod, None)
        cluster.end(pod, code, reason, job_says)
    run = scripted.tick_until(run)
    assert (run.status, run.cause) == ("failed", cause)
    assert reason in run.message


@pytest.mark.slow
def test_what_waits_says_why_and_a_server_that_is_away_ends_nothing(cluster: Cluster, scripted: Scripted):
    cluster.is_full = True
    run = scripted.tick_until(scripted.run(), lambda run: "Insufficient nvidia.com/gpu" in run.message)
    cluster.is_away = True
    run = scripted.tick_until(run, lambda run: "does not answer" in run.message)
    assert run.status == "running"
    cluster.is_away = False
    cancel_run(run=run, actor=SYSTEM)
    assert scripted.tick_until(run).status == "cancelled"
    assert not cluster.jobs


@pytest.mark.slow
def test_what_the_server_will_not_take_fails_in_its_words(
    cluster: Cluster, scripted: Scripted, settings: Any
):
    settings.KUBERNETES_NAMESPACE = "elsewhere"  # where we may do nothing
    run = scripted.tick_until(scripted.run())
    assert (run.status, run.cause) == ("failed", "internal")
    assert "Kubernetes refuses it: 404" in run.message


@pytest.mark.slow
def test_a_job_that_nobody_noted_is_found(cluster: Cluster, scripted: Scripted):
    run = scripted.tick_until(scripted.run(lingers=True), is_begun)
    job = run.handle["job"]
    Run.objects.filter(pk=run.pk).update(handle={})
    run = scripted.tick_until(run, lambda run: "job" in run.handle)
    assert run.handle["job"] == job
    (run.folder / "go").touch()
    assert scripted.tick_until(run).status == "finished"


def test_settings_that_cannot_work_are_refused(on_kubernetes: None, settings: Any):
    assert not [one for one in check_settings(None) if one.id == "ratchet.E008"]
    settings.KUBERNETES_IMAGE = ""
    settings.KUBERNETES_MOUNT = Path("/somewhere/else")
    said = [one.msg for one in check_settings(None) if one.id == "ratchet.E008"]
    assert said[0] == "LAUNCHER=kubernetes needs KUBERNETES_IMAGE."
    assert said[1].startswith("ARTIFACTS_DIR does not lie under KUBERNETES_MOUNT")
