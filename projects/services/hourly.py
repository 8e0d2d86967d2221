"""Numbers that pages show of rows without number: counted once by the hour, and kept.

A schedule counts what came since it was last there (`count_hours`). Who asks (`sums`) gets the sum of what is
kept and, counted at that moment, of what is not: the last minutes, the ends of a window. So no number is old,
and an answer reads as many rows as some minutes brought.

What a Series counts must not change once it is counted: judgements that were made, answers that have ended.
Judgements that were taken back since are few; they have an index, and are subtracted when somebody asks. What
goes for good is told by `count_again`, in the transaction that takes it away, and is counted live until the
schedule has been there. `recount` looks for what slipped through: a transaction that was open for longer than
GRACE, rows that were changed by hand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Aggregate, Count, F, Q, QuerySet, Sum, Value
from django.db.models.functions import TruncHour
from django.db.models.functions.datetime import TruncBase
from django.utils import timezone

from projects.models import CountedUntil, HourlyCount, Project

# Rows get their time before they are committed: they are counted when the last of them surely are.
GRACE = timedelta(minutes=2)
HOUR = timedelta(hours=1)
AT_ONCE = 1_000

Sums = dict[str, float]  # by measure; every measure of the series is there


@dataclass(frozen=True)
class Series:
    """Rows of a project, and what is summed up of them."""

    name: str
    rows: Callable[[Project], QuerySet[Any]]
    created: str = "created"  # the field that says when
    label: str = ""  # the field that says of which sort; empty for one sort
    measures: Mapping[str, Aggregate] = field(default_factory=lambda: {"count": Count("pk")})
    # Which of its rows do not stand any more.
    gone: Q | None = None
    # Rows that will belong to it: what came after the first of them waits.
    pending: Callable[[Project], QuerySet[Any]] | None = None


def sums(series: Series, project: Project, since: datetime | None = None) -> dict[str, Sums]:
    """By label, of all rows that stand, or of those created since then."""
    return sums_of([series], project, since)[series.name]


def sums_of(
    several: Sequence[Series], project: Project, since: datetime | None = None
) -> dict[str, dict[str, Sums]]:
    """The same for several series, by name and label, with one look at what is kept."""
    found: dict[str, dict[str, Sums]] = {series.name: {} for series in several}
    nothing = {series.name: dict.fromkeys(series.measures, 0.0) for series in several}
    for name, label, _, measure, value in _parts(several, project, since, None):
        found[name].setdefault(label, {**nothing[name]})[measure] += value
    return found


def sums_by_step(
    series: Series, project: Project, since: datetime, step: type[TruncBase]
) -> dict[tuple[datetime, str], Sums]:
    """By (beginning, label), oldest first; `step` is TruncHour or longer, or shorter in the last hour.

    Kept hours are UTC's: where the time zone is off by half an hour, one hour may count for the day before.
    """
    found: defaultdict[tuple[datetime, str], Sums] = defaultdict(lambda: dict.fromkeys(series.measures, 0.0))
    for _, label, begin, measure, value in _parts([series], project, since, step):
        found[begin, label][measure] += value
    return {key: found[key] for key in sorted(found)}


def count_hours(*, project: Project, series: Sequence[Series], now: datetime | None = None) -> bool:
    """Count what came since the last time, and keep it. False when that is nothing, or it was forgotten
    meanwhile.
    """
    mark, _ = CountedUntil.objects.get_or_create(project=project)
    end = (now or timezone.now()) - GRACE
    for one in series:
        if one.pending is not None:
            # Not Min: the database would look for the first by walking through all rows in order of time.
            end = min([end, *one.pending(project).order_by().values_list(one.created, flat=True)])
    if mark.until is not None and mark.until >= end:
        return False
    # Counted outside of the transaction, which on SQLite would keep all writers waiting.
    fresh = {_key(row): row for one in series for row in _counted(one, project, mark.until, end)}
    with transaction.atomic():
        ours = CountedUntil.objects.filter(pk=mark.pk, until=mark.until, edition=mark.edition)
        if not ours.update(until=end):
            return False
        if mark.until is not None:
            begun = HourlyCount.objects.filter(project=project, hour=_beginning(mark.until))
            for row in begun.filter(series__in=[one.name for one in series]):
                if _key(row) in fresh:
                    fresh[_key(row)].value += row.value
                    row.delete()
        HourlyCount.objects.bulk_create(fresh.values(), batch_size=AT_ONCE)
    return True


@transaction.atomic
def count_again(*, project: Project, since: datetime | None) -> None:
    """Forget what is kept from this hour on: rows of it go, in this transaction. None: nothing goes."""
    if since is None:
        return
    hour = _beginning(since)
    mark, _ = CountedUntil.objects.select_for_update().get_or_create(project=project)
    if mark.until is not None and mark.until > hour:
        mark.until = hour
        HourlyCount.objects.filter(project=project, hour__gte=hour).delete()
    mark.edition += 1
    mark.save(update_fields=["until", "edition"])


def recount(*, project: Project, series: Sequence[Series]) -> list[str]:
    """What differs between the kept counts and the rows, in words; from the first such hour on it is counted
    again.
    """
    mark = CountedUntil.objects.filter(project=project).first()
    if mark is None or mark.until is None:
        return []
    rows = HourlyCount.objects.filter(project=project, hour__lt=mark.until)
    kept = {_key(row): row.value for row in rows.iterator(AT_ONCE)}
    real = {_key(row): row.value for one in series for row in _counted(one, project, None, mark.until)}
    # Sums of milliseconds differ in their last digits by the order in which they were added.
    wrong = sorted(
        key
        for key in kept.keys() | real.keys()
        if abs(kept.get(key, 0) - real.get(key, 0)) > 1e-6 * max(1, abs(real.get(key, 0)))
    )
    if wrong:
        count_again(project=project, since=wrong[0][0])
        count_hours(project=project, series=series)
    return [
        f"{hour:%Y-%m-%d %H:%M} {' '.join(filter(None, names))}: kept {kept.get((hour, *names), 0):g},"
        f" counted {real.get((hour, *names), 0):g}"
        for hour, *names in wrong
    ]


def _parts(
    several: Sequence[Series], project: Project, since: datetime | None, step: type[TruncBase] | None
) -> Iterable[tuple[str, str, Any, str, float]]:
    """(series, label, beginning, measure, value): what is kept, the rows outside of it, less what is gone."""
    until = CountedUntil.objects.filter(project=project).values_list("until", flat=True).first()
    # The first whole hour of the window.
    first = since if since is None or since == _beginning(since) else _beginning(since) + HOUR
    is_kept = until is not None and (first is None or first < until)
    if is_kept:
        kept = HourlyCount.objects.filter(project=project, series__in=[one.name for one in several])
        kept = kept.filter(hour__lt=until, **({"hour__gte": first} if first is not None else {}))
        begin = step("hour") if step else Value("")
        summed = kept.order_by().values("series", "label", "measure", begin=begin).annotate(sum=Sum("value"))
        yield from summed.values_list("series", "label", "begin", "measure", "sum")
    for series in several:
        created = series.created
        inside = Q(**{f"{created}__gte": since}) if since is not None else Q()
        outside = inside
        if is_kept:
            outside = Q(**{f"{created}__gte": until})
            if first is not None and first != since:
                outside |= inside & Q(**{f"{created}__lt": first})
        rows, begin = series.rows(project), step(created) if step else Value("")
        for row in _grouped(series, rows.filter(outside), begin):
            yield series.name, *row
        if series.gone is not None:
            for label, at, measure, value in _grouped(series, rows.filter(inside, series.gone), begin):
                yield series.name, label, at, measure, -value


def _counted(
    series: Series, project: Project, begin: datetime | None, end: datetime
) -> Iterable[HourlyCount]:
    """The rows to keep, of what was created from `begin` to `end`."""
    rows = series.rows(project).filter(**{f"{series.created}__lt": end})
    rows = rows.filter(**{f"{series.created}__gte": begin}) if begin is not None else rows
    for label, hour, measure, value in _grouped(series, rows, TruncHour(series.created, tzinfo=UTC)):
        if value:
            yield HourlyCount(
                project=project, series=series.name, label=label, hour=hour, measure=measure, value=value
            )


def _grouped(series: Series, rows: QuerySet[Any], begin: Any) -> Iterable[tuple[str, Any, str, float]]:
    sort = F(series.label) if series.label else Value("")
    for found in rows.order_by().values(sort=sort, begin=begin).annotate(**series.measures):
        for measure in series.measures:
            yield found["sort"], found["begin"], measure, found[measure] or 0


def _key(row: HourlyCount) -> tuple[Any, ...]:
    return row.hour, row.series, row.label, row.measure


def _beginning(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
