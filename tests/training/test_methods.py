"""Runs of every method: what each reads, what is refused, and a reward model that another run learns from."""

from __future__ import annotations

import json
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from inference.artifact import write_manifest
from inference.models import Version
from inference.services.versions import register_version
from projects.errors import Invalid
from projects.services import SYSTEM
from tests.cast import Cast
from tests.training.conftest import judged
from tests.training.recipes.runs import run as recipe
from training.models import Dataset, Run
from training.services import supervisor
from training.services.methods import METHODS, PreflightFailed
from training.services.rundir import prepare
from training.services.runs import create_run

SMALL = {"batch_size": 4, "learning_rate": 0.01, "lora_r": 4, "lora_alpha": 8, "max_length": 256}


def reward_model(cast: Cast, folder: Path, base: str) -> Version:
    """A reward model as far as its manifest says."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    write_manifest(folder, kind="reward", base=base)
    return register_version(project=cast.project, kind=Version.Kind.REWARD, artifact=folder)


def test_rloo_without_a_reward_model_is_refused_in_a_sentence(base_model: Path, cast: Cast):
    judged(cast, 40)
    with pytest.raises(PreflightFailed, match="RLOO needs a reward model, and kitchen has none") as refused:
        create_run(project=cast.project, method="rloo", actor=SYSTEM)
    assert refused.value.code == "preflight_failed"
    assert not Run.objects.exists() and not Dataset.objects.exists()


def test_the_newest_reward_model_is_read_and_written_out(base_model: Path, cast: Cast, tmp_path: Path):
    judged(cast, 40)
    reward_model(cast, tmp_path / "old", cast.v1.digest)
    newest = reward_model(cast, tmp_path / "new", cast.v1.digest)
    run = create_run(project=cast.project, method="rloo", config={"batch_size": 4}, actor=SYSTEM)
    assert run.reward == newest
    assert run.dataset.format == Dataset.Format.PROMPTS
    prepare(run)
    spec = json.loads((run.folder / "run.json").read_text())
    assert spec["versions"] == {"reward": {"path": str(newest.folder), "digest": newest.digest}}


def test_a_reward_model_of_another_base_is_refused(base_model: Path, cast: Cast, tmp_path: Path):
    judged(cast, 40)
    reward_model(cast, tmp_path / "r", "sha256:" + "0" * 64)
    with pytest.raises(PreflightFailed, match="trained on another base"):
        create_run(project=cast.project, method="rloo", actor=SYSTEM)


@pytest.mark.parametrize(
    ("method", "role", "says"),
    [
        ("dpo", "reward", "dpo reads no version as reward"),
        ("rloo", "judged", "rloo reads no version as judged"),
    ],
)
def test_a_version_that_nobody_reads_is_refused(
    base_model: Path, cast: Cast, tmp_path: Path, method: str, role: str, says: str
):
    judged(cast, 24)
    version = reward_model(cast, tmp_path / "r", cast.v1.digest)
    given: dict[str, Any] = {role: version}
    with pytest.raises(Invalid, match=says):
        create_run(project=cast.project, method=method, actor=SYSTEM, **given)


def test_every_method_names_its_recipe_and_its_config():
    for name, method in METHODS.items():
        assert name == method.name
        assert find_spec(method.module) is not None
        assert method.config().problems() == []


@pytest.mark.model
def test_a_reward_model_is_trained_then_learned_from_and_scores(tiny_model: Path, cast: Cast):
    judged(cast, 40)
    first = go_through(create_run(project=cast.project, method="reward", config=SMALL, actor=SYSTEM))
    assert first.version is not None and first.version.kind == Version.Kind.REWARD

    config = {**SMALL, "gradient_accumulation": 1, "max_new_tokens": 8, "max_steps": 3}
    second = go_through(create_run(project=cast.project, method="rloo", config=config, actor=SYSTEM))
    assert second.version is not None and second.version.kind == Version.Kind.ADAPTER
    assert second.version.manifest["reward"] == first.version.digest
    assert second.compute["tokens"]["generation"] > 0

    third = go_through(create_run(project=cast.project, method="score", reward=first.version, actor=SYSTEM))
    assert third.version is None and third.status == Run.Status.FINISHED
    rows = pq.read_table(third.folder / "artifact" / "rows.parquet").to_pylist()
    assert len(rows) == third.total_steps == 80 and all(row["score"] is not None for row in rows)

    # The version under judgement, on pairs that its dataset held out.
    fourth = go_through(
        create_run(
            project=cast.project,
            method="evaluate",
            judged=second.version,
            reward=first.version,
            actor=SYSTEM,
        )
    )
    assert 0 <= fourth.metrics["reward_accuracy"] <= 1
    assert fourth.metrics["pairs"] == first.dataset.heldout_rows > 0


def go_through(run: Run, seconds: float = 120) -> Any:
    """To its end. The recipe works in this process, which has torch already; the child finds it done."""
    prepare(run)
    assert recipe(run.folder, run.method) == 0
    deadline = time.monotonic() + seconds
    while run.is_active:
        assert time.monotonic() < deadline, run.message
        supervisor.tick(run.id)
        run.refresh_from_db()
        time.sleep(0.05)
    assert (run.status, run.message) == (Run.Status.FINISHED, "")
    return run
