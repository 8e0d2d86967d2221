"""What to train next, and what it will take: from the feedback that exists and the runs that were."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from feedback.models import Correction, Preference, Rating
from inference.models import Prompt
from projects.models import Project
from training.models import Run
from training.recipes.config import Config
from training.recipes.estimates import CPU_CORE_SPEED, GPU_SPEED, Estimate, ModelFacts, estimate

FEWEST = 16  # rows of any method
# A reward model on fewer pairs is overcome by the policy that it judges (Gao et al. 2023, arXiv:2210.10760).
PAIRS_FOR_A_REWARD_MODEL = 2000
TOKENS_A_TEXT = 200.0  # where no dataset says how long its texts are
CHARACTERS_A_TOKEN = 4.0


@dataclass(frozen=True)
class Facts:
    """How much usable feedback a project has on its training prompts."""

    preferences: int = 0
    corrections: int = 0
    thumbs_up: int = 0
    thumbs_down: int = 0
    unlabelled_prompts: int = 0


@dataclass(frozen=True)
class Suggestion:
    """`method` is a method or the name of a pipeline, or empty while there is too little to learn from."""

    method: str
    reason: str


def suggest_method(project: Project) -> Suggestion:
    """What to train on the feedback that exists, with its reason in a sentence."""
    return choose_method(collect_facts(project))


def choose_method(facts: Facts) -> Suggestion:
    """The method with the most to learn from. Pairs say most, and a correction is one too."""
    pairs = facts.preferences + facts.corrections
    if pairs >= PAIRS_FOR_A_REWARD_MODEL and facts.unlabelled_prompts >= pairs / 4:
        return Suggestion(
            "reward-rloo",
            f"{pairs} pairs are enough for a reward model, and {facts.unlabelled_prompts} prompts without a "
            "judgement can be answered against it.",
        )
    labels = facts.thumbs_up + facts.thumbs_down
    both = min(facts.thumbs_up, facts.thumbs_down) >= FEWEST / 4
    if both and labels >= FEWEST and labels > 4 * pairs:
        return Suggestion(
            "kto",
            f"There are {facts.thumbs_up} answers with a thumb up, {facts.thumbs_down} with one down, "
            f"and only {pairs} pairs: KTO learns from single answers.",
        )
    if pairs >= FEWEST:
        return Suggestion(
            "dpo", f"{pairs} pairs of answers say which one people prefer: DPO learns from them."
        )
    if both and labels >= FEWEST:
        return Suggestion("kto", f"{labels} single answers were judged: KTO needs no pairs.")
    if facts.thumbs_up + facts.corrections >= FEWEST:
        return Suggestion(
            "sft",
            f"{facts.corrections} corrections and {facts.thumbs_up} liked answers show how to answer, and "
            "hardly anything shows how not to: SFT imitates them.",
        )
    missing = FEWEST - max(pairs, labels)
    return Suggestion("", f"There is too little to learn from. Collect at least {missing} more judgements.")


def collect_facts(project: Project) -> Facts:
    """Counts of what is usable now, on training prompts."""
    mine = {"project": project}
    ratings = Rating.objects.usable().filter(
        **mine, completion__prompt__split=Prompt.Split.TRAIN, aspect="thumbs"
    )
    prompts = Prompt.objects.filter(**mine, split=Prompt.Split.TRAIN, conversation=None)
    preferences = Preference.objects.usable().filter(**mine, prompt__split=Prompt.Split.TRAIN)
    judged = preferences.values("prompt")
    return Facts(
        preferences=preferences.count(),
        corrections=Correction.objects.usable()
        .filter(**mine, completion__prompt__split=Prompt.Split.TRAIN)
        .count(),
        thumbs_up=ratings.filter(value__gt=0).count(),
        thumbs_down=ratings.filter(value__lt=0).count(),
        unlabelled_prompts=prompts.exclude(id__in=judged).count(),
    )


def estimate_run(
    project: Project, config: Config, *, rows: int, tokens_a_text: float = TOKENS_A_TEXT
) -> Estimate | None:
    """What a run over so many rows will take on this trainer. None for a base that is not Llama-shaped."""
    try:
        model = ModelFacts.read(Path(settings.MODEL_DIR))
    except (OSError, KeyError, ValueError):
        return None
    return estimate(
        config, rows=rows, tokens_a_text=tokens_a_text, model=model, speed=measured_speed(project)
    )


def measured_speed(project: Project) -> float:
    """FLOP/s of the project's last finished run, or what is usual for the device."""
    last = Run.objects.filter(project=project, status=Run.Status.FINISHED).order_by("-number").first()
    if last is not None and last.compute.get("flops") and last.compute.get("device_seconds"):
        return float(last.compute["flops"] / last.compute["device_seconds"])
    if settings.TRAIN_DEVICE == "cuda":
        return GPU_SPEED
    return CPU_CORE_SPEED * (settings.TRAIN_THREADS or os.cpu_count() or 1)
