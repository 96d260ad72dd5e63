"""What the page shows, as HTML: pictures in the text itself, every name escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from PIL import Image

from gradlens.app.agreement import agreement
from gradlens.app.familiar import Familiarity, overall
from gradlens.app.looking import Look
from gradlens.cam.methods import METHODS
from gradlens.figures.cam_grid import SAID, Cell, overlay
from gradlens.figures.style import model_colors
from gradlens.report.answers import short_models

QUALITY = 88
THUMB = 56  # pixels of a screen: the side of an example's button, as in app.css
TEMPLATES = Path(__file__).with_name("templates")

Outcome = Look | str | None
"""What became of a model: its look, why there is none, or nothing yet."""


class Map(NamedTuple):
    """One map as the page shows it.

    Attributes:
        picture: a ``data:`` URI: the map over what the model saw, or that alone where there is no map to see.
        said: why there is none; empty where there is one.
        alt: both in words.
        depth: the depth's name; number: which one it is, from 1, of how many.
        grid: its cells; work: how far into the network it lies.
    """

    picture: str
    said: str
    alt: str
    depth: str
    number: str
    grid: str
    work: str


def data_uri(pixels: np.ndarray) -> str:
    """A picture, uint8 (h, w, 3), inside the page's text."""
    encoded = BytesIO()
    Image.fromarray(pixels).save(encoded, "WEBP", quality=QUALITY, method=2)
    return "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode()


def map_at(look: Look, position: float) -> Map:
    """A look's map at a relative depth, 0 to 1."""
    i = look.at(position)
    stack = look.stack
    point, raw, status = stack.depths[i], stack.maps[i], stack.statuses[i]
    cell = Cell(raw, status, fine=raw.shape[0] > point.shape[1])
    said = "" if cell.drawn else SAID.get(status, status).replace("\n", " ")
    method, rows, columns = METHODS[stack.method].title, *raw.shape
    at = f"{point.name}, depth {i + 1} of {len(stack.depths)}"
    return Map(
        picture=data_uri(overlay(look.view, raw, cell.top) if cell.drawn else look.view),
        said=said,
        alt=f"{method} of {look.model} for {stack.target[1]} at {at}" + (f": {said}" if said else ""),
        depth=point.name,
        number=f"{i + 1} of {len(stack.depths)}",
        grid=f"{rows} × {columns} cells",
        work=f"at {100 * point.position:.0f} % of FLOPs",
    )


def cards(outcomes: Mapping[str, Outcome], position: float) -> str:
    """The models side by side: each one's map at the relative depth, its five best classes, its time."""
    colors, short = model_colors(outcomes), short_models(list(outcomes))
    looks = [one for one in outcomes.values() if isinstance(one, Look)]
    return render(
        "cards.html.j2",
        views=[(_pixels(look), data_uri(look.view)) for look in _views(looks)],
        cards=[
            {
                "name": short[name],
                "color": colors[name],
                "look": one if isinstance(one, Look) else None,
                "map": map_at(one, position) if isinstance(one, Look) else None,
                "error": one if isinstance(one, str) else "",
            }
            for name, one in outcomes.items()
        ],
    )


def _views(looks: Sequence[Look]) -> list[Look]:
    """One look for each size at which models saw the picture."""
    return list({(look.seen, look.view.shape): look for look in looks}.values())


def _pixels(look: Look) -> str:
    return "{} × {} pixels".format(*look.seen)


def summary(outcomes: Mapping[str, Outcome]) -> str:
    """How the models agree, in a line or two; nothing as long as none has answered."""
    looks = [one for one in outcomes.values() if isinstance(one, Look)]
    waiting = sum(one is None for one in outcomes.values())
    return render("summary.html.j2", found=agreement(looks), waiting=waiting) if looks else ""


def thumbnail(pixels: np.ndarray) -> str:
    """A picture, uint8 (h, w, 3), at the size of a button, as a ``data:`` URI."""
    small = Image.fromarray(pixels)
    small.thumbnail((2 * THUMB, 2 * THUMB))
    return data_uri(np.asarray(small))


def empty(text: str) -> str:
    """What to do first, in the place where answers will stand."""
    return render("empty.html.j2", text=text)


def hint(text: str) -> str:
    """A remark."""
    return render("hint.html.j2", text=text)


def message(text: str) -> str:
    """One line that something cannot be done."""
    return render("message.html.j2", text=text) if text else ""


def familiarity(found: Sequence[Familiarity], without: Mapping[str, str]) -> str:
    """Whether the picture is like the images that the models were tested on, what that means, and what it does not.

    Args:
        found: one per model that can tell.
        without: the others, and why they cannot.
    """
    verdict = overall(found) if found else ""
    reasons: dict[str, list[str]] = {}
    for model, reason in without.items():
        reasons.setdefault(reason, []).append(model)
    sets = ", ".join(dict.fromkeys(f.source for f in found))
    return render("familiarity.html.j2", found=found, verdict=verdict, reasons=reasons, sets=sets)


def before_after(
    pairs: Mapping[str, tuple[Outcome, Outcome]], position: float, change: str, severity: int, what: str = ""
) -> str:
    """The picture as it was and as it is now, and each model on both.

    Args:
        pairs: what became of each model, before and after.
        position: of the depth, 0 to 1.
        change: title of what happened; what: a sentence about it.
        severity: 0 to 5.
    """
    colors, short = model_colors(pairs), short_models(list(pairs))
    rows: list[dict[str, Any]] = []
    both: dict[str, tuple[Look, Look]] = {}
    for name, (before, after) in pairs.items():
        row: dict[str, Any] = {"name": short[name], "color": colors[name], "sides": [], "error": ""}
        for side in (before, after):
            if isinstance(side, str):
                row["error"] = side
        if isinstance(before, Look) and isinstance(after, Look):
            both[name] = before, after
            row |= {
                "sides": [(look, map_at(look, position)) for look in (before, after)],
                "flipped": before.prediction != after.prediction,
                "kept": dict(after.top(len(after.classes)))[before.prediction],
            }
        rows.append(row)
    views = {id(before): after for before, after in both.values()}
    firsts = _views([before for before, _ in both.values()])
    return render(
        "before_after.html.j2",
        rows=rows, change=change, severity=severity, what=what,
        answered=len(both), flipped=sum(bool(row.get("flipped")) for row in rows),
        views=[(_pixels(b), data_uri(b.view), data_uri(views[id(b)].view)) for b in firsts],
    )  # fmt: skip


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def render(template: str, **values: Any) -> str:
    """A template filled in; values are escaped in those that end in ``.html.j2``."""
    return _templates().get_template(template).render(values)
