"""What the engine counts, under vLLM's names where vLLM counts the same."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """One registry an engine. Labels that name a version are dropped when it is unloaded."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        one, two = ["model_name"], ["model_name", "finished_reason"]
        registry = self._registry
        self.running = Gauge("vllm:num_requests_running", "Answers being made", one, registry=registry)
        self.waiting = Gauge("vllm:num_requests_waiting", "Answers that wait", one, registry=registry)
        self.cache = Gauge("vllm:kv_cache_usage_perc", "Share of the cache in use", one, registry=registry)
        self.prompt_tokens = Counter("vllm:prompt_tokens", "Tokens read", one, registry=registry)
        self.generation_tokens = Counter("vllm:generation_tokens", "Tokens made", one, registry=registry)
        self.success = Counter("vllm:request_success", "Answers finished", two, registry=registry)
        self.first_token = Histogram(
            "vllm:time_to_first_token_seconds", "From admission", one, buckets=SECONDS, registry=registry
        )
        self.between_tokens = Histogram(
            "vllm:inter_token_latency_seconds", "Between two tokens", one, buckets=SECONDS, registry=registry
        )
        self.whole = Histogram(
            "vllm:e2e_request_latency_seconds", "Of a whole answer", one, buckets=SECONDS, registry=registry
        )
        self.refused = Counter(
            "ratchet_engine_refused", "Requests refused, by code", ["code"], registry=registry
        )
        self.cancelled = Counter(
            "ratchet_engine_cancelled", "Answers given up unfinished", one, registry=registry
        )
        self.restarts = Counter(
            "ratchet_engine_restarts", "Generation threads that died", one, registry=registry
        )
        self.evicted = Counter(
            "ratchet_engine_evicted", "Versions unloaded to make room for another", registry=registry
        )
        self.load_seconds = Histogram("ratchet_engine_load_seconds", "Loading an adapter", registry=registry)

    def forget(self, name: str) -> None:
        """Drop the series of a version that is gone."""
        by_name = (self.running, self.waiting, self.cache, self.prompt_tokens, self.generation_tokens)
        timings = (self.first_token, self.between_tokens, self.whole)
        for metric in (*by_name, *timings, self.success, self.cancelled, self.restarts):
            metric.remove_by_labels({"model_name": name})

    def exposition(self) -> bytes:
        return generate_latest(self._registry)
