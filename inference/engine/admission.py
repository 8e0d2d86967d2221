"""Who may come in: a request is checked against the model and what is open, then its answers are queued."""

from __future__ import annotations

import asyncio

from inference.engine.completions import Completion, Deadlines
from inference.engine.errors import InvalidRequest, Overloaded
from inference.engine.metrics import Metrics
from inference.engine.options import Options
from inference.engine.protocol import ChatRequest
from inference.engine.served import ServedVersion
from inference.engine.versions import Versions

LONG_BODY = 4096  # characters of messages above which tokenizing leaves the event loop


class Admission:
    """Lets requests in while there is room. All bounds are refused before the first byte of an answer."""

    def __init__(self, versions: Versions, metrics: Metrics, options: Options) -> None:
        self._versions = versions
        self._metrics = metrics
        self._options = options
        self._open: set[Completion] = set()

    async def admit(self, request: ChatRequest) -> Completion:
        """Queue the answers of a request. Raises EngineError: NotFound, InvalidRequest, Overloaded."""
        base = self._versions.base
        version = self._versions.get(request.model)
        length = sum(len(message.text()) for message in request.messages)
        if length > LONG_BODY:
            prompt = await asyncio.to_thread(base.chat.encode, request.messages)
            version = self._versions.get(request.model)  # it may have been unloaded meanwhile
        else:
            prompt = base.chat.encode(request.messages)
        room = base.memory.max_model_len - len(prompt)
        wanted = request.wanted_tokens
        if room < (wanted or 1):
            raise InvalidRequest(
                f"the prompt has {len(prompt)} tokens and max_tokens is {wanted or 'not given'}; together at "
                f"most {base.memory.max_model_len} fit: shorten the messages or lower max_tokens",
                code="context_length_exceeded",
                param="messages",
            )
        max_tokens = wanted or min(room, self._options.default_max_tokens)
        self._refuse_too_many(version, choices=request.n or 1, tokens=len(prompt) + max_tokens)
        answer = Completion(
            request, version, prompt, max_tokens,
            decode=base.chat.decode, metrics=self._metrics, deadlines=Deadlines.of(self._options),
            on_close=self._open.discard,
        )  # fmt: skip
        self._open.add(answer)
        return answer

    def _refuse_too_many(self, version: ServedVersion, *, choices: int, tokens: int) -> None:
        """Raise Overloaded when `choices` answers of so many tokens each would be more than may be open."""
        options = self._options
        if len(self._open) >= options.max_open:
            raise Overloaded(f"{len(self._open)} requests are open already: try again in a second")
        must_wait = max(0, choices - version.lane.free_places(tokens))
        if not must_wait:
            return
        waiting, waiting_tokens = self._versions.waiting(), self._versions.waiting_tokens()
        if waiting + must_wait > options.max_waiting:
            raise Overloaded(f"{waiting} answers are waiting already: try again in a second")
        if waiting_tokens + must_wait * tokens > options.max_waiting_tokens:
            raise Overloaded(
                f"the answers that are waiting have {waiting_tokens} tokens already: try again in a second, "
                "or ask for less"
            )
