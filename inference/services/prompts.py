"""Prompts: what is asked, checked once and frozen, with its split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction

from inference.models import Completion, Conversation, Prompt
from projects.errors import Conflict, Invalid
from projects.models import Project

AUDIT_TAG = "audit"
ROLES = ("system", "developer", "user", "assistant")
MAX_MESSAGES = 200
# No tokenizer packs more than this many characters into a token, so a longer text can never fit.
MAX_CHARS_A_TOKEN = 20


class ContextLengthExceeded(Invalid):
    code = "context_length_exceeded"


class ExternalIdTaken(Conflict):
    code = "external_id_taken"


class NotNew(Conflict):
    code = "prompt_not_new"


def validate_messages(messages: Any) -> list[dict[str, str]]:
    """The messages as they are stored: role and text alone, the last one the user's.

    Content may be a string or a list of text parts, which become one string, a part a line. Members other
    than role and content are dropped. Raises Invalid, naming the message at fault.
    """
    if not isinstance(messages, list) or not messages:
        raise Invalid("messages must be a list with at least one message.", param="messages")
    if len(messages) > MAX_MESSAGES:
        raise Invalid(f"There can be at most {MAX_MESSAGES} messages.", param="messages")
    clean = [_clean(message, f"messages.{place}") for place, message in enumerate(messages)]
    if clean[-1]["role"] != "user":
        raise Invalid("The last message must be the user's.", param=f"messages.{len(clean) - 1}.role")
    limit = settings.CONTEXT_LENGTH * MAX_CHARS_A_TOKEN
    if sum(len(message["content"]) for message in clean) > limit:
        raise ContextLengthExceeded(
            f"The messages are longer than the context of {settings.CONTEXT_LENGTH} tokens. Send less text.",
            param="messages",
        )
    return clean


def split_for(project: Project, messages: Sequence[dict[str, Any]], tags: Sequence[str] = ()) -> str:
    """Audit where a tag says so; else by a hash of the project's salt and the first user message.

    So each turn of a conversation, and each prompt that begins alike, falls on the same side.
    """
    if AUDIT_TAG in tags:
        return Prompt.Split.AUDIT
    first = next(message["content"] for message in messages if message["role"] == "user")
    share = hash_share(project.salt, first)
    return Prompt.Split.GATE if share < project.gate_share else Prompt.Split.TRAIN


def hash_share(salt: str, text: str) -> float:
    """A number in [0, 1) that is the same for the same salt and text, and evenly spread over texts."""
    digest = hashlib.sha256(f"{salt}\n{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def record_prompt(
    *,
    project: Project,
    messages: Any,
    conversation: Conversation | None = None,
    parent: Completion | None = None,
    external_id: str | None = None,
    tags: Sequence[str] = (),
) -> tuple[Prompt, bool]:
    """The prompt and whether it is new. Outside conversations the same messages are one prompt.

    Raises Invalid for wrong messages, ExternalIdTaken when `external_id` names another prompt, and NotNew.
    """
    clean = validate_messages(messages)
    digest = Prompt.digest_of(clean)
    found = _existing(project, digest, external_id) if conversation is None else None
    if found is not None:
        check_audit_is_new(tags, found.split)
        return found, False
    prompt = Prompt(
        project=project,
        conversation=conversation,
        parent=parent,
        messages=clean,
        digest=digest,
        # A long conversation is sent without its beginning, and stays on the side where it began.
        split=parent.prompt.split if parent else split_for(project, clean, tags),
        external_id=external_id,
        tags=list(tags),
    )
    try:
        with transaction.atomic():
            prompt.save(force_insert=True)
    except IntegrityError:
        # Somebody recorded it between our look and our insert.
        found = _existing(project, digest, external_id)
        if found is None or conversation is not None:
            raise
        check_audit_is_new(tags, found.split)
        return found, False
    return prompt, True


def check_audit_is_new(tags: Sequence[str], split: str) -> None:
    """Raises NotNew for an audit prompt whose messages are a prompt of another split already."""
    if AUDIT_TAG in tags and split != Prompt.Split.AUDIT:
        raise NotNew(
            f"An audit prompt must be new, and these messages are a prompt of the {split} split already: "
            "word it in another way.",
            param="messages",
        )


def _existing(project: Project, digest: str, external_id: str | None) -> Prompt | None:
    if external_id is not None:
        named = Prompt.objects.filter(project=project, external_id=external_id).first()
        if named is not None:
            if named.digest != digest:
                raise ExternalIdTaken(
                    f"The external_id {external_id} names a prompt with other messages.", param="external_id"
                )
            return named
    found = Prompt.objects.filter(project=project, digest=digest, conversation=None).first()
    if found is not None and external_id is not None:
        if found.external_id == external_id:
            return found  # recorded between the two looks
        if found.external_id is not None:
            raise ExternalIdTaken(
                f"These messages are already the prompt {found.external_id}.", param="external_id"
            )
        # The name came later than the prompt; whoever writes it first keeps it.
        Prompt.objects.filter(pk=found.pk, external_id=None).update(external_id=external_id)
        found.refresh_from_db(fields=["external_id"])
    return found


def _clean(message: Any, where: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise Invalid(f"{where} must be an object with role and content.", param=where)
    role = message.get("role")
    if role in ("tool", "function"):
        raise Invalid(
            f"{where}.role cannot be {role}: this model calls no tools. Put the result into a user message.",
            param=f"{where}.role",
        )
    if role not in ROLES:
        raise Invalid(f"{where}.role must be one of {', '.join(ROLES)}.", param=f"{where}.role")
    content = message.get("content")
    if isinstance(content, list):
        content = _joined(content, where)
    if content is None and role == "assistant":
        content = ""
    if not isinstance(content, str):
        raise Invalid(f"{where}.content must be text.", param=f"{where}.content")
    # A question may not be empty. An answer may have been, and clients send instructions that nobody wrote.
    if not content.strip() and role == "user":
        raise Invalid(f"{where}.content is empty.", param=f"{where}.content", code="empty_message")
    if "\x00" in content:
        raise Invalid(f"{where}.content holds NUL.", param=f"{where}.content", code="invalid_text")
    # OpenAI's newer word for the same. Chat templates know only the older one, in serving and in training.
    return {"role": "system" if role == "developer" else role, "content": content}


def _joined(parts: list[Any], where: str) -> str:
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind != "text":
            raise Invalid(
                f"{where}.content has a part of the type {kind[:40]}, and this model reads text alone.",
                param=f"{where}.content",
            )
        if not isinstance(part, dict) or kind != "text" or not isinstance(part.get("text"), str):
            raise Invalid(
                f'{where}.content may hold parts of the form {{"type": "text", "text": "..."}} only.',
                param=f"{where}.content",
            )
        texts.append(part["text"])
    return "\n".join(texts)
