"""Figures as parts of a page: small enough to mail, described in words."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from gradlens.errors import InputError
from gradlens.report.drawings import inline
from gradlens.runtime import plain_file

WIDEST = 1800  # pixels: a figure of a page's width at 260 dots per inch
LOSSLESS = 400_000  # bytes: charts stay under this without loss; photographs do not and are compressed
QUALITY = 84
WIDTH = re.compile(rb'<svg [^>]*?width="([\d.]+)pt"')


@dataclass(frozen=True)
class Picture:
    """A figure ready for a page.

    Attributes:
        name: its file's name without ending; what a reader saves it under.
        data: a ``data:`` URI. Shown by ``<img>``, so that no script in an SVG can run.
        width, height: pixels; 0 where the picture has none of its own.
        inches: how wide it is in print; 0 where its file does not say.
        alt: what it shows, for those who cannot see it.
        caption: text under it.
        svg: the chart as an element of the page, where it can be one; there is no ``data`` then.
        table: the file of the run that has its numbers.
    """

    name: str
    data: str
    width: int
    height: int
    inches: float
    alt: str
    caption: str
    svg: Markup | None = None
    table: str = ""

    @property
    def size(self) -> int:
        """Bytes that it adds to a page."""
        return len(self.data) + len(self.svg or "")


@dataclass(frozen=True)
class Known:
    """A figure of ours.

    Attributes:
        caption: may hold a place for the rest of the file's name.
        words: what there is to say of its kind for those who cannot see it.
        table: the file of the run that has its numbers.
    """

    caption: str
    words: str
    table: str = ""


# by the beginning of the file's name
KNOWN = {
    "gap_heatmap": Known(
        "Accuracy lost by each model on each probe set",
        "Heat map, models by probe sets.",
        "gaps.csv",
    ),
    "shift_scatter": Known(
        "Accuracy in distribution against accuracy on each probe set",
        "Scatter plots with intervals on both axes, one point per model.",
        "gaps.csv",
    ),
    "lines": Known(
        "Accuracy in distribution against accuracy on each probe set, with the line over all models",
        "Scatter plots, one point per model, a fitted line with its band.",
        "lines.csv",
    ),
    "class_distribution": Known(
        "Images of each class, and native sizes, of the sets that it was trained and scored on",
        "Bar charts, one panel per set.",
    ),
    "reliability": Known(
        "Accuracy by confidence, in distribution and on the probe set where confidences mean least",
        "Reliability diagrams of up to six models, those with the largest error.",
        "calibration.csv",
    ),
    "ranks": Known(
        "Rank of each model on each set, with what images and pairwise tests leave open",
        "One panel per set, models in rows.",
        "ranks.csv",
    ),
    "factor_split-": Known(
        "Points of accuracy lost on {} that go with each factor",
        "Dot plots with intervals, one panel per factor, models in rows.",
        "factor_split.csv",
    ),
    "severity": Known(
        "Accuracy at each severity of the probe sets that have several",
        "Line charts, one panel per probe set, one line per model.",
        "severity.csv",
    ),
    "corruption_severity": Known(
        "Accuracy at each severity of each corruption",
        "Line charts, one panel per corruption, one line per model.",
        "corruptions.csv",
    ),
    "corruptions": Known(
        "One in-distribution image under every corruption",
        "Pictures, a group per corruption from mild to severe.",
    ),
    "leakage": Known(
        "Images of the sets beside those that they repeat",
        "Pairs of photographs by kind of leakage.",
        "leakage.csv",
    ),
    "explanation_drop": Known(
        "How alike class activation maps stay under each shift, against the accuracy lost",
        "Scatter plots, one panel per probe set and one point per model.",
        "explanations.csv",
    ),
    "explanation_depths": Known(
        "How much of the maps lies on the object at every depth, in distribution and where accuracy falls most",
        "Line charts, one panel per model.",
        "explanations.csv",
    ),
    "shortcut": Known(
        "What a swapped background alone does to each model, and how often its answer follows the new background",
        "Dot plot, one line per model.",
        "shortcut.csv",
    ),
    "gallery-flip-": Known(
        "Scenes that {} gets right in distribution and wrong after the shift",
        "Pictures with class activation maps.",
        "failures.csv",
    ),
    "gallery-confident-error-": Known(
        "The most confident errors of {}",
        "Pictures with class activation maps.",
        "failures.csv",
    ),
    "gallery-wrong-in-every-model": Known(
        "Images that every model gets wrong",
        "Pictures with the class activation maps of several models.",
        "failures.csv",
    ),
    "confusion-": Known(
        "What {} takes for what, in distribution and on the probe set where it loses most",
        "Confusion matrices: true classes in rows, predicted classes in columns.",
        "confusion.csv",
    ),
    "estimates": Known(
        "Estimated accuracy against accuracy, labels hidden from the estimate, one panel per way to estimate",
        "Scatter plots, one point per model and probe set.",
        "estimates.csv",
    ),
    "unlabelled-": Known(
        "Estimated accuracy of each model on {}, which has no labels",
        "Estimates of every way, the one with the best track record with its interval.",
        "estimates.csv",
    ),
    "cam--": Known(
        "Class activation maps: {}",
        "Grids of maps over photographs; the table of maps on this page says what each one explains.",
    ),
    "drift": Known(
        "How well a classifier tells each probe set from the in-distribution set by the features of each depth",
        "Held-out error along the network with intervals, one panel per probe set, one line per model.",
        "drift.csv",
    ),
}


def embed(path: Path, caption: str = "", told: str = "") -> Picture:
    """A figure file as a part of a page.

    Args:
        path: PNG, JPEG, WebP or SVG.
        caption: text for under it; by default what the file itself says, else its name.
        told: the numbers that matter, in words, for those who cannot see it.

    Raises:
        InputError: no picture can be read from the file.
    """
    said: dict[str, str] = {}
    inches = 0.0
    drawn = path.suffix.lower() == ".svg"
    if drawn:
        content, kind = plain_file(path).read_bytes(), "svg+xml"
        width, height = 0, 0  # its viewBox knows
        if points := WIDTH.search(content[:2000]):
            inches = float(points[1]) / 72
    else:
        try:
            with Image.open(plain_file(path)) as file:
                said = _said(file)
                if file.info.get("dpi", (0, 0))[0] > 1:
                    inches = file.width / float(file.info["dpi"][0])
                image = file.convert("RGBA" if file.has_transparency_data else "RGB")
        except (OSError, ValueError, SyntaxError) as err:
            raise InputError(f"{path} is no picture that can be read: {err}") from err
        if image.width > WIDEST:
            image = image.resize((WIDEST, max(1, round(image.height * WIDEST / image.width))), Image.Resampling.LANCZOS)
        content, kind = _webp(image), "webp"
        width, height = image.size
    name = path.stem
    start = next((beginning for beginning in KNOWN if name.startswith(beginning)), "")
    known = KNOWN.get(start, Known("{}", ""))
    rest = name.removeprefix(start).replace("--", "/")
    caption = caption or said.get("caption", "") or known.caption.format(rest if start else rest.replace("_", " "))
    parts = (part.rstrip(".") for part in (caption, known.words, told))
    alt = said.get("alt", "") or ". ".join(part for part in parts if part)
    svg = inline(path, alt) if drawn else None
    data = "" if svg else f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return Picture(name, data, width, height, inches, alt, caption, svg, known.table)


def _said(image: Image.Image) -> dict[str, str]:
    """Title and description from the text that gradlens writes into its PNG files."""
    try:
        told = json.loads(image.info.get("gradlens", "{}"))
    except (TypeError, ValueError):
        return {}
    return {k: v for k, v in told.items() if isinstance(v, str)} if isinstance(told, dict) else {}


def _webp(image: Image.Image) -> bytes:
    for settings in ({"lossless": True, "quality": 60}, {"quality": QUALITY}):
        stream = io.BytesIO()
        image.save(stream, "WEBP", method=4, **settings)
        if stream.tell() <= LOSSLESS:
            break
    return stream.getvalue()
