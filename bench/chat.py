"""`make bench NAME=chat`: a chat of 200 turns in Chromium, while answers stream into it.

An engine that costs nothing sends 50 words a second. What counts is the time between two frames: over 50 ms
a page feels stuck. A frame is late when the machine is, too: so the browser is asked which tasks of the
page's main thread took over 50 ms, and an almost empty page, with a number that ticks as fast, is watched in
the same run. Beside it the same chat without `content-visibility`, so that the browser lays out every turn,
and an answer of 100,000 characters. `python -m bench.chat --quick` takes 40 turns and short answers.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import dataclass

from playwright.sync_api import BrowserContext, Page, sync_playwright

from bench._claims import Claim, publish
from bench._load import percentile
from bench._stack import SLUG, free_port, fresh_stack, running, web
from demo.stack import Stack

MAX_FRAME_MS = 50
RATE = 50
ANSWER = (
    "Use **boiling** water.\n\n1. Wait.\n2. Cool it.\n\n```python\nwait(minutes=8)\n```\n\nThen peel it. "
)
# Made inside, as nobody would type so much; prints the conversation's id and the key of a session.
FILL = """
from django.test import Client
from feedback.services.conversations import ask
from inference.services.completions import finish_completion, start_completion
from projects.models import Project, User
project = Project.objects.get()
project.max_tokens = {tokens}
project.save(update_fields=["max_tokens"])
user = User.objects.create_user("bench", is_staff=True)
conversation = None
for turn in range({turns}):
    prompt = ask(project=project, owner=user, text=f"Question {{turn}}?", conversation=conversation)
    conversation = prompt.conversation
    row = start_completion(project=project, prompt=prompt, version=project.versions.get(), sampling={{}})
    finish_completion(completion=row, state="finished", text={answer!r} * 3, finish_reason="stop", error="",
        tokens_in=9, tokens_out=99, ttft_ms=9.0, total_ms=99.0, gap_mean_ms=1.0, gap_p99_ms=1.0)
client = Client()
client.force_login(user)
print(conversation.pk, client.cookies["sessionid"].value)
"""
# The observer tells only of tasks of 50 ms and more.
WATCH = """() => {
    window.frames_ms = [];
    window.tasks_ms = [];
    new PerformanceObserver((list) => tasks_ms.push(...list.getEntries().map((one) => one.duration)))
        .observe({ type: "longtask" });
    let last = performance.now();
    requestAnimationFrame(function frame() {
        const now = performance.now();
        frames_ms.push(now - last);
        last = now;
        requestAnimationFrame(frame);
    });
}"""
TICK = f"""() => {{
    document.body.textContent = "0";
    let ticks = 0;
    setInterval(() => {{ document.body.textContent = ++ticks; }}, 1000 / {RATE});
}}"""
ALL_TURNS = """() => {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(".turn { content-visibility: visible !important; }");
    document.adoptedStyleSheets = [sheet];
}"""
LONG = """(size) => {
    // As it comes after a reload: what is there so far in one piece, and more behind it.
    const text = "All work and no play makes Jack a dull boy.\\n".repeat(size / 44);
    const own = EventSource;
    window.EventSource = class extends own {
        addEventListener(name, hear) {
            super.addEventListener(name, (event) => {
                if (name !== "delta" || this.isLong) return hear(event);
                this.isLong = true;
                hear({ data: JSON.stringify({ text }), lastEventId: event.lastEventId });
            });
        }
    };
}"""


@dataclass
class Arm:
    """One way to show it. Milliseconds."""

    name: str
    load: float
    frames: list[float]
    tasks: list[float]  # of the page's main thread, those of 50 and more

    @property
    def over(self) -> int:
        return sum(frame > MAX_FRAME_MS for frame in self.frames)

    @property
    def longest_task(self) -> str:
        return f"longest {max(self.tasks):.0f} ms" if self.tasks else "none"

    def __str__(self) -> str:
        p50, p99 = percentile(self.frames, 0.5), percentile(self.frames, 0.99)
        return (
            f"{self.name:20} load {self.load:6.0f} ms, {len(self.frames)} frames: p50 {p50:5.1f}, "
            f"p99 {p99:5.1f}, longest {max(self.frames):6.1f} ms, {self.over} over 50 ms; "
            f"tasks over 50 ms: {len(self.tasks)}, {self.longest_task}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="40 turns and answers of 100 words")
    quick = parser.parse_args().quick
    command = "python -m bench.chat --quick" if quick else "make bench NAME=chat"
    turns, tokens = (40, 100) if quick else (200, 600)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    chromium = shutil.which("chromium")
    assert chromium, "Chromium is missing: apt-get install chromium"
    with (
        fresh_stack(ENGINE_URLS=url) as (stack, _),
        running(
            "stub", ["bench._stub_engine", "engine", str(port)], stack, url + "/health", STUB_RATE=str(RATE)
        ),
        web(stack),
        sync_playwright() as playwright,
    ):
        filled = stack.manage("shell", "-v0", "-c", FILL.format(turns=turns, tokens=tokens, answer=ANSWER))
        conversation, session = filled.split()[-2:]
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": 1280, "height": 860})
        context.add_cookies([{"name": "sessionid", "value": session, "url": stack.url}])
        arms = [
            measure("as it is", context, stack, conversation, ""),
            measure("100,000 characters", context, stack, conversation, "", long=100_000),
            measure("every turn laid out", context, stack, conversation, ALL_TURNS),
        ]
        empty = measure_empty(context, seconds=tokens / RATE)
        browser.close()
    claim(command, turns, arms, empty)
    return 0


def measure(
    name: str, context: BrowserContext, stack: Stack, conversation: str, script: str, *, long: int = 0
) -> Arm:
    page = context.new_page()
    began = time.monotonic()
    page.goto(f"{stack.url}/p/{SLUG}/chat/{conversation}/")
    load = (time.monotonic() - began) * 1000
    if script:
        page.evaluate(script)
    if long:
        page.evaluate(LONG, long)
    page.get_by_label("Your message").fill("And then?")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('[data-text]')?.innerText.length > 0")
    page.wait_for_timeout(500)  # the new turn and its first piece are there: from now on only words come
    page.evaluate(WATCH)
    page.locator("[data-stream]").wait_for(state="detached", timeout=120_000)  # its text has its Markdown
    page.wait_for_timeout(500)
    return watched(page, name, load)


def measure_empty(context: BrowserContext, *, seconds: float) -> Arm:
    """What the machine and its browser do without a chat."""
    page = context.new_page()
    page.evaluate(TICK)
    page.wait_for_timeout(500)
    page.evaluate(WATCH)
    page.wait_for_timeout(seconds * 1000)
    return watched(page, "an empty page", 0.0)


def watched(page: Page, name: str, load: float) -> Arm:
    """What was seen since WATCH, without the frame that had begun before. Closes the page."""
    frames, tasks = page.evaluate("[frames_ms, tasks_ms]")
    page.close()
    arm = Arm(name, load, frames[1:], tasks)
    print(arm, flush=True)
    return arm


def claim(command: str, turns: int, arms: list[Arm], empty: Arm) -> None:
    ours, long, whole = arms
    publish(
        "chat",
        command,
        [
            Claim(
                claim=f"longest frame while an answer streams into a chat of {turns} turns, to its end",
                value=max(ours.frames),
                unit="ms",
                goal=f"<= {MAX_FRAME_MS}",
                holds=max(ours.frames) <= MAX_FRAME_MS,
                versus=f"an empty page: {max(empty.frames):.1f} ms, "
                f"every turn laid out: {max(whole.frames):.1f} ms",
            ),
            Claim(
                claim="of it the page's own: tasks of its main thread over 50 ms",
                value=len(ours.tasks),
                unit="tasks",
                goal="0",
                holds=not ours.tasks,
                versus=f"every turn laid out: {len(whole.tasks)}, {whole.longest_task}",
            ),
            Claim(
                claim="frames over 50 ms while the same chat gets more words behind 100,000 characters",
                value=long.over,
                unit="frames",
                goal="0",
                holds=long.over == 0,
                versus=f"an empty page: {empty.over}; "
                f"tasks over 50 ms: {len(long.tasks)}, {long.longest_task}",
            ),
            Claim(
                claim=f"from address to loaded page of {turns} turns",
                value=ours.load,
                unit="ms",
                goal="stated",
                holds=True,
            ),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
