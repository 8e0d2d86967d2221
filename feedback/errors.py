"""What a judgement or a claim can be told, each where the fact is known."""

from __future__ import annotations

from uuid import UUID

from projects.errors import Conflict, Invalid


class AlreadyJudged(Conflict):
    """The same judge on the same thing; the error object carries the `id` of the first."""

    code = "already_judged"

    def __init__(self, first: UUID) -> None:
        self.first = first
        super().__init__(
            "The same judge judged this before. To change it, send `supersedes` with the id of the first.",
            id=str(first),
        )


class IdReused(Invalid):
    """The client's id already names something else."""

    code = "id_reused"
    message = "This id was already used for another body. Send a new UUIDv7."


class NotSetAside(Conflict):
    code = "not_set_aside"
    message = "This answer is in use: it was released already, or never set aside."


class NotStanding(Conflict):
    """What should be superseded was superseded or retracted before."""

    code = "not_standing"
    message = "The judgement named by `supersedes` does not stand any more: it was superseded or retracted."


class NotJudgeable(Invalid):
    """The answer is not one that a judgement can be about."""

    code = "completion_unfinished"
    message = "This answer is not finished. Judge it when it is."


class SameText(Invalid):
    code = "same_text"
    message = "The correction is the same text as the answer. Change something, or rate it instead."


class LeaseLost(Conflict):
    """The lease ran out and enough others answered, or the task was skipped."""

    code = "lease_lost"
    message = "This task is no longer yours. Take the next one."
