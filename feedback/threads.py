"""What a person sees of a conversation: turns, answers, and what they said about them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from django.utils.functional import cached_property
from django.utils.safestring import SafeString
from django.utils.translation import gettext, pgettext

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
    prompt: Prompt
    answers: list[ShownAnswer]
    preference: Preference | None = None
    preference_ids: list[UUID] = field(default_factory=lambda: [uuid7() for _ in range(4)])

    @property
    def pair(self) -> list[ShownAnswer]:
        """The last two answers, when both can be judged: a comparison is offered."""
        last = self.answers[-2:]
        return last if len(last) == 2 and all(shown.completion.is_judgeable for shown in last) else []

    @property
    def verdict(self) -> str:
        """left, right, tie or both_bad, as the reader said of the last pair; empty before."""
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


def conversations_of(project: Project, user: User) -> list[Conversation]:
    """The sidebar: the newest hundred."""
    return list(Conversation.objects.filter(project=project, owner=user)[:100])


def conversation_for(project: Project, user: User, conversation_id: UUID) -> Conversation:
    """One's own. Raises NotFound."""
    found = Conversation.objects.filter(project=project, owner=user, pk=conversation_id).first()
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
        Prompt.objects.select_related("project", "conversation")
        .filter(project=project, conversation__owner=user, pk=prompt_id)
        .first()
    )
    if found is None:
        raise NotFound(gettext("There is no such question in your conversations."))
    return found


def turns_of(conversation: Conversation, user: User) -> list[Turn]:
    """All turns, oldest first, in six queries whatever their number."""
    prompts = list(conversation.prompts.order_by("id"))
    return _turns(prompts, user)


def turn_of(prompt: Prompt, user: User) -> Turn:
    return _turns([prompt], user)[0]


def show(completion: Completion, user: User) -> ShownAnswer:
    return _shown([completion], user)[0]


def _turns(prompts: list[Prompt], user: User) -> list[Turn]:
    completions = (
        Completion.objects.filter(prompt__in=prompts).select_related("project", "prompt").order_by("id")
    )
    answers: dict[UUID, list[ShownAnswer]] = {}
    for shown in _shown(completions, user):
        answers.setdefault(shown.completion.prompt_id, []).append(shown)
    turns = [Turn(prompt, answers.get(prompt.pk, [])) for prompt in prompts]
    preferences = Preference.objects.usable().filter(prompt__in=prompts, rater=user).order_by("id")
    for preference in preferences.prefetch_related("candidates"):
        ids = {one.completion_id for one in preference.candidates.all()}
        for turn in turns:
            if turn.pair and ids == {shown.completion.pk for shown in turn.pair}:
                turn.preference = preference
    return turns


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
