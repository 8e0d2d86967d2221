"""The word diff that pages share: it loses nothing, reads as people write, and is quick on any text."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page

DIFF = """async ([before, after]) => {
    const { wordDiff } = await import("/static/projects/diff.js");
    const began = performance.now();
    const pieces = wordDiff(before, after);
    return { pieces, ms: performance.now() - began };
}"""
RANDOM = """async (rounds) => {
    const { wordDiff } = await import("/static/projects/diff.js");
    let state = 7; // the same texts in every run
    const dice = (n) => (state = (state * 48271) % 2147483647) % n;
    const sign = () => [..."abcd .,日é🙂\\n"][dice(12)] + " ".repeat(dice(2));
    const text = () => Array.from({ length: dice(40) }, sign).join("");
    const side = (pieces, without) => pieces.map(([kind, text]) => (kind === without ? "" : text)).join("");
    for (let round = 0; round < rounds; round++) {
        const [a, b] = [text(), text()];
        const pieces = wordDiff(a, b);
        if (side(pieces, "new") !== a || side(pieces, "gone") !== b) return [a, b, pieces];
    }
    return null;
}"""
NEVER_MS = 1000  # it takes a tenth of that on an idle machine


@pytest.fixture
def diff(page: Page, web: Any) -> Any:
    page.goto("/login/")
    return lambda before, after: page.evaluate(DIFF, [before, after])


def test_words_are_told_apart_and_phrases_stay_together(diff: Any) -> None:
    found = diff("Put the egg in cold water.", "Put the egg in hot salted water!")["pieces"]
    assert found == [
        ["same", "Put the egg in "],
        ["gone", "cold"],
        ["new", "hot salted"],
        ["same", " water"],
        ["gone", "."],
        ["new", "!"],
    ]
    assert diff("one two three", "uno due three")["pieces"][:2] == [["gone", "one two"], ["new", "uno due"]]
    assert diff("水を八分", "水を九分")["pieces"][1:3] == [["gone", "八"], ["new", "九"]]
    assert diff("Same.\n", "Same.\n")["pieces"] == [["same", "Same.\n"]]
    assert diff("", "")["pieces"] == []


def test_both_texts_can_be_read_out_of_any_diff(diff: Any, page: Page) -> None:
    assert page.evaluate(RANDOM, 3000) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [("a " * 25_000, "b a " * 12_000), ("x" * 50_000, "y"), ("w1 w2 w3 " * 5_000, "w3 w1 " * 8_000)],
)
def test_a_long_text_does_not_hold_up_the_typist(diff: Any, before: str, after: str) -> None:
    assert diff(before, after)["ms"] < NEVER_MS
