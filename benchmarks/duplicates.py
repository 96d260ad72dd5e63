"""Which planted near-duplicates are found, how many wrong pairs come with them, and how long a search takes.

    python benchmarks/duplicates.py [SOURCE ...] [--n 200] [--seed 1]
    python benchmarks/duplicates.py --speed A B

Of each SOURCE (an image set), 2 N images are drawn; N of them are changed in every way below, and all changed ones are
looked for among the 2 N. A pair of a changed image and its own original is right; every other pair is wrong (also where
the source itself holds near-duplicates, as CIFAR-10 does, so that precision is understated). Beside gradlens, in the
same run, on the same 32 x 32 colour pictures or hashes: whole-picture pHash and dHash at their usual limit of 10 of 64
bits, pixel L2 and normalised correlation at the limit where they are as precise as gradlens (which favours them: it is
chosen on these very pairs). Average precision ranks all pairs of all changes.

``--speed`` compares two sets completely and prints CPU time of this process, so that other work does not count.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import cv2
import numpy as np
from sklearn.metrics import average_precision_score

from gradlens.data.duplicates import WINDOWS, Gathering, Signatures, near_duplicates
from gradlens.data.image_set import ImageSet
from gradlens.data.sources import open_source
from gradlens.runtime import Runtime

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
QUIET = Runtime(quiet=True, workers=1)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))[..., ::-1]


def scaled(image: np.ndarray, down: float, across: float) -> np.ndarray:
    size = max(1, round(image.shape[1] * across)), max(1, round(image.shape[0] * down))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if down <= 1 else cv2.INTER_CUBIC)


def crop(image: np.ndarray, keep: float, rng: np.random.Generator) -> np.ndarray:
    h, w = round(image.shape[0] * keep), round(image.shape[1] * keep)
    y, x = rng.integers(image.shape[0] - h + 1), rng.integers(image.shape[1] - w + 1)
    return image[y : y + h, x : x + w]


def watermark(image: np.ndarray) -> np.ndarray:
    """A half-transparent white bar over 9 % of the picture, low in it."""
    image = image.copy()
    h, w = image.shape[:2]
    bar = image[h * 3 // 4 : h * 7 // 8, w // 8 : w * 7 // 8]
    bar[:] = bar // 2 + 127
    return image


CHANGES: dict[str, Change] = {
    "JPEG 90": lambda i, _: jpeg(i, 90),
    "JPEG 60": lambda i, _: jpeg(i, 60),
    "JPEG 30": lambda i, _: jpeg(i, 30),
    "half size": lambda i, _: scaled(i, 0.5, 0.5),
    "double size": lambda i, _: scaled(i, 2, 2),
    "half size, JPEG 60": lambda i, _: jpeg(scaled(i, 0.5, 0.5), 60),
    "other aspect (4:3)": lambda i, _: scaled(i, 0.75, 1),
    "crop 95 %": lambda i, rng: crop(i, 0.95, rng),
    "crop 90 %": lambda i, rng: crop(i, 0.9, rng),
    "crop 85 %": lambda i, rng: crop(i, 0.85, rng),
    "crop 80 %": lambda i, rng: crop(i, 0.8, rng),
    "mirrored": lambda i, _: i[:, ::-1],
    "mirrored, crop 90 %": lambda i, rng: crop(i[:, ::-1], 0.9, rng),
    "brightness x 1.4 + 20": lambda i, _: (i * 1.4 + 20).clip(0, 255).astype(np.uint8),
    "brightness x 0.6": lambda i, _: (i * 0.6).astype(np.uint8),
    "watermark": lambda i, _: watermark(i),
}


def of_pictures(pictures: dict[str, np.ndarray], name: str) -> Signatures:
    gathered = Gathering()
    for key, picture in pictures.items():
        gathered.add(key, key, np.ascontiguousarray(picture))
    return gathered.done(name)


def dhash(small: np.ndarray) -> np.ndarray:
    """(n,) uint64: whether each of 8 x 8 differences of neighbours across is positive."""
    grey = np.array(
        [cv2.resize(cv2.cvtColor(s, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA) for s in small]
    )
    signs = (grey[:, :, 1:] > grey[:, :, :-1]).reshape(len(small), 64)
    return (signs.astype(np.uint64) << np.arange(64, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)


def plain_scores(a: Signatures, b: Signatures) -> dict[str, np.ndarray]:
    """(len(a), len(b)) each: larger means more alike."""
    p, q = (s.small.reshape(len(s), -1).astype(np.float32) / 255 for s in (a, b))
    l2 = -np.sqrt(np.maximum((p * p).sum(1)[:, None] + (q * q).sum(1)[None] - 2 * p @ q.T, 0))
    p, q = ((z - z.mean(1, keepdims=True)) / (z.std(1, keepdims=True) + 1e-6) / z.shape[1] ** 0.5 for z in (p, q))
    bits = np.bitwise_count(a.hashes[:, :1] ^ b.hashes[None, :, 0])
    other = np.bitwise_count(dhash(a.small)[:, None] ^ dhash(b.small)[None])
    return {"pixel L2": l2, "correlation": p @ q.T, "pHash": -bits.astype(float), "dHash": -other.astype(float)}


def recall(images: ImageSet, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = min(n, len(images) // 2)
    chosen = rng.permutation(len(images))[: 2 * n]
    pictures = {images.samples[i].id: images.read(int(i)) for i in chosen}
    originals = of_pictures(pictures, "originals")
    names = list(pictures)
    changed: dict[str, np.ndarray] = {}
    for change, function in CHANGES.items():
        changed |= {f"{change}\t{name}": function(pictures[name], rng) for name in names[:n]}
    copies = of_pictures(changed, "copies")
    truth = np.array([[c.partition("\t")[2] == name for name in names] for c in copies.ids])
    of_change = np.array([c.partition("\t")[0] for c in copies.ids])

    row, column = ({key: i for i, key in enumerate(ids)} for ids in (copies.ids, originals.ids))
    scores = plain_scores(copies, originals)
    ours, found = np.full(truth.shape, -1.0), np.zeros(truth.shape, dtype=bool)
    for pair in near_duplicates(copies, originals, QUIET):
        ours[row[pair.a], column[pair.b]] = pair.fine
        found[row[pair.a], column[pair.b]] = pair.verified
    decided = {"gradlens": found, "pHash": scores["pHash"] >= -10, "dHash": scores["dHash"] >= -10}
    precision = (found & truth).sum() / found.sum()
    for name in ("pixel L2", "correlation"):
        order = np.argsort(-scores[name], axis=None)
        right = np.cumsum(truth.ravel()[order]) / np.arange(1, truth.size + 1)
        last = np.flatnonzero(right >= precision)
        decided[name] = np.zeros(truth.shape, dtype=bool)
        if len(last):
            decided[name].ravel()[order[: last[-1] + 1]] = True
    scores = {"gradlens": ours, **scores}

    heads = list(decided)
    print(f"\n{images.name}: {n} images in {len(CHANGES)} versions among {2 * n}; {truth.size:,} pairs")
    print(f"{'recall':24s}" + "".join(f"{h:>13s}" for h in heads))
    for change in CHANGES:
        at = of_change == change
        cells = [(decided[h][at] & truth[at]).sum() / at.sum() for h in heads]
        print(f"{change:24s}" + "".join(f"{100 * c:12.1f}%" for c in cells))
    cells = [(decided[h] & truth).sum() / truth.sum() for h in heads]
    print(f"{'all':24s}" + "".join(f"{100 * c:12.1f}%" for c in cells))
    cells = [(decided[h] & truth).sum() / max(1, decided[h].sum()) for h in heads]
    print(f"{'precision':24s}" + "".join(f"{100 * c:12.2f}%" for c in cells))
    print(f"{'wrong pairs':24s}" + "".join(f"{(decided[h] & ~truth).sum():13,}" for h in heads))
    if images.classes is not None:
        label = {images.samples[i].id: images.samples[i].label for i in chosen}
        same = np.array([[label[c.partition("\t")[2]] == label[name] for name in names] for c in copies.ids])
        cells = [(decided[h] & ~truth & same).sum() for h in heads]
        print(f"{'  of them in one class':24s}" + "".join(f"{c:13,}" for c in cells))
    cells = [average_precision_score(truth.ravel(), scores[h].ravel()) for h in heads]
    print(f"{'average precision':24s}" + "".join(f"{c:13.3f}" for c in cells))
    within = near_duplicates(originals, runtime=QUIET)
    pairs = 2 * n * (2 * n - 1) // 2
    print(f"{sum(p.verified for p in within)} of {pairs:,} pairs of different originals are taken for near-duplicates")


def speed(first: str, second: str) -> None:
    sets = [open_source(spec) for spec in (first, second)]
    start = time.process_time()
    one, other = (Signatures.of(s, QUIET) for s in sets)
    signing = time.process_time() - start
    start = time.process_time()
    pairs = near_duplicates(one, other, QUIET)
    comparing = time.process_time() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    views = 2 * (2 * len(WINDOWS) - 1)
    print(f"{len(one):,} x {len(other):,} images: {len(one) * len(other):,} pairs in {views} views each")
    print(f"signatures {signing:8.1f} s of CPU time, {1000 * signing / (len(one) + len(other)):.2f} ms an image")
    print(f"comparison {comparing:8.1f} s of CPU time; {memory:,.0f} MiB resident at most")
    print(f"{sum(p.verified for p in pairs):,} verified pairs, {sum(not p.verified for p in pairs):,} doubtful")
    leaked = {p.a for p in pairs if p.verified}
    print(f"{len(leaked):,} of {len(one):,} images of {sets[0].name} repeat one of {sets[1].name}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("sources", nargs="*", default=["vehicles-test"])
    options.add_argument("--n", type=int, default=200)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--speed", nargs=2, metavar=("A", "B"))
    given = options.parse_args()
    if given.speed:
        speed(*given.speed)
        return
    for spec in given.sources:
        recall(open_source(spec), given.n, given.seed)


if __name__ == "__main__":
    main()
