"""`make bench NAME=pages`: every page and list with a million judgements, on PostgreSQL.

One project with a million judgements on 100,000 prompts (as bench/compile.py makes them), one with forty.
Each page is fetched as a rater or a manager, each list of the API with a manager's key, each list of the
console as an operator (not its search, which reads every text), through Django without a network. The time
is the best of three after a first one; queries are counted, and the small project must need as many. What the
schedules do with a million judgements is timed as well. `--quick` takes 50,000 judgements; `--keep FOLDER`
leaves the database there, and takes the one that an earlier run left there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench._claims import ROOT, Claim, publish
from bench._postgres import postgres
from bench.compile import FILL, JUDGEMENTS

BIG, SMALL = "bench", "small"
GOAL_MS = 200.0

# Everything below `measure` needs Django, which is set up once the database has its address.


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="50,000 judgements")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the database there, or take it up")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ratchet-bench-") as folder:
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "SECRET_KEY": "a-key-for-the-bench-that-is-long-enough-for-every-check-of-django",
            "ENGINE_API_KEY": "bench",
            "BROKER_URL": "filesystem://",
            "LOG_LEVEL": "ERROR",
            "VAR_DIR": folder,
        }
        judgements = JUDGEMENTS // 20 if options.quick else JUDGEMENTS
        kept = options.keep / str(judgements) if options.keep is not None else None  # one of each size
        is_filled = kept is not None and (kept / "filled").exists()
        # Nothing here is about durability, and filling is half of the time.
        with postgres(kept, fsync="off", synchronous_commit="off") as url:
            if not is_filled:
                fill(url, judgements)
                if kept is not None:
                    (kept / "filled").touch()
            claims = measure(url)
    quick = " --quick" if options.quick else ""
    publish("pages" + quick.replace(" -", ""), f"python -m bench.pages{quick}", claims)
    return 0


def fill(url: str, size: int) -> None:
    env = {**os.environ, "DATABASE_URL": url}
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "--no-input", "-v0"], cwd=ROOT, check=True, env=env
    )
    # Keys are right by construction, and checking them takes longer than writing the rows.
    unchecked = {**env, "PGOPTIONS": "-c session_replication_role=replica"}
    subprocess.run([sys.executable, "-c", FILL.format(size=size)], cwd=ROOT, check=True, env=unchecked)
    print(f"{size:,} judgements in {time.monotonic() - began:.0f} s", flush=True)


@dataclass(frozen=True)
class Place:
    """What is fetched, as whom."""

    path: str
    who: str  # rater, manager, operator or key

    def of(self, slug: str) -> str:
        return self.path.replace("{slug}", slug)


def measure(url: str) -> list[Claim]:
    os.environ["DATABASE_URL"] = url
    import django

    django.setup()
    from django.conf import settings
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    settings.ALLOWED_HOSTS = ["testserver"]
    settings.RATE_LIMIT_KEY = 0
    settings.WHITENOISE_AUTOREFRESH = False
    visitors = {slug: prepare(slug) for slug in (BIG, SMALL)}
    claims = list(schedules())
    for place in places(visitors[BIG]["ids"]):
        counts, best = {}, float("inf")
        for slug in (SMALL, BIG):
            client = visitors[slug][place.who]
            path = place.of(slug)
            for name, value in visitors[slug]["ids"].items():
                path = path.replace("{" + name + "}", value)
            if slug == BIG:
                for attempt in range(4):
                    began = time.perf_counter()
                    response = client.get(path)
                    took = (time.perf_counter() - began) * 1000
                    best = min(best, took) if attempt else best
            with CaptureQueriesContext(connection) as queries:
                response = client.get(path)
            if response.status_code != 200:
                raise SystemExit(f"{path} as {place.who}: {response.status_code} {response.content[:300]!r}")
            counts[slug] = len(queries)
        slowest = max(queries.captured_queries, key=lambda one: float(one["time"]))
        note = f"{counts[BIG]} queries, in a small project {counts[SMALL]}"
        if best > GOAL_MS:
            note += f"; slowest {slowest['time']} s: {slowest['sql'][:300]}"
        claims.append(
            Claim(
                claim=f"{place.path} as {place.who}",
                value=best,
                unit="ms",
                goal=f"<= {GOAL_MS:.0f}, as many queries as in a small project",
                holds=best <= GOAL_MS and counts[BIG] <= counts[SMALL],
                versus=note,
            )
        )
        print(claims[-1], flush=True)
    return claims


def schedules() -> Iterator[Claim]:
    """What a worker does with all of it, some of it each minute: it must not take a minute."""
    from feedback.counts import ALL_SERIES
    from feedback.services.uncertainty import measure_uncertainty
    from feedback.services.workbench import workbench_of
    from projects.models import CountedUntil, HourlyCount, Project
    from projects.services.hourly import count_again, count_hours, recount
    from training.services.waiting import waiting_judgements

    project = Project.objects.get(slug=BIG)
    count_hours(project=Project.objects.get(slug=SMALL), series=ALL_SERIES)
    count_again(project=project, since=project.created - timedelta(days=99))
    workbench = workbench_of(project)
    workbench.weights = {"random": 1, "uncertain": 1}
    workbench.uncertainty_of = ""
    workbench.save()
    for claim, limit_ms, act in (
        ("hours counted for the first time", 60_000, lambda: count_hours(project=project, series=ALL_SERIES)),
        ("hours counted a minute later", 1_000, lambda: count_hours(project=project, series=ALL_SERIES)),
        ("all hours counted again (once a day)", 60_000, lambda: recount(project=project, series=ALL_SERIES)),
        ("the uncertainty of a backlog", 30_000, lambda: measure_uncertainty(project=project)),
        ("the same when nothing came", 200, lambda: measure_uncertainty(project=project)),
        ("what waits for a run, up to 1,000", 200, lambda: waiting_judgements(project, None, most=1_000)),
        ("what waits for a run, up to 10,000", 200, lambda: waiting_judgements(project, None, most=10_000)),
        ("what waits for a KTO run, up to 10,000", 200,
         lambda: waiting_judgements(project, None, "kto", most=10_000)),
    ):  # fmt: skip
        began = time.perf_counter()
        act()
        took = (time.perf_counter() - began) * 1000
        yield Claim(claim=claim, value=took, unit="ms", goal=f"<= {limit_ms:,}", holds=took <= limit_ms)
    rows = HourlyCount.objects.filter(project=project).count()
    assert CountedUntil.objects.get(project=project).until is not None
    yield Claim(claim="rows that hold the counted hours", value=rows, unit="rows", goal="stated", holds=True)


def places(ids: dict[str, str]) -> Iterator[Place]:
    for path in ("chat/", "chat/history", "work/", "battle/", "leaderboard/", "guidelines/", ""):
        yield Place(f"/p/{{slug}}/{path}", "rater")
    for window in ("1h", "24h", "7d", "30d"):
        yield Place(f"/p/{{slug}}/metrics/?window={window}", "rater")
    for path in ("", "work/", "raters/", "raters/{rater}/", "workbench/", "datasets/", "runs/", "versions/"):
        yield Place(f"/p/{{slug}}/{path}", "manager")
    for name in ("prompts", "completions", "feedback", "leaderboard", "datasets", "runs", "evaluations",
                 "versions", "deployments", "webhooks", "webhooks/deliveries", "keys"):  # fmt: skip
        yield Place(f"/api/v1/{name}", "key")
    for window in ("1h", "24h", "7d", "30d"):
        yield Place(f"/api/v1/metrics?window={window}", "key")
    for query in ("kind=rating", "rater=rater-1", "subject=nobody", "source=ui", "completion_id={completion}",
                  "since={since}", "until={until}", "limit=200", "kind=preference&limit=200"):  # fmt: skip
        yield Place(f"/api/v1/feedback?{query}", "key")
    for query in ("split=gate", "external_id=none", "limit=200"):
        yield Place(f"/api/v1/prompts?{query}", "key")
    for query in ("prompt_id={prompt}", "state=failed", "limit=200"):
        yield Place(f"/api/v1/completions?{query}", "key")
    for path in ("feedback/rating", "feedback/preference", "feedback/candidate", "feedback/correction",
                 "feedback/flag", "inference/prompt", "inference/completion", "inference/conversation",
                 "feedback/assignment", "feedback/task", "projects/auditevent"):  # fmt: skip
        yield Place(f"/admin/{path}/", "operator")


def prepare(slug: str) -> dict[str, Any]:
    """Clients of the project by role, and ids of things in it. Judgements become those of the last month."""
    from django.db import connection
    from django.test import Client
    from django.utils import timezone

    from inference.models import Completion, Version
    from inference.services.versions import start_project
    from projects.models import ApiKey, Membership, Project, User
    from projects.services import SYSTEM, add_member, create_api_key

    project = Project.objects.filter(slug=slug).first()
    project = project or start_project(slug=slug, name=slug, actor=SYSTEM)
    clients: dict[str, Any] = {}
    for role in ("rater", "manager", "operator"):
        user, _ = User.objects.get_or_create(username=f"{slug}-{role}", is_staff=role == "operator",
                                             is_superuser=role == "operator")  # fmt: skip
        if role != "operator" and not Membership.objects.filter(project=project, user=user).exists():
            add_member(project=project, user=user, role=role, actor=SYSTEM)
        clients[role] = Client()
        clients[role].force_login(user)
    _, key = create_api_key(project=project, name="bench", scopes=list(ApiKey.Scope.values), actor=SYSTEM)
    clients["key"] = Client(headers={"Authorization": f"Bearer {key}"})
    if slug == SMALL and not Completion.objects.filter(project=project).exists():
        judge_a_little(clients["key"])
    if slug == BIG and not Completion.objects.filter(project=project, ttft_ms__gt=0).exists():
        Version.objects.create(project=project, number=2, kind="adapter", path="v/2", digest="sha256:2")
        with connection.cursor() as cursor:
            for statement in SPREAD:
                cursor.execute(statement, {"project": project.pk} if "%" in statement else None)
    completion = Completion.objects.filter(project=project).order_by("pk")[:1].get()
    now = timezone.now()
    clients["ids"] = {
        "completion": str(completion.pk),
        "prompt": str(completion.prompt_id),
        "rater": str(User.objects.get(username=f"{slug}-rater").pk),
        "since": (now - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        # Of the small project's judgements, all of which came just now, there must be some as well.
        "until": (now - timedelta(days=20 if slug == BIG else -1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return clients


def judge_a_little(client: Any) -> None:
    for number in range(10):
        question = [{"role": "user", "content": f"Question {number}?"}]
        asked = {"messages": question, "version_label": "elsewhere"}
        ids = []
        for text in ("One.", "Two."):
            made = client.post(
                "/api/v1/completions", {**asked, "text": text}, content_type="application/json"
            )
            ids.append(made.json()["id"])
        for body in (
            {"kind": "rating", "completion_id": ids[0], "value": 1},
            {"kind": "preference", "candidates": ids, "ranks": [1, 2]},
            {"kind": "correction", "completion_id": ids[1], "text": "Three."},
            {"kind": "flag", "completion_id": ids[1], "reason": "spam"},
        ):
            made = client.post("/api/v1/feedback", body, content_type="application/json")
            assert made.status_code == 201, made.content


# Spread over the last 30 days, by the number at the end of each id; answers have been timed, and every second
# one is of another version.
_NUMBER = "('x' || right(t.id::text, 12))::bit(48)::bigint"
SPREAD = [
    f"UPDATE {table} t SET created = now() - interval '1 second' * ({_NUMBER} * 7919 %% 2592000)"  # noqa: S608
    " WHERE project_id = %(project)s"
    for table in ("feedback_rating", "feedback_preference", "feedback_correction", "inference_prompt")
]
SPREAD += [
    f"""
    UPDATE inference_completion t SET created = now() - interval '1 second' * ({_NUMBER} * 7919 %% 2592000),
      version_id = v.id, version_label = 'bench@v' || v.number, ttft_ms = 80, gap_mean_ms = 10,
      gap_p99_ms = 20, total_ms = 900, tokens_in = 20, tokens_out = 50, finished = now()
    FROM inference_version v
    WHERE t.project_id = %(project)s AND v.project_id = t.project_id AND v.number = 1 + {_NUMBER} %% 2
    """,  # noqa: S608
    # A question to raters for each prompt, in the backlog.
    f"""
    INSERT INTO feedback_task (id, project_id, kind, source, prompt_id, candidate_set, overlap, held, done,
      is_open, outcome, priority, chance, uncertainty, strategy, created)
    SELECT ident(6, {_NUMBER}), project_id, 'compare', 'import', id, md5(id::text), 1, 0, 0,
      true, '', 0, random(), 0, '', now()
    FROM inference_prompt t WHERE project_id = %(project)s
    """,  # noqa: S608
    f"""
    INSERT INTO feedback_task_completions (task_id, completion_id)
    SELECT ident(6, {_NUMBER}), ident(2, {_NUMBER} * 4 + side)
    FROM inference_prompt t, generate_series(0, 1) AS side WHERE project_id = %(project)s
    """,  # noqa: S608
    "VACUUM ANALYZE",
]


if __name__ == "__main__":
    sys.exit(main())
