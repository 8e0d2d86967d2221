"""What one's labels changed: counted through the dataset's index, told to that person alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from feedback.models import Preference
from feedback.services.judge import Judge
from feedback.services.record import record_preference, retract_feedback
from inference.models import Deployment, Version
from projects.services import SYSTEM
from tests.cast import Cast
from tests.training.conftest import judged
from training.models import Evaluation, Run
from training.services.compiler import compile_dataset
from training.services.numbers import create_numbered
from training.services.taught import labels_taught

URL = "/p/kitchen/taught/"


def test_a_rater_sees_what_learned_from_their_labels_and_how_it_did(
    cast: Cast, settings: Any, tmp_path: Path
) -> None:
    settings.ARTIFACTS_DIR = tmp_path
    judged(cast, 12)
    mine = list(Preference.objects.order_by("pk"))
    Preference.objects.update(rater=cast.bob)
    Preference.objects.filter(pk__in=[one.pk for one in mine[:4]]).update(rater=cast.carol)
    cast.client.force_login(cast.bob)
    page = cast.client.get(URL).content.decode()
    assert "Your 8 labels wait for the next dataset" in page

    dataset = compile_dataset(project=cast.project, actor=SYSTEM)
    page = cast.client.get(URL).content.decode()
    assert "Dataset 1, now: 8 labels of yours" in page

    v2 = Version.objects.create(
        project=cast.project, number=2, kind="adapter", path="versions/2", digest="sha256:2"
    )
    create_numbered(Run, project=cast.project, dataset=dataset, status="finished", version=v2)
    found = labels_taught(project=cast.project, user=cast.bob)
    assert [(one.version, one.labels, one.verdict, one.is_live) for one in found.versions] == [
        (v2, 8, None, False)
    ]
    assert (found.total, found.used, found.datasets) == (8, 8, [])

    verdict = create_numbered(
        Evaluation, project=cast.project, candidate=v2, champion=cast.v1, prompt_ids=[], status="decided",
        verdict="promote", numbers={"win_rate": 0.7, "ci_low": 0.6, "ci_high": 0.8},
    )  # fmt: skip
    create_numbered(
        Deployment, project=cast.project, kind="promote", champion=v2, previous=cast.v1, reason="It wins."
    )
    page = cast.client.get(URL).content.decode()
    assert "It learned from 8 labels of yours, 67 % of what dataset 1 is made of." in page
    assert "Against v1 it won 70 % of the comparisons" in page
    assert "serves now" in page

    # What is taken back later stays in what it taught; another's labels are another's.
    retract_feedback(project=cast.project, judge=Judge(user=cast.bob), feedback_id=mine[-1].pk)
    found = labels_taught(project=cast.project, user=cast.bob)
    assert (found.total, found.used) == (7, 8)
    [one] = labels_taught(project=cast.project, user=cast.carol).versions
    assert (one.labels, one.verdict, one.is_live) == (4, verdict, True)


def test_nothing_judged_and_not_a_member(cast: Cast) -> None:
    cast.client.force_login(cast.carol)
    assert "You have not judged anything yet" in cast.client.get(URL).content.decode()
    cast.client.force_login(cast.eve)
    assert cast.client.get(URL).status_code == 404


def test_votes_at_the_gate_are_counted_where_they_decided(cast: Cast) -> None:
    prompt, answers = cast.answered_prompt("At the gate?", split="gate")
    record_preference(
        project=cast.project,
        judge=Judge(user=cast.bob),
        candidates=[one.pk for one in answers],
        ranks=[1, 2],
        source="ui",
        is_shown=True,
    )
    v2 = Version.objects.create(
        project=cast.project, number=2, kind="adapter", path="versions/2", digest="sha256:2"
    )
    create_numbered(
        Evaluation, project=cast.project, candidate=v2, champion=cast.v1, prompt_ids=[str(prompt.pk)],
        status="decided", verdict="reject",
    )  # fmt: skip
    cast.client.force_login(cast.bob)
    assert "v2 against v1: 1 vote of yours" in cast.client.get(URL).content.decode()
