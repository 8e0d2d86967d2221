"""Conversations: branches, a history that is searched, and what is nobody else's."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from feedback.history import history_of
from feedback.services.conversations import ask, fitting, show_branch
from feedback.services.judge import Judge
from feedback.services.record import record_preference, record_rating
from feedback.threads import turns_of
from inference.models import Completion, Conversation, Prompt
from projects.models import Project
from tests.cast import Cast

CHAT = "/p/kitchen/chat/"


@pytest.fixture
def bob(cast: Cast) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(cast.bob)
    return client


def said(conversation: Conversation, cast: Cast) -> list[tuple[str, list[str]]]:
    """Each turn on the path: the question, and the answers that are shown."""
    conversation.refresh_from_db()
    turns = turns_of(conversation, cast.bob)
    return [(turn.prompt.question, [one.completion.text for one in turn.answers]) for turn in turns]


def talk(
    cast: Cast, text: str, answer: str = "", **where: Any
) -> tuple[Conversation, Prompt, Completion | None]:
    prompt = ask(project=cast.project, owner=cast.bob, text=text, **where)
    assert prompt.conversation is not None
    return prompt.conversation, prompt, cast.answer(prompt, answer) if answer else None


# --- branches --------------------------------------------------------------------------------------------
def test_an_edited_question_is_a_branch_and_the_way_back_is_kept(cast: Cast) -> None:
    conversation, first, answer = talk(cast, "Eggs?", "Boil.")
    _, follow_up, _ = talk(cast, "How long?", "Eight.", conversation=conversation)
    assert follow_up.parent == answer
    _, edited, _ = talk(cast, "Eggs, fried?", "In butter.", conversation=conversation, instead_of=first)
    assert (edited.parent, edited.conversation) == (None, conversation)
    assert [message["content"] for message in edited.messages] == ["Eggs, fried?"]
    assert said(conversation, cast) == [("Eggs, fried?", ["In butter."])]
    show_branch(conversation=conversation, node=first.pk)
    assert said(conversation, cast) == [("Eggs?", ["Boil."]), ("How long?", ["Eight."])]
    _, third, _ = talk(cast, "Softer?", conversation=conversation)
    assert [message["content"] for message in third.messages] == [
        "Eggs?",
        "Boil.",
        "How long?",
        "Eight.",
        "Softer?",
    ]


def test_a_second_answer_is_a_sibling_to_compare_and_the_better_one_is_followed(cast: Cast) -> None:
    conversation, prompt, first = talk(cast, "Eggs?", "Boil.")
    second = cast.answer(prompt, "Fry.")
    assert first is not None
    assert said(conversation, cast) == [("Eggs?", ["Boil.", "Fry."])]
    [turn] = turns_of(conversation, cast.bob)
    assert (turn.leading, turn.answer_places.count) == (second.pk, 2)
    sides = [first.pk, second.pk]
    judge = Judge(user=cast.bob)
    record_preference(
        project=cast.project, judge=judge, candidates=sides, ranks=[1, 2], source="ui", is_shown=True
    )
    [turn] = turns_of(conversation, cast.bob)
    assert (turn.verdict, turn.leading) == ("left", first.pk)
    _, follow_up, _ = talk(cast, "How long?", conversation=conversation)
    assert follow_up.parent == first
    assert said(conversation, cast)[0] == ("Eggs?", ["Boil."])
    show_branch(conversation=conversation, node=prompt.pk, stays=True)
    assert said(conversation, cast) == [("Eggs?", ["Boil.", "Fry."])]
    show_branch(conversation=conversation, node=second.pk)
    assert said(conversation, cast) == [("Eggs?", ["Fry."])]
    show_branch(conversation=conversation, node=first.pk)
    assert said(conversation, cast)[-1] == ("How long?", [])


@pytest.mark.django_db(transaction=True)  # the view asks on threads of its own
@pytest.mark.usefixtures("no_engine")
def test_a_question_goes_on_from_the_answer_that_its_page_shows(cast: Cast, bob: Client) -> None:
    conversation, prompt, first = talk(cast, "Eggs?", "Boil.")
    cast.answer(prompt, "Fry.")
    assert first is not None
    # No engine answers here: the question is recorded all the same, and says so.
    response = bob.post(f"{CHAT}ask", {"text": "More?", "conversation": conversation.pk, "after": first.pk})
    assert response.status_code == 200
    assert b"does not answer" in response.content
    assert Prompt.objects.latest("id").parent == first
    other, _, stranger = talk(cast, "Soup?", "Hot.")
    body = {"text": "More?", "conversation": conversation.pk, "after": stranger.pk if stranger else ""}
    assert bob.post(f"{CHAT}ask", body).status_code == 422
    assert other.prompts.count() == 1


@pytest.mark.usefixtures("no_engine")
@pytest.mark.django_db(transaction=True)
def test_a_second_answer_that_no_engine_makes_changes_nothing(cast: Cast, bob: Client) -> None:
    conversation, first, _ = talk(cast, "Eggs?", "Boil.")
    talk(cast, "How long?", "Eight.", conversation=conversation)
    response = bob.post(f"/p/kitchen/questions/{first.pk}/again", headers={"HX-Request": "true"})
    assert response.status_code == 503
    assert "does%20not%20answer" in response.headers["X-Ratchet-Message"]
    assert said(conversation, cast) == [("Eggs?", ["Boil."]), ("How long?", ["Eight."])]


def test_a_failed_turn_is_left_out_of_what_the_model_sees(cast: Cast) -> None:
    conversation, _, answer = talk(cast, "Eggs?", "Boil.")
    _, failed, _ = talk(cast, "How long?", conversation=conversation)
    cast.answer(failed, "Ei", state=Completion.State.FAILED)
    _, third, _ = talk(cast, "Well?", conversation=conversation)
    assert third.parent == answer
    assert [message["content"] for message in third.messages] == ["Eggs?", "Boil.", "Well?"]


def test_a_long_conversation_goes_out_without_its_beginning_and_stays_on_its_side(
    cast: Cast, settings: Any
) -> None:
    settings.CONTEXT_LENGTH = 400
    Project.objects.filter(pk=cast.project.pk).update(max_tokens=100, system_prompt="Be short.")
    cast.project.refresh_from_db()
    conversation, first, _ = talk(cast, "Question 0", "a" * 100)
    for number in range(1, 12):
        _, last, _ = talk(cast, f"Question {number}", "a" * 100, conversation=conversation)
    contents = [message["content"] for message in last.messages]
    assert contents[0] == "Be short."
    assert contents[-1] == "Question 11"
    assert "Question 0" not in contents
    assert contents[1].startswith("Question")
    assert sum(map(len, contents)) <= 900
    assert last.split == first.split
    cut = [turn.is_cut for turn in turns_of(conversation, cast.bob)]
    assert sum(cut) == 1, "said once, where it began"


def test_a_thousand_turns_never_have_too_many_messages() -> None:
    turns = [{"role": role, "content": "x"} for _ in range(1000) for role in ("user", "assistant")]
    kept = fitting([{"role": "system", "content": "s"}, *turns], room=10**9)
    assert len(kept) < 200
    assert [message["role"] for message in kept[:3]] == ["system", "user", "assistant"]
    assert fitting(turns, room=0) == []


def test_the_turns_of_a_long_conversation_cost_the_same_queries(
    cast: Cast, django_assert_num_queries: Any
) -> None:
    conversation, _, answer = talk(cast, "Question 0", "Yes.")
    for number in range(1, 30):
        _, prompt, answer = talk(cast, f"Question {number}", "Yes.", conversation=conversation)
    cast.answer(prompt, "No.")
    assert answer is not None
    record_rating(
        project=cast.project,
        judge=Judge(user=cast.bob),
        completion_id=answer.pk,
        value=1,
        source="ui",
        is_shown=True,
    )
    conversation.refresh_from_db()
    with django_assert_num_queries(8):
        assert len(turns_of(conversation, cast.bob)) == 30


# --- the sidebar -----------------------------------------------------------------------------------------
def test_words_are_found_in_titles_questions_and_answers(cast: Cast) -> None:
    eggs, _, _ = talk(cast, "How do I boil an egg?", "Eight minutes, Frédéric.")
    soup, _, _ = talk(cast, "Soup for four" + " people" * 20 + " and a goldfish?", "Yes.")
    gone, _, _ = talk(cast, "Egg salad?", "No.")
    Conversation.objects.filter(pk=gone.pk).update(deleted=timezone.now())

    def found(query: str) -> dict[Any, str]:
        rows = history_of(cast.project, cast.bob, query=query).rows
        return {row.conversation.pk: row.snippet for row in rows}

    assert found("EGG") == {eggs.pk: ""}
    assert found("  frédéric ") == {eggs.pk: "Eight minutes, Frédéric."}
    assert "goldfish" in found("goldfish")[soup.pk]
    assert found("%") == found("_oi_") == {}
    assert set(found("")) == set(found("\x00")) == {eggs.pk, soup.pk}
    assert history_of(cast.project, cast.carol, query="egg").rows == []


def test_conversations_stand_under_their_day_and_older_ones_are_a_click_away(cast: Cast) -> None:
    now = timezone.now()
    for days in (0, 1, 5, 400):
        conversation, _, _ = talk(cast, f"{days} days ago")
        Conversation.objects.filter(pk=conversation.pk).update(updated=now - timedelta(days=days))
    history = history_of(cast.project, cast.bob)
    assert [row.group for row in history.rows][:3] == ["Today", "Yesterday", "Last 7 days"]
    assert history.rows[3].group == f"{now - timedelta(days=400):%B %Y}"
    assert history.more == 0
    short = history_of(cast.project, cast.bob, count=2)
    assert (len(short.rows), short.more) == (2, 4)


def test_rename_delete_and_restore(cast: Cast, bob: Client) -> None:
    conversation, _, _ = talk(cast, "Eggs?", "Boil.")
    place = f"{CHAT}{conversation.pk}/"
    assert bob.post(f"{place}rename", {"title": "  Breakfast   plans "}).status_code == 200
    conversation.refresh_from_db()
    assert conversation.title == "Breakfast plans"
    for title in ("", " \u200b ", "x" * 121):
        assert bob.post(f"{place}rename", {"title": title}).status_code == 422
    response = bob.post(f"{place}delete")
    assert b"Breakfast" not in response.content
    assert str(conversation.pk) in response.headers["HX-Trigger"]
    assert bob.get(place).status_code == 404
    assert bob.post(f"{place}delete").status_code == 404
    for _ in range(2):
        assert b"Breakfast plans" in bob.post(f"{place}restore").content
    assert bob.get(place).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_what_is_somebody_elses_is_not_there(cast: Cast) -> None:
    conversation, prompt, _ = talk(cast, "Eggs?", "Boil.")
    for person in (cast.ada, cast.eve):
        other = Client(raise_request_exception=False)
        other.force_login(person)
        for action in ("rename", "delete", "restore", "branch"):
            body = {"title": "Mine", "node": prompt.pk}
            assert other.post(f"{CHAT}{conversation.pk}/{action}", body).status_code == 404, action
        assert other.get(f"/p/kitchen/questions/{prompt.pk}/").status_code == 404
        assert other.post(f"{CHAT}ask", {"text": "x", "instead_of": prompt.pk}).status_code == 404
    conversation.refresh_from_db()
    assert (conversation.title, conversation.deleted) == ("Eggs?", None)


def test_odd_ids_and_numbers_are_refused_or_ignored(cast: Cast, bob: Client) -> None:
    conversation, _, _ = talk(cast, "Eggs?", "Boil.")
    assert bob.post(f"{CHAT}{conversation.pk}/branch", {"node": "x"}).status_code == 422
    assert bob.post(f"{CHAT}{conversation.pk}/branch", {"node": cast.project.pk}).status_code == 404
    assert bob.get(f"{CHAT}history?count=x&q=%00").status_code == 200
    assert bob.get(f"{CHAT}history?count=99999").status_code == 200
    assert bob.get(f"{CHAT}history?here=nonsense").status_code == 422


def test_without_a_session_a_part_of_a_page_is_refused_in_words(cast: Cast) -> None:
    nobody = Client(raise_request_exception=False)
    response = nobody.get(f"{CHAT}history", headers={"HX-Request": "true"})
    assert response.status_code == 401
    assert "signed%20out" in response.headers["X-Ratchet-Message"]
    assert "WWW-Authenticate" not in response.headers
    assert nobody.get(CHAT).status_code == 302, "a whole page leads to the sign-in"
