"""Who judges: a member, or the end user that a program names."""

from __future__ import annotations

from dataclasses import dataclass

from projects.errors import Invalid
from projects.models import ApiKey, User

MAX_SUBJECT = 200  # characters


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Either `user`, or `api_key` with the `subject` whose opinion it is ("" for the program's own)."""

    user: User | None = None
    api_key: ApiKey | None = None
    subject: str = ""

    def __post_init__(self) -> None:
        if (self.user is None) == (self.api_key is None):
            raise ValueError("a judge is a user or an API key")
        if len(self.subject) > MAX_SUBJECT:
            raise Invalid(f"subject may have at most {MAX_SUBJECT} characters.", param="subject")

    @property
    def key(self) -> str:
        """Whose second judgement of the same thing is a conflict."""
        if self.user is not None:
            return f"user:{self.user.pk}"
        assert self.api_key is not None  # noqa: S101 - by __post_init__
        return f"key:{self.api_key.pk}:{self.subject}"
