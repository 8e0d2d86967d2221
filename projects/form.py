"""The project's form: what raters are asked about one answer. A JSON document, checked here and nowhere else.

    {"aspects": [
        {"key": "thumbs", "kind": "thumbs", "label": "", "required": true,
         "reasons": [{"key": "clear", "label": "", "when": "up"}, ...]},
        {"key": "accuracy", "kind": "scale", "label": "Accuracy", "low": 1, "high": 5, "required": true,
         "anchors": [{"value": 1, "label": "Wrong"}, {"value": 5, "label": "All true"}], "reasons": []}],
     "comment": true}

Keys are stable: they are what rows and clients keep. An empty label means the key's own words, translated by
the pages. Thumbs are -1 and +1, and are always accepted, since the chat page gives them.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Key = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="Lower case, digits, underscores.")]
Label = Annotated[str, Field(max_length=200)]
MAX_POINTS = 11  # of a scale: more cannot be told apart, and have no key each


class _Strict(BaseModel):
    # As a request body; models.py needs this file before Django's apps are ready, so it imports no DRF.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Reason(_Strict):
    """Something to tick beside a value; `when`: above the scale's middle, below it, or always."""

    key: Key
    label: Label = ""
    when: Literal["up", "down", "any"] = "any"


class Anchor(_Strict):
    """What a point of a scale means, in words."""

    value: int
    label: Label


class Aspect(_Strict):
    """One thing to say about an answer."""

    key: Key
    kind: Literal["thumbs", "scale"] = "scale"
    label: Label = ""
    help: Annotated[str, Field(max_length=1000)] = ""
    low: Annotated[int, Field(ge=-100, le=100)] = 1
    high: Annotated[int, Field(ge=-100, le=100)] = 5
    anchors: Annotated[list[Anchor], Field(max_length=MAX_POINTS)] = []
    reasons: Annotated[list[Reason], Field(max_length=30)] = []
    required: bool = True

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.kind == "scale" and not 1 <= self.high - self.low < MAX_POINTS:
            raise ValueError(f"a scale has 2 to {MAX_POINTS} points; {self.low} to {self.high} has not")
        if self.key == "thumbs" and self.kind != "thumbs":
            raise ValueError("the key thumbs is kept for thumbs; name the scale otherwise")
        _refuse_twice([reason.key for reason in self.reasons], "reason")
        _refuse_twice([str(anchor.value) for anchor in self.anchors], "anchor")
        for anchor in self.anchors:
            if anchor.value not in self.values:
                raise ValueError(f"the anchor {anchor.value} is off the scale of {self.key}")
        return self

    @property
    def values(self) -> tuple[int, ...]:
        """All values, lowest first."""
        return (-1, 1) if self.kind == "thumbs" else tuple(range(self.low, self.high + 1))

    def reasons_for(self, value: int) -> list[str]:
        """Keys of the reasons that are offered beside this value."""
        middle = (self.values[0] + self.values[-1]) / 2
        side = "up" if value > middle else "down" if value < middle else ""
        return [reason.key for reason in self.reasons if reason.when in ("any", side)]


class Form(_Strict):
    aspects: Annotated[list[Aspect], Field(min_length=1, max_length=12)]
    comment: bool = True

    @model_validator(mode="after")
    def _keys_once(self) -> Self:
        _refuse_twice([aspect.key for aspect in self.aspects], "aspect")
        return self

    @cached_property
    def by_key(self) -> dict[str, Aspect]:
        """All aspects that can be rated: the form's own, and thumbs."""
        return {"thumbs": _THUMBS, **{aspect.key: aspect for aspect in self.aspects}}


def default_form() -> dict[str, Any]:
    """Thumbs with reasons: what a new project asks."""
    up = ("correct", "clear", "complete", "well_written")
    down = ("wrong", "unclear", "incomplete", "too_long", "off_topic", "unsafe")
    reasons = [Reason(key=key, when="up") for key in up] + [Reason(key=key, when="down") for key in down]
    return Form(aspects=[Aspect(key="thumbs", kind="thumbs", reasons=reasons)]).model_dump()


def _refuse_twice(keys: list[str], what: str) -> None:
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"the {what} {key} stands twice")


_THUMBS = Aspect(key="thumbs", kind="thumbs", required=False)
