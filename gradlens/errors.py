"""Everything that gradlens raises on purpose.

GradlensError                 caught by the command line: one line on stderr, the error's exit code
├── NotFoundError             a name that nobody knows; suggests near ones
├── InputError                an image, table, manifest or folder is not what it should be
├── CheckpointError           weights, config or checksum of a model do not fit together
├── ModelError                a network cannot be built, or does not act as an image classifier
├── DepthError                no depth where one was asked for, or a layout that failed its check
├── TrainingError             a recipe that cannot be carried out
├── InstallationError         a library is missing or two libraries do not fit; says how to mend it
├── ToldElsewhereError        another process of this run has said why it ends
└── ThresholdMissed           the work is done, but a limit the user set was not reached (exit code 4)

Messages say what was expected, what came, and what to do, in the user's words, on one line.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 1_500  # characters of a message; what a damaged file holds may be megabytes


class GradlensError(Exception):
    """Base of all errors gradlens raises on purpose.

    Its message is :func:`one_line`, whatever the names that it quotes hold: they come out of other people's files, and
    a terminal obeys control characters.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class NotFoundError(GradlensError):
    """A name that is not among the known ones.

    Args:
        kind: what the name should have named, e.g. ``"model"``.
        name: what the user wrote.
        known: the names that exist; near ones are suggested, few ones are listed.
        hint: what else could be done (appended in parentheses).
    """

    def __init__(self, kind: str, name: str, known: Iterable[str] = (), hint: str = "") -> None:
        known = list(known)
        near = suggest(name, known)
        parts = [f"no {kind} named {name!r}"]
        if near:
            parts.append("did you mean " + " or ".join(repr(n) for n in near) + "?")
        elif known:
            shown = ", ".join(known[:12]) + (f", ... ({len(known)} in all)" if len(known) > 12 else "")
            parts.append(f"known: {shown}")
        else:
            parts.append("none are known here")
        super().__init__("; ".join(parts) + (f" ({hint})" if hint else ""))
        self.kind, self.name, self.near = kind, name, near


class InputError(GradlensError):
    """An image, table, manifest or folder is not what it should be."""


class CheckpointError(GradlensError):
    """Weights, config or checksum of a model do not fit together."""


class ModelError(GradlensError):
    """A network cannot be built, or does not act as an image classifier."""


class DepthError(GradlensError):
    """No depth where one was asked for, or a layout that failed its check."""


class TrainingError(GradlensError):
    """A recipe that cannot be carried out."""


class InstallationError(GradlensError):
    """A library is missing, or two libraries do not fit together."""


class ToldElsewhereError(GradlensError):
    """Another process of this run has said why it ends; this one leaves without a word.

    Args:
        exit_code: to leave with.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process of this run has said why it ends")
        self.exit_code = exit_code


class ThresholdMissed(GradlensError):
    """The work is done and written, but a limit the user set was not reached."""

    exit_code = 4


def one_line(text: str, most: int = LONGEST) -> str:
    """``text`` with line ends as blanks, what does not print as escapes (``\\x1b``), its middle left out if long."""
    if not text.isprintable():
        text = " ".join(text.split()) if "\n" in text or "\r" in text else text
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} ... ({len(text) - most:,} characters left out) ... {text[-most // 2 :]}"


def suggest(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Names close to ``name``, nearest first (ignoring case and the part before ``/``)."""
    known = list(known)
    by_folded = {k.casefold(): k for k in known}
    for k in known:  # "densnet" should find "vehicles/densenet"
        by_folded.setdefault(k.rsplit("/", 1)[-1].casefold(), k)
    found: list[str] = []
    for folded in get_close_matches(name.casefold(), list(by_folded), n=most, cutoff=0.6):
        if by_folded[folded] not in found:
            found.append(by_folded[folded])
    return found
