"""A blind battle: no name before the vote, an early vote that counts later, and nothing lost on the way."""

from __future__ import annotations

import asyncio
import re
import uuid
from typing import Any

import pytest
from django.test import AsyncClient, Client

from feedback.models import Battle, Preference
from feedback.services.battles import settle_battles
from feedback.stats import version_quality
from inference.models import Completion, Deployment, Replica, Version
from inference.relay import hub, stop_answers
from projects.offload import in_database
from tests.cast import Cast, error_of
from tests.inference.conftest import stubs, stubs_of_session  # noqa: F401 - fixtures

pytestmark = pytest.mark.django_db(transaction=True)
PATH = "/p/kitchen/battle/"
# Tokens are random, so a name is a word of its own.
NAME = re.compile(r"\bv[12]\b|kitchen@|sha256")


@pytest.fixture
def bob(cast: Cast, stubs: Any, settings: Any) -> AsyncClient:  # noqa: F811
    """Bob at his browser; v2 is the champion's way back, and the engine is a stub that holds both."""
    settings.ENGINE_URLS = [stubs[0].url]
    settings.READERLESS_SECONDS = 0.1
    v2 = Version.objects.create(project=cast.project, number=2, kind="adapter", path="v/2", digest="sha256:2")
    Deployment.objects.create(project=cast.project, number=2, kind="promote", champion=v2, previous=cast.v1)
    loaded = {cast.v1.engine_name: "", v2.engine_name: "sha256:2"}
    Replica.objects.create(url=stubs[0].url, is_healthy=True, loaded=loaded)
    signed_in = Client()
    signed_in.force_login(cast.bob)
    client = AsyncClient()
    client.cookies = signed_in.cookies
    return client


async def battle(bob: AsyncClient, question: str) -> Battle:
    response: Any = await bob.post(f"{PATH}ask", {"text": question})
    assert response.status_code == 302, response.content
    return await in_database(Battle.objects.select_related("left", "right").get)


async def ended(one: Battle) -> None:
    tasks = [found.task for id_ in (one.left_id, one.right_id) if (found := hub().find(id_))]
    await asyncio.gather(*tasks)


def play(scene: Any) -> None:
    async def all_of_it() -> None:
        try:
            await scene()
        finally:
            await stop_answers()

    asyncio.run(all_of_it())


def test_a_vote_after_both_answers_names_the_versions_and_can_be_undone(cast: Cast, bob: AsyncClient) -> None:
    async def scene() -> None:
        one = await battle(bob, "Please: say")
        assert {one.left.version_label, one.right.version_label} == {"kitchen@v1", "kitchen@v2"}
        assert one.left.prompt_id == one.right.prompt_id
        assert one.left_id < one.right_id, "the order of the ids is the shown order"
        assert one.left.sampling["seed"] != one.right.sampling["seed"]
        await ended(one)
        url = f"{PATH}{one.pk}/"
        for side in (one.left_id, one.right_id):
            response: Any = await bob.get(f"/p/kitchen/completions/{side}/stream")
            said = b"".join([frame async for frame in response.streaming_content])
            assert b"done" in said
            assert not NAME.search(said.decode() + str(response.headers))
        page = await bob.get(url)
        before = page.content.decode().split("<main")[1] + str(page.headers)
        assert "word3" in before
        assert not NAME.search(before)
        voted: Any = await bob.post(f"{url}vote", {"verdict": "right"}, headers={"HX-Request": "true"})
        assert set(NAME.findall(voted.content.decode())) == {"v1", "v2"}
        again = await bob.post(f"{url}vote", {"verdict": "left"})
        assert again.status_code == 302
        row = await in_database(Preference.objects.get)
        sides = await in_database(lambda: list(row.candidates.values_list("completion_id", "rank")))
        assert sides == [(one.left_id, 2), (one.right_id, 1)], "the first vote stands, in the shown order"
        assert row.source == "ui"
        quality = await in_database(version_quality, cast.project, one.created)
        assert {found.version: found.wins for found in quality} == {
            one.right.version_label: 1,
            one.left.version_label: 0,
        }
        undone: Any = await bob.post(f"{url}undo", headers={"HX-Request": "true"})
        assert not NAME.search(undone.content.decode())
        await bob.post(f"{url}vote", {"verdict": "both_bad"})
        standing = await in_database(lambda: list(Preference.objects.usable()))
        assert [found.all_bad for found in standing] == [True]

    play(scene)


def test_an_early_vote_is_recorded_at_the_end_though_nobody_reads(cast: Cast, bob: AsyncClient) -> None:
    async def scene() -> None:
        one = await battle(bob, "Please: B=say A=slow")
        response: Any = await bob.post(f"{PATH}{one.pk}/vote", {"verdict": "left"})
        assert response.status_code == 302
        page: Any = await bob.get(f"{PATH}{one.pk}/")
        assert "counts when both answers have ended" in page.content.decode()
        assert not await in_database(Preference.objects.exists)
        await asyncio.sleep(0.3)  # longer than a chat's answer lives without a reader
        assert hub().find(one.left_id), "it is made to its end"

    play(scene)  # ends by stopping both: the vote can never count, and the page says so
    one = Battle.objects.get()
    client = Client()
    client.force_login(cast.bob)
    said = client.get(f"{PATH}{one.pk}/").content.decode()
    assert "Your vote could not be recorded" in said
    assert "Try again" in said
    again = client.post(f"{PATH}{one.pk}/vote", {"verdict": "left"}, headers={"Accept": "application/json"})
    assert (again.status_code, error_of(again)["code"]) == (409, "battle_broken")

    # A web process that died between the end of the answers and the record: the schedule does it.
    Completion.objects.update(state="finished", finish_reason="stop")
    assert settle_battles() == 1
    assert settle_battles() == 0
    assert [row.rank for row in Preference.objects.get().candidates.all()] == [1, 2]


def test_the_task_of_the_web_process_records_an_early_vote(cast: Cast, bob: AsyncClient) -> None:
    async def scene() -> None:
        one = await battle(bob, "Please: say")
        await bob.post(f"{PATH}{one.pk}/vote", {"verdict": "tie"})
        await ended(one)
        for _ in range(100):
            if await in_database(Preference.objects.exists):
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the vote was not recorded")

    play(scene)


def test_refusals_and_strangers(cast: Cast, bob: AsyncClient) -> None:
    async def scene() -> None:
        response: Any = await bob.post(f"{PATH}ask", {"text": "Please: busy"})
        assert response.status_code == 429
        assert "Try again" in response.content.decode()
        assert "Please: busy" in response.content.decode(), "the question is kept"
        assert not await in_database(Completion.objects.exists)
        assert (await bob.post(f"{PATH}ask", {"text": "  "})).status_code == 422
        await in_database(Replica.objects.update, loaded={})
        one = await battle(bob, "Please: say")
        assert one.left.version_label == one.right.version_label == "kitchen@v2", "no other is held"
        await ended(one)
        voted: Any = await bob.post(
            f"{PATH}{one.pk}/vote", {"verdict": "tie"}, headers={"HX-Request": "true"}
        )
        assert "same version" in voted.content.decode()

    play(scene)
    one = Battle.objects.get()
    stranger = Client()
    for user, url in ((cast.carol, f"{PATH}{one.pk}/"), (cast.bob, f"{PATH}{uuid.uuid4()}/")):
        stranger.force_login(user)
        assert stranger.get(url).status_code == 404
        assert stranger.post(f"{url}vote", {"verdict": "left"}).status_code == 404
    assert stranger.get(PATH).status_code == 200
