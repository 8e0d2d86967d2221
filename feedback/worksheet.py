"""One question as a rater sees it: what was asked, the answers as shown, and what can be said of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from django.utils.safestring import SafeString
from django.utils.translation import gettext

from feedback.markdown import render_markdown
from feedback.models import Assignment, Flag, Task
from feedback.threads import flag_label, reason_label
from inference.models import Completion
from projects.form import Aspect

LETTERS = "ABCDEFGH"
# For reasons: what the page's own keys leave free.
REASON_KEYS = "qwertyiopasdfhjklzxvnm".translate(str.maketrans("", "", "bcefgsu"))


@dataclass(frozen=True)
class Sheet:
    """An answer on the desk."""

    id: UUID
    letter: str
    html: SafeString
    text: str


@dataclass(frozen=True)
class Point:
    """One value of an aspect, with its key and what it means."""

    value: int
    key: str
    label: str


@dataclass(frozen=True)
class Question:
    """One aspect of the form."""

    key: str
    label: str
    help: str
    is_required: bool
    is_thumbs: bool
    points: list[Point]
    reasons: list[tuple[str, str, str, str]]  # key, label, when, key on the keyboard

    @classmethod
    def of(cls, aspect: Aspect) -> Self:
        anchors = {anchor.value: anchor.label for anchor in aspect.anchors}
        if aspect.kind == "thumbs":
            points = [
                Point(1, "1", anchors.get(1) or gettext("Good")),
                Point(-1, "2", anchors.get(-1) or gettext("Bad")),
            ]
        else:
            # The digit is the value where that is possible, else its place.
            is_digit = aspect.low >= 0 and aspect.high <= 9
            points = [
                Point(value, str(value if is_digit else place) if place < 10 else "", anchors.get(value, ""))
                for place, value in enumerate(aspect.values, start=1)
            ]
        keys = list(REASON_KEYS) + [""] * len(aspect.reasons)
        return cls(
            key=aspect.key,
            label=aspect.label or _aspect_label(aspect.key),
            help=aspect.help,
            is_required=aspect.required,
            is_thumbs=aspect.kind == "thumbs",
            points=points,
            reasons=[
                (reason.key, reason.label or reason_label(reason.key), reason.when, keys[place])
                for place, reason in enumerate(aspect.reasons)
            ],
        )


@dataclass(frozen=True)
class Worksheet:
    assignment: Assignment
    asks: str  # pair, rank, rate or correct
    history: list[dict[str, Any]]
    question: str
    sheets: list[Sheet]
    questions: list[Question]
    takes_comment: bool
    draft: str  # JSON, for the page's script
    said: list[str]  # of a review: what each rater said, in words

    @property
    def flag_choices(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """For each answer what it is called, and (value, label) of each reason to flag it."""
        names = [gettext("Answer %(letter)s") % {"letter": sheet.letter} for sheet in self.sheets]
        if len(names) == 2:
            names = [gettext("Left answer"), gettext("Right answer")]
        return [
            (
                name if len(names) > 1 else "",
                [(f"{one.id}:{key}", flag_label(key)) for key in Flag.Reason.values],
            )
            for name, one in zip(names, self.sheets, strict=True)
        ]

    @classmethod
    def of(cls, assignment: Assignment) -> Self:
        task = assignment.task
        texts = dict(Completion.objects.filter(pk__in=assignment.shown).values_list("pk", "text"))
        shown = [(UUID(one), texts[UUID(one)]) for one in assignment.shown]
        asks = task.asks
        if asks == Task.Kind.COMPARE:
            asks = "pair" if len(shown) == 2 else "rank"
        form = assignment.project.rating_form if asks == Task.Kind.RATE else None
        return cls(
            assignment=assignment,
            asks=asks,
            history=task.prompt.messages[:-1],
            question=task.prompt.question,
            sheets=[
                Sheet(id_, letter, render_markdown(text), text)
                for letter, (id_, text) in zip(LETTERS, shown, strict=False)
            ],
            questions=[Question.of(aspect) for aspect in form.aspects] if form else [],
            takes_comment=form.comment if form else asks in ("pair", "rank"),
            draft=json.dumps(assignment.draft) if assignment.draft else "",
            said=_said(task, assignment) if task.disputed else [],
        )


def _said(task: Task, review: Assignment) -> list[str]:
    """What the raters of a disputed task answered, by the names that the reviewer sees. Nobody is named."""
    done = Assignment.objects.filter(task=task.disputed, state=Assignment.State.DONE).order_by("closed")
    names = (gettext("Left"), gettext("Right")) if len(review.shown) == 2 else LETTERS
    name = dict(zip(review.shown, names, strict=False))
    return [
        _in_words(answer or {}, [name.get(one, "?") for one in shown])
        for shown, answer in done.values_list("shown", "answer")
    ]


def _in_words(answer: dict[str, Any], names: list[str]) -> str:
    if answer.get("all_bad"):
        said = gettext("all bad")
    elif "ranks" in answer:
        ranked = sorted(zip(answer["ranks"], names, strict=True))
        said = "".join(
            (" = " if rank == before else " > " if before else "") + name
            for (rank, name), before in zip(ranked, [0, *(rank for rank, _ in ranked)], strict=False)
        )
    else:
        said = ", ".join(
            f"{_aspect_label(key)} {value:+d}" if key == "thumbs" else f"{_aspect_label(key)} {value}"
            for key, value in answer.get("ratings", {}).items()
        )
    comment = answer.get("comment", "")
    return f"{said}: {comment}" if comment else said


def _aspect_label(key: str) -> str:
    return gettext("Thumbs") if key == "thumbs" else key.replace("_", " ").capitalize()
