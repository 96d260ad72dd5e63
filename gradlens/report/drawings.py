"""Charts inlined in a page: an SVG of a run as markup, if nothing but lines, letters and small images is in it.

An SVG may hold scripts, links and whatever else a browser knows. One that gradlens wrote is built of a few elements and
attributes; a file with any other is not inlined but shown as an image, where no script in it can run.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from markupsafe import Markup, escape

from gradlens.runtime import plain_file

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
ELEMENTS = {"svg", "g", "defs", "clipPath", "path", "rect", "use", "text", "tspan", "image", "title"}
LEFT_OUT = {"metadata", "style"}  # who made it, and a rule about line ends that page.css has
ATTRIBUTES = {
    *("id", "class", "d", "x", "y", "width", "height", "viewBox", "transform", "style", "clip-path", "version"),
    *("href", "preserveAspectRatio"),
}
OWN = re.compile(r"#[\w.: -]+|data:image/png;base64,[\w+/=\s]+")  # what an href may lead to
INSIDE = re.compile(r"url\(#([\w.: -]+)\)")
LONG = re.compile(r"(-?\d+\.\d\d)\d+")  # hundredths of a point are all that anyone can see
LINES = "stroke-linejoin: round; stroke-linecap: butt; font-family: 'DejaVu Sans', Verdana, sans-serif"
FONT = re.compile(r"font(?:-family)?: ([\d.]+px)?[^;]*")


def inline(path: Path, label: str) -> Markup | None:
    """A chart as an element of the page, or ``None`` for a file that has to stay outside of the page's markup.

    Ids begin with the file's name, so that several charts can stand on one page. Marks that say what they stand for
    can be reached by the keyboard (``page.js``).

    Args:
        path: an SVG file.
        label: what the chart shows, in words.
    """
    text = plain_file(path).read_text(encoding="utf-8", errors="replace")
    if "<!ENTITY" in text or len(text) > 4_000_000:  # with entities, a small file can become endless
        return None
    try:
        root = ET.fromstring(text)  # noqa: S314 - no entities, see above
    except ET.ParseError:
        return None
    if root.tag != f"{SVG}svg":
        return None
    parts: list[str] = []
    try:
        _write(root, parts, re.sub(r"[^\w-]", "-", path.stem), label)
    except _Foreign:
        return None
    return Markup("").join(Markup(part) for part in parts)  # noqa: S704 - of allowed names and escaped values alone


class _Foreign(Exception):
    """Something is in the file that gradlens does not write."""


def _write(element: ET.Element, parts: list[str], stem: str, label: str = "") -> None:
    """Append the element's markup, its text and values escaped, its names out of the lists above."""
    tag = element.tag.removeprefix(SVG) if isinstance(element.tag, str) else ""
    if tag in LEFT_OUT:
        return
    if tag not in ELEMENTS:
        raise _Foreign
    given: dict[str, str] = {}
    for key, value in element.attrib.items():
        name = key.removeprefix(XLINK)
        if name not in ATTRIBUTES:
            raise _Foreign
        given[name] = _value(name, value, stem)
    if label:
        marks = any(g.get("class") == "mark" for g in element.iter(f"{SVG}g"))
        given |= {"role": "group", "tabindex": "0"} if marks else {"role": "img"}
        given["aria-label"] = label
        given["style"] = LINES  # also where the chart is saved from the page
        given.pop("height", None)  # it is as wide as its figure, and as high as its viewBox says
        given.pop("width", None)
    elif given.get("class") == "mark":
        said = next((t.text or "" for t in element.iter(f"{SVG}title")), "")
        given |= {"role": "img", "aria-label": said, "tabindex": "-1"}
    parts.append(f"<{tag}" + "".join(f' {name}="{escape(value)}"' for name, value in given.items()) + ">")
    parts.append(str(escape((element.text or "").strip())))
    for child in element:
        _write(child, parts, stem)
    parts.append(f"</{tag}>")


def _value(name: str, value: str, stem: str) -> str:
    if name == "id":
        return f"{stem}-{value}"
    if name == "href":
        if not OWN.fullmatch(value):
            raise _Foreign
        return f"#{stem}-{value[1:]}" if value.startswith("#") else value
    if name in ("style", "clip-path"):
        value = INSIDE.sub(rf"url(#{stem}-\1)", value)
        if "url(" in INSIDE.sub("", value) or "\\" in value or "@" in value:
            raise _Foreign
        value = FONT.sub(lambda found: f"font-size: {found[1]}" if found[1] else "", value)
    return LONG.sub(r"\1", value) if name in ("d", "x", "y", "width", "height", "transform") else value
