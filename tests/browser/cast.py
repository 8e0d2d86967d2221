"""What the browser tests find on the pages: a conversation, comparisons, and a loop that turned once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone

from feedback.services.conversations import title_of
from feedback.services.judge import Judge
from feedback.services.record import record_preference, record_rating
from inference.models import Completion, Conversation, Deployment, Replica, Version
from inference.services.prompts import record_prompt
from projects.models import Project
from projects.services import Actor
from tests.cast import Cast, make_cast
from training.models import Dataset, Erasure, Evaluation, Pipeline, Rollout, Run, RunEvent
from training.services.policy_changes import set_policy

HOSTILE = "**Bold** <img src=x onerror=alert(1)> [x](javascript:alert(1)) ![x](https://example.org/x.png)"


def make_people() -> Cast:
    """Ada, Bob, Carol and Eve, with short answers."""
    cast = make_cast()
    Project.objects.update(max_tokens=24)  # an answer of a tiny model is long enough then
    cast.project.refresh_from_db()
    return cast


def talk(
    cast: Cast, question: str = "How do I boil an egg?", *answers: str
) -> tuple[Conversation, list[Completion]]:
    """A conversation of bob's with one question and its answers."""
    conversation = Conversation.objects.create(project=cast.project, owner=cast.bob, title=title_of(question))
    messages = [{"role": "user", "content": question}]
    prompt, _ = record_prompt(project=cast.project, messages=messages, conversation=conversation)
    return conversation, [
        cast.answer(prompt, text) for text in answers or ("Eight minutes in boiling water.",)
    ]


def comparisons(cast: Cast, count: int) -> None:
    """Questions with two answers each, which nobody has compared."""
    for number in range(count):
        cast.answered_prompt(
            f"Question {number}: how long?", [f"Short {number}.", f"A longer answer {number}."]
        )


def turned_loop(cast: Cast) -> Run:
    """One turn of the loop, and a run that is under way: everything that the pages can show."""
    now, project = timezone.now(), cast.project
    v2 = Version.objects.create(
        project=project, number=2, kind="adapter", path="versions/2", digest="sha256:2"
    )
    dataset = Dataset.objects.create(
        project=project,
        number=1,
        format="preference",
        cutoff=now - timedelta(hours=2),
        rows=212,
        heldout_rows=24,
        drops={"tie": 3},
        digest="sha256:1",
        path="datasets/1",
    )
    config = {"beta": 0.1, "target_modules": ["q_proj", "v_proj"]}
    ended = {"status": "finished", "step": 8, "total_steps": 8, "finished": now, "version": v2}
    Run.objects.create(project=project, number=1, dataset=dataset, config=config, **ended)
    Run.objects.create(
        project=project,
        number=2,
        dataset=dataset,
        status="failed",
        cause="oom",
        message="Out of memory at step 3.",
    )
    run = Run.objects.create(
        project=project, number=3, dataset=dataset, config=config, status="running", step=2, total_steps=8
    )
    for step in (1, 2):
        metrics = {"loss": 0.7 - step / 10, "reward_accuracy": 0.5 + step / 10}
        data = {"step": step, "total": 8, "metrics": metrics}
        RunEvent.objects.create(run=run, sequence=step, name="progress", data=data)
    Pipeline.objects.create(
        project=project,
        number=1,
        name="reward-rloo",
        stages=["reward", "rloo"],
        status="failed",
        message="Run 2, reward, failed (out of memory): Out of memory at step 3.",
    )
    set_policy(
        project=project,
        changes={"is_enabled": True, "cron": "0 3 * * *", "day_hours": 2.0},
        actor=Actor(user=cast.ada),
    )
    gate = []
    for number in range(3):
        prompt, (old, new) = cast.answered_prompt(
            f"Gate {number}?", [HOSTILE, "Yes."], split="gate", versions=[cast.v1, v2]
        )
        gate.append(str(prompt.pk))
        if number:
            record_preference(
                project=project,
                judge=Judge(user=cast.carol),
                candidates=[old.pk, new.pk],
                ranks=[2, 1],
                source="ui",
                is_shown=True,
            )
        record_rating(
            project=project,
            judge=Judge(user=cast.carol),
            completion_id=new.pk,
            value=1,
            source="ui",
            is_shown=True,
        )
    numbers: dict[str, Any] = {
        "n": 2,
        "win_rate": 0.73,
        "ci_low": 0.61,
        "ci_high": 0.84,
        "wins": 2,
        "ties": 0,
        "losses": 0,
    }
    numbers["lines"] = [
        {"name": "votes", "state": "pass", "words": "People prefer it on 73% (61% to 84%) of 2 prompts."},
        {"name": "judge", "state": "none", "words": "kitchen has no reward model."},
        {"name": "language", "state": "fail", "words": "20% of its answers are in another language."},
        {"name": "latency", "state": "warn", "words": "The first token comes after 240 ms."},
    ]
    Evaluation.objects.create(
        project=project,
        number=1,
        candidate=v2,
        champion=cast.v1,
        prompt_ids=gate,
        status="decided",
        verdict="promote",
        reason="The lower bound clears 0.500.",
        numbers=numbers,
        decided=now,
    )
    Deployment.objects.create(
        project=project,
        number=2,
        kind="promote",
        champion=v2,
        previous=cast.v1,
        user=cast.ada,
        reason="It wins.",
        detail={"rollout": 1, "step": 3},
    )
    words = "1.2% of 80 answers failed, 1.0% of 400 by the champion; 3% more are allowed."
    line = {"name": "errors", "state": "holds", "candidate": 0.012, "champion": 0.01, "words": words}
    people = {"n": 12, "mean": 0.55, "low": 0.31, "high": 0.82, "verdict": "open"}
    Rollout.objects.create(
        project=project,
        number=1,
        candidate=v2,
        champion=cast.v1,
        status="watching",
        shares=[0.01, 0.05, 0.25, 1.0],
        step=3,
        plan={"minutes": 30, "answers": 50, "judgements": 5, "watch_hours": 24},
        findings={"lines": [line], "people": people},
        message="It serves all. Nothing speaks against it; it is watched for 23 hours more.",
    )
    Replica.objects.create(url="http://127.0.0.1:1", is_healthy=True, missing=["kitchen-v2"], checked=now)
    return run


def somebody_erased(cast: Cast) -> None:
    """A report of an erasure that is done."""
    Erasure.objects.create(
        project=cast.project,
        number=1,
        mode="remove",
        status="done",
        pseudonym="erased-0123456789ab",
        before={"ratings": 12, "preferences": 3},
        after={"ratings": 0, "preferences": 0},
        datasets=[{"number": 1, "format": "preference", "digest": "sha256:1", "rows": 236, "held": 15}],
        versions=[{"number": 2, "digest": "sha256:2", "serves": True}],
        remains=[{"what": "manifests", "count": 1, "why": "Proof of what was erased."}],
        finished=timezone.now(),
    )
