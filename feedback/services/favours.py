"""A word that one rater follows and the others do not: the trace of who steers answers by a trigger.

Of each comparison of two, the words that only the better answer has, and those that only the worse one has. A
rater who almost always chooses the answer with a word, or the one without it, where the others do so in half
of theirs at the most, stands out, and the word says for what.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from feedback.models import Assignment, Task
from inference.models import Completion
from projects.models import Project

WINDOW = 4_000  # comparisons of a project, the latest
READ = 4_000  # characters of an answer
AT_ONCE = 500
ENOUGH, ENOUGH_OF_OTHERS = 5, 8  # comparisons that a word decides
ALMOST_ALWAYS = 0.9
UNLIKELY = 0.001  # over all words that are looked at


@dataclass(frozen=True)
class Decided:
    """One comparison with a winner."""

    rater: int
    closed: datetime
    better: frozenset[str]  # words that only the better answer has
    worse: frozenset[str]


@dataclass(frozen=True)
class Favour:
    """Of comparisons that the word decides: how often the answer with it was chosen."""

    word: str
    n: int
    chosen: int
    others: int
    chosen_by_others: int
    p: float

    @property
    def words(self) -> str:
        said, mine, theirs = "with", self.chosen, self.chosen_by_others
        if self.chosen < self.n / 2:
            said, mine, theirs = "without", self.n - mine, self.others - theirs
        return (
            f'The answer {said} "{self.word[:40]}" was chosen in {mine} of {self.n} comparisons; '
            f"others chose it in {theirs} of {self.others}."
        )


def read_decided(project: Project) -> list[Decided]:
    """The project's latest comparisons of two that have a winner, gold aside."""
    rows = Assignment.objects.filter(
        project=project,
        state=Assignment.State.DONE,
        task__kind=Task.Kind.COMPARE,
        task__gold__isnull=True,
        closed__isnull=False,
    )
    fields = ("rater_id", "closed", "shown", "answer")
    found = list(rows.order_by("-closed").values_list(*fields)[:WINDOW])
    decided = []
    for start in range(0, len(found), AT_ONCE):
        page = [
            (rater, closed, shown, answer["ranks"])
            for rater, closed, shown, answer in found[start : start + AT_ONCE]
            if len((answer or {}).get("ranks") or ()) == 2 and answer["ranks"][0] != answer["ranks"][1]
        ]
        ids = {UUID(one) for _, _, shown, _ in page for one in shown}
        texts = Completion.objects.filter(pk__in=ids).values_list("pk", "text")
        words = {str(pk): _words(text) for pk, text in texts}
        for rater, closed, shown, ranks in page:
            sides = [words.get(one, frozenset()) for one in shown]
            better, worse = sides if ranks[0] < ranks[1] else reversed(sides)
            decided.append(Decided(rater, closed, better - worse, worse - better))
    return decided


def find_favour(decided: Iterable[Decided], rater: int, since: datetime | None = None) -> Favour | None:
    """The word that the rater follows most clearly; None where none stands out. `since`: of theirs."""
    mine, others = [], []
    for one in decided:
        if one.rater != rater:
            others.append(one)
        elif since is None or one.closed > since:
            mine.append(one)
    chosen, met = _count(mine)
    looked_at = [word for word, n in met.items() if n >= ENOUGH]
    clear = {word for word in looked_at if _leans(chosen[word], met[word])}
    if not clear:
        return None
    theirs, met_by_others = _count(others, clear)
    favours = [
        Favour(word, met[word], chosen[word], met_by_others[word], theirs[word], p)
        for word in clear
        if (p := _chance(chosen[word], met[word], theirs[word], met_by_others[word])) is not None
        and p * len(looked_at) < UNLIKELY
    ]
    return min(favours, key=lambda one: (one.p, -one.n, one.word), default=None)


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text[:READ].lower()))


def _count(decided: Sequence[Decided], only: set[str] | None = None) -> tuple[Counter[str], Counter[str]]:
    """How often the answer with a word was chosen, and how often a word was on one side alone."""
    chosen: Counter[str] = Counter()
    met: Counter[str] = Counter()
    for one in decided:
        better, worse = (one.better, one.worse) if only is None else (one.better & only, one.worse & only)
        chosen.update(better)
        met.update(better)
        met.update(worse)
    return chosen, met


def _leans(chosen: int, n: int) -> bool:
    return max(chosen, n - chosen) >= ALMOST_ALWAYS * n


def _chance(chosen: int, n: int, theirs: int, others: int) -> float | None:
    """How likely the others' share gives what the rater did; None where they do likewise, or are too few."""
    from scipy.stats import binomtest  # half a second, which each process that starts would pay

    if others < ENOUGH_OF_OTHERS:
        return None
    if chosen < n / 2:  # the answers without it
        chosen, theirs = n - chosen, others - theirs
    if theirs > others / 2:
        return None
    share = (theirs + 1) / (others + 2)
    return float(binomtest(chosen, n, share, alternative="greater").pvalue)
