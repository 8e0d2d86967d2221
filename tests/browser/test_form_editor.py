"""The rating form, edited by keyboard without JSON: added to, reordered, refused at the field, and seen."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Page, expect

from projects.models import Project
from tests.browser.test_every_page import serious
from tests.cast import Cast


def test_a_form_without_json(page: Page, people: Cast, sign_in: Any) -> None:
    sign_in(people.ada)
    page.goto("/p/kitchen/workbench/")
    editor, preview = page.locator("#form-editor"), page.locator("#form-preview")
    expect(preview.get_by_role("group", name="Thumbs")).to_be_visible()

    # A scale, by keys alone: the focus is where one writes next.
    page.get_by_role("button", name="Add a scale").press("Enter")
    page.keyboard.type("Is it true?")
    second = editor.locator(".aspect-editor").nth(1)
    expect(second.get_by_label("Key", exact=True)).to_have_value("is_it_true")
    second.get_by_label("Highest value").fill("3")
    second.get_by_text("What the values mean").press("Enter")
    second.locator("[data-anchors] input").last.fill("All of it")
    second.get_by_role("button", name="Add a reason").press("Enter")
    page.keyboard.type("Made up")
    group = preview.get_by_role("group", name="Is it true?")
    expect(group.get_by_text("3 All of it")).to_be_visible()

    # It goes up, and the focus goes with it.
    second.get_by_role("button", name="Move up").press("Enter")
    expect(page.locator("#form-told")).to_have_text("Moved to place 1 of 2.")
    expect(editor.locator(".aspect-editor").first.get_by_role("button", name="Move down")).to_be_focused()
    expect(preview.locator("legend").first).to_contain_text("Is it true?")

    # What makes no sense is said at the field, by the server.
    first = editor.locator(".aspect-editor").first
    first.get_by_label("Highest value").fill("1")
    expect(first.locator(".refusal")).to_contain_text("a scale has 2 to 11 points")
    expect(first.locator("[aria-invalid]")).to_have_count(1)
    first.get_by_label("Highest value").fill("3")
    expect(first.locator(".refusal")).to_have_count(0)
    assert serious(page) == []

    # By hand as well, and what is wrong there is said too.
    page.get_by_text("The form as JSON").click()
    field = page.locator("#form-json")
    written = json.loads(field.input_value())
    field.fill("{")
    expect(page.locator("#form-refusal")).to_contain_text("cannot be read")
    written["comment"] = False
    field.fill(json.dumps(written))
    expect(page.get_by_label("Raters may write a comment")).not_to_be_checked()

    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    form = Project.objects.get(slug="kitchen").rating_form
    assert [aspect.key for aspect in form.aspects] == ["is_it_true", "thumbs"]
    [scale, _] = form.aspects
    assert (scale.low, scale.high, scale.label) == (1, 3, "Is it true?")
    assert [(anchor.value, anchor.label) for anchor in scale.anchors] == [(3, "All of it")]
    assert [(reason.key, reason.label, reason.when) for reason in scale.reasons] == [
        ("made_up", "Made up", "any")
    ]
    assert form.comment is False
