"""How every figure looks and how it is written: sizes, fonts, colours, and a file that knows where it came from.

Figures are made with matplotlib's objects (``Figure``, ``Axes``), never with pyplot, so that drawing one changes
nothing for the program that asked for it. Each figure function draws inside :func:`paper`; :func:`save` writes it.
"""

from __future__ import annotations

import contextlib
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.image import AxesImage
from matplotlib.text import Text

from gradlens.runtime import whole_file

COLUMN_WIDTH = 3.35
"""Inches: one column of a two-column page."""

PAGE_WIDTH = 6.9
"""Inches: the text width of a page."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe & Ito's colours, which people with any colour vision can tell apart (their yellow is too pale on white)."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")

# The first draws Latin, Greek, Cyrillic and Arabic and comes with matplotlib; the others are used where installed.
_FAMILIES = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Emoji",
)

_RULES: dict[str, Any] = {
    "font.size": 7.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 9.5,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "figure.constrained_layout.use": True,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.grid": False,
    "grid.color": "#e2e2e2",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.0,
    "legend.frameon": False,
    "image.interpolation": "nearest",
    # text stays text: TrueType in PDF (Type 3 is refused by many journals), and text that can be read aloud in SVG
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.hashsalt": "gradlens",
    "text.usetex": False,
    "text.parse_math": False,  # a class may be called "$5"; so no logarithmic axes with powers of ten either
}


_CAST: ContextVar[frozenset[str]] = ContextVar("cast", default=frozenset())
_TOLD = "told: "  # begins the id of a mark that says what it stands for
_LARGEST = 4096  # pixels of an image in a chart, such as a heat map's; photographs have more


@cache
def _families() -> tuple[str, ...]:
    installed = {font.name for font in fontManager.ttflist}
    return tuple(family for family in _FAMILIES if family in installed)


@contextlib.contextmanager
def cast(names: Iterable[str]) -> Iterator[None]:
    """Inside, a model looks the same in every figure, also in one that leaves others of these models out."""
    token = _CAST.set(frozenset(names))
    try:
        yield
    finally:
        _CAST.reset(token)


@contextlib.contextmanager
def paper() -> Iterator[None]:
    """Inside, matplotlib draws in the style of gradlens, whatever the user's matplotlibrc says; outside, as before."""
    with mpl.rc_context():
        # assigning a backend, even the same one, would load pyplot
        plain = {key: value for key, value in mpl.rcParamsDefault.items() if not key.startswith("backend")}
        rules: Any = {**plain, **_RULES, "font.family": list(_families())}
        mpl.rcParams.update(rules)
        yield


def model_colors(names: Iterable[str]) -> dict[str, str]:
    """A colour for each model: the same in every figure that is given the same names, in whatever order, and in every
    figure inside one :func:`cast`.

    Beyond seven models colours repeat; :func:`model_markers` then tells them apart.
    """
    return {name: PALETTE[i % len(PALETTE)] for name, i in _places(names).items()}


def model_markers(names: Iterable[str]) -> dict[str, str]:
    """A marker for each model, such that no two of up to seventy models share colour and marker."""
    return {name: MARKERS[i // len(PALETTE) % len(MARKERS)] for name, i in _places(names).items()}


def _places(names: Iterable[str]) -> dict[str, int]:
    """Each name's place in the alphabet of the cast that all of them belong to, else in their own."""
    own = set(names)
    cast = _CAST.get()
    order = sorted(cast if own <= cast else own)
    return {name: i for i, name in enumerate(order) if name in own}


def tell(artist: Artist, text: str) -> None:
    """Say what a mark stands for: model, set, numbers. In an SVG the mark shows it when pointed at.

    Args:
        artist: one mark, or a line of them.
        text: a few words with numbers.
    """
    artist.set_gid(_TOLD + " ".join(text.split()))


def name_beside(ax: Axes, ends: Sequence[tuple[float, float, str, str]], inches: float, size: float = 7) -> None:
    """Names in a column right of the axes, each as near to its point's height as the others let it, with a leader.

    Args:
        ax: axes whose limits are set.
        ends: (x, y, name, colour) of each point.
        inches: height of the axes, at least; they are laid out later.
        size: of the letters, in points.
    """
    bottom, top = ax.get_ylim()
    ordered = sorted(ends, key=lambda end: (end[1], end[0]))
    step = (top - bottom) * size * 1.2 / 72 / inches
    places = spread([y for _, y, _, _ in ordered], step)
    places += max(0, bottom + step / 2 - places[0])  # below the axes are the numbers of their ticks
    for (x, y, name, color), place in zip(ordered, places, strict=True):
        ax.annotate(
            name,
            xy=(x, y),
            xytext=(1.02, place),
            textcoords=ax.get_yaxis_transform(),
            color=color,
            fontsize=size,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.4, "alpha": 0.7, "shrinkB": 3},
        )


def spread(wanted: Sequence[float], step: float) -> np.ndarray:
    """Places in the order of ``wanted`` (ascending) at least ``step`` apart, moving groups as little as possible."""
    groups: list[tuple[float, int]] = []  # centre, members
    for value in wanted:
        groups.append((value, 1))
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < step * (groups[-1][1] + groups[-2][1]) / 2:
            (c0, n0), (c1, n1) = groups[-2:]
            groups[-2:] = [((c0 * n0 + c1 * n1) / (n0 + n1), n0 + n1)]
    return np.concatenate([c + step * (np.arange(n) - (n - 1) / 2) for c, n in groups])


@cache
def _is_drawable(character: str) -> bool:
    if character.isspace():
        return True
    return any(
        get_font(fontManager.findfont(FontProperties(family=family), fallback_to_default=False)).get_char_index(
            ord(character)
        )
        for family in _families()
    )


def drawable(text: str) -> str:
    """``text`` with every character that no installed font can draw written as ``<U+XXXX>``.

    An empty box would make two such names look the same.
    """
    return "".join(c if _is_drawable(c) else f"<U+{ord(c):04X}>" for c in text)


def short(text: str, most: int = 28) -> str:
    """``text`` made drawable and, where it is longer than ``most`` characters, shortened in its middle."""
    text = " ".join(text.split())
    if len(text) > most:
        head = (most - 1) // 2
        text = text[:head] + "…" + text[len(text) - (most - 1 - head) :]
    return drawable(text)


def display_names(names: Sequence[str], most: int = 28) -> dict[str, str]:
    """What to print for each name: without the collection (``vehicles/``) all of them share, shortened, drawable.

    Names that shortening would make equal are printed in full.
    """
    heads = {name.rpartition("/")[0] for name in names}
    shared = len(heads) == 1
    full = {name: name.rpartition("/")[2] if shared else name for name in names}
    shown = {name: short(tail, most) for name, tail in full.items()}
    doubled = {text for text in shown.values() if list(shown.values()).count(text) > 1}
    return {name: drawable(full[name]) if text in doubled else text for name, text in shown.items()}


def probe_names(probes: Sequence[str], in_dist: str) -> dict[str, str]:
    """What to print for each probe set: without the beginning (up to a hyphen) that all share with ``in_dist``."""
    start = in_dist[: in_dist.rfind("-") + 1]
    while not all(probe.startswith(start) for probe in probes):
        start = start[: start[:-1].rfind("-") + 1]
    return {probe: short(probe[len(start) :] or probe) for probe in probes}


def caption(figure: Figure, text: str) -> None:
    """Set ``text`` under the figure, small, from its left edge, wrapped to its width."""
    letters = int(figure.get_figwidth() * 72 / (6.5 * 0.57))  # letters are narrower than that on average
    lines = [line for part in text.split("\n") for line in textwrap.wrap(drawable(part), letters)]
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=6.5, color="#444444")


def _srgb(lightness: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Oklab to sRGB in 0-1. Ottosson 2020, "A perceptual color space for image processing"."""
    cone = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ],
        axis=-1,
    )
    mix = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(cone**3 @ mix.T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _branch(hue: float, chroma: float, darkest: float) -> np.ndarray:
    """(128, 3): equal steps in Oklab from near white to a dark colour of one hue (degrees), all of them inside sRGB."""
    t = np.linspace(0, 1, 128)
    a, b = chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))
    return _srgb(0.985 + (darkest - 0.985) * t, a * t, b * t)


@cache
def sequential() -> ListedColormap:
    """Near white to dark blue in perceptually equal steps."""
    return ListedColormap(_branch(258, 0.13, 0.38), "gradlens-sequential")


@cache
def diverging() -> ListedColormap:
    """Blue, near white, brown in perceptually equal steps: blue and orange differ for people with any colour vision."""
    return ListedColormap(
        np.concatenate([_branch(256, 0.12, 0.47)[::-1], _branch(48, 0.12, 0.47)]), "gradlens-diverging"
    )


def text_color(background: Sequence[float] | np.ndarray) -> str:
    """Black or white, whichever contrasts more with an (r, g, b[, a]) background in 0-1 (WCAG 2 relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in background[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"


def is_chart(figure: Figure) -> bool:
    """Whether a figure holds no photograph, so that lines and letters are all of it, and a vector file small."""
    images = (image.get_array() for image in figure.findobj(AxesImage) if isinstance(image, AxesImage))
    return all(pixels is None or pixels.size <= _LARGEST for pixels in images)


def save(
    figure: Figure,
    stem: Path,
    formats: Sequence[str] = ("png", "pdf"),
    dpi: int = 300,
    provenance: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write a figure as ``stem.png``, ``stem.pdf``, ... and return the paths.

    The same figure gives the same bytes on every call: no date is written. ``provenance`` is written into each file as
    one JSON text: a PNG's text chunk ``gradlens``, a PDF's keywords, an SVG's description.

    Args:
        figure: what to write.
        stem: the path without its ending; a dot in the name is part of the name.
        formats: of ``"png"``, ``"pdf"``, ``"svg"``.
        dpi: dots per inch of bitmaps, and of images inside PDF and SVG.
        provenance: what made this figure, JSON-serialisable.
    """
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_text() != drawable(text.get_text()):
            text.set_text(drawable(text.get_text()))
    told = json.dumps(dict(provenance or {}), sort_keys=True, default=str)
    metadata: dict[str, dict[str, Any]] = {
        "png": {"gradlens": told},
        "pdf": {"Keywords": told, "CreationDate": None, "Creator": "gradlens"},
        "svg": {"Description": told, "Date": None, "Creator": "gradlens"},
    }
    written = []
    # after writing one format matplotlib gives a figure without a layout engine the one of the rules
    # a chart's letters stay text, which a page can read out; beside photographs they are shapes, and no font is needed
    letters = "none" if is_chart(figure) else "path"
    with paper(), mpl.rc_context({"figure.constrained_layout.use": False, "svg.fonttype": letters}):
        for ending in formats:
            if ending not in metadata:
                raise ValueError(f"expected a format out of {', '.join(metadata)}, got {ending!r}")
            path = stem.parent / f"{stem.name}.{ending}"
            with whole_file(path) as unfinished:
                figure.savefig(unfinished, format=ending, dpi=dpi, metadata=metadata[ending])
                if ending == "svg":
                    _title_marks(unfinished)
            written.append(path)
    return written


def _title_marks(path: Path) -> None:
    """Turn what :func:`tell` said into ``<title>`` elements, which browsers show when the mark is pointed at."""
    # matplotlib has escaped the text for an attribute, which is more than an element needs
    text = re.sub(rf'<g id="{_TOLD}([^"]*)">', r'<g class="mark"><title>\1</title>', path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8")
