"""Models beside each other: images × models at one depth, or models × depths of one image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from matplotlib.figure import Figure

from gradlens.figures.cam_grid import Caption, Cell, Column, Row, Scale, Scene, cam_grid, target_text


def cam_models(
    images: Sequence[Sequence[Scene]],
    *,
    titles: Mapping[str, str] | None = None,
    title: str = "",
    scale: Scale = "map",
    signed: bool = False,
    note: str = "",
) -> Iterator[Figure]:
    """Draw images × models at each model's last depth; a row per image, or per image, target and method.

    Args:
        images: for each image one scene per model, the models in the same order.
        titles: how to write the methods' names; as registered where missing.
        title: above the grid.
        scale, signed, note: see :mod:`gradlens.figures.cam_grid`.
    """
    several_targets = len(images[0][0].targets()) > 1
    several_methods = len(images[0][0].methods()) > 1
    rows = []
    for i, scenes in enumerate(images):
        for k, stack in enumerate(scenes[0].stacks):
            about = [scenes[0].source] if k == 0 else []
            # "the predicted class" is another one in each model; then every cell says its own
            same = len({scene.stacks[k].target for scene in scenes}) == 1
            about += [target_text(stack)] if several_targets and same else []
            about += [(titles or {}).get(stack.method, stack.method)] if several_methods else []
            rows.append(
                Row(
                    view=scenes[0].view,
                    name=scenes[0].name if k == 0 else "",
                    source=about,
                    cells=[_last(scene, k, signed, several_targets and not same) for scene in scenes],
                    image=f"{i} {stack.method}",
                    block=str(i),
                )
            )
    columns = [Column(scene.model, _last_depth(scene)) for scene in images[0]]
    return cam_grid(rows, columns, title=title, scale=scale, note=note)


def _last(scene: Scene, k: int, signed: bool, own_target: bool) -> Cell:
    """The last depth of stack ``k``; below it the prediction, once, or what it explains."""
    prediction = scene.caption if k == 0 else None
    caption = Caption(target_text(scene.stacks[k])) if own_target and k > 0 else prediction
    return replace(scene.cells(k, signed)[-1], caption=caption)


def _last_depth(scene: Scene) -> str:
    """Its name, whichever of the methods has depths."""
    return next((s for s in scene.stacks if s.depths[-1].path), scene.stacks[0]).depths[-1].name


def cam_models_by_depths(
    scenes: Sequence[Scene], *, title: str = "", scale: Scale = "map", signed: bool = False, note: str = ""
) -> Iterator[Figure]:
    """Draw models × depths of one image; a block of rows per model where there are several targets.

    Depths of different models have little in common but their order, so columns are numbered, and each cell says
    which depth it is.

    Args:
        scenes: one image as each model saw it, all with the same targets and method.
        title: above the grid; the image's name if empty.
        scale, signed, note: see :mod:`gradlens.figures.cam_grid`.
    """
    most = max(len(stack.depths) for scene in scenes for stack in scene.stacks)
    several = len(scenes[0].stacks) > 1 or scenes[0].stacks[0].against is not None
    rows = []
    for scene in scenes:
        for k, stack in enumerate(scene.stacks):
            cells: list[Cell | None] = list(scene.cells(k, signed, captions=True))
            rows.append(
                Row(
                    view=scene.view,
                    name=scene.model if k == 0 else "",
                    source=target_text(stack) if several else "",
                    cells=cells + [None] * (most - len(cells)),
                    image=stack.method,
                    caption=scene.caption if k == 0 else None,
                    block=scene.model,
                )
            )
    columns = [Column(f"depth {k + 1}") for k in range(most)]
    first = scenes[0]
    return cam_grid(
        rows, columns, title=title or f"{first.name} · {first.source} · shallow to deep", scale=scale, note=note
    )
