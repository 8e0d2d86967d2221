"""The pages of runs: what a run would take, what it told, and runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from projects.models import User
from projects.services import SYSTEM
from tests.cast import Cast
from tests.training.conftest import judged
from training.models import Dataset, Run, RunEvent
from training.pages.comparing import POINTS, points_of
from training.services.runs import create_run

RUNS = "/p/kitchen/runs/"


def page_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def plan(user: User, **fields: Any) -> Any:
    return page_of(user).get(f"{RUNS}plan", fields)


@pytest.fixture
def llama(base_model: Path) -> Path:
    """The default model's shape, for estimates; no weights."""
    shape = '{"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152, '
    (base_model / "config.json").write_text(shape + '"num_attention_heads": 9, "num_key_value_heads": 3}')
    return base_model


def test_a_run_is_foretold_before_it_is_queued(llama: Path, cast: Cast):
    judged(cast, 24)
    body = plan(cast.ada, method="dpo").content.decode()
    assert "Suggested: <strong>DPO: learn from pairs</strong>" in body
    assert "pairs of answers say which one people prefer" in body
    assert "pairs, " in body and " GB, " in body and "about " in body
    assert not Run.objects.exists() and not Dataset.objects.exists(), "nothing is written"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"method": "kto"}, "KTO needs at least"),
        ({"method": "ppo"}, "PPO needs a reward model"),
        ({"method": "dpo", "config": "{nonsense"}, "not valid JSON"),
        ({"method": "dpo", "config": '{"learning_rat": 1}'}, "Did you mean learning_rate?"),
        ({"method": "dpo", "config": '{"batch_size": 500}'}, "batch_size is 500"),
        ({"method": "dpo", "dataset": "77"}, "Choose a dataset of this project."),
        ({"method": "magic"}, "There is no method magic"),
    ],
)
def test_what_would_be_refused_is_said_there(llama: Path, cast: Cast, fields: dict[str, str], said: str):
    judged(cast, 24)
    answer = plan(cast.ada, **fields)
    assert answer.status_code == 200
    assert said in answer.content.decode().replace("&quot;", '"')


def test_only_managers_ask_what_a_run_would_take(cast: Cast):
    assert plan(cast.bob).status_code in (403, 404)
    assert plan(cast.eve).status_code == 404


@pytest.fixture
def two_runs(cast: Cast) -> list[Run]:
    judged(cast, 24)
    made = []
    for place, config in enumerate(({}, {"beta": 0.4, "epochs": 2})):
        run = create_run(project=cast.project, config=config, actor=SYSTEM)
        for step in range(1, 6):
            RunEvent.objects.create(
                run=run,
                sequence=step,
                name="progress",
                data={
                    "step": step,
                    "metrics": {"loss": 0.7 / (step + place), "kl": 0.1 * step, "grad_norm": 3.0},
                    "tokens_per_second": 50.0 + step,
                },
            )
        made.append(run)
    return made


def test_two_runs_are_compared(two_runs: list[Run], cast: Cast):
    answer = page_of(cast.bob).get(f"{RUNS}compare?run=1&run=2")
    assert [name for name, _, _ in answer.context["settings"]] == ["dataset", "beta", "epochs"]
    assert answer.context["settings"][1][1] == [0.1, 0.4]
    overlays = {overlay.name: overlay for overlay in answer.context["overlays"]}
    assert list(overlays) == ["loss", "kl", "tokens_per_second"], "what both told, and nothing else"
    assert [curve.run for curve in overlays["loss"].curves] == [1, 2]
    assert overlays["loss"].curves[0].path.count("L") == 4
    body = answer.content.decode()
    assert body.count("<svg") >= 3 and "Settings that differ" in body


@pytest.mark.parametrize("query", ["", "run=1", "run=1&run=77", "run=1&run=x", "run=1&run=1"])
def test_one_run_is_no_comparison(two_runs: list[Run], cast: Cast, query: str):
    answer = page_of(cast.bob).get(f"{RUNS}compare?{query}")
    assert answer.status_code == 422
    assert "Choose two to four runs" in answer.content.decode()


def test_a_resumed_runs_later_word_counts(two_runs: list[Run]):
    run = two_runs[0]
    RunEvent.objects.create(
        run=run, sequence=9, name="progress", data={"step": 2, "metrics": {"loss": 9.0, "kl": True}}
    )
    points = dict(points_of(run)["loss"])
    assert points[2] == 9.0
    assert dict(points_of(run)["kl"])[2] == 0.2, "a truth is no number"
    assert len(points) == 5 < POINTS


def test_a_runs_log_is_bounded_and_hostile_text_stays_text(two_runs: list[Run], cast: Cast):
    run = two_runs[0]
    run.folder.mkdir(parents=True)
    (run.folder / "log.txt").write_text("first\n" + "x" * 5000 + "<script>alert(1)</script>\n")
    body = page_of(cast.ada).get(f"{RUNS}1/").content.decode()
    assert "&lt;script&gt;alert(1)" in body and "<script>alert(1)" not in body
    assert "first" not in body.split('class="log"')[1]
    assert 'class="log"' not in page_of(cast.bob).get(f"{RUNS}1/").content.decode(), "managers alone"


def test_a_runs_environment_and_lineage_are_shown(two_runs: list[Run], cast: Cast):
    environment = {"torch": "2.13.0", "trl": "1.12.0", "device": "cuda, H100"}
    RunEvent.objects.create(
        run=two_runs[0], sequence=0, name="started", data={"step": 0, "environment": environment}
    )
    body = page_of(cast.bob).get(f"{RUNS}1/").content.decode()
    assert "cuda, H100" in body and "1.12.0" in body
    assert "/p/kitchen/datasets/1/" in body and "v1" in body


def test_a_cancelled_run_has_a_button_to_go_on(two_runs: list[Run], cast: Cast):
    run = two_runs[0]
    page, button = f"/p/kitchen/runs/{run.number}/", "Go on with the run"
    cast.client.force_login(cast.ada)
    assert button not in cast.client.get(page).content.decode()
    Run.objects.filter(pk=run.pk).update(status=Run.Status.CANCELLED)
    assert button in cast.client.get(page).content.decode()
    swapped = cast.client.get(page, headers={"HX-Request": "true"}).content.decode()
    assert 'id="run-buttons" hx-swap-oob' in swapped and button in swapped, "an open page gets it too"
    assert cast.client.post(f"{page}resume").status_code == 302
    run.refresh_from_db()
    assert run.status == Run.Status.QUEUED
    cast.client.force_login(cast.bob)
    assert cast.client.post(f"{page}resume").status_code == 404
