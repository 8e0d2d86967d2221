"""A canary that steps up while nothing speaks against it, and goes back by itself when something does."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from feedback.models import Flag
from feedback.services.judge import Judge
from feedback.services.record import record_flag, record_rating
from inference.models import Completion, Conversation, Deployment, Version
from inference.services import deployments
from inference.services.deployments import current_deployment
from inference.services.prompts import record_prompt
from projects.errors import Unavailable
from projects.models import AuditEvent
from projects.services import SYSTEM, Actor
from tests.cast import Cast, error_of, make_cast
from tests.training.conftest import second_version
from training.models import Evaluation, Policy, Rollout
from training.services import rollouts
from training.services.promotion import promote_version, rollback_version
from training.services.rollouts import tick_rollouts

pytestmark = pytest.mark.usefixtures("loaded")


def start(cast: Cast, *, candidate: Version | None = None, **policy: Any) -> Rollout:
    """v2 on its way, with a policy that asks for 10 answers and 4 judgements a share."""
    values = {"canary_minutes": 30, "canary_answers": 10, "canary_judgements": 4, **policy}
    Policy.objects.update_or_create(project=cast.project, defaults=values)
    candidate = candidate or second_version(cast)
    Evaluation.objects.create(
        project=cast.project,
        number=Evaluation.objects.count() + 1,
        candidate=candidate,
        champion=cast.v1,
        prompt_ids=[],
        status="decided",
        verdict="promote",
    )
    promote_version(
        project=cast.project, version=candidate, actor=Actor(user=cast.ada), reason="It won.", canary=True
    )
    rollout = Rollout.objects.get()
    return move_back(rollout, hours=10)


def move_back(rollout: Rollout, *, hours: float) -> Rollout:
    """As if it had begun earlier: what is asked from now on comes after its start."""
    ago = timedelta(hours=hours)
    for row in Deployment.objects.filter(project=rollout.project):
        Deployment.objects.filter(pk=row.pk).update(created=row.created - ago)
    Rollout.objects.filter(pk=rollout.pk).update(
        created=rollout.created - ago, step_started=rollout.step_started - ago
    )
    rollout.refresh_from_db()
    return rollout


def talk(
    cast: Cast, version: Version, count: int, *, up: int = 0, down: int = 0, text: str = "", **fields: Any
) -> list[Completion]:
    """So many conversations with an answer each; the first `up` get a thumb up, the next `down` one down."""
    made = []
    for place in range(count):
        conversation = Conversation.objects.create(project=cast.project, owner=cast.bob, title="Eggs")
        prompt, _ = record_prompt(
            project=cast.project,
            messages=[{"role": "user", "content": "How long does an egg take?"}],
            conversation=conversation,
        )
        state = fields.get("state", Completion.State.FINISHED)
        answer = cast.answer(prompt, text or f"Eight minutes, number {place}.", version=version, state=state)
        if "ttft_ms" in fields:
            Completion.objects.filter(pk=answer.pk).update(ttft_ms=fields["ttft_ms"])
        if place < up + down:
            value = 1 if place < up else -1
            record_rating(
                project=cast.project,
                judge=Judge(user=cast.bob),
                completion_id=answer.pk,
                value=value,
                source="ui",
                is_shown=True,
            )
        made.append(answer)
    return made


def tick(rollout: Rollout, *, minutes: float = 31) -> Rollout:
    """A tick so many minutes after its share began."""
    rollout.refresh_from_db()
    tick_rollouts(now=max(timezone.now(), rollout.step_started + timedelta(minutes=minutes)))
    rollout.refresh_from_db()
    return rollout


def both(cast: Cast, rollout: Rollout, *, up: int, down: int, old_up: int = 6, old_down: int = 4) -> None:
    """Ten judged conversations on either side, in turn."""
    new = [True] * up + [False] * down
    old = [True] * old_up + [False] * old_down
    for is_up, was_up in zip(new, old, strict=True):
        talk(cast, cast.v1, 1, up=int(was_up), down=int(not was_up))
        talk(cast, rollout.candidate, 1, up=int(is_up), down=int(not is_up))


def history(cast: Cast) -> list[tuple[str, str, float]]:
    rows = Deployment.objects.filter(project=cast.project).order_by("number")
    return [(row.kind, str(row.champion), row.canary_share) for row in rows]


def test_a_good_candidate_goes_up_by_itself_to_all_and_its_watch_ends(cast: Cast, loaded: list[Version]):
    rollout = start(cast)
    assert (rollout.status, rollout.share) == ("stepping", 0.01)
    for share in (0.05, 0.25, 1.0):
        both(cast, rollout, up=7, down=3)
        assert tick(rollout).share == share, rollout.message
    assert history(cast) == [
        ("first", "kitchen@v1", 0.0),
        ("canary", "kitchen@v1", 0.01),
        ("canary", "kitchen@v1", 0.05),
        ("canary", "kitchen@v1", 0.25),
        ("promote", "kitchen@v2", 0.0),
    ]
    assert "At 25 % its guards held" in current_deployment(cast.project).reason
    assert rollout.status == "watching"
    assert "watched for 23 hours" in tick(rollout).message
    done = tick(rollout, minutes=24 * 60 + 1)
    assert (done.status, "24 hours" in done.message) == ("done", True)
    assert current_deployment(cast.project).champion == rollout.candidate
    assert loaded == [rollout.candidate] * 4


def test_without_feedback_it_waits_and_says_so(cast: Cast):
    rollout = start(cast)
    assert "10 more answers (0 of 10) and 4 more judgements of people (0 of 4)" in tick(rollout).message
    talk(cast, rollout.candidate, 10)
    waiting = tick(rollout, minutes=600)
    assert (waiting.share, waiting.status) == (0.01, "stepping")
    assert waiting.message == (
        "At 1 %. Nothing speaks against it. It waits for 4 more judgements of people (0 of 4)."
    )
    talk(cast, rollout.candidate, 4, up=4)
    assert tick(rollout).share == 0.05


def test_time_alone_is_waited_for_too_and_a_share_begins_anew(cast: Cast):
    rollout = start(cast)
    talk(cast, rollout.candidate, 10, up=4)
    tick_rollouts(now=rollout.step_started + timedelta(minutes=20))
    rollout.refresh_from_db()
    assert "10 more minutes" in rollout.message
    assert tick(rollout).share == 0.05
    assert "4 more judgements" in tick(rollout).message, "those of the share before count there"


def test_people_who_find_it_worse_send_it_back_with_the_reason(cast: Cast):
    rollout = start(cast, canary_judgements=1000)
    for _ in range(4):
        both(cast, rollout, up=1, down=9, old_up=9, old_down=1)
    back = tick(rollout)
    assert (back.status, back.ended is not None) == ("rolled_back", True)
    assert back.message.startswith("People find it worse: its score against the champion is 0.1")
    last = current_deployment(cast.project)
    assert (last.kind, last.champion, last.canary, last.reason) == ("rollback", cast.v1, None, back.message)
    assert last.detail["rollout"] == rollout.number
    assert AuditEvent.objects.filter(action="deployment.rollback", user=None).exists()
    assert tick_rollouts() == 0


def fail(cast: Cast, version: Version, count: int) -> None:
    talk(cast, version, count, state=Completion.State.FAILED)


def repeat(cast: Cast, version: Version, count: int) -> None:
    talk(cast, version, count, text="an egg and " * 12)


def dawdle(cast: Cast, version: Version, count: int) -> None:
    talk(cast, version, count, ttft_ms=4000.0)


def be_flagged(cast: Cast, version: Version, count: int) -> None:
    for answer in talk(cast, version, count):
        record_flag(
            project=cast.project,
            judge=Judge(user=cast.bob),
            completion_id=answer.pk,
            reason=Flag.Reason.UNSAFE,
            source="ui",
            is_shown=True,
        )


@pytest.mark.parametrize(
    ("harm", "name", "words"),
    [
        (fail, "errors", "100.0% of 20 answers failed, 0.0% of 25 by the champion"),
        (repeat, "degenerate", "were empty or repeated themselves"),
        (dawdle, "slow", "were slow"),
        (be_flagged, "complaints", "got a thumb down or a flag"),
    ],
)
def test_a_broken_guard_sends_it_back_with_its_name(cast: Cast, harm: Any, name: str, words: str):
    rollout = start(cast)
    talk(cast, cast.v1, 5)
    for _ in range(20):
        talk(cast, cast.v1, 1)
        harm(cast, rollout.candidate, 1)
    back = tick(rollout)
    assert back.status == "rolled_back"
    assert words in back.message
    broken = [line["name"] for line in back.findings["lines"] if line["state"] == "broken"]
    assert broken == [name]


def test_an_equal_canary_with_the_champions_faults_stays(cast: Cast):
    rollout = start(cast, canary_judgements=0)
    for place in range(40):
        for version in (cast.v1, rollout.candidate):
            (fail if place % 4 == 0 else talk)(cast, version, 1)
    assert tick(rollout).share == 0.05
    assert [line["state"] for line in rollout.findings["lines"]] == ["holds"] * 4


def test_one_that_disappoints_after_it_serves_all_goes_back_at_once(cast: Cast):
    rollout = start(cast, canary_judgements=0, canary_answers=0, canary_minutes=0)
    both(cast, rollout, up=6, down=4)
    talk(cast, cast.v1, 40, up=30, down=4)
    for _ in range(3):
        tick(rollout)
    assert rollout.status == "watching"
    talk(cast, rollout.candidate, 40, down=40)
    back = tick(rollout)
    assert (back.status, current_deployment(cast.project).champion) == ("rolled_back", cast.v1)
    assert "People find it worse" in back.message


def test_a_version_promoted_at_once_is_watched_too_unless_against_the_verdict(cast: Cast):
    rollout = start(cast)
    rollback_version(project=cast.project, actor=SYSTEM, reason="Not yet.")
    rollout.refresh_from_db()
    assert (rollout.status, "Not yet." in rollout.message) == ("ended", True)
    promote_version(project=cast.project, version=rollout.candidate, actor=SYSTEM, reason="Now.")
    watched = Rollout.objects.first()
    assert watched is not None
    assert (watched.number, watched.status, watched.shares) == (2, "watching", [1.0])
    rollback_version(project=cast.project, actor=SYSTEM, reason="Again not.")
    Evaluation.objects.all().delete()
    promote_version(
        project=cast.project, version=rollout.candidate, actor=SYSTEM, reason="I know.", override=True
    )
    assert Rollout.objects.filter(status__in=Rollout.ACTIVE).count() == 0


def test_a_deployment_by_hand_ends_its_way(cast: Cast):
    rollout = start(cast)
    deployments.rollback(project=cast.project, actor=Actor(user=cast.ada), reason="Soup week.")
    ended = tick(rollout)
    assert (ended.status, ended.message) == ("ended", "Deployment 3 by ada took over: Soup week.")
    assert len(history(cast)) == 3


def test_two_beats_do_nothing_twice(cast: Cast):
    rollout = start(cast, canary_judgements=0, canary_answers=0, canary_minutes=0)
    Rollout.objects.update(lease_until=timezone.now() + timedelta(minutes=1))
    assert tick(rollout).share == 0.01, "another beat holds it"
    Rollout.objects.update(lease_until=None)
    assert tick(rollout).share == 0.05


def test_two_beats_at_the_same_time(transactional_db: None):
    cast = make_cast()
    rollout = start(cast, canary_judgements=0, canary_answers=0, canary_minutes=0)
    barrier = threading.Barrier(3)
    failures: list[BaseException] = []

    def beat() -> None:
        try:
            barrier.wait()
            tick_rollouts()
        except BaseException as error:  # noqa: BLE001 - a thread's failure is the test's
            failures.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=beat) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rollout.refresh_from_db()
    assert failures == []
    # Beats that came after each other may each have made a step; no step was made twice.
    assert [share for *_, share in history(cast)][1:4] == [0.01, 0.05, 0.25][: len(history(cast)) - 1]
    assert current_deployment(cast.project).detail["step"] == rollout.step


def away(version: Version) -> Any:
    raise Unavailable("No engine answers.")


def die(*args: Any, **kwargs: Any) -> None:
    raise KeyboardInterrupt


def test_a_worker_that_died_after_a_step_made_it(cast: Cast, monkeypatch: pytest.MonkeyPatch):
    rollout = start(cast, canary_judgements=0, canary_answers=0, canary_minutes=0)
    real, calls = rollouts._adopt, []

    def adopt_once(*args: Any) -> None:
        """The look at what serves goes well; what follows the step's deployment does not."""
        calls.append(args)
        real(*args) if len(calls) == 1 else die()

    with monkeypatch.context() as patch:
        patch.setattr(rollouts, "_adopt", adopt_once)
        with pytest.raises(KeyboardInterrupt):
            tick_rollouts()
    Rollout.objects.update(plan={**rollout.plan, "minutes": 30})
    tick_rollouts()
    rollout.refresh_from_db()
    assert (len(history(cast)), rollout.share, rollout.status) == (3, 0.05, "stepping")


def test_a_worker_that_died_after_the_way_back_went_back(cast: Cast, monkeypatch: pytest.MonkeyPatch):
    rollout = start(cast)
    for _ in range(20):
        talk(cast, cast.v1, 1)
        fail(cast, rollout.candidate, 1)
    with monkeypatch.context() as patch:
        patch.setattr(rollouts, "_end", die)
        with pytest.raises(KeyboardInterrupt):
            tick_rollouts()
    tick_rollouts()
    rollout.refresh_from_db()
    assert (len(history(cast)), rollout.status) == (3, "rolled_back")
    assert "failed" in rollout.message


def test_an_engine_that_is_away_is_said_and_tried_again(cast: Cast, monkeypatch: pytest.MonkeyPatch):
    rollout = start(cast, canary_judgements=0, canary_answers=0, canary_minutes=0)

    with monkeypatch.context() as patch:
        patch.setattr(deployments, "brought_up", away)
        assert tick(rollout).message == "No engine answers."
        assert (rollout.share, len(history(cast))) == (0.01, 2)
    assert tick(rollout).share == 0.05


def test_a_start_that_an_engine_refuses_leaves_nothing(cast: Cast, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(deployments, "brought_up", away)
    with pytest.raises(Unavailable):
        start(cast)
    assert not Rollout.objects.exists()
    assert len(history(cast)) == 1


# --- by REST ----------------------------------------------------------------------------------------------
def steer(cast: Cast, act: str, number: int = 1, **body: Any) -> Any:
    return cast.post(f"rollouts/{number}/{act}", {"reason": "because", **body}, key=cast.manage_key)


def test_an_operator_steers_it(cast: Cast):
    rollout = start(cast, canary_judgements=0, canary_answers=0, canary_minutes=0)
    paused = steer(cast, "pause").json()
    assert (paused["status"], paused["share"], paused["candidate"]) == ("paused", 0.01, "kitchen@v2")
    assert "paused" in tick(rollout).message
    assert rollout.share == 0.01
    assert steer(cast, "resume").json()["status"] == "stepping"
    assert error_of(steer(cast, "resume"))["code"] == "rollout_over"
    finished = steer(cast, "finish").json()
    assert (finished["status"], finished["share"]) == ("watching", 1.0)
    back = steer(cast, "rollback").json()
    assert (back["status"], back["message"]) == ("rolled_back", "because")
    assert current_deployment(cast.project).champion == cast.v1
    assert error_of(steer(cast, "finish"))["code"] == "rollout_over"
    acts = AuditEvent.objects.filter(action__startswith="rollout.").values_list("action", flat=True)
    assert set(acts) == {"rollout.paused", "rollout.stepping", "rollout.finished"}
    assert cast.get("rollouts").json()["items"][0] == cast.get("rollouts/1").json() == back


@pytest.mark.parametrize("act", ["pause", "resume", "finish", "rollback"])
def test_who_may_steer(cast: Cast, act: str):
    start(cast)
    assert cast.post(f"rollouts/1/{act}", {"reason": "x"}).status_code == 403
    assert cast.post(f"rollouts/1/{act}", {"reason": "x"}, key=cast.foreign_key).status_code == 404
    assert cast.get("rollouts", key=cast.foreign_key).json()["items"] == []


def test_it_begins_by_rest_and_one_at_a_time(cast: Cast):
    rollout = start(cast)
    rollback_version(project=cast.project, actor=SYSTEM, reason="Anew.")
    body = {"version": "v2", "canary": True, "reason": "Slowly."}
    begun = cast.post("deployments", body, key=cast.manage_key).json()
    assert (begun["kind"], begun["share"], begun["detail"]["rollout"]) == ("canary", 0.01, 2)
    assert error_of(cast.post("deployments", body, key=cast.manage_key))["code"] == "rollout_under_way"
    wrong = cast.post("deployments", {**body, "share": 0.5}, key=cast.manage_key)
    assert (wrong.status_code, rollout.number) == (422, 1)
