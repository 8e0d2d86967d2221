"""A second judge that knows nothing of the case, frozen texts, and a verdict that says what each one says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inference.models import Version
from projects.services import SYSTEM
from tests.cast import SAMPLING, Cast
from tests.inference.adapters import new_version
from tests.training.conftest import judged, vote
from training.models import Dataset, Evaluation, Run
from training.services import answering, evaluations
from training.services.answering import tick_evaluation
from training.services.compiler import compile_dataset
from training.services.evaluations import create_evaluation, decide
from training.services.evidence import find_judge, slot_of
from training.services.frozen_texts import TEXTS
from training.services.runs import create_run
from training.services.schedule import last_run

pytestmark = pytest.mark.usefixtures("no_loads")
PROMPTS = 12


@pytest.fixture
def no_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (evaluations, answering):
        monkeypatch.setattr(module, "load_on_all", lambda version: 1.0)


def compiled(cast: Cast, *, raters: list[str]) -> Dataset:
    judges = [f"key:{cast.api_key.id}:{name}" for name in raters]
    return compile_dataset(project=cast.project, filters={"raters": judges}, actor=SYSTEM)


def made_by_run(cast: Cast, version: Version, method: str, dataset: Dataset) -> Version:
    run = create_run(project=cast.project, method=method, dataset=dataset, actor=SYSTEM)
    Run.objects.filter(pk=run.pk).update(status=Run.Status.FINISHED, version=version)
    return Version.objects.get(pk=version.pk)


def reward_model(cast: Cast, dataset: Dataset) -> Version:
    number = Version.objects.filter(project=cast.project).count() + 1
    manifest = {"base": cast.v1.digest}
    version = Version.objects.create(
        project=cast.project, number=number, kind="reward", digest=f"sha256:{number}", manifest=manifest
    )
    return made_by_run(cast, version, "reward", dataset)


@pytest.fixture
def case(base_model: Path, cast: Cast, tmp_path: Path) -> Evaluation:
    """v2 was trained on what alan said, and put to the gate. What zoe said trained nothing yet."""
    for name in ("alan", "zoe"):
        for number in range(24):
            _, (good, bad) = cast.answered_prompt(f"{name} asks {number}?", ["Short.", "Longer, and worse."])
            vote(cast, good, bad, subject=name)
    candidate = made_by_run(cast, new_version(cast.project, tmp_path), "dpo", compiled(cast, raters=["alan"]))
    cast.project.temperature, cast.project.max_tokens = SAMPLING["temperature"], SAMPLING["max_tokens"]
    cast.project.save(update_fields=["temperature", "max_tokens"])
    for number in range(PROMPTS):
        cast.answered_prompt(
            f"Gate {number}?", [f"New {number}.", f"Old {number}."], split="gate",
            versions=[candidate, cast.v1],
        )  # fmt: skip
    return create_evaluation(project=cast.project, candidate=candidate, sample=True, actor=SYSTEM)


def asked(evaluation: Evaluation) -> Run:
    """The evaluation's own run, queued by a tick."""
    tick_evaluation(evaluation.id)
    evaluation.refresh_from_db()
    return Run.objects.get(slot=slot_of(evaluation))


def answers_with(run: Run, evaluation: Evaluation, *, wins: int, perplexity: float = 10.0) -> None:
    """As the recipe would: the candidate's answer scores higher on the first `wins` prompts."""
    rows = [
        {"part": "answers", "id": id_, "value": 1.0 if place < wins else -1.0, "value_base": 0.0}
        for place, id_ in enumerate(evaluation.prompt_ids)
    ]
    (run.folder / "artifact").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), run.folder / "artifact" / "rows.parquet")
    metrics = {"perplexity": perplexity, "perplexity_base": 9.5}
    Run.objects.filter(pk=run.pk).update(status=Run.Status.FINISHED, metrics=metrics)


def lines_of(evaluation: Evaluation) -> dict[str, Any]:
    decided = decide(evaluation=evaluation, actor=SYSTEM)
    return {line["name"]: line for line in decided.numbers["lines"]}


def test_a_judge_that_learned_from_other_judgements_is_asked_of_each_prompt(cast: Cast, case: Evaluation):
    judge = reward_model(cast, compiled(cast, raters=["zoe"]))
    run = asked(case)
    assert (run.method, run.reward, run.judged) == ("evaluate", judge, case.candidate)
    assert run.dataset.manifest["counts"] == {"text": len(TEXTS), "pairs": 0, "answers": PROMPTS}
    answers_with(run, case, wins=9)
    lines = lines_of(case)
    assert lines["judge"]["state"] == "pass"
    assert lines["judge"]["words"].startswith(
        f"{judge.label}, which knows nothing of the case, prefers it on 75%"
    )
    assert lines["perplexity"]["state"] == "pass"
    assert "perplexity is 10.0, the base's 9.5" in lines["perplexity"]["words"]
    assert case.scores[case.prompt_ids[0]] == [1.0, 0.0]
    assert case.numbers["judge"]["n"] == PROMPTS


def test_one_that_learned_from_the_candidates_own_judgements_is_not(cast: Cast, case: Evaluation):
    reward_model(cast, compiled(cast, raters=["alan", "zoe"]))
    run = asked(case)
    assert run.reward is None
    assert run.dataset.manifest["counts"]["answers"] == 0
    line = lines_of(case)["judge"]
    assert line["state"] == "none"
    assert "judgements that made the candidate, so it is not asked" in line["words"]


def test_an_older_judge_that_knows_nothing_is_taken_before_a_newer_one_that_does(
    cast: Cast, case: Evaluation
):
    fit = reward_model(cast, compiled(cast, raters=["zoe"]))
    reward_model(cast, compiled(cast, raters=["alan"]))
    assert find_judge(case) == (fit, "")


def test_without_a_reward_model_the_texts_alone_are_read(cast: Cast, case: Evaluation):
    run = asked(case)
    answers_with(run, case, wins=0)
    lines = lines_of(case)
    assert (lines["judge"]["state"], lines["judge"]["words"]) == ("none", "kitchen has no reward model.")
    assert lines["perplexity"]["state"] == "pass"


def test_one_that_unlearned_how_to_read_is_rejected(cast: Cast, case: Evaluation):
    answers_with(asked(case), case, wins=0, perplexity=30.0)
    lines = lines_of(case)
    assert (case.verdict, lines["perplexity"]["state"]) == ("reject", "fail")
    assert "perplexity on frozen texts is 30.0" in case.reason


def test_a_judge_who_is_pleased_while_people_are_not_is_a_warning(cast: Cast, case: Evaluation):
    reward_model(cast, compiled(cast, raters=["zoe"]))
    answers_with(asked(case), case, wins=PROMPTS)
    for prompt_id in case.prompt_ids:
        new, old = (version.completions.get(prompt_id=prompt_id) for version in (case.candidate, cast.v1))
        vote(cast, old, new)
    lines = lines_of(case)
    assert lines["judge"]["state"] == "warn"
    assert "People do not follow" in lines["judge"]["words"]
    assert lines["votes"]["state"] != "pass"


def test_the_run_is_queued_once_and_waited_for_only_while_it_is_young(cast: Cast, case: Evaluation):
    run = asked(case)
    case.project.tasks.update(is_open=False)
    tick_evaluation(case.id)
    case.refresh_from_db()
    assert case.status == "judging", "the run has just been queued"
    Run.objects.filter(pk=run.pk).update(created=run.created.replace(year=2020))
    tick_evaluation(case.id)
    case.refresh_from_db()
    assert case.status == "decided"
    assert Run.objects.filter(method="evaluate").count() == 1
    [line] = [line for line in case.numbers["lines"] if line["name"] == "perplexity"]
    assert (line["state"], "is queued" in line["words"]) == ("none", True)


def test_judgements_count_as_new_after_a_run_that_only_evaluates(cast: Cast, case: Evaluation):
    asked(case)
    judged(cast, 3, start=500)
    found = last_run(cast.project)
    assert found is not None
    assert found.method == "dpo"
