"""Feedback is appended, superseded and retracted here, and never changed in place.

Who was first is decided by the database's constraints. A row whose insert they refuse is then explained:
the same id and body is a replay and answers with the first row, another body is IdReused, and a second
judgement of the same thing is AlreadyJudged. (No constraint spans the four tables: one id sent with two
kinds in the same instant makes two rows. A moment apart, the second is IdReused.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NotRequired, Required, TypedDict, TypeVar, Unpack
from uuid import UUID

from django.db import IntegrityError, connection, transaction
from django.db.models import F, Value
from django.utils import timezone

from feedback.errors import AlreadyJudged, IdReused, NotStanding
from feedback.models import Assignment, Candidate, Correction, Feedback, Flag, Preference, Rating, Task
from feedback.services import checks
from feedback.services.batch import Batch
from feedback.services.judge import Judge
from feedback.services.set_aside import weigh_flags
from inference.artifact import canonical_json
from inference.models import Completion
from projects.access import may
from projects.errors import Invalid, NotFound
from projects.models import ApiKey, Membership, Project
from projects.services import Actor, record_audit
from projects.services.outbox import record_event

KINDS: dict[str, type[Rating] | type[Preference] | type[Correction] | type[Flag]] = {
    "rating": Rating,
    "preference": Preference,
    "correction": Correction,
    "flag": Flag,
}
Row = TypeVar("Row", Rating, Preference, Correction, Flag)


class Common(TypedDict):
    """What every judgement may carry. `id` is the client's UUIDv7, by which a replay is known."""

    source: Required[str]
    id: NotRequired[UUID | None]
    seconds_spent: NotRequired[float | None]
    supersedes: NotRequired[UUID | None]
    # The place in the queue where it was asked for: its answers were shown there, so they may be judged.
    assignment: NotRequired[Assignment | None]
    # The caller has shown them these answers in another way, such as side by side in a battle.
    is_shown: NotRequired[bool]
    # The judgements of the same request, to be written with them.
    batch: NotRequired[Batch | None]


def record_rating(
    *,
    project: Project,
    judge: Judge,
    completion_id: UUID,
    value: int,
    aspect: str = "thumbs",
    reasons: Sequence[str] = (),
    comment: str = "",
    is_final: bool = False,
    **common: Unpack[Common],
) -> tuple[Rating, bool]:
    """The rating and whether it is a replay. Raises Invalid, NotFound, NotJudgeable, AlreadyJudged, ..."""
    said = {"completion": completion_id, "value": value, "aspect": aspect, "reasons": reasons}
    digest = _digest("rating", judge, common, {**said, "comment": comment})
    if first := _first(Rating, project, digest, common):
        return first, True
    checks.check_rating(project, aspect, value, reasons)
    checks.check_comment(comment)
    completion = _judged(project, judge, completion_id, common)
    row = Rating(
        completion=completion,
        aspect=aspect,
        value=value,
        reasons=list(reasons),
        comment=comment,
        is_final=is_final,
    )
    return _append(row, project, judge, common, digest, same={"completion": completion, "aspect": aspect})


def record_preference(
    *,
    project: Project,
    judge: Judge,
    candidates: Sequence[UUID],
    ranks: Sequence[int] | None = None,
    all_bad: bool = False,
    strength: int | None = None,
    comment: str = "",
    is_final: bool = False,
    **common: Unpack[Common],
) -> tuple[Preference, bool]:
    """The preference and whether it is a replay. `candidates` are in shown order; rank 1 is best."""
    said = {"candidates": candidates, "ranks": ranks, "all_bad": all_bad, "strength": strength}
    digest = _digest("preference", judge, common, {**said, "comment": comment})
    if first := _first(Preference, project, digest, common):
        return first, True
    checks.check_candidates(candidates)
    checks.check_ranks(len(candidates), ranks, all_bad, strength)
    checks.check_comment(comment)
    completions = checks.judgeable_completions(
        project,
        judge,
        candidates,
        param="candidates",
        is_shown=_is_shown(common, candidates),
        known=_known(common),
    )
    prompts = {completion.prompt_id for completion in completions}
    if len(prompts) > 1:
        raise Invalid(
            "The candidates answer different prompts. Compare answers to one prompt.",
            param="candidates",
            code="different_prompts",
        )
    row = Preference(
        prompt_id=prompts.pop(),
        candidate_set=candidate_set(candidates),
        all_bad=all_bad,
        strength=strength,
        comment=comment,
        is_final=is_final,
    )
    sides = [
        Candidate(completion=completion, position=place, rank=ranks[place] if ranks else None)
        for place, completion in enumerate(completions)
    ]
    same = {"candidate_set": row.candidate_set}
    return _append(row, project, judge, common, digest, same=same, sides=sides)


def record_correction(
    *, project: Project, judge: Judge, completion_id: UUID, text: str, **common: Unpack[Common]
) -> tuple[Correction, bool]:
    """The correction and whether it is a replay. Raises SameText, Invalid (empty_text), ..."""
    text = checks.plain_newlines(text)
    digest = _digest("correction", judge, common, {"completion": completion_id, "text": text})
    if first := _first(Correction, project, digest, common):
        return first, True
    completion = _judged(project, judge, completion_id, common)
    checks.check_correction(text, completion.text)
    row = Correction(completion=completion, text=text)
    return _append(row, project, judge, common, digest, same={"completion": completion})


def record_flag(
    *,
    project: Project,
    judge: Judge,
    completion_id: UUID,
    reason: str,
    comment: str = "",
    **common: Unpack[Common],
) -> tuple[Flag, bool]:
    """The flag and whether it is a replay. A judge may raise several flags of different reasons.

    Where it is enough, the answer is set aside in the same transaction (services/set_aside.py).
    """
    said = {"completion": completion_id, "reason": reason, "comment": comment}
    digest = _digest("flag", judge, common, said)
    if first := _first(Flag, project, digest, common):
        return first, True
    if reason not in Flag.Reason.values:
        raise Invalid(
            f"Unknown reason {reason!r}. There are: {', '.join(Flag.Reason.values)}.",
            param="reason",
            code="unknown_reason",
        )
    checks.check_comment(comment)
    completion = _judged(project, judge, completion_id, common)
    row = Flag(completion=completion, reason=reason, comment=comment)
    same = {"completion": completion, "reason": reason}
    if (batch := common.get("batch")) is not None:
        batch.flagged.add(completion.pk)  # weighed at its end
        return _append(row, project, judge, common, digest, same=same)
    with transaction.atomic():
        recorded = _append(row, project, judge, common, digest, same=same)
        weigh_flags(project=project, completions=[completion.pk])
    return recorded


@transaction.atomic
def retract_feedback(*, project: Project, judge: Judge, feedback_id: UUID) -> tuple[Feedback, bool]:
    """Take a judgement back; True when it was taken back before. It stays as a row, out of new datasets.

    One's own: a member's, or what the same key recorded. Managers, and keys with the scope `manage`, may
    take back any, and that is audited. Raises NotFound.
    """
    row = find_feedback(project=project, feedback_id=feedback_id)
    kind = type(row).__name__.lower()
    if not (_is_own(row, judge) or _may_retract_any(project, judge)):
        raise NotFound("There is no such judgement in this project.", param="id")
    place = None if isinstance(row, Flag) else row.assignment  # a flag answers no question
    if place is not None:
        Task.objects.select_for_update(of=("self",)).get(pk=place.task_id)  # before any of its rows
    retracted = type(row).objects.filter(pk=row.pk, retracted=None).update(retracted=timezone.now())
    row.refresh_from_db(fields=["retracted"])
    if retracted and place is not None:
        free_place(place)
    if retracted and isinstance(row, Flag):
        weigh_flags(project=project, completions=[row.completion_id])
    if retracted and not _is_own(row, judge):
        actor = Actor(user=judge.user, api_key=judge.api_key)
        record_audit(project=project, actor=actor, action="feedback.retracted", subject=f"{kind}:{row.pk}")
    return row, not retracted


@transaction.atomic
def free_place(assignment: Assignment) -> bool:
    """Open the question again, first of all for the rater who answered it; True when this call did.

    Nothing while a row of the answer still stands, such as another aspect of the same rating.
    """
    answers = [model for model in KINDS.values() if model is not Flag]
    if any(model.objects.usable().filter(assignment=assignment).exists() for model in answers):
        return False
    task = Task.objects.select_for_update(of=("self",)).get(pk=assignment.task_id)
    done = Assignment.objects.filter(pk=assignment.pk, state=Assignment.State.DONE)
    if not done.update(state=Assignment.State.LAPSED, closed=None, is_correct=None):
        return False
    Task.objects.filter(pk=task.pk).update(done=F("done") - 1, is_open=True, outcome="", agreement=None)
    if task.disputed_id is not None:  # a reviewer's word: what it settled waits for another
        Task.objects.filter(pk=task.disputed_id).update(outcome=Task.Outcome.DISPUTED)
    assignment.refresh_from_db(fields=["state", "closed", "is_correct"])
    return True


def find_feedback(*, project: Project, feedback_id: UUID) -> Feedback:
    """The judgement with this id, of whichever kind. Raises NotFound."""
    kind = _kind_of(feedback_id)
    row: Feedback | None = (
        KINDS[kind].objects.filter(project=project, pk=feedback_id).first() if kind else None
    )
    if row is None:
        raise NotFound("There is no such judgement in this project.", param="id")
    return row


def candidate_set(ids: Sequence[UUID]) -> str:
    """The same comparison whatever the order shown: sha256 of the sorted ids."""
    return hashlib.sha256(",".join(sorted(str(one) for one in ids)).encode()).hexdigest()


def _judged(project: Project, judge: Judge, completion_id: UUID, common: Common) -> Completion:
    ids = [completion_id]
    [completion] = checks.judgeable_completions(
        project,
        judge,
        ids,
        param="completion_id",
        is_shown=_is_shown(common, ids),
        known=_known(common),
    )
    return completion


def _known(common: Common) -> Mapping[UUID, Completion] | None:
    batch = common.get("batch")
    return batch.completions if batch is not None else None


def _is_shown(common: Common, ids: Sequence[UUID]) -> bool:
    assignment = common.get("assignment")
    is_asked = assignment is not None and {str(one) for one in ids} <= set(assignment.shown)
    return is_asked or common.get("is_shown", False)


# --- how a row comes in ----------------------------------------------------------------------------------
def _digest(kind: str, judge: Judge, common: Common, said: dict[str, Any]) -> str:
    """sha256 of what the client said: a replay has the same one."""
    body = {
        **said,
        "kind": kind,
        "judge": judge.key,
        "seconds_spent": common.get("seconds_spent"),
        "supersedes": common.get("supersedes"),
    }
    return hashlib.sha256(canonical_json({name: _plain(value) for name, value in body.items()})).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _first(model: type[Row], project: Project, digest: str, common: Common) -> Row | None:
    """The row that this request made before. Raises IdReused when its id names something else."""
    feedback_id, batch = common.get("id"), common.get("batch")
    if feedback_id is None or (batch is not None and not batch.may_exist(feedback_id)):
        return None
    if _kind_of(feedback_id) is None:
        return None
    first: Row | None = model.objects.filter(pk=feedback_id, project=project, body_digest=digest).first()
    if first is None:
        raise IdReused(param="id")
    return first


def _kind_of(feedback_id: UUID) -> str | None:
    """Which of the four has a row with this id, in any project."""
    found = [
        model.objects.order_by().filter(pk=feedback_id).annotate(kind=Value(kind)).values_list("kind")
        for kind, model in KINDS.items()
    ]
    rows = list(found[0].union(*found[1:], all=True))
    return str(rows[0][0]) if rows else None


def _append(
    row: Row,
    project: Project,
    judge: Judge,
    common: Common,
    digest: str,
    *,
    same: dict[str, Any],
    sides: Sequence[Candidate] = (),
) -> tuple[Row, bool]:
    """Insert the row; `same` says what a second judgement by this judge would have in common with it."""
    checks.check_seconds(common.get("seconds_spent"))
    if feedback_id := common.get("id"):
        row.pk = feedback_id
    row.project = project
    row.rater, row.api_key, row.subject, row.judge = judge.user, judge.api_key, judge.subject, judge.key
    row.source = common["source"]
    row.seconds_spent = common.get("seconds_spent")
    row.assignment = common.get("assignment")
    row.guideline_version = project.guideline_version
    row.body_digest = digest
    row.created = timezone.now()
    for side in sides:
        side.preference_id = row.pk  # now that it has its id, which may be the client's
    old, batch = common.get("supersedes"), common.get("batch")
    if batch is not None and old is None:
        alone = partial(_insert, row, project, common, digest, same=same, sides=sides)
        batch.take(row, sides, _told(row, sides), alone)
        return row, False
    if batch is not None:
        batch.flush()
    inserted = _insert(row, project, common, digest, same=same, sides=sides)
    if batch is not None:
        batch.note(inserted[0])
    return inserted


def _insert(
    row: Row,
    project: Project,
    common: Common,
    digest: str,
    *,
    same: dict[str, Any],
    sides: Sequence[Candidate],
) -> tuple[Row, bool]:
    """The row, or what it meets in the database. Raises AlreadyJudged, IdReused, NotStanding."""
    model = type(row)
    old = common.get("supersedes")
    # One statement needs no transaction around it, which would cost two more round trips.
    is_single = not (old or sides or project.has_webhooks or connection.in_atomic_block)
    try:
        with nullcontext() if is_single else transaction.atomic():
            if old:
                _supersede(model, row, old, same)
            row.save(force_insert=True)
            Candidate.objects.bulk_create(sides)
            record_event(project=project, name="feedback.recorded", data=_told(row, sides))
    except (IntegrityError, NotStanding) as refused:
        if replayed := _first(model, project, digest, common):
            return replayed, True
        if isinstance(refused, NotStanding):
            raise
        first = model.objects.usable().filter(judge=row.judge, **same).values_list("pk", flat=True).first()
        if first is None:
            raise
        raise AlreadyJudged(first) from None
    return row, False


def _told(row: Feedback, sides: Sequence[Candidate]) -> dict[str, Any]:
    """What other systems hear of a judgement: ids, by which the API tells the rest."""
    ids = [side.completion_id for side in sides] if sides else [row.completion_id]  # type: ignore[attr-defined]  # all but preferences
    return {
        "id": row.pk,
        "kind": type(row).__name__.lower(),
        "completion_ids": ids,
        "supersedes": row.supersedes_id,  # type: ignore[attr-defined]  # of each concrete kind
    }


def _supersede(model: type[Row], row: Row, old: UUID, same: dict[str, Any]) -> None:
    """Close the judge's own standing row, at the moment at which the new one begins to count."""
    before = model.objects.filter(pk=old, project=row.project, judge=row.judge).first()
    if before is None:
        raise NotFound("There is no judgement of yours with this id and kind.", param="supersedes")
    if any(getattr(before, name) != value for name, value in same.items() if name != "reason"):
        raise Invalid(
            "`supersedes` names a judgement of something else.", param="supersedes", code="not_the_same_thing"
        )
    if not model.objects.usable().filter(pk=old).update(superseded=row.created):
        raise NotStanding(param="supersedes")
    row.supersedes_id = old


# --- whose it is -----------------------------------------------------------------------------------------
def _is_own(row: Feedback, judge: Judge) -> bool:
    if judge.user is not None:
        return row.rater_id == judge.user.pk
    return judge.api_key is not None and row.api_key_id == judge.api_key.pk


def _may_retract_any(project: Project, judge: Judge) -> bool:
    if judge.user is not None:
        return may(judge.user, project, Membership.Role.MANAGER)
    return judge.api_key is not None and ApiKey.Scope.MANAGE in judge.api_key.scopes
