"""A lineage as a picture: six columns of cards, and lines between neighbours. Rows are the unit of height."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from django.urls import reverse
from django.utils.formats import date_format
from django.utils.translation import gettext, ngettext
from django.utils.translation import pgettext as said_of

from feedback.models import Correction, Feedback, Flag, Preference, Rating
from projects.models import Project
from training.services.lineage import Lineage, behind

CARDS = 8  # a column; the newest are shown, and how many more there are
ROW = 7.25  # rem from card to card, as the stylesheet has it
MIDDLE = 0.448  # of a card, in rows: below it is a gap


@dataclass
class Card:
    """`after`: the cards of the column before that it comes from, by their keys."""

    key: str
    title: str
    lines: list[str]
    url: str = ""
    state: str = ""
    is_start: bool = False
    after: list[str] = field(default_factory=list)
    from_words: str = ""


@dataclass
class Column:
    """`paths` lead here from the column before, in a box ten wide and `rows` high."""

    key: str
    title: str
    cards: list[Card]
    none: str
    more: int = 0
    rows: int = 1
    paths: list[str] = field(default_factory=list)

    @property
    def height(self) -> str:
        return f"{self.rows * ROW:g}rem"


def flow_of(project: Project, lineage: Lineage) -> list[Column]:
    columns = [
        _column("judgements", gettext("Judgements"), _judgements(project, lineage), gettext("None.")),
        _column("datasets", gettext("Datasets"), _datasets(project, lineage), gettext("In none yet.")),
        _column("runs", gettext("Runs"), _runs(project, lineage), gettext("None learned from it.")),
        _column("versions", gettext("Versions"), _versions(project, lineage), gettext("None was made.")),
        _column("verdicts", gettext("Verdicts"), _verdicts(project, lineage), gettext("None was asked for.")),
        _column(
            "deployments", gettext("Deployments"), _deployments(project, lineage), gettext("It never served.")
        ),
    ]
    rows = max(1, *(len(column.cards) for column in columns))
    for before, column in zip([None, *columns], columns, strict=False):
        column.rows = rows
        if before is not None:
            column.paths = _paths(before, column)
    return columns


def what_it_says(row: Feedback) -> str:
    """One judgement in a few words, without anybody's text."""
    if isinstance(row, Rating):
        return f"{row.aspect} {row.value:+d}"
    if isinstance(row, Preference):
        if row.all_bad:
            return said_of("judgement", "all are bad")
        ranks = [side.rank for side in row.candidates.all()]
        match ranks:
            case [int(left), int(right)] if left == right:
                return said_of("judgement", "both are the same")
            case [int(left), int(right)] if left < right:
                return said_of("judgement", "the left one is better")
            case [int(), int()]:
                return said_of("judgement", "the right one is better")
        order = " : ".join(str(rank) for rank in ranks)
        return gettext("ranks %(order)s, as shown") % {"order": order}
    if isinstance(row, Flag):
        return row.get_reason_display()
    return gettext("a better text") if isinstance(row, Correction) else ""


def kind_of(row: Feedback) -> str:
    names = {
        Rating: gettext("Rating"),
        Preference: gettext("Comparison"),
        Correction: gettext("Correction"),
        Flag: gettext("Flag"),
    }
    return names[type(row)]


def standing_of(row: Feedback) -> str:
    if row.retracted is not None:
        return gettext("taken back")
    return gettext("superseded") if row.superseded is not None else ""


# --- columns ---------------------------------------------------------------------------------------------
def _judgements(project: Project, lineage: Lineage) -> list[Card]:
    row = lineage.judgement
    if row is not None:
        lines = [what_it_says(row), date_format(row.created, "Y-m-d H:i"), standing_of(row)]
        return [Card("judgement", kind_of(row), [line for line in lines if line], is_start=True)]
    return [
        Card(
            f"of-{one.number}",
            ngettext("%(n)s judgement", "%(n)s judgements", behind(one)) % {"n": f"{behind(one):,}"},
            _judges(one.manifest.get("counts", {}).get("judges")),
            url=f"?dataset={one.number}#behind",
        )
        for one in lineage.datasets
        if behind(one)
    ]


def _judges(count: int | None) -> list[str]:
    return [ngettext("by %(n)d judge", "by %(n)d judges", count) % {"n": count}] if count else []


def _datasets(project: Project, lineage: Lineage) -> list[Card]:
    return [
        Card(
            f"dataset-{one.number}",
            gettext("Dataset %(n)d") % {"n": one.number},
            [one.format, gettext("%(n)s rows") % {"n": f"{one.rows + one.heldout_rows:,}"}],
            url=_at("dataset", project, one.number),
            state=one.status if one.status != "ready" else "",
            is_start=lineage.start == "dataset",
            after=["judgement"] if lineage.judgement is not None else [f"of-{one.number}"],
        )
        for one in lineage.datasets
    ]


def _runs(project: Project, lineage: Lineage) -> list[Card]:
    return [
        Card(
            f"run-{one.number}",
            gettext("Run %(n)d") % {"n": one.number},
            [
                one.method,
                *([gettext("rewarded by v%(n)d") % {"n": one.reward.number}] if one.reward else []),
                *([gettext("goes on with v%(n)d") % {"n": one.start.number}] if one.start else []),
            ],
            url=_at("run", project, one.number),
            state=one.status,
            is_start=lineage.start == "run",
            after=[f"dataset-{one.dataset.number}"],
            from_words=gettext("from dataset %(n)d") % {"n": one.dataset.number},
        )
        for one in lineage.runs
    ]


def _versions(project: Project, lineage: Lineage) -> list[Card]:
    makers: dict[UUID | None, int] = {run.version_id: run.number for run in lineage.runs}
    cards = []
    for one in lineage.versions:
        maker = makers.get(one.pk)
        cards.append(
            Card(
                f"version-{one.number}",
                f"v{one.number}",
                [
                    one.get_kind_display(),
                    date_format(one.created, "Y-m-d H:i"),
                    *([gettext("learned from somebody erased")] if one.erased_behind else []),
                ],
                url=_at_lineage(project, "version", f"v{one.number}"),
                state=one.status if one.status != "available" else "",
                is_start=lineage.start == "version",
                after=[] if maker is None else [f"run-{maker}"],
                from_words="" if maker is None else gettext("made by run %(n)d") % {"n": maker},
            )
        )
    return cards


def _verdicts(project: Project, lineage: Lineage) -> list[Card]:
    known = {version.pk for version in lineage.versions}
    cards = []
    for one in lineage.evaluations:
        rate = one.numbers.get("win_rate")
        lines = [
            gettext("v%(a)d against v%(b)d") % {"a": one.candidate.number, "b": one.champion.number},
            gettext("won %(share)s") % {"share": f"{rate:.0%}"} if rate is not None else "",
            "" if one.candidate_id in known else gettext("this judgement is evidence in it"),
        ]
        cards.append(
            Card(
                f"evaluation-{one.number}",
                gettext("Evaluation %(n)d") % {"n": one.number},
                [line for line in lines if line],
                url=_at("evaluation", project, one.number),
                state=one.verdict or one.status,
                is_start=lineage.start == "evaluation",
                after=[f"version-{one.candidate.number}"],
            )
        )
    return cards


def _deployments(project: Project, lineage: Lineage) -> list[Card]:
    cards = []
    for one in lineage.deployments:
        brought = one.canary or one.champion
        proved = one.detail.get("evaluation")
        cards.append(
            Card(
                f"deployment-{one.number}",
                gettext("Deployment %(n)d") % {"n": one.number},
                [
                    f"v{brought.number}, {one.get_kind_display()}",
                    date_format(one.created, "Y-m-d H:i"),
                    gettext("on evaluation %(n)d") % {"n": proved}
                    if proved
                    else gettext("without a verdict"),
                ],
                url=_at_lineage(project, "deployment", str(one.number)),
                is_start=lineage.start == "deployment",
                after=[f"evaluation-{proved}"] if proved else [],
            )
        )
    return cards


def _column(key: str, title: str, cards: list[Card], none: str) -> Column:
    return Column(key, title, cards[:CARDS], none, more=max(0, len(cards) - CARDS))


def _paths(before: Column, column: Column) -> list[str]:
    places = {card.key: place + MIDDLE for place, card in enumerate(before.cards)}
    return [
        f"M0 {places[key]}C5 {places[key]} 5 {place + MIDDLE} 10 {place + MIDDLE}"
        for place, card in enumerate(column.cards)
        for key in card.after
        if key in places
    ]


def _at(name: str, project: Project, number: int) -> str:
    return reverse(name, kwargs={"slug": project.slug, "number": number})


def _at_lineage(project: Project, start: str, name: str) -> str:
    return reverse("lineage", kwargs={"slug": project.slug, "start": start, "name": name})
