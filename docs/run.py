"""Follow pages of the documentation: run their commands and code, from top to bottom, in a folder.

    python docs/run.py build/pages docs/tutorial.md docs/gallery.md --keep

Pictures whose path begins with ``images/PAGE/`` are what the page's own commands leave under ``runs/``; they must be
there afterwards. They are committed, so that pages show them wherever they are read; ``--keep`` renews them. A step is
not run again in the same folder unless it or one before it has changed; where a step fails among what earlier runs
left, the page is followed once more in an empty folder.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.M | re.S)
_PICTURE = re.compile(r"!\[[^\]]*\]\(images/([\w-]+)/([^)]+)\)")


def steps(text: str) -> list[list[str]]:
    """The commands of a page as argument lists, code as ``python -c``; in the page's order."""
    # "python" and "gradlens" are those of this environment
    programs = {"python": [sys.executable], "gradlens": [sys.executable, "-m", "gradlens"]}
    found = []
    for language, block in _BLOCK.findall(text):
        if language == "python":
            found.append([sys.executable, "-c", block])
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                scripts = [str(ROOT / w) if w.startswith("docs/") else w for w in words[1:]]
                found.append([*programs[words[0]], *scripts])
    return found


def follow(page: Path, folder: Path) -> None:
    """Run a page in ``folder``, from the first step on that was not run there.

    Raises:
        RuntimeError: a step failed, or a picture that the page shows was not made.
    """
    before = folder.is_dir() and any(folder.iterdir())
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _follow(page, folder)
    except RuntimeError:
        if not before:
            raise
        shutil.rmtree(folder)
        follow(page, folder)


def _follow(page: Path, folder: Path) -> None:
    text = page.read_text(encoding="utf-8")
    todo = steps(text)
    history = hashlib.sha256()
    for i, step in enumerate(todo, 1):
        history.update(repr(step).encode())
        mark = folder / f"{history.hexdigest()[:16]}.done"
        if mark.exists():
            continue
        what = shlex.join(step[1:])
        done = subprocess.run(  # noqa: S603 (a page's own commands)
            step, cwd=folder, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "Agg"}, check=False
        )
        if done.returncode:
            said = done.stdout[-2000:] + done.stderr[-4000:]
            raise RuntimeError(f"{page.name}, step {i} of {len(todo)}:\n{what}\n{said}")
        mark.touch()
    if absent := [name for name in pictures(page) if not (folder / "runs" / name).is_file()]:
        raise RuntimeError(f"{page.name} shows runs/{absent[0]}, which none of its commands made")


def pictures(page: Path) -> list[str]:
    """The pictures of a page that its own commands make, relative to ``runs/``."""
    return [name for stem, name in _PICTURE.findall(page.read_text(encoding="utf-8")) if stem == page.stem]


def main() -> None:
    """Follow the pages that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--keep", action="store_true", help="renew the pictures that lie beside the pages")
    asked = parser.parse_args()
    for page in asked.pages:
        folder = asked.folder / page.stem
        print(f"following {page} in {folder}", flush=True)
        follow(page.resolve(), folder)
        for name in pictures(page) if asked.keep else ():
            beside = page.parent / "images" / page.stem / name
            beside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / "runs" / name, beside)


if __name__ == "__main__":
    main()
