"""Plain text that nobody labelled: kept once, whoever sends it how often."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from django.conf import settings
from django.db import transaction

from inference.services.prompts import MAX_CHARS_A_TOKEN
from projects.errors import Invalid
from projects.models import Project
from training.models import Document

# A recipe cuts what is longer than its window into windows, so this is only a bound on a row.
MAX_CONTEXTS = 64


@dataclass(frozen=True)
class Text:
    """One text to keep. Raises Invalid for one that shows nothing, or is too long."""

    text: str
    external_id: str = ""
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise Invalid("The text is empty.", param="text", code="empty_text")
        limit = settings.CONTEXT_LENGTH * MAX_CHARS_A_TOKEN * MAX_CONTEXTS
        if len(self.text) > limit:
            raise Invalid(f"A text may have at most {limit} characters: cut it in pieces.", param="text")

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


def record_documents(*, project: Project, texts: Sequence[Text]) -> int:
    """Keep those that are not here yet, and return how many those were. The same text is one document."""
    by_digest = {text.digest: text for text in texts}
    with transaction.atomic():
        known = set(
            Document.objects.filter(project=project, digest__in=by_digest).values_list("digest", flat=True)
        )
        fresh = [
            Document(
                project=project,
                text=text.text,
                digest=digest,
                external_id=text.external_id,
                tags=list(text.tags),
            )
            for digest, text in by_digest.items()
            if digest not in known
        ]
        # Somebody may send the same at the same time; then theirs is the row.
        Document.objects.bulk_create(fresh, ignore_conflicts=True)
    return len(fresh)
