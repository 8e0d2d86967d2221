"""Projects, members, keys and the audit trail."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from projects.bodies import parse_body
from projects.errors import Conflict, Invalid
from projects.form import Form
from projects.models import ApiKey, AuditEvent, Edition, Membership, Project, User


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who acts: a person, a program's key, or Ratchet itself when both are None."""

    user: User | None = None
    api_key: ApiKey | None = None

    @property
    def label(self) -> str:
        if self.user is not None:
            return self.user.get_username()
        return str(self.api_key) if self.api_key is not None else "ratchet"


SYSTEM = Actor()


def record_audit(
    *, project: Project | None, actor: Actor, action: str, subject: str, detail: dict[str, Any] | None = None
) -> AuditEvent:
    return AuditEvent.objects.create(
        project=project,
        user=actor.user,
        api_key=actor.api_key,
        action=action,
        subject=subject,
        detail=detail or {},
    )


def was_recorded(*, project: Project, action: str, subject: str) -> bool:
    return AuditEvent.objects.filter(project=project, action=action, subject=subject).exists()


def create_project(*, slug: str, name: str, actor: Actor, **fields: Any) -> Project:
    """Raises Conflict when the slug is taken, Invalid when a field is out of range."""
    project = Project(slug=slug, name=name, **fields)
    project.form = parse_body(Form, project.form).model_dump()
    try:
        project.clean_fields()
    except Exception as error:
        raise Invalid(str(error)) from error
    try:
        with transaction.atomic():
            project.save(force_insert=True)
            _record_edition(project, actor)
    except IntegrityError as error:
        raise Conflict(f"There is already a project {slug}.", code="slug_taken", param="slug") from error
    record_audit(project=project, actor=actor, action="project.created", subject=f"project:{slug}")
    return project


def add_member(*, project: Project, user: User, role: str, actor: Actor) -> Membership:
    """Give a person a role, or change it."""
    membership, _ = Membership.objects.update_or_create(project=project, user=user, defaults={"role": role})
    record_audit(
        project=project,
        actor=actor,
        action="member.set",
        subject=f"user:{user.username}",
        detail={"role": role},
    )
    return membership


def remove_member(*, membership: Membership, actor: Actor) -> None:
    """Take a person out of a project; what they said stays."""
    membership.delete()
    record_audit(
        project=membership.project,
        actor=actor,
        action="member.removed",
        subject=f"user:{membership.user.username}",
        detail={"role": membership.role},
    )


def update_project(*, project: Project, changed: Sequence[str], actor: Actor) -> Project:
    """Save the fields named in `changed`; new guidelines or a new form are a new edition.

    Prompts keep the split that they were born with, whatever happens to gate_share. Raises Invalid for a form
    that makes no sense, and Conflict when somebody else made an edition meanwhile.
    """
    fields = set(changed)
    if "form" in fields:
        project.form = parse_body(Form, project.form).model_dump()
    with transaction.atomic():
        if fields & {"guidelines", "form"}:
            project.guideline_version += 1
            fields.add("guideline_version")
            _record_edition(project, actor)
        project.save(update_fields=sorted(fields))
        record_audit(
            project=project,
            actor=actor,
            action="project.changed",
            subject=f"project:{project.slug}",
            detail={"fields": sorted(fields)},
        )
    return project


def _record_edition(project: Project, actor: Actor) -> None:
    number = project.guideline_version
    edition, is_new = Edition.objects.get_or_create(
        project=project,
        number=number,
        defaults={"guidelines": project.guidelines, "form": project.form, "user": actor.user},
    )
    if not is_new:
        raise Conflict(
            f"Somebody else changed the guidelines or the form: {edition} is there. Look at it first.",
            code="edition_taken",
        )


def create_api_key(
    *, project: Project, name: str, scopes: list[str], actor: Actor, expires: datetime | None = None
) -> tuple[ApiKey, str]:
    """A new key and its value, which is shown this once. Raises Invalid: an unknown scope, no future."""
    unknown = sorted(set(scopes) - set(ApiKey.Scope.values))
    if unknown:
        raise Invalid(
            f"Unknown scope {unknown[0]}. There are: {', '.join(ApiKey.Scope.values)}.", param="scopes"
        )
    if expires is not None and expires <= timezone.now():
        raise Invalid("expires is over already.", param="expires")
    prefix = secrets.token_hex(5)
    value = f"rk_{prefix}_{secrets.token_urlsafe(32)}"
    key = ApiKey.objects.create(
        project=project,
        name=name,
        prefix=prefix,
        digest=ApiKey.hash_key(value),
        scopes=sorted(set(scopes)),
        expires=expires,
        created_by=actor.user,
    )
    record_audit(project=project, actor=actor, action="key.created", subject=f"key:{prefix}")
    return key, value


@transaction.atomic
def rotate_api_key(*, key: ApiKey, grace: timedelta, actor: Actor) -> tuple[ApiKey, str]:
    """Another value for a key, shown this once; the one before is good for `grace` more.

    Prefix, scopes and expiry stay. Raises Conflict for a key that is dead.
    """
    value = f"rk_{key.prefix}_{secrets.token_urlsafe(32)}"
    now = timezone.now()
    rotated = ApiKey.objects.filter(pk=key.pk, digest=key.digest, revoked=None).update(
        digest=ApiKey.hash_key(value), previous_digest=key.digest, previous_until=now + grace
    )
    key.refresh_from_db()
    if not rotated or not key.is_usable:
        raise Conflict("This key was revoked, has expired, or was rotated just now.", code="key_not_usable")
    record_audit(project=key.project, actor=actor, action="key.rotated", subject=f"key:{key.prefix}")
    return key, value


def revoke_api_key(*, key: ApiKey, actor: Actor) -> bool:
    """True when this call revoked it."""
    count = ApiKey.objects.filter(pk=key.pk, revoked=None).update(revoked=timezone.now())
    if count:
        record_audit(project=key.project, actor=actor, action="key.revoked", subject=f"key:{key.prefix}")
    return bool(count)
