"""A generation thread that dies is noticed, said, and replaced, while the registry goes on."""

import asyncio
import contextlib
import json

import pytest

from inference.engine.errors import Unavailable
from inference.engine.metrics import Metrics
from inference.engine.options import Options

pytestmark = pytest.mark.model
BODY = {
    "model": "tiny",
    "max_tokens": 300,
    "ignore_eos": True,
    "messages": [{"role": "user", "content": "Hi"}],
}


def test_the_watch_replaces_a_dead_thread(tiny, tmp_path):
    """The stream that was running ends with an error frame, the next request is answered."""
    from inference.engine.completions import admit
    from inference.engine.protocol import ChatRequest, parse
    from inference.engine.versions import Versions

    options = Options(model=tiny, served_name="tiny", artifacts_dir=tmp_path, api_key="k", dtype="float32")

    async def scene() -> tuple[bytes, bytes]:
        metrics = Metrics()
        versions = Versions(options, metrics)
        request = parse(ChatRequest, json.dumps(BODY).encode())
        with pytest.raises(Unavailable):
            await admit(request, versions=versions, metrics=metrics, options=options)
        await versions.load_base()
        watching = asyncio.create_task(versions.watch())
        try:
            running = await admit(request, versions=versions, metrics=metrics, options=options)
            frames = running.frames()
            seen = [await anext(frames), await anext(frames)]
            # A request without its sampling, which nothing outside can send, kills the thread.
            versions.get("tiny").lane._manager.add_request([5], request_id="killer", max_new_tokens=1)
            seen += [frame async for frame in frames]
            async with asyncio.timeout(10):
                while versions.get("tiny").lane.restarts == 0 or not versions.is_ready:
                    await asyncio.sleep(0.01)
            following = await admit(request, versions=versions, metrics=metrics, options=options)
            whole = await following.whole()
            assert whole["usage"]["completion_tokens"] == 300
            return seen[-1], metrics.exposition()
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            await versions.stop()

    last, exposition = asyncio.run(scene())
    assert b'"code":"generation_failed"' in last
    assert b'ratchet_engine_restarts_total{model_name="tiny"} 1.0' in exposition
