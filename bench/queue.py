"""`make bench NAME=queue`: a million tasks, fifty raters, one web process, PostgreSQL.

The web process is the one of `make up`. Each rater is a session: it reads a question,
thinks, sends its answer, and gets the next question with it, as the page does. First at a pace that people do
not reach over an hour (5 s a judgement, so ten a second in all), then without thinking, to see how much there
is. Two clocks: of `claim_task` inside the web process, which is the claim; and of the client, from sending an
answer to having the next question, which is what a rater waits for. Meanwhile `fill-lines` runs every ten
seconds, as beat rings it. Afterwards every place is counted.
`python -m bench.queue --quick` takes 20,000 tasks and shorter phases.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from bench._claims import Claim, publish
from bench._load import percentile
from bench._postgres import postgres
from bench._stack import child_process, free_port

RATERS = 50
OVERLAP = 3
PAIRS = [(a, b) for a in range(1, 6) for b in range(a + 1, 6)]  # of the five answers to a prompt
THINK_SECONDS = 5.0
GOAL_MS = 25.0
CSRF = "c" * 32
TIMES = "BENCH_TIMES"  # where the web process writes how long each claim took

# Everything below `seed` needs Django, which is set up once the database has its address.


def main() -> int:
    if sys.argv[1:2] == ["serve"]:
        serve(int(sys.argv[2]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    tasks, seconds = (20_000, 20.0) if quick else (1_000_000, 120.0)
    with tempfile.TemporaryDirectory(prefix="ratchet-bench-") as folder, postgres() as url:
        os.environ |= {
            "DATABASE_URL": url,
            "BROKER_URL": "filesystem://",
            "VAR_DIR": folder,
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "SECRET_KEY": "a-key-for-the-bench-that-is-long-enough-for-every-check-of-django",
            "ENGINE_API_KEY": "bench",
            "LOG_LEVEL": "WARNING",
            TIMES: f"{folder}/times",
        }
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", "--no-input", verbosity=0)
        started = time.monotonic()
        cookies = seed(tasks)
        print(f"{tasks:,} tasks in {time.monotonic() - started:.0f} s", flush=True)
        print(explain(), flush=True)
        port = free_port()
        command = [sys.executable, "-m", "bench.queue", "serve", str(port)]
        ready = f"http://127.0.0.1:{port}/healthz"
        with child_process("web", command, dict(os.environ), Path(folder), ready, 120):
            paced = phase(port, cookies, seconds, THINK_SECONDS)
            flat = phase(port, cookies, seconds / 4, 0.0)
        claims = [*report(paced, f"{THINK_SECONDS:.0f} s a judgement each", GOAL_MS)]
        claims += report(flat, "without thinking", None)
        claims += checked(tasks, paced.answered + flat.answered)
    command_ = "make bench NAME=queue" if not quick else "python -m bench.queue --quick"
    publish("queue" if not quick else "queue-quick", command_, claims)
    return 0


def serve(port: int) -> None:
    """The web process, with a clock at `claim_task`: it must be there before the pages take its name."""
    import django
    import uvicorn

    django.setup()
    from feedback.services import queue

    claim_task = queue.claim_task
    times = Path(os.environ[TIMES]).open("a", buffering=1)  # noqa: SIM115 - for as long as the process lives

    def timed_claim(**asked: Any) -> Any:
        began = time.perf_counter()
        try:
            return claim_task(**asked)
        finally:
            times.write(f"{(time.perf_counter() - began) * 1000}\n")

    queue.claim_task = timed_claim
    uvicorn.run("config.asgi:application", port=port, access_log=False, log_level="warning")


def seed(tasks: int) -> list[str]:
    """One project, its raters (their sessions are returned), and `tasks` comparisons in the backlog.

    One row of each kind is made by the services and copied by SQL, since making them is not what is measured.
    """
    from django.db import connection

    from feedback.models import Task
    from feedback.services.tasks import create_compare_task
    from feedback.services.workbench import update_workbench
    from inference.models import Completion, Prompt
    from inference.services.prompts import record_prompt
    from projects.models import Membership, Project, User
    from projects.services import SYSTEM, add_member

    project = Project.objects.create(slug="bench", name="Bench", gate_share=0)
    cookies = []
    for number in range(RATERS):
        user = User.objects.create_user(f"rater-{number}")
        add_member(project=project, user=user, role=Membership.Role.RATER, actor=SYSTEM)
        cookies.append(session_of(user))
    weights = {"random": 0.5, "uncertain": 0.3, "newest": 0.2}
    update_workbench(project=project, actor=SYSTEM, overlap=OVERLAP, weights=weights)
    asked = [{"role": "user", "content": "How long does an egg boil?"}]
    prompt, _ = record_prompt(project=project, messages=asked)
    answers = [
        Completion.objects.create(project=project, prompt=prompt, text=f"{n} minutes.", state="finished")
        for n in range(2)
    ]
    task = create_compare_task(project=project, prompt=prompt, completions=answers)
    prompts = tasks // len(PAIRS)
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")  # the keys below are right by construction
    copy(Prompt, prompt.pk, f"generate_series(1, {prompts}) n", id="pg_temp.v7(n)", digest="md5(n::text)")
    copy(
        Completion,
        answers[0].pk,
        f"generate_series(1, {prompts}) p, generate_series(1, 5) n",
        id="pg_temp.v7(1000000000 + p * 5 + n)",
        prompt_id="pg_temp.v7(p)",
        text="'It takes ' || n || ' minutes.'",
    )
    copy(
        Task,
        task.pk,
        f"generate_series(1, {prompts}) p, generate_series(1, {len(PAIRS)}) n",
        id="pg_temp.v7(2000000000 + p::bigint * 10 + n)",
        prompt_id="pg_temp.v7(p)",
        candidate_set="md5(p || '-' || n)",
        chance="random()",
        uncertainty="random()",
    )
    through = Task.completions.through._meta.db_table
    values = ", ".join(f"({n}, {side})" for n, pair in enumerate(PAIRS, 1) for side in pair)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {through} (task_id, completion_id)"  # noqa: S608 - numbers of our own
            " SELECT pg_temp.v7(2000000000 + p::bigint * 10 + n), pg_temp.v7(1000000000 + p * 5 + side)"
            f" FROM generate_series(1, {prompts}) p, (VALUES {values}) pairs (n, side)"
        )
        cursor.execute("RESET session_replication_role")
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("CHECKPOINT")  # what was written here is not to be flushed while raters are at work
    return cookies


def session_of(user: Any) -> str:
    """A session of this user's, as signing in makes it: its cookie."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore

    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return str(session.session_key)


def copy(model: Any, template: Any, source: str, **columns: str) -> None:
    """A row for each of `source`, as the template but for `columns`, which are SQL."""
    from django.db import connection

    table = model._meta.db_table
    names = [field.column for field in model._meta.concrete_fields if not field.generated]
    quoted = ", ".join(f'"{name}"' for name in names)
    values = ", ".join(columns.get(name, f't."{name}"') for name in names)
    with connection.cursor() as cursor:
        cursor.execute(V7)
        cursor.execute(
            f"INSERT INTO {table} ({quoted})"  # noqa: S608 - names of our own
            f" SELECT {values} FROM {table} t, {source} WHERE t.id = %s",
            [template],
        )


# Ids that sort by their number, as UUIDv7 do by their time.
V7 = """CREATE OR REPLACE FUNCTION pg_temp.v7(n bigint) RETURNS uuid IMMUTABLE LANGUAGE sql AS $$
    SELECT (lpad(to_hex(1790000000000 + n), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8'
            || substr(md5(n::text), 4, 15))::uuid $$"""


@dataclass
class Phase:
    """Milliseconds of each claim in the web process, and of each answer with its next question."""

    seconds: float
    claims: list[float] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)
    answered: int = 0
    errors: list[str] = field(default_factory=list)


def phase(port: int, cookies: list[str], seconds: float, think: float) -> Phase:
    """All raters at work for so long."""
    from feedback import tasks

    found, times = Phase(seconds), Path(os.environ[TIMES])
    raters = [Rater(port, cookie, number) for number, cookie in enumerate(cookies)]
    until = time.monotonic() + think + seconds  # they begin apart
    before = len(times.read_text().split())
    threads = [threading.Thread(target=rater.work, args=(until, think, found)) for rater in raters]
    for thread in threads:
        thread.start()
    while (left := until - time.monotonic()) > 0:
        tasks.fill_lines()  # what the schedule does meanwhile
        time.sleep(min(10.0, left))
    for thread in threads:
        thread.join()
    found.claims = [float(one) for one in times.read_text().split()[before:]]
    return found


class Rater:
    """One session with its own connection, which sends what the page sends."""

    def __init__(self, port: int, cookie: str, number: int) -> None:
        self.http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.headers = {
            "Cookie": f"sessionid={cookie}; csrftoken={CSRF}",
            "X-CSRFToken": CSRF,
            "X-Partial": "work",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        self.dice = random.Random(number)

    def work(self, until: float, think: float, found: Phase) -> None:
        """Answer until the time is over. What goes wrong is noted, and ends this rater's work."""
        try:
            time.sleep(self.dice.random() * think)
            question = self.send("GET", "/p/bench/work/next")
            while time.monotonic() < until:
                time.sleep(self.dice.expovariate(1 / think) if think else 0)
                address = re.search(r"/p/bench/work/[0-9a-f-]{36}/answer", question)
                assert address, f"no question: {question[:300]}"
                body = urlencode(
                    {"answer": json.dumps({"verdict": self.verdict(question)}), "seconds": "4.5"}
                )
                began = time.perf_counter()
                question = self.send("POST", address[0], body)
                found.turns.append((time.perf_counter() - began) * 1000)
                found.answered += 1
        except (AssertionError, OSError, http.client.HTTPException) as error:
            found.errors.append(f"{type(error).__name__}: {error}")
        finally:
            self.http.close()

    def send(self, method: str, path: str, body: str = "") -> str:
        self.http.request(method, path, body, self.headers)
        response = self.http.getresponse()
        text = response.read().decode()
        self.http.close()  # a server closes a connection that is idle for as long as somebody thinks
        assert response.status == 200, f"{response.status} {text[:300]}"
        return text

    def verdict(self, question: str) -> str:
        """Four in five say what most say; random answers would all go to reviewers."""
        left, right = re.findall(r"(\d) minutes", question)[:2]
        better = "left" if left < right else "right"
        return better if self.dice.random() < 0.8 else "tie"


def explain() -> str:
    """The plan of the one query that finds a task."""
    from feedback.services.draw import draw_tasks
    from feedback.services.queue import FOR_RATERS, tasks_for
    from projects.models import Project, User

    project = Project.objects.get(slug="bench")
    draw_tasks(project=project, kinds=FOR_RATERS)
    return tasks_for(project, User.objects.get(username="rater-0"), FOR_RATERS)[:1].explain(analyze=True)


def report(seen: Phase, pace: str, goal: float | None) -> list[Claim]:
    p50, p99 = percentile(seen.claims, 0.5), percentile(seen.claims, 0.99)
    turn50, turn99 = percentile(seen.turns, 0.5), percentile(seen.turns, 0.99)
    who = f"{RATERS} raters, {pace}"
    return [
        Claim(
            claim=f"claim in the web process, p99, {who}",
            value=p99,
            unit="ms",
            goal="stated" if goal is None else f"<= {goal:.0f}",
            holds=goal is None or p99 <= goal,
            versus=f"p50 {p50:.1f} ms over {len(seen.claims):,}",
        ),
        Claim(
            claim=f"answer sent to next question had, at the client, p99, {who}",
            value=turn99,
            unit="ms",
            goal="stated",
            holds=True,
            versus=f"p50 {turn50:.1f} ms, {seen.answered / seen.seconds:.1f} judgements/s",
        ),
        Claim(
            claim=f"answers that were no 200, {who}",
            value=float(len(seen.errors)),
            unit="answers",
            goal="0",
            holds=not seen.errors,
            versus="; ".join(seen.errors[:2]),
        ),
    ]


def checked(tasks: int, answered: int) -> list[Claim]:
    """Every place counted from the rows themselves."""
    from django.db.models import Count, F, Q, Sum

    from feedback.models import Assignment, Preference, Task

    taken = (
        Assignment.objects.filter(state__in=("leased", "done"))
        .values("task")
        .annotate(leased=Count("pk", filter=Q(state="leased")), finished=Count("pk", filter=Q(state="done")))
    )
    counted = taken.annotate(overlap=F("task__overlap"), held=F("task__held"), done=F("task__done"))
    over = counted.filter(leased__gt=F("overlap") - F("finished")).count()
    wrong = counted.exclude(leased=F("held"), finished=F("done")).count()
    places = Task.objects.aggregate(held=Sum("held"), done=Sum("done"))
    wrong += abs(
        places["held"] + places["done"] - Assignment.objects.filter(state__in=("leased", "done")).count()
    )
    twice = Assignment.objects.values("task", "rater").annotate(n=Count("pk")).filter(n__gt=1).count()
    lost = answered - Preference.objects.count()
    return [
        Claim(claim="tasks", value=float(Task.objects.count()), unit="rows", goal=f"{tasks:,}",
              holds=Task.objects.count() >= tasks),
        Claim(claim="tasks over their overlap", value=float(over), unit="tasks", goal="0", holds=over == 0),
        Claim(claim="leases held twice", value=float(twice), unit="leases", goal="0", holds=twice == 0),
        Claim(claim="tasks counted wrongly", value=float(wrong), unit="tasks", goal="0", holds=wrong == 0),
        Claim(claim="answers lost", value=float(lost), unit="answers", goal="0", holds=lost == 0),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
