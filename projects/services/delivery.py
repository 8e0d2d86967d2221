"""Sends what the outbox holds. Rung by beat; may run twice, anywhere, and after any crash.

A delivery is claimed by moving its `due` ahead: a worker that dies leaves it due again a little later. So a
receiver may see an event twice, and knows it by `webhook-id`. Only an answer of 2xx is a delivery; redirects
are not followed. After the last of RETRIES it is a dead letter, which a manager can send again.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import httpcore
from django.db import connections
from django.db.models import Exists, F, OuterRef, Q
from django.utils import timezone
from standardwebhooks import Webhook

from projects.models import WebhookDelivery, WebhookEndpoint
from projects.services.addresses import PrivateAddress, resolve_public

# Seconds from one attempt to the next: ten attempts in a day and a half.
RETRIES = (5, 30, 120, 600, 1_800, 3_600, 10_800, 28_800, 86_400)
ATTEMPT_SECONDS = 10.0  # from the look-up of the name to the end of the answer
TICK_SECONDS = 12.0  # after this no further attempt begins
CLAIM = timedelta(seconds=ATTEMPT_SECONDS * 3)
MAX_ANSWER_BYTES = 10_000
ENDPOINTS_AT_ONCE = 8
DELIVERIES_AT_ONCE = 100
KEPT = timedelta(days=30)


def deliver_due() -> int:
    """Send what is due, endpoint by endpoint. Returns how many arrived.

    While another worker is at it this does nothing: a receiver that hangs must not hold every worker.
    """
    now = timezone.now()
    if WebhookEndpoint.objects.filter(busy_until__gt=now).exists():
        return 0
    due = WebhookDelivery.objects.filter(
        endpoint=OuterRef("pk"), state=WebhookDelivery.State.PENDING, due__lte=now
    )
    waiting = WebhookEndpoint.objects.filter(Exists(due), removed=None, disabled=None).order_by("?")
    ids = [pk for pk in waiting.values_list("pk", flat=True)[:ENDPOINTS_AT_ONCE] if _claim_endpoint(pk, now)]
    if not ids:
        return 0
    deadline = time.monotonic() + TICK_SECONDS
    with ThreadPoolExecutor(len(ids)) as threads:
        return sum(threads.map(lambda pk: _deliver_to(pk, deadline), ids))


def forget_deliveries() -> int:
    """Delete what is over and older than a month; returns how many rows."""
    old = WebhookDelivery.objects.filter(created__lt=timezone.now() - KEPT)
    return old.exclude(state=WebhookDelivery.State.PENDING).delete()[0]


def _claim_endpoint(pk: Any, now: datetime) -> bool:
    free = Q(busy_until=None) | Q(busy_until__lte=now)
    until = now + timedelta(seconds=TICK_SECONDS + ATTEMPT_SECONDS * 2)
    return bool(WebhookEndpoint.objects.filter(free, pk=pk).update(busy_until=until))


def _deliver_to(pk: Any, deadline: float) -> int:
    """What is due for one endpoint, oldest first, until one attempt fails."""
    try:
        endpoint = WebhookEndpoint.objects.get(pk=pk)
        due = endpoint.deliveries.filter(state=WebhookDelivery.State.PENDING, due__lte=timezone.now())
        arrived = 0
        backend = _PublicBackend()
        with httpcore.ConnectionPool(network_backend=backend, max_connections=1) as pool:
            for delivery in list(due.order_by("due", "id")[:DELIVERIES_AT_ONCE]):
                if time.monotonic() > deadline:
                    break
                backend.deadline = time.monotonic() + ATTEMPT_SECONDS
                if not _attempt(pool, endpoint, delivery):
                    break
                arrived += 1
        return arrived
    finally:
        WebhookEndpoint.objects.filter(pk=pk).update(busy_until=None)
        connections.close_all()


def _attempt(pool: httpcore.ConnectionPool, endpoint: WebhookEndpoint, delivery: WebhookDelivery) -> bool:
    now = timezone.now()
    claimed = WebhookDelivery.objects.filter(
        pk=delivery.pk, state=WebhookDelivery.State.PENDING, due=delivery.due
    ).update(due=now + CLAIM, attempts=F("attempts") + 1)
    if not claimed:
        return True  # somebody else's by now; go on with the next
    status, error = _post(pool, endpoint, delivery)
    attempts = delivery.attempts + 1
    values: dict[str, Any] = {"status": status, "error": error[:300]}
    if not error:
        values |= {"state": WebhookDelivery.State.DELIVERED, "delivered": timezone.now()}
    elif attempts > len(RETRIES):
        values |= {"state": WebhookDelivery.State.DEAD}
    else:
        values |= {"due": now + timedelta(seconds=RETRIES[attempts - 1])}
    WebhookDelivery.objects.filter(pk=delivery.pk, state=WebhookDelivery.State.PENDING).update(**values)
    return not error


def _post(
    pool: httpcore.ConnectionPool, endpoint: WebhookEndpoint, delivery: WebhookDelivery
) -> tuple[int | None, str]:
    """The status, and what was wrong ("" for nothing)."""
    body = delivery.payload.encode()
    try:
        with pool.stream(
            "POST",
            endpoint.url,
            headers=list(sign(endpoint, delivery, timezone.now()).items()),
            content=body,
            extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), ATTEMPT_SECONDS)},
        ) as response:
            _read_out(response.iter_stream())
            status = response.status
    except PrivateAddress as error:
        return None, error.message
    except (httpcore.TimeoutException, TimeoutError):
        return None, f"It did not answer within {ATTEMPT_SECONDS:.0f} s."
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError, ValueError) as error:
        return None, f"It could not be reached: {error or type(error).__name__}."
    if 200 <= status < 300:
        return status, ""
    hint = " Redirects are not followed: name the last address." if 300 <= status < 400 else ""
    return status, f"It answered {status}.{hint}"


def _read_out(chunks: Iterable[bytes]) -> None:
    """An answer is read, so that the connection can be used again, but not all of a long one."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            return


def sign(endpoint: WebhookEndpoint, delivery: WebhookDelivery, now: datetime) -> dict[str, str]:
    """The headers of standard-webhooks. While a secret is being changed there are two signatures."""
    good = [endpoint.secret]
    if endpoint.previous_secret and endpoint.previous_until and endpoint.previous_until > now:
        good.append(endpoint.previous_secret)
    message = str(delivery.event_id)
    signatures = [Webhook(secret).sign(message, now, delivery.payload) for secret in good]
    return {
        "content-type": "application/json",
        "user-agent": "Ratchet",
        "webhook-id": message,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


class _PublicBackend(httpcore.SyncBackend):
    """Looks a name up once, refuses what is private, and connects to just that address.

    TLS still checks the certificate against the name. Whatever trickles in, an attempt ends at `deadline`.
    """

    deadline = 0.0

    def left(self, timeout: float | None) -> float:
        """Seconds that one step may take. Raises when the attempt's time is over."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return min(left, timeout or left)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        address = resolve_public(host, port)
        return _TimedStream(
            super().connect_tcp(address, port, self.left(timeout), local_address, socket_options), self
        )


class _TimedStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, backend: _PublicBackend) -> None:
        self._stream, self._backend = stream, backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._backend.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._backend.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, self._backend.left(timeout))
        return _TimedStream(secured, self._backend)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
