"""A database of its own for a bench that simulates people: SQLite in a folder that goes when it ends."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def own_place() -> Iterator[Path]:
    """The folder; Django is set up on it, and its tables are made. Once a process."""
    with tempfile.TemporaryDirectory(prefix="ratchet-bench-") as name:
        folder = Path(name)
        os.environ |= {
            "VAR_DIR": name,
            "ARTIFACTS_DIR": f"{name}/artifacts",
            "DATABASE_URL": f"sqlite:///{name}/db.sqlite3",
            "BROKER_URL": "filesystem://",
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "SECRET_KEY": "a-key-for-the-bench-that-is-long-enough-for-every-check-of-django",
            "ENGINE_API_KEY": "bench",
            "LOG_LEVEL": "ERROR",
        }
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", "--no-input", verbosity=0)
        yield folder
