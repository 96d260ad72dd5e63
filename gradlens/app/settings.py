"""What ``gradlens app`` was asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_PIXELS = 64_000_000
"""Of an uploaded picture: 0.2 GB decoded; several people may send one at once."""

BATCH = 8
"""Images of an in-distribution set in one pass: somebody's picture waits for one such pass at most."""

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclass(frozen=True)
class Settings:
    """What ``gradlens app`` was asked for; see its options.

    Attributes:
        models: names as :func:`gradlens.zoo.checkpoints.expand` gives them.
        memory: bytes for the weights of loaded models and the passes that may run at once.
        concurrency: people whose pictures are looked at at once; the others queue.
        images: examples; those of the models' own test set where there are none.
        in_dist: SOURCE of the in-distribution set; what the models' cards name if ``None``.
        references: folder of what was kept of in-distribution sets, as an export has it.
        run: folder of a finished shift evaluation, shown in a tab.
        max_upload: bytes of one upload.
    """

    models: tuple[str, ...]
    zoo: Path | None = None
    weights: str | None = None
    classes: int | None = None
    memory: int = 2 * 10**9
    concurrency: int = 2
    images: Sequence[Path] = ()
    in_dist: str | None = None
    references: Path | None = None
    run: Path | None = None
    max_upload: int = 20 * 2**20
    title: str = "gradlens"


def size_in_bytes(text: str) -> int:
    """``"2GB"``, ``"500 MB"``, ``"1.5g"``, ``"20mb"`` or ``"1GiB"`` in bytes.

    Raises:
        ValueError: it is no size above zero.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE)
    if not found:
        raise ValueError(f"expected a size such as 500MB or 2GB, got {text!r}")
    number, unit, binary = found.groups()
    scale = _UNITS[unit.lower()]
    if binary:
        scale = 1024 ** list(_UNITS).index(unit.lower())
    size = round(float(number) * scale)
    if size < 1:
        raise ValueError(f"expected a size above zero, got {text!r}")
    return size


def size_in_words(size: float) -> str:
    """``1.2 GB``, ``35 MB``, ``0.5 MB``."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.{0 if size >= 1e7 else 1}f} MB"
