"""UUIDv7: ids that sort by time, so that indexes stay local and lists need no second order."""

import uuid

from uuid_utils.compat import uuid7 as _uuid7


def uuid7() -> uuid.UUID:
    """A new UUIDv7."""
    return _uuid7()
