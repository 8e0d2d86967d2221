"""What must hold before a judgement is appended: the things judged, and the values said about them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from uuid import UUID

from feedback.errors import NotJudgeable, SameText
from feedback.services.judge import Judge
from inference.models import Completion
from projects.errors import Invalid, NotFound
from projects.models import Project

MAX_CANDIDATES = 8
MAX_COMMENT = 4_000  # characters
MAX_TEXT = 50_000  # characters
MAX_SECONDS = 86_400.0

# Characters that have a place in a font and leave it empty; Unicode counts them as letters or symbols.
_BLANK = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs", "Mn", "Me"})
_ZERO_WIDTH = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]"
)


def judgeable_completions(
    project: Project,
    judge: Judge,
    ids: Sequence[UUID],
    *,
    param: str,
    is_shown: bool = False,
    known: Mapping[UUID, Completion] | None = None,
) -> list[Completion]:
    """The completions in the order of `ids`. Raises NotFound for an unknown, foreign or private one.

    A member judges what was shown to them: the answers in their own conversations, and those that a task or a
    battle showed (`is_shown`). A program judges all of its project, which is its traffic; what was looked up
    for it before is in `known`. Raises NotJudgeable for an answer that is running, failed or erased. One that
    was set aside is asked about no more, but what somebody says of it all the same is kept.
    """
    by_id = known if known is not None and judge.user is None else _visible(project, judge, ids, is_shown)
    for one in ids:
        if one not in by_id:
            raise NotFound(f"There is no completion {one} in this project.", param=param)
    completions = [by_id[one] for one in ids]
    for completion in completions:
        refuse_unjudgeable(completion, param=param)
    return completions


def _visible(project: Project, judge: Judge, ids: Sequence[UUID], is_shown: bool) -> dict[UUID, Completion]:
    found = Completion.objects.order_by().filter(project=project, pk__in=ids)
    if judge.user is not None and not is_shown:
        found = found.filter(prompt__conversation__owner=judge.user)
    return {completion.pk: completion for completion in found}


def refuse_unjudgeable(completion: Completion, *, param: str) -> None:
    if completion.state == Completion.State.RUNNING:
        raise NotJudgeable(param=param)
    if completion.state == Completion.State.FAILED:
        raise NotJudgeable(
            "This answer broke off and cannot be judged. Ask again.", code="completion_failed", param=param
        )
    if completion.quarantined and not completion.text:  # a tombstone
        raise NotJudgeable(
            "This answer was erased and cannot be judged.", code="completion_erased", param=param
        )


def check_rating(project: Project, aspect: str, value: int, reasons: Sequence[str]) -> None:
    """Aspect, value and reasons are those of the project's form; reasons are keys, each once."""
    asked = project.rating_form.by_key
    if aspect not in asked:
        raise Invalid(f"There is no aspect {aspect!r}. There are: {', '.join(asked)}.", param="aspect")
    values = asked[aspect].values
    if value not in values:
        allowed = "-1 or +1" if len(values) == 2 and values[0] == -1 else f"{values[0]} to {values[-1]}"
        raise Invalid(f"value must be {allowed} for {aspect}, got {value}.", param="value")
    known = asked[aspect].reasons_for(value)
    for reason in reasons:
        if reason not in known:
            raise Invalid(
                f"Unknown reason {reason!r}. There are: {', '.join(known)}.",
                param="reasons",
                code="unknown_reason",
            )
    if len(set(reasons)) != len(reasons):
        raise Invalid("A reason stands twice.", param="reasons")


def check_candidates(candidates: Sequence[UUID]) -> None:
    if not 2 <= len(candidates) <= MAX_CANDIDATES:
        raise Invalid(f"Send two to {MAX_CANDIDATES} candidates.", param="candidates")
    if len(set(candidates)) != len(candidates):
        raise Invalid(
            "A candidate stands twice: an answer cannot be compared with itself.",
            param="candidates",
            code="same_candidate",
        )


def check_ranks(count: int, ranks: Sequence[int] | None, all_bad: bool, strength: int | None) -> None:
    """One rank a candidate, 1 is best, equal ranks tie; or all_bad."""
    if all_bad == (ranks is not None):
        raise Invalid("Send either ranks or all_bad.", param="ranks")
    if ranks is not None:
        if len(ranks) != count:
            raise Invalid(
                f"ranks must have one number a candidate: {count}, got {len(ranks)}.", param="ranks"
            )
        if min(ranks) != 1 or max(ranks) > count:
            raise Invalid(
                f"ranks must be 1 (best) to {count} and start at 1; equal ranks tie.", param="ranks"
            )
    if strength is not None:
        if not 1 <= strength <= 3:
            raise Invalid("strength must be 1 (slight) to 3 (strong).", param="strength")
        if ranks is None or len(set(ranks)) == 1:
            raise Invalid("strength needs a winner: leave it out of a tie.", param="strength")


def check_comment(comment: str) -> None:
    if len(comment) > MAX_COMMENT:
        raise Invalid(f"comment may have at most {MAX_COMMENT} characters.", param="comment")
    refuse_nul(comment, param="comment")


def check_seconds(seconds: float | None) -> None:
    # NaN compares as false with everything, so it is refused here as well.
    if seconds is not None and not 0 <= seconds <= MAX_SECONDS:
        raise Invalid(f"seconds_spent must be 0 to {MAX_SECONDS:.0f}.", param="seconds_spent")


def check_correction(text: str, original: str) -> None:
    """A correction can be seen, and differs from the answer by more than what cannot be seen."""
    refuse_nul(text, param="text")
    if len(text) > MAX_TEXT:
        raise Invalid(f"text may have at most {MAX_TEXT} characters.", param="text")
    if not is_visible(text):
        raise Invalid("The correction is empty.", param="text", code="empty_text")
    if _as_seen(text) == _as_seen(original):
        raise SameText(param="text")


def is_visible(text: str) -> bool:
    """Whether a reader would see anything: not only spaces, zero-width or blank characters."""
    return any(
        character not in _BLANK and unicodedata.category(character) not in _INVISIBLE for character in text
    )


def plain_newlines(text: str) -> str:
    """Browsers send CRLF from a textarea; models write LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def refuse_nul(text: str, *, param: str) -> None:
    if "\x00" in text:
        raise Invalid(f"{param} holds NUL, which cannot be stored.", param=param, code="invalid_text")


def _as_seen(text: str) -> str:
    return unicodedata.normalize("NFC", _ZERO_WIDTH.sub("", plain_newlines(text))).strip()
