"""`make bench NAME=compile`: a million judgements to datasets, on PostgreSQL, from the clone's own services.

A database of its own is filled with prompts of 20 words, answers of 50, and judgements of 500 raters: 60 %
comparisons, 30 % thumbs, 10 % corrections. Each format is compiled by a process of its own, whose time and
peak of resident memory are measured; the database's own memory is not in it. Then labels are followed to the
datasets that hold them, of a hundred. `--quick` is a twentieth.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench._claims import ROOT, Claim, publish

JUDGEMENTS = 1_000_000
MAX_SECONDS, MAX_MIB = 60.0, 500.0
FORMATS = ("preference", "unpaired", "sft", "prompts")
SLUG = "bench"
MAX_FOLLOW_MS, DATASETS, FOLLOWED = 200.0, 100, 200
EPOCH = "2026-01-01T00:00:00Z"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="50,000 judgements")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(follow_here() if options.child == "lineage" else compile_here(options.child)))
        return 0
    size = JUDGEMENTS // 20 if options.quick else JUDGEMENTS
    from tests import services

    os.environ["RATCHET_TEST_BACKEND"] = "services"
    services.prepare_environment()
    os.environ["DATABASE_URL"] = os.environ["DATABASE_URL"].removesuffix("/ratchet") + "/postgres"
    try:
        with tempfile.TemporaryDirectory(prefix="ratchet-bench-") as folder:
            os.environ["ARTIFACTS_DIR"] = folder
            os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
            began = time.monotonic()
            subprocess.run(
                [sys.executable, "manage.py", "migrate", "--no-input", "-v0"], cwd=ROOT, check=True
            )
            subprocess.run([sys.executable, "-c", FILL.format(size=size)], cwd=ROOT, check=True)
            print(f"filled in {time.monotonic() - began:.0f} s: {size:,} judgements")
            publish("compile", command(options.quick), list(claims(size)))
    finally:
        services.stop()
    return 0


def command(quick: bool) -> str:
    return "python -m bench.compile --quick" if quick else "make bench NAME=compile"


def claims(size: int) -> Iterator[Claim]:
    for format_ in FORMATS:
        done = child(format_)
        what = f"{format_}: {size:,} judgements to {done['rows']:,} rows"
        yield Claim(
            claim=what,
            value=done["seconds"],
            unit="s",
            goal=f"<= {MAX_SECONDS:.0f}",
            holds=done["seconds"] <= MAX_SECONDS,
        )
        yield Claim(
            claim=f"{format_}: peak of resident memory (with Django alone: {done['idle_mib']:.0f} MiB)",
            value=done["peak_mib"],
            unit="MiB",
            goal=f"<= {MAX_MIB:.0f}",
            holds=done["peak_mib"] <= MAX_MIB,
        )
        if format_ == FORMATS[0]:
            again = child(format_)
            yield Claim(
                claim=f"{format_}: compiled again with the same cut-off, the digest",
                value="the same" if again["digest"] == done["digest"] else "another",
                unit="",
                goal="the same",
                holds=again["digest"] == done["digest"],
            )
    followed = child("lineage")
    yield Claim(
        claim=f"lineage: one label of {size:,} followed to the datasets that hold it, of {DATASETS} (p99)",
        value=followed["label_ms"],
        unit="ms",
        goal=f"<= {MAX_FOLLOW_MS:.0f}",
        holds=followed["label_ms"] <= MAX_FOLLOW_MS,
    )
    yield Claim(
        claim="lineage: back from a version to a page of the labels behind it (p99)",
        value=followed["back_ms"],
        unit="ms",
        goal=f"<= {MAX_FOLLOW_MS:.0f}",
        holds=followed["back_ms"] <= MAX_FOLLOW_MS,
    )


def child(format_: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.compile", "--child", format_],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"  {format_}: {found}")
    return found


def compile_here(format_: str) -> dict[str, Any]:
    import django

    django.setup()
    from django.utils.dateparse import parse_datetime

    from projects.models import Project
    from projects.services import SYSTEM
    from training.services.compiler import compile_dataset

    project = Project.objects.get(slug=SLUG)
    idle = peak_mib()
    began = time.monotonic()
    dataset = compile_dataset(
        project=project, format=format_, cutoff=parse_datetime("2026-06-01T00:00:00Z"), actor=SYSTEM
    )
    return {
        "seconds": time.monotonic() - began,
        "idle_mib": idle,
        "peak_mib": peak_mib(),
        "rows": dataset.rows + dataset.heldout_rows,
        "digest": dataset.digest,
        "drops": dataset.drops,
        "mib": sum(path.stat().st_size for path in Path(dataset.folder).iterdir()) / 2**20,
    }


def follow_here() -> dict[str, Any]:
    """Labels to what holds them, and a version to its labels, each a good many times."""
    import django

    django.setup()
    from django.utils import timezone

    from feedback.models import Preference
    from inference.models import Version
    from projects.models import Project
    from training.models import Dataset, Run
    from training.services.lineage import judgements_behind, lineage_from

    project = Project.objects.get(slug=SLUG)
    dataset = Dataset.objects.filter(project=project, format="preference").latest("number")
    rows = {name: getattr(dataset, name) for name in ("format", "cutoff", "rows", "digest", "path")}
    last = Dataset.objects.filter(project=project).latest("number").number
    more = range(last + 1, last + 1 + DATASETS - Dataset.objects.filter(project=project).count())
    Dataset.objects.bulk_create(
        Dataset(project=project, number=n, manifest=dataset.manifest, **rows) for n in more
    )
    version = Version.objects.create(project=project, number=2, kind="adapter", digest="sha256:2")
    Run.objects.create(
        project=project, number=1, dataset=dataset, version=version, status="finished", started=timezone.now()
    )
    dice = random.Random(3)
    labels = [ident(3, dice.randrange(Preference.objects.count())) for _ in range(FOLLOWED)]
    held = 0

    def follow(label: str) -> None:
        nonlocal held
        held += len(lineage_from(project=project, start="feedback", name=label).datasets)

    def back(label: str) -> None:
        found = lineage_from(project=project, start="version", name="v2")
        judgements_behind(found.datasets[0], start=dice.randrange(dataset.rows // 2), count=50)

    spent = {"label_ms": p99(follow, labels), "back_ms": p99(back, labels)}
    return {**spent, "datasets_a_label": held / FOLLOWED}


def p99(act: Callable[[str], None], names: list[str]) -> float:
    """Of the calls with these names, in milliseconds; the first few warm up."""
    times = []
    for name in names[:5] + names:
        began = time.perf_counter()
        act(name)
        times.append((time.perf_counter() - began) * 1000)
    return sorted(times[5:])[int(len(names) * 0.99) - 1]


def peak_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM in /proc/self/status")


# --- filling the database --------------------------------------------------------------------------------
FILL = "import django; django.setup(); from bench.compile import fill; fill({size})"


def fill(size: int) -> None:
    """`size` judgements on a tenth as many prompts with four answers each."""
    from django.db import connection

    from feedback.models import Candidate, Correction, Preference, Rating
    from inference.models import Completion, Prompt
    from inference.services.versions import start_project
    from projects.services import SYSTEM

    project = start_project(slug=SLUG, name="Bench", actor=SYSTEM)
    prompts = size // 10
    with connection.cursor() as cursor:
        cursor.execute(HELPERS)
        for model in (Prompt, Completion, Preference, Candidate, Rating, Correction):
            give_defaults(cursor, model)
        copy(
            cursor,
            "inference_prompt (id, project_id, messages, digest, split, created)",
            prompt_lines(str(project.pk), prompts),
        )
        copy(
            cursor,
            "inference_completion (id, project_id, prompt_id, version_label, text, state, finish_reason, "
            "created)",
            completion_lines(str(project.pk), prompts),
        )
        for statement in JUDGE:
            cursor.execute(
                statement, {"project": project.pk, "prompts": prompts, "size": size, "epoch": EPOCH}
            )
        cursor.execute("ANALYZE")


def give_defaults(cursor: Any, model: Any) -> None:
    """The models' defaults as the columns', so that a statement names only what matters here."""
    from django.db import connection
    from psycopg import sql

    for field in model._meta.concrete_fields:
        if field.null or field.primary_key or field.is_relation or field.get_default() is None:
            continue
        value = field.get_db_prep_save(field.get_default(), connection)
        if hasattr(value, "dumps"):  # psycopg's wrapper of JSON
            value = json.dumps(value.obj)
        change = sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET DEFAULT {}")
        names = sql.Identifier(model._meta.db_table), sql.Identifier(field.column)
        cursor.execute(change.format(*names, sql.Literal(value)))


def copy(cursor: Any, table: str, lines: Iterator[str]) -> None:
    with cursor.copy(f"COPY {table} FROM STDIN") as into:
        for line in lines:
            into.write(line)


def prompt_lines(project: str, prompts: int) -> Iterator[str]:
    dice = random.Random(1)
    words = vocabulary(dice)
    for n in range(prompts):
        content = " ".join(dice.choices(words, k=20)) + f" {n}?"
        messages = json.dumps([{"role": "user", "content": content}])
        split = "gate" if dice.random() < 0.02 else "train"
        yield f"{ident(1, n)}\t{project}\t{messages}\t{n:064}\t{split}\t{EPOCH}\n"


def completion_lines(project: str, prompts: int) -> Iterator[str]:
    dice = random.Random(2)
    words = vocabulary(dice)
    for n in range(prompts * 4):
        text = " ".join(dice.choices(words, k=50))
        of = f"{project}\t{ident(1, n // 4)}\t{SLUG}@v1"
        yield f"{ident(2, n)}\t{of}\t{text}\tfinished\tstop\t{EPOCH}\n"


def vocabulary(dice: random.Random) -> list[str]:
    return ["".join(dice.choices("abcdefghijklmnoprstuvw", k=dice.randint(2, 9))) for _ in range(5000)]


def ident(kind: int, n: int) -> str:
    return f"01900000-000{kind}-7000-8000-{n:012x}"


# The same ids in SQL; and who says something the n-th time.
HELPERS = """
CREATE FUNCTION ident(kind bigint, n bigint) RETURNS uuid IMMUTABLE LANGUAGE sql AS
  $$ SELECT ('01900000-000' || kind || '-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid $$;
CREATE FUNCTION judge(n bigint, prompts bigint) RETURNS text IMMUTABLE LANGUAGE sql AS
  $$ SELECT 'key:1:' || (n * 7919 + n / prompts) % 500 $$;
"""
JUDGE = [
    # Six comparisons a prompt, of three pairs of its answers: each pair is judged twice.
    """
    INSERT INTO feedback_preference (id, project_id, judge, source, created, prompt_id, candidate_set,
      all_bad, strength)
    SELECT ident(3, n), %(project)s, judge(n, %(prompts)s), 'api', %(epoch)s::timestamptz,
      ident(1, n %% %(prompts)s), md5((n %% %(prompts)s)::text || ':' || ((n / %(prompts)s) %% 3)),
      n %% 37 = 0, 1 + n %% 3
    FROM generate_series(0, %(size)s * 6 / 10 - 1) AS n
    """,
    """
    INSERT INTO feedback_candidate (preference_id, completion_id, position, rank)
    SELECT ident(3, n), ident(2, (n %% %(prompts)s) * 4 + (n / %(prompts)s) %% 3 + side), side,
      CASE WHEN n %% 37 = 0 THEN NULL WHEN n %% 11 = 0 THEN 1 ELSE 1 + (side + n / 3) %% 2 END
    FROM generate_series(0, %(size)s * 6 / 10 - 1) AS n, generate_series(0, 1) AS side
    """,
    """
    INSERT INTO feedback_rating (id, project_id, judge, source, created, completion_id, aspect, value)
    SELECT ident(4, n), %(project)s, judge(n, %(prompts)s), 'api', %(epoch)s::timestamptz, ident(2, n),
      'thumbs', 1 - 2 * (n %% 2)
    FROM generate_series(0, %(size)s * 3 / 10 - 1) AS n
    """,
    """
    INSERT INTO feedback_correction (id, project_id, judge, source, created, completion_id, text)
    SELECT ident(5, n), %(project)s, judge(n, %(prompts)s), 'api', %(epoch)s::timestamptz, c.id,
      'Better ' || c.text
    FROM generate_series(0, %(size)s / 10 - 1) AS n JOIN inference_completion c ON c.id = ident(2, n * 4 + 3)
    """,
]


if __name__ == "__main__":
    sys.exit(main())
