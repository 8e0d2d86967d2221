"""Signs that a run learns to please its score instead of people, from its curves.

A sign is a change from the first fifth of a curve to its last that is large, and clear of the curve's own
noise. It stops nothing: it is said on the run and in the verdict, for a person to look at.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from training.models import Evaluation, Run, RunEvent

MIN_POINTS = 10
CLEAR = 3.0  # standard errors
LONGER = 1.5  # times as many tokens as at first
FAR_NATS = 15.0  # of an answer's log-probability from the base's
NARROWER = 0.5  # times the entropy of the beginning
CHOSEN_NATS = 5.0  # an answer, by which chosen ones have become less likely
MIN_JUDGED = 10  # gate prompts, to say that people do not follow


@dataclass(frozen=True)
class Alarm:
    """`name` is length, kl, entropy, people or chosen."""

    name: str
    words: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Shift:
    """Means of a curve's first and last fifth; `is_clear` when their difference stands out of the noise."""

    first: float
    last: float
    is_clear: bool

    @property
    def rises(self) -> bool:
        return self.is_clear and self.last > self.first

    @property
    def falls(self) -> bool:
        return self.is_clear and self.last < self.first


def find_alarms(
    curves: Mapping[str, Sequence[float]],
    *,
    beta: float | None = None,
    people: Mapping[str, Any] | None = None,
) -> list[Alarm]:
    """`curves` are a run's progress metrics by name, in order; `people` an evaluation's numbers.

    `beta` is what turns DPO's rewards into nats: reward = beta * (log p - log p of the base).
    """
    shifts = {name: shift for name, values in curves.items() if (shift := shift_of(values))}
    found = [
        _length(shifts.get("answer_tokens")),
        _kl(shifts.get("kl")),
        _entropy(shifts.get("entropy")),
        _people(shifts.get("reward"), people),
        _chosen(shifts.get("reward_chosen"), shifts.get("reward_margin"), beta),
    ]
    return [alarm for alarm in found if alarm is not None]


def shift_of(values: Sequence[float]) -> Shift | None:
    """None for fewer than MIN_POINTS: they have no beginning and no end yet."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < MIN_POINTS:
        return None
    size = max(3, len(finite) // 5)
    first, last = finite[:size], finite[-size:]
    noise = math.sqrt((statistics.variance(first) + statistics.variance(last)) / size)
    gap = statistics.fmean(last) - statistics.fmean(first)
    return Shift(statistics.fmean(first), statistics.fmean(last), abs(gap) > CLEAR * noise)


def alarms_of(run: Run) -> list[Alarm]:
    """Of a run as far as it has come, beside what people said of its version where they did."""
    evaluation = None
    if run.version is not None:
        evaluation = run.version.evaluations.filter(status=Evaluation.Status.DECIDED).first()
    people = evaluation.numbers if evaluation is not None else None
    return find_alarms(curves_of(run), beta=run.config.get("beta"), people=people)


def curves_of(run: Run) -> dict[str, list[float]]:
    """What it reported at each step, by name."""
    curves: dict[str, list[float]] = defaultdict(list)
    rows = RunEvent.objects.filter(run=run, name="progress").order_by("sequence")
    for data in rows.values_list("data", flat=True):
        for name, value in (data.get("metrics") or {}).items():
            if isinstance(value, int | float):
                curves[name].append(float(value))
    return curves


def _length(tokens: Shift | None) -> Alarm | None:
    if tokens is None or not tokens.rises or tokens.last < LONGER * tokens.first:
        return None
    return Alarm(
        "length",
        f"Its answers grew from {tokens.first:.0f} to {tokens.last:.0f} tokens: it may be paid for length.",
    )


def _kl(kl: Shift | None) -> Alarm | None:
    if kl is None or not kl.rises or kl.last < FAR_NATS:
        return None
    return Alarm(
        "kl",
        f"Its answers have gone {kl.last:.0f} nats away from the base's, where the reward model has seen "
        "little. Raise beta.",
    )


def _entropy(entropy: Shift | None) -> Alarm | None:
    if entropy is None or not entropy.falls or entropy.first <= 0 or entropy.last > NARROWER * entropy.first:
        return None
    return Alarm(
        "entropy",
        f"Its entropy fell from {entropy.first:.2f} to {entropy.last:.2f} nats a token: it says the same "
        "again and again.",
    )


def _people(reward: Shift | None, people: Mapping[str, Any] | None) -> Alarm | None:
    if reward is None or not reward.rises or not people or people.get("win_rate") is None:
        return None
    if people.get("n", 0) < MIN_JUDGED or people["win_rate"] > 0.5:
        return None
    return Alarm(
        "people",
        f"Its reward rose from {reward.first:.2f} to {reward.last:.2f}, and people do not follow: they "
        f"prefer it on {people['win_rate']:.0%} of {people['n']} prompts.",
    )


def _chosen(chosen: Shift | None, margin: Shift | None, beta: float | None) -> Alarm | None:
    if chosen is None or not chosen.falls or not beta or chosen.last > -beta * CHOSEN_NATS:
        return None
    grows = " while the margin grew" if margin is not None and margin.rises else ""
    return Alarm(
        "chosen",
        f"Chosen answers have become less likely, by {-chosen.last / beta:.0f} nats each{grows}: it unlearns "
        "both sides. Raise sft_weight or beta.",
    )
