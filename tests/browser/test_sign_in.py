"""The first page that anybody sees: sign in with the keyboard, and the same with a wrong password."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from projects.models import User


def test_a_person_signs_in_with_the_keyboard(page: Page) -> None:
    User.objects.create_user(username="ada", password="correct horse battery")
    page.goto("/")
    page.get_by_label("Name").focus()
    page.keyboard.type("ada")
    page.keyboard.press("Tab")
    page.keyboard.type("correct horse battery")
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "login" not in url)
    expect(page.get_by_text("ada").first).to_be_visible()


def test_a_wrong_password_is_said_in_words(page: Page) -> None:
    User.objects.create_user(username="ada", password="correct horse battery")
    page.goto("/")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
