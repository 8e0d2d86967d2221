"""On the work page a rater answers questions of every kind, one after the other, by key and by button."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from feedback.models import Assignment, Correction, Flag, Preference, Rating, Task
from feedback.services.answers import answer_task
from feedback.services.judge import Judge
from feedback.services.queue import claim_task
from feedback.services.record import record_preference
from feedback.services.tasks import create_task, put_in_line
from projects.services import Actor, update_project
from tests.browser.cast import comparisons
from tests.cast import Cast

NEXT_MS = 100


def question(page: Page) -> str:
    return page.locator(".question").inner_text()


@pytest.mark.parametrize(
    ("key", "ranks", "all_bad"),
    [
        ("1", [1, 2], False),
        ("ArrowLeft", [1, 2], False),
        ("2", [2, 1], False),
        ("ArrowRight", [2, 1], False),
        ("0", [1, 1], False),
        ("t", [1, 1], False),
        ("b", [None, None], True),
    ],
)
def test_votes_by_key(
    page: Page, people: Cast, sign_in: Any, key: str, ranks: list[int | None], all_bad: bool
) -> None:
    comparisons(people, 1)
    sign_in(people.bob)
    page.goto("/p/kitchen/work/")
    left = page.locator('[data-side="left"] .prose').inner_text()
    page.keyboard.press(key)
    expect(page.get_by_text("Nothing is left for you just now")).to_be_visible()
    preference = Preference.objects.get()
    sides = list(preference.candidates.order_by("position").select_related("completion"))
    assert sides[0].completion.text == left
    assert [side.rank for side in sides] == ranks
    assert preference.all_bad == all_bad
    assert preference.rater == people.bob
    assert preference.seconds_spent is not None


def test_votes_by_button_and_a_double_click_is_one_vote(page: Page, people: Cast, sign_in: Any) -> None:
    comparisons(people, 1)
    sign_in(people.bob)
    page.goto("/p/kitchen/work/")
    page.get_by_role("button", name="Left is better").dblclick()
    expect(page.get_by_text("Nothing is left for you just now")).to_be_visible()
    assert Preference.objects.count() == 1


def test_the_next_question_is_there_at_once(page: Page, people: Cast, sign_in: Any) -> None:
    comparisons(people, 6)
    sign_in(people.bob)
    page.goto("/p/kitchen/work/")
    page.evaluate(
        """() => {
            window.waits = [];
            let pressed = 0;
            addEventListener("keydown", () => { pressed = performance.now(); }, true);
            const painted = () => window.waits.push(performance.now() - pressed);
            new MutationObserver(() => requestAnimationFrame(painted))
                .observe(document.getElementById("work"), { childList: true });
        }"""
    )
    seen = set()
    for _ in range(4):
        before = question(page)
        seen.add(before)
        expect(page.locator("#work")).to_have_attribute("data-ahead", "1")
        page.keyboard.press("1")
        expect(page.locator(".question")).not_to_have_text(before)
    assert len(seen) == 4
    waits = sorted(page.evaluate("window.waits"))
    assert waits[len(waits) // 2] < NEXT_MS, waits
    expect(page.locator("[data-waiting]")).to_have_text("2 are waiting")


def test_skips_and_undoes(page: Page, people: Cast, sign_in: Any) -> None:
    comparisons(people, 2)
    sign_in(people.bob)
    page.goto("/p/kitchen/work/")
    first = question(page)
    with page.expect_response("**/skip"):
        page.keyboard.press("s")
    expect(page.locator(".question")).not_to_have_text(first)
    assert Assignment.objects.get(state="skipped").rater == people.bob
    page.keyboard.press("u")
    expect(page.locator(".question")).to_have_text(first)
    page.get_by_role("button", name="Right is better").click()
    expect(page.locator(".question")).not_to_have_text(first)
    with page.expect_response("**/undo"):
        page.get_by_role("button", name="Undo").click()
    expect(page.locator(".question")).to_have_text(first)
    assert not Preference.objects.usable().exists()


def test_what_was_typed_last_is_a_draft_too(page: Page, people: Cast, sign_in: Any) -> None:
    comparisons(people, 1)
    sign_in(people.bob)
    page.goto("/p/kitchen/work/")
    page.keyboard.press("c")
    page.keyboard.type("It is shorter.")
    page.goto("/p/kitchen/leaderboard/")
    for _ in range(200):  # the request outlives its page, and is not waited for by the next one
        if Assignment.objects.get().draft:
            break
        page.wait_for_timeout(50)
    page.goto("/p/kitchen/work/")
    expect(page.get_by_label("Comment")).to_have_value("It is shorter.")


def test_escape_leaves_what_is_typed_and_the_keys_are_heard_again(
    page: Page, people: Cast, sign_in: Any
) -> None:
    prompt, answers = people.answered_prompt("How long?", ["Eight minutes."])
    create_task(project=people.project, kind="correct", prompt=prompt, completions=answers)
    sign_in(people.bob)
    page.goto("/p/kitchen/work/")
    page.keyboard.press("e")
    page.keyboard.type("fs")
    page.keyboard.press("Escape")
    expect(page.get_by_role("textbox", name="As it should read")).to_have_value(re.compile("fs"))
    page.keyboard.press("f")
    expect(page.get_by_text("Nothing is left for you just now")).to_be_visible()
    assert Rating.objects.get().value == 1


def test_what_was_judged_elsewhere_says_so_and_the_work_goes_on(
    page: Page, people: Cast, sign_in: Any, console: Any
) -> None:
    console.allow("409")
    comparisons(people, 3)
    sign_in(people.bob)
    page.goto("/p/kitchen/work/")
    expect(page.locator("#work")).to_have_attribute("data-ahead", "1")
    shown = page.locator("#work form").get_attribute("data-assignment")
    held = Assignment.objects.get(pk=shown or "")
    ids = [UUID(one) for one in held.shown]
    common: dict[str, Any] = {"judge": Judge(user=people.bob), "source": "ui", "is_shown": True}
    record_preference(project=people.project, candidates=ids, ranks=[1, 2], **common)
    page.keyboard.press("2")
    expect(page.locator("#toasts")).to_contain_text("You judged this before")
    second = question(page)
    page.keyboard.press("1")
    expect(page.locator(".question")).not_to_have_text(second)
    page.keyboard.press("1")
    expect(page.get_by_text("Nothing is left for you just now")).to_be_visible()
    assert Preference.objects.usable().count() == 3


def test_what_is_refused_can_be_mended(page: Page, people: Cast, sign_in: Any, console: Any) -> None:
    console.allow("422")
    prompt, answers = people.answered_prompt("How long?", ["Eight minutes."])
    create_task(project=people.project, kind="correct", prompt=prompt, completions=answers)
    sign_in(people.bob)
    page.goto("/p/kitchen/work/")
    text = page.get_by_role("textbox", name="As it should read")
    text.fill("x" * 60_000)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#toasts .is-bad")).to_be_visible()
    expect(text).to_have_value("x" * 60_000)  # nothing that was typed is gone
    text.fill("Nine minutes.")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("Nothing is left for you just now")).to_be_visible()
    assert Correction.objects.get().text == "Nine minutes."


def test_a_vote_without_a_network_is_kept_and_sent_later(
    page: Page, people: Cast, sign_in: Any, context: BrowserContext, console: Any
) -> None:
    console.allow("ERR_INTERNET_DISCONNECTED")
    comparisons(people, 2)
    sign_in(people.bob)
    page.goto("/p/kitchen/work/", wait_until="networkidle")
    context.set_offline(True)
    page.keyboard.press("1")
    expect(page.get_by_text("The connection is lost")).to_be_visible()
    assert not Preference.objects.exists()
    context.set_offline(False)
    expect(page.get_by_text("has arrived")).to_be_visible()
    assert Preference.objects.count() == 1


def test_a_vote_outlives_its_tab(
    page: Page, people: Cast, sign_in: Any, context: BrowserContext, console: Any
) -> None:
    console.allow("ERR_INTERNET_DISCONNECTED")
    comparisons(people, 2)
    sign_in(people.bob)
    page.goto("/p/kitchen/work/", wait_until="networkidle")
    context.set_offline(True)
    page.keyboard.press("2")
    expect(page.get_by_text("The connection is lost")).to_be_visible()
    page.close()
    context.set_offline(False)
    again = context.new_page()
    again.goto("/p/kitchen/work/", wait_until="networkidle")
    assert Preference.objects.count() == 1


def test_nothing_to_do_says_where_questions_come_from(
    page: Page, people: Cast, sign_in: Any, console: Any
) -> None:
    console.allow("404")
    sign_in(people.bob)
    page.goto("/p/kitchen/work/")
    expect(page.get_by_text("Questions come from prompts with finished answers")).to_be_visible()
    page.goto("/p/kitchen/work/?kind=review")
    expect(page.get_by_role("heading", name="Not found")).to_be_visible()


def test_ranks_four_answers_with_a_tie_by_key(page: Page, people: Cast, sign_in: Any) -> None:
    ask(people, "compare", ["One.", "Two.", "Three.", "Four."])
    sign_in(people.bob)
    page.goto("/p/kitchen/work/?kind=compare")
    shown = page.locator(".card .prose").all_inner_texts()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Give each answer a rank first")).to_be_visible()
    for key in "2141":
        page.keyboard.press(key)
    expect(page.locator('[data-lane="1"]')).to_contain_text("B = D")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Nothing is left for you just now")).to_be_visible()
    sides = Preference.objects.get().candidates.order_by("position").select_related("completion")
    assert [(side.completion.text, side.rank) for side in sides] == list(
        zip(shown, [2, 1, 4, 1], strict=True)
    )


def test_a_card_is_dragged_to_its_rank(page: Page, people: Cast, sign_in: Any) -> None:
    ask(people, "compare", ["One.", "Two.", "Three."])
    sign_in(people.bob)
    page.goto("/p/kitchen/work/")
    for card, lane in ((0, 3), (1, 1), (2, 2)):
        page.locator(f'[data-card="{card}"] h2').drag_to(page.locator(f'[data-lane="{lane}"]'))
    page.get_by_role("button", name="Send the ranking").click()
    expect(page.get_by_text("Nothing is left for you just now")).to_be_visible()
    sides = Preference.objects.get().candidates.order_by("position")
    assert [side.rank for side in sides] == [3, 1, 2]


def test_rates_every_aspect_of_the_form_by_key(page: Page, people: Cast, sign_in: Any) -> None:
    scale = {"key": "accuracy", "low": 1, "high": 5, "anchors": [{"value": 5, "label": "All true"}]}
    people.project.form["aspects"].append(scale)
    update_project(project=people.project, changed=["form"], actor=Actor(user=people.ada))
    ask(people, "rate", ["Eight minutes."])
    sign_in(people.bob)
    page.goto("/p/kitchen/work/")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Choose a value in each row")).to_be_visible()
    page.keyboard.press("1")  # good
    expect(page.get_by_role("checkbox", name="Clear w")).to_be_visible()
    expect(page.locator('[name="reason-thumbs"][value="unclear"]')).to_be_hidden()
    page.keyboard.press("w")  # the key beside the reason
    page.keyboard.press("4")
    page.keyboard.press("c")
    page.keyboard.type("Short and right.")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("Nothing is left for you just now")).to_be_visible()
    rows = {row.aspect: row for row in Rating.objects.all()}
    assert {aspect: row.value for aspect, row in rows.items()} == {"thumbs": 1, "accuracy": 4}
    assert rows["thumbs"].reasons == ["clear"]
    assert rows["thumbs"].comment == "Short and right."


def test_two_keys_are_one_thumb(page: Page, people: Cast, sign_in: Any) -> None:
    ask(people, "rate", ["No."])
    sign_in(people.bob)
    page.goto("/p/kitchen/work/")
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Nothing is left for you just now")).to_be_visible()
    assert Rating.objects.get().value == -1


def test_corrects_with_a_live_diff_and_the_draft_is_there_after_a_reload(
    page: Page, people: Cast, sign_in: Any
) -> None:
    ask(people, "correct", ["Boil it for eighty minutes."])
    sign_in(people.bob)
    page.goto("/p/kitchen/work/")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Change the text first")).to_be_visible()
    page.keyboard.press("e")
    page.keyboard.press("Control+a")
    with page.expect_response("**/draft"):
        page.keyboard.type("Boil it for eight minutes.")
    expect(page.locator(".diff del")).to_have_text("eighty")
    expect(page.locator(".diff ins")).to_have_text("eight")
    page.reload()
    expect(page.get_by_role("textbox", name="As it should read")).to_have_value("Boil it for eight minutes.")
    page.get_by_role("textbox", name="As it should read").focus()
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("Nothing is left for you just now")).to_be_visible()
    assert Correction.objects.get().text == "Boil it for eight minutes."


def test_a_reviewer_sees_what_raters_said_and_has_the_last_word(
    page: Page, people: Cast, sign_in: Any
) -> None:
    task = ask(people, "compare", ["One.", "Two."], overlap=2)
    for rater in (people.bob, people.ada):
        mine = claim_task(project=people.project, rater=rater)
        assert mine is not None
        best = str(task.completions.get(text="One." if rater == people.bob else "Two.").pk)
        ranks = [1 if one == best else 2 for one in mine.shown]
        answer_task(assignment=mine, answer={"ranks": ranks, "comment": f"{rater} says so."})
    sign_in(people.carol)
    page.goto("/p/kitchen/work/?kind=review")
    expect(page.locator(".said-list li")).to_have_count(2)
    expect(page.locator(".said-list")).to_contain_text("bob says so.")
    page.keyboard.press("1")
    expect(page.get_by_text("Nothing to review just now")).to_be_visible()
    assert Preference.objects.get(is_final=True).rater == people.carol


def test_guidelines_come_before_the_first_question(page: Page, people: Cast, sign_in: Any) -> None:
    people.project.guidelines = "Prefer **short** answers."
    update_project(project=people.project, changed=["guidelines"], actor=Actor(user=people.ada))
    comparisons(people, 1)
    sign_in(people.bob)
    page.goto("/p/kitchen/work/")
    expect(page.get_by_text("Prefer short answers.")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator(".question")).to_be_visible()
    page.goto("/p/kitchen/work/")
    expect(page.locator(".question")).to_be_visible()


def test_the_same_question_in_two_tabs_is_answered_once(
    page: Page, people: Cast, sign_in: Any, context: BrowserContext, console: Any
) -> None:
    console.allow("409")
    comparisons(people, 1)
    sign_in(people.bob)
    other = context.new_page()
    for tab in (page, other):
        tab.goto("/p/kitchen/work/", wait_until="networkidle")
    page.keyboard.press("1")
    expect(page.get_by_text("Nothing is left for you just now")).to_be_visible()
    other.keyboard.press("2")
    expect(other.get_by_text("You judged this before")).to_be_visible()
    preference = Preference.objects.get()
    assert [side.rank for side in preference.candidates.order_by("position")] == [1, 2]


def ask(people: Cast, kind: str, answers: list[str], **more: Any) -> Task:
    """A task of this kind, first in line."""
    prompt, made = people.answered_prompt(f"A question to {kind}?", answers)
    task = create_task(project=people.project, kind=kind, prompt=prompt, completions=made, **more)
    put_in_line(task)
    return task


def test_the_focus_goes_to_the_next_question(page: Page, people: Cast, sign_in: Any) -> None:
    comparisons(people, 2)
    sign_in(people.bob)
    page.goto("/p/kitchen/work/", wait_until="networkidle")
    for then in (".question", "#main"):  # the last one leaves nothing to do
        before = question(page)
        page.get_by_role("button", name="Right is better").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_text(before, exact=True)).to_be_hidden()
        expect(page.locator(then)).to_be_focused()
    assert Preference.objects.count() == 2


def test_an_answer_is_flagged_with_its_question_skipped_and_undone(
    page: Page, people: Cast, sign_in: Any
) -> None:
    comparisons(people, 2)
    sign_in(people.bob)
    page.goto("/p/kitchen/work/")
    first = question(page)
    right = page.locator('[data-side="right"] .prose').inner_text()
    page.locator("summary", has_text="Flag").press("Enter")  # by keyboard alone
    choice = page.get_by_role("group", name="Right answer").get_by_role("button", name="Private data")
    choice.focus()
    choice.press("Enter")
    expect(page.locator(".question")).not_to_have_text(first)
    page.locator("body").press("u")
    expect(page.locator(".question")).to_have_text(first)
    flag = Flag.objects.get()
    assert (flag.completion.text, flag.reason, flag.rater) == (right, "private", people.bob)
    assert flag.retracted is not None
    assert not Preference.objects.exists()
