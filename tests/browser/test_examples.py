"""The example in JavaScript, as it stands in docs/examples, in a browser's own fetch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from feedback.models import Rating
from tests.cast import Cast

EXAMPLE = Path(__file__).resolve().parents[2] / "docs/examples/feedback.mjs"


def test_javascript(page: Page, people: Cast, web: Any, console: Any) -> None:
    console.allow("409")  # it shows a refusal
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto("/login/")
    environment = {"RATCHET_URL": str(web.url), "RATCHET_KEY": people.key}
    page.evaluate("it => { globalThis.ratchet = it }", environment)
    page.evaluate(f"async () => {{ {EXAMPLE.read_text()} }}")
    assert [line for line in said if "409" not in line] == [
        "already_judged true",
        "20 thumbs recorded",
        "21 judgements of this answer",
    ]
    assert Rating.objects.filter(source="api").count() == 21


def test_a_script_of_another_site_calls_the_api_with_a_key(chromium: Browser, people: Cast, web: Any) -> None:
    """What a browser asks beforehand, and lets through; of the two sites CORS_ORIGINS names the first."""
    call = """async ([url, key]) => {
        const headers = {Authorization: `Bearer ${key}`, "X-Stainless-Lang": "js"}
        try {
            const answer = await fetch(`${url}/v1/models`, {headers})
            const [first] = (await answer.json()).data
            return [answer.status, answer.headers.get("X-Request-Id") !== null, first.id]
        } catch (error) {
            return error.name
        }
    }"""
    for site, outcome in (
        ("https://app.example", [200, True, "kitchen"]),
        ("https://evil.example", "TypeError"),
    ):
        # A site may speak to this machine only where its visitor allowed it, which is not what is tested.
        with chromium.new_context(permissions=["local-network-access"]) as context:
            page = context.new_page()
            page.route(f"{site}/**", lambda route: route.fulfill(body="<title>Elsewhere</title>"))
            page.goto(f"{site}/")
            assert page.evaluate(call, [str(web.url), people.key]) == outcome
