"""What a rater says to a task: checked, recorded as feedback, and the place closed, in one transaction.

compare  {"ranks": [1, 2], "strength"?: 1..3, "comment"?}  a rank for each shown answer, 1 is best, equal
         ranks tie; {"all_bad": true} when none can be ranked; for two answers also
         {"verdict": "left" | "right" | "tie" | "both_bad"}
rate     {"ratings": {"thumbs": 1, "accuracy": 4}, "reasons"?: {"thumbs": ["clear"]}, "comment"?}
correct  {"text": "the full better text"} or {"is_fine": true}, which is a thumb up
review   as the task that it is about; it is recorded as final
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, assert_never
from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.utils import timezone
from pydantic import Field, model_validator

from feedback.errors import AlreadyJudged, LeaseLost
from feedback.models import Assignment, Correction, Feedback, Rating, Standing, Task
from feedback.services import checks
from feedback.services.gold import is_met
from feedback.services.judge import Judge
from feedback.services.queue import LEASE, judged_elsewhere, locked_task, rows_of
from feedback.services.raters import weigh_qualification
from feedback.services.record import record_correction, record_preference, record_rating
from feedback.services.review import close_review, weigh_answers
from feedback.services.standings import locked_standing
from projects.bodies import StrictBody, parse_body
from projects.errors import Invalid

RANKS: dict[str, list[int] | None] = {"left": [1, 2], "right": [2, 1], "tie": [1, 1], "both_bad": None}
CLOSED = ("state", "closed", "draft", "answer", "client_id", "seconds_spent", "is_correct")
MAX_DRAFT = 200_000  # characters of JSON
Comment = Annotated[str, Field(max_length=checks.MAX_COMMENT)]


class CompareAnswer(StrictBody):
    verdict: Literal["left", "right", "tie", "both_bad"] | None = None
    ranks: list[int] | None = None
    all_bad: bool = False
    strength: int | None = None
    comment: Comment = ""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.verdict is not None) + (self.ranks is not None) + self.all_bad != 1:
            raise ValueError("Send one of verdict, ranks and all_bad")
        return self


class RateAnswer(StrictBody):
    ratings: Annotated[dict[str, int], Field(min_length=1, max_length=12)]
    reasons: dict[str, list[str]] = {}
    comment: Comment = ""


class CorrectAnswer(StrictBody):
    text: str | None = None
    is_fine: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.text is not None) == self.is_fine:
            raise ValueError("Send the better text, or is_fine")
        return self


AnswerBody = CompareAnswer | RateAnswer | CorrectAnswer
_BODIES: dict[str, type[CompareAnswer] | type[RateAnswer] | type[CorrectAnswer]] = {
    Task.Kind.COMPARE: CompareAnswer,
    Task.Kind.RATE: RateAnswer,
    Task.Kind.CORRECT: CorrectAnswer,
}


@transaction.atomic
def answer_task(
    *,
    assignment: Assignment,
    answer: dict[str, Any],
    seconds_spent: float | None = None,
    client_id: UUID | None = None,
) -> list[Feedback]:
    """Record the answer and close the place; the same answer twice, or the same client id, is one.

    Raises Invalid for an answer of another form, LeaseLost when others took the place after the lease ran
    out, AlreadyJudged, NotJudgeable.
    """
    said = read_answer(assignment, answer)
    checks.check_seconds(seconds_spent)
    standing = locked_standing(assignment.project, assignment.rater)
    task = locked_task(assignment.task_id, standing.project)
    mine = Assignment.objects.get(pk=assignment.pk)
    mine.project, mine.rater, mine.task = standing.project, assignment.rater, task
    if mine.state == Assignment.State.DONE:
        return _same_answer(mine, said)
    is_late = mine.state == Assignment.State.LAPSED and task.is_open and task.free > 0
    if mine.state != Assignment.State.LEASED and not is_late:
        if first := judged_elsewhere(task, mine.rater):
            raise AlreadyJudged(first)
        raise LeaseLost()
    rows = _record(task, mine, said, seconds_spent, client_id)
    mine.state, mine.closed, mine.draft = Assignment.State.DONE, timezone.now(), None
    mine.answer, mine.client_id, mine.seconds_spent = said, client_id, seconds_spent
    if task.gold is not None:
        mine.is_correct = is_met(task.gold, [UUID(one) for one in mine.shown], said)
    mine.save(update_fields=CLOSED)
    _count(task, standing, is_late=is_late)
    if mine.is_correct is not None:
        weigh_qualification(standing)
    for name in CLOSED:
        setattr(assignment, name, getattr(mine, name))
    return rows


def read_answer(assignment: Assignment, answer: Any) -> dict[str, Any]:
    """The answer in the one form in which it is kept. Raises Invalid."""
    said = parse_body(_BODIES[assignment.task.asks], answer)
    if isinstance(said, CompareAnswer):
        return _ranked(said, len(assignment.shown))
    if isinstance(said, RateAnswer):
        return _rated(said, assignment)
    if isinstance(said, CorrectAnswer):
        return {"is_fine": True} if said.is_fine else {"text": checks.plain_newlines(said.text or "")}
    assert_never(said)


def save_draft(*, assignment: Assignment, draft: dict[str, Any]) -> None:
    """Keep what was typed so far, and the lease with it. Raises LeaseLost, Invalid when it is too long."""
    if len(str(draft)) > MAX_DRAFT:
        raise Invalid("The draft is too long to be kept.", param="draft")
    held = Assignment.objects.filter(pk=assignment.pk, state=Assignment.State.LEASED)
    if not held.update(draft=draft, lease_until=timezone.now() + LEASE):
        raise LeaseLost()


# --- reading ---------------------------------------------------------------------------------------------
def _ranked(said: CompareAnswer, count: int) -> dict[str, Any]:
    ranks, all_bad = said.ranks, said.all_bad
    if said.verdict is not None:
        if count != 2:
            raise Invalid(f"A verdict is about two answers; rank these {count}.", param="verdict")
        ranks, all_bad = RANKS[said.verdict], said.verdict == "both_bad"
    checks.check_ranks(count, ranks, all_bad, said.strength)
    kept: dict[str, Any] = {"all_bad": True} if all_bad else {"ranks": ranks}
    if said.strength is not None:
        kept["strength"] = said.strength
    return {**kept, "comment": said.comment} if said.comment else kept


def _rated(said: RateAnswer, assignment: Assignment) -> dict[str, Any]:
    project = assignment.project
    for aspect in project.rating_form.aspects:
        if aspect.required and aspect.key not in said.ratings:
            raise Invalid(f"Say something about {aspect.key}.", param=f"ratings.{aspect.key}")
    for key, value in said.ratings.items():
        checks.check_rating(project, key, value, said.reasons.get(key, []))
    lost = sorted(set(said.reasons) - set(said.ratings))
    if lost:
        raise Invalid(f"Reasons for {lost[0]} need its value.", param=f"reasons.{lost[0]}")
    if said.comment and not project.rating_form.comment:
        raise Invalid("This form takes no comment.", param="comment")
    kept: dict[str, Any] = {"ratings": said.ratings}
    if reasons := {key: keys for key, keys in said.reasons.items() if keys}:
        kept["reasons"] = reasons
    return {**kept, "comment": said.comment} if said.comment else kept


# --- recording -------------------------------------------------------------------------------------------
def _record(
    task: Task, mine: Assignment, said: dict[str, Any], seconds: float | None, client_id: UUID | None
) -> list[Feedback]:
    """The feedback rows of one answer; the first has the client's id."""
    common: dict[str, Any] = {
        "project": mine.project,
        "judge": Judge(user=mine.rater),
        "source": Feedback.Source.UI,
        "seconds_spent": seconds,
        "assignment": mine,
    }
    is_final = task.kind == Task.Kind.REVIEW
    ids = [UUID(one) for one in mine.shown]
    comment = said.get("comment", "")
    if task.asks == Task.Kind.COMPARE:
        preference, _ = record_preference(
            candidates=ids,
            ranks=said.get("ranks"),
            all_bad=said.get("all_bad", False),
            strength=said.get("strength"),
            comment=comment,
            is_final=is_final,
            id=client_id,
            **common,
        )
        return [preference]
    if task.asks == Task.Kind.RATE:
        rows: list[Feedback] = []
        for place, (aspect, value) in enumerate(said["ratings"].items()):
            rating, _ = record_rating(
                completion_id=ids[0],
                aspect=aspect,
                value=value,
                reasons=said.get("reasons", {}).get(aspect, []),
                comment=comment if place == 0 else "",
                is_final=is_final,
                id=client_id if place == 0 else None,
                **common,
            )
            rows.append(rating)
        return rows
    if said.get("is_fine"):
        before = _said_before(Rating, mine, completion=ids[0], aspect="thumbs")
        rating, _ = record_rating(completion_id=ids[0], value=1, id=client_id, supersedes=before, **common)
        return [rating]
    before = _said_before(Correction, mine, completion=ids[0])
    correction, _ = record_correction(
        completion_id=ids[0], text=said["text"], id=client_id, supersedes=before, **common
    )
    return [correction]


def _said_before(model: type[Rating] | type[Correction], mine: Assignment, **same: Any) -> UUID | None:
    """The rater's thumb from another task, or their better text from the chat: what is said now counts.

    Such a task is not kept from them, as one to rate or compare is, since to correct is another question.
    """
    rows = model.objects.usable().filter(project=mine.project, judge=Judge(user=mine.rater).key, **same)
    return rows.values_list("pk", flat=True).first()


def _count(task: Task, standing: Standing, *, is_late: bool) -> None:
    """One more answer: of the task, and of the rater's today."""
    task.done += 1
    task.is_open = task.done < task.overlap
    counted = Task.objects.filter(pk=task.pk)
    held = {} if is_late else {"held": F("held") - 1}
    counted.update(done=F("done") + 1, is_open=task.is_open, **held)
    if not task.is_open:
        close_review(task) if task.kind == Task.Kind.REVIEW else weigh_answers(task)
    today = timezone.localdate()
    standing.answered, standing.day = standing.answered_on(today) + 1, today
    standing.save(update_fields=["answered", "day"])


def _same_answer(first: Assignment, said: dict[str, Any]) -> list[Feedback]:
    """A button pressed twice, or a submission sent again. Raises AlreadyJudged for another answer."""
    rows = rows_of(first)
    if first.answer == said and rows:
        return list(rows)
    if not rows:
        raise LeaseLost("Your answer to this task was taken back. Take the next one.")
    raise AlreadyJudged(rows[0].pk)
