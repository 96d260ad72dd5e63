"""Fixtures for tests in a real browser: the system's Chromium, driven by Playwright. They skip where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")  # moving test bars, allowed unasked
SCHEMES = pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
WIDTHS = pytest.mark.parametrize("width", [360, 1440])


@dataclass
class Tab:
    """One page in a window of its own.

    Attributes:
        page: Playwright's page.
        requests: URLs the page asked for.
        complaints: exceptions, console errors and warnings, refusals of the page's own policy.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")  # of no wider scope: while Playwright runs, its thread can have no other event loop
def chromium() -> Iterator[Browser]:
    """The system's Chromium, found by name."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: the extra 'test'")
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no Chromium on the PATH (looked for {', '.join(NAMES)})")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", *CAMERA],
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Tab]]:
    """``visit(path or URL, width=1440, height=900, dark=False, offline=True, scripts=True)`` opens a tab.

    Everything the page asks for and complains of from its first byte on is in the tab's lists; downloads are accepted.
    """
    contexts = []

    def call(
        place: Path | str,
        width: int = 1440,
        height: int = 900,
        dark: bool = False,
        offline: bool = True,
        scripts: bool = True,
    ) -> Tab:
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            offline=offline,
            java_script_enabled=scripts,
            accept_downloads=True,
        )
        contexts.append(context)
        tab = Tab(context.new_page())
        tab.page.on("request", lambda request: tab.requests.append(request.url))
        tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.page.on(
            "console",
            lambda said: tab.complaints.append(said.text) if said.type in ("error", "warning") else None,
        )
        tab.page.goto(place if isinstance(place, str) else place.resolve().as_uri())
        return tab

    yield call
    for context in contexts:
        context.close()


def violations(page: Page, within: str | None = None) -> list[str]:
    """What axe finds wrong with a page, or with what a selector picks of it, one line per element: rule, element, what
    to do.
    """
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: the extra 'test'")
    found = axe.Axe().run(page, context=within).response["violations"]
    return [f"{v['id']}: {n['html'][:160]} ({n['failureSummary']})" for v in found for n in v["nodes"]]
