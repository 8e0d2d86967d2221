"""The product in one test: the demo's turn, on a tiny random model with a taste that it can learn.

All five processes run as in life, on real PostgreSQL and Redis or on the embedded default; the turn is a
client's: REST, the OpenAI protocol and a key. It differs from the demo in the model, the number of prompts
and the taste.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from demo.client import Client
from demo.config import Plan
from demo.progress import Progress
from demo.report import Report
from demo.stack import Stack, prepare
from demo.tastes import Taste
from demo.turn import Turn
from tests.services import free_port
from tests.tiny import build_tiny_model

SLUG = "loop"
REAL = Path(__file__).resolve().parent.parent / "var/models/smollm2-135m-instruct"
PLAN = Plan(
    answers_per_prompt=4,
    concurrency=16,
    sampling={"temperature": 1.0, "max_tokens": 16},
    run_config={"learning_rate": 1e-2, "warmup_ratio": 0.0, "max_length": 128, "batch_size": 16},
)
PROMPTS = [f"What is better, {one} or {other}?" for one in range(20) for other in range(one)][:150]


def likes_letters(prompt: str, answer: str, finish_reason: str) -> float:
    """The share of letters among all characters: noise is half signs and digits."""
    return sum(character.isalpha() for character in answer) / max(1, len(answer))


def new_database(name: str) -> str:
    """An empty database on the tests' PostgreSQL, and its URL."""
    server = os.environ["DATABASE_URL"].rpartition("/")[0]
    with psycopg.connect(
        f"{server}/postgres".replace("postgres://", "postgresql://"), autocommit=True
    ) as admin:
        admin.execute(SQL("DROP DATABASE IF EXISTS {}").format(Identifier(name)))
        admin.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    return f"{server}/{name}"


@pytest.fixture
def build_stack(tmp_path: Path):
    """Start the five processes on a model, and stop them afterwards."""
    built: list[Stack] = []

    def build(model: Path) -> tuple[Stack, str]:
        settings = {"MODEL_DIR": str(model), "ENGINE_SERVED_NAME": model.name}
        if os.environ["DATABASE_URL"].startswith("postgres"):
            settings |= {"DATABASE_URL": new_database("loop"), "BROKER_URL": os.environ["BROKER_URL"]}
        stack = prepare(tmp_path / "var", free_port(), **settings)
        built.append(stack)
        stack.manage("migrate", "--no-input")
        stack.manage("start_project", "--slug", SLUG, "--name", "Loop", "--gate-share", "0.5")
        key = stack.manage("create_key", "--project", SLUG, "--name", "robot")
        stack.start()
        stack.wait_until("the engine", stack.engine_answers, seconds=120)
        return stack, key

    yield build
    for stack in built:
        stack.stop()


def turn(stack: Stack, key: str, taste: Taste, plan: Plan, prompts: list[str]) -> Report:
    """One turn of the ratchet, as the demo does it."""
    report = Report(taste=taste.name, is_random=False)

    async def run() -> None:
        async with Client(stack.url, key) as client:
            await Turn(client, SLUG, taste, plan, report, Progress()).run(prompts)

    asyncio.run(run())
    return report


@pytest.mark.model
@pytest.mark.slow
def test_the_ratchet_turns(build_stack, tmp_path: Path) -> None:
    stack, key = build_stack(build_tiny_model(tmp_path / "models" / "tiny", letters=True))
    report = turn(stack, key, Taste("letters", "More letters.", likes_letters), PLAN, PROMPTS)

    assert report.verdict == "promote", report.verdict_reason
    assert report.heldout["n"] >= 50
    assert report.heldout["ci_low"] > 0.5
    assert report.traffic["requests"] > 0
    assert (report.traffic["failed"], report.traffic["mixed_version"]) == (0, 0)
    assert report.swap["flip_ms"] is not None
    assert report.swap["rollback_ms"] is not None
    new, base = report.versions
    assert new["name"] == f"{SLUG}@v2"
    assert new["run"] == 1
    assert new["dataset_digest"].startswith("sha256:")
    assert base["run"] is None
    assert report.compute["pf_days"] > 0


@pytest.mark.model
@pytest.mark.slow
def test_two_steps_of_the_real_model_go_the_whole_way(build_stack) -> None:
    """The mechanics on real weights; what two steps teach is no evidence, so any verdict will do."""
    stack, key = build_stack(REAL)
    plan = Plan(
        answers_per_prompt=4,
        concurrency=32,
        sampling={"temperature": 1.0, "max_tokens": 12},
        run_config={
            "max_steps": 2,
            "batch_size": 2,
            "max_length": 128,
            "last_layers": 4,
            "learning_rate": 1e-3,
        },
    )
    taste = Taste("long", "The longer the better.", lambda prompt, answer, reason: min(1.0, len(answer) / 80))
    report = turn(stack, key, taste, plan, PROMPTS[:24])

    assert report.verdict in ("promote", "reject", "insufficient")
    assert report.verdict_reason
    assert report.heldout["n"] > 0
    assert (report.traffic["failed"], report.traffic["mixed_version"]) == (0, 0)
    assert [version["run"] for version in report.versions] == [1, None]
    assert report.compute["tokens"] > 0
