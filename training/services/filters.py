"""What a dataset takes and leaves out: the filters, every default written out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from projects.bodies import StrictBody, Time, parse_body


class DatasetFilters(StrictBody):
    """Which judgements make rows. Caps are counted in the order of the judgements' ids; 0 is no cap."""

    kinds: list[Literal["preference", "correction"]] = ["preference", "correction"]
    sources: list[Literal["ui", "api"]] = ["ui", "api"]
    since: Time | None = None  # judgements made at or after this
    tags: list[str] = []  # prompts that carry at least one of these; empty takes all
    per_rater_cap: Annotated[int, Field(ge=0)] = 0  # judgements of one judge
    per_prompt_cap: Annotated[int, Field(ge=0)] = 6  # pairs of one prompt

    def to_json(self) -> dict[str, Any]:
        """As it is stored, with every default."""
        return self.model_dump(mode="json")


def parse_filters(value: dict[str, Any] | None) -> DatasetFilters:
    """Raises Invalid naming the first wrong filter."""
    return parse_body(DatasetFilters, value or {})
