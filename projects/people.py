"""A person whose data a project holds: a member, or an end user that its programs name."""

from __future__ import annotations

from dataclasses import dataclass

from projects.errors import Invalid
from projects.models import Project, User


@dataclass(frozen=True, kw_only=True)
class Person:
    """Either `user`, or the `subject` by which the project's programs name an end user."""

    project: Project
    user: User | None = None
    subject: str = ""

    def __post_init__(self) -> None:
        if (self.user is None) == (not self.subject):
            raise Invalid("Name a member or an end user, one of the two.", param="user")

    @property
    def names(self) -> list[str]:
        """What stands for them in texts that are not theirs, such as the audit log."""
        if self.user is None:
            return [self.subject]
        return [name for name in (self.user.username, self.user.email) if name]
