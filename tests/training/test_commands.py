"""`manage.py train` and `manage.py evaluate`."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from tests.cast import Cast
from tests.inference.adapters import new_version
from tests.training.conftest import Scripted, judged
from training.management.commands import _progress, train
from training.management.commands._progress import bar_of
from training.models import Evaluation, Run
from training.services import evaluations
from training.services.methods import METHODS


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
    with pytest.raises(CommandError, match=r"Run 1 failed \(diverged\).*--resume 1") as failed:
        call_command("train", "dpo", project="kitchen", here=True, stdout=StringIO())
    assert failed.value.returncode == 1
    with pytest.raises(CommandError, match="no run 7"):
        call_command("train", project="kitchen", resume=7, here=True, stdout=StringIO())
    said = StringIO()
    call_command("train", project="kitchen", resume=1, here=True, stdout=said)
    assert "Run 1, dpo, goes on" in said.getvalue()
    assert "Run 1 made kitchen@v2." in said.getvalue()


@pytest.fixture
def press(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Ctrl-C so many times, each when the run is shown next and has done that many steps."""
    monkeypatch.setattr(train, "LOOK_AGAIN_SECONDS", 0.02)

    def press_when_shown(*, times: int, step: int = 0) -> list[int]:
        sent: list[int] = []
        show = _progress.Progress.show

        def shown(progress: _progress.Progress, run: Run) -> None:
            show(progress, run)
            if run.step >= step and len(sent) < times:
                sent.append(run.step)
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(_progress.Progress, "show", shown)
        return sent

    return press_when_shown


def test_a_second_interruption_leaves_at_once(scripted: Scripted, press, monkeypatch):
    """The child is frozen, so that the first one has to wait for it."""
    monkeypatch.setattr(train, "create_run", lambda **options: scripted.run(at={"2": "freeze"}))
    sent = press(times=2, step=1)
    before, said = signal.getsignal(signal.SIGINT), StringIO()
    with pytest.raises(CommandError, match=r"Left\. Run 1 is being cancelled") as left:
        call_command("train", "dpo", project="kitchen", here=True, stdout=said)
    assert (left.value.returncode, len(sent)) == (130, 2)
    assert "Ctrl-C again leaves at once" in said.getvalue()
    assert signal.getsignal(signal.SIGINT) == before
    run = Run.objects.get()
    assert (run.status, run.cancel_requested) == ("running", True), "whoever ticks it next cancels it"


def test_a_run_that_waits_is_cancelled_at_the_first_interruption(scripted: Scripted, press, monkeypatch):
    monkeypatch.setattr(train, "create_run", lambda **options: scripted.run())
    press(times=1)
    said = StringIO()
    with pytest.raises(CommandError, match=r"Run 1 was cancelled at step 0 .*--resume 1") as cancelled:
        call_command("train", "dpo", project="kitchen", stdout=said)
    assert cancelled.value.returncode == 3
    assert "waits for a trainer" in said.getvalue()


@pytest.mark.parametrize("width", [30, 50, 80, 200])
def test_the_bar_fits_the_terminal(width: int):
    metrics = {"loss": 0.6123, "reward_accuracy": 0.75, "tokens_per_second": 812.4, "seconds_left": 80}
    run = Run(number=3, step=12, total_steps=24, status="running", metrics=metrics, attempt=1)
    bar = bar_of(run, width=width)
    assert len(bar) < width
    assert bar.startswith("run 3")
    assert "12/24 50 %" in bar
    found = re.search(r"\[(#+)(\.+)\]", bar)
    assert found is None or len(found[1]) == pytest.approx(len(found[2]), abs=1)
    if width >= 80:
        assert "loss 0.6123  accuracy 0.75  812 tokens/s  1:20 left" in bar
        assert found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"project": "cellar"}, "no project cellar"),
        ({"dataset": 9}, "no dataset 9"),
        ({}, "at least 16 pairs"),
        ({"resume": 1}, "either a method, such as dpo, or a run"),
    ],
)
def test_train_says_plainly_what_is_wrong(cast: Cast, options, said: str):
    with pytest.raises(CommandError, match=said) as refused:
        call_command("train", "dpo", **{"project": "kitchen", "stdout": StringIO(), **options})
    assert refused.value.returncode == 2
    assert not Run.objects.exists()


def test_help_has_an_example_of_each_method_and_each_exit_status(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        train.Command().create_parser("manage.py", "train").parse_args(["--help"])
    said = capsys.readouterr().out
    assert {method for method in METHODS if f"  manage.py train {method} --project" not in said} == set()
    assert {code for code in (0, 1, 2, 3, 130) if f"{code:>5}  " not in said} == set()


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
