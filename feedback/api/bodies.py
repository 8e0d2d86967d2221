"""What clients send to prompts, completions and feedback."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BeforeValidator, Field, RootModel

from feedback.services.checks import MAX_CANDIDATES, MAX_COMMENT, MAX_SECONDS, MAX_TEXT
from feedback.services.judge import MAX_SUBJECT
from feedback.services.samples import MAX_PROMPTS
from feedback.services.tasks import MAX_OVERLAP
from inference.services.prompts import MAX_MESSAGES
from projects.bodies import Id, NewId, StrictBody, parse_body, read_uuid
from projects.errors import Invalid

MAX_BATCH = 500
MAX_TAGS = 20
MAX_TOKENS = 2**31 - 1  # what the column holds

Subject = Annotated[str, Field(max_length=MAX_SUBJECT, description="The end user whose opinion it is.")]
Comment = Annotated[str, Field(max_length=MAX_COMMENT)]
Tokens = Annotated[int, Field(ge=0, le=MAX_TOKENS)]


def read_answer_id(value: object) -> UUID:
    """A completion's id, or that of the response of /v1 whose first choice it is. Raises ValueError.

    Libraries around /v1 (LangChain, LiteLLM) keep the response's `id` and drop `completion_id`.
    """
    return read_uuid(value.removeprefix("chatcmpl-") if isinstance(value, str) else value)


AnswerId = Annotated[UUID, BeforeValidator(read_answer_id)]


class MessageBody(StrictBody):
    role: Literal["system", "developer", "user", "assistant"]
    content: str


Messages = Annotated[list[MessageBody], Field(min_length=1, max_length=MAX_MESSAGES)]


class PromptLine(StrictBody):
    """One line of `POST prompts`."""

    messages: Messages
    external_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    tags: Annotated[list[Annotated[str, Field(min_length=1, max_length=60)]], Field(max_length=MAX_TAGS)] = []


class CompletionBody(StrictBody):
    """An answer that was made elsewhere, to a prompt by id or by its messages."""

    id: NewId | None = None
    prompt_id: Id | None = None
    messages: Messages | None = None
    text: str
    version_label: Annotated[str, Field(min_length=1, max_length=100)]
    finish_reason: Literal["stop", "length"] = "stop"
    subject: Subject = ""
    tokens_in: Tokens | None = None
    tokens_out: Tokens | None = None


VersionName = Annotated[
    Annotated[str, Field(min_length=1, max_length=100)] | Annotated[int, Field(ge=1, le=999_999_999)],
    Field(description="`slug@v7`, `v7` or 7."),
]


class SampleBody(StrictBody):
    """Each of the versions answers `samples` times; two to eight answers are one comparison."""

    versions: Annotated[list[VersionName], Field(min_length=1, max_length=MAX_CANDIDATES)]
    samples: Annotated[int, Field(ge=1, le=MAX_CANDIDATES)] = 1
    tags: Annotated[list[Annotated[str, Field(min_length=1, max_length=60)]], Field(max_length=MAX_TAGS)] = []
    limit: Annotated[int, Field(ge=1, le=MAX_PROMPTS)] = 1_000
    overlap: Annotated[int, Field(ge=1, le=MAX_OVERLAP)] | None = None


class _JudgementBody(StrictBody):
    id: NewId | None = None
    subject: Subject = ""
    seconds_spent: Annotated[float, Field(ge=0, le=MAX_SECONDS)] | None = None
    supersedes: Id | None = None


class RatingBody(_JudgementBody):
    kind: Literal["rating"]
    completion_id: AnswerId
    value: int
    aspect: Annotated[str, Field(max_length=40)] = "thumbs"
    reasons: Annotated[list[Annotated[str, Field(max_length=40)]], Field(max_length=20)] = []
    comment: Comment = ""


class PreferenceBody(_JudgementBody):
    """`candidates` in shown order, with one rank each (1 is best, equal ranks tie), or `all_bad`."""

    kind: Literal["preference"]
    candidates: Annotated[list[AnswerId], Field(min_length=2, max_length=MAX_CANDIDATES)]
    ranks: list[int] | None = None
    all_bad: bool = False
    strength: int | None = None
    comment: Comment = ""


class CorrectionBody(_JudgementBody):
    kind: Literal["correction"]
    completion_id: AnswerId
    text: Annotated[str, Field(max_length=MAX_TEXT)]


class FlagBody(_JudgementBody):
    kind: Literal["flag"]
    completion_id: AnswerId
    reason: Annotated[str, Field(max_length=40)]
    comment: Comment = ""


JudgementBody = RatingBody | PreferenceBody | CorrectionBody | FlagBody


class FeedbackBody(RootModel[Annotated[JudgementBody, Field(discriminator="kind")]]):
    """A judgement of one of the four kinds."""


class BatchBody(StrictBody):
    """The items are checked one by one, so that a wrong one does not stop the others."""

    items: Annotated[list[Any], Field(min_length=1, max_length=MAX_BATCH)]


_KINDS: dict[str, type[JudgementBody]] = {
    "rating": RatingBody,
    "preference": PreferenceBody,
    "correction": CorrectionBody,
    "flag": FlagBody,
}


def parse_judgement(value: Any) -> JudgementBody:
    """The body of the kind that it names. Raises Invalid naming the field itself, not the kind's branch."""
    if not isinstance(value, dict):
        raise Invalid("A judgement must be an object.")
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise Invalid(f"kind must be one of {', '.join(_KINDS)}.", param="kind")
    return parse_body(_KINDS[kind], value)
