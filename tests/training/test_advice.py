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


def test_a_pipeline_is_made_of_methods_that_read_each_other():
    for first, second in PIPELINES.values():
        assert METHODS[first].makes == "reward"
        assert METHODS[second].needs_reward


def test_judged_prompts_are_counted(base_model: Path, cast: Cast):
    assert suggest_method(cast.project).method == ""
    judged(cast, 24)
    facts = collect_facts(cast.project)
    assert facts.preferences > 15 and facts.unlabelled_prompts == 0
    assert suggest_method(cast.project).method == "dpo"
