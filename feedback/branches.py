"""The branches of a conversation: questions have several answers, and answers several questions after them.

What a person sees is one path through this tree, down to its head. The greatest UUIDv7 is the newest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from inference.models import Completion, Conversation


@dataclass(frozen=True)
class Step:
    """One turn of the path. `questions` and `answers` are all that could stand here, oldest first."""

    question: UUID
    questions: list[UUID]
    answers: list[UUID]
    chosen: UUID | None  # the answer that the path goes through; None at an end where none was chosen

    @property
    def answer(self) -> UUID | None:
        """The chosen one, else the newest."""
        return self.chosen or (self.answers[-1] if self.answers else None)

    @property
    def pair(self) -> list[UUID]:
        """The two newest answers, when there is a choice to make between them."""
        return self.answers[-2:] if self.chosen is None and len(self.answers) > 1 else []


class Tree:
    """Made of (question, the answer that it follows) and (answer, its question)."""

    def __init__(
        self, questions: Iterable[tuple[UUID, UUID | None]], answers: Iterable[tuple[UUID, UUID]]
    ) -> None:
        self._question_of = dict(answers)
        # A question after an answer of another conversation begins one here.
        self._follows = {one: above if above in self._question_of else None for one, above in questions}
        self._questions_after: dict[UUID | None, list[UUID]] = defaultdict(list)
        self._answers_to: dict[UUID, list[UUID]] = defaultdict(list)
        for question in sorted(self._follows):
            self._questions_after[self._follows[question]].append(question)
        for answer in sorted(self._question_of):
            self._answers_to[self._question_of[answer]].append(answer)

    @classmethod
    def of(cls, conversation: Conversation) -> Tree:
        """In two queries of ids."""
        answers = Completion.objects.filter(prompt__conversation=conversation).order_by()
        return cls(
            conversation.prompts.order_by().values_list("pk", "parent_id"),
            answers.values_list("pk", "prompt_id"),
        )

    def __contains__(self, node: UUID) -> bool:
        return node in self._follows or node in self._question_of

    def newest_under(self, node: UUID) -> UUID:
        """The newest question after this question or answer, at any distance; the node itself without one."""
        newest, waiting = node, [node] if node in self._question_of else list(self._answers_to[node])
        while waiting:
            for question in self._questions_after[waiting.pop()]:
                newest = question if newest == node else max(newest, question)
                waiting += self._answers_to[question]
        return newest

    def path(self, head: UUID | None) -> list[Step]:
        """From the first question down to `head`; without one, down to the newest question."""
        if head is None or head not in self:
            head = max(self._follows, default=None)
        steps: list[Step] = []
        while head is not None:
            chosen = head if head in self._question_of else None
            question = self._question_of[head] if chosen else head
            head = self._follows[question]
            steps.append(
                Step(question, self._questions_after[head], list(self._answers_to[question]), chosen)
            )
        return steps[::-1]
