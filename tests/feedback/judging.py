"""Short ways to say a judgement in these tests."""

from __future__ import annotations

from typing import Any

from inference.models import Completion


def rating(completion: Completion, value: Any = 1, **more: Any) -> dict[str, Any]:
    return {"kind": "rating", "completion_id": str(completion.pk), "value": value, **more}


def preference(completions: list[Completion], ranks: Any = None, **more: Any) -> dict[str, Any]:
    """All bad when there are no ranks."""
    said = {"all_bad": True} if ranks is None else {"ranks": ranks}
    return {"kind": "preference", "candidates": [str(one.pk) for one in completions], **said, **more}


def correction(
    completion: Completion, text: str = "Boil it for eight minutes.", **more: Any
) -> dict[str, Any]:
    return {"kind": "correction", "completion_id": str(completion.pk), "text": text, **more}


def flag(completion: Completion, reason: str = "spam", **more: Any) -> dict[str, Any]:
    return {"kind": "flag", "completion_id": str(completion.pk), "reason": reason, **more}
