"""A small Kubernetes API server over HTTP, with one node: this machine.

It speaks the calls that the launcher makes (Jobs: create, read, list, delete; pods: list, delete), refuses
what the API's own schema refuses, and really runs a Job's container: its command with its environment, as a
process here. What a cluster does beyond that (scheduling, images, volumes, rights) is not in it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate

from tests.processes import ROOT

JOBS = "/apis/batch/v1/namespaces/lab/jobs"
PODS = "/api/v1/namespaces/lab/pods"
SCHEMA = "1.36"


class Cluster:
    """Its jobs and pods by name; `is_away` makes it answer 503, `is_full` keeps pods from starting."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.is_away = self.is_full = False
        self.said: list[str] = []
        self.lock = threading.Lock()
        cluster = self

        class Handler(_Handler):
            of = cluster

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def kubeconfig(self, path: Path) -> Path:
        url = f"http://127.0.0.1:{self.server.server_port}"
        named = {
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {}}],
        }
        context = {
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **named, **context}))
        return path

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        for child in self.children.values():
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()

    # --- what a cluster does ---------------------------------------------------------------------
    def create(self, job: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        try:
            kubernetes_validate.validate(job, SCHEMA, strict=True)
        except kubernetes_validate.ValidationError as error:
            return 422, _status(422, error.message)
        name = job["metadata"]["name"]
        if name in self.jobs:
            return 409, _status(409, f"jobs {name} already exists")
        job["status"] = {"active": 1}
        self.jobs[name] = job
        self._start(job)
        return 201, job

    def _start(self, job: dict[str, Any]) -> None:
        name = job["metadata"]["name"]
        labels = {**job["metadata"]["labels"], "job-name": name}
        made = datetime.now(UTC).isoformat()
        pod = {
            "metadata": {"name": f"{name}-x1", "labels": labels, "creationTimestamp": made},
            "spec": {**job["spec"]["template"]["spec"], "nodeName": "node-7"},
            "status": {"phase": "Pending", "conditions": [_unschedulable()] if self.is_full else []},
        }
        self.pods[pod["metadata"]["name"]] = pod
        if self.is_full:
            return
        [container] = pod["spec"]["containers"]
        # As in an image: nothing of our environment but a path to Python, and the checkout to work in.
        environment = {"PATH": f"{ROOT}/.venv/bin:/usr/bin:/bin"}
        environment |= {one["name"]: one["value"] for one in container["env"]}
        self.children[pod["metadata"]["name"]] = subprocess.Popen(
            container["command"], cwd=ROOT, env=environment, start_new_session=True
        )
        pod["status"]["phase"] = "Running"

    def look(self) -> None:
        """Bring the states of pods and jobs up to date."""
        for name, child in list(self.children.items()):
            code = child.poll()
            if code is None:
                continue
            del self.children[name]
            job = self.jobs[name.removesuffix("-x1")]
            if job["metadata"].get("deletionTimestamp"):
                del self.jobs[job["metadata"]["name"]], self.pods[name]
                continue
            code = 128 - code if code < 0 else code
            self.end(name, code, "Error" if code else "Completed")

    def end(self, pod: str, code: int, reason: str, job_says: dict[str, str] | None = None) -> None:
        """The pod is over, and its job with it."""
        is_done = code == 0
        state = {"terminated": {"exitCode": code, "reason": reason}}
        status = {
            "name": "run",
            "state": state,
            "ready": False,
            "restartCount": 0,
            "image": "i",
            "imageID": "i",
        }
        self.pods[pod]["status"] = {
            "phase": "Succeeded" if is_done else "Failed",
            "containerStatuses": [status],
        }
        ended = {"type": "Complete" if is_done else "Failed", "status": "True"}
        if not is_done:
            ended |= {
                "reason": "BackoffLimitExceeded",
                "message": "Job has reached the specified backoff limit",
            }
        self.jobs[pod.removesuffix("-x1")]["status"] = {"conditions": [ended | (job_says or {})]}

    def take_node(self) -> None:
        """The node of every running pod fails."""
        for name, child in list(self.children.items()):
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            del self.children[name]
            self.end(name, 137, "Error")
            gone = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
            self.pods[name]["status"]["conditions"] = [{**gone, "message": "node is not ready"}]

    def delete(self, name: str, signal_: signal.Signals) -> tuple[int, dict[str, Any]]:
        job = self.jobs.get(name)
        if job is None:
            return 404, _status(404, f"jobs {name} not found")
        job["metadata"]["deletionTimestamp"] = datetime.now(UTC).isoformat()
        child = self.children.get(f"{name}-x1")
        if child is not None:
            os.killpg(child.pid, signal_)
            if signal_ == signal.SIGKILL:
                child.wait()  # without grace a pod is gone at once; the kernel takes a moment for a process
        else:
            del self.jobs[name]
            self.pods.pop(f"{name}-x1", None)
        return 200, job


class _Handler(BaseHTTPRequestHandler):
    of: Cluster

    def log_message(self, *said: Any) -> None:
        return

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        with self.of.lock:
            self.of.look()
            self.of.said.append(f"{self.command} {parts.path}")
            status, answer = self._answer(parts.path, parse_qs(parts.query), body)
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815 - the names are the library's

    def _answer(self, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, dict[str, Any]]:
        if self.of.is_away:
            return 503, _status(503, "the server is currently unable to handle the request")
        wanted = dict(part.split("=") for part in query.get("labelSelector", [""])[0].split(",") if part)
        name = path.rpartition("/")[2]
        match self.command, path.rpartition("/")[0]:
            case "POST", _ if path == JOBS:
                return self.of.create(body)
            case "GET", _ if path in (JOBS, PODS):
                rows = self.of.jobs if path == JOBS else self.of.pods
                items = [row for row in rows.values() if wanted.items() <= row["metadata"]["labels"].items()]
                return 200, {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}
            case "GET", folder if folder == JOBS and name in self.of.jobs:
                return 200, self.of.jobs[name]
            case "DELETE", folder if folder == JOBS:
                assert body["propagationPolicy"] == "Foreground"
                return self.of.delete(name, signal.SIGTERM)
            case "DELETE", folder if folder == PODS:
                assert body["gracePeriodSeconds"] == 0
                pod = self.of.pods.get(name)
                status, answer = self.of.delete(name.removesuffix("-x1"), signal.SIGKILL)
                return (200, pod) if pod else (status, answer)
        return 404, _status(404, f"{path} not found")


def _status(code: int, message: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}


def _unschedulable() -> dict[str, str]:
    said = {"reason": "Unschedulable", "message": "0/4 nodes are available: 4 Insufficient nvidia.com/gpu."}
    return {"type": "PodScheduled", "status": "False", **said}
