"""A person's talk with the live version: each question is a prompt that follows an answer."""

from __future__ import annotations

from uuid import UUID

from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext

from feedback.branches import Tree
from feedback.models import Preference
from feedback.services.checks import is_visible
from inference.models import Completion, Conversation, Prompt
from inference.services.prompts import MAX_MESSAGES, record_prompt
from projects.errors import Invalid, NotFound
from projects.models import Project, User

TITLE_CHARS = 60
MAX_TITLE = 120
# What an engine is asked to read. Bytes of UTF-8 and not characters: scripts take tokens as they take bytes.
BYTES_A_TOKEN = 3
Messages = list[dict[str, str]]


def ask(
    *,
    project: Project,
    owner: User,
    text: str,
    conversation: Conversation | None = None,
    after: Completion | None = None,
    instead_of: Prompt | None = None,
    opted_out: bool = False,
) -> Prompt:
    """Record a question, in a new conversation when none is given, and show it last.

    It follows `after`, by default the answer that its owner sees last. With `instead_of` it is another branch
    beside that question; a new conversation may be `opted_out` of sampling from its first word on. What was
    said before comes along: the system prompt, and as many of the turns that lead here as fit the context,
    without those whose answer failed. Raises Invalid for an empty or too long text.
    """
    text = text.replace("\r\n", "\n").strip()
    if not is_visible(text):
        raise Invalid(gettext("Write something first."), param="text", code="empty_message")
    if instead_of is not None:
        parent = instead_of.parent
    elif after is not None or conversation is None:
        parent = after
    else:
        parent = answer_to_follow(conversation, owner)
    question = {"role": "user", "content": text}
    if parent is None:
        system = project.system_prompt
        messages = [{"role": "system", "content": system}] if system else []
    else:
        before = [*parent.prompt.messages, {"role": "assistant", "content": parent.text}]
        messages = fitting(before, room=room_for(project) - size_of(text))
    if conversation is None:
        conversation = Conversation(project=project, owner=owner, title=title_of(text), opted_out=opted_out)
        conversation.save(force_insert=True)
    prompt, _ = record_prompt(
        project=project, messages=[*messages, question], conversation=conversation, parent=parent
    )
    Conversation.objects.filter(pk=conversation.pk).update(updated=timezone.now(), head=prompt.pk)
    return prompt


def room_for(project: Project) -> int:
    """Bytes that a question and what was said before it may have, beside the answer."""
    return max(1, int(settings.CONTEXT_LENGTH) - project.max_tokens) * BYTES_A_TOKEN


def size_of(text: str) -> int:
    return len(text.encode(errors="replace"))


def fitting(messages: Messages, *, room: int) -> Messages:
    """The system prompt and the newest whole turns that fit into `room` bytes and MAX_MESSAGES."""
    system = [message for message in messages[:1] if message["role"] == "system"]
    room -= sum(size_of(message["content"]) for message in system)
    kept: Messages = []
    turns = messages[len(system) :]
    for asked, answered in zip(reversed(turns[0::2]), reversed(turns[1::2]), strict=True):
        room -= size_of(asked["content"]) + size_of(answered["content"])
        if room < 0 or len(system) + len(kept) + 2 >= MAX_MESSAGES:
            break
        kept = [asked, answered, *kept]
    return [*system, *kept]


def answer_to_follow(conversation: Conversation, owner: User) -> Completion | None:
    """What the next question follows: of the last turn shown that has an answer, the chosen one, else the
    preferred one, else the newest."""
    for step in reversed(Tree.of(conversation).path(conversation.head)):
        answers = Completion.objects.filter(pk__in=step.answers).judgeable().select_related("prompt")
        by_id = {answer.pk: answer for answer in answers}
        if by_id:
            wanted = step.chosen or preferred_of(step.question, owner)
            return by_id.get(wanted, by_id[max(by_id)]) if wanted else by_id[max(by_id)]
    return None


def preferred_of(prompt_id: UUID, owner: User) -> UUID | None:
    """The answer that the owner ranked first in their latest comparison of this question's answers."""
    preference = (
        Preference.objects.usable()
        .filter(prompt_id=prompt_id, rater=owner, all_bad=False)
        .prefetch_related("candidates")
        .first()
    )
    if preference is None:
        return None
    best = [one.completion_id for one in preference.candidates.all() if one.rank == 1]
    return best[0] if len(best) == 1 else None


def show_branch(*, conversation: Conversation, node: UUID, stays: bool = False) -> None:
    """Go to another question or answer of the conversation, and on to the newest question after it.

    With `stays` the path ends there, so that the answers of a question can be compared. Raises NotFound.
    """
    tree = Tree.of(conversation)
    if node not in tree:
        raise NotFound(gettext("There is no such branch of this conversation."))
    set_head(conversation=conversation, node=node if stays else tree.newest_under(node))


def set_head(*, conversation: Conversation, node: UUID) -> None:
    """What is shown last from now on."""
    Conversation.objects.filter(pk=conversation.pk).update(head=node)
    conversation.head = node


def rename_conversation(*, conversation: Conversation, title: str) -> Conversation:
    """Raises Invalid for an empty or too long title."""
    title = " ".join(title.split())
    if not is_visible(title):
        raise Invalid(gettext("A conversation needs a name."), param="title", code="empty_text")
    if len(title) > MAX_TITLE or "\x00" in title:
        raise Invalid(gettext("A name may have at most 120 characters."), param="title")
    conversation.title = title
    conversation.save(update_fields=["title"])
    return conversation


def delete_conversation(*, conversation: Conversation) -> None:
    """Take it off its owner's list. Again is no error."""
    Conversation.objects.filter(pk=conversation.pk, deleted=None).update(deleted=timezone.now())


def restore_conversation(*, project: Project, owner: User, conversation_id: UUID) -> Conversation:
    """Undo a deletion. Again is no error. Raises NotFound."""
    found = Conversation.objects.filter(project=project, owner=owner, pk=conversation_id)
    found.update(deleted=None)
    conversation = found.first()
    if conversation is None:
        raise NotFound(gettext("There is no such conversation of yours."))
    return conversation


def title_of(text: str) -> str:
    """The first line, cut at a word."""
    line = " ".join(text.split())
    if len(line) <= TITLE_CHARS:
        return line
    return line[:TITLE_CHARS].rsplit(" ", 1)[0] + "…"
