"""Composing a dataset in a browser, with the keyboard alone."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from tests.cast import Cast
from tests.training.conftest import judged
from training.models import Dataset


def test_a_dataset_is_previewed_and_built_by_keys(page: Page, people: Cast, sign_in: Any) -> None:
    judged(people, 12)
    sign_in(people.ada)
    page.goto("/p/kitchen/")
    page.get_by_role("link", name="Dataset", exact=True).focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Preview").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Left out, and why")).to_be_visible()
    expect(page.locator("svg.plot rect").first).to_be_visible()
    page.get_by_role("button", name="Build this dataset").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Dataset 1")).to_be_visible()
    assert Dataset.objects.get().rows > 0


def test_a_refusal_stands_where_the_preview_would(page: Page, people: Cast, sign_in: Any) -> None:
    sign_in(people.ada)
    page.goto("/p/kitchen/datasets/")
    page.get_by_text("Narrow it down").click()
    page.get_by_label("Judged since").fill("yesterday")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("alert")).to_contain_text("2026-01-31")
