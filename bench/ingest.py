"""How many judgements a second arrive for good: ours against Label Studio, one by one and in batches.

    python -m bench.ingest            five minutes; Label Studio is installed into var/ the first time
    python -m bench.ingest --quick    one minute

The same client (four connections, each sends when it was answered), the same machine, first SQLite and
then PostgreSQL. Ours: one uvicorn process, as `make up` has it. Label Studio: annotations on tasks, by its
own server. Afterwards every acknowledged row is counted. PostgreSQL is the tests' (nothing synced to disk),
for both alike; SQLite syncs each of our commits.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg

from bench import _label_studio
from bench._claims import Claim, publish
from bench._load import percentile
from bench._stack import fresh_stack, web

CONNECTIONS = 4
BATCH = 100
ANSWERS = 50
Request = tuple[str, dict[str, Any]]  # a path and a body


@dataclass
class Seen:
    """What one load came to: milliseconds of each request, and how many rows were acknowledged."""

    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    rows: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.rows / self.seconds

    def __str__(self) -> str:
        half, most = percentile(self.times, 0.5), percentile(self.times, 0.99)
        errors = f", {len(self.errors)} ERRORS: {self.errors[0]}" if self.errors else ""
        return f"{self.rate:,.1f} rows/s, p50 {half:.1f} ms, p99 {most:.1f} ms, {self.rows} rows{errors}"


def load(url: str, headers: dict[str, str], requests: Iterator[Request], seconds: float) -> Seen:
    """Send for so long over all connections. A 2xx counts its rows: one, or the 201s of a batch."""
    seen, lock = Seen(), threading.Lock()
    end = time.monotonic() + seconds

    def client() -> None:
        place = urlsplit(url)
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
        while time.monotonic() < end:
            with lock:
                path, body = next(requests)
            raw = json.dumps(body).encode()
            began = time.perf_counter()
            connection.request("POST", path, raw, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            said = answer.read()
            took = (time.perf_counter() - began) * 1000
            with lock:
                if answer.status in (200, 201):
                    seen.rows += said.count(b'"status":201') if said.startswith(b'{"results"') else 1
                    seen.times.append(took)
                else:
                    seen.errors.append(f"{answer.status} {said[:200]!r}")
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(CONNECTIONS)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen.seconds = time.monotonic() - began
    return seen


# --- ours ------------------------------------------------------------------------------------------------
def measure_ours(database: str, seconds: float) -> dict[str, Seen]:
    """`single` and `batch`, on an empty database at this URL; SQLite without one."""
    with fresh_stack(**({"DATABASE_URL": database} if database else {})) as (stack, key), web(stack):
        headers = {"Authorization": f"Bearer {key}"}
        ids = make_answers(stack.url, headers)
        numbers = itertools.count()
        ratings = (("/api/v1/feedback", rating(ids, next(numbers))) for _ in itertools.count())
        load(stack.url, headers, ratings, 1)  # warm
        before = next(numbers)
        single = load(stack.url, headers, ratings, seconds)
        batches = (
            ("/api/v1/feedback/batch", {"items": [rating(ids, next(numbers)) for _ in range(BATCH)]})
            for _ in itertools.count()
        )
        batch = load(stack.url, headers, batches, seconds)
        print(f"  ours, single: {single}")
        print(f"  ours, batches of {BATCH}: {batch}")
        check_count(stack.url, headers, before, single, batch)
    return {"single": single, "batch": batch}


def make_answers(url: str, headers: dict[str, str]) -> list[str]:
    """Completions to judge."""
    body = {"version_label": "elsewhere", "text": "Eight minutes."}
    with httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as client:
        return [
            str(
                client.post(
                    "/api/v1/completions",
                    json={**body, "messages": [{"role": "user", "content": f"Question {number}?"}]},
                )
                .raise_for_status()
                .json()["id"]
            )
            for number in range(ANSWERS)
        ]


def rating(ids: list[str], number: int) -> dict[str, Any]:
    return {
        "kind": "rating",
        "completion_id": ids[number % len(ids)],
        "value": 1 if number % 3 else -1,
        "subject": f"user-{number}",
    }


def check_count(url: str, headers: dict[str, str], before: int, *loads: Seen) -> None:
    """Every acknowledged row is in the log that the server gives out."""
    count = 0
    with httpx.stream(
        "GET", f"{url}/api/v1/feedback/export", headers=headers, timeout=120, trust_env=False
    ) as response:
        for line in response.iter_lines():
            count += int(json.loads(line)["subject"].rpartition("-")[2]) > before
    acknowledged = sum(one.rows for one in loads)
    if count < acknowledged:
        loads[0].errors.append(f"{acknowledged} rows were acknowledged, {count} are there")
    print(f"    {acknowledged} acknowledged, {count} in the log")


# --- Label Studio ----------------------------------------------------------------------------------------
def measure_theirs(folder: Path, postgres: tuple[int, str] | None, seconds: float) -> Seen:
    with _label_studio.label_studio(folder, postgres) as url:
        project, tasks = _label_studio.make_tasks(url, ANSWERS)
        numbers = itertools.count()
        annotations = (
            (f"/api/tasks/{tasks[number % ANSWERS]}/annotations/", annotation(number)) for number in numbers
        )
        load(url, _label_studio.headers(), annotations, 2)
        before = _label_studio.count_annotations(url, project)
        seen = load(url, _label_studio.headers(), annotations, seconds)
        print(f"  Label Studio {_label_studio.VERSION}: {seen}")
        count = _label_studio.count_annotations(url, project) - before
        print(f"    {seen.rows} acknowledged, {count} there")
    return seen


def annotation(number: int) -> dict[str, Any]:
    value = {"choices": ["up" if number % 3 else "down"]}
    return {"result": [{"from_name": "thumb", "to_name": "text", "type": "choices", "value": value}]}


# --- both ------------------------------------------------------------------------------------------------
@contextmanager
def postgres() -> Iterator[tuple[int, Callable[[str], None]]]:
    """The tests' PostgreSQL: its port, and how to make a database in it."""
    from tests import services

    kept = dict(os.environ)
    os.environ["RATCHET_TEST_BACKEND"] = "services"
    services.prepare_environment()
    port = int(json.loads(os.environ[services.SHARED])["postgres"])
    for name in ("DATABASE_URL", "BROKER_URL", "VAR_DIR"):
        if name in kept:
            os.environ[name] = kept[name]
        else:
            os.environ.pop(name, None)

    def create(name: str) -> None:
        with psycopg.connect(f"postgres://ratchet@127.0.0.1:{port}/postgres", autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[call-overload]  # a name of ours

    try:
        yield port, create
    finally:
        services.stop()


def claims_of(name: str, ours: dict[str, Seen], theirs: Seen) -> list[Claim]:
    lost = [error for seen in ours.values() for error in seen.errors]
    claims = [
        Claim(
            claim=f"{name}: {what} against single annotations in Label Studio",
            value=ours[which].rate / theirs.rate,
            unit="times",
            goal=f">= {goal}",
            holds=ours[which].rate >= goal * theirs.rate,
            versus=f"ours {ours[which]}; Label Studio {theirs}",
        )
        for what, which, goal in (("single ratings", "single", 10), ("batches of 100", "batch", 200))
    ]
    claims.append(
        Claim(
            claim=f"{name}: acknowledged rows that are missing, and answers that were no 2xx",
            value=float(len(lost)),
            unit="",
            goal="0",
            holds=not lost,
            versus="; ".join(lost[:3]),
        )
    )
    return claims


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 s a measurement instead of 20")
    arguments = parser.parse_args()
    seconds = 5.0 if arguments.quick else 20.0
    claims: list[Claim] = []
    _label_studio.install()
    with tempfile.TemporaryDirectory(prefix="ratchet-bench-") as folder, postgres() as (port, create):
        print("SQLite")
        mine = measure_ours("", seconds)
        theirs = measure_theirs(Path(folder) / "sqlite", None, seconds)
        claims += claims_of("SQLite", mine, theirs)
        print("PostgreSQL")
        for name in ("ours", "theirs"):
            create(name)
        mine = measure_ours(f"postgres://ratchet@127.0.0.1:{port}/ours", seconds)
        theirs = measure_theirs(Path(folder) / "postgres", (port, "theirs"), seconds)
        claims += claims_of("PostgreSQL", mine, theirs)
    quick = " --quick" if arguments.quick else ""
    publish("ingest", f"python -m bench.ingest{quick}", claims)


if __name__ == "__main__":
    main()
