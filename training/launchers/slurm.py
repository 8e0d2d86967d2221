"""Children as Slurm jobs, submitted with submitit. Nodes and trainer share the run's folder.

submitit writes the batch script and calls sbatch. Its own way of looking asks sacct, which needs an
accounting database; `scontrol` knows each job for some minutes after its end (MinJobAge) without one. What a
recipe made stands in the run's folder anyway, so a job that nobody remembers is judged by that.
"""

from __future__ import annotations

import math
import re
import shlex
import subprocess
import time
from typing import Any

import submitit
from django.conf import settings
from submitit.core.utils import FailedJobError, FailedSubmissionError

from training.launchers.commands import added, as_signal, command, into_log, passed
from training.launchers.protocol import Away, Cause, Handle, Job, Refused, Sight

ANSWER_SECONDS = 20
# What Slurm's commands say while its controller is away or busy.
_AWAY = ("Unable to contact slurm controller", "Socket timed out", "Connection refused", "try again later")
_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SUSPENDED"}
_ALIVE = {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "RESIZING"}
_CAUSES: dict[str, Cause] = {
    "OUT_OF_MEMORY": "oom",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "CANCELLED": "cancelled",
    "PREEMPTED": "interrupted",
    "NODE_FAIL": "lost",
    "BOOT_FAIL": "lost",
}

# A node that fails while it takes the job over leaves the job FAILED, for this reason.
_NODE_REASONS = {"JobLaunchFailure", "NodeDown"}


def start(job: Job) -> Handle:
    """Submit the job. Raises Refused for what Slurm will not take, such as an unknown partition."""
    folder = job.folder / "slurm"
    folder.mkdir(exist_ok=True)
    executor = submitit.SlurmExecutor(folder=folder)
    executor.update_parameters(**_parameters(job))
    words = shlex.join(into_log(command(job), job.folder / "log.txt"))
    try:
        # Not `submit`, which wants a Python function: the child is the same command everywhere.
        submitted = executor._submit_command(words)
    except (FailedJobError, FailedSubmissionError) as error:
        raise _told(str(error)) from error
    return {"job": str(submitted.job_id), "launched": time.time(), "waiting": True}


def find(job: Job) -> Handle | None:
    states = ",".join(sorted(_WAITING | _ALIVE))
    said = _ask("squeue", "--noheader", f"--name={_name(job)}", f"--states={states}", "--format=%i")
    numbers = said.split()
    return {"job": numbers[-1], "launched": time.time(), "waiting": True} if numbers else None


def poll(handle: Handle) -> Sight:
    try:
        facts = _facts(_ask("scontrol", "show", "job", "--oneliner", handle["job"]))
    except Refused:
        return Sight(is_alive=False, reason=f"Slurm no longer knows job {handle['job']}.")
    state, reason = facts.get("JobState", ""), facts.get("Reason", "None")
    if state in _WAITING:
        why = "it was just handed in" if reason == "None" else reason
        return Sight(is_alive=True, is_waiting=True, reason=f"Job {handle['job']} waits in Slurm: {why}.")
    if state in _ALIVE:
        return Sight(is_alive=True)
    code, signal_ = (int(part) for part in re.findall(r"\d+", facts.get("ExitCode", "0:0"))[:2])
    said = f"Slurm says of job {handle['job']}: {state}"
    if reason not in ("None", "NonZeroExitCode"):
        said += f", {reason}"
    is_node = state == "NODE_FAIL" or reason in _NODE_REASONS
    if is_node:
        said += f", node {facts.get('NodeList') or facts.get('BatchHost') or 'unknown'} failed"
    return Sight(
        is_alive=False,
        code=-signal_ or as_signal(code),
        cause="lost" if is_node else _CAUSES.get(state, ""),
        reason=f"{said}.",
    )


def interrupt(handle: Handle) -> None:
    """SIGTERM for all that the job started, or out of the queue with it. Slurm kills after its KillWait."""
    _cancel(handle["job"])


def cancel(handle: Handle) -> None:
    _cancel("--signal=KILL", "--full", handle["job"])
    # What waits takes no signal.
    _cancel("--state=PENDING", handle["job"])


def _cancel(*words: str) -> None:
    try:
        _ask("scancel", "--quiet", *words)
    except Refused:
        return  # it is gone


def _parameters(job: Job) -> dict[str, Any]:
    """sbatch's options: what the run needs, then what TRAIN_SLURM says of this cluster."""
    # The environment is what we name, never all of the trainer's: that holds its secrets.
    export = [*passed(), *(f"{name}={value}" for name, value in added(job).items())]
    more: dict[str, Any] = {
        "chdir": settings.ROOT,
        "export": ",".join(export),
        "no-requeue": True,  # attempts are counted here
        "signal": "TERM@60",  # a checkpoint before Slurm's time limit
        **settings.TRAIN_SLURM,
    }
    minutes = math.ceil(job.max_seconds / 60) + 2  # the supervisor's own limit comes first
    return {
        "job_name": _name(job),
        "comment": job.name,
        "time": int(more.pop("time", minutes)),
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": settings.TRAIN_CPUS,
        "mem": f"{settings.TRAIN_MEMORY_GB}GB",
        "stderr_to_stdout": True,
        **({} if settings.TRAIN_DEVICE == "cpu" else {"gpus_per_node": job.processes}),
        "additional_parameters": more,
    }


def _name(job: Job) -> str:
    return f"ratchet-{job.id}"


def _ask(*words: str) -> str:
    """What one of Slurm's commands prints. Raises Away while the controller is away, else Refused."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=ANSWER_SECONDS)
    except (subprocess.TimeoutExpired, FileNotFoundError) as error:
        raise Away(f"Slurm does not answer: {error}.") from error
    if done.returncode != 0:
        raise _told(done.stderr.strip() or done.stdout.strip())
    return done.stdout


def _told(said: str) -> Away | Refused:
    if any(part in said for part in _AWAY):
        return Away(f"Slurm does not answer: {said}")
    return Refused(f"Slurm refuses it: {said}")


def _facts(line: str) -> dict[str, str]:
    """`scontrol --oneliner`: Name=value, and some values have spaces in them."""
    return {name: value.strip() for name, value in re.findall(r"(\w+)=(.*?)(?=\s\w+(?::\w+)?=|$)", line)}
