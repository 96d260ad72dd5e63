"""The built documentation: complete, and content with the folder it lies in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from documents import ROOT, pages

from browser import Tab, chromium, violations, visit

__all__ = ["chromium", "visit"]  # fixtures

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it; not with `--quiet`, which takes the warnings from `--strict`."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: the extra 'docs'")
    place = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return place / "site"


def test_a_page_is_followed_anew_where_leftovers_are_in_its_way(tmp_path: Path) -> None:
    page, folder = tmp_path / "page.md", tmp_path / "pages" / "page"
    page.write_text("```python\nfrom pathlib import Path\nPath('made').mkdir()\n```\n")
    command = [sys.executable, str(ROOT / "docs" / "run.py"), str(folder.parent), str(page)]
    (folder / "made").mkdir(parents=True)  # by a page that was written otherwise
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert (folder / "made").is_dir()
    page.write_text("![what nobody drew](images/page/drawn.png)\n")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "shows runs/drawn.png, which none of its commands made" in done.stderr
    page.write_text("```python\nraise SystemExit(1)\n```\n")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


def test_every_command_is_in_the_reference(site: Path) -> None:
    from gradlens.cli.main import COMMANDS

    page = (site / "commands.html").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f'id="gradlens-{name}"' not in page] == []


@pytest.mark.parametrize("page", [p.stem for p in pages() if p.parent.name == "docs"])
def test_a_page_asks_no_other_machine(page: str, site: Path, visit: Callable[..., Tab]) -> None:
    tab = visit(site / f"{page}.html", width=360)
    tab.page.wait_for_timeout(300)  # what a page asks for after it has loaded
    assert [url for url in tab.requests if not url.startswith(("file:", "data:", "blob:", "about:"))] == []
    assert tab.complaints == []
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_search_works_from_a_folder(site: Path, visit: Callable[..., Tab]) -> None:
    tab = visit(site / "index.html")
    # with keys, as a reader does: the theme reads its box when a key goes up, and text put there at once goes unseen
    tab.page.get_by_role("textbox", name="Search").press_sequentially("cut vertex")
    tab.page.wait_for_selector(".md-search-result__link", timeout=60_000)
    found = tab.page.eval_on_selector_all(".md-search-result__link", "links => links.map(a => a.href)")
    assert any("depths.html" in link for link in found)
    assert tab.complaints == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_first_page_can_be_read_by_everybody(dark: bool, site: Path, visit: Callable[..., Tab]) -> None:
    assert violations(visit(site / "index.html", dark=dark).page) == []
