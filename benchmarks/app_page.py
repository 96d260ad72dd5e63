"""Seconds from a click to the answers on the page of ``gradlens app``, in a real browser; and pictures of the page.

    python benchmarks/app_page.py --picture docs/images/app.png

A server is started in a process of its own, and the system's Chromium opens the page and clicks one example after the
other, each as soon as the last is answered. Counted from the click: until the first model's card shows its classes and
its map, until all chosen models' cards do, and until the page says whether the picture is like the test images. The
first click comes as soon as the page is there, while the server still prepares its models. Everything is wall clock,
browser included, so the load of the machine is printed with it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
WAITS = {
    "first model": "document.querySelectorAll('#cards .gl-top').length",
    "all models": "document.querySelectorAll('#cards .gl-top').length === {models}",
    "like the test images?": "document.querySelector('#familiar h2')",
}


def click(page: Page, i: int, models: int) -> list[float]:
    """Seconds from a click on an example to each of :data:`WAITS`."""
    started = time.perf_counter()
    page.locator("#examples .gallery-item").nth(i).click()
    took = []
    for wait in WAITS.values():
        page.wait_for_function(wait.format(models=models), timeout=300_000)
        took.append(time.perf_counter() - started)
    return took


def clear(page: Page) -> None:
    """Take the picture away, so that what comes next can only be the next answer."""
    page.get_by_label("Remove Image").click()
    page.wait_for_function("!document.querySelector('#cards .gl-card') && !document.querySelector('#familiar h2')")


def main() -> None:
    """Start the app, click, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append", help="names in the zoo, globs [default: vehicles/*]")
    parser.add_argument("--port", type=int, default=7863)
    parser.add_argument("--picture", type=Path, help="write the page as it looks here, and its playground beside it")
    asked = parser.parse_args()
    program = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if program is None:
        parser.error(f"no Chromium on the PATH (looked for {', '.join(CHROMIUM)})")
    command = [sys.executable, "-m", "gradlens", "app", "--device", "cpu", "--quiet", "--port", str(asked.port)]
    command += [word for name in asked.model or ["vehicles/*"] for word in ("--model", name)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        with sync_playwright() as running:
            browser = running.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1440, "height": 960}, reduced_motion="reduce")
            page.goto(address)
            page.wait_for_selector("#cards")
            models = page.locator("#models input:checked").count()
            rows = []
            for i in range(page.locator("#examples .gallery-item").count()):
                if i:
                    clear(page)
                rows.append(click(page, i, models))
            if asked.picture:
                clear(page)
                click(page, 1, models)
                page.wait_for_timeout(1000)
                page.screenshot(path=asked.picture)
                page.get_by_role("tab", name="Shift playground").click()
                page.wait_for_function(f"document.querySelectorAll('#pairs .gl-pair .gl-sides').length === {models}")
                page.wait_for_timeout(1000)
                page.screenshot(path=asked.picture.with_stem(asked.picture.stem + "-playground"))
            browser.close()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    print(f"{models} models, {len(rows)} pictures, {cores} cores, load of the machine {load:.1f}")
    print("| seconds until | first click | median of the others | longest of them |\n|---|--:|--:|--:|")
    for name, (first, *others) in zip(WAITS, zip(*rows, strict=True), strict=True):
        print(f"| {name} | {first:.2f} | {statistics.median(others):.2f} | {max(others):.2f} |")


if __name__ == "__main__":
    main()
