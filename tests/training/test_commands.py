"""`manage.py train` and `manage.py evaluate`."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from tests.cast import Cast
from tests.inference.adapters import new_version
from tests.training.conftest import Scripted, judged
from training.management.commands import train
from training.models import Evaluation, Run
from training.services import evaluations


def test_train_queues_a_run_and_says_what_it_is(cast: Cast):
    judged(cast, 24)
    said = StringIO()
    call_command("train", "dpo", project="kitchen", no_wait=True, config={"epochs": 2}, stdout=said)
    run = Run.objects.get()
    assert (run.status, run.config["epochs"]) == ("queued", 2)
    assert f"Run 1: {run.dataset.rows} pairs" in said.getvalue()


def test_train_watches_a_run_to_its_version(scripted: Scripted, monkeypatch):
    """--here ticks it in this process; the scripted child needs its script, which the first tick finds."""
    monkeypatch.setattr(train, "LOOK_AGAIN_SECONDS", 0.02)
    monkeypatch.setattr(train, "create_run", lambda **options: scripted.run(seconds=0.1))
    said = StringIO()
    call_command("train", "dpo", project="kitchen", here=True, stdout=said)
    assert "Run 1 made kitchen@v2." in said.getvalue()
    assert "step 3/3" in said.getvalue()


def test_train_says_why_a_run_failed(scripted: Scripted, monkeypatch):
    monkeypatch.setattr(train, "LOOK_AGAIN_SECONDS", 0.02)
    monkeypatch.setattr(train, "create_run", lambda **options: scripted.run(at={"1": "diverged"}))
    with pytest.raises(CommandError, match=r"Run 1 failed \(diverged\)"):
        call_command("train", "dpo", project="kitchen", here=True, stdout=StringIO())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"project": "cellar"}, "no project cellar"),
        ({"dataset": 9}, "no dataset 9"),
        ({}, "at least 16 pairs"),
    ],
)
def test_train_says_plainly_what_is_wrong(cast: Cast, options, said: str):
    with pytest.raises(CommandError, match=said):
        call_command("train", "dpo", **{"project": "kitchen", "stdout": StringIO(), **options})
    assert not Run.objects.exists()


def test_evaluate_makes_and_decides(cast: Cast, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluations, "load_on_all", lambda version: 1.0)
    cast.prompt(split="gate")
    new_version(cast.project, tmp_path)
    said = StringIO()
    call_command("evaluate", project="kitchen", candidate="v2", stdout=said)
    assert "Evaluation 1: kitchen@v2 against kitchen@v1, on 1 gate prompts." in said.getvalue()
    with pytest.raises(CommandError, match="still being made"):
        call_command("evaluate", project="kitchen", decide=1)
    Evaluation.objects.update(status="judging")
    call_command("evaluate", project="kitchen", decide=1, stdout=said)
    assert "insufficient: No gate prompt was judged yet" in said.getvalue()
    with pytest.raises(CommandError, match="no evaluation 7"):
        call_command("evaluate", project="kitchen", decide=7)
