"""The broker of files, which all processes of a laptop share: a message is seen whole, or not at all.

Kombu's own transport opens a message under its final name and then fills it. A worker that looked in between
read half a message, and ended with it; so did one that found what a killed process had begun.
"""

from __future__ import annotations

import logging
import uuid
from pathlib import Path
from time import monotonic_ns
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps

logger = logging.getLogger(__name__)

# For a server that is a broker: who rings a bell in a request does not wait for one that is away. By default
# kombu tries for six seconds, whatever `retry` says. Workers and beat, which need it, wait by themselves.
PATIENCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}


class Channel(filesystem.Channel):
    def _put(self, queue: str, payload: Any, **options: Any) -> None:  # type: ignore[override]  # as kombu's own
        """A file that begins with a dot until it is whole; no queue's name ends as that does."""
        folder = Path(self.data_folder_out)
        name = f"{monotonic_ns()}_{uuid.uuid4()}.{queue}.msg"  # read in the order of names
        partial = folder / f".{name}.partial"
        try:
            partial.write_text(dumps(payload))
        except OSError:  # a full disk: beat tries several times a second, for hours
            partial.unlink(missing_ok=True)
            raise
        partial.replace(folder / name)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        """The next message that can be read. What cannot is dropped: beat rings again. Raises Empty."""
        while True:
            try:
                return super()._get(queue)
            except ValueError as error:
                logger.warning("dropped a message of %s that is no JSON: %s", queue, error)


class Transport(filesystem.Transport):
    Channel = Channel


def use() -> None:
    """From here on `filesystem://` is this transport."""
    TRANSPORT_ALIASES["filesystem"] = "config.broker:Transport"
