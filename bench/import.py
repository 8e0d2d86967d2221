"""A million prompts in, a million judgements out: in constant memory, and as fast at the end as at the start.

    python -m bench.import            a million of both, some minutes
    python -m bench.import --quick    100,000

Prompts are one POST of NDJSON to the web process (uvicorn, SQLite), with a byte-order mark before the
first line and a broken line in the middle. The judgements lie in the database beforehand (copies of one
that came by REST, each by another end user) and are read as one stream of GET /api/v1/feedback/export:
JSONL, then Parquet.
"""

from __future__ import annotations

import argparse
import io
import json
import sqlite3
import threading
import time
from pathlib import Path

import httpx
import psutil
import pyarrow.parquet as pq

from bench._claims import Claim, publish
from bench._stack import fresh_stack, web
from demo.stack import Stack

GOAL_MB = 300
LIMIT_SECONDS = 900


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100,000 instead of a million")
    arguments = parser.parse_args()
    count = 100_000 if arguments.quick else 1_000_000
    with fresh_stack() as (stack, key):
        headers = {"Authorization": f"Bearer {key}"}
        database = Path(stack.folder) / "ratchet.sqlite3"
        with web(stack) as child:
            claims = measure_import(stack, headers, database, count, child.pid)
            make_judgements(stack, headers, database, count)
        with web(stack) as child:  # a new process, whose memory knows nothing of the import
            claims += measure_export(stack, headers, count, child.pid)
    publish("import", "python -m bench.import" + (" --quick" if arguments.quick else ""), claims)


# --- prompts come in -------------------------------------------------------------------------------------
def measure_import(
    stack: Stack, headers: dict[str, str], database: Path, count: int, pid: int
) -> list[Claim]:
    file = Path(stack.folder) / "prompts.jsonl"
    write_prompts(file, count)
    print(f"{count:,} prompts, {file.stat().st_size / 1e6:.0f} MB")
    marks: list[tuple[float, int]] = []
    over = threading.Event()
    watch = threading.Thread(target=watch_rows, args=(database, marks, over))
    began = time.monotonic()
    watch.start()
    with file.open("rb") as body:
        answer = httpx.post(
            f"{stack.url}/api/v1/prompts",
            content=body,
            headers={
                **headers,
                "Content-Type": "application/x-ndjson",
                "Content-Length": str(file.stat().st_size),
            },
            timeout=LIMIT_SECONDS,
            trust_env=False,
        )
    seconds = time.monotonic() - began
    over.set()
    watch.join()
    file.unlink()
    said = answer.json()
    print(f"  {answer.status_code} {json.dumps(said)[:300]}")
    is_right = said.get("created") == count - 1 and said.get("failed") == 1
    line = said["errors"][0]["line"] if said.get("errors") else None
    first, last = ends(marks)
    peak = peak_mb(pid)
    return [
        Claim(
            claim="import: prompts a second, one POST of NDJSON",
            value=count / seconds,
            unit="rows/s",
            goal="stated; all but the broken line",
            holds=is_right and line == count // 2 + 1,
            versus=f"{count:,} lines in {seconds:.0f} s, refused: line {line}",
        ),
        *memory_and_pace("import", peak, first, last),
    ]


def write_prompts(file: Path, count: int) -> None:
    with file.open("wb") as out:
        out.write(b"\xef\xbb\xbf")
        for number in range(count):
            if number == count // 2:
                out.write(b'{"messages": [{"role": "user", "content": "Half a\n')
            else:
                text = f"Question {number}: how long does it take to boil {number % 17} eggs?"
                out.write(b'{"messages": [{"role": "user", "content": "%b"}]}\n' % text.encode())


def watch_rows(database: Path, marks: list[tuple[float, int]], over: threading.Event) -> None:
    """(time, rows) every half second, read beside the server."""
    told = 0
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30) as connection:
        while not over.wait(0.5):
            # The last number of a row is its count here: nothing was ever deleted.
            rows = connection.execute("SELECT coalesce(max(rowid), 0) FROM inference_prompt").fetchone()[0]
            marks.append((time.monotonic(), rows))
            if rows - told >= 100_000:
                told = rows
                print(f"  {rows:,}")


# --- judgements go out -----------------------------------------------------------------------------------
def make_judgements(stack: Stack, headers: dict[str, str], database: Path, count: int) -> None:
    """One rating by REST, and copies of its row by other end users, a millisecond apart."""
    began = time.monotonic()
    address = f"{stack.url}/api/v1"
    with httpx.Client(base_url=address, headers=headers, trust_env=False, timeout=60) as client:
        body = {
            "messages": [{"role": "user", "content": "How?"}],
            "text": "So.",
            "version_label": "elsewhere",
        }
        answer = client.post("/completions", json=body).raise_for_status().json()
        rating = {"kind": "rating", "completion_id": answer["id"], "value": 1, "comment": "Clear enough."}
        client.post("/feedback", json=rating).raise_for_status()
    with sqlite3.connect(database, timeout=60) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(feedback_rating)")]
        changed = {
            "id": "printf('%012x', 1700000000000 + n) || '7000' || printf('%016x', 9223372036854775808 | n)",
            "judge": "judge || 'user-' || n",
            "subject": "'user-' || n",
            # Six digits, and never six zeros, as Django writes times: it compares them as text.
            "created": "strftime('%Y-%m-%d %H:%M:%f', 1700000000 + n / 1000.0, 'unixepoch') || '500'",
        }
        values = ", ".join(changed.get(name, f'"{name}"') for name in columns)
        names = ", ".join(f'"{name}"' for name in columns)
        connection.execute(
            "WITH RECURSIVE many(n) AS "  # noqa: S608
            f"(SELECT 1 UNION ALL SELECT n + 1 FROM many WHERE n < {count - 1}) "
            f"INSERT INTO feedback_rating ({names}) SELECT {values} "
            "FROM feedback_rating, many WHERE subject = ''"
        )
    print(f"{count:,} judgements made in {time.monotonic() - began:.0f} s")


def measure_export(stack: Stack, headers: dict[str, str], count: int, pid: int) -> list[Claim]:
    claims: list[Claim] = []
    for form in ("jsonl", "parquet"):
        marks: list[tuple[float, int]] = []
        began, rows, size = time.monotonic(), 0, 0
        kept = io.BytesIO()
        with httpx.stream(
            "GET",
            f"{stack.url}/api/v1/feedback/export?as={form}",
            headers=headers,
            timeout=LIMIT_SECONDS,
            trust_env=False,
        ) as response:
            for chunk in response.iter_bytes():
                size += len(chunk)
                if form == "jsonl":
                    rows += chunk.count(b"\n")
                    marks.append((time.monotonic(), rows))
                else:
                    kept.write(chunk)
                    marks.append((time.monotonic(), size))
        seconds = time.monotonic() - began
        if form == "parquet":
            rows = pq.ParquetFile(kept).metadata.num_rows
        print(f"  {form}: {rows:,} rows, {size / 1e6:.0f} MB, {seconds:.0f} s")
        claims.append(
            Claim(
                claim=f"export: judgements a second as {form}",
                value=rows / seconds,
                unit="rows/s",
                goal="stated; every row",
                holds=rows == count,
                versus=f"{rows:,} rows in {seconds:.0f} s",
            )
        )
        claims += memory_and_pace(f"export as {form}", peak_mb(pid), *ends(marks))
    return claims


# --- both ------------------------------------------------------------------------------------------------
def ends(marks: list[tuple[float, int]]) -> tuple[float, float]:
    """Rows (or bytes) a second in the first and in the last fifth of the way."""
    total = marks[-1][1]

    def at(share: float) -> float:
        return next(moment for moment, done in marks if done >= total * share)

    start = next(moment for moment, done in marks if done > 0)
    first, last = at(0.2) - start, marks[-1][0] - at(0.8)
    return total / 5 / max(first, 1e-9), total / 5 / max(last, 1e-9)


def memory_and_pace(what: str, peak: float, first: float, last: float) -> list[Claim]:
    return [
        Claim(
            claim=f"{what}: peak memory of the web process",
            value=peak,
            unit="MB",
            goal=f"<= {GOAL_MB}",
            holds=peak <= GOAL_MB,
        ),
        Claim(
            claim=f"{what}: pace in the last fifth against the first",
            value=last / first,
            unit="times",
            goal=">= 0.8",
            holds=last >= 0.8 * first,
        ),
    ]


def peak_mb(pid: int) -> float:
    """The most memory that the process ever held."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return psutil.Process(pid).memory_info().rss / 2**20


if __name__ == "__main__":
    main()
