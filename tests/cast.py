"""The people and projects of the tests, made by calling services.

Ada manages the project `kitchen`, Bob rates in it, Carol reviews. Eve manages `garden`, another project.
`cast.answered_prompt("How do I boil an egg?", ["In water.", "Eight minutes."])` gives a prompt with
finished answers; `cast.post(path, body)` and its sisters call the REST API with a key.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.test import Client

from inference.models import Completion, Conversation, Prompt, Version
from inference.services.completions import finish_completion, start_completion
from inference.services.prompts import record_prompt, split_for
from inference.services.versions import start_project
from projects.models import ApiKey, Project, User
from projects.services import SYSTEM, Actor, add_member, create_api_key

PASSWORD = "a long password for tests"
SAMPLING = {"temperature": 0.8, "max_tokens": 64}


@dataclass
class Cast:
    """Everybody and what is theirs. `key`, `manage_key` and `foreign_key` are values to send."""

    ada: User
    bob: User
    carol: User
    eve: User
    project: Project
    garden: Project  # eve's
    api_key: ApiKey  # the row behind `key`
    key: str  # generate, feedback:write, feedback:read, data:read
    manage_key: str  # every scope
    foreign_key: str  # every scope, in the garden
    # A 5xx is an answer to look at, not an exception to die of.
    client: Client = field(default_factory=lambda: Client(raise_request_exception=False))

    @property
    def v1(self) -> Version:
        return Version.objects.get(project=self.project, number=1)

    # --- things ---------------------------------------------------------------------------------------
    def prompt(
        self,
        text: str = "How do I boil an egg?",
        *,
        split: str | None = "train",
        project: Project | None = None,
        conversation: Conversation | None = None,
    ) -> Prompt:
        """A prompt of the wanted split (None: any): the text gets a number until it falls there."""
        project = project or self.project
        for attempt in range(1000):
            asked = text if attempt == 0 else f"{text} ({attempt})"
            messages = [{"role": "user", "content": asked}]
            if split in (None, split_for(project, messages)):
                return record_prompt(project=project, messages=messages, conversation=conversation)[0]
        raise AssertionError(f"no {split} prompt in 1000 tries: gate_share is {project.gate_share}")

    def answer(
        self,
        prompt: Prompt,
        text: str = "Eight minutes in boiling water.",
        *,
        state: str = Completion.State.FINISHED,
        version: Version | None = None,
    ) -> Completion:
        """One answer in this state; a running one has no text yet."""
        version = version or Version.objects.get(project=prompt.project, number=1)
        completion = start_completion(
            project=prompt.project, prompt=prompt, version=version, sampling=SAMPLING
        )
        if state != Completion.State.RUNNING:
            reasons = {Completion.State.FINISHED: "stop", Completion.State.STOPPED: "cancelled"}
            assert finish_completion(
                completion=completion,
                state=state,
                text=text,
                finish_reason=reasons.get(Completion.State(state), "error"),
                tokens_in=12,
                tokens_out=max(1, len(text) // 4),
                ttft_ms=80.0,
                gap_mean_ms=10.0,
                gap_p99_ms=20.0,
                total_ms=400.0,
            )
        return completion

    def answered_prompt(
        self,
        text: str = "How do I boil an egg?",
        answers: Sequence[str] = ("Eight minutes in boiling water.", "Ask somebody who knows."),
        *,
        split: str | None = "train",
        project: Project | None = None,
        conversation: Conversation | None = None,
        versions: Sequence[Version] = (),
    ) -> tuple[Prompt, list[Completion]]:
        """A prompt and a finished answer for each text, by v1 or by the version in the same place."""
        prompt = self.prompt(text, split=split, project=project, conversation=conversation)
        made = [
            self.answer(prompt, answer, version=versions[place] if versions else None)
            for place, answer in enumerate(answers)
        ]
        return prompt, made

    # --- the REST API ---------------------------------------------------------------------------------
    def get(self, path: str, params: dict[str, Any] | None = None, *, key: str | None = None) -> Any:
        return self.client.get(_url(path), params or {}, headers=self.auth(key))

    def post(self, path: str, body: Any = None, *, key: str | None = None, **extra: Any) -> Any:
        """`body` is sent as JSON; bytes are sent as they are."""
        raw = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        content_type = extra.pop("content_type", "application/json")
        headers = {**self.auth(key), **extra.pop("headers", {})}
        return self.client.post(_url(path), raw, content_type=content_type, headers=headers, **extra)

    def patch(self, path: str, body: Any, *, key: str | None = None) -> Any:
        raw, headers = json.dumps(body).encode(), self.auth(key)
        return self.client.patch(_url(path), raw, content_type="application/json", headers=headers)

    def delete(self, path: str, *, key: str | None = None) -> Any:
        return self.client.delete(_url(path), headers=self.auth(key))

    def auth(self, key: str | None = None) -> dict[str, str]:
        """Headers for `key`, the project's own by default; "" sends none."""
        return {} if key == "" else {"authorization": f"Bearer {key or self.key}"}


def error_of(response: Any) -> dict[str, Any]:
    """The error object, after checking that it has the one shape."""
    assert response.headers["Content-Type"].startswith("application/json"), response.content[:500]
    error = json.loads(response.content)["error"]
    assert {"type", "code", "message", "param", "request_id"} <= set(error), error
    assert error["request_id"] == response.headers["X-Request-Id"]
    assert error["message"]
    return dict(error)


def _url(path: str) -> str:
    return path if path.startswith("/") else f"/api/v1/{path}"


def make_cast() -> Cast:
    people = {
        name: User.objects.create_user(name, password=PASSWORD) for name in ("ada", "bob", "carol", "eve")
    }
    ada, eve = Actor(user=people["ada"]), Actor(user=people["eve"])
    # A fixed salt, so that a text falls on the same side in every run.
    fields = {"gate_share": 0.5, "salt": "the salt of the tests"}
    project = start_project(slug="kitchen", name="Kitchen", actor=ada, **fields)
    garden = start_project(slug="garden", name="Garden", actor=eve, **fields)
    for name, role in (("ada", "manager"), ("bob", "rater"), ("carol", "reviewer")):
        add_member(project=project, user=people[name], role=role, actor=SYSTEM)
    add_member(project=garden, user=people["eve"], role="manager", actor=SYSTEM)
    usual = ["generate", "feedback:write", "feedback:read", "data:read"]
    api_key, key = create_api_key(project=project, name="program", scopes=usual, actor=ada)
    every = list(ApiKey.Scope.values)
    _, manage_key = create_api_key(project=project, name="operator", scopes=every, actor=ada)
    _, foreign_key = create_api_key(project=garden, name="garden", scopes=every, actor=eve)
    return Cast(
        ada=people["ada"],
        bob=people["bob"],
        carol=people["carol"],
        eve=people["eve"],
        project=project,
        garden=garden,
        api_key=api_key,
        key=key,
        manage_key=manage_key,
        foreign_key=foreign_key,
    )


@pytest.fixture
def cast(db: None) -> Cast:
    return make_cast()
