"""`make bench NAME=queue`: a million tasks, fifty raters with a connection each, on PostgreSQL.

Each rater is a process that claims, thinks and answers through the services that the pages call. First at a
pace that people do not reach (one judgement a second each), then without thinking at all. Meanwhile
`fill-lines` runs every ten seconds, as beat rings it. Afterwards every place is counted.
`python -m bench.queue --quick` takes 20,000 tasks and shorter phases.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from bench._claims import Claim, publish
from bench._load import percentile
from bench._postgres import postgres

RATERS = 50
OVERLAP = 3
PAIRS = [(a, b) for a in range(1, 6) for b in range(a + 1, 6)]  # of the five answers to a prompt

# Everything below `seed` needs Django, which is set up once the database has its address.


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    tasks, seconds = (20_000, 10.0) if quick else (1_000_000, 60.0)
    with postgres() as url:
        os.environ |= {
            "DATABASE_URL": url,
            "BROKER_URL": "filesystem://",
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "SECRET_KEY": "a-key-for-the-bench-that-is-long-enough-for-every-check-of-django",
            "ENGINE_API_KEY": "bench",
            "LOG_LEVEL": "WARNING",
        }
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", "--no-input", verbosity=0)
        started = time.monotonic()
        seed(tasks)
        print(f"{tasks:,} tasks in {time.monotonic() - started:.0f} s", flush=True)
        print(explain(), flush=True)
        paced = phase(seconds, think=1.0)
        flat = phase(seconds / 2, think=0.0)
        claims = [*report(paced, "at one judgement a second each", 25.0), *report(flat, "flat out", None)]
        claims += checked(tasks, len(paced["answer"]) + len(flat["answer"]))
    command = "make bench NAME=queue" if not quick else "python -m bench.queue --quick"
    publish("queue" if not quick else "queue-quick", command, claims)
    return 0 if all(claim.holds for claim in claims) else 1


def seed(tasks: int) -> None:
    """One project, its raters, and `tasks` comparisons in the backlog.

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
    for number in range(RATERS):
        user = User.objects.create_user(f"rater-{number}")
        add_member(project=project, user=user, role=Membership.Role.RATER, actor=SYSTEM)
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
        cursor.execute("VACUUM ANALYZE")


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


def phase(seconds: float, think: float) -> dict[str, list[float]]:
    """All raters at work for so long. Milliseconds of each claim and answer."""
    from django.db import connection

    connection.close()
    connection.close_pool()  # type: ignore[attr-defined]  # PostgreSQL's; each process has its own, of one connection
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()
    until = context.Value("d", 0.0)
    ready = context.Barrier(RATERS + 1)
    workers = [context.Process(target=rate, args=(n, ready, until, think, results)) for n in range(RATERS)]
    for worker in workers:
        worker.start()
    until.value = time.monotonic() + 3600
    ready.wait(120)  # all are connected and hold a first task
    until.value = time.monotonic() + seconds
    workers.append(context.Process(target=beat, args=(until.value,)))
    workers[-1].start()
    found: dict[str, list[float]] = {"claim": [], "answer": []}
    for _ in range(RATERS):
        one = results.get(timeout=seconds + 60)
        for name, times in one.items():
            found[name] += times
    for worker in workers:
        worker.join()
    return found


def rate(number: int, ready: Any, until: Any, think: float, results: Any) -> None:
    """One rater's session."""
    from feedback.services.answers import answer_task
    from feedback.services.queue import claim_task
    from projects.models import Project, User

    project, rater = Project.objects.get(slug="bench"), User.objects.get(username=f"rater-{number}")
    dice = random.Random(number)
    times: dict[str, list[float]] = {"claim": [], "answer": []}
    claim_task(project=project, rater=rater)
    ready.wait(120)
    time.sleep(dice.random() * think)
    while time.monotonic() < until.value:
        assignment = timed(times["claim"], lambda: claim_task(project=project, rater=rater))
        assert assignment is not None, "the backlog ran out"
        time.sleep(dice.expovariate(1 / think) if think else 0)
        # Four in five say what most say; random answers would all go to reviewers.
        first = assignment.shown[0] == min(assignment.shown)
        verdict = ("left" if first else "right") if dice.random() < 0.8 else "tie"
        timed(
            times["answer"],
            lambda: answer_task(assignment=assignment, answer={"verdict": verdict}, seconds_spent=think),  # noqa: B023 - called at once
        )
    results.put(times)


def beat(until: float) -> None:
    """What the schedule does meanwhile."""
    from feedback import tasks

    while time.monotonic() < until:
        tasks.fill_lines()
        time.sleep(min(10.0, max(0.0, until - time.monotonic())))


def timed(times: list[float], call: Callable[[], Any]) -> Any:
    started = time.monotonic()
    found = call()
    times.append((time.monotonic() - started) * 1000)
    return found


def explain() -> str:
    """The plan of the one query that finds a task."""
    from feedback.services.draw import draw_tasks
    from feedback.services.queue import FOR_RATERS, tasks_for
    from projects.models import Project, User

    project = Project.objects.get(slug="bench")
    draw_tasks(project=project, kinds=FOR_RATERS)
    return tasks_for(project, User.objects.get(username="rater-0"), FOR_RATERS)[:1].explain(analyze=True)


def report(times: dict[str, list[float]], pace: str, goal: float | None) -> list[Claim]:
    claims = []
    for name in ("claim", "answer"):
        p50, p99 = percentile(times[name], 0.5), percentile(times[name], 0.99)
        limit = goal if name == "claim" else None
        claims.append(
            Claim(
                claim=f"{name} p99, {RATERS} raters {pace}",
                value=p99,
                unit="ms",
                goal="stated" if limit is None else f"<= {limit:.0f}",
                holds=limit is None or p99 <= limit,
                versus=f"p50 {p50:.1f} ms over {len(times[name]):,}",
            )
        )
    return claims


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
