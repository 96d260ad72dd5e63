"""The strongest channels of every depth, for one image in one model: rows are depths, columns are channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from gradlens.cam.derived import Channels
from gradlens.figures.cam_grid import Caption, Cell, Column, Row, Scale, Scene, cam_grid, target_text

_RANKED = {
    "contribution": "Ranked by contribution: |mean gradient| × mean |activation|, as a share of all channels of that "
    "depth; + raises the score of {target}, − lowers it.",
    "activation": "Ranked by activation: mean |activation|, as a share of all channels of that depth.",
}


def feature_maps(
    scene: Scene, depths: Sequence[Channels], *, title: str = "", scale: Scale = "map", signed: bool = False
) -> Iterator[Figure]:
    """Draw raw activations of channels, with channel number and share below each.

    Args:
        scene: the image; its first stack's target is what the ranking refers to.
        depths: the strongest channels of each depth, shallow to deep.
        title: above the grid; model and image if empty.
        scale: see :mod:`gradlens.figures.cam_grid`.
        signed: draw both signs; done anyway where a channel shown has negative activations.
    """
    signed = signed or any((m < 0).any() for channels in depths for m in channels.maps)
    most = max(len(channels.indices) for channels in depths)
    rows: list[Row] = []
    for channels in depths:
        cells: list[Cell | None] = [_cell(channels, k, signed) for k in range(len(channels.indices))]
        shown = f"{len(channels.indices)} of {channels.depth.shape[0]}"
        rows.append(
            Row(
                view=scene.view,
                name=channels.depth.name,
                source=[f"stride {channels.depth.stride_text}", f"{shown}: {100 * sum(channels.shares):.0f}%"],
                cells=cells + [None] * (most - len(cells)),
                image="",
                caption=scene.caption if not rows else None,
                block="all",
            )
        )
    return cam_grid(
        rows,
        [Column(_ordinal(k + 1)) for k in range(most)],
        title=title or f"{scene.model} · {scene.name} · {scene.source}",
        scale=scale,
        note=_RANKED[depths[0].rank].format(target=target_text(scene.stacks[0]).removeprefix("→ ")),
        what="activation",
    )


def _cell(channels: Channels, k: int, signed: bool) -> Cell:
    raw, share = channels.maps[k], channels.shares[k]
    sign = {1: "+", -1: "−", 0: ""}[channels.signs[k]] if channels.rank == "contribution" else ""
    caption = Caption(f"#{channels.indices[k]}  {sign}{_percent(share)}")
    if share == 0:  # nothing to rank by
        return Cell(raw, "zero gradient" if channels.rank == "contribution" else "constant", caption, signed)
    if not np.isfinite(raw).all():
        return Cell(raw, "non-finite", caption, signed)
    return Cell(raw, "ok" if raw.max() > 0 else "all negative", caption, signed)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.0995 else f"{100 * share:.1f}%"


def _ordinal(number: int) -> str:
    endings = {1: "st", 2: "nd", 3: "rd"}
    ending = "th" if 10 <= number % 100 <= 20 else endings.get(number % 10, "th")
    return f"{number}{ending}"
