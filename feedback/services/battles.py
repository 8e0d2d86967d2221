"""Blind battles: two live answers to one question, and a vote that may come before they have ended."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils.translation import gettext

from feedback.errors import AlreadyJudged
from feedback.models import Battle, Feedback, Preference
from feedback.services.answers import RANKS
from feedback.services.judge import Judge
from feedback.services.record import candidate_set, record_preference, retract_feedback
from inference.generation import Ask
from inference.models import Completion, Replica, Version
from inference.relay import prepare_ask
from inference.services.prompts import record_prompt
from inference.services.versions import current, held_versions
from projects.errors import Conflict, Invalid, NotFound
from projects.ids import uuid7
from projects.models import Project, User

# Two samples of one version must be able to differ.
LEAST_TEMPERATURE = 0.7
PAST = 8
_dice = random.SystemRandom()


class BattleBroken(Conflict):
    code = "battle_broken"
    message = "An answer broke off, so there is nothing to compare. Try again."


def contenders(project: Project) -> list[Version]:
    """The champion and another version that an engine holds, else the champion twice; shuffled."""
    champion = current(project).champion
    loaded = {name for row in Replica.objects.filter(is_healthy=True) for name in row.loaded}
    others = [
        version
        for version in held_versions(project)
        if version.pk != champion.pk and version.kind != Version.Kind.REWARD and version.engine_name in loaded
    ]
    sides = [champion, _dice.choice(others) if others else champion]
    _dice.shuffle(sides)
    return sides


def prepare_battle(*, project: Project, text: str) -> list[Ask]:
    """Two requests for one prompt, left and right, not yet sent. Raises Invalid for an empty question.

    Nobody needs to read along: an answer of a battle is made to its end, so that a vote that was taken early
    can count.
    """
    text = text.replace("\r\n", "\n").strip()
    if not text:
        raise Invalid(gettext("Write something first."), param="text", code="empty_message")
    messages = [{"role": "user", "content": text}]
    if project.system_prompt:
        messages.insert(0, {"role": "system", "content": project.system_prompt})
    sides = contenders(project)
    prompt, _ = record_prompt(project=project, messages=messages)
    is_same = sides[0].pk == sides[1].pk
    temperature = max(project.temperature, LEAST_TEMPERATURE) if is_same else project.temperature
    first = _dice.randrange(2**31 - 1)
    return [
        prepare_ask(
            project=project,
            model=version.label,
            sticky="",
            messages=prompt.messages,
            sampling={"temperature": temperature, "max_tokens": project.max_tokens, "seed": first + place},
            prompt=prompt,
            readerless_seconds=settings.ANSWER_SECONDS,
        )
        for place, version in enumerate(sides)
    ]


def open_battle(*, project: Project, owner: User, left: UUID, right: UUID) -> Battle:
    return Battle.objects.create(project=project, owner=owner, left_id=left, right_id=right)


def battle_for(project: Project, owner: User, battle_id: UUID) -> Battle:
    """One's own. Raises NotFound."""
    found = (
        Battle.objects.select_related("left__prompt", "right", "project", "owner", "preference")
        .filter(project=project, owner=owner, pk=battle_id)
        .first()
    )
    if found is None:
        raise NotFound(gettext("There is no such battle of yours."))
    return found


def past_battles(project: Project, owner: User) -> list[Battle]:
    """One's own, newest first, as many as a glance takes."""
    own = Battle.objects.filter(project=project, owner=owner).select_related("left__prompt", "right")
    return list(own[:PAST])


def vote_battle(*, battle: Battle, verdict: str) -> None:
    """Take the vote; it is recorded at once, or when both answers have ended.

    The first vote stands until it is undone. Raises Invalid, and BattleBroken when it can never count.
    """
    if verdict not in RANKS:
        raise Invalid(gettext("Choose left, right, same or both bad."), param="verdict")
    if is_broken(battle):
        raise BattleBroken()
    Battle.objects.filter(pk=battle.pk, verdict="").update(verdict=verdict)
    settle_battle(battle.pk)


def undo_vote(*, battle: Battle) -> None:
    """Take the vote back, recorded or not. Again is no error."""
    with transaction.atomic():
        row = Battle.objects.select_for_update().get(pk=battle.pk)
        if row.preference is not None and row.preference.is_usable:
            retract_feedback(
                project=battle.project, judge=Judge(user=battle.owner), feedback_id=row.preference.pk
            )
        row.verdict, row.preference, row.vote_id = "", None, uuid7()
        row.save(update_fields=["verdict", "preference", "vote_id"])


def settle_battle(battle_id: UUID) -> bool:
    """Record the vote that waits, when both answers are there. True when it stands as a preference."""
    with transaction.atomic():
        battle = Battle.objects.select_for_update().get(pk=battle_id)
        if battle.preference_id is not None:
            return True
        answers = [battle.left, battle.right]
        if not battle.verdict or any(one.state != Completion.State.FINISHED for one in answers):
            return False
        battle.preference = _recorded(battle, [one.pk for one in answers])
        battle.save(update_fields=["preference"])
    return True


def settle_battles() -> int:
    """Record the votes that still wait: what a web process that died has left. Returns how many."""
    waiting = Battle.objects.filter(
        preference=None, left__state=Completion.State.FINISHED, right__state=Completion.State.FINISHED
    ).exclude(verdict="")
    return sum(settle_battle(pk) for pk in waiting.order_by("id").values_list("pk", flat=True)[:500])


def is_broken(battle: Battle) -> bool:
    """One side ended without a whole answer, so that neither can be chosen."""
    whole = (Completion.State.RUNNING, Completion.State.FINISHED)
    return any(side.state not in whole or side.quarantined for side in (battle.left, battle.right))


def _recorded(battle: Battle, candidates: list[UUID]) -> Preference:
    ranks: Any = RANKS[battle.verdict]  # the column holds verdicts only
    judge = Judge(user=battle.owner)
    try:
        with transaction.atomic():
            row, _ = record_preference(
                project=battle.project,
                judge=judge,
                candidates=candidates,
                ranks=ranks,
                all_bad=ranks is None,
                source=Feedback.Source.UI,
                id=battle.vote_id,
                is_shown=True,
            )
            return row
    except AlreadyJudged:  # the same two, on the work page meanwhile: that stands
        standing: Preference = Preference.objects.usable().get(
            candidate_set=candidate_set(candidates), judge=judge.key, project=battle.project
        )
        return standing
