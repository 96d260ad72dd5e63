"""How long a corruption takes: milliseconds of processor time per image, one thread, mean over the five severities.

python benchmarks/corruptions.py [SIDE ...]
"""

from __future__ import annotations

import time

import click
import cv2
import numpy as np

from gradlens.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt

REPEATS = 4


def picture(side: int) -> np.ndarray:
    """Smooth colours with grain, uint8 (side, side, 3)."""
    rng = np.random.default_rng(0)
    coarse = cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(coarse + rng.normal(0, 5, coarse.shape), 0, 255).astype(np.uint8)


def milliseconds(name: str, image: np.ndarray) -> float:
    """Per image, of processor time: other work on the machine does not count."""
    corrupt(image, name, 1, "first")
    best = []
    for severity in SEVERITIES:
        taken = []
        for i in range(REPEATS):
            started = time.process_time()
            corrupt(image, name, severity, str(i))
            taken.append(time.process_time() - started)
        best.append(min(taken))
    return 1000 * float(np.mean(best))


@click.command()
@click.argument("sides", metavar="[SIDE ...]", nargs=-1, type=click.IntRange(min=8))
def main(sides: tuple[int, ...]) -> None:
    """Print a table, one row per corruption; a SIDE is an image's width and height in pixels (32, 144 and 224)."""
    cv2.setNumThreads(1)
    sides = sides or (32, 144, 224)
    pictures = {side: picture(side) for side in sides}
    print(f"{'corruption':<20}" + "".join(f"{side:>8} px" for side in sides) + "   (ms per image)")
    totals = dict.fromkeys(sides, 0.0)
    for name in CORRUPTIONS:
        row = {side: milliseconds(name, image) for side, image in pictures.items()}
        totals = {side: totals[side] + row[side] for side in sides}
        print(f"{name:<20}" + "".join(f"{row[side]:>11.2f}" for side in sides))
    print(f"{'mean':<20}" + "".join(f"{totals[side] / len(CORRUPTIONS):>11.2f}" for side in sides))


if __name__ == "__main__":
    main()
