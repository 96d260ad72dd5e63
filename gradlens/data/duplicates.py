"""Near-duplicates: pictures of one photograph, also where one was saved again, resized, cropped, mirrored or marked.

Two stages, cheap first:

1. *A perceptual hash proposes.* 64 signs of low DCT frequencies of the grey picture (pHash), of the whole picture and
   of windows of it, so that a crop is near the window that it was cut from. All pairs of hashes are compared, block by
   block; those within :data:`RADIUS` bits whose coarse colours agree as well go on.
2. *Pixels decide.* The narrower view is laid over the other (affine, by the enhanced correlation coefficient of
   Evangelidis & Psarakis 2008, starting at the window), and the two 32 x 32 colour pictures are compared where they
   overlap: by normalised correlation as they are, and by that of their fine structure, of which the hash sees little,
   block by block with equal weights. Both must be high: a smooth sky correlates with every smooth sky, and a dark
   shape on it with every dark shape, but what is around the shape does not.

The thresholds were chosen, and precision and recall are measured, on planted duplicates: ``benchmarks/duplicates.py``.
Pictures without structure (one colour all over) are found as exact copies only.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import cv2
import numpy as np

from gradlens.data.image_set import ImageSet, decoded
from gradlens.records import Skipped
from gradlens.runtime import Runtime

RADIUS = 14
"""Bits of 64 in which the hashes of a proposed pair may differ; two unrelated photographs differ in 32."""
COARSE = 0.65
"""Least normalised correlation of the 8 x 8 colour pictures of a pair that is looked at closely."""
ALIKE = 0.70
"""Least normalised correlation of the aligned 32 x 32 colour pictures of a verified pair."""
FINE = 0.70
"""Least normalised correlation of their fine structure, as the mean over blocks of the picture."""
DOUBTFUL = 0.55
"""From here on a pair is reported, as not verified, for somebody to look at."""

SMALL = 32  # side of the pictures that are compared
_GREY = 64  # side of the grey picture that is hashed
_STEPS = ((0.0, 1.0), (0.0, 0.9), (0.05, 0.9), (0.1, 0.9), (0.0, 0.8), (0.1, 0.8), (0.2, 0.8))  # start and length
WINDOWS = tuple((y, x) for y in range(7) for x in range(7) if _STEPS[y][1] == _STEPS[x][1])
"""Indices of a window's steps down and across; the first window is the whole picture."""
_HIGHEST = 9
_FREQUENCIES = sorted(
    ((u, v) for u in range(_HIGHEST) for v in range(_HIGHEST) if u + v), key=lambda f: (f[0] + f[1], f)
)[:64]
MIRROR = np.uint64(sum(1 << bit for bit, (_, v) in enumerate(_FREQUENCIES) if v % 2))
"""The bits in which the hash of a picture and that of its mirror image differ."""
_ROWS, _COLUMNS = 256, 8192  # of the block of hash distances that is in memory at once: fits a core's cache
_BAND = (0.6, 2.0)  # pixels of 32; coarser is what the hash compares, finer is what JPEG and resizing destroy
_FAINT = 0.5  # grey levels; structure weaker than this is rounding
_NOISE = 1.0  # grey levels; blocks without stronger fine structure say nothing
_BLOCK = 8  # pixels of 32
_EVERYWHERE = np.full((SMALL, SMALL), 255, dtype=np.uint8)
_WORTH = 0.2  # fine structure that agrees less than this before the alignment does not come to agree by it


@dataclass(frozen=True)
class Signatures:
    """What is kept of each image of a set to find its duplicates: 3.3 kB an image.

    Attributes:
        name: of the set.
        ids: n ids.
        digests: n sha256 of the images as stored.
        hashes: (n, windows) uint64; see :func:`hashes`.
        small: (n, 32, 32, 3) uint8 RGB, aspect not kept.
        skipped: images that cannot be decoded, and why; they have no signature.
    """

    name: str
    ids: tuple[str, ...]
    digests: tuple[str, ...]
    hashes: np.ndarray
    small: np.ndarray
    skipped: tuple[Skipped, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def quarters(self) -> np.ndarray:
        """(n, 3, 256) uint8: 16 x 16 pictures, each pixel the mean of four."""
        sums = self.small[:, ::2, ::2].astype(np.uint16)
        for rows, columns in ((0, 1), (1, 0), (1, 1)):
            sums += self.small[:, rows::2, columns::2]
        return np.ascontiguousarray(((sums + 2) >> 2).astype(np.uint8).reshape(len(self), 256, 3).transpose(0, 2, 1))

    @classmethod
    def of(cls, image_set: ImageSet, runtime: Runtime) -> Signatures:
        """The signatures of a set's images, decoded once."""
        gathered = Gathering()
        for i, image in decoded(image_set, runtime=runtime):
            if isinstance(image, Skipped):
                gathered.skipped.append(image)
            else:
                gathered.add(image_set.samples[i].id, image_set.digest(i), image)
        return gathered.done(image_set.name)


class Gathering:
    """Signatures of images that come one by one: :meth:`add` each, then :meth:`done`."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.digests: list[str] = []
        self.small: list[np.ndarray] = []
        self.hashes: list[np.ndarray] = []
        self.waiting: list[np.ndarray] = []
        self.skipped: list[Skipped] = []

    def add(self, name: str, digest: str, image: np.ndarray) -> None:
        self.ids.append(name)
        self.digests.append(digest)
        self.small.append(shrunk(image, SMALL))
        self.waiting.append(cv2.cvtColor(shrunk(image, _GREY), cv2.COLOR_RGB2GRAY).astype(np.float32))
        if len(self.waiting) == _ROWS:
            self._hash()

    def _hash(self) -> None:
        if self.waiting:
            self.hashes.append(hashes(np.stack(self.waiting)))
            self.waiting.clear()

    def done(self, name: str) -> Signatures:
        self._hash()
        small = np.stack(self.small) if self.small else np.zeros((0, SMALL, SMALL, 3), np.uint8)
        found = np.concatenate(self.hashes) if self.hashes else np.zeros((0, len(WINDOWS)), np.uint64)
        return Signatures(name, tuple(self.ids), tuple(self.digests), found, small, tuple(self.skipped))


@dataclass(frozen=True)
class Duplicate:
    """Two images that may show one photograph.

    Attributes:
        a, b: ids; in one set, the smaller id first.
        distance: bits of 64 in which their hashes differ, of the windows that fit best.
        alike: normalised correlation of their aligned colour pictures, in [-1, 1].
        fine: that of their fine structure, in [-1, 1].
        exact: whether they are the same file.
    """

    a: str
    b: str
    distance: int
    alike: float
    fine: float
    exact: bool = False

    @property
    def verified(self) -> bool:
        """Whether the pixels agree, too."""
        return self.exact or (self.alike >= ALIKE and self.fine >= FINE)


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """The picture as uint8 (side, side, 3), each pixel the mean of those it covers."""
    return cv2.resize(np.ascontiguousarray(image), (side, side), interpolation=cv2.INTER_AREA)


# --- the hash --------------------------------------------------------------------------------------------------------


def _bases() -> np.ndarray:
    """(steps x frequencies, 64): cosines over each step of an axis, integrated over the pixels."""
    edges = np.arange(_GREY + 1) / _GREY
    rows = []
    for start, length in _STEPS:
        inside = ((edges - start) / length).clip(0, 1)
        for k in range(_HIGHEST):
            rows.append(np.diff(inside if k == 0 else np.sin(math.pi * k * inside) / (math.pi * k)))
    return np.array(rows, dtype=np.float32)


def hashes(grey: np.ndarray) -> np.ndarray:
    """The pHash of each window of each picture: (n, windows) uint64, one bit per DCT coefficient.

    Zauner 2010, "Implementation and benchmarking of perceptual image hash functions". Where we leave it: signs against
    zero instead of the median, so that mirroring a picture flips the bits of :data:`MIRROR` and no other; the 64 lowest
    frequencies but the constant instead of 8 x 8; cosines integrated over pixels, so that windows need no resampling.

    Args:
        grey: (n, 64, 64) float32.
    """
    bases = _bases()
    coefficients = (bases @ grey @ bases.T).reshape(len(grey), len(_STEPS), _HIGHEST, len(_STEPS), _HIGHEST)
    found = np.zeros((len(grey), len(WINDOWS)), dtype=np.uint64)
    for w, (y, x) in enumerate(WINDOWS):
        for bit, (u, v) in enumerate(_FREQUENCIES):
            found[:, w] |= (coefficients[:, y, u, x, v] > 0).astype(np.uint64) << np.uint64(bit)
    return found


def close(a: np.ndarray, b: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All (i, j) with a Hamming distance of at most ``radius`` between ``a[i]`` and ``b[j]``, and their distances.

    Compares every pair, a block at a time; the memory does not depend on the number of pairs compared.

    Args:
        a, b: uint64 (n,) and (m,).
    """
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for first in range(0, len(a), _ROWS):
        rows = a[first : first + _ROWS, None]
        for start in range(0, len(b), _COLUMNS):
            bits = np.bitwise_count(rows ^ b[None, start : start + _COLUMNS])
            near = np.flatnonzero(bits.ravel() <= radius)  # of one axis, which NumPy does many times faster than of two
            if len(near):
                i, j = np.divmod(near, bits.shape[1])
                found.append((i + first, j + start, bits[i, j].astype(np.int64)))
    if not found:
        return (np.zeros(0, np.int64),) * 3
    i, j, bits = (np.concatenate(part) for part in zip(*found, strict=True))
    return i, j, bits


# --- from hashes to pairs --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Proposed:
    """Pairs that the hash proposes: ``wide[k]``, cut to ``window[k]``, may be ``narrow[k]``, mirrored or not.

    ``a``, ``b``: rows of the two sets; ``swapped``: whether the narrow view is the one of ``b``.
    """

    a: np.ndarray
    b: np.ndarray
    window: np.ndarray
    mirrored: np.ndarray
    swapped: np.ndarray
    bits: np.ndarray
    coarse: np.ndarray


def near_duplicates(
    a: Signatures, b: Signatures | None = None, runtime: Runtime | None = None, radius: int = RADIUS
) -> list[Duplicate]:
    """The pairs of images of two sets that may be near-duplicates, or of one set where ``b`` is not given.

    Sorted by ids; the result does not depend on the order of the images. Of an image that a set holds several times as
    the same file, the copies are paired with the one of the smallest id, and that one with everything else.

    Args:
        a, b: signatures of two sets.
        runtime: shows progress where given.
        radius: bits in which the hashes of a proposed pair may differ.

    Returns:
        Verified pairs, and those that are not but come near (:data:`DOUBTFUL`); see :attr:`Duplicate.verified`.
    """
    first_a, copies_a = _unique(a)
    other = a if b is None else b
    first_b = first_a if b is None else _unique(b)[0]
    there = {} if b is None else {b.digests[j]: j for j in first_b}
    exact = {(i, there[a.digests[i]]) for i in first_a if a.digests[i] in there}
    found = [Duplicate(a.ids[i], other.ids[j], 0, 1.0, 1.0, exact=True) for i, j in exact]
    columns = np.array(first_b, dtype=np.int64)
    blocks = range(0, len(first_a), _ROWS)
    for start in runtime.progress(blocks, "comparing hashes", unit="block") if runtime else blocks:
        rows = np.array(first_a[start : start + _ROWS], dtype=np.int64)
        proposed = _best(_proposals(a, other, rows, columns, b is None, radius))
        found += [
            Duplicate(a.ids[i], other.ids[j], bits, alike, fine)
            for i, j, bits, alike, fine in _verified(a, other, proposed)
            if (i, j) not in exact
        ]
    copies = [(a.ids[i], a.ids[c]) for i, others in copies_a.items() for c in others]
    if b is None:
        found = _once(found) + [Duplicate(first, copy, 0, 1.0, 1.0, exact=True) for first, copy in copies]
    else:  # every copy of a leaked image has leaked as well
        of_first: dict[str, list[Duplicate]] = defaultdict(list)
        for pair in found:
            of_first[pair.a].append(pair)
        found += [replace(pair, a=copy) for first, copy in copies for pair in of_first[first]]
    return sorted(found, key=lambda pair: (pair.a, pair.b))


def _once(pairs: list[Duplicate]) -> list[Duplicate]:
    """Pairs of one set, each of which was met from either side: the better view counts, the smaller id comes first."""
    best: dict[tuple[str, str], Duplicate] = {}
    for pair in pairs:
        one = pair if pair.a < pair.b else replace(pair, a=pair.b, b=pair.a)
        known = best.get((one.a, one.b))
        if known is None or (one.fine, -one.distance) > (known.fine, -known.distance):
            best[one.a, one.b] = one
    return list(best.values())


def _unique(s: Signatures) -> tuple[list[int], dict[int, list[int]]]:
    """The rows of distinct files (of equal ones that of the smallest id), and each one's other copies."""
    by_digest: dict[str, list[int]] = defaultdict(list)
    for i in sorted(range(len(s)), key=lambda i: s.ids[i]):
        by_digest[s.digests[i]].append(i)
    groups = list(by_digest.values())
    return [g[0] for g in groups], {g[0]: g[1:] for g in groups if g[1:]}


def _proposals(
    a: Signatures, b: Signatures, rows: np.ndarray, columns: np.ndarray, one_set: bool, radius: int
) -> Iterator[_Proposed]:
    """What the hashes propose for some rows of ``a``, by window, mirroring and side."""
    for swapped in (False,) if one_set else (False, True):  # in one set, each pair is met from either side anyway
        for w in range(int(swapped), len(WINDOWS)):
            for mirrored in (False, True):
                flip = MIRROR if mirrored else np.uint64(0)
                left, right = (w, 0) if swapped else (0, w)
                i, j, bits = close(a.hashes[rows, left], b.hashes[columns, right] ^ flip, radius)
                i, j = rows[i], columns[j]
                if one_set:
                    differ = i != j
                    i, j, bits = i[differ], j[differ], bits[differ]
                if not len(i):
                    continue
                coarse = _coarse(a, i, b, j, w, mirrored, swapped)
                keep = np.flatnonzero(coarse >= COARSE)
                keep = keep[_fine_at_once(a, i[keep], b, j[keep], w, mirrored, swapped) >= _WORTH]
                window, flipped, side = (np.full(len(keep), value) for value in (w, mirrored, swapped))
                yield _Proposed(i[keep], j[keep], window, flipped, side, bits[keep], coarse[keep])


def _best(proposals: Iterator[_Proposed]) -> _Proposed:
    """Each pair once, as its coarse colours agree best."""
    parts = list(proposals)
    if not parts:
        none = np.zeros(0, np.int64)
        return _Proposed(none, none, none, none, none, none, none)
    every = _Proposed(*(np.concatenate([getattr(p, name) for p in parts]) for name in _Proposed.__dataclass_fields__))
    order = np.lexsort((every.window, -every.coarse, every.b, every.a))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(every.a[order]) != 0) | (np.diff(every.b[order]) != 0)
    chosen = order[new]
    return _Proposed(*(getattr(every, name)[chosen] for name in _Proposed.__dataclass_fields__))


def _resampling(step: int, size: int) -> np.ndarray:
    """(8, size): means over the eighths of a step of an axis."""
    start, length = _STEPS[step]
    edges, cuts = np.arange(size + 1) / size, start + length * np.arange(9) / 8
    over = np.minimum(edges[None, 1:], cuts[1:, None]) - np.maximum(edges[None, :-1], cuts[:-1, None])
    return (over.clip(0) / (length / 8)).astype(np.float32)


def _coarse(
    a: Signatures, i: np.ndarray, b: Signatures, j: np.ndarray, window: int, mirrored: bool, swapped: bool
) -> np.ndarray:
    """Normalised correlation of 8 x 8 colour pictures: the wide view cut to the window, the narrow one whole."""
    (wide, at_wide), (narrow, at_narrow) = ((a, i), (b, j)) if swapped else ((b, j), (a, i))
    found = np.empty(len(i), dtype=np.float32)
    cut, whole = (_grid(*WINDOWS[w]) for w in (window, 0))
    if mirrored:
        whole = whole.reshape(64, 16, 16)[:, :, ::-1].reshape(64, 256)
    for start in range(0, len(i), 4096):
        at = slice(start, start + 4096)
        p = wide.quarters[at_wide[at]].astype(np.float32) @ cut.T
        q = narrow.quarters[at_narrow[at]].astype(np.float32) @ whole.T
        p, q = p - p.mean(axis=2, keepdims=True), q - q.mean(axis=2, keepdims=True)
        norm = np.sqrt((p * p).sum(axis=(1, 2)) * (q * q).sum(axis=(1, 2)))
        found[at] = (p * q).sum(axis=(1, 2)) / np.maximum(norm, 64 * 3 * _FAINT**2)
    return found


def _fine_at_once(
    a: Signatures, i: np.ndarray, b: Signatures, j: np.ndarray, window: int, mirrored: bool, swapped: bool
) -> np.ndarray:
    """Normalised correlation of the fine structure in grey, the window taken as it is, of many pairs at once."""
    wide, narrow = (a.small[i], b.small[j]) if swapped else (b.small[j], a.small[i])
    found = np.empty(len(i), dtype=np.float32)
    for start in range(0, len(i), 1024):
        at = slice(start, start + 1024)
        p = _banded(wide[at], *WINDOWS[window])
        q = _banded(narrow[at][:, :, ::-1] if mirrored else narrow[at], *WINDOWS[0])
        norm = np.sqrt((p * p).sum(axis=1) * (q * q).sum(axis=1))
        found[at] = (p * q).sum(axis=1) / np.maximum(norm, SMALL**2 * _FAINT**2)
    return found


def _banded(small: np.ndarray, y: int, x: int) -> np.ndarray:
    """(n, 1024): the fine structure of a window of each picture in grey, about its mean."""
    grey = small.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    parts = [(blur @ _enlarging(y)) @ grey @ (blur @ _enlarging(x)).T for blur in _blurs()]
    band = (parts[0] - parts[1]).reshape(len(small), -1)
    return band - band.mean(axis=1, keepdims=True)


def _blurs() -> list[np.ndarray]:
    """(32, 32) each: one axis of the two Gaussian blurs."""
    eye = np.eye(SMALL, dtype=np.float32)
    return [cv2.GaussianBlur(eye, (1, 0), sigmaX=1e-6, sigmaY=sigma) for sigma in _BAND]


def _enlarging(step: int) -> np.ndarray:
    """(32, 32): one axis of a window enlarged to the whole, linearly."""
    start, length = _STEPS[step]
    at = (start * SMALL + (np.arange(SMALL) + 0.5) * length - 0.5).clip(0, SMALL - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(SMALL)[None])).astype(np.float32)


def _grid(y: int, x: int) -> np.ndarray:
    """(64, 256): from a 16 x 16 picture to 8 x 8 of a window of it."""
    return np.kron(_resampling(y, 16), _resampling(x, 16))


# --- the pixels ------------------------------------------------------------------------------------------------------


def _verified(a: Signatures, b: Signatures, proposed: _Proposed) -> Iterator[tuple[int, int, int, float, float]]:
    """(row of a, row of b, bits, alike, fine) of the proposed pairs that are at least doubtful."""
    for i, j, w, mirrored, swapped, bits in zip(
        proposed.a, proposed.b, proposed.window, proposed.mirrored, proposed.swapped, proposed.bits, strict=True
    ):
        wide, narrow = (a.small[i], b.small[j]) if swapped else (b.small[j], a.small[i])
        alike, fine = agreement(wide, narrow[:, ::-1] if mirrored else narrow, int(w))
        if alike >= ALIKE and fine >= DOUBTFUL:
            yield int(i), int(j), int(bits), alike, fine


def agreement(wide: np.ndarray, narrow: np.ndarray, window: int = 0) -> tuple[float, float]:
    """How well a picture agrees with a window of another: of the colours, of the fine structure; both in [-1, 1].

    The window is taken as it is and as the alignment moves it, and the view with the better fine structure counts.

    Args:
        wide, narrow: (32, 32, 3) uint8.
        window: index into :data:`WINDOWS`.
    """
    (top, height), (left, width) = (_STEPS[step] for step in WINDOWS[window])
    given = np.array(
        [[width, 0, left * SMALL + width / 2 - 0.5], [0, height, top * SMALL + height / 2 - 0.5]], dtype=np.float32
    )
    p, q = wide.astype(np.float32), narrow.astype(np.float32)
    views = [given]
    try:
        grey_p, grey_q = (cv2.cvtColor(z, cv2.COLOR_RGB2GRAY) for z in (p, q))
        stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 1e-3)
        _, moved = cv2.findTransformECC(grey_q, grey_p, given.copy(), cv2.MOTION_AFFINE, stop, _EVERYWHERE, 3)
        if _is_small_step(given, moved):
            views.append(np.asarray(moved, dtype=np.float32))
    except cv2.error:  # it does not converge on what does not match
        pass
    return max((_compared(p, q, view) for view in views), key=lambda found: found[1])


def _is_small_step(given: np.ndarray, moved: np.ndarray) -> bool:
    """Whether an alignment is a crop near the window: an affine map may turn any dark shape on a sky into another."""
    sides = np.abs(moved[[0, 1], [0, 1]] - given[[0, 1], [0, 1]])
    return bool(max(abs(moved[0, 1]), abs(moved[1, 0])) <= 0.06 and sides.max() <= 0.12)


def _compared(p: np.ndarray, whole: np.ndarray, view: np.ndarray) -> tuple[float, float]:
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(p, view, (SMALL, SMALL), flags=how, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.ones((SMALL, SMALL), np.float32), view, (SMALL, SMALL), flags=how) > 0.99
    if inside.mean() < 0.7:
        return -1.0, -1.0
    p, q = laid[inside], whole[inside]
    p, q = p - p.mean(axis=0), q - q.mean(axis=0)
    least = _FAINT * math.sqrt(p.size)
    norms = (max(float(np.linalg.norm(z)), least) for z in (p, q))
    return float((p * q).sum()) / math.prod(norms), _blockwise(*(_band(z) * inside[..., None] for z in (laid, whole)))


def _blockwise(p: np.ndarray, q: np.ndarray) -> float:
    """Mean over blocks of the normalised correlation of two (32, 32, 3) pictures about zero; blank blocks do not count.

    With equal weights, because one dark shape has most of a picture's structure.
    """
    p, q = (_blocks(z) for z in (p, q))
    strong = [np.sqrt((z * z).mean(axis=1)) for z in (p, q)]
    told = np.maximum(*strong) > _NOISE
    if not told.any():
        return 0.0
    found = (p * q).mean(axis=1) / np.maximum(strong[0] * strong[1], _NOISE**2)
    return float(found[told].mean())


def _blocks(picture: np.ndarray) -> np.ndarray:
    n = SMALL // _BLOCK
    return picture.reshape(n, _BLOCK, n, _BLOCK, 3).transpose(0, 2, 1, 3, 4).reshape(n * n, -1)


def _band(picture: np.ndarray) -> np.ndarray:
    low, high = (cv2.GaussianBlur(picture, (0, 0), sigma) for sigma in _BAND)
    return np.asarray(low - high)


# --- which pairs are meant -------------------------------------------------------------------------------------------


def known_scenes(a: ImageSet, b: ImageSet) -> list[tuple[set[str], set[str]]]:
    """Images of two sets whose scenes are known, because the sets are paired: (ids in a, ids in b) for each reference.

    A paired image is a version of its scene in the set that it is paired with. Two of them that look alike show one
    scene on purpose, or two scenes that look alike, which is to be seen in that reference itself: no leakage either
    way, and both are named here.
    """
    references = dict.fromkeys(s.paired_with for s in (a, b) if s.paired_with is not None)
    return [(_of_reference(a, name), _of_reference(b, name)) for name in references]


def _of_reference(image_set: ImageSet, reference: str) -> set[str]:
    paired = image_set.paired_with == reference
    return {s.id for s in image_set.samples if image_set.name == reference or (paired and s.pair is not None)}
