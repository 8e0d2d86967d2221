"""Health and metrics: what tells an operator, and a reconciler, how an engine is."""

from __future__ import annotations

import httpx
import pytest

from tests.conformance.conftest import FIXED, Target

pytestmark = pytest.mark.model


def test_health_is_open_and_says_ready(target: Target) -> None:
    response = httpx.get(f"{target.url}/health", trust_env=False)
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("metric", "grows_by"),
    [
        ("vllm:prompt_tokens_total", lambda usage: usage["prompt_tokens"]),
        ("vllm:generation_tokens_total", lambda usage: usage["completion_tokens"]),
        ("vllm:request_success_total", lambda usage: 1),
        ("vllm:time_to_first_token_seconds_count", lambda usage: 1),
        ("vllm:inter_token_latency_seconds_count", lambda usage: usage["completion_tokens"] - 1),
        ("vllm:e2e_request_latency_seconds_count", lambda usage: 1),
    ],
)
def test_what_is_counted(target: Target, metric: str, grows_by) -> None:
    before = target.metric(metric)
    usage = target.whole(**FIXED)["usage"]
    assert target.metric(metric) - before == grows_by(usage)


@pytest.mark.parametrize(
    "metric", ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"]
)
def test_what_is_measured_is_there_and_zero_at_rest(target: Target, metric: str) -> None:
    target.whole(**FIXED)
    assert f"\n{metric}{{" in target.http.get("/metrics").text
    assert 0 <= target.metric(metric) < 0.5
