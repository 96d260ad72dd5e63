"""What the image sets of a run hold: classes, native sizes, copies, leaks, what was skipped, and a sample sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradlens.report.cells import Cell, Table
from gradlens.report.kept import Kept
from gradlens.report.run_files import Run

MOST_CLASSES = 40  # bars of a set; of more classes, the largest and the smallest are shown
MOST_SIZES = 8  # native sizes that are listed one by one
LEAKS = {
    "test-train": "in training data",
    "probe-train": "in training data",
    "probe-test": "in the in-distribution set",
    "within": "within the set",
}


@dataclass(frozen=True)
class Bar:
    """A class of a set; share: of its largest class, 0-1."""

    name: str
    n: int
    share: float


@dataclass(frozen=True)
class Tile:
    """A photograph of the sheet."""

    address: str
    label: str
    width: int
    height: int


@dataclass(frozen=True)
class DataSet:
    """One image set.

    Attributes:
        shown: without what all sets' names begin with; summary: in a line.
        bars: its classes with images; left_out: how many classes have no bar; empty: classes without an image.
        sizes: (size, images) the most common first; other_sizes: in words, empty where all are listed.
        sheet: photographs.
    """

    name: str
    shown: str
    summary: str
    bars: tuple[Bar, ...]
    left_out: int
    empty: tuple[str, ...]
    sizes: tuple[tuple[str, int], ...]
    other_sizes: str
    sheet: tuple[Tile, ...]


def data_sets(run: Run, kept: Kept, sets: Mapping[str, str]) -> tuple[Table, list[DataSet]]:
    """A table of all sets, and each one."""
    return _table(run, kept, sets), [_data_set(s, kept, sets.get(s["name"], s["name"])) for s in kept.sets]


def _table(run: Run, kept: Kept, sets: Mapping[str, str]) -> Table:
    leaks, skipped = _leaks(run), _skipped(run)
    heads = [
        ("Set", ""),
        ("Role", ""),
        ("Images", ""),
        ("Classes", "with images"),
        ("Smallest class", "images"),
        ("Largest class", "images"),
        ("Native sizes", "different ones"),
        ("Exact copies", "of another image of the set"),
        ("Skipped", "inputs"),
    ]
    kinds = [kind for kind in dict.fromkeys(LEAKS.values()) if any(key[1] == kind for key in leaks)]
    heads += [("Near-duplicates", kind) for kind in kinds]
    rows = []
    for s in kept.sets:
        counts = {name: n for name, n in s["classes"].items() if n}
        cells = [
            Cell(sets.get(s["name"], s["name"]), sort=s["name"], title=s["name"]),
            Cell(s["role"], sort=s["role"]),
            _count(s["images"]),
            Cell(f"{len(counts)} of {len(s['classes'])}" if s["classes"] else "–", sort=len(counts)),
            _class_size(counts, min(counts.values(), default=0)),
            _class_size(counts, max(counts.values(), default=0)),
            Cell(f"{len(s['sizes']):,}", _of(s), len(s["sizes"])),
            Cell(f"{s['copies']:,}", _of(s), s["copies"]),
            _count(skipped.get(s["name"], 0)),
        ]
        for kind in kinds:
            found = leaks.get((s["name"], kind))
            cells.append(Cell("–", sort=-1) if found is None else Cell(f"{found[0]:,}", f"of {found[1]:,}", found[0]))
        rows.append(tuple(cells))
    caption = "The image sets, by what is known of their files"
    return Table(caption, tuple(heads), tuple(rows), "sets")


def _count(n: int) -> Cell:
    return Cell(f"{n:,}", sort=n)


def _class_size(counts: Mapping[str, int], n: int) -> Cell:
    """A number of images and which classes have as many."""
    names = [name for name, own in counts.items() if own == n]
    if not names:
        return Cell("–", sort=-1)
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return Cell(f"{n:,}", "every class" if len(names) == len(counts) > 1 else names[0] + others, n)


def _of(s: Mapping[str, Any]) -> str:
    """Among how many images, where not all were looked at."""
    return "" if s["examined"] == s["images"] else f"of {s['examined']:,} images"


def _leaks(run: Run) -> dict[tuple[str, str], tuple[int, int]]:
    """(set, where) -> images of the set with a near-duplicate there, and of how many; from ``leakage_sets.csv``.

    Of several training sets, the one with the most.
    """
    rows = [r for a in run.analyses if a.name == "leakage" for r in a.tables.get("leakage_sets.csv", ())]
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for r in rows:
        if r["kind"] in LEAKS:
            key, count = (r["set_a"], LEAKS[r["kind"]]), (int(r["leaked"]), int(r["n_a"]))
            found[key] = max(found.get(key, count), count)
    return found


def _skipped(run: Run) -> dict[str, int]:
    """Inputs of each set that were not scored, told by where they lie; the longest location that fits counts."""
    told = [run.about.get("in_dist"), *(run.about.get("probe_sets") or []), *(run.about.get("unlabelled") or [])]
    places = {str(s["location"]): str(s["name"]) for s in told if isinstance(s, dict) and s.get("location")}
    counts: dict[str, int] = {}
    for item in run.skipped:
        fitting = [place for place in places if item.path == place or item.path.startswith(f"{place}/")]
        if fitting:
            name = places[max(fitting, key=len)]
            counts[name] = counts.get(name, 0) + 1
    return counts


def _data_set(s: Mapping[str, Any], kept: Kept, shown: str) -> DataSet:
    counts = {name: n for name, n in s["classes"].items() if n}
    bars = _bars(counts)
    sizes = [(f"{width} × {height}", n) for width, height, n in s["sizes"]]
    rest = s["sizes"][MOST_SIZES:]
    other = ""
    if rest:
        sides = [*(width for width, _, _ in rest), *(height for _, height, _ in rest)]
        images = sum(n for *_, n in rest)
        other = f"{len(rest):,} other sizes, {images:,} images, sides of {min(sides):,} to {max(sides):,} pixels"
    kinds = f"{len(counts)} classes" if counts else "no labels"
    return DataSet(
        s["name"],
        shown,
        f"{s['images']:,} images, {kinds}",
        bars,
        len(counts) - len(bars),
        tuple(name for name, n in s["classes"].items() if not n),
        tuple(sizes[:MOST_SIZES]),
        other,
        tuple(_tile(kept, number) for number in s["sheet"]),
    )


def _bars(counts: Mapping[str, int]) -> tuple[Bar, ...]:
    names: Sequence[str] = list(counts)
    if len(names) > MOST_CLASSES:
        ranked = sorted(names, key=lambda name: -counts[name])
        names = [*ranked[: MOST_CLASSES // 2], *ranked[-MOST_CLASSES // 2 :]]
    most = max(counts.values(), default=1)
    return tuple(Bar(name, counts[name], counts[name] / most) for name in names)


def _tile(kept: Kept, number: str) -> Tile:
    s = kept.by_id[number]
    scale = min(1.0, 72 / max(s["width"], s["height"]))
    sides = (max(1, round(scale * s[side])) for side in ("width", "height"))
    return Tile(kept.picture(s["file"]), s["label"] or "", *sides)
