"""`make bench NAME=pages`: every page and list with a million judgements, on PostgreSQL.

One project with a million judgements on 100,000 prompts (as bench/compile.py makes them), one with forty.
Each page is fetched as a rater or a manager, each list of the API with a manager's key, each list of the
console as an operator (not its search, which reads every text), through Django without a network. The time
is the best of three after a first one; queries are counted, and the small project must need as many.
`--quick` takes 50,000 judgements;
`--database URL` takes a database that this bench has filled before.
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
    parser.add_argument("--database", help="of an earlier run, filled already")
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
        if options.database:
            claims = measure(options.database)
        else:
            # Nothing here is about durability, and filling is half of the time.
            with postgres(fsync="off", synchronous_commit="off") as url:
                fill(url, JUDGEMENTS // 20 if options.quick else JUDGEMENTS)
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
    claims = []
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

    from inference.models import Completion
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
        with connection.cursor() as cursor:
            for statement in SPREAD:
                cursor.execute(statement, {"project": project.pk} if "%" in statement else None)
    completion = Completion.objects.filter(project=project).order_by("pk")[:1].get()
    now = timezone.now()
    clients["ids"] = {
        "completion": str(completion.pk),
        "prompt": str(completion.prompt_id),
        "rater": str(User.objects.get(username=f"{slug}-rater").pk),
        "since": (now - timezone.timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "until": (now - timezone.timedelta(days=20)).strftime("%Y-%m-%dT%H:%M:%SZ"),
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


# Spread over the last 30 days, by the number at the end of each id; answers have been timed.
_NUMBER = "('x' || right(id::text, 12))::bit(48)::bigint"
SPREAD = [
    f"UPDATE {table} SET created = now() - interval '1 second' * (({_NUMBER}) * 7919 %% 2592000)"  # noqa: S608
    f"{more} WHERE project_id = %(project)s"
    for table, more in (
        ("feedback_rating", ", rater_id = NULL"),
        ("feedback_preference", ""),
        ("feedback_correction", ""),
        ("inference_prompt", ""),
        ("inference_completion", ", ttft_ms = 80, gap_mean_ms = 10, gap_p99_ms = 20, total_ms = 900,"
         " tokens_in = 20, tokens_out = 50, finished = now()"),
    )
] + ["VACUUM ANALYZE"]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
