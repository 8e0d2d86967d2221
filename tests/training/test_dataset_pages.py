"""The datasets page: composed, previewed, built, and read by those who may."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from projects.models import User
from tests.cast import Cast
from tests.training.conftest import judged, vote
from training.models import Dataset
from training.pages.histogram import length_histogram

FORM = {
    "format": "preference",
    "has_kinds": "yes",
    "kinds": ["preference", "correction"],
    "per_prompt_cap": "6",
}
DESK = "/p/kitchen/datasets/"


def page_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def compose(user: User, **fields: Any) -> Any:
    return page_of(user).post(f"{DESK}compose", {**FORM, **fields}, headers={"HX-Request": "true"})


def test_a_preview_counts_and_writes_nothing(cast: Cast):
    judged(cast, 12)
    _, [a, b] = cast.answered_prompt("Equal?", ["This.", "That."])
    vote(cast, a, b, tie=True)
    body = compose(cast.ada, act="preview").content.decode()
    assert "Build this dataset" in body
    assert "tie" in body
    assert "Short answer" in body, "an example"
    assert "<svg" in body
    assert not Dataset.objects.exists()


def test_what_was_previewed_is_what_is_built(cast: Cast):
    judged(cast, 12)
    shown = page_of(cast.ada).post(f"{DESK}compose", {**FORM, "act": "preview"})
    cutoff = shown.context["preview"].cutoff.isoformat()
    judged(cast, 3, start=50)
    answer = compose(cast.ada, act="build", cutoff=cutoff, tags="", versions="v1, v2")
    assert answer.headers["HX-Redirect"] == f"{DESK}1/"
    dataset = Dataset.objects.get()
    assert dataset.rows + dataset.heldout_rows == 12
    assert dataset.filters["versions"] == ["v1", "v2"]
    assert dataset.filters["kinds"] == ["preference", "correction"]
    body = page_of(cast.ada).get(f"{DESK}1/").content.decode()
    assert dataset.digest in body
    assert "versions" in body


def test_formats_without_judgements_take_the_same_form(cast: Cast):
    for number in range(3):
        cast.prompt(f"What is number {number}?")
    made = page_of(cast.ada).post(f"{DESK}compose", {**FORM, "format": "prompts", "act": "build"})
    assert made.headers["Location"] == f"{DESK}1/"
    assert Dataset.objects.get().format == "prompts"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kinds": []}, "at least one"),
        ({"since": "yesterday"}, "2026-01-31"),
        ({"per_rater_cap": "2.5"}, "whole number"),
        ({"rating_gap": "wide"}, "must be a number"),
        ({"replay": "30"}, "since"),
        ({"format": "colour"}, "There is no format"),
        ({"cutoff": "soon"}, "no time"),
        ({"act": "build"}, "No judgement makes a training pair"),
    ],
)
def test_a_wrong_form_is_a_sentence_on_the_page(cast: Cast, fields, said):
    body = compose(cast.ada, **fields).content.decode()
    assert said in body
    assert 'role="alert"' in body


def test_who_may_see_what(cast: Cast):
    judged(cast, 12)
    compose(cast.ada, act="build")
    assert compose(cast.bob).status_code == 404
    assert page_of(cast.eve).get(DESK).status_code == 404
    desk = page_of(cast.bob).get(DESK).content.decode()
    assert "Dataset 1" in desk
    assert "Compose one" not in desk
    assert "Short answer" in page_of(cast.ada).get(f"{DESK}1/").content.decode()
    assert "Short answer" not in page_of(cast.bob).get(f"{DESK}1/").content.decode()
    assert page_of(cast.ada).get(f"{DESK}2/").status_code == 404


def test_a_histogram_has_the_numbers_of_its_lengths():
    histogram = length_histogram({"edges": [0, 25, 50], "chosen": [0, 4, 0], "rejected": [0, 1, 2]})
    assert histogram is not None
    assert histogram.sides == ["chosen", "rejected"]
    assert histogram.table == [("25 to 49", [4, 1]), ("50 and more", [0, 2])]
    assert len(histogram.bars) == 3
    tallest = max(histogram.bars, key=lambda bar: bar.height)
    assert tallest.series == 0
    assert length_histogram({"edges": [0, 25], "chosen": [0, 0]}) is None
