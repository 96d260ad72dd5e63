"""What a model takes for what: a matrix of classes for each set, and the most confused pairs in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradlens.shift import tables

MOST_CLASSES = 20  # of a matrix; above that a page shows the most confused pairs only
MOST_CELLS = 60_000  # of all matrices of a page: some 3 MB
MOST_PAIRS = 5


@dataclass(frozen=True)
class Row:
    """One class of a set.

    Attributes:
        images: of this class.
        cells: per column (images, their share of the class, that in percent as text, whether this is the right answer).
    """

    name: str
    images: int
    cells: tuple[tuple[int, float, str, bool], ...]


@dataclass(frozen=True)
class Confusion:
    """One model's answers on one set.

    Attributes:
        dataset: the set; title: as the page calls it.
        columns: answers: the classes of the rows, then other classes that were answered.
        rows: the classes that have images, in the order of the files; empty where there are too many for a page.
        images, wrong: of the set, and how many of them got another answer than their class.
        pairs: the most confused classes in words, most often confused first.
    """

    dataset: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    images: int
    wrong: int
    pairs: tuple[str, ...]


def confusion(
    dataset: str, title: str, answers: Mapping[tuple[str, str], int], order: Sequence[str], room: int
) -> Confusion:
    """From counts by (class, predicted class).

    Args:
        dataset, title: see :class:`Confusion`.
        answers: images by class and answer.
        order: classes in the order in which they should stand.
        room: how many cells the matrix may have at most.
    """
    images: dict[str, int] = {}
    for (true, _), n in answers.items():
        images[true] = images.get(true, 0) + n
    place = {name: i for i, name in enumerate(order)}
    classes = sorted((name for name, n in images.items() if n), key=lambda c: (place.get(c, len(place)), c))
    extra = sorted({said for (_, said), n in answers.items() if n and said not in images})
    columns = (*classes, *extra)
    small = len(classes) <= MOST_CLASSES and len(classes) * len(columns) <= room
    rows = tuple(
        Row(
            true,
            images[true],
            tuple(
                (n, n / images[true], tables.percent(n / images[true]), said == true)
                for said in columns
                for n in (answers.get((true, said), 0),)
            ),
        )
        for true in (classes if small else ())
    )
    wrong = {pair: n for pair, n in answers.items() if n and pair[0] != pair[1]}
    most = sorted(wrong, key=lambda pair: (-wrong[pair], pair))[:MOST_PAIRS]
    pairs = tuple(_in_words(true, said, wrong[true, said], images[true]) for true, said in most)
    return Confusion(dataset, title, columns, rows, sum(images.values()), sum(wrong.values()), pairs)


def _in_words(true: str, said: str, n: int, images: int) -> str:
    times = "once" if n == 1 else f"{n:,} times"
    return f"{true} taken for {said} {times} of {images:,} ({tables.percent(n / images)}\N{NO-BREAK SPACE}%)"
