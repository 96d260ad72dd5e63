"""What the build of the documentation adds to its pages: the pictures that ``docs/run.py`` made by following them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

MADE = Path(os.environ.get("DOCS_PICTURES") or Path(__file__).resolve().parent.parent / "build" / "pages")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put the pictures where the pages look for them; a strict build fails on one that is missing."""
    for page in sorted(Path(config.docs_dir).glob("*.md")):
        for name in re.findall(r"\]\((runs/[^)]+)\)", page.read_text(encoding="utf-8")):
            if (picture := MADE / page.stem / name).is_file():
                files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files
