"""The sidebar of the chat: a person's conversations by day, and those in which something was said."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Func, Q, TextField
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext

from inference.models import Completion, Conversation, Prompt
from projects.models import Project, User

AT_ONCE = 60
AROUND = 40  # characters shown on each side of what was found
MAX_QUERY = 200
MAX_HITS = 200


@dataclass(frozen=True)
class Listed:
    """One row: under which heading it stands, and where the words were found when not in its title."""

    conversation: Conversation
    group: str
    snippet: str = ""


@dataclass(frozen=True)
class History:
    rows: list[Listed]
    query: str
    more: int  # how many to ask for, to see older ones; 0 when these are all


class _Question(Func):
    """The text of the last of a prompt's messages."""

    output_field = TextField()
    arity = 1

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "JSON_EXTRACT(%(expressions)s, '$[#-1].content')"
        return self.as_sql(compiler, connection, template=template, **context)

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        template = "(%(expressions)s -> -1 ->> 'content')"
        return self.as_sql(compiler, connection, template=template, **context)


def history_of(project: Project, user: User, *, query: str = "", count: int = AT_ONCE) -> History:
    """The newest `count`, of those with `query` in their title, a question or an answer."""
    query = " ".join(query.replace("\x00", "").split())[:MAX_QUERY]
    own = Conversation.objects.filter(project=project, owner=user, deleted=None)
    if query:
        asked = _questions(user, query).values("conversation")
        answered = _answers(user, query).values("prompt__conversation")
        own = own.filter(Q(title__icontains=query) | Q(pk__in=asked) | Q(pk__in=answered))
    found = list(own[: count + 1])
    snippets = _snippets(user, query, found) if query else {}
    now = timezone.localtime()
    rows = [Listed(one, group_of(one.updated, now), snippets.get(one.pk, "")) for one in found[:count]]
    return History(rows, query, count * 2 if len(found) > count else 0)


def group_of(when: datetime, now: datetime) -> str:
    """Today, yesterday, the last week, or the month."""
    when = timezone.localtime(when)
    days = (now.date() - when.date()) // timedelta(days=1)
    if days <= 0:
        return gettext("Today")
    if days == 1:
        return gettext("Yesterday")
    if days <= 7:
        return gettext("Last 7 days")
    return date_format(when, "F Y")


def _questions(user: User, query: str) -> Any:
    asked = Prompt.objects.filter(conversation__owner=user).annotate(asked=_Question("messages"))
    return asked.filter(asked__icontains=query).order_by()


def _answers(user: User, query: str) -> Any:
    return Completion.objects.filter(prompt__conversation__owner=user, text__icontains=query).order_by()


def _snippets(user: User, query: str, found: list[Conversation]) -> dict[UUID, str]:
    """What stands around the words, for conversations whose title does not have them."""
    within = [one.pk for one in found if query.casefold() not in one.title.casefold()]
    asked = _questions(user, query).filter(conversation__in=within).values_list("conversation", "asked")
    answers = _answers(user, query).filter(prompt__conversation__in=within)
    texts = dict(answers.values_list("prompt__conversation", "text")[:MAX_HITS])
    return {pk: _around(text, query) for pk, text in {**texts, **dict(asked[:MAX_HITS])}.items()}


def _around(text: str, query: str) -> str:
    line = " ".join(text.split())
    place = max(0, line.casefold().find(query.casefold()))
    begin, end = max(0, place - AROUND), place + len(query) + AROUND
    return f"{'…' if begin else ''}{line[begin:end]}{'…' if end < len(line) else ''}"
