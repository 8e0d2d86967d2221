"""Where questions come from by themselves: answers at hand that nobody compared, and live traffic."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from feedback.models import OptOut, Preference, SampleRequest, Task, Workbench
from feedback.services.record import candidate_set
from feedback.services.tasks import create_compare_task, create_task
from feedback.services.workbench import locked_workbench
from inference.models import Completion, Conversation, Prompt
from inference.services.prompts import hash_share
from projects.models import Project

SWEPT_AT_ONCE = 500  # answers
CHUNKS = 20  # a sweep; the next one goes on
# Looked at again each time: an answer is finished a moment before others can see its row.
OVERLAP = timedelta(seconds=30)
_dice = random.SystemRandom()


@transaction.atomic
def sweep_answers(*, project: Project) -> int:
    """Make tasks of the answers that were finished since the last sweep. Returns how many are new.

    A train prompt with two finished answers that differ, about which nobody was asked and nobody said
    anything, becomes one comparison; a share of live answers becomes tasks of the workbench's `live_kind`.
    One sweep of a project at a time; each costs as much as there is new.
    """
    workbench = locked_workbench(project)
    # Of these more answers are to come, and one comparison of all of them.
    in_hand = SampleRequest.objects.filter(project=project).prompts_in_hand()
    made = 0
    for answers in _finished_since(workbench):
        prompts = {answer.prompt_id for answer in answers} - in_hand
        for prompt in _unasked(project).filter(pk__in=prompts).select_related("conversation").order_by("-id"):
            made += _compare(project, prompt)
        made += sum(_sample_live(workbench, answer) for answer in _live(workbench, answers))
    workbench.save(update_fields=["swept"])
    return made


def opt_out_conversation(*, conversation: Conversation, opted_out: bool) -> None:
    """Its owner's word: from now on its answers are (not) sampled; tasks that wait for raters are closed."""
    Conversation.objects.filter(pk=conversation.pk).update(opted_out=opted_out)
    if opted_out:
        waiting = Task.objects.filter(source=Task.Source.LIVE, is_open=True)
        waiting.filter(prompt__conversation=conversation).update(is_open=False)


def _finished_since(workbench: Workbench) -> Iterator[list[Completion]]:
    """The next answers in the order in which they ended; moves `swept` along."""
    ended = Completion.objects.filter(project=workbench.project_id, state=Completion.State.FINISHED)
    cursor = workbench.swept - OVERLAP if workbench.swept is not None else None
    for _ in range(CHUNKS):
        rows = (
            ended.filter(finished__gt=cursor) if cursor is not None else ended.filter(finished__isnull=False)
        )
        found = list(rows.order_by("finished").select_related("prompt__conversation")[:SWEPT_AT_ONCE])
        if not found:
            return
        yield found
        cursor = found[-1].finished
        workbench.swept = max(workbench.swept or cursor, cursor) if cursor is not None else workbench.swept
        if len(found) < SWEPT_AT_ONCE:
            return


def _live(workbench: Workbench, answers: list[Completion]) -> list[Completion]:
    """The sampled share of what programs and, where the project says so, chats were answered.

    The same answer is always in the sample or never. Nobody who opted out is: a request with `store` false,
    an end user, a conversation.
    """
    if not workbench.live_share:
        return []
    gone = set(OptOut.objects.filter(project=workbench.project_id).values_list("subject", flat=True))
    return [
        answer
        for answer in answers
        if hash_share(workbench.project.salt, f"live {answer.pk}") < workbench.live_share
        and answer.version_id is not None
        and answer.text.strip()
        and not (answer.opted_out or answer.quarantined or answer.subject in gone)
        and _may_be_sampled(workbench, answer)
    ]


def _may_be_sampled(workbench: Workbench, answer: Completion) -> bool:
    conversation = answer.prompt.conversation
    if conversation is None:
        return answer.api_key_id is not None  # not an evaluation's or a battle's
    return workbench.samples_conversations and not conversation.opted_out and conversation.deleted is None


def _sample_live(workbench: Workbench, answer: Completion) -> int:
    before = Task.objects.filter(
        project=workbench.project_id, kind=workbench.live_kind, candidate_set=candidate_set([answer.pk])
    )
    if before.exists():
        return 0
    create_task(
        project=workbench.project,
        kind=workbench.live_kind,
        prompt=answer.prompt,
        completions=[answer],
        source=Task.Source.LIVE,
        is_shared=True,
    )
    return 1


def _unasked(project: Project) -> QuerySet[Prompt]:
    return Prompt.objects.for_training().filter(
        ~Exists(Task.objects.filter(prompt=OuterRef("pk"))),
        ~Exists(Preference.objects.usable().filter(prompt=OuterRef("pk"))),
        project=project,
    )


def _compare(project: Project, prompt: Prompt) -> int:
    answers = list(prompt.completions.filter(state=Completion.State.FINISHED, quarantined=False))
    if not answers:
        return 0
    _dice.shuffle(answers)
    others = [answer for answer in answers if answer.text != answers[0].text]
    if not others:
        return 0
    create_compare_task(project=project, prompt=prompt, completions=[answers[0], others[0]])
    return 1
