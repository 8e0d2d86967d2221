"""Pictures of the pages for the README, of a server that runs:

    python -m tests.browser.screenshots http://127.0.0.1:8000 PROJECT NAME PASSWORD

Writes docs/screenshots/. The person must be a member of the project.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).resolve().parents[2] / "docs/screenshots"
SETTLE_MS = 1500  # plots are drawn after the page has loaded


def main() -> None:
    address, slug, name, password = sys.argv[1:]
    FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(base_url=address, viewport={"width": 1280, "height": 860})
        page.goto("/login/")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(password)
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "login" not in url)
        for picture, path in (("loop", ""), ("work", "work/")):
            page.goto(f"/p/{slug}/{path}")
            page.wait_for_timeout(SETTLE_MS)
            page.screenshot(path=FOLDER / f"{picture}.png")
        browser.close()


if __name__ == "__main__":
    main()
