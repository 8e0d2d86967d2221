"""Prompts by the hundred: the same rules as one by one, with a handful of queries for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import IntegrityError, transaction

from inference.models import Prompt
from inference.services.prompts import (
    ExternalIdTaken,
    check_audit_is_new,
    record_prompt,
    split_for,
    validate_messages,
)
from projects.errors import Problem
from projects.models import Project


@dataclass(frozen=True)
class Draft:
    """A prompt to be: `messages` as a client sent them."""

    messages: Any
    external_id: str | None = None
    tags: Sequence[str] = field(default_factory=tuple)


def record_prompts(*, project: Project, drafts: Sequence[Draft]) -> list[bool | Problem]:
    """For each draft whether it is new, or what is wrong with it. At most some hundred at a time.

    What another import records in the same instant is found, and counts as existing.
    """
    try:
        with transaction.atomic():
            return _record(project, drafts)
    except IntegrityError:
        # Somebody recorded one of them between our look and our insert: one by one finds out which.
        return [_record_one(project, draft) for draft in drafts]


def _record(project: Project, drafts: Sequence[Draft]) -> list[bool | Problem]:
    results: list[bool | Problem] = []
    cleaned: list[tuple[str, list[dict[str, str]]] | None] = []
    for draft in drafts:
        try:
            messages = validate_messages(draft.messages)
        except Problem as problem:
            cleaned.append(None)
            results.append(problem)
        else:
            cleaned.append((Prompt.digest_of(messages), messages))
            results.append(False)
    known = _Known(project, [one[0] for one in cleaned if one], [one.external_id for one in drafts])
    for place, (draft, clean) in enumerate(zip(drafts, cleaned, strict=True)):
        if clean is None:
            continue
        try:
            results[place] = known.add(draft, *clean)
        except Problem as problem:
            results[place] = problem
    Prompt.objects.bulk_create(known.made)
    for pk, name in known.named.items():
        Prompt.objects.filter(pk=pk, external_id=None).update(external_id=name)
    return results


def _record_one(project: Project, draft: Draft) -> bool | Problem:
    try:
        return record_prompt(
            project=project, messages=draft.messages, external_id=draft.external_id, tags=draft.tags
        )[1]
    except Problem as problem:
        return problem


class _Known:
    """What there is of these drafts, in the database and among those before in the same import."""

    def __init__(self, project: Project, digests: list[str], names: list[str | None]) -> None:
        self.project = project
        self.made: list[Prompt] = []
        self.named: dict[Any, str] = {}  # of an older prompt that gets its name now
        fields = ("pk", "digest", "external_id", "split")
        rows = Prompt.objects.order_by().filter(project=project)
        same = rows.filter(digest__in=digests, conversation=None).values_list(*fields)
        called = rows.filter(external_id__in=[name for name in names if name is not None]).values_list(
            *fields
        )
        self.by_digest: dict[str, tuple[Any, str | None]] = {}
        self.by_name: dict[str, str] = {}
        self.split_of: dict[str, str] = {}  # by digest
        for pk, digest, name, split in same:
            self.by_digest[digest], self.split_of[digest] = (pk, name), split
        for _, digest, name, split in called:
            self.by_name[str(name)], self.split_of[digest] = digest, split

    def add(self, draft: Draft, digest: str, messages: list[dict[str, str]]) -> bool:
        """Whether it is new. Raises ExternalIdTaken and NotNew."""
        name = draft.external_id
        if name is not None and name in self.by_name:
            if self.by_name[name] != digest:
                raise ExternalIdTaken(
                    f"The external_id {name} names a prompt with other messages.", param="external_id"
                )
            check_audit_is_new(draft.tags, self.split_of[digest])
            return False
        if digest in self.by_digest:
            check_audit_is_new(draft.tags, self.split_of[digest])
            self._name(digest, name)
            return False
        prompt = Prompt(
            project=self.project,
            messages=messages,
            digest=digest,
            split=split_for(self.project, messages, draft.tags),
            external_id=name,
            tags=list(draft.tags),
        )
        self.made.append(prompt)
        self.split_of[digest] = prompt.split
        self._note(digest, prompt.pk, name)
        return True

    def _name(self, digest: str, name: str | None) -> None:
        """The name came later than the prompt; whoever writes it first keeps it."""
        pk, before = self.by_digest[digest]
        if name is None:
            return
        if before is not None:
            raise ExternalIdTaken(f"These messages are already the prompt {before}.", param="external_id")
        fresh = next((one for one in self.made if one.pk == pk), None)
        if fresh is not None:
            fresh.external_id = name
        else:
            self.named[pk] = name
        self._note(digest, pk, name)

    def _note(self, digest: str, pk: Any, name: str | None) -> None:
        self.by_digest[digest] = (pk, name)
        if name is not None:
            self.by_name[name] = digest
