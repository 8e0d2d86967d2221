"""What is said to wait for the next run is what that run's dataset would read."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from feedback.services.judge import Judge
from feedback.services.raters import quarantine_rater, restore_rater, set_weight
from feedback.services.record import record_correction, record_preference, record_rating
from projects.models import User
from projects.services import SYSTEM
from tests.cast import Cast
from training.services.waiting import waiting_judgements


def say(cast: Cast, rater: User, split: str = "train") -> None:
    """A winner, a tie, an all-bad, a thumb and a correction, each on a prompt of its own."""
    common: dict[str, Any] = {
        "project": cast.project,
        "judge": Judge(user=rater),
        "source": "ui",
        "is_shown": True,
    }
    for ranks in ([1, 2], [1, 1], None):
        _, made = cast.answered_prompt(f"{rater} {ranks}?", split=split)
        ids = [one.pk for one in made]
        record_preference(candidates=ids, ranks=ranks, all_bad=ranks is None, **common)
    _, (one, other) = cast.answered_prompt(f"{rater} rates?", split=split)
    record_rating(completion_id=one.pk, value=1, **common)
    record_correction(completion_id=other.pk, text=f"Better, says {rater}.", **common)


@pytest.mark.parametrize(
    ("method", "each"), [("dpo", 2), ("reward", 2), ("kto", 3), ("sft", 1), ("rloo", 2), ("reward-rloo", 2)]
)
def test_each_method_counts_what_it_reads(cast: Cast, method: str, each: int) -> None:
    say(cast, cast.bob)
    say(cast, cast.bob, split="gate")
    assert waiting_judgements(cast.project, None, method) == each
    assert waiting_judgements(cast.project, None, method, most=1) == 1
    assert waiting_judgements(cast.project, None, method, most=50) == each
    assert waiting_judgements(cast.project, timezone.now(), method) == 0


def test_raters_who_do_not_count_do_not_wait(cast: Cast) -> None:
    say(cast, cast.bob)
    say(cast, cast.carol)
    assert waiting_judgements(cast.project, None) == 4
    quarantine_rater(project=cast.project, rater=cast.bob, actor=SYSTEM, reason="At random.")
    assert waiting_judgements(cast.project, None) == 2
    set_weight(project=cast.project, rater=cast.carol, weight=0, actor=SYSTEM, reason="Learning.")
    assert waiting_judgements(cast.project, None) == 0
    restore_rater(project=cast.project, rater=cast.bob, actor=SYSTEM, reason="A mistake.")
    assert waiting_judgements(cast.project, None) == 2
