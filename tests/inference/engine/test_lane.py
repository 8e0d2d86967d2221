"""The batch is invisible: an answer is what the model alone would say; and a thread that dies is replaced."""

import asyncio
import contextlib
from collections import defaultdict

import pytest
import torch

from inference.engine import attention, decoding
from inference.engine.lane import Event, Generation, Lane
from inference.engine.manager import Manager
from inference.engine.packed import can_pack
from inference.engine.sampling import Sampling
from inference.engine.turns import Turns
from inference.engine.weights import Weights

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def weights(tiny):
    return Weights(tiny, dtype=torch.float32, device=torch.device("cpu"))


def open_lane(weights, **changes):
    settings = {"eos": [2], "cache_tokens": 2048, "max_running": 8, "threads": 1, "turns": Turns(1)}
    return Lane(weights.base.model, loop=asyncio.get_running_loop(), **{**settings, **changes})


@contextlib.asynccontextmanager
async def lane_of(weights, **changes):
    lane = open_lane(weights, **changes)
    try:
        yield lane
    finally:
        await lane.stop()


def greedy(prompts, length, events):
    how = Sampling(temperature=0.0, top_p=1.0, top_k=64, key=0)
    return [Generation(index, prompt, how, length, False, events) for index, prompt in enumerate(prompts)]


async def collect(events, count):
    """Tokens by choice, and the errors, once `count` answers have ended."""
    tokens: dict[int, list[int]] = defaultdict(list)
    errors: dict[int, str] = {}
    while count:
        event = await asyncio.wait_for(events.get(), 30)
        tokens[event.choice] += event.tokens
        if event.error:
            errors[event.choice] = event.error
        count -= bool(event.finish or event.error)
    return tokens, errors


def test_a_step_without_python_makes_the_same_tokens(tiny, monkeypatch):
    """On a CPU that multiplies bf16: requests of several size classes."""
    if not can_pack(torch.device("cpu"), torch.bfloat16):
        pytest.skip("this processor has no fast bf16")
    weights = Weights(tiny, dtype=torch.bfloat16, device=torch.device("cpu"))
    prompts = [[(place * 7 + size) % 380 + 3 for place in range(size)] for size in (1, 9, 150, 20, 300, 31)]
    steps = 0

    async def answers():
        async with lane_of(weights) as lane:
            events: asyncio.Queue[Event] = asyncio.Queue()
            lane.submit(greedy(prompts, 20, events))
            tokens, errors = await collect(events, len(prompts))
            assert errors == {}
            return tokens

    def counted(*arguments):
        nonlocal steps
        steps += 1
        return decode(*arguments)

    decode = decoding._decode
    monkeypatch.setattr(decoding, "_decode", counted)
    fast = asyncio.run(answers())
    assert steps > 15
    monkeypatch.setattr(decoding, "fits", lambda model: False)
    assert asyncio.run(answers()) == fast


def test_a_crowd_gets_what_each_would_get_alone(weights):
    """Prompts of many lengths at once, some longer than one step reads: `generate` says the same."""
    prompts = [
        [(place * 7 + length) % 380 + 3 for place in range(length)] for length in (1, 2, 9, 40, 150, 300)
    ]

    async def crowd():
        async with lane_of(weights) as lane:
            events: asyncio.Queue[Event] = asyncio.Queue()
            lane.submit(greedy(prompts, 20, events))
            return await collect(events, len(prompts))

    tokens, errors = asyncio.run(crowd())
    assert errors == {}
    for index, prompt in enumerate(prompts):
        alone = weights.base.model.generate(
            torch.tensor([prompt]), max_new_tokens=20, min_new_tokens=20, do_sample=False, eos_token_id=None
        )
        assert tokens[index] == alone[0, len(prompt) :].tolist()


def test_a_crowd_that_grows_meets_few_shapes():
    """Each new shape of a matrix is compiled, in the middle of a step."""
    views = attention.Views({}, heads=1, stride=8192, page=4096)
    shapes = set()
    for keys in range(68, 97):
        (some,) = attention.make_plan(
            [(1, keys - row) for row in range(4)], torch.arange(4 * keys), torch.float32, views
        ).decoding
        shapes.add(some.mask.shape)
        assert (some.mask[:, 0] == 0).sum(1).tolist() == [keys - row for row in range(4)]
    assert len(shapes) == 2


def test_what_does_not_fit_the_cache_waits(weights):
    """Six answers that need 128 tokens each in a cache of 256: two run, the others follow in order."""

    async def crowd():
        async with lane_of(weights, cache_tokens=256) as lane:
            events: asyncio.Queue[Event] = asyncio.Queue()
            lane.submit(greedy([[5] * 100] * 6, 20, events))
            assert (lane.running, lane.waiting) == (2, 4)
            tokens, errors = await collect(events, 6)
            assert (lane.running, lane.waiting, lane.cache_usage) == (0, 0, 0)
            return tokens, errors

    tokens, errors = asyncio.run(crowd())
    assert errors == {}
    assert len({tuple(found) for found in tokens.values()}) == 1


def test_a_thread_that_dies_is_replaced(weights):
    """The running answer fails with a cause; the other, which had no room yet, is made by the next."""

    async def die():
        async with lane_of(weights, max_running=2, cache_tokens=448) as lane:
            events: asyncio.Queue[Event] = asyncio.Queue()
            lane.submit(greedy([[5, 6, 7]] * 2, 400, events))
            await events.get()
            # What a lane never lets through, and what kills the thread: a token beyond the vocabulary.
            lane._manager.add_request([10**6], request_id="killer", max_new_tokens=1)
            _, errors = await collect(events, 1)
            assert "IndexError" in errors[0]
            while lane.is_alive:
                await asyncio.sleep(0.01)
            lane.restart()
            assert lane.is_alive
            tokens, errors = await collect(events, 1)
            return tokens.get(1), errors, lane.restarts

    tokens, errors, restarts = asyncio.run(die())
    assert errors == {}
    assert len(tokens) == 400
    assert restarts == 1


def test_an_idle_lane_stops_at_once(weights):
    async def stop():
        async with lane_of(weights) as lane:
            thread = lane._manager._generation_thread
            await lane.drained()
        return thread

    assert not asyncio.run(stop()).is_alive()


def test_a_step_touches_what_it_needs_and_not_the_whole_cache(weights, monkeypatch):
    """By the memory that torch takes: an operation that first copies all of its source shows here."""
    steps: list[list[int]] = []  # bytes of each piece of memory that a step took
    real = Manager._generation_step

    def watched(self):
        with torch.profiler.profile(profile_memory=True) as seen:
            real(self)
        steps.append([event.nbytes() for event in memory_of(seen) if event.nbytes() > 0])

    monkeypatch.setattr(Manager, "_generation_step", watched)

    async def main(count):
        steps.clear()
        events: asyncio.Queue[Event] = asyncio.Queue()
        async with lane_of(weights, cache_tokens=100_000) as lane:
            lane.submit(greedy([[5, 6, 7, 8 + choice] for choice in range(count)], 4, events))
            _, errors = await collect(events, count)
        assert not errors
        return steps[-2:]  # every answer is in it, with one token a step

    # Bytes of one layer's keys of one head.
    a_head = 100_000 * weights.config.head_dim * 4
    for count in (1, 8):  # both ways of attention
        for taken in asyncio.run(main(count)):
            assert taken, "the profiler saw nothing"
            assert max(taken) < a_head / 20
            assert sum(taken) < 400_000 * count


def memory_of(seen):
    return [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
