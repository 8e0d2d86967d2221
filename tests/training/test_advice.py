"""Which method is suggested, from the feedback that exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cast import Cast
from tests.training.conftest import judged
from training.services.advice import Facts, choose_method, collect_facts, suggest_method
from training.services.methods import METHODS
from training.services.pipelines import PIPELINES


@pytest.mark.parametrize(
    ("facts", "method", "says"),
    [
        (Facts(), "", "Collect at least 16 more judgements"),
        (Facts(preferences=10, corrections=6), "dpo", "16 pairs"),
        (Facts(preferences=20, thumbs_up=400, thumbs_down=90), "kto", "400 answers with a thumb up"),
        (Facts(preferences=10, thumbs_up=12, thumbs_down=12), "kto", "24 single answers"),
        (Facts(thumbs_up=30), "sft", "30 liked answers"),
        (Facts(preferences=2500, unlabelled_prompts=900), "reward-rloo", "2500 pairs are enough"),
        (Facts(preferences=2500), "dpo", "2500 pairs"),
    ],
)
def test_the_feedback_that_exists_decides(facts: Facts, method: str, says: str):
    suggestion = choose_method(facts)
    assert suggestion.method == method
    assert says in suggestion.reason


def test_each_stage_of_a_pipeline_uses_what_one_before_it_made():
    for stages in PIPELINES.values():
        for place, name in enumerate(stages):
            before = {METHODS[stage].makes for stage in stages[:place]}
            method = METHODS[name]
            assert not method.needs_reward or "reward" in before
            goes_on = method.goes_on and "adapter" in before
            assert place == 0 or goes_on or method.needs_reward or method.makes == "reward"
        assert METHODS[stages[-1]].makes == "adapter"


def test_judged_prompts_are_counted(base_model: Path, cast: Cast):
    assert suggest_method(cast.project).method == ""
    judged(cast, 24)
    facts = collect_facts(cast.project)
    assert facts.preferences > 15 and facts.unlabelled_prompts == 0
    assert suggest_method(cast.project).method == "dpo"
