"""The metrics page and `GET metrics`: the same numbers by version, exact counts, and nothing of others."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

import inference.stats
from feedback.services.judge import Judge
from feedback.services.record import record_preference
from feedback.stats import wilson
from inference.models import Completion, Deployment, Replica, Version
from tests.cast import Cast, error_of

PATH = "/p/kitchen/metrics/"


@pytest.fixture
def served(cast: Cast) -> Cast:
    """v1 answered five times, v2 once and failed once; v2 won the only battle."""
    v2 = Version.objects.create(project=cast.project, number=2, kind="adapter", path="v/2", digest="sha256:2")
    _, made = cast.answered_prompt(answers=["A.", "B."], versions=[cast.v1, v2])
    _, more = cast.answered_prompt("And eggs?", ["C.", "D.", "E.", "F."])
    for place, completion in enumerate([made[0], *more]):
        Completion.objects.filter(pk=completion.pk).update(ttft_ms=100 * (place + 1), total_ms=1000)
    cast.answer(made[0].prompt, state=Completion.State.FAILED, version=v2)
    record_preference(
        project=cast.project,
        judge=Judge(user=cast.bob),
        candidates=[one.pk for one in made],
        ranks=[2, 1],
        source="ui",
        is_shown=True,
    )
    Deployment.objects.create(project=cast.project, number=2, kind="promote", champion=v2, previous=cast.v1)
    loaded = {cast.v1.engine_name: "", "garden-v7": "sha256:7"}
    Replica.objects.create(url="http://127.0.0.1:1", is_healthy=True, loaded=loaded, missing=["kitchen-v2"])
    return cast


def test_the_answer_has_every_number_by_version(served: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference.stats, "MAX_ROWS", 4)
    rows = {row["version"]: row for row in served.get("metrics", {"window": "1h"}).json()["versions"]}
    first, second = rows["kitchen@v1"], rows["kitchen@v2"]
    assert (first["latency"]["completions"], second["latency"]["completions"]) == (5, 1), "of all answers"
    assert first["latency"]["sampled"] + second["latency"]["sampled"] == 4, "percentiles: of the newest"
    assert first["latency"]["ttft_ms_p50"] == 400
    assert first["latency"]["total_ms_p95"] == first["latency"]["total_ms_p99"] == 1000
    assert second["latency"]["failed"] == 1
    assert first["latency"]["completions_per_minute"] == pytest.approx(5 / 60, rel=0.01)
    assert (first["quality"]["win_rate"], second["quality"]["win_rate"]) == (0, 1)
    assert second["quality"]["win_rate_low"] == pytest.approx(0.207, abs=0.001)
    assert second["quality"]["win_rate_high"] == 1
    assert wilson(0.5, 100) == pytest.approx((0.404, 0.596), abs=0.001)
    for window in ("", "1", "1w", "0h", "93d", "-1h", "1.5h"):
        answer: Any = served.get("metrics", {"window": window})
        assert (answer.status_code, error_of(answer)["param"]) == (422, "window")


def test_the_page_shows_them_with_the_swap_and_the_engines(served: Cast) -> None:
    client = served.client
    client.force_login(served.bob)
    page = client.get(f"{PATH}?window=1h").content.decode()
    assert "▾ v2" in page, "the deployment on the time axis"
    assert page.count('<path class="series series-1"') >= 2, "a line of the second version"
    assert "n = 1" in page
    assert ">drift<" in page
    assert "garden-v7" not in page, "another project's version"
    assert "127.0.0.1:1" not in page, "an address is for operators"
    part: Any = client.get(f"{PATH}?window=1h", headers={"HX-Request": "true"})
    assert "<html" not in part.content.decode()
    for window in ("24h", "7d", "30d"):
        assert "<path" in client.get(f"{PATH}?window={window}").content.decode()
    assert client.get(f"{PATH}?window=2h").status_code == 422
    Completion.objects.update(created=timezone.now() - timedelta(days=2))
    assert "No answer in this window" not in client.get(f"{PATH}?window=7d").content.decode()
    client.force_login(served.eve)
    assert client.get(PATH).status_code == 404


def test_the_page_of_versions_has_the_same_engines(served: Cast) -> None:
    served.client.force_login(served.ada)
    page = served.client.get("/p/kitchen/versions/").content.decode()
    engines = page.partition('id="engines-title"')[2]
    assert ">drift<" in engines
    assert "garden-v7" not in engines and "127.0.0.1:1" not in engines
