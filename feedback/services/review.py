"""Where raters disagree: measured when a task has all its raters, and a reviewer has the last word.

A reviewer's answer is feedback of its own, marked `is_final`. It changes nobody's row. A dataset with a
cut-off after it takes it instead of all other judgements of the same candidates (a preference) or of the same
answer and aspect (a rating); they are left out as `adjudicated`. Taken back, theirs count again, and the task
waits for a reviewer anew.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

from feedback.models import Assignment, Task
from feedback.services.tasks import put_in_line
from feedback.services.workbench import workbench_of
from projects.form import Form

REVIEW_PRIORITY = 5


def weigh_answers(task: Task) -> None:
    """A task has all its raters: note how far they agree, and ask a reviewer where it is too little."""
    if task.gold is not None:
        return
    done = Assignment.objects.filter(task=task, state=Assignment.State.DONE)
    answers = [(shown, said or {}) for shown, said in done.values_list("shown", "answer")]
    if len(answers) < 2:
        return
    task.agreement = agreement_of(task.kind, answers, task.project.rating_form)
    workbench = workbench_of(task.project)
    is_disputed = (
        workbench.reviews_disputes
        and task.kind in (Task.Kind.COMPARE, Task.Kind.RATE)
        and task.agreement is not None
        and task.agreement < workbench.review_below
    )
    task.outcome = Task.Outcome.DISPUTED if is_disputed else Task.Outcome.AGREED
    task.save(update_fields=["agreement", "outcome"])
    if is_disputed:
        _ask_reviewer(task)
    else:  # asked before a judgement was taken back, and no longer needed
        Task.objects.filter(disputed=task, is_open=True, held=0).update(is_open=False)


def close_review(review: Task) -> None:
    """A reviewer answered: what raters disagreed about is settled."""
    Task.objects.filter(review=review).update(outcome=Task.Outcome.SETTLED)


def agreement_of(kind: str, answers: list[tuple[list[str], dict[str, Any]]], form: Form) -> float | None:
    """The mean over each two raters of how alike their answers are, 0 to 1. None where that means nothing."""
    if kind == Task.Kind.COMPARE:
        orders = [_order(shown, said) for shown, said in answers]
        pairs = [_alike(a, b) for a, b in combinations(orders, 2)]
    elif kind == Task.Kind.RATE:
        pairs = [_near(a["ratings"], b["ratings"], form) for (_, a), (_, b) in combinations(answers, 2)]
    else:
        return None
    return sum(pairs) / len(pairs) if pairs else None


def _order(shown: list[str], said: dict[str, Any]) -> dict[str, int] | None:
    """Rank by completion, whatever the order shown; None for all bad."""
    return None if said.get("all_bad") else dict(zip(shown, said["ranks"], strict=True))


def _alike(a: dict[str, int] | None, b: dict[str, int] | None) -> float:
    """Over each two candidates: 1 for the same order, a half where one says tie, 0 for the opposite."""
    if a is None or b is None:
        return 1.0 if a is b else 0.0
    scores = []
    for x, y in combinations(sorted(a), 2):
        first, second = _sign(a[x] - a[y]), _sign(b[x] - b[y])
        scores.append(1 - abs(first - second) / 2)
    return sum(scores) / len(scores)


def _near(a: dict[str, int], b: dict[str, int], form: Form) -> float:
    """Over the aspects that both rated: 1 for the same value, 0 for the two ends of the scale."""
    scores = []
    for key in a.keys() & b.keys():
        values = form.by_key[key].values if key in form.by_key else ()
        span = values[-1] - values[0] if values else 0
        scores.append(1 - min(1.0, abs(a[key] - b[key]) / span) if span else float(a[key] == b[key]))
    return sum(scores) / len(scores) if scores else 1.0


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def _ask_reviewer(task: Task) -> None:
    review, is_new = Task.objects.get_or_create(
        project=task.project,
        kind=Task.Kind.REVIEW,
        candidate_set=task.candidate_set,
        defaults={
            "disputed": task,
            "source": Task.Source.REVIEW,
            "prompt": task.prompt,
            "overlap": 1,
            "priority": REVIEW_PRIORITY,
        },
    )
    if is_new:
        review.completions.set(task.completions.all())
        put_in_line(review)
    elif review.done:  # settled before; the raters' task was opened again since, and they disagree still
        Task.objects.filter(pk=task.pk).update(outcome=Task.Outcome.SETTLED)
    else:
        Task.objects.filter(pk=review.pk).update(is_open=True)
