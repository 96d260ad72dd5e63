"""Two targets side by side: at every depth the map of A, the map of B, and what speaks for A rather than B."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from gradlens.figures.cam_grid import Cell, Column, Row, Scale, Scene, cam_grid

SAME = "A and B are\nthe same"


def cam_targets(
    scenes: Sequence[Scene],
    *,
    names: tuple[str, str] = ("A", "B"),
    title: str = "",
    scale: Scale = "map",
    signed: bool = False,
    note: str = "",
) -> Iterator[Figure]:
    """Draw images × depths, three cells per depth: A, B and A − B, the last with both signs.

    Args:
        scenes: one model's images, each with three stacks of one method and the same depths: A, B and their difference
            (:func:`gradlens.cam.derived.difference`).
        names: what A and B are, such as ``predicted`` and ``true``.
        title: above the grid; the model's name if empty.
        scale, signed, note: see :mod:`gradlens.figures.cam_grid`; ``signed`` also for A and B.

    Raises:
        ValueError: a scene has no three stacks.
    """
    rows = []
    for i, scene in enumerate(scenes):
        if len(scene.stacks) != 3:
            raise ValueError(f"expected the maps of A, of B and their difference, got {len(scene.stacks)} stacks")
        a, b, _ = scene.stacks
        three = [scene.cells(k, signed or k == 2) for k in range(3)]
        if a.target == b.target:
            three[2] = [Cell(c.map, c.status, signed=True, said=SAME) for c in three[2]]
        rows.append(
            Row(
                view=scene.view,
                name=scene.name,
                source=[
                    scene.source,
                    *(f"{k} {s.target[1]} {100 * s.probability:.0f}%" for k, s in (("A", a), ("B", b))),
                ],
                cells=[cell for depth in zip(*three, strict=True) for cell in depth],
                image=str(i),
                caption=scene.caption,
            )
        )
    said = f"A: {names[0]}. B: {names[1]}. A − B: difference of the two raw maps; brown speaks for A, blue for B."
    columns = [
        Column(name, group=f"{p.name} · stride {p.stride_text}" if p.path else "pixels")
        for p in scenes[0].stacks[0].depths
        for name in ("A", "B", "A − B")
    ]
    return cam_grid(
        rows,
        columns,
        title=title or scenes[0].model,
        scale=scale,
        note=f"{said} {note}".rstrip(),
    )
