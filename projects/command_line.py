"""What an operator reads when a command cannot begin: a sentence with the reason, in place of a trace."""

from __future__ import annotations

import sys

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line
from django.db import DatabaseError, OperationalError, ProgrammingError, connection
from psycopg import Error, connect

_NO_TABLES = ("no such table", "no such column", 'relation "', "does not exist")


def run(argv: list[str]) -> None:
    """`manage.py` with these words. What is no fault of the database or of the settings keeps its trace, and
    with --traceback so does all."""
    if "--traceback" in argv:
        return execute_from_command_line(argv)
    try:
        execute_from_command_line(argv)
    except ImproperlyConfigured as error:
        sys.exit(f"Settings: {error}")
    except (OperationalError, ProgrammingError) as error:
        if (said := why_not(error)) is None:
            raise
        sys.exit(said)


def why_not(error: DatabaseError) -> str | None:
    """A sentence for what the database cannot do as it stands; nothing for what a statement did wrong."""
    text = str(error).strip()
    if any(sign in text for sign in _NO_TABLES) and "database" not in text:
        return (
            f"The database lacks a table or a column ({text.splitlines()[0]}). Run manage.py migrate first."
        )
    if not isinstance(error, OperationalError):
        return None
    if connection.vendor == "sqlite":
        name = settings.DATABASES["default"]["NAME"]
        return f"SQLite at {name}: {text}. Its folder must be there, writable and not full."
    return f"{_refusal() or text}\nDATABASE_URL says which PostgreSQL is asked."


def _refusal() -> str:
    """What PostgreSQL says to a connection of our own: the pool only tells how long it waited."""
    known = settings.DATABASES["default"]
    names = {"host": "HOST", "port": "PORT", "user": "USER", "password": "PASSWORD", "dbname": "NAME"}
    options = {key: value for key, value in known["OPTIONS"].items() if key != "pool"}
    try:
        connect(**{key: known[name] for key, name in names.items() if known.get(name)}, **options).close()
    except Error as error:
        return str(error).strip()
    return ""
