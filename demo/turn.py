"""One turn of the ratchet, step by step, through the public interfaces alone."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import combinations
from typing import Any

from demo.client import Client, DemoError, Json, Stream
from demo.config import Plan
from demo.progress import Progress
from demo.report import Report
from demo.tastes import Taste, vote
from demo.traffic import Traffic

RATERS = 3
PROMOTION_REASON = "The gate's verdict in the demo."


class Turn:
    """The state of one turn: what was made so far, and the report that it fills."""

    def __init__(
        self, client: Client, slug: str, taste: Taste, plan: Plan, report: Report, progress: Progress
    ) -> None:
        self.plan = plan
        self.client = client
        self.slug = slug
        self.taste = taste
        self.report = report
        self.progress = progress
        self.dice = random.Random(0)
        self.prompts: dict[str, Json] = {}

    async def run(self, texts: list[str]) -> None:
        """Raises DemoError when a step cannot be done; promises are checked by the report."""
        await self.import_prompts(texts)
        run = await self.learn()
        evaluation = await self.evaluate(run["version"])
        async with self._timed("swap"):
            await self._swap(run["version"], evaluation)
        await self._describe_versions(run)

    # --- prompts and answers ------------------------------------------------------------------------
    async def import_prompts(self, texts: list[str]) -> None:
        self.progress.step(f"importing {len(texts)} prompts")
        answer = await self.client.post_prompts(texts)
        if answer["errors"]:
            raise DemoError(f"prompts were refused: {answer['errors'][:3]}")
        self.prompts = {prompt["id"]: prompt for prompt in await self.client.items("prompts")}

    def _half(self, split: str) -> list[Json]:
        return [prompt for prompt in self.prompts.values() if prompt["split"] == split]

    async def learn(self) -> Json:
        """Answers of what serves now, what raters say of them, and the run that learns from it."""
        async with self._timed("generate"):
            answers = await self._answer_training_prompts()
        await self._judge_training_answers(answers)
        async with self._timed("train"):
            return await self._train()

    async def _answer_training_prompts(self) -> dict[str, list[Json]]:
        prompts = self._half("train")
        plan = self.plan
        self.progress.step(f"{plan.answers_per_prompt} answers to each of {len(prompts)} training prompts")
        answers: dict[str, list[Json]] = {}

        async def ask(prompt: Json) -> None:
            answers[prompt["id"]] = await self.client.complete(
                self.slug, prompt["messages"], plan.sampling, n=plan.answers_per_prompt
            )

        await self._all(
            (ask(prompt) for prompt in prompts), len(prompts), plan.concurrency // plan.answers_per_prompt
        )
        return answers

    async def _judge_training_answers(self, answers: dict[str, list[Json]]) -> None:
        self.progress.step(f"{RATERS} scripted raters compare the answers (taste: {self.taste.name})")
        battles = [
            (prompt_id, self.dice.sample(two, k=2))
            for prompt_id, candidates in answers.items()
            for two in combinations(candidates, 2)
        ]
        await self.client.post_feedback([self._judge(prompt_id, shown) for prompt_id, shown in battles])

    def _question(self, prompt_id: str) -> str:
        return str(self.prompts[prompt_id]["messages"][-1]["content"])

    def _judge(self, prompt_id: str, shown: list[Json]) -> Json:
        """What one of the raters says of two answers, shown left and right; versions are not named."""
        choice = vote(self.taste, self._question(prompt_id), shown[0], shown[1], self.dice)
        body: Json = {
            "kind": "preference",
            "candidates": [answer["completion_id"] for answer in shown],
            "subject": f"rater-{self.dice.randrange(RATERS)}",
        }
        if choice == "both_bad":
            return {**body, "all_bad": True}
        return {**body, "ranks": {"left": [1, 2], "right": [2, 1], "tie": [1, 1]}[choice]}

    # --- training -----------------------------------------------------------------------------------
    async def _train(self) -> Json:
        run = await self.client.post("runs", {"method": "dpo", "config": self.plan.run_config})
        self.progress.step(f"DPO, run {run['number']}")
        while run["status"] in ("queued", "running"):
            await asyncio.sleep(1)
            run = await self.client.get(f"runs/{run['number']}")
            metrics = run["metrics"]
            loss, accuracy = metrics.get("loss"), metrics.get("reward_accuracy")
            self.progress.update(
                f"step {run['step']}/{run['total_steps']}"
                + (f"  loss {loss:.3f}" if loss is not None else "")
                + (f"  accuracy {accuracy:.2f}" if accuracy is not None else "")
            )
        if run["status"] != "finished":
            raise DemoError(f"the run {run['status']}: {run['cause']}: {run['message']}")
        return run

    # --- the gate -----------------------------------------------------------------------------------
    async def evaluate(self, candidate: str) -> Json:
        """Candidate against champion: what POST /evaluations began, with the verdict."""
        async with self._timed("gate"):
            return await self._evaluate(candidate)

    async def answers_of(self, version: str, prompt_ids: list[str]) -> dict[str, Json]:
        """One answer of this version to each prompt, by the prompt's id."""
        answers: dict[str, Json] = {}

        async def ask(prompt_id: str) -> None:
            messages = self.prompts[prompt_id]["messages"]
            [answers[prompt_id]] = await self.client.complete(version, messages, self.plan.sampling)

        await self._all((ask(one) for one in prompt_ids), len(prompt_ids), self.plan.concurrency)
        return answers

    async def _evaluate(self, candidate: str) -> Json:
        self.progress.step(f"the gate: {candidate} against the champion on prompts never trained on")
        evaluation = await self.client.post("evaluations", {"candidate": candidate})
        prompt_ids: list[str] = evaluation["prompt_ids"]
        # Side by side would be fairer to the clock; one version at a time is what the engine batches best.
        sides = [await self.answers_of(evaluation[side], prompt_ids) for side in ("candidate", "champion")]
        battles = [
            (prompt_id, [side[prompt_id] for side in self.dice.sample(sides, k=2)])
            for prompt_id in prompt_ids
        ]
        await self.client.post_feedback([self._judge(prompt_id, shown) for prompt_id, shown in battles])
        decided = await self.client.post(f"evaluations/{evaluation['number']}/decide", {})
        self.report.set_gate(decided)
        self.progress.note(f"{decided['verdict']}: {decided['reason']}")
        return {**evaluation, **decided}

    # --- the swap -----------------------------------------------------------------------------------
    async def _swap(self, candidate: str, evaluation: Json) -> None:
        """Promotion, rollback and roll forward while background clients keep streaming."""
        traffic = Traffic()
        self.progress.step("background clients stream; the champion is asked for its latency")
        texts = [self._question(prompt_id) for prompt_id in self.prompts]
        begin = time.monotonic()
        traffic.start(self.client, self.slug, texts)
        try:
            await traffic.wait_for(15)
            if evaluation["verdict"] != "promote":
                await self._check_champion_untouched(evaluation["champion"])
                end = time.monotonic()
                self.report.set_latency(before=traffic.latency(begin, end))
                return
            await self._promote_and_back(candidate, evaluation, traffic, begin)
        finally:
            await traffic.stop()
            self.report.traffic = traffic.report()

    async def _promote_and_back(
        self, candidate: str, evaluation: Json, traffic: Traffic, begin: float
    ) -> None:
        promoting = time.monotonic()
        self.progress.step(f"promoting {candidate}, rolling back, rolling forward, under traffic")
        flips = [await self._promote(candidate)]
        await traffic.wait_for(9)
        rollback_ms = await self._roll_back(evaluation["champion"])
        await traffic.wait_for(6)
        flips.append(await self._promote(candidate))
        promoted = time.monotonic()
        await traffic.wait_for(15)
        self.report.set_swap(load_ms=evaluation["load_ms"], flip_ms=max(flips), rollback_ms=rollback_ms)
        self.report.set_latency(
            before=traffic.latency(begin, promoting),
            during=traffic.latency(promoting, promoted),
            after=traffic.latency(promoted, time.monotonic()),
        )

    async def _promote(self, candidate: str) -> float:
        """ms from the deployment's commit until a new request is admitted to the new version."""
        deployment = await self.client.post("deployments", {"version": candidate, "reason": PROMOTION_REASON})
        seen = await self._probe()
        now = time.time()
        if seen.admitted_version != candidate or seen.admitted is None:
            raise DemoError(f"after its promotion {candidate} did not serve: {seen}")
        committed = datetime.fromisoformat(deployment["created"]).timestamp()
        return (now - (time.monotonic() - seen.admitted) - committed) * 1000

    async def _roll_back(self, champion: str) -> float:
        """ms from the POST until a new request's first token comes from the old version."""
        start = time.monotonic()
        await self.client.post("deployments", {"rollback": True, "reason": "To show that it can."})
        seen = await self._probe()
        if seen.admitted_version != champion or seen.first_token is None:
            raise DemoError(f"after the rollback {champion} did not serve: {seen}")
        return (seen.first_token - start) * 1000

    async def _probe(self) -> Stream:
        """A new request, as anybody's: to see who answers it, and when."""
        prompt = self.dice.choice(self._half("train"))
        return await self.client.stream(
            self.slug, prompt["messages"], {**self.plan.sampling, "user": "probe"}
        )

    async def _check_champion_untouched(self, champion: str) -> None:
        deployments = (await self.client.get("deployments"))["items"]
        self.report.champion_untouched = len(deployments) == 1 and deployments[0]["champion"] == champion

    async def _describe_versions(self, run: Json) -> None:
        self.report.versions = [
            {
                "name": version["label"],
                "digest": version["digest"],
                "run": version["run"],
                "dataset_digest": version["dataset_digest"],
            }
            for version in (await self.client.get("versions"))["items"]
        ]
        compute = run["compute"]
        self.report.compute = {
            "tokens": sum(compute["tokens"].values()),
            "pf_days": compute["pf_days"],
        }

    # --- helpers ------------------------------------------------------------------------------------
    @asynccontextmanager
    async def _timed(self, name: str) -> AsyncIterator[None]:
        start = time.monotonic()
        yield
        self.report.seconds[name] = round(time.monotonic() - start, 1)
        self.progress.note(f"{name}: {self.report.seconds[name]:.0f} s")

    async def _all(self, jobs: Iterable[Awaitable[Any]], count: int, at_once: int) -> None:
        """Run the jobs, so many at a time, and show how far they are."""
        places, done = asyncio.Semaphore(max(1, at_once)), 0

        async def one(job: Awaitable[Any]) -> None:
            nonlocal done
            async with places:
                await job
            done += 1
            self.progress.update(f"{done}/{count}")

        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(one(job))
