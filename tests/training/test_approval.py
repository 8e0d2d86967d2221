"""The policy names who lets a version serve; going back needs nobody's leave."""

from __future__ import annotations

from typing import Any

import pytest

from inference.models import Version
from inference.services.deployments import current_deployment
from projects.models import User
from projects.services import Actor
from tests.cast import Cast, error_of
from tests.training.conftest import second_version
from training.models import Evaluation, Policy
from training.services.approval import ApprovalNeeded, may_approve
from training.services.promotion import promote_version, rollback_version

pytestmark = pytest.mark.usefixtures("loaded")


@pytest.fixture
def better(cast: Cast) -> Version:
    """v2, which an evaluation found better."""
    version = second_version(cast)
    Evaluation.objects.create(
        project=cast.project, number=1, candidate=version, champion=cast.v1, prompt_ids=[],
        status="decided", verdict="promote", reason="It wins.",
    )  # fmt: skip
    return version


@pytest.mark.parametrize(
    ("approval", "who"),
    [
        ("automatic", {"ada", "root", "key"}),
        ("reviewer", {"carol", "ada", "root", "key"}),
        ("manager", {"ada", "root", "key"}),
        ("operator", {"root"}),
    ],
)
def test_who_may(cast: Cast, approval: str, who: set[str]):
    Policy.objects.create(project=cast.project, approval=approval)
    root = User.objects.create_user("root", is_staff=True)
    actors = {name: Actor(user=getattr(cast, name)) for name in ("ada", "bob", "carol", "eve")}
    actors |= {"root": Actor(user=root), "key": Actor(api_key=cast.api_key)}
    assert {name for name, actor in actors.items() if may_approve(cast.project, actor)} == who
    assert may_approve(cast.project, Actor()), "the shell and Ratchet itself"


def test_an_operators_policy_stops_a_manager_and_a_key_but_not_the_way_back(cast: Cast, better: Version):
    Policy.objects.create(project=cast.project, approval="operator")
    said: dict[str, Any] = {"project": cast.project, "version": better, "reason": "It won."}
    with pytest.raises(ApprovalNeeded, match="an operator promotes"):
        promote_version(**said, actor=Actor(user=cast.ada), override=True)
    answer = cast.post("deployments", {"version": "v2", "reason": "It won."}, key=cast.manage_key)
    assert (answer.status_code, error_of(answer)["code"]) == (403, "approval_needed")
    promote_version(**said, actor=Actor())
    rollback_version(project=cast.project, actor=Actor(user=cast.ada), reason="It did not.")
    assert current_deployment(cast.project).champion == cast.v1


def test_a_reviewer_promotes_from_the_verdict_where_the_policy_says_so(cast: Cast, better: Version):
    cast.client.force_login(cast.carol)
    page = "/p/kitchen/evaluations/1/"
    assert b"Promote v2" not in cast.client.get(page).content
    refused = cast.client.post(f"{page}approve", follow=True)
    assert "a manager promotes" in refused.content.decode()
    assert current_deployment(cast.project).canary is None
    Policy.objects.create(project=cast.project, approval="reviewer")
    assert b"Promote v2" in cast.client.get(page).content
    assert cast.client.post(f"{page}approve").status_code == 302
    deployment = current_deployment(cast.project)
    assert (deployment.canary, deployment.user) == (better, cast.carol)
    assert deployment.reason == "Evaluation 1: It wins."
    cast.client.force_login(cast.bob)
    assert cast.client.post(f"{page}approve").status_code == 404
