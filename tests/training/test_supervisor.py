"""A run's life: launched, watched, finished, and every way in which it ends before that."""

from __future__ import annotations

from training.models import Run


def test_a_run_becomes_a_version(scripted):
    run = scripted.tick_until(scripted.run())

    assert (run.status, run.cause, run.message) == (Run.Status.FINISHED, "", "")
    assert (run.step, run.total_steps, run.attempt) == (3, 3, 1)
    assert run.version.number == 2
    assert run.version.manifest["dataset"] == run.dataset.digest
    assert run.metrics["loss"] == 0.2333
    assert run.metrics["heldout_accuracy"] == 0.75
    assert run.compute == {"tokens": {"train": 300}, "pf_days": 1e-9}
    names = list(run.events.values_list("name", flat=True))
    assert names == ["started", "progress", "progress", "progress", "finished"]
