"""Addresses of the pages where people talk and judge."""

from django.urls import path

from feedback.pages import (
    battle,
    chat,
    conversations,
    imports,
    leaderboard,
    metrics,
    raters,
    tasks,
    work,
    workbench,
)

urlpatterns = [
    path("p/<slug:slug>/chat/", chat.chat, name="chat"),
    path("p/<slug:slug>/chat/ask", chat.ask, name="ask"),
    path("p/<slug:slug>/chat/sampling", conversations.sampling, name="sampling"),
    path("p/<slug:slug>/chat/history", conversations.history, name="history"),
    path("p/<slug:slug>/chat/<uuid:conversation_id>/", chat.chat, name="conversation"),
    path(
        "p/<slug:slug>/chat/<uuid:conversation_id>/rename", conversations.rename, name="rename_conversation"
    ),
    path(
        "p/<slug:slug>/chat/<uuid:conversation_id>/delete", conversations.delete, name="delete_conversation"
    ),
    path(
        "p/<slug:slug>/chat/<uuid:conversation_id>/restore",
        conversations.restore,
        name="restore_conversation",
    ),
    path("p/<slug:slug>/chat/<uuid:conversation_id>/branch", conversations.branch, name="branch"),
    path("p/<slug:slug>/answers/<uuid:completion_id>/", chat.answer, name="answer"),
    path("p/<slug:slug>/answers/<uuid:completion_id>/rate", chat.rate, name="rate"),
    path("p/<slug:slug>/answers/<uuid:completion_id>/correct", chat.correct, name="correct"),
    path("p/<slug:slug>/answers/<uuid:completion_id>/flag", chat.flag, name="flag"),
    path("p/<slug:slug>/questions/<uuid:prompt_id>/", chat.question, name="question"),
    path("p/<slug:slug>/questions/<uuid:prompt_id>/again", chat.again, name="again"),
    path("p/<slug:slug>/questions/<uuid:prompt_id>/prefer", chat.prefer, name="prefer"),
    path("p/<slug:slug>/judgements/<uuid:feedback_id>/retract", chat.retract, name="retract"),
    path("p/<slug:slug>/guidelines/", chat.guidelines, name="guidelines"),
    path("p/<slug:slug>/engine/", chat.engine_state, name="engine_state"),
    path("p/<slug:slug>/work/", work.work, name="work"),
    path("p/<slug:slug>/work/begin", work.begin, name="begin"),
    path("p/<slug:slug>/work/next", work.following, name="following"),
    path("p/<slug:slug>/work/undo", work.undo, name="undo"),
    path("p/<slug:slug>/work/<uuid:assignment_id>/answer", work.answer, name="answer_task"),
    path("p/<slug:slug>/work/<uuid:assignment_id>/draft", work.draft, name="draft_task"),
    path("p/<slug:slug>/work/<uuid:assignment_id>/renew", work.renew, name="renew_task"),
    path("p/<slug:slug>/work/<uuid:assignment_id>/skip", work.skip, name="skip_task"),
    path("p/<slug:slug>/prompts/import", imports.import_prompts, name="import_prompts"),
    path("p/<slug:slug>/tasks/", tasks.tasks, name="tasks"),
    path("p/<slug:slug>/tasks/make", tasks.make, name="make_tasks"),
    path("p/<slug:slug>/tasks/<uuid:task_id>/", tasks.task, name="task"),
    path("p/<slug:slug>/tasks/<uuid:task_id>/act", tasks.act_on_task, name="act_on_task"),
    path("p/<slug:slug>/metrics/", metrics.metrics, name="metrics"),
    path("p/<slug:slug>/raters/", raters.raters, name="raters"),
    path("p/<slug:slug>/raters/<int:user_id>/", raters.rater, name="rater"),
    path("p/<slug:slug>/raters/<int:user_id>/judge", raters.judge_rater, name="judge_rater"),
    path("p/<slug:slug>/workbench/", workbench.workbench, name="workbench"),
    path("p/<slug:slug>/workbench/preview", workbench.preview_form, name="preview_form"),
    path("p/<slug:slug>/leaderboard/", leaderboard.leaderboard, name="leaderboard"),
    path("p/<slug:slug>/battle/", battle.start, name="battle"),
    path("p/<slug:slug>/battle/ask", battle.ask, name="battle_ask"),
    path("p/<slug:slug>/battle/<uuid:battle_id>/", battle.show, name="one_battle"),
    path("p/<slug:slug>/battle/<uuid:battle_id>/vote", battle.vote, name="battle_vote"),
    path("p/<slug:slug>/battle/<uuid:battle_id>/undo", battle.undo, name="battle_undo"),
]
