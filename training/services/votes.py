"""What people said about an evaluation's answers, and the answers themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Set
from dataclasses import dataclass, field
from uuid import UUID

from feedback.models import Preference
from inference.models import Completion, Version
from training.models import Evaluation
from training.services.gate import battle_score
from training.services.guards import GateAnswer


@dataclass
class Votes:
    """By prompt id, a vote in the same place of each list."""

    scores: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # the candidate's
    judges: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    longer: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # by so many characters

    def split(self, prompts: Set[str]) -> tuple[Votes, Votes]:
        """Those on other prompts, and those on these."""
        parts = Votes(), Votes()
        for name in ("scores", "judges", "longer"):
            for prompt, of_prompt in getattr(self, name).items():
                getattr(parts[prompt in prompts], name)[prompt] = of_prompt
        return parts

    @property
    def raters(self) -> set[str]:
        return {judge for of_prompt in self.judges.values() for judge in of_prompt}


def collect_votes(evaluation: Evaluation) -> Votes:
    """What people said so far.

    Any usable preference counts that has an answer of each version to one of the gate prompts; the better one
    of several answers of a version stands for it. Quarantined answers do not count.
    """
    votes = Votes()
    sides = {evaluation.candidate_id, evaluation.champion_id}
    rows = (
        Preference.objects.usable()
        .filter(
            project=evaluation.project,
            prompt_id__in=evaluation.prompt_ids,
            candidates__completion__version_id=evaluation.candidate_id,
        )
        .distinct()
        .order_by("id")
        .prefetch_related("candidates__completion")
    )
    for row in rows:
        ranks: dict[UUID | None, list[tuple[int, int]]] = defaultdict(list)
        for shown in row.candidates.all():
            if shown.completion.version_id in sides and shown.completion.is_judgeable:
                ranks[shown.completion.version_id].append((shown.rank or 0, len(shown.completion.text)))
        if len(ranks) != 2:
            continue
        candidate, champion = (min(ranks[id_]) for id_ in (evaluation.candidate_id, evaluation.champion_id))
        prompt_id = str(row.prompt_id)
        votes.scores[prompt_id].append(0.5 if row.all_bad else battle_score(candidate[0], champion[0]))
        votes.judges[prompt_id].append(row.judge)
        votes.longer[prompt_id].append(candidate[1] - champion[1])
    return votes


def gate_answers(evaluation: Evaluation, version: Version) -> dict[str, GateAnswer]:
    """Each gate prompt's latest whole answer by the version, by the prompt's id."""
    rows = (
        Completion.objects.judgeable()
        .filter(version=version, prompt_id__in=evaluation.prompt_ids)
        .exclude(state=Completion.State.STOPPED)
        .select_related("prompt")
        .order_by("id")
    )
    return {
        str(row.prompt_id): GateAnswer(
            text=row.text,
            finish_reason=row.finish_reason,
            question=row.prompt.question,
            tokens_out=row.tokens_out,
            ttft_ms=row.ttft_ms,
            total_ms=row.total_ms,
        )
        for row in rows
    }
