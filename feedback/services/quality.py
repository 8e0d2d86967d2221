"""What is measured about each rater, by a schedule, into stored rows: pages only read them.

`Standing.numbers` of a rater who answered since the last look. Answers of the latest WINDOW tasks count, and
none from before the rater was last restored, so that old evidence is not held against them twice.

    judged          answers in the window
    seconds_median  from question to answer
    gold            {"n", "right", "accuracy", "low", "high"}  Wilson's 95 % interval
    left            {"n", "left", "share", "p"}  of two with a winner; p: by a fair coin
    newest          {"n", "newest", "share", "others", "p"}  others: of one who chooses it often; p: as often
    fast            {"n", "fast", "share"}  answers under the workbench's min_seconds
    agreement       {"n", "share", "raters"}  0 to 1 over each answer of another rater to the same task
    majority        {"n", "matched", "share", "others"}  of two with a winner, as most others on the task
                    said; others: the share of one in the others' upper quarter
    favour          a word that this rater follows and others do not (services/favours.py), or None
    remarks         what stands out, in words
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from statistics import median
from typing import Any, Literal
from uuid import UUID

from django.db.models import F, Max, OuterRef, Q, Subquery
from django.utils import timezone

from feedback.models import Assignment, RaterEvent, Standing, Task, Workbench
from feedback.services.favours import Decided, find_favour, read_decided
from feedback.services.raters import watch_rater
from feedback.services.review import agreement_of
from feedback.services.workbench import workbench_of
from feedback.stats import wilson
from inference.models import Completion
from projects.errors import Conflict
from projects.form import Form
from projects.models import Project
from projects.services import SYSTEM

WINDOW = 2_000  # answers a rater
WINDOW_OF_OTHERS = 10_000  # of all of them together
ABOVE_CHANCE_P = 0.2  # who may be better than a coin is not called one
ENOUGH_GOLD = 10
ENOUGH = 20
ENOUGH_MATCHES = 40
NEAR_CHANCE = 0.6
UPPER_QUARTER = 0.75
BIAS_P = 0.001  # of many raters looked at again and again, few must stand out by chance
BIAS_SHARE = 0.65
FAST_SHARE = 0.5
LOW_AGREEMENT = 0.4


@dataclass(frozen=True)
class Said:
    """One answer, with what is needed to weigh it."""

    task_id: UUID
    kind: str
    shown: list[str]
    answer: dict[str, Any]
    seconds: float | None
    is_correct: bool | None


def measure_raters(*, project: Project) -> int:
    """Measure the raters who answered since they were last measured. Returns how many."""
    workbench = workbench_of(project)
    closed = Assignment.objects.filter(project=project, rater=OuterRef("user"), closed__isnull=False)
    standings = (
        Standing.objects.filter(project=project)
        .annotate(latest=Subquery(closed.order_by("-closed").values("closed")[:1]))
        .filter(Q(measured=None) | Q(measured__lt=F("latest")), latest__isnull=False)
    )
    fresh = list(standings.select_related("user", "project"))
    decided = read_decided(project) if fresh else []
    for standing in fresh:
        measure_rater(standing, workbench, decided)
    return len(fresh)


def measure_rater(standing: Standing, workbench: Workbench, decided: Sequence[Decided]) -> dict[str, Any]:
    """Measure one rater, store the numbers, and watch them where something stands out."""
    now = timezone.now()
    restored = _last_restored(standing)
    said = _answers_of(standing, restored)
    form = standing.project.rating_form
    numbers: dict[str, Any] = {
        "judged": len(said),
        "seconds_median": _median(one.seconds for one in said),
        "gold": _gold(said),
        "left": _left(said),
        "newest": _newest(standing, said),
        "fast": _fast(said, workbench.min_seconds),
        "agreement": _agreement(standing, said, form),
        "majority": _majority(standing, said),
    }
    favour = find_favour(decided, standing.user_id, restored)
    numbers["favour"] = asdict(favour) if favour else None
    numbers["remarks"] = _remarks(numbers, workbench) or ([favour.words] if favour else [])
    standing.numbers, standing.measured = numbers, now
    standing.save(update_fields=["numbers", "measured"])
    if numbers["remarks"] and standing.status in (Standing.Status.NEW, Standing.Status.QUALIFIED):
        with suppress(Conflict):  # somebody did so meanwhile
            watch_rater(
                project=standing.project,
                rater=standing.user,
                actor=SYSTEM,
                reason=" ".join(numbers["remarks"]),
            )
    return numbers


def _last_restored(standing: Standing) -> datetime | None:
    events = RaterEvent.objects.filter(
        project=standing.project_id, rater=standing.user_id, kind=RaterEvent.Kind.RESTORED
    )
    last: datetime | None = events.aggregate(last=Max("created"))["last"]
    return last


def _answers_of(standing: Standing, restored: datetime | None) -> list[Said]:
    rows = Assignment.objects.filter(
        project=standing.project_id,
        rater=standing.user_id,
        state=Assignment.State.DONE,
        task__kind__in=(Task.Kind.COMPARE, Task.Kind.RATE, Task.Kind.CORRECT),
    )
    if restored is not None:
        rows = rows.filter(closed__gt=restored)
    fields = ("task_id", "task__kind", "shown", "answer", "seconds_spent", "is_correct")
    return [
        Said(task_id, kind, shown, answer or {}, seconds, is_correct)
        for task_id, kind, shown, answer, seconds, is_correct in rows.order_by("-closed").values_list(
            *fields
        )[:WINDOW]
    ]


def _gold(said: list[Said]) -> dict[str, Any]:
    met = [one.is_correct for one in said if one.is_correct is not None]
    low, high = wilson(sum(met) / len(met), len(met)) if met else (None, None)
    return {
        "n": len(met),
        "right": sum(met),
        "accuracy": sum(met) / len(met) if met else None,
        "low": low,
        "high": high,
    }


def _left(said: list[Said]) -> dict[str, Any]:
    """Sides are shuffled by the server, so that any lean is the rater's."""
    left = [ranks[0] < ranks[1] for one in said if (ranks := _two(one)) and ranks[0] != ranks[1]]
    return {
        "n": len(left),
        "left": sum(left),
        "share": sum(left) / len(left) if left else None,
        "p": _chance(left, 0.5) if left else None,
    }


def _chance(
    hits: list[bool], share: float, side: Literal["two-sided", "less", "greater"] = "two-sided"
) -> float:
    """How likely chance alone, of this share, gives so many hits or a rarer number (two-sided, exact)."""
    from scipy.stats import binomtest  # half a second, which each process that starts would pay

    return float(binomtest(sum(hits), len(hits), share, alternative=side).pvalue)


def _newest(standing: Standing, said: list[Said]) -> dict[str, Any]:
    """Whether the newest version wins with this rater more often than with the others of the project.

    A newer version should win more often than not, so chance is no measure; the other raters are. Not their
    mean, which one who contradicts everybody would draw down: the share of one in their upper quarter.
    """
    mine = _newest_wins(said)
    by_rater: defaultdict[int, list[Said]] = defaultdict(list)
    for rater, one in _of_others(standing):
        by_rater[rater].append(one)
    wins = [_newest_wins(of_one) for of_one in by_rater.values()]
    share = _upper_quarter(sum(won) / len(won) for won in wins if len(won) >= ENOUGH)
    return {
        "n": len(mine),
        "newest": sum(mine),
        "share": sum(mine) / len(mine) if mine else None,
        "others": share,
        "p": _chance(mine, share) if mine and share is not None else None,
    }


def _newest_wins(said: list[Said]) -> list[bool]:
    """For each pair of different versions with a winner: whether it was the newer one."""
    pairs = [(one, ranks) for one in said if (ranks := _two(one)) and ranks[0] != ranks[1]]
    ids = {pk for one, _ in pairs for pk in one.shown}
    numbers = dict(
        Completion.objects.filter(pk__in=ids, version__isnull=False)
        .annotate(number=F("version__number"))
        .values_list("pk", "number")
    )
    wins = []
    for one, ranks in pairs:
        left, right = (numbers.get(UUID(pk)) for pk in one.shown)
        if left is not None and right is not None and left != right:
            wins.append((left > right) == (ranks[0] < ranks[1]))
    return wins


def _two(one: Said) -> list[int]:
    """The ranks of a comparison of two; empty for anything else."""
    ranks = one.answer.get("ranks") or []
    return ranks if one.kind == Task.Kind.COMPARE and len(ranks) == 2 else []


def _fast(said: list[Said], least: float) -> dict[str, Any]:
    seconds = [one.seconds for one in said if one.seconds is not None]
    fast = sum(value < least for value in seconds)
    return {"n": len(seconds), "fast": fast, "share": fast / len(seconds) if seconds else None}


def _agreement(standing: Standing, said: list[Said], form: Form) -> dict[str, Any]:
    by_task: defaultdict[UUID, list[tuple[list[str], dict[str, Any]]]] = defaultdict(list)
    others = Assignment.objects.filter(
        task__in=[one.task_id for one in said], state=Assignment.State.DONE
    ).exclude(rater=standing.user_id)
    raters = set()
    for task_id, rater, shown, answer in others.values_list("task_id", "rater", "shown", "answer"):
        by_task[task_id].append((shown, answer or {}))
        raters.add(rater)
    found = [
        alike
        for one in said
        for other in by_task[one.task_id]
        if (alike := agreement_of(one.kind, [(one.shown, one.answer), other], form)) is not None
    ]
    return {
        "n": len(found),
        "share": sum(found) / len(found) if found else None,
        "raters": len(raters),
    }


def _majority(standing: Standing, said: list[Said]) -> dict[str, Any]:
    """How often this rater chooses as most others do, and how often one of the others' upper quarter does.

    Who answers at random is right half of the time, which no threshold of agreement tells from a rater of
    another taste; that the others agree much better than chance, and this one not at all, does.
    """
    theirs: defaultdict[UUID, dict[int, str]] = defaultdict(dict)
    by_rater: defaultdict[int, dict[UUID, str]] = defaultdict(dict)
    for rater, one in _of_others(standing):
        if chosen := _chosen(one):
            theirs[one.task_id][rater] = by_rater[rater][one.task_id] = chosen
    matched = _matches({one.task_id: chosen for one in said if (chosen := _chosen(one))}, theirs)
    of_others = [_matches(choices, theirs, rater) for rater, choices in by_rater.items()]
    return {
        "n": len(matched),
        "matched": sum(matched),
        "share": sum(matched) / len(matched) if matched else None,
        "others": _upper_quarter(sum(met) / len(met) for met in of_others if len(met) >= ENOUGH_MATCHES),
    }


def _matches(
    choices: dict[UUID, str], theirs: dict[UUID, dict[int, str]], rater: int | None = None
) -> list[bool]:
    """Where most others than `rater` chose one answer: whether it is the one in `choices`."""
    matched = []
    for task_id, chosen in choices.items():
        others = [said for one, said in theirs.get(task_id, {}).items() if one != rater]
        counts = Counter(others).most_common(2)
        if len(counts) == 1 or (len(counts) == 2 and counts[0][1] > counts[1][1]):
            matched.append(chosen == counts[0][0])
    return matched


def _upper_quarter(shares: Iterable[float]) -> float | None:
    """What one of the upper quarter has: neither an outlier nor drawn down by several."""
    ordered = sorted(shares)
    return ordered[math.ceil(UPPER_QUARTER * (len(ordered) - 1))] if ordered else None


def _of_others(standing: Standing) -> list[tuple[int, Said]]:
    """The latest comparisons of the project's other raters, gold aside."""
    rows = Assignment.objects.filter(
        project=standing.project_id, state=Assignment.State.DONE, task__kind=Task.Kind.COMPARE
    ).exclude(rater=standing.user_id)
    return [
        (rater, Said(task_id, Task.Kind.COMPARE, shown, answer or {}, None, None))
        for rater, task_id, shown, answer in rows.order_by("-closed").values_list(
            "rater_id", "task_id", "shown", "answer"
        )[:WINDOW_OF_OTHERS]
    ]


def _chosen(one: Said) -> str:
    """The better one of two; empty for a tie and anything else."""
    ranks = _two(one)
    return one.shown[ranks[0] > ranks[1]] if ranks and ranks[0] != ranks[1] else ""


def _is_like_chance(majority: dict[str, Any]) -> bool:
    n, matched, others = majority["n"], majority["matched"], majority["others"]
    if n < ENOUGH_MATCHES or others is None or majority["share"] > NEAR_CHANCE:
        return False
    hits = [True] * matched + [False] * (n - matched)
    return _chance(hits, 0.5, "greater") >= ABOVE_CHANCE_P and _chance(hits, others, "less") < BIAS_P


def _remarks(numbers: dict[str, Any], workbench: Workbench) -> list[str]:
    """Sentences about what stands out: stored with the event, in English, as the audit trail is."""
    gold, left, newest, fast = (numbers[name] for name in ("gold", "left", "newest", "fast"))
    agreement, majority, remarks = numbers["agreement"], numbers["majority"], []
    if gold["n"] >= ENOUGH_GOLD and gold["high"] < workbench.qualification_accuracy:
        remarks.append(
            f"{gold['right']} of {gold['n']} gold answers were right;"
            f" {workbench.qualification_accuracy:.0%} are asked for."
        )
    if left["n"] >= ENOUGH and left["p"] < BIAS_P and not 1 - BIAS_SHARE < left["share"] < BIAS_SHARE:
        side = "left" if left["share"] > 0.5 else "right"
        count = left["left"] if side == "left" else left["n"] - left["left"]
        remarks.append(f"The {side} answer was chosen in {count} of {left['n']} comparisons.")
    is_newer = newest["p"] is not None and newest["share"] > newest["others"]
    if is_newer and newest["n"] >= ENOUGH and newest["p"] < BIAS_P:
        remarks.append(
            f"The newer version was chosen in {newest['share']:.0%} of {newest['n']} comparisons;"
            f" others chose it in {newest['others']:.0%}."
        )
    if fast["n"] >= ENOUGH and fast["share"] > FAST_SHARE:
        remarks.append(
            f"{fast['fast']} of {fast['n']} answers took less than {workbench.min_seconds:g} seconds."
        )
    # Where two alone disagree, nobody can say who of them is wrong.
    if agreement["n"] >= ENOUGH and agreement["share"] < LOW_AGREEMENT and agreement["raters"] > 1:
        remarks.append(
            f"Agreement with other raters is {agreement['share']:.0%}, over {agreement['n']} answers."
        )
    elif _is_like_chance(majority):
        remarks.append(
            f"The choice of most others was met in {majority['matched']} of {majority['n']} comparisons,"
            f" as by a coin; others met it in {majority['others']:.0%}."
        )
    return remarks


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(median(known)) if known else None
