"""How the study's images are spread over their classes."""

from __future__ import annotations

import numpy as np

from gradlens.data.image_set import ImageSet
from gradlens.data.sources import open_source
from gradlens.figures.class_distribution import SetSpread, class_distribution
from gradlens.workflows.measure.analyses import Outcome
from gradlens.workflows.study.section import Course, section

COLUMNS = ("dataset", "use", "class", "images", "share")


@section("class_distribution", "Images per class", "How many images of each class every part of the data has.")
def of_course(course: Course) -> Outcome:
    """Counts of each set; training images are counted before a selection part is held out of them."""
    data, runtime = course.study.data, course.runtime
    opened = [("training", open_source(data.train, offline=runtime.offline, runtime=runtime))]
    if data.select is not None:
        opened.append(("selection", open_source(data.select, offline=runtime.offline, runtime=runtime)))
    images = course.subject.evidence.images
    opened += [("test" if name == course.subject.in_dist else "probe", images[name]) for name in images]
    spreads = [_spread(use, s) for use, s in opened]
    rows = [
        {"dataset": s.name, "use": s.use, "class": c, "images": n, "share": n / max(1, sum(s.counts))}
        for s in spreads
        for c, n in zip(s.classes, s.counts, strict=True)
    ]
    train = spreads[0]
    sizes = "all of one size" if train.imbalance == 1 else f"the largest {train.imbalance:.3g} times the smallest"
    text = f"{train.name}: {sum(train.counts):,} images of {len(train.classes)} classes, {sizes}"
    worst = max(spreads, key=lambda s: s.imbalance)
    if worst.imbalance > train.imbalance:
        text += f"; the most unbalanced set is {worst.name} ({worst.imbalance:.3g} times)"
    notes = []
    if data.select is None:
        notes.append(f"{100 * data.select_fraction:g} % of each class of {train.name} were held out for selection")
    return Outcome(
        tables={"class_distribution.csv": (COLUMNS, rows)},
        figures=[("class_distribution", lambda: class_distribution(spreads))],
        findings=[f"{text}."],
        notes=notes,
    )


def _spread(use: str, images: ImageSet) -> SetSpread:
    classes = images.classes or ()
    counts = np.bincount(images.labels[images.labels >= 0], minlength=len(classes))
    return SetSpread(images.name, use, classes, tuple(int(n) for n in counts))
