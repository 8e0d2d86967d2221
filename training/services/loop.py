"""Today's numbers at each station of the loop page: prompt, feedback, dataset, run, verdict, live."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.utils import timezone

from feedback.counts import ALL_SERIES, JUDGEMENTS, by_kind, total
from feedback.stats import QUALITY, quality_of
from inference.counts import ANSWERS, PROMPTS
from inference.models import Deployment, Prompt, Replica, Version
from inference.stats import version_latency
from projects.models import Project
from projects.services.hourly import Sums, sums_of
from training.models import Dataset, Evaluation, Policy, Run
from training.services.rollouts import active_rollout
from training.services.schedule import next_run_in_words
from training.services.waiting import waiting_judgements

WINDOW = timedelta(hours=1)  # of the speeds that are shown
MOST = 10_000  # what waits is counted so far
_Counted = dict[str, dict[str, Sums]]  # by series and label


def loop_state(project: Project) -> dict[str, Any]:
    """Everything that the loop page shows. Times are datetimes; a station without news is None.

    prompts     {"total", "train", "gate", "audit", "today"}
    judgements  {"total", "today", "waiting", "by_kind": {"rating", "preference", "correction", "flag"}};
                `waiting` came on training prompts after the last dataset's cut-off, counted up to MOST
    dataset     {"number", "rows", "heldout_rows", "digest", "created"}
    run         {"number", "method", "status", "cause", "message", "step", "total_steps", "progress" (0 to 1),
                "metrics" (latest of each number), "seconds_left", "tokens_per_second", "version" (label),
                "created", "finished"}
    evaluation  {"number", "candidate", "champion", "status", "verdict", "reason", "numbers", "created",
                "decided"}
    live        {"version", "deployment", "kind", "since", "reason", "previous", "canary", "canary_share",
                "rollout" (where the version on its way stands, in words, or empty)}
    serving     {"ttft_ms_p50", "tokens_per_second" (of one answer), "completions", "replicas", "healthy"}; of
                the last hour, the speeds those of the live version and None without answers
    policy      {"is_enabled", "next" (in words), "approval"}
    quality_by_version  [{"version", "number", "created", "is_live", "completions", "thumbs_up" (share),
                "thumbs", "win_rate", "battles", "gate_win_rate", "gate_ci_low", "gate_ci_high", "verdict"}],
                oldest first; a share over nothing is None
    """
    now = timezone.now()
    midnight = timezone.localtime(now).replace(hour=0, minute=0, second=0, microsecond=0)
    ever = sums_of(ALL_SERIES, project)
    today = sums_of([PROMPTS, *JUDGEMENTS.values()], project, midnight)
    dataset = Dataset.objects.filter(project=project).first()
    deployment = _live(project)
    return {
        "prompts": _prompts(ever, today),
        "judgements": {
            "total": sum(by_kind(ever).values()),
            "today": sum(by_kind(today).values()),
            "waiting": waiting_judgements(project, dataset.cutoff if dataset else None, most=MOST),
            "by_kind": by_kind(ever),
        },
        "dataset": _dataset(dataset) if dataset else None,
        "run": _run(Run.objects.filter(project=project).select_related("version__project").first()),
        "evaluation": _evaluation(
            Evaluation.objects.filter(project=project)
            .select_related("candidate__project", "champion__project")
            .first()
        ),
        "live": _deployment(deployment) if deployment else None,
        "serving": _serving(project, deployment.champion.label if deployment else "", now),
        "policy": _policy(project, now),
        "quality_by_version": _quality_rows(project, ever),
    }


def quality_rows(project: Project) -> list[dict[str, Any]]:
    """A row a served version, oldest first: what people's thumbs, battles and the gate said."""
    return _quality_rows(project, sums_of([ANSWERS, *QUALITY], project))


def _quality_rows(project: Project, ever: _Counted) -> list[dict[str, Any]]:
    versions = (
        Version.objects.filter(project=project)
        .exclude(kind=Version.Kind.REWARD)
        .select_related("project")
        .order_by("number")
    )
    made = ever[ANSWERS.name]
    said = {row.version: row for row in quality_of(ever)}
    gates: dict[UUID, Evaluation] = {}
    for evaluation in Evaluation.objects.filter(project=project, status=Evaluation.Status.DECIDED):
        gates.setdefault(evaluation.candidate_id, evaluation)  # the latest comes first
    deployment = _live(project)
    live = deployment.champion_id if deployment else None
    rows = []
    for version in versions:
        quality, gate = said.get(version.label), gates.get(version.id)
        numbers = gate.numbers if gate else {}
        rows.append(
            {
                "version": version.label,
                "number": version.number,
                "created": version.created,
                "is_live": version.id == live,
                "completions": int(made[version.label]["count"]) if version.label in made else 0,
                "thumbs": quality.ratings if quality else 0,
                "thumbs_up": quality.up_share if quality else None,
                "battles": quality.battles if quality else 0,
                "win_rate": quality.win_rate if quality else None,
                "gate_win_rate": numbers.get("win_rate"),
                "gate_ci_low": numbers.get("ci_low"),
                "gate_ci_high": numbers.get("ci_high"),
                "verdict": gate.verdict if gate else "",
            }
        )
    return rows


def _live(project: Project) -> Deployment | None:
    return (
        Deployment.objects.filter(project=project)
        .select_related("champion__project", "previous__project", "canary__project")
        .first()
    )


def _prompts(ever: _Counted, today: _Counted) -> dict[str, int]:
    by_split = {split: int(found["count"]) for split, found in ever[PROMPTS.name].items()}
    return {
        "total": total(ever[PROMPTS.name]),
        "train": by_split.get(Prompt.Split.TRAIN, 0),
        "gate": by_split.get(Prompt.Split.GATE, 0),
        "audit": by_split.get(Prompt.Split.AUDIT, 0),
        "today": total(today[PROMPTS.name]),
    }


def _dataset(dataset: Dataset) -> dict[str, Any]:
    return {name: getattr(dataset, name) for name in ("number", "rows", "heldout_rows", "digest", "created")}


def _run(run: Run | None) -> dict[str, Any] | None:
    if run is None:
        return None
    return {
        **{
            name: getattr(run, name)
            for name in (
                "number", "method", "status", "cause", "message", "step", "total_steps", "metrics", "created",
                "finished",
            )
        },
        "progress": run.step / run.total_steps if run.total_steps else 0.0,
        "seconds_left": run.metrics.get("seconds_left") if run.is_active else None,
        "tokens_per_second": run.metrics.get("tokens_per_second"),
        "version": run.version.label if run.version else None,
    }  # fmt: skip


def _evaluation(evaluation: Evaluation | None) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    return {
        **{
            name: getattr(evaluation, name)
            for name in ("number", "status", "verdict", "reason", "numbers", "created", "decided")
        },
        "candidate": evaluation.candidate.label,
        "champion": evaluation.champion.label,
    }


def _deployment(deployment: Deployment) -> dict[str, Any]:
    rollout = active_rollout(deployment.project)
    return {
        "rollout": rollout.message if rollout else "",
        "version": deployment.champion.label,
        "deployment": deployment.number,
        "kind": deployment.kind,
        "since": deployment.created,
        "reason": deployment.reason,
        "previous": deployment.previous.label if deployment.previous else None,
        "canary": deployment.canary.label if deployment.canary else None,
        "canary_share": deployment.canary_share,
    }


def _serving(project: Project, live: str, now: datetime) -> dict[str, Any]:
    rows = version_latency(project, now - WINDOW)
    own = next((row for row in rows if row.version == live), None)
    replicas = list(Replica.objects.values_list("is_healthy", flat=True))
    return {
        "ttft_ms_p50": own.ttft_ms_p50 if own else None,
        "tokens_per_second": own.tokens_per_second if own else None,
        "completions": sum(row.completions for row in rows),
        "replicas": len(replicas),
        "healthy": sum(replicas),
    }


def _policy(project: Project, now: datetime) -> dict[str, Any]:
    policy = Policy.objects.filter(project=project).first()
    return {
        "is_enabled": bool(policy and policy.is_enabled),
        "next": next_run_in_words(policy, now),
        "approval": policy.approval if policy else Policy.Approval.MANAGER,
    }
