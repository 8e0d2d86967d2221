"""Gold looks like any other question, but to those who must qualify: then every question is gold."""

from __future__ import annotations

from typing import Any

from django.test import Client

from feedback.services.tasks import create_task
from feedback.services.workbench import update_workbench
from projects.services import Actor
from tests.cast import Cast

NOTICE = "These first questions"


def test_gold_is_marked_only_while_one_must_qualify(cast: Cast) -> None:
    prompt, made = cast.answered_prompt()
    gold = {"best": [str(made[0].pk)]}
    create_task(project=cast.project, kind="compare", prompt=prompt, completions=made, gold=gold)
    client = Client()
    client.force_login(cast.bob)

    def page(**settings: Any) -> str:
        update_workbench(project=cast.project, actor=Actor(user=cast.ada), **settings)
        return str(client.get("/p/kitchen/work/").content.decode())

    hidden = page(gold_share=1.0)
    assert prompt.question in hidden
    assert NOTICE not in hidden
    assert "gold" not in hidden
    assert NOTICE in page(qualification_tasks=3)
