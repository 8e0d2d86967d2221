"""Raters of every bad kind, and honest ones beside them, at work: each is named for what it does.

They take their first questions through the page, and the rest through the services that it calls. All are
asked to compare v1 with v2. The taste of most is the longer answer, which v2 gives in two of three; it is
missed one time in ten.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from feedback.models import Agreement, Assignment, RaterEvent, Standing, Task
from feedback.services import queue
from feedback.services.answers import answer_task
from feedback.services.draw import draw_tasks
from feedback.services.queue import claim_task
from feedback.services.tasks import create_task
from feedback.services.workbench import update_workbench
from feedback.tasks import measure_raters
from inference.models import Completion, Version
from projects.models import Project, User
from projects.services import SYSTEM, add_member
from tests.cast import Cast

TASKS = 54
ON_THE_PAGE = 3  # questions of each rater
Choice = Callable[[list[Completion], random.Random], int]  # the place of the better one


def longer(shown: list[Completion], dice: random.Random, miss: float = 0.1) -> int:
    right = 0 if len(shown[0].text) > len(shown[1].text) else 1
    return 1 - right if dice.random() < miss else right


def newest(shown: list[Completion], dice: random.Random) -> int:
    return max((0, 1), key=lambda place: shown[place].version.number)  # type: ignore[union-attr]  # has one


def unusual(shown: list[Completion], dice: random.Random) -> int:
    """Likes a word that half of the answers have, and length where that does not decide."""
    words = ["please" in one.text for one in shown]
    if words[0] != words[1] and dice.random() < 0.5:
        return words.index(True)
    return longer(shown, dice)


class FairSides(random.SystemRandom):
    """For the queue's shuffle: the longer answer is left in every other two questions.

    As fair as dice, without their luck: by these one honest rater in a thousand leans to a side.
    """

    answers: dict[str, Completion]

    def shuffle(self, ids: Any) -> None:
        if not ids:  # there is no gold
            return
        texts = {one: self.answers[str(one)].text for one in ids}
        is_left = number_in(texts[ids[0]]) // 2 % 2 == 0
        ids.sort(key=lambda one: len(texts[one]), reverse=is_left)


def number_in(text: str) -> int:
    """The number of its question, which each answer names."""
    return int(re.findall(r"\d+", text)[0])


def coin(shown: list[Completion], dice: random.Random) -> int:
    """Right in exactly half of them: what a coin gives, without its luck."""
    return longer(shown, dice, float(number_in(shown[0].text) % 2))


# Who -> how they choose, seconds for each, and the words by which they are named; none for the honest.
RATERS: dict[str, tuple[Choice, float, str]] = {
    "honest": (longer, 6.0, ""),
    "careful": (lambda shown, dice: longer(shown, dice, 0.02), 12.0, ""),
    "quick": (lambda shown, dice: longer(shown, dice, 0.15), 2.0, ""),
    "tired": (lambda shown, dice: longer(shown, dice, 0.2), 20.0, ""),
    "unusual": (unusual, 7.0, ""),
    "lefty": (lambda shown, dice: 0, 5.0, r"The left answer was chosen in \d+ of \d+ comparisons"),
    "coin": (coin, 5.0, r"as by a coin; others met it in \d+%"),
    "hasty": (longer, 0.4, r"54 of 54 answers took less than 1.5 seconds"),
    "modern": (newest, 5.0, r"The newer version was chosen in 100% of 54 comparisons; others chose it in"),
    "contrary": (
        lambda shown, dice: 1 - longer(shown, dice, 0.02),
        5.0,
        r"Agreement with other raters is \d+%, over \d+ answers",
    ),
}


@pytest.fixture
def judged(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> dict[str, Standing]:
    """All raters have answered all questions, and were measured; their standings by name."""
    dice = random.Random(7)
    v2 = Version.objects.create(project=cast.project, number=2, kind="adapter", digest="sha256:2")
    update_workbench(project=cast.project, actor=SYSTEM, overlap=len(RATERS), reviews_disputes=False)
    for number in range(TASKS):
        texts = [f"Yes, {number}.", f"Yes, and here is why, at length, for {number}."]
        if number % 3 == 0:
            texts.reverse()
        texts = [text + (" please" if dice.random() < 0.5 else "") for text in texts]
        prompt, made = cast.answered_prompt(f"Question {number}?", texts, versions=[cast.v1, v2])
        create_task(project=cast.project, kind="compare", prompt=prompt, completions=made)
    draw_tasks(project=cast.project, kinds=["compare"])
    answers = {str(one.pk): one for one in Completion.objects.select_related("version")}
    sides = FairSides()
    sides.answers = answers
    monkeypatch.setattr(queue, "_dice", sides)
    for name, (choose, seconds, _) in RATERS.items():
        user = User.objects.create_user(name)
        add_member(project=cast.project, user=user, role="rater", actor=SYSTEM)
        work(user, answers, choose, seconds, name)
    assert not Task.objects.filter(is_open=True).exists()
    measure_raters()
    return {one.user.username: one for one in Standing.objects.select_related("user")}


def work(user: User, answers: dict[str, Completion], choose: Choice, seconds: float, name: str) -> None:
    """One rater's session, question by question."""
    client = Client()
    client.force_login(user)
    for number in range(TASKS):
        is_on_page = number < ON_THE_PAGE
        question = question_on(client) if is_on_page else claim_task(project=the_project(), rater=user)
        assert question is not None
        shown = [answers[one] for one in question.shown]
        # The same rater says the same of the same question, in whatever order they come.
        dice = random.Random(f"{name} {sorted(one.text for one in shown)}")
        verdict = ("left", "right")[choose(shown, dice)]
        took = seconds * dice.uniform(0.8, 1.2)
        if is_on_page:
            said = {"verdict": verdict, "seconds": f"{took:.2f}"}
            path = f"/p/kitchen/work/{question.pk}/answer?kind=compare"
            assert client.post(path, said).status_code == 302
        else:
            answer_task(assignment=question, answer={"verdict": verdict}, seconds_spent=took)


def question_on(client: Client) -> Assignment:
    """What the page shows; it names its assignment in the address to which the answer goes."""
    page = client.get("/p/kitchen/work/?kind=compare").content.decode()
    found = re.search(r"/work/([0-9a-f-]{36})/answer", page)
    assert found, page
    return Assignment.objects.get(pk=found[1])


def the_project() -> Project:
    return Project.objects.get(slug="kitchen")


@pytest.mark.slow
def test_each_is_named_for_what_it_does_and_the_honest_are_not(
    judged: dict[str, Standing], cast: Cast
) -> None:
    for name, (_, _, words) in RATERS.items():
        standing = judged[name]
        remarks = " ".join(standing.numbers["remarks"])
        if not words:
            assert (standing.status, remarks) == ("new", ""), f"{name}: {standing.numbers}"
            continue
        assert re.search(words, remarks), f"{name}: {standing.numbers}"
        # Always the left one is, by the shuffled sides, a coin as well.
        assert len(standing.numbers["remarks"]) == 1 or name == "lefty", f"{name}: {remarks}"
        assert (standing.status, standing.reason) == ("watched", remarks)
        assert RaterEvent.objects.get(rater=standing.user).reason == remarks
    alpha = Agreement.objects.get(kind="compare", aspect="")
    assert alpha.alpha is not None and alpha.low is not None and alpha.high is not None
    assert 0 < alpha.low < alpha.alpha < alpha.high < 0.9
    assert (alpha.units, alpha.raters) == (TASKS, len(RATERS))
    quarantine(cast, judged["coin"])


def quarantine(cast: Cast, coin: Standing) -> None:
    """A manager's press takes the labels out of the next dataset, visibly, and another brings them back."""

    def preview() -> dict[str, Any]:
        body = {"format": "preference", "dry_run": True}
        return dict(cast.post("datasets", body, key=cast.manage_key).json())

    ada = Client()
    ada.force_login(cast.ada)
    page = f"/p/kitchen/raters/{coin.user_id}/"
    assert "as by a coin" in ada.get(page).content.decode()
    assert preview()["drops"].get("quarantined_rater", 0) == 0
    ada.post(f"{page}judge", {"action": "quarantine", "reason": "Tosses a coin."})
    assert preview()["drops"]["quarantined_rater"] == TASKS
    assert "Tosses a coin." in ada.get(page).content.decode()
    coin.refresh_from_db()
    assert coin.status == "quarantined"
    assert claim_task(project=cast.project, rater=coin.user) is None
    ada.post(f"{page}judge", {"action": "restore", "reason": "A broken page."})
    assert preview()["drops"].get("quarantined_rater", 0) == 0
