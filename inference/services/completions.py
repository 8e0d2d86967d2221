"""Completions: written before their first token, finished once, and never changed after."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from inference.client import (
    Answer,
    EngineBusy,
    EngineError,
    EngineRefused,
    EngineUnavailable,
    ModelMissing,
)
from inference.models import Completion, Prompt, Version
from inference.services.engines import (
    EngineChoice,
    answering,
    client_of,
    engines_for,
    in_order,
    none_of,
    worst_of,
)
from projects.errors import Invalid, Problem, TooMany, Unavailable
from projects.models import ApiKey, Project
from projects.offload import lightly_committed

MAX_TEXT = 200_000  # characters
# How often the process that makes an answer says that it lives, and when it is taken for dead.
TOUCH_SECONDS = 5.0
REAP_SECONDS = 30.0
READ_SECONDS = 5.0  # a row's reader comes every second
FINISH_REASONS = ("stop", "length")


def start_completion(
    *,
    project: Project,
    prompt: Prompt,
    version: Version,
    sampling: dict[str, Any],
    index: int = 0,
    subject: str = "",
    api_key: ApiKey | None = None,
    opted_out: bool = False,
    id: uuid.UUID | None = None,  # noqa: A002 - the column's name
) -> Completion:
    """A running completion. `id` is for a caller that named it before it was written."""
    completion = Completion(
        project=project,
        prompt=prompt,
        version=version,
        version_label=f"{project.slug}@v{version.number}",
        digest=version.digest,
        index=index,
        sampling=sampling,
        subject=subject,
        api_key=api_key,
        opted_out=opted_out,
    )
    if id is not None:
        completion.id = id
    completion.save(force_insert=True)
    return completion


def finish_completion(
    *,
    completion: Completion,
    state: str,
    text: str,
    finish_reason: str,
    error: str = "",
    tokens_in: int | None = None,
    tokens_out: int | None = None,
    ttft_ms: float | None = None,
    gap_mean_ms: float | None = None,
    gap_p99_ms: float | None = None,
    total_ms: float | None = None,
) -> bool:
    """Close a running completion. False when it is not running any more: the first end stands."""
    values: dict[str, Any] = {
        "state": state,
        "text": text,
        "finish_reason": finish_reason,
        "error": error[:300],
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "ttft_ms": ttft_ms,
        "gap_mean_ms": gap_mean_ms,
        "gap_p99_ms": gap_p99_ms,
        "total_ms": total_ms,
        "finished": timezone.now(),
    }
    count = Completion.objects.filter(pk=completion.pk, state=Completion.State.RUNNING).update(**values)
    if count:
        for name, value in values.items():
            setattr(completion, name, value)
    return bool(count)


def record_completion(
    *,
    project: Project,
    prompt: Prompt,
    text: str,
    version_label: str,
    finish_reason: str = "stop",
    api_key: ApiKey | None = None,
    subject: str = "",
    sampling: dict[str, Any] | None = None,
    tokens_in: int | None = None,
    tokens_out: int | None = None,
    id: uuid.UUID | None = None,  # noqa: A002 - the column's name
) -> Completion:
    """An answer that was made elsewhere. Raises Invalid for an empty text or a label of our own versions."""
    if prompt.project_id != project.id:
        raise Invalid("The prompt is of another project.", param="prompt_id")
    if not text.strip() or len(text) > MAX_TEXT or "\x00" in text:
        raise Invalid(f"text must be 1 to {MAX_TEXT} characters, without NUL.", param="text")
    if not version_label.strip() or len(version_label) > 100:
        raise Invalid("version_label must be 1 to 100 characters.", param="version_label")
    if version_label.startswith(f"{project.slug}@"):
        raise Invalid(
            f"Labels that begin with {project.slug}@ are of versions that Ratchet serves. Choose another.",
            param="version_label",
        )
    completion = Completion(
        project=project,
        prompt=prompt,
        version_label=version_label,
        text=text,
        state=Completion.State.FINISHED,
        finish_reason=finish_reason,
        sampling=sampling or {},
        subject=subject,
        api_key=api_key,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        finished=timezone.now(),
    )
    if id is not None:
        completion.id = id
    completion.save(force_insert=True)
    return completion


def sample_completion(
    *, project: Project, prompt: Prompt, version: Version, sampling: dict[str, Any]
) -> Completion:
    """One answer made now, through the engine, on the weights that serve.

    Nothing is written when no engine gives it: raises Unavailable, TooMany or Invalid with the cause.
    """
    completion, error = next(
        sample_completions(project=project, prompts=[prompt], version=version, sampling=sampling)
    )
    if completion is None:
        raise problem_of(error or EngineUnavailable("no engine answered"), version)
    return completion


def sample_completions(
    *,
    project: Project,
    prompts: Sequence[Prompt],
    version: Version,
    sampling: dict[str, Any],
    concurrency: int = 16,
) -> Iterator[tuple[Completion | None, EngineError | None]]:
    """An answer to each prompt, as they are done: (completion, None), or (None, why it is missing).

    The engine batches what is asked at the same time. Its threads touch no database; rows are written here,
    by the caller's thread, and only for whole answers, so that a killed worker leaves none half made.
    """
    engine_name = version.engine_name  # here: it may read the project, which a thread must not
    engines = engines_for(engine_name)

    def ask(prompt: Prompt) -> Answer:
        return _complete(engines, engine_name, prompt.messages, sampling)

    with ThreadPoolExecutor(max_workers=max(1, min(concurrency, len(prompts)))) as threads:
        asked: dict[Future[Answer], Prompt] = {threads.submit(ask, prompt): prompt for prompt in prompts}
        try:
            for future in as_completed(asked):
                try:
                    answer = future.result()
                except EngineError as error:
                    yield None, error
                else:
                    yield _record_answer(project, asked[future], version, sampling, answer), None
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def touch_completions(texts: Mapping[uuid.UUID, str]) -> None:
    """A sign of life of the process that makes these answers, with what each says so far.

    So an answer whose process is killed is closed soon, with the text up to some seconds before.
    """
    now = timezone.now()
    with lightly_committed():
        for id_, text in texts.items():
            running = Completion.objects.filter(pk=id_, state=Completion.State.RUNNING)
            running.update(text=text, touched=now)


def ask_to_stop(completion: Completion) -> None:
    """Tell whichever process makes it to stop it. One that has ended stays as it is."""
    Completion.objects.filter(pk=completion.pk, state=Completion.State.RUNNING).update(stop_asked=True)


def read_on(completion_id: uuid.UUID) -> Completion:
    """The row of a running answer for somebody whom another process serves, which is noted in it."""
    with lightly_committed():
        running = Completion.objects.filter(pk=completion_id, state=Completion.State.RUNNING)
        running.update(read=timezone.now())
        return Completion.objects.get(pk=completion_id)


def is_read_elsewhere(completion_ids: Sequence[uuid.UUID]) -> bool:
    """Whether another process serves one of them to somebody."""
    since = timezone.now() - timedelta(seconds=READ_SECONDS)
    return Completion.objects.filter(pk__in=completion_ids, read__gt=since).exists()


def completions_to_stop() -> list[uuid.UUID]:
    """Those that run although somebody pressed stop, of all processes."""
    asked = Completion.objects.filter(state=Completion.State.RUNNING, stop_asked=True)
    return list(asked.values_list("id", flat=True))


def reap_completions() -> int:
    """Fail what runs on without a process that makes it, and keep its text. Returns how many."""
    limit = timezone.now() - timedelta(seconds=REAP_SECONDS)
    return Completion.objects.filter(state=Completion.State.RUNNING, touched__lt=limit).update(
        state=Completion.State.FAILED,
        error="The process that made this answer died.",
        finished=timezone.now(),
    )


def problem_of(error: EngineError, version: Version | None = None) -> Problem:
    """What an engine's error means to whoever asked us for an answer of `version`."""
    if isinstance(error, ModelMissing):
        if version is not None and version.status != Version.Status.AVAILABLE:
            # The reconciler looked at the files when it meant to load them: no engine will ever hold it so.
            is_erased = version.status == Version.Status.ERASED
            cause = "it was erased" if is_erased else "its files are damaged or gone"
            return Unavailable(
                f"No engine holds {version.label}, and none can load it: {cause}. "
                "Put the files back, or roll back to another version.",
                code="version_damaged",
            )
        return Unavailable(
            "The engine is still loading this version. Try again in a moment.", code="version_loading"
        )
    if isinstance(error, EngineRefused):
        if error.code == "context_length_exceeded" or "context length" in error.message:  # ours, vLLM
            return Problem(error.message, code="context_length_exceeded", param="messages")
        return Problem(error.message, code=error.code or "invalid_request", param=error.param)
    if isinstance(error, EngineBusy):
        return TooMany("All places at the engine are taken. Try again in a moment.", code="engine_busy")
    if isinstance(error, EngineUnavailable):
        return Unavailable("The engine does not answer. Try again in a moment.", code="engine_unavailable")
    return Unavailable(f"The answer broke off: {error.message}.", code="engine_failed")


def gap_numbers(gaps_ms: Iterable[float]) -> dict[str, float | None]:
    """Mean and 99th percentile (nearest rank) of the gaps between pieces of an answer."""
    ordered = sorted(gaps_ms)
    if not ordered:
        return {"gap_mean_ms": None, "gap_p99_ms": None}
    rank = max(0, math.ceil(0.99 * len(ordered)) - 1)
    return {"gap_mean_ms": sum(ordered) / len(ordered), "gap_p99_ms": ordered[rank]}


def _complete(
    engines: list[EngineChoice], engine_name: str, messages: list[dict[str, Any]], sampling: dict[str, Any]
) -> Answer:
    errors: list[EngineError] = []
    for url in in_order(engines):
        try:
            with answering(url) as breaker:
                answer = client_of(url).complete(
                    model=engine_name,
                    messages=messages,
                    sampling=sampling,
                    timeout=settings.ANSWER_SECONDS,
                    silence=max(settings.FIRST_TOKEN_SECONDS, settings.TOKEN_GAP_SECONDS),
                )
                breaker.succeeded()
                return answer
        except EngineError as error:
            if isinstance(error, EngineRefused) and not isinstance(error, ModelMissing):
                raise
            errors.append(error)
    raise worst_of(errors) if errors else none_of(engines)


def _record_answer(
    project: Project, prompt: Prompt, version: Version, sampling: dict[str, Any], answer: Answer
) -> Completion:
    return Completion.objects.create(
        project=project,
        prompt=prompt,
        version=version,
        version_label=f"{project.slug}@v{version.number}",
        digest=version.digest,
        text=answer.text,
        state=Completion.State.FINISHED,
        finish_reason=answer.finish_reason,
        sampling=sampling,
        tokens_in=answer.tokens_in,
        tokens_out=answer.tokens_out,
        ttft_ms=answer.ttft_ms,
        total_ms=answer.total_ms,
        **gap_numbers(answer.gaps_ms),
        finished=timezone.now(),
    )
