"""Images × depths of one model: a row per image, or per image and target (and method), a column per depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from gradlens.figures.cam_grid import Row, Scale, Scene, cam_grid, depth_columns, target_text


def cam_images(
    scenes: Sequence[Scene], *, title: str = "", scale: Scale = "map", signed: bool = False, note: str = ""
) -> Iterator[Figure]:
    """Draw images × depths.

    Args:
        scenes: one model's images, all with the same depths, targets and method.
        title: above the grid; the model's name if empty.
        scale, signed, note: see :mod:`gradlens.figures.cam_grid`.
    """
    tells_target = len(scenes[0].stacks) > 1 or any(stack.against for scene in scenes for stack in scene.stacks)
    rows = [
        Row(
            view=scene.view,
            name=scene.name if k == 0 else "",
            source=[*([scene.source] if k == 0 else []), *([target_text(stack)] if tells_target else [])],
            cells=scene.cells(k, signed),
            image=f"{i} {stack.method}",
            caption=scene.caption if k == 0 else None,
            block=str(i),
        )
        for i, scene in enumerate(scenes)
        for k, stack in enumerate(scene.stacks)
    ]
    return cam_grid(rows, depth_columns(scenes[0].stacks[0]), title=title or scenes[0].model, scale=scale, note=note)
