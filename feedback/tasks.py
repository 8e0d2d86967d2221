"""Bells: each rings one service, and may ring twice."""

from __future__ import annotations

import logging

from celery import shared_task

from feedback.counts import ALL_SERIES
from feedback.services import agreement, battles, leaderboard, quality, samples, uncertainty
from feedback.services.draw import draw_tasks
from feedback.services.queue import FOR_RATERS, release_lapsed
from feedback.services.sources import sweep_answers
from projects.models import Project
from projects.services import hourly

logger = logging.getLogger(__name__)


@shared_task
def settle_battles() -> None:
    """Record votes that came before their answers had ended, where the web process could not."""
    battles.settle_battles()


@shared_task
def fill_lines() -> None:
    """Take up answers that ended, and draw tasks, so that a claim seldom has to."""
    for project in Project.objects.all():
        release_lapsed(project)
        sweep_answers(project=project)
        draw_tasks(project=project, kinds=FOR_RATERS)


@shared_task
def sample_prompts() -> None:
    """Some more answers to imported prompts, by the versions that somebody chose."""
    samples.tick_samples()


@shared_task
def measure_raters() -> None:
    """Numbers and remarks about raters who answered since the last look."""
    for project in Project.objects.all():
        if quality.measure_raters(project=project):
            agreement.measure_agreement(project=project)


@shared_task
def measure_leaderboards() -> None:
    """Rank the versions of every project whose votes changed; then what is uncertain is measured anew."""
    leaderboard.measure_leaderboards()
    for project in Project.objects.all():
        uncertainty.measure_uncertainty(project=project)


@shared_task
def count_hours() -> None:
    """Keep the counts of the hours that are over, which pages add up."""
    for project in Project.objects.all():
        hourly.count_hours(project=project, series=ALL_SERIES)


@shared_task
def recount() -> None:
    """Hold the kept counts against the rows. A difference is mended, and told to the operator."""
    for project in Project.objects.all():
        for difference in hourly.recount(project=project, series=ALL_SERIES):
            logger.warning("%s: a kept count was wrong: %s", project, difference)
