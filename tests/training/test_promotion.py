"""What serves changes on a verdict, or on an operator's reason against it; by REST and by command."""

from __future__ import annotations

import re
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from inference.models import Deployment, Version
from inference.services.deployments import current_deployment
from inference.services.reconciler import reconcile
from projects.models import AuditEvent
from tests.cast import Cast, error_of
from tests.inference.adapters import new_version
from tests.processes import Process
from training.models import Evaluation

pytestmark = pytest.mark.model


@pytest.fixture
def candidate(cast: Cast, engine: Process, tmp_path: Path) -> Version:
    """v2, and an engine that holds nothing of earlier tests."""
    reconcile()
    return new_version(cast.project, tmp_path)


def decided(cast: Cast, candidate: Version, verdict: str, *, champion: Version | None = None) -> Evaluation:
    number = Evaluation.objects.count() + 1
    return Evaluation.objects.create(
        project=cast.project,
        number=number,
        candidate=candidate,
        champion=champion or cast.v1,
        prompt_ids=[],
        status=Evaluation.Status.DECIDED,
        verdict=verdict,
        reason=f"The script says {verdict}.",
        numbers={"n": 60, "win_rate": 0.7, "ci_low": 0.6, "ci_high": 0.8},
        decided=timezone.now(),
    )


def deploy(cast: Cast, **body: Any) -> Any:
    return cast.post("deployments", {"reason": "because", **body}, key=cast.manage_key)


def test_a_verdict_to_promote_promotes(cast: Cast, candidate: Version):
    decided(cast, candidate, "promote")
    answer = deploy(cast, version="kitchen@v2")
    assert answer.status_code == 201, answer.content
    body = answer.json()
    assert (body["number"], body["kind"], body["version"]) == (2, "promote", "kitchen@v2")
    assert (body["champion"], body["previous"], body["share"]) == ("kitchen@v2", "kitchen@v1", 0.0)
    assert body["load_ms"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", body["created"])
    assert datetime.fromisoformat(body["created"]) <= timezone.now()
    assert body["detail"]["evaluation"] == 1
    assert body["detail"]["numbers"]["win_rate"] == 0.7
    assert cast.get("deployments").json()["items"][0] == body
    assert current_deployment(cast.project).champion == candidate


@pytest.mark.parametrize("verdict", ["", "reject", "insufficient"])
def test_without_a_verdict_to_promote_nothing_is_promoted(cast: Cast, candidate: Version, verdict: str):
    if verdict:
        decided(cast, candidate, verdict)
    error = error_of(deploy(cast, version="v2"))
    assert error["code"] == "verdict_missing"
    assert ("The script says" in error["message"]) == bool(verdict)
    assert Deployment.objects.filter(project=cast.project).count() == 1


def test_the_last_verdict_counts_and_only_against_what_serves_now(cast: Cast, candidate: Version, tmp_path):
    decided(cast, candidate, "promote")
    decided(cast, candidate, "insufficient")
    assert error_of(deploy(cast, version="v2"))["code"] == "verdict_missing"
    other = new_version(cast.project, tmp_path, seed=3)
    decided(cast, other, "promote", champion=candidate)
    assert error_of(deploy(cast, version="v3"))["code"] == "verdict_missing"


def test_an_operator_may_promote_against_the_verdict_and_that_is_written_down(cast: Cast, candidate: Version):
    decided(cast, candidate, "insufficient")
    body = deploy(cast, version="v2", override=True, reason="The board decided.").json()
    assert (body["champion"], body["detail"]["override"]) == ("kitchen@v2", True)
    [event] = AuditEvent.objects.filter(action="deployment.override")
    assert event.detail == {
        "version": "kitchen@v2", "reason": "The board decided.", "verdict": "insufficient",
    }  # fmt: skip
    assert event.api_key is not None


def test_back_and_forward_again(cast: Cast, candidate: Version):
    decided(cast, candidate, "promote")
    deploy(cast, version="v2")
    back = deploy(cast, rollback=True).json()
    assert (back["kind"], back["champion"], back["previous"]) == ("rollback", "kitchen@v1", "kitchen@v2")
    forward = deploy(cast, version="v2").json()
    assert (forward["number"], forward["champion"]) == (4, "kitchen@v2")


def test_a_canary_takes_a_share(cast: Cast, candidate: Version):
    decided(cast, candidate, "promote")
    body = deploy(cast, version="v2", share=0.05).json()
    assert (body["kind"], body["version"], body["champion"]) == ("canary", "kitchen@v2", "kitchen@v1")
    assert (body["canary"], body["share"]) == ("kitchen@v2", 0.05)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"version": "v2", "rollback": True}, 422),
        ({"rollback": True, "share": 0.5}, 422),
        ({"version": "v2", "share": 0}, 422),
        ({"version": "v2", "share": 1.5}, 422),
        ({"version": "v2", "reason": " "}, 422),
        ({"version": "v77"}, 404),
        ({"version": "garden@v1"}, 404),
        ({"rollback": True}, 409),
    ],
)
def test_what_is_refused(cast: Cast, candidate: Version, body: dict[str, Any], status: int):
    decided(cast, candidate, "promote")
    answer = deploy(cast, **body)
    assert answer.status_code == status, answer.content
    error_of(answer)
    assert Deployment.objects.filter(project=cast.project).count() == 1


def test_one_flipped_byte_is_refused_and_the_champion_untouched(cast: Cast, candidate: Version):
    decided(cast, candidate, "promote")
    weights = candidate.folder / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    answer = deploy(cast, version="v2")
    assert (answer.status_code, error_of(answer)["code"]) == (409, "promotion_refused")
    assert current_deployment(cast.project).champion == cast.v1


def test_who_may(cast: Cast, candidate: Version):
    decided(cast, candidate, "promote")
    assert cast.post("deployments", {"version": "v2", "reason": "x"}).status_code == 403
    foreign = cast.post("deployments", {"version": "kitchen@v2", "reason": "x"}, key=cast.foreign_key)
    assert foreign.status_code == 404


def test_the_lineage_of_versions(cast: Cast, candidate: Version):
    decided(cast, candidate, "promote")
    new, base = cast.get("versions").json()["items"]
    assert (new["label"], new["kind"], new["run"], new["judgements"]) == ("kitchen@v2", "adapter", None, 0)
    assert new["evaluations"] == [
        {"number": 1, "champion": "kitchen@v1", "status": "decided", "verdict": "promote", "win_rate": 0.7}
    ]
    assert (base["label"], base["kind"], base["run"], base["dataset_digest"]) == (
        "kitchen@v1",
        "base",
        None,
        None,
    )


# --- commands -----------------------------------------------------------------------------------------
def test_the_command_promotes_and_rolls_back(cast: Cast, candidate: Version):
    decided(cast, candidate, "promote")
    said = StringIO()
    call_command("promote", project="kitchen", version="v2", reason="It won.", stdout=said)
    assert "Deployment 2: kitchen@v2 serves." in said.getvalue()
    call_command("promote", project="kitchen", rollback=True, reason="It lost.", stdout=said)
    assert current_deployment(cast.project).champion == cast.v1


def test_the_command_says_plainly_what_is_wrong(cast: Cast, candidate: Version):
    with pytest.raises(CommandError, match="There are: garden, kitchen"):
        call_command("promote", project="cellar", version="v2", reason="x")
    with pytest.raises(CommandError, match="No evaluation"):
        call_command("promote", project="kitchen", version="v2", reason="x")
    call_command(
        "promote", project="kitchen", version="v2", reason="I know.", override=True, stdout=StringIO()
    )
    assert current_deployment(cast.project).champion == candidate
