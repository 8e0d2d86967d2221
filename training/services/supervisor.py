"""Moves runs, one short step at a time: launch, adopt, take over events, finish, fail, resume.

No task waits for a training. `tick` may be called by anybody, at any time, twice at once, and after any
crash: what it finds in the row, in the run directory and among the processes says what is next.

    queued --claim--> running --child published--> finished
                         |------ config, data, divergence, fault, time, disk --> failed
                         |------ lost, out of memory: again, up to RUN_ATTEMPTS ---> failed
                         |------ cancel --> cancelled
"""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
import time
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from inference.artifact import ArtifactError, verify
from inference.services.versions import DamagedArtifact, NoRoom, register_version
from projects.services import SYSTEM, record_audit
from training.launchers import find_launcher
from training.launchers.protocol import Away, Job, Refused, Sight
from training.models import Run, RunEvent
from training.services import rundir
from training.services.events import take_over_events
from training.services.leases import claim_run, update_held
from training.services.methods import METHODS, ROWS
from training.services.runs import tell_end

logger = logging.getLogger(__name__)

# What a recipe says of its own end (its last `failed` event), and what that is to us.
_CAUSES = {
    "config": Run.Cause.DATA,
    "base": Run.Cause.DATA,
    "data": Run.Cause.DATA,
    "oom": Run.Cause.OOM,
    "diverged": Run.Cause.DIVERGED,
    "disk": Run.Cause.DISK,
}
# The same by exit code, for a child that could not say it.
_CODES = {65: "data", 70: "internal", 71: "oom", 72: "diverged", 74: "disk", 75: "interrupted", 76: "lost"}
# Between the SIGTERM of a cancellation and SIGKILL: time to write a checkpoint.
GRACE_SECONDS = 30.0


def tick_all() -> int:
    """One step for each active run, those in work first. Returns how many there were."""
    running = Run.objects.filter(status=Run.Status.RUNNING).order_by("created")
    queued = Run.objects.filter(status=Run.Status.QUEUED).order_by("created")
    ids = [*running.values_list("id", flat=True), *queued.values_list("id", flat=True)]
    for run_id in ids:
        try:
            tick(run_id)
        except Exception:
            # One run's surprise must not keep the others from moving; it is tried again with the next tick.
            logger.exception("tick of run %s", run_id)
    return len(ids)


def tick(run_id: UUID) -> None:
    """One step of one run. Does nothing when it is over, or another trainer's."""
    run = claim_run(run_id)
    if run is None:
        return
    try:
        if run.cancel_requested:
            _cancel(run)
        elif _is_launched(run):
            _watch(run)
        else:
            _start(run)
    except Away as error:
        _note(run, str(error))  # nothing is known and nothing was changed; the next tick asks again


def _start(run: Run) -> None:
    """Launch the child, or take up one that was launched and never noted."""
    launcher = find_launcher(run.launcher)
    try:
        rundir.prepare(run)
        fence = rundir.read_fence(run)
        handle = launcher.find(_job(run, fence=""))
        if handle is None:
            fence = rundir.raise_fence(run)  # whoever worked in this folder before is fenced out first
            handle = launcher.start(_job(run, fence=fence))
    except rundir.NotReady as error:
        _fail(run, Run.Cause.DATA, str(error))
        return
    except (OSError, Refused) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        cause = Run.Cause.DISK if full else Run.Cause.INTERNAL
        _fail(run, cause, f"The run could not be started: {error}.")
        return
    handle = {"fence": fence, **handle, "events_from": run.events_offset}
    # An interruption is nobody's fault: the start after it is no new attempt.
    attempt = run.attempt + (0 if run.handle.get("interrupted") else 1)
    # Overtaken, nothing is noted: the new owner finds this child, or raised the fence before which it leaves.
    update_held(run, handle=handle, attempt=attempt)


def _job(run: Run, *, fence: str) -> Job:
    method = METHODS[run.method]
    return Job(
        id=str(run.id),
        name=f"{run.project.slug}/{run.number}",
        module=method.module,
        folder=run.folder,
        fence=fence,
        processes=method.processes,
        threads=settings.TRAIN_THREADS,
        max_seconds=settings.RUN_MAX_SECONDS,
    )


def _watch(run: Run) -> None:
    launcher = find_launcher(run.launcher)
    take_over_events(run)
    sight = launcher.poll(run.handle)
    if sight.is_alive and sight.is_waiting:
        _note(run, sight.reason)
        return
    if run.handle.get("waiting"):
        _leave_queue(run)
    if sight.is_alive and _is_overdue(run):
        launcher.cancel(run.handle)
        _fail(run, Run.Cause.TIMEOUT, f"The run took more than {settings.RUN_MAX_SECONDS:.0f} s.")
    elif not sight.is_alive:
        _settle(run, sight)
    elif rundir.is_silent(run):
        launcher.cancel(run.handle)
        silence = f"It gave no sign of life for {settings.RUN_SILENCE_SECONDS:.0f} s."
        _settle(run, Sight(is_alive=False, reason=silence))


def _leave_queue(run: Run) -> None:
    """A cluster has begun with it: what is measured in seconds counts from now."""
    values: dict[str, Any] = {
        "handle": {**run.handle, "waiting": False, "launched": time.time()},
        "message": "",
    }
    if run.step == 0:
        values["started"] = timezone.now()
    update_held(run, **values)


def _note(run: Run, message: str) -> None:
    """What people should know while nothing happens. It goes when something does."""
    if run.message != message:
        update_held(run, message=message[:4000])


def _settle(run: Run, sight: Sight) -> None:
    """The child is gone: publish what it made, or say why there is nothing, or start it again."""
    while take_over_events(run):
        pass  # all that it said before its end
    if rundir.is_published(run):
        _publish(run)
        return
    if sight.cause in ("cancelled", "timeout"):  # by the cluster, whatever the child said when it was told
        end = Run.Status.CANCELLED if sight.cause == "cancelled" else Run.Status.FAILED
        _end(run, end, Run.Cause(sight.cause), sight.reason)
        return
    kind, message = _why(run, sight)
    if kind == "interrupted":
        update_held(run, handle={"interrupted": True}, message=message)
    elif kind in ("lost", "oom"):
        _try_again(run, Run.Cause(kind), message)
    else:
        _fail(run, _CAUSES.get(kind, Run.Cause.INTERNAL), message)


def _why(run: Run, sight: Sight) -> tuple[str, str]:
    """The cause and the sentence: the child's own words, else the cluster's, else what its code means."""
    code = sight.code
    said = (
        RunEvent.objects.filter(run=run, name="failed", sequence__gte=run.handle.get("events_from", 0))
        .order_by("-sequence")
        .first()
    )
    if said is not None:
        return str(said.data.get("cause")), str(said.data.get("message", ""))
    if sight.cause:
        return sight.cause, sight.reason
    if run.handle.get("fence", "") != rundir.read_fence(run):
        return "interrupted", "Another start of the run had taken its folder over."
    if code == -signal.SIGTERM:
        return "interrupted", "The child was asked to stop before it could hear it."
    if code is not None and code in _CODES:
        return _CODES[code], rundir.log_tail(run) or f"The child ended with exit code {code}."
    if code == 0:
        return "internal", "The child ended well and published nothing."
    if code is not None and code > 0:
        return "internal", rundir.log_tail(run) or f"The child ended with exit code {code}."
    return "lost", sight.reason or _how_lost(code)


def _try_again(run: Run, cause: Run.Cause, message: str) -> None:
    """Another attempt with the next tick: from the last checkpoint, or with half the batch after an oom."""
    if run.attempt >= settings.RUN_ATTEMPTS:
        _fail(run, cause, f"{message} That was attempt {run.attempt} of {settings.RUN_ATTEMPTS}.")
        return
    values: dict[str, Any] = {"handle": {}, "message": message}
    if cause == Run.Cause.OOM:
        smaller = METHODS[run.method].config.from_dict(run.config).with_half_the_batch()
        if smaller is None:
            _fail(run, cause, message)
            return
        values["config"] = smaller.to_dict()
    update_held(run, **values)


def _publish(run: Run) -> None:
    """Make the artifact a version and finish the run, both or neither, and only while the claim holds.

    Rows are no version: they stay where they are.
    """
    artifact = run.folder / "artifact"
    makes = METHODS[run.method].makes
    version = None
    try:
        manifest = verify(artifact, servable=makes != ROWS)
        _check_lineage(run, manifest, makes)
        with transaction.atomic():
            if not update_held(
                run,
                status=Run.Status.FINISHED,
                cause="",
                message="",
                step=run.total_steps,
                lease_until=None,
                finished=timezone.now(),
            ):
                return
            if makes != ROWS:
                version = register_version(project=run.project, kind=makes, artifact=artifact, actor=SYSTEM)
                Run.objects.filter(pk=run.pk).update(version=version)
            tell_end(run, version=version.label if version else "")
    except NoRoom as error:
        run.status = Run.Status.RUNNING
        _fail(run, Run.Cause.DISK, f"What the run made is whole, but {error.message}")
        return
    except (ArtifactError, DamagedArtifact) as error:
        run.status = Run.Status.RUNNING  # the transaction took the update back
        _fail(run, Run.Cause.INTERNAL, f"What the run published is damaged: {error}.")
        return
    rundir.forget_checkpoints(run)
    record_audit(
        project=run.project,
        actor=SYSTEM,
        action="run.finished",
        subject=f"run:{run.number}",
        detail={"version": version.number if version else None, "digest": manifest["digest"]},
    )


def _check_lineage(run: Run, manifest: dict[str, object], makes: str) -> None:
    """The artifact says what it is and which dataset made it; another one's is not ours."""
    if manifest.get("kind") != makes:
        raise ArtifactError(f"it is of kind {manifest.get('kind')}, and {run.method} makes {makes}")
    if manifest.get("dataset") != run.dataset.digest:
        raise ArtifactError(f"it was made from {manifest.get('dataset')}, not from {run.dataset.digest}")


def _cancel(run: Run) -> None:
    """SIGTERM, so that a checkpoint is left; SIGKILL for a child that does not end within GRACE_SECONDS."""
    if _is_launched(run):
        launcher = find_launcher(run.launcher)
        if launcher.poll(run.handle).is_alive:
            asked = run.handle.get("interrupted_at")
            if asked is None:
                launcher.interrupt(run.handle)
                update_held(run, handle={**run.handle, "interrupted_at": time.time()})
                return
            if time.time() - asked < GRACE_SECONDS:
                return
            launcher.cancel(run.handle)
        take_over_events(run)
    _end(run, Run.Status.CANCELLED, Run.Cause.CANCELLED, "Cancelled.")


def _fail(run: Run, cause: Run.Cause, message: str) -> None:
    _end(run, Run.Status.FAILED, cause, message)


def _end(run: Run, status: Run.Status, cause: Run.Cause, message: str) -> None:
    values = {"status": status, "cause": cause, "message": message[:4000], "lease_until": None}
    with transaction.atomic():
        if not update_held(run, finished=timezone.now(), **values):
            return
        with contextlib.suppress(OSError):  # a full disk must not keep the row from ending
            rundir.raise_fence(run)  # should a child live on somewhere, it leaves
        tell_end(run)
        record_audit(
            project=run.project,
            actor=SYSTEM,
            action=f"run.{status}",
            subject=f"run:{run.number}",
            detail={"cause": cause, "message": message[:500]},
        )


def _is_launched(run: Run) -> bool:
    return "launched" in run.handle


def _is_overdue(run: Run) -> bool:
    assert run.started is not None  # noqa: S101 - by the claim
    return bool((timezone.now() - run.started).total_seconds() > settings.RUN_MAX_SECONDS)


def _how_lost(code: int | None) -> str:
    if code is None:
        return "The child is gone and did not say why."
    hint = " The system may have run out of memory." if code == -9 else ""
    return f"The child was ended by signal {-code}.{hint}"
