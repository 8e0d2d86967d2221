"""What was said about one prompt, as plain values: what the rest of the compiler works on."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from training.services.data.sameness import digest

Messages = list[dict[str, str]]


class Answer:
    """A completion, or the text of a correction. What is derived from its text is made once."""

    __slots__ = ("_digest", "finish_reason", "quarantined", "state", "stripped", "text", "version")

    def __init__(
        self,
        text: str,
        state: str = "finished",
        finish_reason: str = "stop",
        quarantined: bool = False,
        version: str = "",
    ) -> None:
        self.text = text
        self.stripped = text.strip()
        self._digest: bytes | None = None
        self.state = state
        self.finish_reason = finish_reason
        self.quarantined = quarantined
        self.version = version

    @property
    def is_finished(self) -> bool:
        return self.state in ("finished", "stopped")

    @property
    def ended(self) -> bool:
        """False for an answer that was cut: it must not be taught an end that it never had."""
        return self.state == "finished" and self.finish_reason != "length"

    @property
    def digest(self) -> bytes:
        if self._digest is None:
            self._digest = digest(self.text)
        return self._digest


class Preference(NamedTuple):
    """`ranks`: (answer, rank) in shown order; 1 is best, None when all are bad."""

    id: str
    judge: str
    weight: float
    is_new: bool
    ranks: list[tuple[Answer, int | None]]
    all_bad: bool = False
    strength: int | None = None


class Rating(NamedTuple):
    """`score`: -1 or 1 for a thumb; on a scale, standard deviations from the rater's own middle."""

    id: str
    judge: str
    weight: float
    is_new: bool
    answer: Answer
    aspect: str
    score: float


class Correction(NamedTuple):
    id: str
    judge: str
    weight: float
    is_new: bool
    answer: Answer  # the original
    better: Answer


@dataclass
class Group:
    """One training prompt with what was said about it, each kind in the order of its ids."""

    prompt_id: str
    messages: Messages
    preferences: list[Preference] = field(default_factory=list)
    ratings: list[Rating] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)

    @cached_property
    def digest(self) -> bytes:
        """Of all messages, so that the same question after another beginning is another one."""
        return digest("\n".join(f"{message['role']}: {message['content']}" for message in self.messages))


class Row(NamedTuple):
    """One row of a dataset. `answers`: (chosen, rejected), (completion,) or none, by the format."""

    prompt_id: str
    messages: Messages
    answers: tuple[Answer, ...]
    feedback_ids: list[str]
    key: int  # equal for rows that are the same but for case and spaces
    is_new: bool = True
    margin: float | None = None
    label: bool | None = None
    document_id: str = ""
