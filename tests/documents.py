"""What README and docs/ say that can be tried: commands, code, examples of files, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("gradlens", "torchrun", "make", "python", "pip", "git", "mkdocs")

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<marks>`{3,})(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)(?P=marks)[ ]*$", re.M | re.S
)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_LINK = re.compile(r"\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")


@dataclass(frozen=True)
class Command:
    """A command line as a page shows it.

    Attributes:
        line: where it stands, from 1.
        text: without prompt, continuation and comment.
        mention: it names a command or a form (capitals stand for the reader's own), and is nothing to type as it is.
    """

    page: str
    line: int
    text: str
    mention: bool = False

    @property
    def words(self) -> list[str]:
        return shlex.split(re.sub(r"\$\w+", "1", self.text), comments=True)  # $SLURM_ARRAY_TASK_ID is some number


@dataclass(frozen=True)
class Block:
    """A fenced block: its language (``sh``, ``python``, ...) and text, without the fence's indentation."""

    page: str
    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[Command]:
        """The commands of a block of shell: every line of ``sh`` and ``bash``, those after a prompt of ``console``."""
        if self.language not in ("sh", "bash", "console"):
            return []
        found: list[tuple[int, str]] = []
        open_end = False
        for i, raw in enumerate(self.text.splitlines()):
            line = raw.strip()
            if open_end:
                found[-1] = (found[-1][0], f"{found[-1][1]} {line.removesuffix(chr(92)).strip()}")
                open_end = line.endswith(chr(92))
                continue
            if self.language == "console":
                if not line.startswith("$ "):
                    continue
                line = line.removeprefix("$ ")
            if not line or line.startswith("#"):
                continue
            open_end = line.endswith(chr(92))
            found.append((i, line.removesuffix(chr(92)).strip()))
        return [Command(self.page, self.line + 1 + i, text) for i, text in found]


def pages() -> list[Path]:
    """README and every page of the docs, as written."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@cache
def blocks(page: Path) -> tuple[Block, ...]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        indent = match["indent"]
        body = "".join(line.removeprefix(indent) for line in match["text"].splitlines(keepends=True))
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(name_of(page), line, match["info"].split()[0] if match["info"].split() else "", body))
    return tuple(found)


def spans(page: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of the code spans outside of fenced blocks."""
    text = prose(page)
    for match in _SPAN.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, " ".join(match[1].split())


def prose(page: Path) -> str:
    """The page with its fenced blocks blanked, line for line."""
    return _FENCE.sub(lambda m: "\n" * m[0].count("\n"), page.read_text(encoding="utf-8"))


def inline(page: Path) -> list[Command]:
    """The code spans of a page that begin as a command does."""
    return [
        Command(name_of(page), line, text, _is_mention(text))
        for line, text in spans(page)
        if text.split()[0] in PROGRAMS and len(text.split()) > 1
    ]


def _is_mention(text: str) -> bool:
    words = text.split()
    if any(re.fullmatch(r"[A-Z][A-Z_/]*(\.[a-z]+|\.[A-Z]+)?", w.strip("'\"[]")) or "..." in w for w in words[1:]):
        return True
    named = " ".join(words) in {f"gradlens {w}" for w in ("probe add", "probe render", "probe sheet", "zoo import")}
    return named or (words[0] == "gradlens" and len(words) == 2 and not words[1].startswith("-"))


def links(page: Path) -> list[tuple[int, str]]:
    """(line, target) of links and pictures."""
    text = prose(page)
    return [(text.count("\n", 0, m.start()) + 1, m[1]) for m in _LINK.finditer(text)]


def anchors(page: Path) -> set[str]:
    """The ids that headings of a page get, by GitHub's rule, which ``mkdocs.yml`` asks for as well."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.+?)\s*#*$", prose(page), re.M):
        explicit = re.search(r"\{ *#([\w-]+)[^}]*\}", heading)
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"\{[^}]*\}", "", heading)).strip().lower()
        found.add(explicit[1] if explicit else re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", plain).strip()))
    return found


def name_of(page: Path) -> str:
    """``docs/shift.md``"""
    return page.relative_to(ROOT).as_posix()
