"""The environment's variables, each read as what it must be, or refused in a sentence that names it."""

from __future__ import annotations

import logging
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured
from environ.fileaware_mapping import FileAwareMapping

_KINDS = {int: "a whole number", float: "a number", dict: "pairs such as partition=gpu,account=lab"}
_TRUE = {"true", "on", "ok", "y", "yes", "1"}  # environ's own; it takes any other word for false
_FALSE = {"false", "off", "n", "no", "0", ""}
_SCHEMES = {"postgres", "postgresql", "psql", "pgsql", "sqlite"}
_DATABASES = ("postgres://user:password@host:5432/name", "sqlite:////folder/file.sqlite3")


class _Variables(FileAwareMapping):  # type: ignore[misc]  # environ publishes no types
    """The environment, and the files that it names; editors end a file with a newline, which is no value."""

    def __getitem__(self, name: str) -> str:
        return str(super().__getitem__(name)).strip()


class Environment(environ.FileAwareEnv):  # type: ignore[misc]
    """What stands behind a `=` was typed by hand. Raises ImproperlyConfigured for what cannot be read."""

    def __init__(self) -> None:
        super().__init__()
        self.ENVIRON = _Variables()

    def get_value(self, var: str, cast: Any = None, *args: Any, **kwargs: Any) -> Any:
        try:
            if cast is bool and (word := self.ENVIRON.get(var, "").lower()) not in _TRUE | _FALSE:
                raise ImproperlyConfigured(f"{var} must be true or false, got {word!r}.")
            if cast is float and var in self.ENVIRON:
                float(self.ENVIRON[var])  # environ itself takes "30m" for 30
            return super().get_value(var, cast, *args, **kwargs)
        except OSError as error:
            raise ImproperlyConfigured(f"{var}_FILE cannot be read: {error}.") from error
        except ValueError as error:
            said = f"{var} must be {_KINDS.get(cast, 'of another form')}, got {self.ENVIRON[var]!r}."
            raise ImproperlyConfigured(said) from error

    def log_level(self, var: str, default: str) -> str:
        """A level's name, in letters of any size."""
        name: str = self.str(var, default=default).upper()
        if name not in logging.getLevelNamesMapping():
            known = ", ".join(logging.getLevelNamesMapping())
            raise ImproperlyConfigured(f"{var} must be one of {known}, got {name!r}.")
        return name

    def database(self, var: str, default: str) -> dict[str, Any]:
        """Django's settings of the database at this URL, on PostgreSQL or SQLite. It is never quoted: it
        may hold a password."""
        url = self.str(var, default=default)
        known = url.split(":")[0] in _SCHEMES
        found: dict[str, Any] = self.db_url_config(url) if known else {}
        if not found.get("NAME"):
            raise ImproperlyConfigured(f"{var} must be a URL such as {' or '.join(_DATABASES)}.")
        return found
