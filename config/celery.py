"""The Celery app and all schedules. Tasks are bells: what must happen is a row in the database."""

import os
from pathlib import Path

from celery import Celery
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from config import broker

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("ratchet")
app.conf.update(
    broker_url=settings.BROKER_URL,
    broker_connection_retry_on_startup=True,
    task_default_queue="default",
    task_routes={"training.tasks.tick_runs": {"queue": "training"}},
    task_ignore_result=True,
    # A task lost with its worker is rung again by the schedule below; redelivery would run it twice.
    task_acks_late=False,
    worker_prefetch_multiplier=1,
    # True lost the running task in three of three broker restarts.
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_hijack_root_logger=False,
    timezone=settings.TIME_ZONE,
)
if settings.BROKER_URL.startswith("filesystem:"):
    broker.use()
    folder = Path(settings.BROKER_DIR)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImproperlyConfigured(f"BROKER_DIR (in VAR_DIR unless set) cannot be made: {error}.") from error
    app.conf.broker_transport_options = {
        "data_folder_in": str(folder),
        "data_folder_out": str(folder),
        "control_folder": str(folder / "control"),
        "polling_interval": 0.2,
    }
    app.conf.worker_enable_remote_control = False
else:
    app.conf.broker_transport_options = broker.PATIENCE

app.autodiscover_tasks(["projects", "inference", "feedback", "training"])

# `expires` keeps a bell that nobody heard from ringing twice when a worker comes back.
app.conf.beat_schedule = {
    # Move every active run one step: launch, adopt, take over events, finish, fail, resume.
    "tick-runs": {"task": "training.tasks.tick_runs", "schedule": 2.0, "options": {"expires": 6}},
    # Compile datasets, answer gate prompts and decide evaluations that wait, also after a lost bell.
    "tick-work": {"task": "training.tasks.tick_work", "schedule": 5.0, "options": {"expires": 15}},
    # Compare what the engines hold with what they should hold, and mend it.
    "reconcile": {"task": "inference.tasks.reconcile", "schedule": 5.0, "options": {"expires": 15}},
    # Close answers whose process died.
    "reap-completions": {
        "task": "inference.tasks.reap_completions",
        "schedule": 10.0,
        "options": {"expires": 30},
    },
    # Record early votes of battles that a web process which died has left.
    "settle-battles": {
        "task": "feedback.tasks.settle_battles",
        "schedule": 30.0,
        "options": {"expires": 60},
    },
    # Turn answers that ended into comparisons, free lapsed places, and draw tasks into the line.
    "fill-lines": {"task": "feedback.tasks.fill_lines", "schedule": 10.0, "options": {"expires": 30}},
    # Have chosen versions answer imported prompts, while people leave room for it.
    "sample-prompts": {"task": "feedback.tasks.sample_prompts", "schedule": 5.0, "options": {"expires": 15}},
    # Keep the counts of hours that are over, which pages add up instead of counting a million rows.
    "count-hours": {"task": "feedback.tasks.count_hours", "schedule": 60.0, "options": {"expires": 60}},
    # Once a day, count all of them again.
    "recount": {"task": "feedback.tasks.recount", "schedule": 86400.0, "options": {"expires": 3600}},
    # Measure raters who answered lately, and how far they agree.
    "measure-raters": {
        "task": "feedback.tasks.measure_raters",
        "schedule": 300.0,
        "options": {"expires": 300},
    },
    # Rank versions anew where votes changed since, and measure what is uncertain.
    "measure-leaderboards": {
        "task": "feedback.tasks.measure_leaderboards",
        "schedule": 30.0,
        "options": {"expires": 30},
    },
    # Bring what score runs found to where tasks are drawn.
    "import-scores": {"task": "training.tasks.import_scores", "schedule": 30.0, "options": {"expires": 60}},
    # Send what the outbox holds to the endpoints that wait for it, and again what did not arrive.
    "deliver-webhooks": {
        "task": "projects.tasks.deliver_webhooks",
        "schedule": 2.0,
        "options": {"expires": 6},
    },
    # Delete deliveries of last month, answers kept for a replay, and windows of rate limits that are over.
    "forget-old": {"task": "projects.tasks.forget_old", "schedule": 600.0, "options": {"expires": 600}},
    # Look at each version on its way from a canary to all: up by a step, back, or on.
    "tick-rollouts": {"task": "training.tasks.tick_rollouts", "schedule": 10.0, "options": {"expires": 30}},
    # Make previews and datasets that are too large for a request, also where a worker died over one.
    "tick-compilations": {
        "task": "training.tasks.tick_compilations",
        "schedule": 10.0,
        "options": {"expires": 30},
    },
    # Erase people who wait for it, and go on where a worker died over one.
    "tick-erasures": {"task": "training.tasks.tick_erasures", "schedule": 10.0, "options": {"expires": 30}},
    # Insert a slot for every policy that is due; a slot runs once.
    "tick-policies": {"task": "training.tasks.tick_policies", "schedule": 10.0, "options": {"expires": 30}},
}
app.conf.beat_schedule_filename = str(settings.VAR_DIR / "beat-schedule")
