"""The library's continuous-batching manager with our sampler, our attention, and turns at the cores.

All that we use of it without its promise is in this file, `attention.py` and `sampling.py`;
tests/inference/engine/test_library.py says when it moves.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager, OutputRouter
from transformers.generation.continuous_batching.requests import GenerationOutput, RequestState, RequestStatus

from inference.engine import attention, cuda, decoding
from inference.engine.sampling import Sampler

log = logging.getLogger("ratchet.engine")
PAGE = 32  # tokens
# Tokens of one step, on a CPU and on a GPU: a longer prompt is taken in pieces, so that it stalls nobody.
PREFILL = (128, 1024)


class Router(OutputRouter):
    """Carries what the thread makes to the event loop, a batch at a time.

    The library's own keeps the handlers of cancelled requests, and queues what nobody takes, for good.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, take: Any) -> None:
        super().__init__()
        self._loop = loop
        self._take = take

    def deliver(self, output: GenerationOutput) -> None:
        self.deliver_batch([output])

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, outputs)

    def fail_and_deliver(self, state: RequestState, error: Exception) -> None:
        state.status = RequestStatus.FAILED
        state.error = f"{type(error).__name__}: {error}"
        self.deliver(state.to_generation_output())


class Manager(ContinuousBatchingManager):
    """The library's manager with our sampler, our router, and turns at the cores."""

    def __init__(
        self,
        model: Any,
        *,
        eos: list[int],
        pages: int,
        max_running: int,
        threads: int,
        turns: AbstractContextManager[Any],
        router: OutputRouter,
    ) -> None:
        self._has_graphs = cuda.fits(model.config, model.device, model.dtype)
        graphs = cuda.graph_config() if self._has_graphs else {"use_cuda_graph": False}
        super().__init__(
            model=model,
            # Greedy, because the sampler has already chosen when the library takes its argmax.
            generation_config=GenerationConfig(do_sample=False, eos_token_id=eos, max_new_tokens=1),
            continuous_batching_config=ContinuousBatchingConfig(
                num_blocks=pages,
                page_size=PAGE,
                max_batch_tokens=max(PREFILL[model.device.type == "cuda"], max_running),
                max_requests_per_batch=max_running,
                # Shared prefixes change the shapes of a prefill, and with them the bits of its logits: an
                # answer would depend on what was asked before it.
                allow_block_sharing=False,
                safety_margin=0.0,  # a lane never admits more than the cache holds
                auto_switch_to_flash=False,  # it would ask a hub for its kernels
                **graphs,
            ),
        )
        self.logit_processor = Sampler()
        self.output_router = router
        self.stepping_since: float | None = None
        self._views: attention.Views | None = None
        self._stepper = decoding.Stepper(model) if decoding.fits(model) else None
        self._torch_threads = threads
        self._max_running = max_running
        self._turns = turns

    def _run_generation_loop(self) -> None:
        torch.set_num_threads(self._torch_threads)  # a setting of each thread
        if self._has_graphs:
            torch.cuda.set_device(self.model.device)
            self.batch_processor = self._create_batch_processor()
            cuda.prepare(self.batch_processor.model_runner, self.model, self._max_running, PAGE)
        super()._run_generation_loop()

    def switch_to_cb_friendly_attn(self, model: Any, auto_switch_to_flash: bool = True) -> None:
        """Our attention where it is the faster one, else the library's choice."""
        self._plans = attention.fits(model.config, model.device)
        if self._plans:
            model.set_attn_implementation(attention.NAME)
        elif self._has_graphs:
            model.set_attn_implementation(cuda.NAME)
        else:
            super().switch_to_cb_friendly_attn(model, auto_switch_to_flash)

    def _generation_step(self) -> None:
        self.stepping_since = time.monotonic()
        with self._turns:
            if self._plans:
                attention.set_plan(self._plan_step())
            with torch.inference_mode(self._plans):  # a twentieth of a step on a CPU
                if self._plans and self._stepper is not None and self.batch_processor is not None:
                    self.batch_processor._generation_step(cast(Any, self._stepper))
                else:
                    super()._generation_step()
        self.stepping_since = None

    def _plan_step(self) -> attention.Plan:
        """Lengths and places of the batch that was just prepared."""
        processor: Any = self.batch_processor
        step = processor.inputs_and_outputs
        lengths = [(future.query_length, future.state.position_offset) for future in step.requests_in_batch]
        if self._views is None:
            self._views = attention.views_of(processor.cache)
        return attention.make_plan(lengths, step.read_index_storage[0], self.model.dtype, self._views)

    def stop_hard(self, *, timeout: float) -> None:
        """Stop without finishing anything. Harmless when the thread is dead."""
        thread: threading.Thread | None = self._generation_thread
        if thread is None:
            return
        began = time.monotonic()
        self.stop(block=True, timeout=timeout, hard_stop=True)
        if thread.is_alive():
            log.error("a generation thread did not stop within %.0f s", time.monotonic() - began)
