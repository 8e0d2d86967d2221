"""An evaluation's examples: each gate prompt with both answers, what was said of them, and who wins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from inference.models import Completion, Prompt
from training.models import Evaluation
from training.services.gate import judge_score
from training.services.guards import GateAnswer, faults_of
from training.services.votes import collect_votes

CANDIDATE, CHAMPION, TIE = "candidate", "champion", "tie"


@dataclass
class Side:
    """One version's answer, and the guards that it counts against."""

    text: str
    completion_id: UUID
    faults: list[str]


@dataclass
class Battle:
    """`scores` are the candidate's by vote (1 won, 0.5 tie, 0 lost); `judge` the second judge's of both."""

    prompt: Prompt
    candidate: Side | None
    champion: Side | None
    scores: list[float] = field(default_factory=list)
    judge: list[float] | None = None

    @property
    def outcome(self) -> str:
        """Who won by the mean of the votes; empty without one."""
        return outcome_of(self.scores)

    @property
    def judge_outcome(self) -> str:
        """Who won by the second judge; empty where it was not asked."""
        return outcome_of([judge_score(*self.judge)]) if self.judge else ""

    @property
    def faults(self) -> list[str]:
        """Of the candidate: what the gate holds against it."""
        return self.candidate.faults if self.candidate else []


FILTERS: dict[str, Callable[[Battle], bool]] = {
    CANDIDATE: lambda battle: battle.outcome == CANDIDATE,
    CHAMPION: lambda battle: battle.outcome == CHAMPION,
    TIE: lambda battle: battle.outcome == TIE,
    "degenerate": lambda battle: bool(battle.faults),
    "disagree": lambda battle: (
        bool(battle.outcome and battle.judge_outcome) and battle.outcome != battle.judge_outcome
    ),
    "open": lambda battle: not battle.outcome,
    "audit": lambda battle: battle.prompt.split == Prompt.Split.AUDIT,
}


@dataclass(frozen=True)
class Page:
    battles: list[Battle]
    counts: dict[str, int]  # by filter, and `all`
    judged: int
    next: str | None  # the key of the page after this one


def page_of(evaluation: Evaluation, *, show: str = "", after: str = "", limit: int = 10) -> Page:
    """Judged ones first, then by prompt. `after` is the last prompt of the page before; `show` a filter."""
    battles = _battles(evaluation)
    counts = {name: sum(map(fits, battles)) for name, fits in FILTERS.items()}
    chosen = [battle for battle in battles if FILTERS[show](battle)] if show in FILTERS else battles
    chosen.sort(key=_key)
    last = next((battle for battle in battles if str(battle.prompt.pk) == after), None)
    if last is not None:
        chosen = [battle for battle in chosen if _key(battle) > _key(last)]
    shown = chosen[:limit]
    return Page(
        battles=shown,
        counts={"all": len(battles), **counts},
        judged=sum(bool(battle.scores) for battle in battles),
        next=str(shown[-1].prompt.pk) if len(chosen) > limit else None,
    )


def outcome_of(scores: list[float]) -> str:
    if not scores:
        return ""
    mean = sum(scores) / len(scores)
    return CANDIDATE if mean > 0.5 else CHAMPION if mean < 0.5 else TIE


def _key(battle: Battle) -> tuple[bool, str]:
    return not battle.scores, str(battle.prompt.pk)


def _battles(evaluation: Evaluation) -> list[Battle]:
    """All of them (at most 600), in a few queries. A prompt that was erased since is left out."""
    votes = collect_votes(evaluation).scores
    prompts = Prompt.objects.in_bulk([UUID(id_) for id_ in evaluation.prompt_ids])
    rows = (
        Completion.objects.judgeable()
        .filter(prompt_id__in=prompts, version_id__in=[evaluation.candidate_id, evaluation.champion_id])
        .order_by("id")
    )
    answers = {(row.prompt_id, row.version_id): row for row in rows}  # the latest of each side
    battles = []
    for id_, prompt in prompts.items():
        candidate, champion = (
            _side(answers.get((id_, version)), prompt)
            for version in (evaluation.candidate_id, evaluation.champion_id)
        )
        battles.append(
            Battle(prompt, candidate, champion, votes.get(str(id_), []), evaluation.scores.get(str(id_)))
        )
    return battles


def _side(answer: Completion | None, prompt: Prompt) -> Side | None:
    if answer is None:
        return None
    faults = faults_of(GateAnswer(answer.text, answer.finish_reason, question=prompt.question))
    return Side(answer.text, answer.pk, faults)
