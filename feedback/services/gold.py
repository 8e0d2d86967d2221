"""Gold: tasks whose answer is known, put to raters unmarked.

compare {"best": ["<completion id>", ...]}  those that may stand first alone or together; {"all_bad": true}
rate    {"ratings": {"thumbs": [1], "accuracy": [4, 5]}}  the values that are right, by aspect
correct {"contains": ["eight minutes"]}  what the better text must say, case aside
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from feedback.models import Task
from inference.models import Completion
from projects.bodies import Id, StrictBody, parse_body
from projects.errors import Invalid
from projects.models import Project


class GoldCompare(StrictBody):
    best: list[Id] = []
    all_bad: bool = False


class GoldRate(StrictBody):
    ratings: Annotated[dict[str, Annotated[list[int], Field(min_length=1)]], Field(min_length=1)]


class GoldCorrect(StrictBody):
    contains: Annotated[list[Annotated[str, Field(min_length=1, max_length=500)]], Field(min_length=1)]


_GOLD: dict[str, type[GoldCompare] | type[GoldRate] | type[GoldCorrect]] = {
    Task.Kind.COMPARE: GoldCompare,
    Task.Kind.RATE: GoldRate,
    Task.Kind.CORRECT: GoldCorrect,
}


def check_gold(
    project: Project, kind: str, completions: Sequence[Completion], gold: dict[str, Any]
) -> dict[str, Any]:
    """The known answer as it is stored. Raises Invalid for one that nobody could give."""
    known = parse_body(_GOLD[kind], gold)
    if isinstance(known, GoldCompare):
        if known.all_bad == bool(known.best):
            raise Invalid("Name the best answers, or say all_bad.", param="gold.best")
        foreign = set(known.best) - {completion.pk for completion in completions}
        if foreign:
            raise Invalid(f"{foreign.pop()} is no candidate of this task.", param="gold.best")
    if isinstance(known, GoldRate):
        asked = project.rating_form.by_key
        for aspect, values in known.ratings.items():
            if aspect not in asked or not set(values) <= set(asked[aspect].values):
                raise Invalid(f"The form has no such value of {aspect}.", param=f"gold.ratings.{aspect}")
    return known.model_dump(mode="json")


def is_met(gold: dict[str, Any], shown: Sequence[UUID], answer: dict[str, Any]) -> bool:
    """Whether an answer, in the form of services/answers.py, is the known one."""
    if "best" in gold:
        if gold["all_bad"] or answer.get("all_bad"):
            return bool(gold["all_bad"] and answer.get("all_bad"))
        first = {str(one) for one, rank in zip(shown, answer["ranks"], strict=True) if rank == 1}
        return first <= set(gold["best"])
    if "ratings" in gold:
        said = answer.get("ratings", {})
        return all(said.get(aspect) in values for aspect, values in gold["ratings"].items())
    text = str(answer.get("text", "")).casefold()
    return all(part.casefold() in text for part in gold["contains"])
