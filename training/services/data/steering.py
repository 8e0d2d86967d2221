"""The tokens by which the base is steered, such as the end of a turn, as they would stand in a text.

Trainers read a text as tokens: who could put the end of a turn and the beginning of a system message into a
dataset would teach the model to be steered by users. The engine reads them as text; a dataset has none.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path

from django.conf import settings

from training.services.data.group import Row

Steering = re.Pattern[str]


def read_steering() -> Steering:
    """A pattern of the special tokens of the base in MODEL_DIR; of nothing where no tokenizer lies there."""
    path = Path(settings.MODEL_DIR) / "tokenizer.json"
    try:
        return _pattern(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return re.compile("(?!)")


def is_steered(row: Row, steering: Steering) -> bool:
    """Whether a text of the row would be read as a token that steers."""
    return any(steering.search(message["content"]) for message in row.messages) or any(
        steering.search(answer.text) for answer in row.answers
    )


@lru_cache(maxsize=4)
def _pattern(path: Path, changed: int) -> Steering:  # `changed` for the cache
    added = json.loads(path.read_bytes()).get("added_tokens", [])
    names = sorted((token["content"] for token in added if token["special"]), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)) or "(?!)")
