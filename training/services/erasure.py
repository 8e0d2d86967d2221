"""Erase a person: a row says how far it came, so that a worker that is killed in the middle is replaced.

The order is what makes it safe to repeat. First the door is shut. Then the datasets that hold the person are
found, marked and written down, while their judgements still say which these are. Then the files go, then the
rows. At last everything is counted again; what came meanwhile starts another round. The person's name stands
in the row until the end, and is gone from it with the rest.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.db import IntegrityError, connection, transaction
from django.db.models import F, Q
from django.utils import timezone

from feedback.services import erasure as said
from inference.artifact import MANIFEST, write_atomically
from inference.models import Deployment, Version
from inference.services import erasure as asked
from projects.errors import Conflict, NotFound
from projects.models import Project, User
from projects.people import Person
from projects.services import Actor, record_audit
from projects.services import erasure as known
from training.models import Compilation, Dataset, Erasure, Pipeline, Run
from training.services.compiler import compile_dataset
from training.services.data.index import FEEDBACK, SOURCES, ids_of
from training.services.data.rows import Watch
from training.services.descent import runs_from, versions_read
from training.services.methods import METHODS
from training.services.numbers import create_numbered
from training.services.pipelines import start_pipeline
from training.services.runs import RunOver, cancel_run, create_run

LEASE = timedelta(minutes=10)
LATE = timedelta(hours=1)  # an answer that was in the making is over by then
ROUNDS = 3  # of counting again, while new data of the person comes in


@dataclass(frozen=True)
class Foretold:
    """What an erasure would do, without doing any of it."""

    counts: dict[str, int]
    datasets: list[Dataset]
    versions: list[Version]
    anonymises: bool  # False also where that was asked for and their labels do not count in full
    closes_account: bool

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def find_person(*, project: Project, user: str = "", subject: str = "") -> Person:
    """A member by name, also a former one, or an end user by external id. Raises Invalid, NotFound."""
    if not user:
        return Person(project=project, subject=subject)
    if subject:
        return Person(project=project, user=User(), subject=subject)  # raises: one of the two
    found = User.objects.filter(username=user).first()
    if found is None or not (
        found.memberships.filter(project=project).exists()
        or any(_written(Person(project=project, user=found)).values())
    ):
        raise NotFound("There is no such member in this project.", param="user")
    return Person(project=project, user=found)


def foretell_erasure(person: Person, *, mode: str) -> Foretold:
    """Counts by what is held, and the datasets and versions that it would mark."""
    anonymises = mode == Erasure.Mode.ANONYMISE and said.can_be_anonymised(person)
    marked = _holding(person, anonymises=anonymises)
    datasets = [one for one, _ in marked]
    user = person.user
    return Foretold(
        counts=_counts(person),
        datasets=datasets,
        versions=_versions_of(datasets),
        anonymises=anonymises,
        closes_account=user is not None
        and not user.is_staff
        and not user.memberships.exclude(project=person.project).exists(),
    )


def request_erasure(*, person: Person, mode: str, reason: str = "", actor: Actor) -> tuple[Erasure, bool]:
    """Queue it; the one under way when there is one, and whether it is that. Ring the bell after it."""
    project = person.project
    same = Erasure.objects.filter(project=project, status__in=Erasure.ACTIVE)
    same = same.filter(user=person.user) if person.user is not None else same.filter(subject=person.subject)
    if found := same.first():
        return found, True
    try:
        erasure = create_numbered(
            Erasure,
            project=project,
            user=person.user,
            subject=person.subject,
            mode=mode,
            reason=reason,
            pseudonym=f"erased-{secrets.token_hex(6)}",
            secret=secrets.token_hex(16),
            requested_by=actor.user,
            api_key=actor.api_key,
        )
    except IntegrityError:
        return same.get(), True  # another request was faster
    record_audit(
        project=project,
        actor=actor,
        action="person.erasing",
        subject=f"erasure:{erasure.number}",
        detail={"mode": mode, "who": "member" if person.user is not None else "end user"},
    )
    return erasure, False


def tick_erasures() -> None:
    """Go on with each that waits, or whose worker is gone; and take away what was answered to it late."""
    for erasure in Erasure.objects.filter(finished__gte=timezone.now() - LATE).select_related("project"):
        asked.erase_late_answers(erasure.project, erasure.created)
    for id_ in Erasure.objects.filter(status__in=Erasure.ACTIVE).values_list("pk", flat=True):
        run_erasure(id_)


def run_erasure(id_: UUID) -> Erasure | None:
    """All that is left of it; None while another is at it. Raises what a step raised; it is tried again."""
    now = timezone.now()
    free = Erasure.objects.filter(pk=id_, status=Erasure.Status.WAITING) | Erasure.objects.filter(
        pk=id_, status=Erasure.Status.RUNNING, lease_until__lt=now
    )
    if not free.update(status=Erasure.Status.RUNNING, lease_until=now + LEASE):
        return None
    erasure = Erasure.objects.select_related("project", "user").get(pk=id_)
    try:
        _work(erasure)
    except BaseException:
        Erasure.objects.filter(pk=id_).update(lease_until=now)  # the next bell goes on at once
        raise
    return erasure


def retrain_without(
    *, erasure: Erasure, actor: Actor, id_: UUID | None = None, watch: Watch | None = None
) -> Run:
    """Compile anew what the person was taken out of, and train on it as the newest marked version was.

    What a pipeline made of marked versions is made by that pipeline anew, and its first run is returned. Else
    a marked reward model comes first, since others read it; and where a run went on with an adapter, it does
    so again. Raises NotFound where nothing was trained on them, Conflict for a marked adapter that cannot be
    gone on with, and what compile_dataset and create_run raise.
    """
    run, is_pipeline = find_retraining(erasure)
    if is_pipeline:
        assert run.pipeline is not None  # noqa: S101 - it is one
        pipeline = start_pipeline(
            project=erasure.project,
            name=run.pipeline.name,
            configs=run.pipeline.configs,
            filters=run.pipeline.filters,
            actor=actor,
            id_=id_,
            watch=watch,
        )
        return pipeline.runs.get()
    dataset = compile_dataset(
        project=erasure.project,
        format=run.dataset.format,
        filters=run.dataset.filters,
        actor=actor,
        watch=watch,
    )
    return create_run(
        project=erasure.project,
        method=run.method,
        dataset=dataset,
        config=run.config,
        reward=None,
        start=run.start,
        seed=run.seed,
        actor=actor,
        id_=id_,
    )


def find_retraining(erasure: Erasure) -> tuple[Run, bool]:
    """The run to do again without the person, and whether it is its whole pipeline. Raises as above."""
    if erasure.status != Erasure.Status.DONE:
        raise Conflict(f"Erasure {erasure.number} is not done yet.", code="erasure_unfinished")
    numbers = [one["number"] for one in erasure.versions]
    runs = Run.objects.filter(project=erasure.project, version__number__in=numbers).select_related(
        "dataset", "start", "pipeline"
    )
    newest = runs.first()
    if newest is None:
        raise NotFound("No version learned from this person: there is nothing to train anew.")
    marked = {run.version_id for run in runs}
    if newest.pipeline is not None and marked.intersection(versions_read(newest)):
        return newest, True
    newest = next((run for run in runs if METHODS[run.method].makes == Version.Kind.REWARD), newest)
    if newest.start is not None and newest.start_id in marked:
        raise Conflict(
            f"{newest.start.label}, which it went on with, learned from this person too. "
            "Train one in its place first.",
            code="start_erased",
        )
    return newest, False


# --- the work --------------------------------------------------------------------------------------------
def _work(erasure: Erasure) -> None:
    person = _person_of(erasure)
    anonymises = erasure.mode == Erasure.Mode.ANONYMISE and said.can_be_anonymised(person)
    _note_before(erasure, person)
    known.shut_out(person)
    for _ in range(ROUNDS):
        _mark(erasure, _holding(person, anonymises=anonymises))
        _remove_files(erasure)
        _erase_rows(erasure, person, anonymises=anonymises)
        after = _counts(person)
        if not any(after.values()):
            break
    _finish(erasure, person, after, anonymises=anonymises)


def _note_before(erasure: Erasure, person: Person) -> None:
    """The first count. A worker that takes over would find less."""
    if not erasure.before:
        erasure.before = _counts(person)
        erasure.save(update_fields=["before"])


def _mark(erasure: Erasure, found: list[tuple[Dataset, int]]) -> None:
    """Write down the datasets and versions that hold the person, and call off what learns from them now."""
    listed = {one["number"]: one for one in erasure.datasets}
    for dataset, held in found:
        listed.setdefault(
            dataset.number,
            {
                "number": dataset.number,
                "format": dataset.format,
                "digest": dataset.digest,
                "rows": dataset.rows + dataset.heldout_rows,
                "held": held,
            },
        )
    versions = _versions_of([dataset for dataset, _ in found])
    serving = set(Deployment.objects.filter(project=erasure.project).values_list("champion", flat=True)[:1])
    marked = {one["number"]: one for one in erasure.versions}
    with transaction.atomic():
        for version in versions:
            if version.number not in marked:
                held = sum(held for dataset, held in found if dataset.pk == version.run.dataset_id) or 1
                Version.objects.filter(pk=version.pk).update(erased_behind=F("erased_behind") + held)
                marked[version.number] = {
                    "number": version.number,
                    "digest": version.digest,
                    "serves": version.pk in serving,
                }
        Dataset.objects.filter(pk__in=[dataset.pk for dataset, _ in found]).update(
            status=Dataset.Status.ERASED
        )
        erasure.datasets = [listed[number] for number in sorted(listed)]
        erasure.versions = [marked[number] for number in sorted(marked)]
        erasure.save(update_fields=["datasets", "versions"])
    told = Run.objects.filter(dataset__in=[one for one, _ in found]).exclude(message="")
    told.update(message="Its words are gone with a person who was erased.")  # a failure can quote its data
    for run in Run.objects.filter(dataset__in=[one for one, _ in found], status__in=Run.ACTIVE):
        try:
            cancel_run(run=run, actor=Actor())
        except RunOver:
            continue


def _remove_files(erasure: Erasure) -> None:
    """Rows of marked datasets, and what their runs kept of them. Manifests, ids and weights stay."""
    numbers = [one["number"] for one in erasure.datasets]
    for dataset in Dataset.objects.filter(project=erasure.project, number__in=numbers):
        for path in dataset.folder.glob("*.parquet"):
            path.unlink(missing_ok=True)
        for run in dataset.runs.all():
            for path in run.folder.glob("dataset*"):  # and copies that a killed start left
                shutil.rmtree(path, ignore_errors=True)
            shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
            # A log can quote what is trained on, and rows of a judging run are answers.
            (run.folder / "log.txt").unlink(missing_ok=True)
            for path in run.folder.glob("artifact/*.parquet"):
                path.unlink(missing_ok=True)


def _erase_rows(erasure: Erasure, person: Person, *, anonymises: bool) -> None:
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA secure_delete = ON")  # what is freed is overwritten
    prompts = _prompts_of(person)
    said.close_tasks(prompts)
    said.erase_judgements(person, pseudonym=erasure.pseudonym, secret=erasure.secret, anonymise=anonymises)
    asked.erase_texts(person, prompts)
    said.erase_about(person)
    # Previews quote rows, and filters name raters; what waits without either is not lost.
    bare = Q(status=Compilation.Status.WAITING, kind__in=(Compilation.Kind.RUN, Compilation.Kind.RETRAIN))
    Compilation.objects.filter(~bare, project=person.project).delete()
    if not anonymises:
        asked.drop_conversations(person, said.judged_by_others(prompts))
    _rename_in_specs(person, erasure.pseudonym)
    known.erase_traces(person, erasure.pseudonym)


def _rename_in_specs(person: Person, pseudonym: str) -> None:
    """Filters name raters: in rows, and in manifests, whose digest is of the data alone."""
    for dataset in Dataset.objects.filter(project=person.project):
        filters, manifest = (
            known.renamed(value, person, pseudonym) for value in (dataset.filters, dataset.manifest)
        )
        if (filters, manifest) == (dataset.filters, dataset.manifest):
            continue
        Dataset.objects.filter(pk=dataset.pk).update(filters=filters, manifest=manifest)
        folders = [dataset.folder, *(run.folder / "dataset" for run in dataset.runs.all())]
        for path in (folder / MANIFEST for folder in folders):
            if path.exists():
                write_atomically(path, json.dumps(manifest, indent=2, sort_keys=True).encode())
    for pipeline in Pipeline.objects.filter(project=person.project):
        filters = known.renamed(pipeline.filters, person, pseudonym)
        if filters != pipeline.filters:
            Pipeline.objects.filter(pk=pipeline.pk).update(filters=filters)


def _finish(erasure: Erasure, person: Person, after: dict[str, int], *, anonymises: bool) -> None:
    closed = known.close_account(person, erasure.pseudonym)
    with transaction.atomic():
        erasure.after = after
        erasure.remains = _remains(erasure, person, anonymises=anonymises, closed=closed)
        erasure.status = Erasure.Status.DONE
        erasure.user, erasure.subject, erasure.secret = None, "", ""
        erasure.lease_until, erasure.finished = None, timezone.now()
        erasure.save()
        record_audit(
            project=erasure.project,
            actor=Actor(user=erasure.requested_by, api_key=erasure.api_key),
            action="person.erased",
            subject=f"erasure:{erasure.number}",
            detail={
                "mode": erasure.mode,
                "datasets": [one["number"] for one in erasure.datasets],
                "versions": [one["number"] for one in erasure.versions],
            },
        )
    if connection.vendor == "sqlite" and not connection.in_atomic_block:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the log still has the pages as they were


def _remains(
    erasure: Erasure, person: Person, *, anonymises: bool, closed: bool
) -> list[dict[str, str | int]]:
    """What is left and why, in words that name nobody."""
    left: list[dict[str, str | int]] = []

    def note(what: str, count: int, why: str) -> None:
        if count:
            left.append({"what": what, "count": count, "why": why})

    kinds = ("ratings", "preferences", "flags")
    if anonymises:
        note(
            "judgements under a pseudonym",
            sum(erasure.before.get(kind, 0) for kind in kinds),
            "Anonymised, as was asked: values and ranks without name, comment or place in the queue.",
        )
    elif erasure.mode == Erasure.Mode.ANONYMISE:
        note(
            "judgements removed that were to be anonymised",
            sum(erasure.before.get(kind, 0) for kind in kinds),
            "Their weight was below 1 or they were quarantined, which without a name cannot be respected.",
        )
    note(
        "manifests and id files of datasets",
        len(erasure.datasets),
        "Proof of what was erased: digests, counts and random ids, no text. The rows are deleted.",
    )
    note(
        "weights of versions that learned from them",
        len(erasure.versions),
        "Weights hold no row that could be read back; they are marked, and can be trained anew without them.",
    )
    note(
        "tombstones of prompts",
        erasure.before.get("prompts", 0),
        "Rows without their text, where judgements of others or numbers of answers hang on them.",
    )
    note(
        "answers to others' questions",
        erasure.before.get("answers to others' questions", 0),
        "Others asked the same in the same words; this person's id is gone from the answers.",
    )
    if person.user is not None and not closed:
        note("account", 1, "It belongs to other projects, or to an operator, and stays theirs.")
    elif closed:
        note("account without a name", 1, "The audit log says which row acted; nobody can sign in as it.")
    note(
        "backups, and the database's own logs",
        1,
        "Outside of Ratchet's reach: they go by the retention that you keep (PostgreSQL: row versions until "
        "VACUUM, and archived WAL).",
    )
    return left


# --- what is theirs --------------------------------------------------------------------------------------
def _person_of(erasure: Erasure) -> Person:
    return Person(project=erasure.project, user=erasure.user, subject=erasure.subject)


def _prompts_of(person: Person) -> list[UUID]:
    return asked.own_prompts(person, battles=said.battle_prompts(person))


def _counts(person: Person) -> dict[str, int]:
    return {**_written(person), **known.holdings(person)}


def _written(person: Person) -> dict[str, int]:
    return {**said.holdings(person), **asked.holdings(person, _prompts_of(person))}


def _holding(person: Person, *, anonymises: bool) -> list[tuple[Dataset, int]]:
    """Datasets whose rows come from what will be erased, and from how many ids of it each."""
    judgements = list(said.judgement_ids(person, corrections_only=anonymises))
    prompts = _prompts_of(person)
    sources = [*prompts, *asked.answers_to(prompts)]
    found = []
    for dataset in Dataset.objects.filter(project=person.project, status=Dataset.Status.READY):
        held = _count(dataset, FEEDBACK, judgements) + _count(dataset, SOURCES, sources)
        if held:
            found.append((dataset, held))
    return found


def _count(dataset: Dataset, name: str, wanted: Sequence[UUID]) -> int:
    with ids_of(dataset.folder, name) as ids:
        return len(ids.among(wanted))


def _versions_of(datasets: list[Dataset]) -> list[Version]:
    """What learned from these datasets, and what was rewarded by or went on with one that did."""
    every = Run.objects.filter(version__isnull=False).select_related("version__run")
    runs = list(every.filter(dataset__in=datasets))
    made = [run.version for run in [*runs, *runs_from(runs, every)] if run.version is not None]
    return sorted({one.pk: one for one in made}.values(), key=lambda one: one.number)
