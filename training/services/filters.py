"""What a dataset takes and leaves out: the filters, every default written out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from projects.bodies import StrictBody, Time, parse_body
from projects.errors import Invalid

Kind = Literal["preference", "correction", "rating"]
Name = Annotated[str, Field(min_length=1, max_length=260)]
Names = Annotated[list[Name], Field(max_length=200)]
# What each format that reads no judgement still looks at.
_READ = {
    "prompts": frozenset({"since", "tags", "gate_overlap"}),
    "text": frozenset({"since", "tags", "gate_overlap", "texts"}),
}


class DatasetFilters(StrictBody):
    """Which judgements make rows. Caps are counted in the order of the judgements' ids; 0 is no cap."""

    kinds: list[Kind] = ["preference", "correction", "rating"]
    aspects: Names = []  # ratings of these aspects; empty takes all
    versions: Names = []  # answers of these versions (`slug@v7`, `v7`); empty takes all
    sources: list[Literal["ui", "api"]] = ["ui", "api"]
    raters: Names = []  # names of members, or judges as the log shows them; empty takes all
    not_raters: Names = []
    since: Time | None = None  # judgements made at or after this
    replay_share: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the rows, from before `since`
    tags: Names = []  # prompts that carry at least one of these; empty takes all
    min_weight: Annotated[float, Field(ge=0)] = 0.0  # of the rater, as of the cut-off
    per_rater_cap: Annotated[int, Field(ge=0)] = 0  # judgements of one judge on training prompts
    per_prompt_cap: Annotated[int, Field(ge=0)] = 6  # rows of one prompt
    rankings: Literal["all", "adjacent", "extremes"] = "all"  # which two of a ranking make a pair
    rating_gap: Annotated[float, Field(gt=0)] = 1.0  # between two rated answers of a prompt, to be a pair
    good_answers: bool = False  # well rated answers are demonstrations too, not only corrections
    unpair: bool = False  # the first and last of a preference are labels too, not only what is all bad
    gate_overlap: Literal["near", "same"] = "near"  # which likeness to a gate prompt keeps a prompt out
    texts: list[Literal["documents", "prompts"]] = ["documents"]  # where plain text comes from

    @field_validator("kinds", "sources", "texts")
    @classmethod
    def _some(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("name at least one")
        return value

    @model_validator(mode="after")
    def _replay_needs_a_time(self) -> DatasetFilters:
        if self.replay_share and self.since is None:
            raise ValueError("replay_share mixes in rows from before `since`: name that time too")
        return self

    def to_json(self) -> dict[str, Any]:
        """As it is stored, with every default."""
        return self.model_dump(mode="json")


def fitting(filters: dict[str, Any], format_: str) -> dict[str, Any]:
    """Those that say something about this format."""
    read = _READ.get(format_)
    return {name: value for name, value in filters.items() if read is None or name in read}


def parse_filters(value: dict[str, Any] | None, format_: str = "preference") -> DatasetFilters:
    """Raises Invalid naming the first wrong filter, and one that says nothing about this format."""
    filters = parse_body(DatasetFilters, value or {})
    read = _READ.get(format_)
    if read is not None:
        default = DatasetFilters()
        for name in DatasetFilters.model_fields:
            if name not in read and getattr(filters, name) != getattr(default, name):
                raise Invalid(
                    f"{name} is about judgements, and a dataset of {format_} reads none. Leave it out.",
                    param=name,
                )
    return filters
