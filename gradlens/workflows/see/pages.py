"""Which figures a run draws: its records in, drawings out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gradlens.cam.derived import Outline, difference
from gradlens.cam.methods import METHODS
from gradlens.errors import GradlensError
from gradlens.figures.cam_grid import Caption, Scene
from gradlens.figures.cam_images import cam_images
from gradlens.figures.cam_methods import cam_methods
from gradlens.figures.cam_models import cam_models, cam_models_by_depths
from gradlens.figures.cam_targets import cam_targets
from gradlens.figures.feature_maps import feature_maps
from gradlens.workflows.see.run import CamRequest, Seen, SeenImage
from gradlens.workflows.see.targets import CONTRAST


@dataclass(frozen=True)
class Drawing:
    """One figure of any number of pages.

    Attributes:
        name: of its file, without ending.
        title: above it, and its caption on a page.
        alt: what it shows, for those who cannot see it.
        draw: makes the pages, one by one.
    """

    name: str
    title: str
    alt: str
    draw: Callable[[], Iterator[Figure]]


def drawings(seen: Sequence[Seen], request: CamRequest) -> list[Drawing]:
    """What to draw (the rules are in ``gradlens cam --help``)."""
    if len(seen) == 1 and len(request.methods) == 1:
        made = [_one_model(seen[0], request)]
    elif len(seen) > 1 and not request.layers:
        made = [_models(seen, request)]
    elif len(seen) > 1 and len(request.methods) == 1:
        made = [_models_by_depths(seen, i, request) for i in range(len(seen[0].images))]
    else:
        made = [_methods(one, i, request, len(seen) > 1) for i in range(len(seen[0].images)) for one in seen]
    if request.features:
        made += [_features(one, i, request, len(seen) > 1) for i in range(len(seen[0].images)) for one in seen]
    return made


def scene(seen: Seen, image: SeenImage, request: CamRequest) -> Scene:
    """What figures need of one image in one model."""
    outlines: list[list[list[np.ndarray]]] = []
    if request.outline:
        outlines = [[_polygons(o, request.outline) for o in stack] for stack in image.outlines]
    return Scene(
        view=image.picture.view(seen.model.preprocess),
        name=image.picture.name,
        source=image.picture.source,
        stacks=image.stacks,
        caption=_caption(image),
        outlines=outlines,
    )


def _polygons(outline: Outline | None, kind: str) -> list[np.ndarray]:
    if outline is None:
        return []
    if kind == "contour":
        return list(outline.contours)
    left, top, right, bottom = outline.box
    return [np.array([[left, top], [right, top], [right, bottom], [left, bottom]])]


def _caption(image: SeenImage) -> Caption:
    name, probability = image.prediction
    correct = None if image.picture.label is None else name == image.picture.label
    return Caption(f"{name} {100 * probability:.0f}%", correct)


def _look(request: CamRequest) -> dict[str, Any]:
    """How maps are drawn: contrasts have two sides, so both are shown."""
    contrasts = any(target.startswith(CONTRAST) for target in request.targets)
    notes = []
    if contrasts:
        notes.append("After the arrow: brown speaks for the first class, blue for the second.")
    if request.outline == "box":
        notes.append(f"Box: around the largest region with at least {100 * request.threshold:.3g}% of the maximum.")
    elif request.outline:
        notes.append(f"Contours: {100 * request.threshold:.3g}% of the map's maximum.")
    return {"scale": request.scale, "signed": request.signed or contrasts, "note": " ".join(notes)}


def _one_model(seen: Seen, request: CamRequest) -> Drawing:
    """Images × depths; two targets stand side by side at every depth."""
    scenes = [scene(seen, image, request) for image in seen.images]
    title = f"{seen.model.name} · {_method_words(request)} · {_target_words(seen)}"
    draw = partial(cam_images, scenes, title=title, **_look(request))
    if len(seen.asks) == 2 and not any(ask.against for ask in seen.asks):
        a, b = (ask.words for ask in seen.asks)
        title = f"{seen.model.name} · {_method_words(request)} · A {a}, B {b}"
        draw = partial(cam_targets, [_pair(s) for s in scenes], names=(a, b), title=title, **_look(request))
    depths = ", ".join(p.name for p in scenes[0].stacks[0].depths)
    return _drawing(f"cam--{file_name(seen.model.name)}", title, [s.name for s in scenes], f"the depths {depths}", draw)


def _pair(one: Scene) -> Scene:
    stacks = [*one.stacks, difference(*one.stacks)]
    outlines = [*one.outlines, [()] * len(one.stacks[0].depths)] if one.outlines else ()
    return Scene(one.view, one.name, one.source, stacks, one.caption, outlines)


def _models(seen: Sequence[Seen], request: CamRequest) -> Drawing:
    """Images × models at the last depth."""
    images = [[scene(s, s.images[i], request) for s in seen] for i in range(len(seen[0].images))]
    title = f"{_method_words(request)} at the last depth · {_target_words(seen[0])}"
    draw = partial(cam_models, images, titles=_titles(request), title=title, **_look(request))
    models = ", ".join(s.model.name for s in seen)
    return _drawing("cam--models", title, [scenes[0].name for scenes in images], f"the models {models}", draw)


def _models_by_depths(seen: Sequence[Seen], i: int, request: CamRequest) -> Drawing:
    """Models × depths of one image."""
    scenes = [scene(s, s.images[i], request) for s in seen]
    about = f"{scenes[0].name} · {scenes[0].source}"
    title = f"{about} · {_method_words(request)} · {_target_words(seen[0])} · shallow to deep"
    draw = partial(cam_models_by_depths, scenes, title=title, **_look(request))
    return _drawing(f"cam--{_number(seen[0], i)}", title, [s.model for s in scenes], "depths, shallow to deep", draw)


def _methods(seen: Seen, i: int, request: CamRequest, several_models: bool) -> Drawing:
    """Methods × depths of one image in one model."""
    one = scene(seen, seen.images[i], request)
    titles = _titles(request)
    title = f"{seen.model.name} · {one.name} · {one.source} · {_target_words(seen)}"
    draw = partial(cam_methods, one, titles=titles, title=title, **_look(request))
    depths = ", ".join(dict.fromkeys(p.name for stack in one.stacks for p in stack.depths))
    name = f"cam--{_number(seen, i)}" + (f"--{file_name(seen.model.name)}" if several_models else "")
    return _drawing(name, title, list(titles.values()), f"the depths {depths}", draw)


def _features(seen: Seen, i: int, request: CamRequest, several_models: bool) -> Drawing:
    """The strongest channels of each depth, of one image in one model."""
    image = seen.images[i]
    one = scene(seen, image, request)
    title = f"{seen.model.name} · {one.name} · {one.source} · strongest channels"
    draw = partial(feature_maps, one, image.channels, title=title, scale=request.scale, signed=request.signed)
    name = f"features--{_number(seen, i)}" + (f"--{file_name(seen.model.name)}" if several_models else "")
    depths = [channels.depth.name for channels in image.channels]
    return Drawing(
        name,
        title,
        f"Feature maps: {title}. Rows: {', '.join(depths)}. Columns: channels, strongest first, by {request.rank}.",
        draw,
    )


def _drawing(name: str, title: str, rows: Sequence[str], columns: str, draw: Callable[[], Iterator[Figure]]) -> Drawing:
    alt = f"Class activation maps: {title}. Rows: {', '.join(dict.fromkeys(rows))}. Columns: the image, {columns}."
    return Drawing(name, title, alt, draw)


def _titles(request: CamRequest) -> dict[str, str]:
    return {name: METHODS[name].title for name in request.methods}


def _method_words(request: CamRequest) -> str:
    titles = list(_titles(request).values())
    return ", ".join(titles) if len(titles) < 3 else f"{len(titles)} methods"


def _target_words(seen: Seen) -> str:
    return ", ".join(ask.words for ask in seen.asks)


def _number(seen: Seen, i: int) -> str:
    digits = max(2, len(str(len(seen.images))))
    return f"image-{i + 1:0{digits}d}"


def file_name(model: str) -> str:
    """A model's name as part of a file's."""
    name = model.replace("/", "--").replace(":", "-").strip(".-")
    if not name:
        raise GradlensError(f"cannot name a file after the model {model!r}")
    return name
