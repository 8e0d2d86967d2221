"""What a person sees of a conversation: turns, answers, and what they said about them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from uuid import UUID

from django.utils.functional import cached_property
from django.utils.safestring import SafeString
from django.utils.translation import gettext, pgettext

from feedback.branches import Step, Tree
from feedback.markdown import render_markdown
from feedback.models import Correction, Flag, Preference, Rating
from inference.models import Completion, Conversation, Prompt
from projects.errors import NotFound
from projects.ids import uuid7
from projects.models import Project, User


@dataclass
class ShownAnswer:
    """One answer with its reader's standing judgements. The ids are fresh, so a double click is one row."""

    completion: Completion
    rating: Rating | None = None
    correction: Correction | None = None
    flags: list[Flag] = field(default_factory=list)
    up_id: UUID = field(default_factory=uuid7)
    down_id: UUID = field(default_factory=uuid7)
    details_id: UUID = field(default_factory=uuid7)
    correction_id: UUID = field(default_factory=uuid7)

    @cached_property
    def html(self) -> SafeString:
        return render_markdown(self.completion.text)

    @cached_property
    def corrected_html(self) -> SafeString:
        return render_markdown(self.correction.text if self.correction else "")

    @property
    def is_running(self) -> bool:
        return self.completion.state == Completion.State.RUNNING

    @property
    def has_failed(self) -> bool:
        return self.completion.state == Completion.State.FAILED

    @property
    def is_set_aside(self) -> bool:
        return self.completion.quarantined

    @property
    def was_stopped(self) -> bool:
        return self.completion.state == Completion.State.STOPPED

    @property
    def was_cut(self) -> bool:
        return self.completion.finish_reason == "length"

    @property
    def reasons(self) -> list[tuple[str, str, bool]]:
        """(key, label, ticked) for the thumb that was given."""
        if self.rating is None:
            return []
        thumbs = self.completion.project.rating_form.by_key["thumbs"]
        keys = thumbs.reasons_for(self.rating.value)
        labels = {reason.key: reason.label for reason in thumbs.reasons}
        return [(key, labels[key] or reason_label(key), key in self.rating.reasons) for key in keys]

    @property
    def flag_choices(self) -> list[tuple[str, str, UUID, Flag | None]]:
        """(key, label, a fresh id, the flag that stands) for each reason to flag it."""
        standing = {flag.reason: flag for flag in self.flags}
        return [(key, flag_label(key), uuid7(), standing.get(key)) for key in Flag.Reason.values]

    @property
    def said(self) -> str:
        """The reasons and the comment in one line."""
        if self.rating is None:
            return ""
        labels = ", ".join(reason_label(key) for key in self.rating.reasons)
        return ": ".join(part for part in (labels, self.rating.comment) if part)


@dataclass
class Turn:
    """One question as it stands on the path, with the answers that are shown of all that it has."""

    step: Step
    prompt: Prompt
    answers: list[ShownAnswer]
    is_cut: bool = False  # the first one whose question went out without the conversation's beginning
    preference: Preference | None = None
    preference_id: UUID = field(default_factory=uuid7)

    @property
    def pair(self) -> list[ShownAnswer]:
        """The two answers that are shown, when both can be judged: a comparison is offered."""
        is_pair = len(self.answers) == 2 and all(shown.completion.is_judgeable for shown in self.answers)
        return self.answers if is_pair else []

    @property
    def question_places(self) -> Places:
        return Places.of(self.step.questions, self.step.question)

    @property
    def answer_places(self) -> Places:
        return Places.of(self.step.answers, self.step.answer)

    @property
    def leading(self) -> UUID | None:
        """Of the pair the one that was preferred, else the newest."""
        pair = [shown.completion.pk for shown in self.pair]
        return pair[0] if pair and self.verdict == "left" else self.step.answer

    @property
    def verdict(self) -> str:
        """left, right, tie or both_bad, as the reader said of the pair; empty before."""
        pair = self.pair
        if self.preference is None or not pair:
            return ""
        if self.preference.all_bad:
            return "both_bad"
        ranks = {one.completion_id: one.rank or 0 for one in self.preference.candidates.all()}
        left, right = (ranks.get(shown.completion.pk) for shown in pair)
        if left is None or right is None:
            return ""
        return "tie" if left == right else "left" if left < right else "right"


@dataclass(frozen=True)
class Places:
    """Where one stands among its siblings, counted from 1, and its neighbours."""

    place: int = 0
    count: int = 0
    before: UUID | None = None
    after: UUID | None = None

    @classmethod
    def of(cls, all_of_them: list[UUID], one: UUID | None) -> Places:
        if one is None:
            return cls()
        index = all_of_them.index(one)
        around: list[UUID | None] = [None, *all_of_them, None]
        return cls(index + 1, len(all_of_them), around[index], around[index + 2])


def conversation_for(project: Project, user: User, conversation_id: UUID) -> Conversation:
    """One's own, unless it was deleted. Raises NotFound."""
    found = Conversation.objects.filter(project=project, owner=user, pk=conversation_id, deleted=None).first()
    if found is None:
        raise NotFound(gettext("There is no such conversation of yours."))
    return found


def completion_for(project: Project, user: User, completion_id: UUID) -> Completion:
    """An answer in a conversation of one's own. Raises NotFound."""
    found = (
        Completion.objects.select_related("prompt", "prompt__conversation", "project", "version")
        .filter(project=project, pk=completion_id, prompt__conversation__owner=user)
        .first()
    )
    if found is None:
        raise NotFound(gettext("There is no such answer in your conversations."))
    return found


def question_for(project: Project, user: User, prompt_id: UUID) -> Prompt:
    """A question in a conversation of one's own. Raises NotFound."""
    found = (
        Prompt.objects.select_related("project", "conversation", "parent__prompt")
        .filter(project=project, conversation__owner=user, pk=prompt_id)
        .first()
    )
    if found is None:
        raise NotFound(gettext("There is no such question in your conversations."))
    return found


def turns_of(conversation: Conversation, user: User, *, since: UUID | None = None) -> list[Turn]:
    """The turns that lead to the conversation's head, oldest first, in nine queries whatever their number.

    `since`: the question or answer whose turn is the first of them.
    """
    steps = Tree.of(conversation).path(conversation.head)
    if since is not None:
        places = [place for place, step in enumerate(steps) if since in (step.question, *step.answers)]
        steps = steps[places[0] :] if places else []
    return _turns(steps, user)


def turn_of(prompt: Prompt, user: User) -> Turn:
    """The question's turn as it stands on the path, or at the path's end where it lies beside it."""
    assert prompt.conversation is not None  # noqa: S101 - whoever calls has found it in one
    tree = Tree.of(prompt.conversation)
    steps = [*tree.path(prompt.conversation.head), tree.path(prompt.pk)[-1]]
    return _turns([next(step for step in steps if step.question == prompt.pk)], user)[0]


def show(completion: Completion, user: User) -> ShownAnswer:
    return _shown([completion], user)[0]


def _turns(steps: list[Step], user: User) -> list[Turn]:
    prompts = Prompt.objects.in_bulk([step.question for step in steps])
    wanted = {step.question: step.pair or [one for one in [step.answer] if one] for step in steps}
    completions = (
        Completion.objects.filter(pk__in=[one for answers in wanted.values() for one in answers])
        .select_related("project")
        .order_by("id")
    )
    answers: dict[UUID, list[ShownAnswer]] = defaultdict(list)
    for shown in _shown(completions, user):
        answers[shown.completion.prompt_id].append(shown)
    turns = [Turn(step, prompts[step.question], answers[step.question]) for step in steps]
    _mark_cut(turns)
    pairs = {frozenset(shown.completion.pk for shown in turn.pair): turn for turn in turns if turn.pair}
    if pairs:
        preferences = Preference.objects.usable().filter(prompt__in=prompts, rater=user).order_by("id")
        for preference in preferences.prefetch_related("candidates"):
            ids = frozenset(one.completion_id for one in preference.candidates.all())
            if ids in pairs:
                pairs[ids].preference = preference
    return turns


def _mark_cut(turns: list[Turn]) -> None:
    """Where a question has no more said before it than the one above it, something was left out."""
    for above, turn in pairwise(turns):
        if len(turn.prompt.messages) <= len(above.prompt.messages):
            turn.is_cut = True
            return


def _shown(completions: Iterable[Completion], user: User) -> list[ShownAnswer]:
    rows = list(completions)
    ratings = {
        row.completion_id: row
        for row in Rating.objects.usable().filter(completion__in=rows, rater=user, aspect="thumbs")
    }
    corrections = {
        row.completion_id: row for row in Correction.objects.usable().filter(completion__in=rows, rater=user)
    }
    flags: dict[UUID, list[Flag]] = defaultdict(list)
    for flag in Flag.objects.usable().filter(completion__in=rows, rater=user):
        flags[flag.completion_id].append(flag)
    return [
        ShownAnswer(row, ratings.get(row.pk), corrections.get(row.pk), flags.get(row.pk, [])) for row in rows
    ]


def flag_label(key: str) -> str:
    labels = {
        "unsafe": pgettext("flag", "Unsafe"),
        "private": pgettext("flag", "Private data"),
        "spam": pgettext("flag", "Spam"),
        "broken": pgettext("flag", "Broken"),
    }
    return labels.get(key, key)


def reason_label(key: str) -> str:
    """The words for a reason; a project's own keys are shown as they are, without underscores."""
    labels = {
        "correct": pgettext("reason", "Correct"),
        "clear": pgettext("reason", "Clear"),
        "complete": pgettext("reason", "Complete"),
        "well_written": pgettext("reason", "Well written"),
        "wrong": pgettext("reason", "Wrong"),
        "unclear": pgettext("reason", "Unclear"),
        "incomplete": pgettext("reason", "Incomplete"),
        "too_long": pgettext("reason", "Too long"),
        "off_topic": pgettext("reason", "Off topic"),
        "unsafe": pgettext("reason", "Unsafe"),
    }
    return labels.get(key, key.replace("_", " ").capitalize())
