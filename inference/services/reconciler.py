"""The only caller of load and unload: makes the engines hold what should be held, and shows drift.

Whoever wants a version loaded first writes that into the database (a deployment, or `is_candidate`), then
loads; an unload looks there again, after it saw what the engine holds. With the one lease around both, no
unload can meet a load half way.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from django.conf import settings
from django.utils import timezone

from inference.artifact import ArtifactError, verify
from inference.client import EngineClient, EngineError, EngineUnavailable, ModelCard
from inference.models import Completion, Deployment, Replica, Version
from inference.services.engines import engine_clients
from inference.services.leases import acquire_lease, release_lease, renew_lease
from projects.errors import Conflict, Unavailable

logger = logging.getLogger(__name__)

LEASE = "reconciler"
LEASE_SECONDS = 30.0
LEASE_WAIT_SECONDS = 60.0  # a promotion waits this long for a reconciler that is loading
LOAD_SECONDS = 300.0
UNLOAD_SECONDS = 10.0
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
    """Compare each engine with what it should hold, mend it, and write down what was seen.

    Returns at once, with the rows as they are, when another reconciler or a promotion is at work.
    """
    holder = acquire_lease(name=LEASE, seconds=LEASE_SECONDS)
    if holder is not None:
        try:
            for client in engine_clients():
                renew_lease(name=LEASE, holder=holder, seconds=LEASE_SECONDS)
                _mend(client, holder)
            Replica.objects.exclude(url__in=settings.ENGINE_URLS).delete()
        finally:
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
    began = time.monotonic()
    with _lease() as holder:
        healthy = _healthy()
        try:
            _each([_load_job(client, cards, version) for client, cards in healthy], holder)
            for client, _ in healthy:
                _note(client)
        except EngineError as error:
            raise Unavailable(f"{error.message}. Try again.", code="engine_unavailable") from error
    return (time.monotonic() - began) * 1000


def probe(version: Version) -> None:
    """Ask each healthy engine something under the version's name. Raises PromotionRefused, Unavailable."""
    for client, cards in _healthy():
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
        texts = []
        try:
            for question in PROBES:
                answer = client.complete(
                    model=version.engine_name,
                    messages=[{"role": "user", "content": question}],
                    sampling=PROBE_SAMPLING,
                    timeout=settings.FIRST_TOKEN_SECONDS,
                )
                texts.append(answer.text)
        except EngineError as error:
            raise PromotionRefused(f"{version.label} does not answer: {error.message}.") from error
        if not any(text.strip() for text in texts):
            raise PromotionRefused(f"{version.label} answers nothing to the probes.")


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


def desired_versions() -> dict[str, Version]:
    """Engine name -> version that every engine should hold, over all projects; adapters only."""
    newest = Deployment.objects.order_by("project", "-number")
    current: dict[uuid.UUID, Deployment] = {}
    for deployment in newest.only("project", "champion", "canary", "previous"):
        current.setdefault(deployment.project_id, deployment)
    ids: set[uuid.UUID] = set()
    for deployment in current.values():
        ids |= {id_ for id_ in (deployment.champion_id, deployment.canary_id, deployment.previous_id) if id_}
    wanted = Version.objects.select_related("project").filter(kind=Version.Kind.ADAPTER)
    chosen = wanted.filter(id__in=ids) | wanted.filter(is_candidate=True)
    return {version.engine_name: version for version in chosen}


def _mend(client: EngineClient, holder: uuid.UUID) -> None:
    """One engine: unload what nobody wants, then load what is missing, so that there is room for it."""
    if not client.is_healthy():
        _write(client.url, is_healthy=False, message="does not answer")
        return
    try:
        cards = client.models()
        wanted = desired_versions()  # after the look at the engine: see the top of this file
        for name in list(_superfluous(cards, wanted)):
            logger.info("unloading %s from %s", name, client.url)
            try:
                _each([partial(client.unload, name, timeout=UNLOAD_SECONDS)], holder)
                del cards[name]
            except EngineError as error:  # it goes on draining there; the next round looks again
                logger.info("%s is not gone yet from %s: %s", name, client.url, error.message)
        messages = []
        for name, version in wanted.items():
            if _fits(cards.get(name), version):
                continue
            try:
                check_files(version)
                logger.info("loading %s on %s", name, client.url)
                _each([_load_job(client, cards, version)], holder)
            except PromotionRefused as error:
                messages.append(error.message)
        _note(client, wanted=wanted, message=" ".join(messages))
    except EngineError as error:
        _write(client.url, is_healthy=False, message=error.message)


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
            client.load(name, folder, timeout=LOAD_SECONDS)
        except EngineUnavailable:
            raise
        except EngineError as error:
            raise PromotionRefused(f"{client.url} refuses {label}: {error.message}.") from error

    return load


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
    found = []
    for client in engine_clients():
        try:
            found.append((client, client.models()))
        except EngineError as error:
            logger.warning("%s: %s", client.url, error.message)
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


def _note(client: EngineClient, *, wanted: dict[str, Version] | None = None, message: str = "") -> None:
    """Write down what an engine holds now."""
    cards = client.models()
    wanted = desired_versions() if wanted is None else wanted
    missing = sorted(name for name, version in wanted.items() if not _fits(cards.get(name), version))
    _write(
        client.url,
        is_healthy=True,
        message=message,
        loaded={name: card.digest or "" for name, card in cards.items()},
        missing=missing,
    )


def _write(url: str, **values: object) -> None:
    message = str(values.pop("message", ""))[:300]
    Replica.objects.update_or_create(
        url=url, defaults={**values, "message": message, "checked": timezone.now()}
    )


def _set_status(version: Version, status: str) -> None:
    if version.status != status:
        version.status = status
        version.save(update_fields=["status"])
