"""Following a label, erasing a person and watching a large compilation, with the keyboard alone."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from projects.services import Actor
from tests.browser.cast import turned_loop
from tests.cast import Cast
from tests.training.conftest import judged
from training.models import Erasure
from training.services.compilations import request_compilation, run_compilation
from training.services.erasure import tick_erasures


def press(page: Page, name: str, role: Any = "button") -> None:
    page.get_by_role(role, name=name, exact=True).focus()
    page.keyboard.press("Enter")


def test_a_version_is_followed_to_its_dataset_and_back(page: Page, people: Cast, sign_in: Any) -> None:
    turned_loop(people)
    sign_in(people.ada)
    page.goto("/p/kitchen/lineage/")
    page.get_by_role("searchbox").focus()
    page.keyboard.type("v2")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Lineage of version v2")).to_be_visible()
    headings = page.locator(".flow h2").all_inner_texts()
    assert headings == ["Judgements", "Datasets", "Runs", "Versions", "Verdicts", "Deployments"]
    press(page, "Dataset 1", "link")
    press(page, "Lineage", "link")
    expect(page.locator(".flow-card.is-start")).to_contain_text("Dataset 1")
    expect(page.get_by_role("link", name="Deployment 2")).to_be_visible()


def test_a_person_is_erased_when_their_name_is_written_again(page: Page, people: Cast, sign_in: Any) -> None:
    sign_in(people.ada)
    page.goto("/p/kitchen/erasures/")
    page.get_by_label("A member, by name").fill("bob")
    press(page, "See what would happen")
    expect(page.get_by_role("heading", name="What will happen to bob")).to_be_visible()
    page.get_by_label("Write the name once more").fill("bob")
    press(page, "Erase them")
    expect(page.get_by_role("status").get_by_text("waiting")).to_be_visible()
    tick_erasures()
    expect(page.get_by_role("heading", name="What remains, and why")).to_be_visible()
    with page.expect_download() as download:
        press(page, "Download the report", "link")
    assert download.value.suggested_filename == "kitchen-erasure-1.json"
    assert Erasure.objects.get().status == "done"


def test_a_large_preview_comes_by_itself(page: Page, people: Cast, sign_in: Any) -> None:
    judged(people, 12)
    job = request_compilation(
        project=people.project, kind="preview", format="preference", filters={}, cutoff=None,
        actor=Actor(user=people.ada),
    )  # fmt: skip
    sign_in(people.ada)
    page.goto(f"/p/kitchen/datasets/jobs/{job.pk}/")
    expect(page.get_by_role("progressbar")).to_be_visible()
    run_compilation(job.pk)
    expect(page.get_by_role("button", name="Build this dataset")).to_be_visible()
    expect(page.get_by_role("heading", name="Left out, and why")).to_be_visible()
