"""The chat page when something breaks under it: the connection, the session, the server, the engine.

Behind the web server an engine slowly writes word0, word1, ..., so that a gap or a repetition shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db import transaction
from playwright.sync_api import BrowserContext, Page, expect

from feedback.models import Correction, Flag, Preference, Rating
from inference.models import Completion, Conversation, Prompt
from tests import services
from tests.browser.cast import talk
from tests.browser.wire import Wire
from tests.cast import Cast
from tests.inference.conftest import stubs, stubs_of_session  # noqa: F401 - fixtures
from tests.processes import Process, web_process

WAIT_MS = 20_000
ANSWER = "Use **boiling** water.\n\n1. Wait.\n2. Cool it.\n\n```python\nwait(minutes=8)\n```\n\n" * 3
FRAMES = """(count) => new Promise((resolve) => {
    const frames = [];
    let last = performance.now();
    requestAnimationFrame(function frame() {
        const now = performance.now();
        frames.push(now - last);
        last = now;
        if (frames.length < count) requestAnimationFrame(frame); else resolve(frames);
    });
})"""
WORDS = """(least) => {
    const words = document.querySelector("[data-text]")?.innerText.split(/\\s+/).filter(Boolean) ?? [];
    return words.length >= least && words;
}"""


@pytest.fixture(scope="session")
def stub_web_of_session(django_db_setup: None, stubs_of_session: Any) -> Iterator[Process]:  # noqa: F811
    process = web_process(services.free_port())
    process.name = "stub-web"
    process.env = {"ENGINE_URLS": stubs_of_session[0].url}
    yield process
    process.stop()


@pytest.fixture
def wire(transactional_db: None, stubs: Any, stub_web_of_session: Process) -> Iterator[Wire]:  # noqa: F811
    if not stub_web_of_session.answers():
        stub_web_of_session.kill()
        stub_web_of_session.start()
    wire = Wire(int(urlsplit(stub_web_of_session.url).port or 0))
    yield wire
    wire.close()


@pytest.fixture
def web(wire: Wire) -> Wire:
    """Where the browser goes."""
    return wire


def ask_slowly(page: Page, cast: Cast, sign_in: Any) -> None:
    sign_in(cast.bob)
    page.goto("/p/kitchen/chat/")
    page.keyboard.type("Please: slow")
    page.keyboard.press("Enter")


def written(page: Page, least: int) -> list[str]:
    """The words on the page, once there are so many. Nothing is missing and nothing stands twice."""
    words: list[str] = page.wait_for_function(WORDS, arg=least, timeout=WAIT_MS).json_value()
    assert words == [f"word{place}" for place in range(len(words))]
    return words


def stop(page: Page) -> None:
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    expect(page.locator("[data-stream]")).to_have_count(0, timeout=WAIT_MS)


def test_an_answer_goes_on_after_a_reload(page: Page, people: Cast, sign_in: Any) -> None:
    ask_slowly(page, people, sign_in)
    before = written(page, 5)
    page.reload()
    written(page, len(before) + 5)
    stop(page)
    assert Completion.objects.get().state == Completion.State.STOPPED


def test_an_answer_is_stopped_by_pointer_and_its_text_is_kept(page: Page, people: Cast, sign_in: Any) -> None:
    ask_slowly(page, people, sign_in)
    written(page, 3)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("You stopped this answer.")).to_be_visible(timeout=WAIT_MS)
    completion = Completion.objects.get()
    assert completion.state == Completion.State.STOPPED
    assert page.locator(".answer .prose").inner_text() == completion.text.strip()
    assert completion.text.startswith("word0 word1")


def test_an_answer_goes_on_after_the_connection_broke(
    page: Page, people: Cast, sign_in: Any, wire: Wire, console: Any
) -> None:
    console.allow("ERR_")
    ask_slowly(page, people, sign_in)
    before = written(page, 5)
    wire.cut()
    written(page, len(before) + 10)
    expect(page.locator("[data-state]")).to_have_text("")
    stop(page)
    assert page.locator(".answer .text").inner_text().split()[:3] == ["word0", "word1", "word2"]


def test_an_answer_goes_on_after_the_server_was_away(
    page: Page, people: Cast, sign_in: Any, wire: Wire, console: Any
) -> None:
    console.allow("ERR_")
    console.allow("502")
    ask_slowly(page, people, sign_in)
    before = written(page, 5)
    wire.is_away = True
    wire.cut()
    expect(page.locator("[data-state]")).to_contain_text("The connection broke", timeout=WAIT_MS)
    wire.is_away = False
    written(page, len(before) + 10)
    stop(page)


def test_an_answer_whose_server_died_can_be_given_up(
    page: Page, people: Cast, sign_in: Any, stub_web_of_session: Process, console: Any
) -> None:
    for expected in ("ERR_", "409"):
        console.allow(expected)
    ask_slowly(page, people, sign_in)
    written(page, 5)
    stub_web_of_session.kill()
    stub_web_of_session.start()
    with page.expect_response("**/stream*", timeout=WAIT_MS):
        pass
    stop(page)
    page.get_by_label("Your message").fill("Please: say")
    page.get_by_label("Your message").press("Enter")
    expect(page.locator(".answer .text.prose")).to_contain_text("word3", timeout=WAIT_MS)


def test_a_long_conversation_streams_as_a_short_one(page: Page, people: Cast, sign_in: Any) -> None:
    sign_in(people.bob)
    conversation, [answer] = talk(people, "Question 0?", ANSWER)
    common = {"project": people.project}
    asked = [
        Prompt(messages=[{"role": "user", "content": f"Question {n}?"}], conversation=conversation, **common)
        for n in range(199)
    ]
    answers = [Completion(prompt=one, text=ANSWER, state="finished", **common) for one in asked]
    for prompt, parent in zip(asked, [answer, *answers], strict=False):
        prompt.parent_id, prompt.split = parent.pk, "train"
    with transaction.atomic():  # each refers to the other kind: the keys are checked at the end
        Prompt.objects.bulk_create(asked)
        Completion.objects.bulk_create(answers)
    page.goto(f"/p/kitchen/chat/{conversation.pk}/")
    expect(page.locator(".turn")).to_have_count(200)
    page.get_by_label("Your message").fill("Please: slow")
    page.keyboard.press("Enter")
    written(page, 3)
    assert page.evaluate("document.querySelector('.turn').checkVisibility()")
    is_drawn = "document.querySelector('.turn .answer').checkVisibility({ contentVisibilityAuto: true })"
    assert not page.evaluate(is_drawn), "a turn far above is not laid out"
    frames = sorted(page.evaluate(FRAMES, 60))
    assert frames[len(frames) // 2] < 50, frames  # all of them: bench/chat.py, on a machine that does no more
    stop(page)


def test_a_question_waits_for_the_answer_before_it(page: Page, people: Cast, sign_in: Any) -> None:
    ask_slowly(page, people, sign_in)
    written(page, 3)
    expect(page.get_by_role("button", name="Send")).to_be_hidden()
    page.keyboard.type("And then?")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Wait for the answer, or stop it first.")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_label("Your message")).to_have_value("And then?")
    page.get_by_label("Your message").press("Enter")
    expect(page.locator(".asked")).to_have_count(2)
    assert Prompt.objects.latest("id").parent == Completion.objects.earliest("id")


def test_the_end_is_followed_only_while_somebody_is_there(page: Page, people: Cast, sign_in: Any) -> None:
    page.set_viewport_size({"width": 500, "height": 600})
    sign_in(people.bob)
    conversation, _ = talk(people, "Long?", "A paragraph.\n\n" * 60)
    page.goto(f"/p/kitchen/chat/{conversation.pk}/")
    page.get_by_label("Your message").fill("Please: slow")
    page.keyboard.press("Enter")
    written(page, 40)
    gap = "document.documentElement.scrollHeight - innerHeight - scrollY"
    assert page.evaluate(gap) < 5
    page.mouse.move(200, 150)
    page.mouse.wheel(0, -600)
    page.wait_for_function("() => scrollY < document.documentElement.scrollHeight - innerHeight - 300")
    there = page.evaluate("scrollY")
    written(page, 80)
    assert page.evaluate("scrollY") == there
    page.get_by_role("button", name="To the end").click()
    assert page.evaluate(gap) < 5
    stop(page)


def test_without_a_session_it_says_so_and_keeps_what_is_written(
    page: Page, people: Cast, sign_in: Any, context: BrowserContext, console: Any
) -> None:
    console.allow("401")
    sign_in(people.bob)
    conversation, _ = talk(people)
    page.goto(f"/p/kitchen/chat/{conversation.pk}/")
    context.clear_cookies(name="sessionid")
    field = page.get_by_label("Your message")
    field.fill("Do not lose this: say")
    field.press("Enter")
    expect(page.get_by_text("You are signed out. What you wrote is kept here.")).to_be_visible()
    expect(field).to_have_value("Do not lose this: say")
    expect(page.locator(".asked")).to_have_count(1)
    assert Prompt.objects.count() == 1
    page.get_by_role("button", name="Thumb up").click()
    expect(page.locator("#unsent")).to_contain_text("What you said is kept here")
    assert not Rating.objects.exists()
    sign_in(people.bob)  # in another tab
    page.evaluate("dispatchEvent(new Event('focus'))")
    expect(page.locator("#signed-out")).to_be_hidden()
    expect(page.get_by_text("What you said has arrived.")).to_be_visible()
    assert Rating.objects.get().value == 1
    page.reload()
    expect(field).to_have_value("Do not lose this: say")
    field.press("Enter")
    expect(page.locator(".asked")).to_have_count(2)
    expect(page.locator("[data-stream]")).to_have_count(0, timeout=WAIT_MS)
    page.reload()
    expect(field).to_have_value("")


def test_thumbs_without_a_network_arrive_once_and_in_order(
    page: Page, people: Cast, sign_in: Any, context: BrowserContext, console: Any
) -> None:
    console.allow("ERR_INTERNET_DISCONNECTED")
    sign_in(people.bob)
    conversation, [_, second] = talk(people, "How long?", "Six minutes.", "Eight minutes.")
    page.goto(f"/p/kitchen/chat/{conversation.pk}/", wait_until="networkidle")
    up, down = (page.get_by_role("button", name=f"Thumb {side}").last for side in ("up", "down"))
    context.set_offline(True)
    up.click()
    expect(up).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#unsent")).to_contain_text("What you said is kept here")
    down.click()  # the other one after all, before the first has arrived
    expect(down).to_have_attribute("aria-pressed", "true")
    expect(up).to_have_attribute("aria-pressed", "false")
    page.close()
    assert not Rating.objects.exists()
    context.set_offline(False)
    again = context.new_page()
    again.goto("/p/kitchen/chat/")
    again.wait_for_function("() => !Object.keys(localStorage).some((key) => key.includes('outbox'))")
    rows = list(Rating.objects.order_by("id"))
    assert [(row.value, row.completion_id, row.superseded is None) for row in rows] == [
        (1, second.pk, False),
        (-1, second.pk, True),
    ]
    assert rows[1].supersedes == rows[0]


def test_flags_and_which_is_better_without_a_network_arrive_once_and_in_order(
    page: Page, people: Cast, sign_in: Any, context: BrowserContext, console: Any
) -> None:
    console.allow("ERR_INTERNET_DISCONNECTED")
    sign_in(people.bob)
    conversation, [first, second] = talk(people, "How long?", "Six minutes.", "Eight minutes.")
    page.goto(f"/p/kitchen/chat/{conversation.pk}/", wait_until="networkidle")
    context.set_offline(True)
    page.keyboard.press("Escape")
    for key, verdict in (("ArrowLeft", "left"), ("t", "tie"), ("b", "both_bad"), ("ArrowRight", "right")):
        page.keyboard.press(key)
        expect(page.locator(f'[data-vote="{verdict}"]')).to_have_attribute("aria-pressed", "true")
        expect(page.locator('[data-vote][aria-pressed="true"]')).to_have_count(1)
    expect(page.locator(".beside.is-chosen")).to_contain_text("Eight minutes.")
    menu = page.get_by_title("Flag this answer").first
    for reason in ("Spam", "Broken", "Spam"):  # the first one not, after all
        menu.focus()
        page.keyboard.press("Enter")
        page.get_by_role("button", name=reason).focus()
        page.keyboard.press("Enter")
        expect(menu).to_be_focused()
    page.get_by_role("button", name="Thumb up").last.click()
    expect(page.locator("#unsent")).to_contain_text("What you said is kept here")
    assert not Preference.objects.exists()
    assert not Flag.objects.exists()
    context.set_offline(False)
    expect(page.get_by_text("What you said has arrived.")).to_be_visible()
    expect(page.locator("[aria-busy]")).to_have_count(0)
    rows = list(Preference.objects.order_by("id"))
    assert [row.superseded is None for row in rows] == [False, False, False, True]
    ranks = {one.completion_id: one.rank for one in rows[-1].candidates.all()}
    assert ranks == {first.pk: 2, second.pk: 1}
    assert [flag.reason for flag in Flag.objects.usable()] == ["broken"]
    assert Flag.objects.count() == 2
    assert Rating.objects.get().completion == second
    expect(page.locator('[data-vote="right"]')).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Take back").first.click()
    expect(page.locator('[data-vote][aria-pressed="true"]')).to_have_count(0)
    expect(page.locator("[aria-busy]")).to_have_count(0)
    assert not Preference.objects.usable().exists()


def test_a_conversation_is_kept_from_raters_and_shown_again(page: Page, people: Cast, sign_in: Any) -> None:
    sign_in(people.bob)
    page.goto("/p/kitchen/chat/")
    private = page.get_by_role("checkbox", name="Keep from raters")
    private.check()  # before its first word
    page.get_by_label("Your message").fill("Do not tell: say")
    page.keyboard.press("Enter")
    expect(page.locator(".answer:not([data-stream])")).to_be_visible(timeout=WAIT_MS)
    assert Conversation.objects.get().opted_out
    page.reload()
    expect(private).to_be_checked()
    private.focus()
    page.keyboard.press("Space")
    expect(page.get_by_text("may be shown to raters")).to_be_visible()
    assert not Conversation.objects.get().opted_out


def test_a_better_version_outlives_a_reload(page: Page, people: Cast, sign_in: Any) -> None:
    sign_in(people.bob)
    conversation, _ = talk(people)
    page.goto(f"/p/kitchen/chat/{conversation.pk}/")
    page.keyboard.press("e")
    editor = page.get_by_label("The answer as it should read")
    editor.fill("Six minutes in boiling water.")
    page.wait_for_function("() => Object.keys(localStorage).some((key) => key.includes('better-'))")
    page.reload()
    page.keyboard.press("e")
    expect(editor).to_have_value("Six minutes in boiling water.")
    page.keyboard.press("Escape")
    expect(editor).to_be_hidden()
    page.keyboard.press("e")
    expect(editor).to_have_value("Eight minutes in boiling water.")


def test_a_better_version_without_a_network_arrives_once_and_its_second_thought_after_it(
    page: Page, people: Cast, sign_in: Any, context: BrowserContext, console: Any
) -> None:
    console.allow("ERR_INTERNET_DISCONNECTED")
    sign_in(people.bob)
    conversation, _ = talk(people)
    page.goto(f"/p/kitchen/chat/{conversation.pk}/", wait_until="networkidle")
    page.keyboard.press("e")
    editor = page.get_by_label("The answer as it should read")
    context.set_offline(True)
    for text in ("Six minutes.", "Seven minutes."):
        editor.fill(text)
        editor.press("Control+Enter")
        editor.press("Control+Enter")
        expect(page.locator("#unsent")).to_contain_text("What you said is kept here")
    page.close()
    assert not Correction.objects.exists()
    context.set_offline(False)
    again = context.new_page()
    again.goto("/p/kitchen/chat/")
    again.wait_for_function("() => !Object.keys(localStorage).length")  # no draft is left either
    rows = list(Correction.objects.order_by("id"))
    assert [(row.text, row.superseded is None) for row in rows] == [
        ("Six minutes.", False),
        ("Seven minutes.", True),
    ]


def test_a_better_version_that_is_refused_keeps_its_words(
    page: Page, people: Cast, sign_in: Any, context: BrowserContext, console: Any
) -> None:
    for expected in ("422", "409"):
        console.allow(expected)
    sign_in(people.bob)
    conversation, _ = talk(people)
    page.goto(f"/p/kitchen/chat/{conversation.pk}/")
    other = context.new_page()
    other.goto(page.url)
    editor = page.get_by_label("The answer as it should read")
    page.keyboard.press("e")
    editor.press("Control+Enter")  # as it is
    expect(page.get_by_role("alert")).to_contain_text("same text")
    editor.fill("Six minutes.")
    expect(editor).to_be_focused()
    other.keyboard.press("e")
    other.get_by_label("The answer as it should read").fill("Five minutes.")
    other.keyboard.press("Control+Enter")
    expect(other.locator(".better")).to_contain_text("Five minutes.")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("You changed this in another tab.")).to_be_visible()
    expect(editor).to_have_value("Six minutes.")
    expect(editor).to_be_focused()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".better")).to_contain_text("Six minutes.")
    assert [row.text for row in Correction.objects.usable()] == ["Six minutes."]


def test_an_engine_that_breaks_off_is_said_and_the_question_can_be_asked_again(
    page: Page, people: Cast, sign_in: Any
) -> None:
    sign_in(people.bob)
    page.goto("/p/kitchen/chat/")
    page.keyboard.type("Please: die")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="broke off")).to_be_visible(timeout=WAIT_MS)
    expect(page.locator(".answer .text")).to_contain_text("word0 word1")
    expect(page.get_by_role("button", name="Thumb up")).to_have_count(0)
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
