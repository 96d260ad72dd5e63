"""What the build of the documentation adds to its pages: the pictures that ``docs/run.py`` made by following them."""

from __future__ import annotations

import os
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

MADE = Path(os.environ.get("DOCS_PICTURES") or Path(__file__).resolve().parent.parent / "build" / "pages")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put the pictures where the pages look for them; a strict build fails on one that is missing."""
    for folder in sorted(p for p in MADE.glob("*") if p.is_dir()):
        for picture in sorted(folder.glob("runs/**/*.png")):
            files.append(File.generated(config, picture.relative_to(folder).as_posix(), abs_src_path=str(picture)))
    return files
