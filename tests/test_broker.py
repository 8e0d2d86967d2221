"""The broker of files: a message is read whole or not at all, whoever dies while it is written."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from kombu import Connection
from kombu.exceptions import OperationalError

from config import broker
from tests.services import free_port

pytestmark = pytest.mark.unit


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[Any]:
    options = {
        "data_folder_in": str(tmp_path),
        "data_folder_out": str(tmp_path),
        "control_folder": str(tmp_path / "control"),
    }
    broker.use()
    with Connection("filesystem://", transport_options=options) as connection:
        yield connection.channel()


def test_messages_come_in_their_order_and_to_their_queue(channel: Any):
    for number in range(3):
        channel._put("default", {"body": number})
    channel._put("training", {"body": "run"})
    assert [channel._get("default")["body"] for _ in range(3)] == [0, 1, 2]
    assert channel._get("training") == {"body": "run"}
    with pytest.raises(Empty):
        channel._get("default")


def test_what_is_being_written_is_not_read(channel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also when its writer was killed before it was whole."""
    monkeypatch.setattr(Path, "replace", lambda *names: None)
    channel._put("default", {"body": 1})
    assert any(tmp_path.iterdir())
    with pytest.raises(Empty):
        channel._get("default")


def test_a_full_disk_leaves_nothing_behind(channel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write_text(path: Path, text: str) -> None:
        path.touch()  # the name takes no block
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", write_text)
    with pytest.raises(OSError, match="No space left"):
        channel._put("default", {"body": 1})
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_half_a_message_is_dropped_and_the_next_one_heard(channel: Any, tmp_path: Path):
    for name, content in (("0_a", b""), ("0_b", b'{"body": '), ("0_c", b"\xff")):
        (tmp_path / f"{name}.default.msg").write_bytes(content)
    channel._put("default", {"body": "next"})
    assert channel._get("default") == {"body": "next"}


def test_a_broker_that_is_away_is_not_waited_for():
    began = time.monotonic()
    with pytest.raises(OperationalError):
        Connection(f"redis://127.0.0.1:{free_port()}/0", transport_options=broker.PATIENCE).default_channel  # noqa: B018
    assert time.monotonic() - began < 4  # six seconds by default, a tenth of one here
