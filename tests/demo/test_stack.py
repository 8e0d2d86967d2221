"""A demo's folder is its own: a second demo beside it would begin by deleting the first one's database."""

from __future__ import annotations

import pytest

from demo.client import DemoError
from demo.stack import prepare
from tests.services import free_port

pytestmark = pytest.mark.unit


def test_a_second_demo_leaves_the_first_ones_folder_alone(tmp_path):
    folder = tmp_path / "demo"
    first = prepare(folder, free_port())
    (folder / "ratchet.sqlite3").write_text("kept")
    with pytest.raises(DemoError, match="start this one from another clone"):
        prepare(folder, free_port())
    assert (folder / "ratchet.sqlite3").read_text() == "kept"

    first.lock.close()  # as the end of its processes does
    prepare(folder, free_port())
    assert not (folder / "ratchet.sqlite3").exists()
