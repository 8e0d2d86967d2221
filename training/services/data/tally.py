"""What a pass over the data saw, for people: counts, lengths, balance, overlap with the gate, examples."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from training.services.data.group import Row
from training.services.data.overlap import NEAR, SAME

# Characters; a length belongs to the last edge that it reaches.
LENGTH_EDGES = (0, 25, 50, 100, 200, 400, 800, 1600, 3200, 6400, 12800)
EXAMPLES = 6
_SIDES = {2: ("chosen", "rejected"), 1: ("completion",), 0: ()}


@dataclass
class Tally:
    """Filled row by row; constant in size but for the judges, each of whom is counted."""

    judgements: Counter[str] = field(default_factory=Counter)  # by kind
    judges: Counter[str] = field(default_factory=Counter)
    drops: Counter[str] = field(default_factory=Counter)
    gate_prompts: int = 0
    train: int = 0
    heldout: int = 0
    train_prompts: int = 0
    heldout_prompts: int = 0
    replayed: int = 0
    used: int = 0
    lengths: dict[str, list[int]] = field(default_factory=lambda: defaultdict(_no_lengths))
    good: int = 0  # rows with a true label
    labelled: int = 0
    longer_chosen: int = 0
    longer_rejected: int = 0
    with_margin: int = 0
    several: int = 0  # rows that more than one judgement is behind
    _examples: list[tuple[int, int, Row]] = field(default_factory=list)
    _prompt: str = ""
    _prompt_ids: set[str] = field(default_factory=set)

    def add(self, row: Row, *, is_heldout: bool) -> None:
        if is_heldout:
            self.heldout += 1
        else:
            self.train += 1
        if row.prompt_id != self._prompt or not row.prompt_id:
            self._prompt = row.prompt_id
            self._prompt_ids = set()
            if is_heldout:
                self.heldout_prompts += 1
            else:
                self.train_prompts += 1
        fresh = [id_ for id_ in row.feedback_ids if id_ not in self._prompt_ids]
        self._prompt_ids.update(fresh)
        self.used += len(fresh)
        self.replayed += not row.is_new
        self.several += len(row.feedback_ids) > 1
        self._measure(row)
        if row.label is not None:
            self.labelled += 1
            self.good += row.label
        self.with_margin += row.margin is not None
        # The rows with the lowest keys: a fair sample, and the same one each time.
        item = (-row.key, -self.train - self.heldout, row)
        if len(self._examples) < EXAMPLES:
            heapq.heappush(self._examples, item)
        elif item > self._examples[0]:
            heapq.heapreplace(self._examples, item)

    def _measure(self, row: Row) -> None:
        lengths = self.lengths
        if row.messages:
            size = sum(len(message["content"]) for message in row.messages)
            lengths["prompt"][bisect_right(LENGTH_EDGES, size) - 1] += 1
        sides = _SIDES[len(row.answers)] if row.messages else ("text",)
        sizes = [len(answer.text) for answer in row.answers]
        for name, size in zip(sides, sizes, strict=True):
            lengths[name][bisect_right(LENGTH_EDGES, size) - 1] += 1
        if len(sizes) == 2:
            self.longer_chosen += sizes[0] > sizes[1]
            self.longer_rejected += sizes[0] < sizes[1]

    # --- what people read -----------------------------------------------------------------------------
    def counts(self) -> dict[str, int]:
        return {
            "judgements": self.judgements.total(),
            "judges": len(self.judges),
            "used": self.used,
            "train": self.train,
            "heldout": self.heldout,
            "train_prompts": self.train_prompts,
            "heldout_prompts": self.heldout_prompts,
            "replayed": self.replayed,
        }

    def lengths_json(self) -> dict[str, Any]:
        """Edges in characters, and how many rows reach each edge but not the next, by side."""
        return {"edges": list(LENGTH_EDGES), **{name: list(bins) for name, bins in self.lengths.items()}}

    def balance(self) -> dict[str, float | int | None]:
        """Where the data leans; a share over nothing is None."""
        rows = self.train + self.heldout
        unequal = self.longer_chosen + self.longer_rejected
        heard = self.judges.total()
        return {
            **{f"{kind}s": n for kind, n in sorted(self.judgements.items())},
            "busiest_judge": max(self.judges.values()) / heard if heard else None,
            "longer_chosen": self.longer_chosen / unequal if unequal else None,
            "good": self.good / self.labelled if self.labelled else None,
            "with_margin": self.with_margin / rows if rows else None,
            "several_judgements": self.several / rows if rows else None,
        }

    def gate_overlap(self) -> dict[str, int]:
        """Rows, prompts or texts that were kept out because the gate asks the same, or nearly."""
        return {"gate_prompts": self.gate_prompts, "same": self.drops[SAME], "near": self.drops[NEAR]}

    def examples(self) -> list[Row]:
        return [row for _, _, row in sorted(self._examples, reverse=True, key=lambda one: one[:2])]

    def drops_json(self) -> dict[str, int]:
        return {reason: n for reason, n in sorted(self.drops.items()) if n}


def _no_lengths() -> list[int]:
    return [0] * len(LENGTH_EDGES)
