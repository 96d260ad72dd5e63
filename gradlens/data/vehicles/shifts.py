"""The probe sets' changes to a scene of the test set: one factor each, everything else alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from gradlens.data.vehicles.draw import KINDS
from gradlens.data.vehicles.scenery import BACKGROUNDS
from gradlens.data.vehicles.scenes import Scene

STYLES = ("photo", "poster", "line", "silhouette")  # by severity of the drawing shift; 0 is none


@dataclass(frozen=True)
class Shift:
    """One way in which images from the internet differ.

    Attributes:
        change: (scene, severity) to changed scene.
        title: a few words for figures.
        description: one sentence for the manifest.
        graded: whether it comes in severities 1 to 3.
        moves: whether the vehicle's mask differs from the paired test image's (cut, or partly hidden).
    """

    change: Callable[[Scene, int], Scene]
    title: str
    description: str
    graded: bool = True
    moves: bool = False


def _context(scene: Scene, severity: int) -> Scene:
    usual = {scene.background, KINDS[scene.vehicle].home, *KINDS[scene.vehicle].away}
    strange = [b for b in BACKGROUNDS if b not in usual]
    rng = scene.generator("context")
    return replace(scene, background=strange[int(rng.integers(len(strange)))])


def _drawing(scene: Scene, severity: int) -> Scene:
    return replace(scene, style=STYLES[severity])


def _effect(name: str) -> Callable[[Scene, int], Scene]:
    def change(scene: Scene, severity: int) -> Scene:
        return replace(scene, effects=(*scene.effects, (name, severity)))

    return change


def _internet(scene: Scene, severity: int) -> Scene:
    """Two, three or four different changes at once, each mild or middling."""
    rng = scene.generator("internet")
    names = ["context", "clutter", "watermark", "recompress", "crop", "night", "drawing", "occlusion"]
    odds = [0.20, 0.16, 0.16, 0.16, 0.12, 0.08, 0.04, 0.08]
    chosen = {str(n) for n in rng.choice(names, size=severity + 1, replace=False, p=odds)}
    if {"clutter", "crop"} <= chosen:  # a cut can leave nothing of what stood around
        free = next(n for n in ("recompress", "watermark", "occlusion") if n not in chosen)
        chosen = chosen - {"clutter"} | {free}
    for name in sorted(chosen, key=names.index):
        scene = SHIFTS[name].change(scene, int(rng.integers(1, min(severity, 2) + 1)))
    return scene


SHIFTS: dict[str, Shift] = {
    "context": Shift(_context, "another context", "The vehicle where its class is never photographed.", graded=False),
    "clutter": Shift(
        _effect("clutter"), "clutter", "Other vehicles and objects around and behind the vehicle, none in front."
    ),
    "watermark": Shift(
        _effect("watermark"), "watermark", "Names, caption bars, frames and stickers on the picture.", moves=True
    ),
    "recompress": Shift(
        _effect("recompress"), "recompression", "Made small, compressed heavily as JPEG and enlarged again."
    ),
    "crop": Shift(_effect("crop"), "close crop", "Cut closely out of the picture, at other aspect ratios.", moves=True),
    "night": Shift(_effect("night"), "night", "Dusk, night or nearly dark, coloured lamps, more sensor noise."),
    "drawing": Shift(_drawing, "drawing", "A flat poster (severity 1), ink lines (2) or a silhouette (3)."),
    "occlusion": Shift(
        _effect("occlusion"), "occlusion", "Posts, trees, leaves, hands, fences or signs hide a part.", moves=True
    ),
    "internet": Shift(_internet, "internet", "Two, three or four of the other shifts at once.", moves=True),
}


def shifted(scene: Scene, shift: str, severity: int) -> Scene:
    """The scene with one factor changed; ``"none"`` returns it as it is.

    Raises:
        KeyError: no such shift.
    """
    return scene if shift == "none" else SHIFTS[shift].change(scene, severity)
