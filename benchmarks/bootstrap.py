"""How long a bootstrap of confusion-matrix metrics takes: gradlens beside a loop over scikit-learn.

    python benchmarks/bootstrap.py [--images 50000] [--classes 37] [--resamples 10000] [--loop 5]

Both compute intervals of accuracy and macro-averaged precision, recall and F1 from the same predictions. The loop draws
images with replacement and calls scikit-learn on the labels; it runs ``--loop`` times and is extrapolated linearly to
the resamples (each takes as long as the other), which the output says. CPU time of this process, not wall time, so
that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from gradlens.records import Predictions
from gradlens.shift.metrics import evaluate


def predictions(images: int, classes: int) -> Predictions:
    """About two thirds right, errors spread over all classes: no cell of the matrix is empty."""
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=images)
    predicted = np.where(rng.random(images) < 0.65, labels, rng.integers(classes, size=images))
    names = tuple(f"c{i}" for i in range(classes))
    return Predictions("model", "set", names, names, tuple(f"{i:06d}" for i in range(images)), labels, predicted)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--images", type=int, default=50_000)
    options.add_argument("--classes", type=int, default=37)
    options.add_argument("--resamples", type=int, default=10_000)
    options.add_argument("--loop", type=int, default=5)
    given = options.parse_args()
    p = predictions(given.images, given.classes)

    start = time.process_time()
    estimates = evaluate(p, resamples=given.resamples)
    ours = time.process_time() - start

    rng = np.random.default_rng(0)
    start = time.process_time()
    for _ in range(given.loop):
        drawn = rng.integers(given.images, size=given.images)
        truth, said = p.labels[drawn], p.predicted[drawn]
        accuracy_score(truth, said)
        precision_recall_fscore_support(truth, said, average="macro", zero_division=0.0)
    loop = (time.process_time() - start) / given.loop * given.resamples

    f1 = estimates["macro_f1"]
    print(f"{given.images:,} images, {given.classes} classes, {given.resamples:,} resamples; macro-F1", end=" ")
    print(f"{f1.value:.4f} [{f1.low:.4f}, {f1.high:.4f}]")
    print(f"gradlens            {ours:10.2f} s  (measured; 9 metrics)")
    print(f"scikit-learn loop   {loop:10.2f} s  (extrapolated from {given.loop} resamples; 4 metrics)")
    print(f"ratio               {loop / ours:10.0f}")


if __name__ == "__main__":
    main()
