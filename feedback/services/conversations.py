"""A person's talk with the live version: each question is a prompt that follows an answer."""

from __future__ import annotations

from django.utils import timezone

from feedback.models import Preference
from inference.models import Completion, Conversation, Prompt
from inference.services.prompts import record_prompt
from projects.errors import Invalid
from projects.models import Project, User

TITLE_CHARS = 60


def ask(*, project: Project, owner: User, text: str, conversation: Conversation | None = None) -> Prompt:
    """Record a question, in a new conversation when none is given.

    What was said before comes along: the system prompt, and the turns that lead to the answer that the owner
    goes on from. A turn whose answer failed is left out. Raises Invalid for an empty or too long text.
    """
    text = text.replace("\r\n", "\n").strip()
    if not text:
        raise Invalid("Write something first.", param="text", code="empty_message")
    parent = answer_to_follow(conversation, owner) if conversation else None
    if parent is not None:
        messages = [*parent.prompt.messages, {"role": "assistant", "content": parent.text}]
    elif project.system_prompt:
        messages = [{"role": "system", "content": project.system_prompt}]
    else:
        messages = []
    if conversation is None:
        conversation = Conversation(project=project, owner=owner, title=title_of(text))
        conversation.save(force_insert=True)
    else:
        Conversation.objects.filter(pk=conversation.pk).update(updated=timezone.now())
    prompt, _ = record_prompt(
        project=project,
        messages=[*messages, {"role": "user", "content": text}],
        conversation=conversation,
        parent=parent,
    )
    return prompt


def answer_to_follow(conversation: Conversation, owner: User) -> Completion | None:
    """What the next question follows: of the last turn with answers, the preferred one, or the newest."""
    answers = (
        Completion.objects.filter(prompt__conversation=conversation)
        .judgeable()
        .select_related("prompt")
        .order_by("-prompt_id", "-id")
    )
    newest = answers.first()
    if newest is None:
        return None
    preference = (
        Preference.objects.usable()
        .filter(prompt=newest.prompt, rater=owner, all_bad=False)
        .prefetch_related("candidates")
        .first()
    )
    if preference is None:
        return newest
    ranks = {candidate.completion_id: candidate.rank for candidate in preference.candidates.all()}
    siblings = [answer for answer in answers if answer.prompt_id == newest.prompt_id]
    return min(siblings, key=lambda answer: (ranks.get(answer.pk) or len(ranks) + 1, -siblings.index(answer)))


def title_of(text: str) -> str:
    """The first line, cut at a word."""
    line = " ".join(text.split())
    if len(line) <= TITLE_CHARS:
        return line
    return line[:TITLE_CHARS].rsplit(" ", 1)[0] + "…"
