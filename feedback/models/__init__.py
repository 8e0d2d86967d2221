"""What people say about answers, what they are asked, and how far their word is trusted. A file a noun."""

from feedback.models.battles import Battle
from feedback.models.judgements import (
    Candidate,
    Correction,
    Feedback,
    FeedbackQuerySet,
    Flag,
    Preference,
    Rating,
)
from feedback.models.leaderboard import Leaderboard
from feedback.models.raters import Agreement, RaterEvent, Standing
from feedback.models.samples import SampleRequest
from feedback.models.scores import Score
from feedback.models.set_aside import SetAside
from feedback.models.tasks import Assignment, Task
from feedback.models.workbench import OptOut, Workbench

__all__ = [
    "Agreement",
    "Assignment",
    "Battle",
    "Candidate",
    "Correction",
    "Feedback",
    "FeedbackQuerySet",
    "Flag",
    "Leaderboard",
    "OptOut",
    "Preference",
    "RaterEvent",
    "Rating",
    "SampleRequest",
    "Score",
    "SetAside",
    "Standing",
    "Task",
    "Workbench",
]
