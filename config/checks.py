"""Settings that must not start: refused by system checks with an id and a hint."""

from __future__ import annotations

import ipaddress
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured
from kombu.transport import TRANSPORT_ALIASES

from training.launchers import LAUNCHERS

__all__ = ["check_settings", "refuse_unsafe_start"]

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9.-]+(:[0-9]+)?|[a-z-]+://\[[0-9a-f:]+\](:[0-9]+)?")
TRAIN_DEVICES = ("auto", "cpu", "cuda")
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@register()
def check_settings(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    return [
        *_check_secrets(),
        *_check_engine(),
        *_check_numbers(),
        *_check_launcher(),
        *_check_networks(),
        *_check_origins(),
        *_check_choices(),
        *_check_hosts(),
    ]


def refuse_unsafe_start() -> None:
    """For the servers, which run no system checks by themselves. Raises ImproperlyConfigured."""
    errors = [message for message in check_settings(None) if message.is_serious()]
    if errors:
        raise ImproperlyConfigured("\n".join(str(error) for error in errors))


def _check_secrets() -> list[CheckMessage]:
    public = set(settings.ALLOWED_HOSTS) - {"localhost", "127.0.0.1", "[::1]"}
    if settings.SECRET_KEY == settings.INSECURE_KEY and public:
        return [
            Error(
                "SECRET_KEY is the development key, and ALLOWED_HOSTS names more than this machine.",
                hint="Set SECRET_KEY or SECRET_KEY_FILE to at least 50 random characters.",
                id="ratchet.E001",
            )
        ]
    if settings.DEBUG and public:
        return [
            Error(
                "DEBUG is on, and ALLOWED_HOSTS names more than this machine.",
                hint="Unset DEBUG: its error pages show settings to anybody.",
                id="ratchet.E002",
            )
        ]
    return []


def _check_engine() -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    if not settings.ENGINE_URLS:
        hint = "Unset it for the engine that `make up` starts."
        messages.append(Error("ENGINE_URLS is empty.", hint=hint, id="ratchet.E003"))
    for url in settings.ENGINE_URLS:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            messages.append(
                Error(
                    f"ENGINE_URLS has {url!r}.",
                    hint="Give URLs such as http://127.0.0.1:8001.",
                    id="ratchet.E003",
                )
            )
        elif parts.hostname not in LOOPBACK and not settings.ENGINE_API_KEY:
            messages.append(
                Error(
                    f"The engine at {url} is on another machine and ENGINE_API_KEY is empty.",
                    hint="Set ENGINE_API_KEY, here and there: whoever reaches it can load versions.",
                    id="ratchet.E004",
                )
            )
    if not settings.ENGINE_API_KEY:
        messages.append(
            checks.Warning(
                "ENGINE_API_KEY is empty.", hint="`make up` writes one to var/secrets.", id="ratchet.W001"
            )
        )
    return messages


def _check_numbers() -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    positive = (
        "CONTEXT_LENGTH", "MAX_STREAMS", "FIRST_TOKEN_SECONDS", "TOKEN_GAP_SECONDS",
        "ANSWER_SECONDS", "READERLESS_SECONDS", "RUN_LEASE_SECONDS", "RUN_MAX_SECONDS", "RUN_ATTEMPTS",
        "MAX_BODY_BYTES", "DATABASE_POOL_SIZE", "TRAIN_PROCESSES", "TRAIN_CPUS", "TRAIN_MEMORY_GB",
    )  # fmt: skip
    for name in positive:
        if getattr(settings, name) <= 0:
            messages.append(
                Error(f"{name} must be above 0.", hint="Unset it for the default.", id="ratchet.E005")
            )
    for name in ("RATE_LIMIT_KEY", "RATE_LIMIT_RATER", "TRAIN_THREADS", "COMPILE_IN_REQUEST"):
        if getattr(settings, name) < 0:
            messages.append(
                Error(f"{name} must be 0 or above.", hint="Unset it for the default.", id="ratchet.E005")
            )
    return messages


def _check_launcher() -> list[CheckMessage]:
    name = settings.LAUNCHER
    if name not in LAUNCHERS:
        hint = f"Use one of {', '.join(LAUNCHERS)}."
        return [Error(f"LAUNCHER={name!r} is unknown.", hint=hint, id="ratchet.E006")]
    found: list[tuple[str, str]] = []
    package = {"slurm": "submitit", "kubernetes": "kubernetes"}.get(name)
    if package and find_spec(package) is None:
        hint = f"pip install -c constraints.txt -e '.[{name}]'"
        found.append((f"LAUNCHER={name} needs the package {package}.", hint))
    if name == "kubernetes":
        for setting in ("KUBERNETES_IMAGE", "KUBERNETES_CLAIM"):
            if not getattr(settings, setting):
                found.append((f"LAUNCHER=kubernetes needs {setting}.", "See docs/gpus.md."))
        for setting in ("ARTIFACTS_DIR", "MODEL_DIR"):
            if not Path(getattr(settings, setting)).is_relative_to(settings.KUBERNETES_MOUNT):
                said = f"{setting} does not lie under KUBERNETES_MOUNT, {settings.KUBERNETES_MOUNT}."
                found.append((said, "A run's pod sees nothing else; move it, or mount its parent."))
    return [Error(said, hint=hint, id="ratchet.E008") for said, hint in found]


def _check_networks() -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    for network in settings.WEBHOOK_NETWORKS:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            messages.append(
                Error(
                    f"WEBHOOK_NETWORKS has {network!r}: {error}.",
                    hint="Give networks such as 10.1.0.0/16.",
                    id="ratchet.E007",
                )
            )
    return messages


def _check_origins() -> list[CheckMessage]:
    if settings.CORS_ORIGINS == ["*"]:
        return []
    return [
        Error(
            f"CORS_ORIGINS has {origin!r}, which no browser sends.",
            hint="Give origins such as https://app.example, without a slash at the end; or * alone.",
            id="ratchet.E009",
        )
        for origin in settings.CORS_ORIGINS
        if not ORIGIN.fullmatch(origin)
    ]


def _check_choices() -> list[CheckMessage]:
    """Words of which only a few are known."""
    messages: list[CheckMessage] = []
    if settings.TRAIN_DEVICE not in TRAIN_DEVICES:
        hint = f"Use one of {', '.join(TRAIN_DEVICES)}."
        messages.append(Error(f"TRAIN_DEVICE={settings.TRAIN_DEVICE!r}.", hint=hint, id="ratchet.E010"))
    scheme = urlsplit(settings.BROKER_URL).scheme  # the rest may be a password
    if scheme not in TRANSPORT_ALIASES:
        hint = "Use a URL such as redis://host:6379/0, or filesystem:// for files in BROKER_DIR."
        messages.append(Error(f"BROKER_URL begins with {scheme!r}.", hint=hint, id="ratchet.E010"))
    return messages


def _check_hosts() -> list[CheckMessage]:
    return [
        Error(
            f"ALLOWED_HOSTS has {host!r}, which is no host's name.",
            hint="Give names as ratchet.example, without https:// and without a port.",
            id="ratchet.E011",
        )
        for host in settings.ALLOWED_HOSTS
        if "/" in host or re.search(r":[0-9]+$", host)
    ]
