"""What every call has in common, written into the OpenAPI schema once and not at each view."""

from __future__ import annotations

from typing import Any

from projects.idempotency import HEADER
from projects.rest import MAX_LIMIT

# Every call can answer with these, in the one error shape.
_ERRORS = {
    "400": "The body or the request cannot be read.",
    "401": "No key, or one that is not valid.",
    "403": "The key lacks the scope.",
    "404": "Unknown, or another project's.",
    "405": "Not with this method.",
    "406": "Answers are JSON.",
    "409": "Somebody was first, or it is in flight.",
    "413": "The body is too large.",
    "415": "Another type, or a compressed body.",
    "422": "A value that cannot be.",
    "429": "Too much at once; see Retry-After.",
    "503": "A part is away; see Retry-After.",
}
_REPLAY = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "description": "Sent again with the same name and body, a request is done once and answered as before.",
}


def describe_calls(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """drf-spectacular's hook: errors, Idempotency-Key and the bounds of `limit` for every call of /api/v1."""
    for path, operations in result["paths"].items():
        if not path.startswith("/api/v1/"):
            continue
        for method, operation in operations.items():
            for status, description in _ERRORS.items():
                operation["responses"].setdefault(status, _error(description))
            for parameter in operation.get("parameters", []):
                if parameter["name"] == "limit":
                    parameter["schema"] |= {"minimum": 1, "maximum": MAX_LIMIT}
            if method == "post":
                operation.setdefault("parameters", []).append(_REPLAY)
    return result


def _error(description: str) -> dict[str, Any]:
    shape = {"schema": {"$ref": "#/components/schemas/Error"}}
    return {"description": description, "content": {"application/json": shape}}
