"""Imported prompts answered by chosen versions, and put to raters as comparisons.

A request is a row, and a schedule moves it on: a batch of prompts is taken in hand, missing answers are asked
for a few at a time, and when none is missing its comparisons are made and the cursor moves, in one
transaction. What a killed worker leaves are whole answers, which count; an answer that is there already, by
the same version and with the same sampling, is never made again.

People come first: at most SAMPLE_CONCURRENCY answers are made at a time in the whole installation, less those
that people and programs wait for at that moment; with as many as that it waits. One process samples at a
time; one that was overtaken (frozen, and woken later) finds its lease gone and writes nothing more.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from feedback.models import SampleRequest, Task
from feedback.services.checks import MAX_CANDIDATES, is_visible
from feedback.services.tasks import MAX_OVERLAP, create_compare_task
from inference.client import EngineError, EngineRefused, ModelMissing
from inference.models import Completion, Prompt, Version
from inference.services.completions import problem_of, sample_completions
from inference.services.leases import acquire_lease, release_lease, renew_lease
from inference.services.reconciler import PromotionRefused, load_on_all
from inference.services.versions import hold_version
from projects.errors import Conflict, Invalid, NotFound, Problem
from projects.models import Project
from projects.services import Actor, record_audit

logger = logging.getLogger(__name__)

MAX_PROMPTS = 100_000
BATCH = 16  # prompts in hand
TICK_SECONDS = 5.0  # no more answers are asked for after this; a worker has few threads
LEASE, LEASE_SECONDS = "samples", 60.0  # renewed with each answer
HOLD_SECONDS = 300.0  # engines keep the versions this long after the last look
READ_AT_ONCE = 1000


class NoPrompts(Invalid):
    code = "no_prompts"


class SampleRequestOver(Conflict):
    code = "samples_over"


class _Overtaken(Exception):
    """Another process samples now."""


def request_samples(
    *,
    project: Project,
    versions: Sequence[Version],
    samples: int = 1,
    tags: Sequence[str] = (),
    limit: int = 1_000,
    overlap: int | None = None,
    actor: Actor,
) -> SampleRequest:
    """Ask for `samples` answers of each version to the project's first `limit` prompts with one of `tags`.

    Prompts for training alone, and none of a conversation; without tags all of them. Each becomes one
    comparison of two to eight answers. Raises Invalid (NoPrompts), NotFound, Conflict, in a sentence.
    """
    _check_versions(project, versions)
    count = len(versions) * samples
    if not versions:
        raise Invalid("Choose at least one version.", param="versions")
    if samples < 1 or not 2 <= count <= MAX_CANDIDATES:
        raise Invalid(
            f"A comparison needs two to {MAX_CANDIDATES} answers: {len(versions)} versions with {samples}"
            f" samples each make {count}.",
            param="samples",
        )
    if samples > 1 and project.temperature == 0:
        raise Invalid(
            "At temperature 0 every sample of a version is the same. Raise the project's temperature, or ask"
            " several versions once.",
            param="samples",
        )
    if not 1 <= limit <= MAX_PROMPTS:
        raise Invalid(f"limit must be 1 to {MAX_PROMPTS}, got {limit}.", param="limit")
    if overlap is not None and not 1 <= overlap <= MAX_OVERLAP:
        raise Invalid(f"overlap must be 1 to {MAX_OVERLAP}, got {overlap}.", param="overlap")
    request = SampleRequest(
        project=project,
        versions=[version.number for version in versions],
        samples=samples,
        sampling={"temperature": project.temperature, "max_tokens": project.max_tokens},
        tags=sorted(set(tags)),
        overlap=overlap,
        created_by=actor.user,
    )
    request.prompts = sum(1 for _ in _prompt_ids(request, limit))
    if not request.prompts:
        raise NoPrompts(
            "No imported prompt for training carries these tags."
            if tags
            else "There is no imported prompt for training. Import some with POST /api/v1/prompts.",
            param="tags" if tags else None,
        )
    with transaction.atomic():
        request.save(force_insert=True)
        record_audit(
            project=project,
            actor=actor,
            action="samples.requested",
            subject=f"samples:{request.pk}",
            detail={"versions": request.labels, "samples": samples, "prompts": request.prompts},
        )
    return request


@transaction.atomic
def cancel_samples(*, request: SampleRequest, actor: Actor) -> SampleRequest:
    """Ask for no more answers; comparisons that were made stay. Raises SampleRequestOver."""
    if not _update(request, status=SampleRequest.Status.CANCELLED, batch=[], finished=timezone.now()):
        request.refresh_from_db()
        raise SampleRequestOver(f"This request is {request.get_status_display()} already.")
    record_audit(
        project=request.project,
        actor=actor,
        action="samples.cancelled",
        subject=f"samples:{request.pk}",
        detail={"done": request.done, "prompts": request.prompts},
    )
    return request


def tick_samples() -> int:
    """Some answers for each active request, in turn. Returns how many answers were made.

    Rung twice, or by two workers, it runs once: one of them holds the lease.
    """
    if not SampleRequest.objects.active().exists():
        return 0
    holder = acquire_lease(name=LEASE, seconds=LEASE_SECONDS)
    if holder is None:
        return 0
    sampler, made = _Sampler(holder), 0
    try:
        deadline = time.monotonic() + TICK_SECONDS
        while time.monotonic() < deadline:
            answers = sum(sampler.step(request) for request in _active())
            if not answers:
                break  # all wait: for a place, for an engine, or there is nothing left
            made += answers
    except _Overtaken:
        logger.warning("another process took over the sampling")
    finally:
        release_lease(name=LEASE, holder=holder)
    return made


@dataclass
class _Sampler:
    """One tick's work, under one lease."""

    holder: UUID

    def step(self, request: SampleRequest) -> int:
        """Ask for some of the missing answers of the batch in hand; returns how many came, or moved on."""
        try:
            versions = self._versions(request)
            if not request.batch and not self._take_batch(request):
                return 0
            room = _room()
            missing = _missing(request, versions)
            if not missing:
                self._close_batch(request, versions)
                return 1
            if not room:
                _update(request, message="It waits: people are being answered.")
                return 0
            version, prompts = missing[0]
            return self._ask(request, version, prompts[:room])
        except (NotFound, PromotionRefused) as problem:
            _fail(request, problem.message)
        except Problem as problem:
            # An engine that is away or full: tried again with the next tick.
            _update(request, message=problem.message[:500])
        return 0

    def _versions(self, request: SampleRequest) -> list[Version]:
        """In the order of the request, held by the engines from now on. Raises NotFound."""
        found = {
            version.number: version
            for version in Version.objects.select_related("project").filter(
                project=request.project_id, number__in=request.versions, status=Version.Status.AVAILABLE
            )
        }
        gone = [number for number in request.versions if number not in found]
        if gone:
            raise NotFound(f"v{gone[0]} is damaged or erased.")
        for version in found.values():
            hold_version(version, seconds=HOLD_SECONDS)
        return [found[number] for number in request.versions]

    def _take_batch(self, request: SampleRequest) -> bool:
        """The next prompts in hand; False when there is none, and the request is finished."""
        ids = list(_prompt_ids(request, min(BATCH, request.prompts - request.done)))
        if not ids:
            _update(request, status=SampleRequest.Status.FINISHED, message="", finished=timezone.now())
            return False
        return _update(request, batch=[str(id_) for id_ in ids], refusals=[])

    def _ask(self, request: SampleRequest, version: Version, prompts: list[Prompt]) -> int:
        """The number of prompts that are further now. Raises the Problem of an engine that gave no answer."""
        load_on_all(version)  # a look, when it is held already
        results = list(self._answers(request, version, prompts))
        answered = {completion.prompt_id for completion, _ in results if completion is not None}
        errors = [error for _, error in results if error is not None]
        refused: set[str] = set()
        if any(_is_refusal(error) for error in errors):
            # Which prompt it was about is not said: those without an answer are asked one by one.
            refused = self._find_refused(request, version, [p for p in prompts if p.pk not in answered])
        elif errors:
            raise problem_of(errors[0], version)
        _update(request, message="", refusals=sorted({*request.refusals, *refused}))
        return len(answered) + len(refused)

    def _find_refused(self, request: SampleRequest, version: Version, prompts: list[Prompt]) -> set[str]:
        """Of the prompts that got no answer, those that the engine will not answer, such as too long ones."""
        refused = set()
        for prompt in {prompt.pk: prompt for prompt in prompts}.values():
            for _, error in self._answers(request, version, [prompt]):
                if error is not None and _is_refusal(error):
                    logger.warning("prompt %s is left out: %s", prompt.pk, error.message)
                    refused.add(str(prompt.pk))
        return refused

    def _answers(
        self, request: SampleRequest, version: Version, prompts: list[Prompt]
    ) -> Iterator[tuple[Completion | None, EngineError | None]]:
        for result in sample_completions(
            project=request.project,
            prompts=prompts,
            version=version,
            sampling=request.sampling,
            concurrency=len(prompts),
        ):
            yield result
            self._renew()

    @transaction.atomic
    def _close_batch(self, request: SampleRequest, versions: list[Version]) -> None:
        """Make the comparisons and move on, both or neither, and only while the lease is ours."""
        self._renew()
        row = SampleRequest.objects.select_for_update().get(pk=request.pk)
        if row.status != SampleRequest.Status.RUNNING or row.batch != request.batch:
            return
        made = alike = 0
        for prompt in Prompt.objects.filter(pk__in=row.batch).order_by("id"):
            if str(prompt.pk) in row.refusals:
                continue
            answers = _different(_answers_to(request, versions, [prompt.pk])[prompt.pk])
            if len(answers) < 2:
                alike += 1
                continue
            create_compare_task(
                project=request.project,
                prompt=prompt,
                completions=answers,
                overlap=request.overlap,
                source=Task.Source.IMPORT,
            )
            made += 1
        row.done += len(row.batch)
        row.tasks, row.alike, row.refused = (
            row.tasks + made,
            row.alike + alike,
            row.refused + len(row.refusals),
        )
        row.cursor, row.batch, row.refusals, row.message = UUID(max(row.batch)), [], [], ""
        if row.done >= row.prompts:
            row.status, row.finished = SampleRequest.Status.FINISHED, timezone.now()
        row.save()

    def _renew(self) -> None:
        if not renew_lease(name=LEASE, holder=self.holder, seconds=LEASE_SECONDS):
            raise _Overtaken


# --- what there is to do ---------------------------------------------------------------------------------
def _active() -> list[SampleRequest]:
    return list(SampleRequest.objects.active().select_related("project"))


def _room() -> int:
    """How many answers may be made now: people and programs come first."""
    waited_for = Completion.objects.filter(state=Completion.State.RUNNING).count()
    places: int = settings.SAMPLE_CONCURRENCY
    return max(0, places - waited_for)


def _prompt_ids(request: SampleRequest, limit: int) -> Iterator[UUID]:
    """The next prompts after the cursor, as many as `limit`."""
    rows = Prompt.objects.for_training().filter(
        project=request.project_id, conversation=None, created__lte=request.created
    )
    after, found, wanted = request.cursor, 0, set(request.tags)
    while True:
        page = rows.filter(pk__gt=after) if after is not None else rows
        some = list(page.order_by("pk").values_list("pk", "tags")[:READ_AT_ONCE])
        for id_, tags in some:
            if not wanted or wanted.intersection(tags):
                yield id_
                found += 1
                if found == limit:
                    return
        if len(some) < READ_AT_ONCE:
            return
        after = some[-1][0]


def _missing(request: SampleRequest, versions: list[Version]) -> list[tuple[Version, list[Prompt]]]:
    """For each version, the prompts of the batch that it still answers; as often as it does."""
    left_out = set(request.refusals)
    prompts = [
        prompt
        for prompt in Prompt.objects.filter(pk__in=request.batch).order_by("id")
        if str(prompt.pk) not in left_out
    ]
    answers = _answers_to(request, versions, [prompt.pk for prompt in prompts])
    found = []
    for version in versions:
        wanted = []
        for prompt in prompts:
            there = sum(answer.version_id == version.pk for answer in answers[prompt.pk])
            wanted += [prompt] * (request.samples - there)
        if wanted:
            found.append((version, wanted))
    return found


def _answers_to(
    request: SampleRequest, versions: list[Version], prompts: Sequence[UUID]
) -> dict[UUID, list[Completion]]:
    """Prompt id -> its first `samples` answers of each version, also of earlier requests and evaluations."""
    rows = Completion.objects.filter(
        prompt__in=prompts,
        version__in=versions,
        state=Completion.State.FINISHED,
        quarantined=False,
        api_key=None,
        sampling=request.sampling,
    )
    counts: defaultdict[tuple[UUID, Any], int] = defaultdict(int)
    found: defaultdict[UUID, list[Completion]] = defaultdict(list)
    for answer in rows.order_by("id"):
        counts[answer.prompt_id, answer.version_id] += 1
        if counts[answer.prompt_id, answer.version_id] <= request.samples:
            found[answer.prompt_id].append(answer)
    return found


def _different(answers: list[Completion]) -> list[Completion]:
    """Without empty ones, and one of those that say the same: nobody can compare these."""
    by_text = {answer.text.strip(): answer for answer in reversed(answers) if is_visible(answer.text)}
    return list(by_text.values())


def _is_refusal(error: EngineError) -> bool:
    return isinstance(error, EngineRefused) and not isinstance(error, ModelMissing)


def _check_versions(project: Project, versions: Sequence[Version]) -> None:
    if len({version.pk for version in versions}) != len(versions):
        raise Invalid("A version stands twice; `samples` says how often each answers.", param="versions")
    for version in versions:
        if version.project_id != project.pk:
            raise NotFound("There is no such version in this project.", param="versions")
        if version.kind == Version.Kind.REWARD:
            raise Invalid(f"{version.label} is a reward model; it writes no answers.", param="versions")
        if version.status != Version.Status.AVAILABLE:
            code = f"version_{version.status}"
            raise Conflict(f"{version.label} is {version.status}.", code=code, param="versions")


def _fail(request: SampleRequest, message: str) -> None:
    _update(
        request,
        status=SampleRequest.Status.FAILED,
        message=message[:500],
        batch=[],
        finished=timezone.now(),
    )


def _update(request: SampleRequest, **values: Any) -> bool:
    """False, and nothing written, when the request is over."""
    running = SampleRequest.objects.filter(pk=request.pk, status=SampleRequest.Status.RUNNING)
    if not running.update(**values):
        return False
    for name, value in values.items():
        setattr(request, name, value)
    return True
