"""Methods × depths of one image in one model. Methods that explain pixels have their one map in a first column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from matplotlib.figure import Figure

from gradlens.figures.cam_grid import Cell, Column, Row, Scale, Scene, cam_grid, depth_columns, target_text
from gradlens.records import CamStack


def cam_methods(
    scene: Scene,
    *,
    titles: Mapping[str, str] | None = None,
    title: str = "",
    scale: Scale = "map",
    signed: bool = False,
    note: str = "",
) -> Iterator[Figure]:
    """Draw methods × depths.

    Args:
        scene: one image in one model, with a stack per target and method.
        titles: how to write the methods' names; as registered where missing.
        title: above the grid; model and image if empty.
        scale, signed, note: see :mod:`gradlens.figures.cam_grid`.
    """
    deep = next((stack for stack in scene.stacks if not _at_the_pixels(stack)), None)
    pixels = next((stack for stack in scene.stacks if _at_the_pixels(stack)), None)
    columns: list[Column] = depth_columns(pixels) if pixels else []
    depths = depth_columns(deep) if deep else []
    several = len(scene.targets()) > 1
    rows = []
    for k, stack in enumerate(scene.stacks):
        cells: list[Cell | None] = list(scene.cells(k, signed))
        if _at_the_pixels(stack):
            cells += [None] * len(depths)
        elif pixels:
            cells.insert(0, None)
        rows.append(
            Row(
                view=scene.view,
                name=(titles or {}).get(stack.method, stack.method),
                source=target_text(stack) if several or stack.against else "",
                cells=cells,
                image=stack.method,  # values of different methods have no common unit
                caption=scene.caption if k == 0 else None,
                block="all",
            )
        )
    return cam_grid(
        rows,
        columns + depths,
        title=title or f"{scene.model} · {scene.name} · {scene.source}",
        scale=scale,
        note=note,
    )


def _at_the_pixels(stack: CamStack) -> bool:
    return len(stack.depths) == 1 and not stack.depths[0].path
