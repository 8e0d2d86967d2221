"""The only caller of load and unload: makes the engines hold what should be held, and shows drift.

Whoever wants a version loaded first writes that into the database (a deployment, or `is_candidate`), then
loads; an unload looks there again, after it saw what the engine holds. With the one lease around both, no
unload can meet a load half way.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from django.conf import settings
from django.utils import timezone

from inference.artifact import ArtifactError, verify
from inference.client import EngineClient, EngineError, EngineSilent, EngineUnavailable, ModelCard
from inference.models import Completion, Deployment, Replica, Version
from inference.services.engines import engine_clients
from inference.services.leases import acquire_lease, release_lease, renew_lease
from inference.services.versions import wanted_besides
from projects.errors import Conflict, Unavailable

logger = logging.getLogger(__name__)

LEASE = "reconciler"
LEASE_SECONDS = 30.0
LEASE_WAIT_SECONDS = 60.0  # a promotion waits this long for a reconciler that is loading
LOAD_SECONDS = 300.0
SILENT_SECONDS = 15.0  # an engine that says nothing for so long while it loads is frozen
PULSE_SECONDS = 1.0
UNLOAD_SECONDS = 10.0
LOOK_SECONDS = 3.0  # with a bell every 5 s, whatever an engine does is written down within 10 s
MAX_MERGE_ERROR = 0.5  # of the size of the update: above it the weights are not the ones that were trained
PROBES = ("What is the capital of France?", "Say hello.")
PROBE_SAMPLING = {"temperature": 0.0, "max_tokens": 16}
# Names that we give, and therefore may take away; whatever else an engine serves is not ours.
OUR_NAME = re.compile(r"^[-a-zA-Z0-9_]+-v[0-9]+$")

T = TypeVar("T")


class PromotionRefused(Conflict):
    """The version cannot serve; the message says why. The champion is as it was."""

    code = "promotion_refused"


def reconcile() -> list[Replica]:
    """Look at every engine, write down what was seen, and mend what is missing or too much.

    All engines are looked at and mended at the same time, so that a frozen one holds up none. When another
    reconciler or a promotion is at work this one only looks.
    """
    holder = acquire_lease(name=LEASE, seconds=LEASE_SECONDS)
    try:
        seen = _look_at_all()
        wanted = desired_versions()  # after the look at the engines: see the top of this file
        for look in seen:
            _note(look, wanted)
        if holder is not None:
            Replica.objects.exclude(url__in=settings.ENGINE_URLS).delete()
            _mend(seen, wanted, holder)
    finally:
        if holder is not None:
            release_lease(name=LEASE, holder=holder)
    return list(Replica.objects.all())


def load_on_all(version: Version) -> float:
    """Load a version on every healthy engine under its own name, and return the milliseconds that it took.

    An engine that holds it with this digest already is left alone. Raises PromotionRefused when the files
    are damaged or an engine refuses them, Unavailable when no engine is healthy. Say in the database that the
    version is wanted before calling this, else the next reconciliation takes it away again.
    """
    if version.kind == Version.Kind.BASE:
        return 0.0
    check_files(version)
    with _lease() as holder:
        return _load(version, holder)


@contextmanager
def brought_up(version: Version) -> Iterator[float]:
    """Load and probe a version on every healthy engine, and keep it there while the block makes it serve.

    Enters with the milliseconds that the load took. The lease is held from before the load until after the
    block, so nobody takes the version away in between; and where this process dies on the way, the next
    reconciliation after the lease has lapsed does. Raises PromotionRefused, Unavailable.
    """
    if version.kind != Version.Kind.BASE:
        check_files(version)
    with _lease() as holder:
        load_ms = _load(version, holder) if version.kind != Version.Kind.BASE else 0.0
        _probe(version, holder)
        if not renew_lease(name=LEASE, holder=holder, seconds=LEASE_SECONDS):
            raise Unavailable("It took too long, and another took over. Try again.", code="loading")
        yield load_ms


def _load(version: Version, holder: uuid.UUID) -> float:
    began = time.monotonic()
    healthy = _healthy()
    wanted = {**desired_versions(), version.engine_name: version}
    try:
        _each([_load_job(client, cards, version) for client, cards in healthy], holder)
        for client, _ in healthy:
            _note(_look_at(client), wanted)
    except EngineError as error:
        raise Unavailable(f"{error.message}. Try again.", code="engine_unavailable") from error
    return (time.monotonic() - began) * 1000


def _probe(version: Version, holder: uuid.UUID) -> None:
    """Ask each healthy engine something under the version's name. Raises PromotionRefused, Unavailable."""
    healthy = _healthy()
    for client, cards in healthy:
        card = cards.get(version.engine_name)
        if card is None:
            raise PromotionRefused(f"{client.url} does not hold {version.label}.")
        if not _fits(card, version):
            raise PromotionRefused(
                f"{client.url} holds {card.digest} as {version.label}, expected {version.digest}."
            )
        if not _is_exact(card):
            raise PromotionRefused(
                f"{version.label} merged into {card.dtype} loses {card.merge_error:.0%} of its update."
            )
        if card.logit_shift == 0:
            raise PromotionRefused(
                f"{version.label} changes nothing: its logits are those of the base model."
            )
    name, label = version.engine_name, version.label
    _each([partial(_ask_probes, client, name, label) for client, _ in healthy], holder)


def _ask_probes(client: EngineClient, name: str, label: str) -> None:
    """Runs in a thread and touches no database. Raises PromotionRefused."""
    texts = []
    try:
        for question in PROBES:
            answer = client.complete(
                model=name,
                messages=[{"role": "user", "content": question}],
                sampling=PROBE_SAMPLING,
                timeout=settings.FIRST_TOKEN_SECONDS,
            )
            texts.append(answer.text)
    except EngineError as error:
        raise PromotionRefused(f"{label} does not answer: {error.message}.") from error
    if not any(text.strip() for text in texts):
        raise PromotionRefused(f"{label} answers nothing to the probes.")


def is_held(version: Version) -> bool:
    """True when an engine that can be reached holds the version, with its digest."""
    return any(_fits(cards.get(version.engine_name), version) for _, cards in _healthy())


def check_files(version: Version) -> None:
    """Every file against the manifest. Notes damage on the version, and its mend. Raises PromotionRefused."""
    if version.status == Version.Status.ERASED:
        raise PromotionRefused(f"{version.label} was erased.")
    try:
        verify(version.folder, expected_digest=version.digest, servable=True)
    except ArtifactError as error:
        _set_status(version, Version.Status.DAMAGED)
        raise PromotionRefused(f"The files of {version.label} are damaged: {error}.") from error
    _set_status(version, Version.Status.AVAILABLE)


def _serving() -> list[Deployment]:
    """The current deployment of each project."""
    newest = Deployment.objects.order_by("project", "-number")
    current: dict[uuid.UUID, Deployment] = {}
    for deployment in newest.only("project", "champion", "canary", "previous"):
        current.setdefault(deployment.project_id, deployment)
    return list(current.values())


def _champions() -> list[Version]:
    ids = [deployment.champion_id for deployment in _serving()]
    return list(Version.objects.select_related("project").filter(id__in=ids))


def desired_versions() -> dict[str, Version]:
    """Engine name -> version that every engine should hold, over all projects; adapters only."""
    ids: set[uuid.UUID] = set()
    for deployment in _serving():
        ids |= {id_ for id_ in (deployment.champion_id, deployment.canary_id, deployment.previous_id) if id_}
    wanted = Version.objects.select_related("project").filter(kind=Version.Kind.ADAPTER)
    chosen = wanted.filter(id__in=ids) | wanted.filter(wanted_besides())
    return {version.engine_name: version for version in chosen}


@dataclass(frozen=True)
class Look:
    """What one engine holds; `trouble` is why it could not be asked."""

    client: EngineClient
    cards: dict[str, ModelCard]
    trouble: str = ""


def _look_at_all() -> list[Look]:
    clients = engine_clients()
    with ThreadPoolExecutor(max_workers=max(1, len(clients))) as threads:
        return list(threads.map(_look_at, clients))


def _look_at(client: EngineClient) -> Look:
    if not client.is_healthy(timeout=LOOK_SECONDS):
        return Look(client, {}, "does not answer")
    try:
        return Look(client, client.models(timeout=LOOK_SECONDS))
    except EngineError as error:
        return Look(client, {}, error.message)


def _mend(seen: list[Look], wanted: dict[str, Version], holder: uuid.UUID) -> None:
    """On each engine: unload what nobody wants, then load what is missing, so that there is room for it."""
    champions = {version.engine_name for version in _champions()}
    refused: dict[str, str] = {}  # of versions whose files are damaged
    jobs: list[Callable[[], list[str]]] = []
    mended: list[EngineClient] = []
    for look in (look for look in seen if not look.trouble):
        going = list(_superfluous(look.cards, wanted))
        cards = {name: card for name, card in look.cards.items() if name not in going}
        steps: list[Callable[[], None]] = [partial(_unload, look.client, name) for name in going]
        for name, version in wanted.items():
            card = cards.get(name)
            if card is not None and _fits(card, version):
                if card.is_pinned not in (None, name in champions):
                    steps.append(_pin_job(look.client, version, name in champions))
                continue
            try:
                if name not in refused:
                    check_files(version)
                    logger.info("loading %s on %s", name, look.client.url)
                    steps.append(_load_job(look.client, cards, version))
            except PromotionRefused as error:
                refused[name] = error.message
        lacks = [refused[name] for name in wanted if name in refused and name not in cards]
        if steps or lacks:
            jobs.append(partial(_take, steps, lacks))
            mended.append(look.client)
    for client, messages in zip(mended, _each(jobs, holder), strict=True):
        _note(_look_at(client), wanted, message=" ".join(messages))


def _take(steps: Sequence[Callable[[], None]], messages: list[str]) -> list[str]:
    """One engine's steps, one after the other, in a thread without database. Returns what went wrong."""
    messages = list(messages)
    for step in steps:
        try:
            step()
        except PromotionRefused as error:
            messages.append(error.message)
        except EngineError as error:
            messages.append(error.message)
            break  # it is away; the next round looks again
    return messages


def _unload(client: EngineClient, name: str) -> None:
    logger.info("unloading %s from %s", name, client.url)
    try:
        client.unload(name, timeout=UNLOAD_SECONDS)
    except EngineError as error:  # it goes on draining there; the next round looks again
        logger.info("%s is not gone yet from %s: %s", name, client.url, error.message)


def _superfluous(cards: dict[str, ModelCard], wanted: dict[str, Version]) -> Iterator[str]:
    for name, card in cards.items():
        if card.is_base or not OUR_NAME.match(name) or name == settings.ENGINE_SERVED_NAME:
            continue
        if name in wanted and _fits(card, wanted[name]):
            continue
        if not _is_busy(card):
            yield name


def _is_busy(card: ModelCard) -> bool:
    """A request that began on a version ends on it. Our engine counts them; of vLLM we know from our rows."""
    if card.in_flight is not None:
        return card.in_flight > 0
    slug, _, number = card.name.rpartition("-v")
    running = Completion.objects.filter(state=Completion.State.RUNNING)
    return running.filter(version__project__slug=slug, version__number=int(number)).exists()


def _load_job(client: EngineClient, cards: dict[str, ModelCard], version: Version) -> Callable[[], None]:
    """Loads the version where it is missing. The job itself runs in a thread and touches no database."""
    name, label, folder = version.engine_name, version.label, str(version.folder)
    is_there, is_another = _fits(cards.get(name), version), name in cards

    def load() -> None:
        if is_there:
            return
        try:
            if is_another:  # under our name: of a project of the same slug, long gone
                client.unload(name, timeout=LOAD_SECONDS)
            _while_alive(client, partial(client.load, name, folder, timeout=LOAD_SECONDS))
        except EngineUnavailable:
            raise
        except EngineError as error:
            raise PromotionRefused(f"{client.url} refuses {label}: {error.message}.") from error

    return load


def _while_alive(client: EngineClient, work: Callable[[], None]) -> None:
    """Do something long at an engine, for as long as it answers /health. Raises EngineSilent.

    The thread that waits for a frozen engine is left behind; it ends with the time limit of its request.
    """
    ending: Future[None] = Future()

    def run() -> None:
        try:
            work()
            ending.set_result(None)
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            ending.set_exception(error)

    threading.Thread(target=run, name=f"at {client.url}", daemon=True).start()
    heard = time.monotonic()
    while not wait([ending], timeout=PULSE_SECONDS).done:
        if client.is_alive(timeout=LOOK_SECONDS):
            heard = time.monotonic()
        elif time.monotonic() - heard > SILENT_SECONDS:
            raise EngineSilent(f"{client.url} fell silent while it was loading; nothing was changed")
    ending.result()


def _pin_job(client: EngineClient, version: Version, pinned: bool) -> Callable[[], None]:
    """Our engine makes room by unloading, and cannot know who is champion. Loading again only says so."""
    name, folder = version.engine_name, str(version.folder)
    return partial(client.load, name, folder, pinned=pinned, timeout=LOAD_SECONDS)


def _fits(card: ModelCard | None, version: Version) -> bool:
    """The name is there, with our digest. vLLM knows no digests, but says where it loaded from, which is as
    good: no other version ever lies there. Of a base that is not among our files the name is all there is.
    """
    if card is None:
        return False
    if card.digest is not None and version.digest.startswith("sha256:"):
        return card.digest == version.digest
    return version.kind == Version.Kind.BASE or card.root in (None, str(version.folder))


def _is_exact(card: ModelCard) -> bool:
    return card.merge_error is None or card.dtype == "float32" or card.merge_error <= MAX_MERGE_ERROR


def _healthy() -> list[tuple[EngineClient, dict[str, ModelCard]]]:
    """The engines that answer, and what they hold. Raises Unavailable when there is none."""
    seen = _look_at_all()
    for look in seen:
        if look.trouble:
            logger.warning("%s: %s", look.client.url, look.trouble)
    found = [(look.client, look.cards) for look in seen if not look.trouble]
    if not found:
        raise Unavailable(
            "No engine answers. Start it, or see that ENGINE_URLS is right.", code="engine_unavailable"
        )
    return found


@contextmanager
def _lease() -> Iterator[uuid.UUID]:
    deadline = time.monotonic() + LEASE_WAIT_SECONDS
    while (holder := acquire_lease(name=LEASE, seconds=LEASE_SECONDS)) is None:
        if time.monotonic() > deadline:
            raise Unavailable("Another version is being loaded. Try again in a moment.", code="loading")
        time.sleep(0.05)
    try:
        yield holder
    finally:
        release_lease(name=LEASE, holder=holder)


def _each(jobs: list[Callable[[], T]], holder: uuid.UUID) -> list[T]:
    """Run the jobs at the same time, in threads without database, and keep the lease alive meanwhile."""
    with ThreadPoolExecutor(max_workers=max(1, len(jobs))) as threads:
        pending = {threads.submit(job) for job in jobs}
        futures = list(pending)
        while pending:
            _, pending = wait(pending, timeout=LEASE_SECONDS / 4)
            renew_lease(name=LEASE, holder=holder, seconds=LEASE_SECONDS)
    return [future.result() for future in futures]


def _note(look: Look, wanted: dict[str, Version], message: str = "") -> None:
    """Write down what an engine holds now."""
    values: dict[str, object] = {"is_healthy": not look.trouble, "checked": timezone.now()}
    values["message"] = (look.trouble or message)[:300]
    if not look.trouble:
        values["loaded"] = {name: card.digest or "" for name, card in look.cards.items()}
        values["missing"] = sorted(
            name for name, version in wanted.items() if not _fits(look.cards.get(name), version)
        )
    Replica.objects.update_or_create(url=look.client.url, defaults=values)


def _set_status(version: Version, status: str) -> None:
    if version.status != status:
        version.status = status
        version.save(update_fields=["status"])
