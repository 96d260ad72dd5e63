"""Where each network looks at its first, second, third and last depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from gradlens.errors import DepthError, ModelError
from gradlens.workflows.measure.analyses import Outcome
from gradlens.workflows.see import CamRequest, Seen, cam
from gradlens.workflows.see.pages import Drawing, drawings
from gradlens.workflows.study.section import Course, section

COLUMNS = ("model", "depth", "layer", "stride", "rows", "columns", "position", "maps", "ok")
IMAGES = 4


@section(
    "cam_depths",
    "Grad-CAM at four depths",
    "Maps of the predicted class at the first, second, third and last depth of each network, on the same images.",
)
def of_course(course: Course) -> Outcome:
    """One grid per network (its first seed); raw maps and grids also lie in ``cam/<network>``."""
    assert course.study.data.test is not None  # checked when the study was read
    rows: list[dict[str, Any]] = []
    figures: list[tuple[str, Callable[[], Figure]]] = []
    notes = []
    for name, own in course.families().items():
        request = CamRequest(
            models=[own[0].name],
            layers=["4"],
            data=course.study.data.test,
            n=IMAGES,
            zoo=own[0].folder.parent.parent,
            save_maps=True,
        )
        try:
            run = cam(request, course.runtime, course.subject.request.out / "cam" / name)
        except (DepthError, ModelError) as err:
            notes.append(f"{name}: no maps; {err}")
            continue
        (drawing,) = drawings(run.seen, request)
        figures.append((f"cam-{name}", _first_page(drawing)))
        rows += _rows(name, run.seen[0])
    if not rows:
        return Outcome(not_done="; ".join(notes))
    blank = [r for r in rows if r["ok"] < r["maps"]]
    text = f"Maps of {len(figures)} networks at {len(rows)} depths on {IMAGES} images of {course.subject.in_dist}"
    if blank:
        worst = min(blank, key=lambda r: r["ok"] / r["maps"])
        text += (
            f"; at {len(blank)} depths some are empty or undefined, most at {worst['layer']} of {worst['model']} "
            f"({worst['maps'] - worst['ok']} of {worst['maps']})"
        )
    return Outcome(tables={"cam_depths.csv": (COLUMNS, rows)}, figures=figures, findings=[f"{text}."], notes=notes)


def _first_page(drawing: Drawing) -> Callable[[], Figure]:
    return lambda: next(drawing.draw())  # so few images are one page


def _rows(name: str, seen: Seen) -> list[dict[str, Any]]:
    rows = []
    for number, point in enumerate(seen.depths(), 1):
        states = [
            status
            for stack in seen.stacks
            for depth, status in zip(stack.depths, stack.statuses, strict=True)
            if depth.name == point.name
        ]
        rows.append(
            {
                "model": name,
                "depth": number,
                "layer": point.name,
                "stride": point.stride_text,
                "rows": point.shape[1],
                "columns": point.shape[2],
                "position": point.position,
                "maps": len(states),
                "ok": states.count("ok"),
            }
        )
    return rows
