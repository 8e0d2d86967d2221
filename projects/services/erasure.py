"""Of a person who is erased: membership, account, kept answers, and their name in the audit log."""

from __future__ import annotations

from typing import Any

from django.contrib.admin.models import LogEntry
from django.db import transaction

from projects.models import AuditEvent, IdempotentRequest, Membership
from projects.people import Person

_BATCH = 500


def holdings(person: Person) -> dict[str, int]:
    """Rows by what they are, but for answers kept for replays, which are all of the project's."""
    return {
        "memberships": _memberships(person).count(),
        "audit events with the name": len(_named(person)),
    }


def shut_out(person: Person) -> None:
    """No more access to the project; what they do from now on would be data again."""
    _memberships(person).delete()


@transaction.atomic
def erase_traces(person: Person, pseudonym: str) -> None:
    """Their name in the audit log becomes the pseudonym; answers kept for replays go. Safe to repeat.

    Kept answers of all of the project's keys go: they live for a day, and hold texts of whoever asked.
    """
    _kept(person).delete()
    for event in _named(person):
        event.subject = renamed(event.subject, person, pseudonym)[:120]
        event.detail = renamed(event.detail, person, pseudonym)
        event.save(update_fields=["subject", "detail"])


def close_account(person: Person, pseudonym: str) -> bool:
    """The account itself, when it has no other project and no rank: True when nothing of it can sign in.

    The row stays without a name, since the audit log points at it.
    """
    user = person.user
    if user is None or user.is_staff or user.memberships.exists():
        return False
    user.username = pseudonym
    user.first_name = user.last_name = user.email = ""
    user.is_active = False
    user.last_login = None
    user.set_unusable_password()
    user.save()
    LogEntry.objects.filter(content_type__model="user", object_id=str(user.pk)).update(
        object_repr=pseudonym, change_message=""
    )
    return True


def _memberships(person: Person) -> Any:
    found = Membership.objects.filter(project=person.project)
    return found.filter(user=person.user) if person.user is not None else found.none()


def _kept(person: Person) -> Any:
    return IdempotentRequest.objects.filter(api_key__project=person.project, status__isnull=False)


def _named(person: Person) -> list[AuditEvent]:
    events = AuditEvent.objects.filter(project=person.project).iterator(chunk_size=_BATCH)
    return [one for one in events if _names(one.subject, person) or _names(one.detail, person)]


def _names(value: Any, person: Person) -> bool:
    return bool(renamed(value, person, "") != value)


def renamed(value: Any, person: Person, pseudonym: str) -> Any:
    """The same value with each name of theirs replaced, where it stands alone: `bob`, `user:bob`."""
    if isinstance(value, dict):
        return {key: renamed(one, person, pseudonym) for key, one in value.items()}
    if isinstance(value, list):
        return [renamed(one, person, pseudonym) for one in value]
    if isinstance(value, str):
        head, _, tail = value.rpartition(":")
        if tail in person.names:
            return f"{head}:{pseudonym}" if head else pseudonym
        for name in person.names:
            if len(name) > 3:  # a short one is a part of other words
                value = value.replace(name, pseudonym)
    return value
