"""What a dataset takes and leaves out: the filters, every default written out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BeforeValidator, Field

from projects.bodies import StrictBody, parse_body


def _as_text(value: object) -> object:
    # JSON has no times: they come as text, and a number is no time.
    if not isinstance(value, str):
        raise ValueError("a time is a text in ISO 8601 with its zone, such as 2026-01-31T12:00:00Z")
    return value


Moment = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_as_text)]


class DatasetFilters(StrictBody):
    """Which judgements make rows. Caps are counted in the order of the judgements' ids; 0 is no cap."""

    kinds: list[Literal["preference", "correction"]] = ["preference", "correction"]
    sources: list[Literal["ui", "api"]] = ["ui", "api"]
    since: Moment | None = None  # judgements made at or after this
    tags: list[str] = []  # prompts that carry at least one of these; empty takes all
    per_rater_cap: Annotated[int, Field(ge=0)] = 0  # judgements of one judge
    per_prompt_cap: Annotated[int, Field(ge=0)] = 6  # pairs of one prompt

    def to_json(self) -> dict[str, Any]:
        """As it is stored, with every default."""
        return self.model_dump(mode="json")


def parse_filters(value: dict[str, Any] | None) -> DatasetFilters:
    """Raises Invalid naming the first wrong filter."""
    return parse_body(DatasetFilters, value or {})
