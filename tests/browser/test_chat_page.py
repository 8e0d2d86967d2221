"""On the chat page a person asks, rates, corrects and compares, by keyboard and by pointer."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from feedback.models import Correction, Flag, Preference, Rating
from inference.models import Completion
from tests.browser.cast import HOSTILE, talk
from tests.cast import Cast

ANSWER_MS = 60_000


def open_talk(page: Page, cast: Cast, sign_in: Any, *answers: str) -> list[Completion]:
    sign_in(cast.bob)
    conversation, completions = talk(cast, "How do I boil an egg?", *answers)
    page.goto(f"/p/kitchen/chat/{conversation.pk}/")
    return completions


def test_a_question_by_keyboard_streams_an_answer_that_survives_a_reload(
    page: Page, people: Cast, sign_in: Any, engine: Any
) -> None:
    sign_in(people.bob)
    page.goto("/p/kitchen/chat/")
    page.keyboard.type("Tell me about eggs.")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("All of them.")
    page.keyboard.press("Enter")
    expect(page.locator(".asked")).to_have_text("You: Tell me about eggs.\nAll of them.")
    page.wait_for_url("**/chat/*-*/")
    page.reload()
    expect(page.locator(".answer:not([data-stream])")).to_be_visible(timeout=ANSWER_MS)
    completion = Completion.objects.get(project=people.project)
    assert completion.state == Completion.State.FINISHED
    assert completion.prompt.conversation is not None
    assert completion.prompt.conversation.owner == people.bob
    expect(page.locator("#conversations a")).to_have_text("Tell me about eggs. All of them.")


def arrived(page: Page) -> None:
    """What is said shows at once; its answer or turn is busy until the server has it."""
    expect(page.locator("#turns [aria-busy]")).to_have_count(0)


def test_rates_by_keyboard(page: Page, people: Cast, sign_in: Any) -> None:
    [completion] = open_talk(page, people, sign_in)
    page.keyboard.press("+")
    expect(page.get_by_role("button", name="Thumb up")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("2")
    expect(page.get_by_role("checkbox", name="Clear")).to_be_checked()
    page.get_by_placeholder("Anything to add?").press("Enter")
    expect(page.locator(".why summary")).to_have_text("Clear")
    [first, second] = Rating.objects.order_by("id")
    assert (first.value, first.superseded is not None) == (1, True)
    assert (second.value, second.reasons, second.supersedes) == (1, ["clear"], first)
    page.locator(".answer").focus()
    page.keyboard.press("-")
    expect(page.get_by_role("button", name="Thumb down")).to_have_attribute("aria-pressed", "true")
    arrived(page)
    assert Rating.objects.usable().get().value == -1
    page.keyboard.press("u")
    expect(page.get_by_role("button", name="Thumb down")).to_have_attribute("aria-pressed", "false")
    arrived(page)
    assert not Rating.objects.usable().exists()
    assert Rating.objects.count() == 3
    assert completion.ratings.count() == 3


@pytest.mark.parametrize("leave", ["edit", "page"])
def test_reasons_that_were_ticked_and_not_saved_are_kept(
    page: Page, people: Cast, sign_in: Any, leave: str
) -> None:
    open_talk(page, people, sign_in)
    page.get_by_role("button", name="Thumb down").click()
    arrived(page)
    page.locator(".chip", has_text="Wrong").click()
    if leave == "edit":
        page.get_by_role("button", name="Make it better").click()
        page.get_by_label("The answer as it should read").fill("Nine minutes.")
        page.keyboard.press("Control+Enter")
    else:
        page.goto("/p/kitchen/leaderboard/")
        page.go_back()  # what is kept is sent from the chat, at the latest
    expect(page.locator(".why summary", has_text="Wrong")).to_be_visible()
    arrived(page)
    rating = Rating.objects.usable().get()
    assert (rating.value, rating.reasons) == (-1, ["wrong"])


def test_rates_by_pointer_and_a_double_click_is_one_rating(page: Page, people: Cast, sign_in: Any) -> None:
    open_talk(page, people, sign_in)
    page.get_by_role("button", name="Thumb up").click(click_count=2, delay=5)
    expect(page.get_by_role("button", name="Thumb up")).to_have_attribute("aria-pressed", "true")
    page.get_by_text("Well written").click()
    page.get_by_placeholder("Anything to add?").fill("Just right.")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".why summary")).to_have_text("Well written: Just right.")
    rating = Rating.objects.usable().get()
    assert (rating.value, rating.reasons, rating.comment) == (1, ["well_written"], "Just right.")
    page.reload()
    page.locator(".why summary").click()
    page.get_by_role("button", name="Take back").click()
    expect(page.get_by_role("button", name="Thumb up")).to_have_attribute("aria-pressed", "false")
    arrived(page)
    assert not Rating.objects.usable().exists()


def test_corrects_by_keyboard_and_is_told_when_nothing_changed(
    page: Page, people: Cast, sign_in: Any, console: Any
) -> None:
    console.allow("422")
    [completion] = open_talk(page, people, sign_in)
    page.keyboard.press("e")
    editor = page.get_by_label("The answer as it should read")
    expect(editor).to_be_focused()
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("same text")
    expect(editor).to_be_focused()
    page.keyboard.type(" Then cool it.")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".better")).to_contain_text("Then cool it.")
    correction = Correction.objects.usable().get()
    assert (correction.completion, correction.text) == (completion, f"{completion.text} Then cool it.")
    page.keyboard.press("e")
    expect(editor).to_be_focused()
    page.keyboard.press("Escape")
    expect(editor).to_be_hidden()


def test_corrects_by_pointer(page: Page, people: Cast, sign_in: Any, console: Any) -> None:
    console.allow("422")
    open_talk(page, people, sign_in)
    page.get_by_role("button", name="Make it better").click()
    editor = page.get_by_label("The answer as it should read")
    editor.fill("   ")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_be_visible()
    editor.fill("Six minutes.")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".better")).to_contain_text("Six minutes.")
    page.get_by_role("button", name="Take the better version back").click()
    expect(page.locator(".better")).to_be_hidden()
    assert not Correction.objects.usable().exists()


@pytest.mark.parametrize(("key", "ranks"), [("ArrowLeft", [1, 2]), ("ArrowRight", [2, 1])])
def test_says_which_of_two_answers_is_better(
    page: Page, people: Cast, sign_in: Any, key: str, ranks: list[int]
) -> None:
    completions = open_talk(page, people, sign_in, "Eight minutes.", "It depends on the egg.")
    page.keyboard.press(key)
    expect(page.locator('[data-which] [aria-pressed="true"]')).to_have_count(1)
    arrived(page)
    preference = Preference.objects.usable().get()
    sides = preference.candidates.order_by("position")
    assert [(side.completion, side.rank) for side in sides] == list(zip(completions, ranks, strict=True))
    page.get_by_role("button", name="Both bad").click()
    expect(page.get_by_role("button", name="Both bad")).to_have_attribute("aria-pressed", "true")
    arrived(page)
    assert Preference.objects.usable().get().all_bad


def test_an_answer_is_flagged_and_unflagged(page: Page, people: Cast, sign_in: Any) -> None:
    [completion] = open_talk(page, people, sign_in)
    page.get_by_title("Flag this answer").click()
    page.get_by_role("button", name="Private data").click()
    expect(page.get_by_text("flagged", exact=True)).to_be_visible()
    arrived(page)
    flag = Flag.objects.usable().get()
    assert (flag.completion, flag.reason, flag.rater) == (completion, "private", people.bob)
    page.get_by_title("Flag this answer").click()
    page.get_by_role("button", name="Private data").click()
    expect(page.get_by_text("flagged", exact=True)).to_be_hidden()
    arrived(page)
    assert not Flag.objects.usable().exists()


def test_the_better_version_is_compared_word_by_word_as_it_is_written(
    page: Page, people: Cast, sign_in: Any
) -> None:
    open_talk(page, people, sign_in)
    page.keyboard.press("e")
    expect(page.get_by_text("Nothing is changed yet.")).to_be_visible()
    page.get_by_label("The answer as it should read").fill("Six minutes in boiling water.")
    diff = page.get_by_role("region", name="What you changed")
    expect(diff.locator("del")).to_have_text("Eight")
    expect(diff.locator("ins")).to_have_text("Six")
    expect(page.get_by_text("Words taken out: 1. Words put in: 1.")).to_be_visible()
    page.keyboard.press("Control+Enter")
    page.get_by_text("What you changed").click()
    expect(page.locator(".better ins")).to_have_text("Six")


def test_a_second_answer_is_compared_and_then_shown_one_at_a_time(
    page: Page, people: Cast, sign_in: Any, engine: Any
) -> None:
    [first] = open_talk(page, people, sign_in)
    page.keyboard.press("r")
    expect(page.locator("[data-which]")).to_be_visible(timeout=ANSWER_MS)
    expect(page.locator(".answer")).to_have_count(2)
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("button", name="Left")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="One at a time").click()
    expect(page.locator(".answer")).to_have_count(1)
    expect(page.locator(".answer .text")).to_contain_text(first.text)
    expect(page.get_by_role("group", name="Answers to this question")).to_contain_text("1 /")
    page.keyboard.press("]")
    expect(page.locator(".answer .text")).not_to_contain_text(first.text)
    page.reload()
    expect(page.locator(".answer .text")).not_to_contain_text(first.text)
    page.keyboard.press("[")
    expect(page.locator(".answer .text")).to_contain_text(first.text)
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("button", name="Left")).to_have_attribute("aria-pressed", "true")


def test_an_edited_question_is_a_branch_and_arrows_lead_back(
    page: Page, people: Cast, sign_in: Any, engine: Any
) -> None:
    open_talk(page, people, sign_in)
    page.get_by_label("Your message").press("ArrowUp")
    editor = page.get_by_label("Your question, asked differently")
    expect(editor).to_be_focused()
    page.keyboard.press("Escape")
    expect(editor).to_be_hidden()
    page.locator(".answer").focus()
    page.keyboard.press("q")
    expect(editor).to_be_focused()
    editor.fill("How do I fry an egg?")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".asked")).to_have_text("You: How do I fry an egg?")
    expect(page.locator(".answer:not([data-stream])")).to_be_visible(timeout=ANSWER_MS)
    page.locator(".answer").focus()
    page.keyboard.press("{")
    expect(page.locator(".asked")).to_have_text("You: How do I boil an egg?")
    expect(page.locator(".answer .text")).to_contain_text("Eight minutes")
    page.get_by_role("group", name="Versions of your question").get_by_role("button", name="after").click()
    expect(page.locator(".asked")).to_have_text("You: How do I fry an egg?")


def test_copies_an_answer_and_a_block_of_code(
    page: Page, people: Cast, sign_in: Any, context: BrowserContext
) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    text = "Like **so**:\n\n```py\nboil(8)\n```"
    open_talk(page, people, sign_in, text)
    page.keyboard.press("c")
    expect(page.get_by_text("Copied.")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == text
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "boil(8)\n"


def test_conversations_are_found_renamed_deleted_and_brought_back_by_keyboard(
    page: Page, people: Cast, sign_in: Any
) -> None:
    talk(people, "Soup?", "With leeks.")
    open_talk(page, people, sign_in)
    rows = page.locator("#conversations a")
    expect(rows).to_have_text(["How do I boil an egg?", "Soup?"])
    page.keyboard.press("f")
    page.keyboard.type("leeks")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("With leeks.")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("F2")
    page.keyboard.type("Soup plans")
    page.keyboard.press("Enter")
    expect(page.locator("[data-title]")).to_have_text("Soup plans")
    expect(rows).to_be_focused()
    page.keyboard.press("Delete")
    expect(page.get_by_text("Nothing found.")).to_be_visible()
    expect(page.get_by_text("Deleted. What you rated in it still counts.")).to_be_visible()
    page.keyboard.press("z")
    expect(rows).to_have_count(1)
    page.get_by_label("Find in your conversations").press("Escape")
    expect(rows).to_have_count(2)


def test_deleting_the_open_conversation_leaves_an_empty_page_and_undo_opens_it_again(
    page: Page, people: Cast, sign_in: Any
) -> None:
    open_talk(page, people, sign_in)
    address = page.url
    page.locator("#conversations li").hover()
    page.get_by_role("button", name="Delete “How do I boil an egg?”").click()
    expect(page.get_by_role("heading", name="Ask Kitchen something")).to_be_visible()
    assert page.url.endswith("/p/kitchen/chat/")
    page.get_by_role("button", name="Undo").click()
    page.wait_for_url(address)
    expect(page.locator(".asked")).to_have_count(1)


def test_hostile_markdown_is_harmless(page: Page, people: Cast, sign_in: Any) -> None:
    huge = "x" * 50_000 + "\n\n" + "- a **b** `c`\n" * 3_000
    deep = "\n".join("> " * depth + "deep" for depth in range(1, 90))
    turned = "```py\nif admin: # \u202e } begin\n```\n\n\u202eturned"
    open_talk(page, people, sign_in, HOSTILE, f"{HOSTILE}\n\n{turned}\n\n{deep}\n\n{huge}")
    expect(page.locator(".answer").last).to_contain_text("U+202Eturned")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    expect(page.locator(".answer strong").first).to_have_text("Bold")
    expect(page.locator(".answer .text img")).to_have_count(0)
    expect(page.locator(".answer .text a[href^=javascript]")).to_have_count(0)


def test_an_engine_that_is_away_is_said_and_the_question_is_kept(
    page: Page, people: Cast, sign_in: Any, engine: Any
) -> None:
    engine.stop()
    [_] = open_talk(page, people, sign_in)
    page.get_by_label("Your message").fill("Are you there?")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("does not answer", timeout=ANSWER_MS)
    page.get_by_role("button", name="Thumb up").first.click()
    expect(page.get_by_role("button", name="Thumb up").first).to_have_attribute("aria-pressed", "true")
    engine.start()
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator(".turn").nth(1).locator(".answer:not([data-stream])")).to_be_visible(
        timeout=ANSWER_MS
    )


def test_somebody_elses_conversation_is_not_found(
    page: Page, people: Cast, sign_in: Any, console: Any
) -> None:
    console.allow("404")
    conversation, _ = talk(people)
    sign_in(people.ada)
    response = page.goto(f"/p/kitchen/chat/{conversation.pk}/")
    assert response is not None
    assert response.status == 404
