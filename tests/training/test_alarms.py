"""Signs of reward hacking: told from curves that have them, and not from curves that do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from projects.services import SYSTEM
from tests.cast import Cast
from tests.training.conftest import judged, second_version
from training.models import Evaluation, Run, RunEvent
from training.services.alarms import find_alarms, shift_of
from training.services.runs import create_run

STEPS = 100


def curve(
    first: float, last: float, *, noise: float = 0.05, seed: int = 0, steps: int = STEPS
) -> list[float]:
    """From one height to another in a straight line, with noise of that share of the larger one."""
    dice = np.random.default_rng(seed)
    spread = noise * max(abs(first), abs(last), 1e-9)
    return [float(value) for value in np.linspace(first, last, steps) + dice.normal(0, spread, steps)]


Case = tuple[dict[str, list[float]], dict[str, Any]]
HAS: dict[str, Case] = {
    "length": ({"answer_tokens": curve(60, 180)}, {}),
    "kl": ({"kl": curve(0, 40)}, {}),
    "entropy": ({"entropy": curve(2.0, 0.3)}, {}),
    "people": ({"reward": curve(0.0, 3.0)}, {"people": {"win_rate": 0.42, "n": 60}}),
    "chosen": ({"reward_chosen": curve(0.0, -3.0), "reward_margin": curve(0.0, 2.0)}, {"beta": 0.1}),
}
HAS_NOT: dict[str, Case] = {
    "steady": ({"answer_tokens": curve(80, 80), "entropy": curve(2, 2), "kl": curve(2, 2)}, {}),
    "a little longer": ({"answer_tokens": curve(80, 100)}, {}),
    "shorter": ({"answer_tokens": curve(180, 60)}, {}),
    "near the base": ({"kl": curve(0, 6)}, {}),
    "noise alone": ({"answer_tokens": curve(80, 80, noise=0.8), "kl": curve(16, 16, noise=0.8)}, {}),
    "livelier": ({"entropy": curve(0.5, 2.0)}, {}),
    "people follow": ({"reward": curve(0.0, 3.0)}, {"people": {"win_rate": 0.66, "n": 60}}),
    "few have judged": ({"reward": curve(0.0, 3.0)}, {"people": {"win_rate": 0.2, "n": 4}}),
    "nobody has judged": ({"reward": curve(0.0, 3.0)}, {"people": {"win_rate": None, "n": 0}}),
    "reward does not rise": ({"reward": curve(1.0, 1.0)}, {"people": {"win_rate": 0.4, "n": 60}}),
    "chosen rises": ({"reward_chosen": curve(0.0, 1.0), "reward_margin": curve(0.0, 2.0)}, {"beta": 0.1}),
    "chosen falls a little": ({"reward_chosen": curve(0.0, -0.3)}, {"beta": 0.1}),
    "too short": ({"answer_tokens": curve(60, 180, steps=9)}, {}),
    "nothing": ({}, {}),
}


@pytest.mark.unit
@pytest.mark.parametrize("name", HAS)
def test_a_curve_that_has_the_sign(name: str):
    curves, more = HAS[name]
    [alarm] = find_alarms(curves, **more)
    assert alarm.name == name
    assert alarm.words.endswith(".")


@pytest.mark.unit
@pytest.mark.parametrize("name", HAS_NOT)
def test_a_curve_that_has_not(name: str):
    curves, more = HAS_NOT[name]
    assert find_alarms(curves, **more) == []


@pytest.mark.unit
def test_noise_is_seldom_taken_for_a_change():
    """200 flat curves: three standard errors of ten points each side."""
    fooled = sum(
        bool((s := shift_of(curve(1, 1, noise=0.5, seed=seed))) and s.is_clear) for seed in range(200)
    )
    assert fooled <= 4


@pytest.mark.unit
def test_what_is_no_number_is_passed_over():
    values = [*curve(60, 180), float("nan"), float("inf")]
    assert [alarm.name for alarm in find_alarms({"answer_tokens": values})] == ["length"]


@pytest.fixture
def run(cast: Cast) -> Run:
    """A finished run whose answers grew, and whose version people do not prefer."""
    judged(cast, 24)
    run = create_run(project=cast.project, actor=SYSTEM)
    for step, (tokens, reward) in enumerate(zip(curve(60, 180), curve(0, 3), strict=True)):
        data = {"step": step, "metrics": {"answer_tokens": tokens, "reward": reward}}
        RunEvent.objects.create(run=run, sequence=step, name="progress", data=data)
    Run.objects.filter(pk=run.pk).update(status="finished", version=second_version(cast))
    return run


def test_they_stand_on_the_run_and_in_its_answer(cast: Cast, run: Run):
    words = [alarm["words"] for alarm in cast.get(f"runs/{run.number}").json()["alarms"]]
    assert len(words) == 1 and words[0].startswith("Its answers grew from ")
    cast.client.force_login(cast.bob)
    assert words[0] in cast.client.get(f"/p/kitchen/runs/{run.number}/").content.decode()


def test_reward_that_people_do_not_follow_is_said_once_they_judged(cast: Cast, run: Run):
    Evaluation.objects.create(
        project=cast.project, number=1, candidate=second_of(run), champion=cast.v1, prompt_ids=[],
        status="decided", verdict="reject", numbers={"win_rate": 0.3, "n": 40},
    )  # fmt: skip
    names = [alarm["name"] for alarm in cast.get(f"runs/{run.number}").json()["alarms"]]
    assert names == ["length", "people"]


def second_of(run: Run) -> Any:
    run.refresh_from_db()
    assert run.version is not None
    return run.version
