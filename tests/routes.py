"""Every address that Django answers, for tests that walk them all."""

from __future__ import annotations

import re
from collections.abc import Iterator

from django.urls import URLPattern, URLResolver, get_resolver


def routes() -> Iterator[tuple[str, URLPattern]]:
    """(`/path/{name}`, pattern) of every address but the admin console's."""

    def walk(found: list[URLPattern | URLResolver], before: str) -> Iterator[tuple[str, URLPattern]]:
        for one in found:
            path = before + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", str(one.pattern))
            if isinstance(one, URLPattern):
                yield path, one
            elif not path.startswith("/admin/"):
                yield from walk(one.url_patterns, path)

    return walk(get_resolver().url_patterns, "/")
