"""Where the pixels' rows and columns are in a feature tensor: proposed from its shape, settled by moving the input.

A tensor's shape alone cannot tell (N, 16, 16, 16) channels first from channels last, nor which of 197 tokens is the
class token, nor whether tokens stand in raster order. So every reading that fits the shape is tried against an
input-perturbation check: a patch of the image is replaced, and the cell whose features change most must be the
patch's own. Where that tells nothing, the same is asked from one depth to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from gradlens.records import Layout

MOST_PREFIX_TOKENS = 16
# Centres of the patches, as fractions of (height, width): no symmetry that a wrong reading could share.
_CENTRES = ((0.21, 0.34), (0.77, 0.18), (0.36, 0.81), (0.84, 0.66), (0.52, 0.45))


class Attempt(NamedTuple):
    """One way to move the input.

    Attributes:
        side: of a patch, as a fraction of the image's.
        strength: standard deviation of its noise.
        relayed: whether every output whose layout is settled hands on fresh patches of its own.
    """

    side: float
    strength: float
    relayed: bool


# Tried in turn until an output answers.
ATTEMPTS = (Attempt(1 / 12, 3.0, False), Attempt(1 / 12, 3.0, True), Attempt(1 / 5, 12.0, True))
_CLEARLY = 2.0  # another cell must change this many times as much as the patch's own to speak against a reading
_MOVED = 1e-4  # a change smaller than this share of the features' own size is rounding, not the patch
_HITS_NEEDED = 4  # of the five patches; chance gets there on a 7 x 7 grid in less than 2 % of tries


@dataclass(frozen=True)
class Reading:
    """One way to read a tensor as a grid of features.

    Attributes:
        layout: order of the axes; prefix: tokens before the grid; rows, columns: of the grid.
    """

    layout: Layout
    prefix: int
    rows: int
    columns: int

    def grid(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor as (N, channels, rows, columns), a view where possible."""
        if self.layout == "NCHW":
            return tensor
        if self.layout == "NHWC":
            return tensor.permute(0, 3, 1, 2)
        tokens = tensor[:, self.prefix : self.prefix + self.rows * self.columns]
        return tokens.transpose(1, 2).unflatten(2, (self.rows, self.columns))


def readings(
    shape: Sequence[int],
    image: tuple[int, int],
    seen_grids: Iterable[tuple[int, int]] = (),
    prefix_hint: int | None = None,
) -> list[Reading]:
    """Every plausible way to read a tensor of this shape, most plausible first; empty if it is no spatial grid.

    Args:
        shape: of the tensor, batch first; for one image.
        image: (height, width) of the input in pixels.
        seen_grids: (rows, columns) of feature maps seen earlier in the same forward pass: a token grid usually is one.
        prefix_hint: the number of prefix tokens the model itself declares.
    """
    height, width = image
    if shape[0] != 1:  # windows or inner patches as a batch: no row of it is an image
        return []
    if len(shape) == 4:
        found = [Reading("NCHW", 0, shape[2], shape[3]), Reading("NHWC", 0, shape[1], shape[2])]
        found = [r for r in found if _fits(r, height, width)]
        # a grid with the input's proportions beats one without
        return sorted(found, key=lambda r: _skew(r, height, width))
    if len(shape) != 3:
        return []
    tokens = shape[1]
    known = {0, 1, 2, 5, prefix_hint}  # none, class token, and distillation token, four registers
    found = []
    for rows, columns in dict.fromkeys(seen_grids):
        if 0 <= tokens - rows * columns <= MOST_PREFIX_TOKENS:
            found.append(Reading("NLC", tokens - rows * columns, rows, columns))
    for prefix in sorted(p for p in known if p is not None):
        for rows in range(1, tokens - prefix + 1):
            columns, rest = divmod(tokens - prefix, rows)
            reading = Reading("NLC", prefix, rows, columns)
            if rest == 0 and columns and _square_cells(reading, height, width) and reading not in found:
                found.append(reading)
    found = [r for r in found if _fits(r, height, width)]
    return sorted(found, key=lambda r: (r.prefix != prefix_hint, _skew(r, height, width) > 1.3, r.prefix))[:6]


def _fits(reading: Reading, height: int, width: int) -> bool:
    return (
        reading.rows * reading.columns > 1
        and reading.rows <= height
        and reading.columns <= width
        and _skew(reading, height, width) < 2
    )


def _square_cells(reading: Reading, height: int, width: int) -> bool:
    """Whether square cells can tile the image in this many rows and columns, but for a rest at the edges."""
    down, across = (
        (size / (n + 1), size / max(n - 1, 0.5)) for size, n in ((height, reading.rows), (width, reading.columns))
    )
    return max(down[0], across[0]) < min(down[1], across[1])


def _skew(reading: Reading, height: int, width: int) -> float:
    """How much the cells' proportions differ from squares, as a ratio of at least 1."""
    down, across = height / reading.rows, width / reading.columns
    return max(down, across) / min(down, across)


def probe_images(image: torch.Tensor, side: float, strength: float, generator: torch.Generator) -> torch.Tensor:
    """An image and five copies of it with one patch of noise each.

    Args:
        image: (1, 3, H, W), a network's input.
        side: of a patch, as a fraction of the image's shorter side.
        strength: standard deviation of the noise.

    Returns:
        (6, 3, H, W); the first is the image itself.
    """
    height, width = image.shape[-2:]
    copies = image.repeat(1 + len(_CENTRES), 1, 1, 1)
    for i, (top, left, bottom, right) in enumerate(_patches(height, width, side), start=1):
        noise = torch.randn(copies[i, :, top:bottom, left:right].shape, generator=generator) * strength
        copies[i, :, top:bottom, left:right] = noise.to(copies)
    return copies


def relay(tensor: torch.Tensor, reading: Reading, attempt: Attempt, image: tuple[int, int]) -> torch.Tensor:
    """What an output of settled layout hands on instead of itself: its own patches, fresh and sharp.

    In a deep network with random weights the change that a patch of pixels makes has faded into rounding or spread
    over every cell after some ten blocks. Here each copy is the unchanged image's features but for the cells under its
    patch, which are noise of those features' own size: what arrives at the next output tells whether its cells are
    where this one's are.

    Args:
        tensor: the output for :func:`probe_images`.
        reading: how to read it, known to be right.
    """
    onward = tensor[:1].expand_as(tensor).clone()
    grid = reading.grid(onward)  # a view
    size = grid[0].float().square().mean((1, 2)).sqrt()  # per channel
    generator = torch.Generator().manual_seed(0)
    for i, (top, left, bottom, right) in enumerate(_patches(*image, attempt.side), start=1):
        rows = _under(top, bottom, reading.rows / image[0])
        columns = _under(left, right, reading.columns / image[1])
        under = grid[i, :, rows, columns]
        noise = torch.randn(under.shape, generator=generator).to(size.device) * attempt.strength
        grid[i, :, rows, columns] = (noise * size[:, None, None]).to(under.dtype)
    return onward


def _patches(height: int, width: int, side: float) -> list[tuple[int, int, int, int]]:
    """(top, left, bottom, right) of each patch in pixels."""
    half = max(1, round(min(height, width) * side / 2))
    boxes = []
    for y, x in _CENTRES:
        cy, cx = round(y * height), round(x * width)
        boxes.append((max(0, cy - half), max(0, cx - half), min(height, cy + half), min(width, cx + half)))
    return boxes


def check(tensor: torch.Tensor, reading: Reading, image: tuple[int, int], side: float) -> bool | None:
    """Do the cells that change lie where the patches were?

    Either of two signs settles it, each in at least four of the five patches: the cell with the largest change is one
    that the patch covers (on grids of six cells a side and more, also a direct neighbour: padding shifts cells by a
    fraction); or, of the five patches, the one at a cell is the one that moves it most (changes taken relative to the
    patch's and the cell's mean, because on a small deep grid some cells answer to everything). A wrong reading passes
    by chance in about 3 % of tries.

    Args:
        tensor: a depth's output for :func:`probe_images`.
        reading: how to read it.
        image: (height, width) of the input.
        side: of the patches.

    Returns:
        ``True`` if so; ``False`` if for most patches another cell changed at least twice as much as their own; ``None``
        if neither: nothing changed beyond rounding, everything did alike, or something that is not finite came out.
    """
    grid = reading.grid(tensor).float()
    change = (grid[1:] - grid[:1]).square().sum(1)  # (5, rows, columns)
    size = grid[:1].square().sum(1).mean()
    if not torch.isfinite(change).all() or not (change.flatten(1).amax(1) > _MOVED**2 * size).all():
        return None
    patches = _patches(*image, side)
    rate = reading.rows / image[0], reading.columns / image[1]
    reach = 1 if min(reading.rows, reading.columns) >= 6 else 0
    largest = 0
    for moved, (top, left, bottom, right) in zip(change, patches, strict=True):
        row, column = divmod(int(moved.argmax()), reading.columns)
        largest += _covers(row, top, bottom, rate[0], reach) and _covers(column, left, right, rate[1], reach)
    relative = change.sqrt()
    for _ in range(3):
        relative = relative / relative.mean((1, 2), keepdim=True).clamp(min=1e-30)
        relative = relative / relative.mean(0, keepdim=True).clamp(min=1e-30)
    own, against = 0, len(patches)
    for shift in (0.0, 0.5):  # strided convolutions with padding centre cell i on pixel i * stride, pooling half on
        cells = [
            (_cell((t + b) / 2 * rate[0] + shift, reading.rows), _cell((le + r) / 2 * rate[1] + shift, reading.columns))
            for t, le, b, r in patches
        ]
        hits = sum(cells[int(relative[:, row, column].argmax())] == (row, column) for row, column in cells)
        lost = sum(bool(m.max() > _CLEARLY * m[row, column]) for m, (row, column) in zip(relative, cells, strict=True))
        own, against = max(own, hits), min(against, lost)
    if max(largest, own) >= _HITS_NEEDED:
        return True
    return False if against > len(patches) // 2 else None


def _cell(at: float, cells: int) -> int:
    return min(int(at), cells - 1)


def _under(start: int, end: int, cells_per_pixel: float) -> slice:
    """The cells under the pixels from ``start`` to ``end``."""
    return slice(int(start * cells_per_pixel), int((end - 1) * cells_per_pixel) + 1)


def _covers(cell: int, start: int, end: int, cells_per_pixel: float, reach: int) -> bool:
    cells = _under(start, end, cells_per_pixel)
    return cells.start - reach <= cell < cells.stop + reach
