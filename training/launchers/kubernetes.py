"""Children as Kubernetes Jobs, through the official client.

A Job has one pod that is never restarted: attempts are counted by the supervisor. The claim KUBERNETES_CLAIM
is mounted at KUBERNETES_MOUNT, the same path as here, so that folders have the same names inside.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from django.conf import settings
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from training.launchers.commands import added, as_signal, command, into_log
from training.launchers.protocol import Away, Cause, Handle, Job, Refused, Sight

ANSWER_SECONDS = 10
STOP_SECONDS = 60  # between SIGTERM and SIGKILL: a checkpoint of a large adapter takes a while
KEEP_SECONDS = 86_400  # a finished Job stays so long, for people who look
LABEL = "ratchet.run"
# Reasons of a pod that ended for no fault of its own.
_TAKEN = {"Evicted", "Preempting", "Shutdown", "Terminated", "NodeShutdown", "NodeAffinity"}


def start(job: Job) -> Handle:
    """Create the Job. Raises Refused for what the API server will not take."""
    body = manifest(job)
    _ask(_jobs().create_namespaced_job, settings.KUBERNETES_NAMESPACE, body)
    return {"job": body["metadata"]["name"], "launched": time.time(), "waiting": True}


def find(job: Job) -> Handle | None:
    found = _ask(
        _jobs().list_namespaced_job, settings.KUBERNETES_NAMESPACE, label_selector=f"{LABEL}={job.id}"
    )
    for one in found.items:
        if _condition(one, "Complete", "Failed") is None and one.metadata.deletion_timestamp is None:
            return {"job": one.metadata.name, "launched": time.time(), "waiting": True}
    return None


def poll(handle: Handle) -> Sight:
    name = handle["job"]
    try:
        job = _ask(_jobs().read_namespaced_job, name, settings.KUBERNETES_NAMESPACE)
    except Refused:
        return Sight(is_alive=False, reason=f"The Job {name} is gone from Kubernetes.")
    pod = _pod(name)
    ended = _condition(job, "Complete", "Failed")
    if ended is None:
        if pod is None or pod.status.phase == "Pending":
            return Sight(is_alive=True, is_waiting=True, reason=f"The Job {name} waits: {_why_waiting(pod)}.")
        return Sight(is_alive=True)
    code, cause, reason = _end_of(pod)
    if ended.reason == "DeadlineExceeded":
        cause = "timeout"
    said = ", ".join(part for part in (ended.reason, ended.message, reason) if part)
    return Sight(is_alive=False, code=code, cause=cause, reason=f"Kubernetes says of {name}: {said}.")


def interrupt(handle: Handle) -> None:
    """Deleting a Job sends SIGTERM to its pod, and SIGKILL STOP_SECONDS later."""
    _delete(_jobs().delete_namespaced_job, handle["job"])


def cancel(handle: Handle) -> None:
    pod = _pod(handle["job"])
    interrupt(handle)
    if pod is not None:
        _delete(client.CoreV1Api(_api()).delete_namespaced_pod, pod.metadata.name, grace_period_seconds=0)


def manifest(job: Job) -> dict[str, Any]:
    """The Job as it is sent: a container that is `python -m module folder`, without rights to the cluster."""
    resources: dict[str, Any] = {"cpu": str(settings.TRAIN_CPUS), "memory": f"{settings.TRAIN_MEMORY_GB}Gi"}
    if settings.TRAIN_DEVICE != "cpu":
        resources[settings.KUBERNETES_GPU] = str(job.processes)
    labels = {"app.kubernetes.io/name": "ratchet-run", LABEL: job.id}
    container = {
        "name": "run",
        "image": settings.KUBERNETES_IMAGE,
        "command": into_log(command(job, "python"), job.folder / "log.txt"),
        "env": [
            {"name": name, "value": value}
            for name, value in {**added(job), "HOME": "/tmp"}.items()  # noqa: S108
        ],
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [
            {"name": "shared", "mountPath": str(settings.KUBERNETES_MOUNT)},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - what NCCL talks through
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": STOP_SECONDS,
        # As the trainer: what either writes into the folder the other must be able to change.
        "securityContext": {
            "runAsUser": os.getuid(),
            "runAsGroup": os.getgid(),
            "runAsNonRoot": os.getuid() != 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "shared", "persistentVolumeClaim": {"claimName": settings.KUBERNETES_CLAIM}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            # The fence is another one with each start, so two attempts never share a name.
            "name": f"ratchet-{job.id[-12:]}-{job.fence[:8]}",
            "namespace": settings.KUBERNETES_NAMESPACE,
            "labels": labels,
            "annotations": {"ratchet.name": job.name},
        },
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "activeDeadlineSeconds": int(job.max_seconds) + 120,  # the supervisor's own limit comes first
            "ttlSecondsAfterFinished": KEEP_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


@cache
def _api() -> client.ApiClient:
    """Of the kubeconfig that KUBECONFIG names, else of the pod that the trainer runs in."""
    chosen = client.Configuration()
    where = os.environ.get("KUBECONFIG")
    try:
        if where:
            config.load_kube_config(config_file=where, client_configuration=chosen)
        else:
            config.load_config(client_configuration=chosen)
    except ConfigException as error:
        raise Away(f"There is no cluster to ask: {error}.") from error
    chosen.retries = 1
    return client.ApiClient(chosen)


def _jobs() -> client.BatchV1Api:
    return client.BatchV1Api(_api())


def _ask(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """One call. Raises Away when the server is away or busy, Refused when it says no."""
    try:
        return call(*arguments, **options, _request_timeout=ANSWER_SECONDS)
    except ApiException as error:
        said = f"{error.status} {error.reason}: {error.body}"[:500]
        if error.status in (0, 408, 409, 429) or error.status >= 500:
            raise Away(f"Kubernetes does not answer: {said}") from error
        raise Refused(f"Kubernetes refuses it: {said}") from error
    except HTTPError as error:
        raise Away(f"Kubernetes does not answer: {error}") from error


def _delete(call: Callable[..., Any], name: str, **options: Any) -> None:
    # Foreground: a Job stays to be seen until its pod is gone.
    body = client.V1DeleteOptions(propagation_policy="Foreground", **options)
    try:
        _ask(call, name, settings.KUBERNETES_NAMESPACE, body=body)
    except Refused:
        return  # it is gone


def _condition(job: Any, *kinds: str) -> Any | None:
    """The condition of one of these kinds that holds."""
    for one in job.status.conditions or []:
        if one.type in kinds and one.status == "True":
            return one
    return None


def _pod(job: str) -> Any | None:
    """The newest pod of a Job."""
    core = client.CoreV1Api(_api())
    found = _ask(core.list_namespaced_pod, settings.KUBERNETES_NAMESPACE, label_selector=f"job-name={job}")
    pods = sorted(found.items, key=lambda pod: str(pod.metadata.creation_timestamp))
    return pods[-1] if pods else None


def _why_waiting(pod: Any | None) -> str:
    """Such as `Unschedulable: 0/4 nodes are available` or `ImagePullBackOff: ...`."""
    if pod is None:
        return "it has no pod yet"
    for status in pod.status.container_statuses or []:
        if status.state and status.state.waiting:
            waiting = status.state.waiting
            return ": ".join(part for part in (waiting.reason, waiting.message) if part)[:300]
    for one in pod.status.conditions or []:
        if one.type == "PodScheduled" and one.status == "False":
            return ": ".join(part for part in (one.reason, one.message) if part)[:300]
    return "it is being started"


def _end_of(pod: Any | None) -> tuple[int | None, Cause, str]:
    """Exit code, cause and reason of a pod that is over."""
    if pod is None:
        return None, "lost", "its pod is gone"
    node = f"on node {pod.spec.node_name}" if pod.spec.node_name else ""
    for one in pod.status.conditions or []:
        if one.type == "DisruptionTarget" and one.status == "True":
            return None, "lost", f"{one.reason} {node}: {one.message}"
    for status in pod.status.container_statuses or []:
        ended = status.state.terminated if status.state else None
        if ended is not None:
            cause: Cause = "oom" if ended.reason == "OOMKilled" else ""
            return as_signal(int(ended.exit_code)), cause, f"{ended.reason} {node}".strip()
    cause = "lost" if pod.status.reason in _TAKEN or node else ""
    return None, cause, f"{pod.status.reason or pod.status.phase} {node}".strip()
