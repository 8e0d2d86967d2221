"""Candidate against champion on gate prompts: made, judged by people, decided."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Set
from statistics import mean
from typing import Any

from django.db import transaction
from django.utils import timezone

from inference.models import Prompt, Version
from inference.services.deployments import current_deployment
from inference.services.reconciler import load_on_all
from inference.services.versions import mark_candidate, release_candidate
from projects.errors import Conflict, Invalid, NotFound, Problem, Unavailable
from projects.models import Project
from projects.services import SYSTEM, Actor, record_audit
from projects.services.outbox import record_event
from training.models import Evaluation, Policy, Run
from training.services.alarms import curves_of, find_alarms
from training.services.audits import judge_audit
from training.services.evidence import read_evidence
from training.services.gate import decide_verdict, length_controlled, win_rate
from training.services.guards import GateAnswer, check_guards, latency
from training.services.numbers import create_numbered
from training.services.policy_changes import policy_of
from training.services.promotion import promote_version
from training.services.verdict_lines import forgets, verdict_lines
from training.services.votes import Votes, collect_votes, gate_answers

logger = logging.getLogger(__name__)

# Gate prompts of one evaluation: 400 give a half-width of 4.9 points; more cost raters more than they tell.
MAX_PROMPTS = 400
MAX_AUDIT_PROMPTS = 200
_KEPT = ("skipped", "identical", "no_judge")  # numbers of before the verdict
OPEN = (Evaluation.Status.ANSWERING, Evaluation.Status.JUDGING)


class NoGatePrompts(Invalid):
    code = "no_gate_prompts"


class StillAnswering(Conflict):
    code = "still_answering"


class AlreadyPromoted(Conflict):
    code = "already_promoted"


def create_evaluation(
    *,
    project: Project,
    candidate: Version,
    champion: Version | None = None,
    sample: bool = False,
    actor: Actor,
) -> Evaluation:
    """Freeze the gate prompts and have the engines hold the candidate, so that `slug@vN` answers at once.

    With `sample` Ratchet makes the answers and asks the raters; without, a program does both. Raises Invalid,
    NoGatePrompts, NotFound for a foreign version, PromotionRefused for damaged files, and Unavailable when no
    engine answers and `sample` is not set (with it, the reconciler loads the candidate later).
    """
    evaluation = insert_evaluation(
        project=project, candidate=candidate, champion=champion, sample=sample, actor=actor
    )
    hold_candidate(evaluation)
    return evaluation


def insert_evaluation(
    *, project: Project, candidate: Version, champion: Version | None, sample: bool, actor: Actor
) -> Evaluation:
    """The row alone; `hold_candidate` is next."""
    champion = champion or current_deployment(project).champion
    for name, version in (("candidate", candidate), ("champion", champion)):
        _check_side(project, name, version)
    if candidate.id == champion.id:
        raise Invalid(f"{candidate.label} cannot be compared with itself.", param="candidate")
    with transaction.atomic():
        evaluation = create_numbered(
            Evaluation,
            project=project,
            candidate=candidate,
            champion=champion,
            prompt_ids=choose_prompts(project, candidate),
            status=Evaluation.Status.ANSWERING if sample else Evaluation.Status.JUDGING,
            is_sampled=sample,
        )
        mark_candidate(candidate)
        record_audit(
            project=project,
            actor=actor,
            action="evaluation.created",
            subject=f"evaluation:{evaluation.number}",
            detail={"candidate": candidate.label, "champion": champion.label},
        )
    _release_forgotten(project)
    return evaluation


def hold_candidate(evaluation: Evaluation) -> None:
    """Load both sides now. What the engine refuses fails the evaluation and lets the candidate go."""
    try:
        load_ms = load_on_all(evaluation.candidate)
        load_on_all(evaluation.champion)
    except Problem as error:
        if evaluation.is_sampled and isinstance(error, Unavailable):
            logger.warning("%s: %s", evaluation, error.message)
            return  # the reconciler loads it when an engine is back
        fail_evaluation(evaluation, error.message)
        raise
    _update(evaluation, load_ms=round(load_ms, 1))


def fail_evaluation(evaluation: Evaluation, reason: str) -> None:
    """The candidate cannot be judged, such as one with damaged files; the engines may let it go."""
    _update(evaluation, status=Evaluation.Status.FAILED, reason=reason)
    release_candidate(evaluation.candidate)


def decide(*, evaluation: Evaluation, actor: Actor) -> Evaluation:
    """Count what people said so far and write the verdict. May be repeated when more votes came.

    Raises StillAnswering before the answers are made, AlreadyPromoted, Conflict for one that failed. Where
    the policy says so, a verdict to promote promotes.
    """
    if evaluation.status == Evaluation.Status.ANSWERING:
        raise StillAnswering("Its answers are still being made. Decide when they are judged.")
    if evaluation.status == Evaluation.Status.FAILED:
        raise Conflict(f"The evaluation failed: {evaluation.reason}", code="evaluation_failed")
    if current_deployment(evaluation.project).champion.id == evaluation.candidate_id:
        raise AlreadyPromoted(f"{evaluation.candidate.label} serves already; its verdict stands.")
    policy = policy_of(evaluation.project)
    audit_ids = _audit_ids(evaluation)
    said, audited = collect_votes(evaluation).split(audit_ids)
    for prompt_id in evaluation.numbers.get("identical", []):
        if prompt_id not in audit_ids:
            said.scores.setdefault(prompt_id, [0.5])  # the same text twice is a tie; nobody need be asked
    votes = said.scores
    of_candidate, candidate_audited = _apart(gate_answers(evaluation, evaluation.candidate), audit_ids)
    of_champion, champion_audited = _apart(gate_answers(evaluation, evaluation.champion), audit_ids)
    guards, failed = check_guards(list(of_candidate.values()), list(of_champion.values()))
    audit = judge_audit(audited, candidate_audited, champion_audited) if audit_ids else None
    evidence = read_evidence(evaluation)
    failed += [*(audit["problems"] if audit else ()), *filter(None, [forgets(evidence)])]
    result = win_rate(votes, judges=said.judges)
    decision = decide_verdict(
        result, margin=policy.margin, min_battles=policy.min_battles, failed_guards=failed
    )
    scores = [score for of_prompt in votes.values() for score in of_prompt]
    numbers = {
        **{name: evaluation.numbers[name] for name in _KEPT if name in evaluation.numbers},
        "n": result.n,
        "win_rate": result.win_rate,
        "ci_low": result.ci_low,
        "ci_high": result.ci_high,
        "wins": scores.count(1.0),
        "losses": scores.count(0.0),
        "ties": scores.count(0.5),
        "votes": len(scores),
        "raters": len(said.raters),
        "length_controlled": _length_controlled(said),
        "needed": decision.needed,
        "margin": policy.margin,
        "min_battles": policy.min_battles,
        "heldout_accuracy": evaluation.candidate.manifest.get("metrics", {}).get("heldout_accuracy"),
        "guards": guards,
        "audit": audit,
        "latency": {
            "candidate": latency(list(of_candidate.values())),
            "champion": latency(list(of_champion.values())),
        },
        "judge": evidence.judge or None,
        "perplexity": evidence.perplexity or None,
    }
    run = Run.objects.filter(version=evaluation.candidate).first()
    alarms = find_alarms(curves_of(run), beta=run.config.get("beta"), people=numbers) if run else None
    numbers["lines"] = verdict_lines(numbers, decision.verdict, evidence, alarms)
    with transaction.atomic():
        _update(
            evaluation,
            status=Evaluation.Status.DECIDED,
            verdict=decision.verdict,
            reason=decision.reason,
            numbers=numbers,
            scores=evidence.scores,
            decided=timezone.now(),
        )
        record_audit(
            project=evaluation.project,
            actor=actor,
            action="evaluation.decided",
            subject=f"evaluation:{evaluation.number}",
            detail={"verdict": decision.verdict, "n": result.n, "win_rate": result.win_rate},
        )
        record_event(
            project=evaluation.project,
            name="evaluation.decided",
            data={
                "evaluation": evaluation.number,
                "candidate": evaluation.candidate.label,
                "champion": evaluation.champion.label,
                "verdict": decision.verdict,
                "reason": decision.reason,
                "n": result.n,
                "win_rate": result.win_rate,
                "ci_low": result.ci_low,
                "ci_high": result.ci_high,
            },
        )
    _follow(evaluation, policy)
    return evaluation


def _length_controlled(said: Votes) -> dict[str, float] | None:
    """The win rate at equal lengths, for people to read beside the other; None for a few prompts."""
    prompts = sorted(said.longer)
    found = length_controlled(
        [mean(said.scores[prompt]) for prompt in prompts], [mean(said.longer[prompt]) for prompt in prompts]
    )
    return None if found is None else dict(zip(("win_rate", "ci_low", "ci_high"), found, strict=True))


def choose_prompts(project: Project, candidate: Version) -> list[str]:
    """Ids of gate and audit prompts; of more than are wanted, a sample that is fixed for the candidate.

    Prompts of conversations are their owners' own, and not put to other raters.
    """
    chosen = _some(project, candidate, Prompt.Split.GATE, MAX_PROMPTS)
    if not chosen:
        raise NoGatePrompts(
            "There is no gate prompt outside of conversations. Import more prompts, or raise gate_share for "
            "those to come.",
            param="candidate",
        )
    return sorted([*chosen, *_some(project, candidate, Prompt.Split.AUDIT, MAX_AUDIT_PROMPTS)])


def _some(project: Project, candidate: Version, split: str, most: int) -> list[str]:
    rows = Prompt.objects.filter(project=project, conversation=None, split=split, erased=None)
    ids = list(rows.values_list("id", flat=True))
    if len(ids) > most:
        ids.sort(key=lambda id_: hashlib.sha256(f"{candidate.id}:{id_}".encode()).digest())
    return [str(id_) for id_ in ids[:most]]


def _audit_ids(evaluation: Evaluation) -> set[str]:
    rows = Prompt.objects.filter(id__in=evaluation.prompt_ids, split=Prompt.Split.AUDIT)
    return {str(id_) for id_ in rows.values_list("id", flat=True)}


def _apart(
    answers: dict[str, GateAnswer], audit_ids: Set[str]
) -> tuple[dict[str, GateAnswer], dict[str, GateAnswer]]:
    """Answers to the gate's prompts, and to the audit's."""
    audited = {prompt: answer for prompt, answer in answers.items() if prompt in audit_ids}
    return {prompt: answer for prompt, answer in answers.items() if prompt not in audited}, audited


def _check_side(project: Project, name: str, version: Version) -> None:
    if version.project_id != project.id:
        raise NotFound("There is no such version in this project.", param=name)
    if version.kind == Version.Kind.REWARD:
        raise Invalid(f"{version.label} is a reward model; it writes no answers.", param=name)
    if version.status != Version.Status.AVAILABLE:
        raise Conflict(f"{version.label} is {version.status}.", code=f"version_{version.status}", param=name)


def _follow(evaluation: Evaluation, policy: Policy) -> None:
    """A rejected candidate is let go; one to promote begins to serve, where nobody need approve."""
    if evaluation.verdict == Evaluation.Verdict.REJECT:
        release_candidate(evaluation.candidate)
    is_automatic = policy.is_enabled and policy.approval == Policy.Approval.AUTOMATIC
    if evaluation.verdict == Evaluation.Verdict.PROMOTE and is_automatic:
        if current_deployment(evaluation.project).champion.id != evaluation.champion_id:
            return  # another one serves by now; this verdict says nothing about it
        try:
            promote_version(
                project=evaluation.project,
                version=evaluation.candidate,
                actor=SYSTEM,
                reason=f"Evaluation {evaluation.number}: {evaluation.reason}",
                canary=policy.promotion == Policy.Promotion.CANARY,
            )
        except Problem as error:
            # The verdict stands; a manager sees why nothing followed and can promote by hand.
            record_audit(
                project=evaluation.project,
                actor=SYSTEM,
                action="deployment.refused",
                subject=f"evaluation:{evaluation.number}",
                detail={"message": error.message},
            )


def _release_forgotten(project: Project) -> None:
    """Candidates that no open evaluation needs any more give their place in the engines to the new one."""
    open_ids = Evaluation.objects.filter(project=project, status__in=OPEN).values("candidate_id")
    for version in Version.objects.filter(project=project, is_candidate=True).exclude(id__in=open_ids):
        release_candidate(version)


def _update(evaluation: Evaluation, **values: Any) -> None:
    Evaluation.objects.filter(pk=evaluation.pk).update(**values)
    for name, value in values.items():
        setattr(evaluation, name, value)
