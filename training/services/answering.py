"""An evaluation's answers, made through the engine on the weights that would serve, then put to raters."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.utils import timezone

from feedback.models import Task
from feedback.services.tasks import GATE_PRIORITY, create_compare_task
from inference.client import EngineRefused, ModelMissing
from inference.models import Completion, Prompt, Version
from inference.services.completions import sample_completion, sample_completions
from inference.services.reconciler import PromotionRefused, load_on_all
from projects.errors import Problem, TooMany, Unavailable
from projects.models import Project
from projects.services import SYSTEM
from training.models import Evaluation
from training.services.evaluations import decide, fail_evaluation
from training.services.evidence import is_awaited, start_evidence
from training.services.policy_changes import policy_of

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=120)  # renewed with each answer
BATCH = 32  # answers asked for at a time
TICK_SECONDS = 20.0  # no new batch is begun after this


def tick_evaluations() -> int:
    """One step for each evaluation that waits for us. Returns how many there were."""
    waiting = Evaluation.objects.filter(
        Q(status=Evaluation.Status.ANSWERING) | Q(status=Evaluation.Status.JUDGING, is_sampled=True)
    ).order_by("created")
    ids = list(waiting.values_list("id", flat=True))
    for evaluation_id in ids:
        try:
            tick_evaluation(evaluation_id)
        except Problem as error:
            # An engine that is away, a candidate that will not load: tried again with the next tick.
            logger.warning("evaluation %s: %s", evaluation_id, error.message)
    return len(ids)


def tick_evaluation(evaluation_id: UUID) -> None:
    """Make some of the missing answers; when none is missing ask the raters; when all are judged decide.

    Two at once are harmless: one holds the lease. Raises Unavailable when no engine answers.
    """
    evaluation = _claim(evaluation_id)
    if evaluation is None:
        return
    try:
        if evaluation.status == Evaluation.Status.ANSWERING:
            if _answer_some(evaluation):
                _ask_raters(evaluation)
        elif not _is_being_judged(evaluation) and not is_awaited(evaluation):
            decide(evaluation=evaluation, actor=SYSTEM)
    except PromotionRefused as error:
        fail_evaluation(evaluation, error.message)
    finally:
        Evaluation.objects.filter(pk=evaluation.pk).update(lease_until=None)


def sampling_of(project: Project) -> dict[str, Any]:
    """How the answers of pages and of the gate are drawn."""
    return {"temperature": project.temperature, "max_tokens": project.max_tokens}


def _claim(evaluation_id: UUID) -> Evaluation | None:
    now = timezone.now()
    free = Q(lease_until=None) | Q(lease_until__lt=now)
    rows = Evaluation.objects.filter(pk=evaluation_id, status__in=("answering", "judging"), is_sampled=True)
    if not rows.filter(free).update(lease_until=now + LEASE):
        return None
    return Evaluation.objects.select_related("project", "candidate__project", "champion__project").get(
        pk=evaluation_id
    )


def _answer_some(evaluation: Evaluation) -> bool:
    """True when no answer is missing."""
    deadline = time.monotonic() + TICK_SECONDS
    for version in (evaluation.champion, evaluation.candidate):
        if version.kind != Version.Kind.BASE and _missing(evaluation, version):
            load_on_all(version)  # a look, when it is held already
        for batch in _batches(_missing(evaluation, version)):
            if time.monotonic() > deadline:
                return False
            _answer_batch(evaluation, version, batch)
    return not any(_missing(evaluation, side) for side in (evaluation.champion, evaluation.candidate))


def _missing(evaluation: Evaluation, version: Version) -> list[Prompt]:
    """Gate prompts without a usable answer of this version, drawn as the project draws."""
    answered = _answers(evaluation, version).values("prompt_id")
    skipped = evaluation.numbers.get("skipped", [])
    rows = (
        Prompt.objects.filter(id__in=evaluation.prompt_ids).exclude(id__in=answered).exclude(id__in=skipped)
    )
    return list(rows.order_by("id"))


def _answers(evaluation: Evaluation, version: Version) -> Any:
    return Completion.objects.judgeable().filter(
        version=version,
        prompt_id__in=evaluation.prompt_ids,
        state=Completion.State.FINISHED,
        sampling=sampling_of(evaluation.project),
    )


def _batches(prompts: list[Prompt]) -> Iterator[list[Prompt]]:
    for start in range(0, len(prompts), BATCH):
        yield prompts[start : start + BATCH]


def _answer_batch(evaluation: Evaluation, version: Version, prompts: list[Prompt]) -> None:
    """Answer the prompts at once. Raises Unavailable when the engine went away or is full."""
    project, done, errors = evaluation.project, set(), []
    for completion, error in sample_completions(
        project=project, prompts=prompts, version=version, sampling=sampling_of(project)
    ):
        if completion is not None:
            done.add(completion.prompt_id)
        if error is not None:
            errors.append(error)
        Evaluation.objects.filter(pk=evaluation.pk).update(lease_until=timezone.now() + LEASE)
    if not errors:
        return
    if not any(isinstance(error, EngineRefused) and not isinstance(error, ModelMissing) for error in errors):
        raise Unavailable(errors[0].message)
    # Some prompt cannot be answered, such as one longer than the context. Find out which, and leave it out.
    for prompt in prompts:
        if prompt.id not in done:
            _answer_or_skip(evaluation, version, prompt)


def _answer_or_skip(evaluation: Evaluation, version: Version, prompt: Prompt) -> None:
    try:
        sample_completion(
            project=evaluation.project,
            prompt=prompt,
            version=version,
            sampling=sampling_of(evaluation.project),
        )
    except (Unavailable, TooMany):
        raise
    except Problem as error:
        logger.warning("%s: gate prompt %s is left out: %s", evaluation, prompt.id, error.message)
        skipped = [*evaluation.numbers.get("skipped", []), str(prompt.id)]
        evaluation.numbers = {**evaluation.numbers, "skipped": skipped}
        evaluation.save(update_fields=["numbers"])


def _ask_raters(evaluation: Evaluation) -> None:
    """A blind comparison for each prompt, where the policy asks raters; the same text twice is a tie."""
    new, old = (
        {
            answer.prompt_id: answer
            for answer in _answers(evaluation, version).select_related("prompt").order_by("id")
        }
        for version in (evaluation.candidate, evaluation.champion)
    )
    answered = sorted(new.keys() & old.keys())
    start_evidence(evaluation, [(new[id_], old[id_]) for id_ in answered])
    identical = []
    asks_raters = policy_of(evaluation.project).asks_raters
    for prompt_id in answered:
        pair = [new[prompt_id], old[prompt_id]]
        if pair[0].text.strip() == pair[1].text.strip():
            identical.append(str(prompt_id))
            continue
        if not asks_raters:
            continue
        create_compare_task(
            project=evaluation.project,
            prompt=pair[0].prompt,
            completions=pair,
            priority=GATE_PRIORITY,
            source=Task.Source.GATE,
        )
    Evaluation.objects.filter(pk=evaluation.pk, status=Evaluation.Status.ANSWERING).update(
        status=Evaluation.Status.JUDGING, numbers={**evaluation.numbers, "identical": identical}
    )


def _is_being_judged(evaluation: Evaluation) -> bool:
    """While a comparison of the two versions is open, deciding would be a look too early."""
    return Task.objects.filter(
        project=evaluation.project,
        prompt_id__in=evaluation.prompt_ids,
        is_open=True,
        completions__version_id=evaluation.candidate_id,
    ).exists()
