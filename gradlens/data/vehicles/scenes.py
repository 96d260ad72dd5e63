"""Scenes: the factors an image is drawn with, how they are sampled, and the pixels and mask they give.

A scene is a value. The same scene gives the same pixels wherever and in whatever order it is rendered, because every
part of it (vehicle, place, noise, each effect) draws from its own generator, seeded by what the scene is and not by
what was rendered before. Changing one field changes one factor and leaves all others alone: that makes counterfactuals.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import cv2
import numpy as np

from gradlens.data.vehicles import effects
from gradlens.data.vehicles.canvas import Drawing, Layer, paint, project
from gradlens.data.vehicles.draw import KINDS
from gradlens.data.vehicles.light import LIGHTS, lit
from gradlens.data.vehicles.scenery import BACKGROUNDS

SIZE = 144  # pixels on a side of an uncropped image
OVERSAMPLE = 3
CUT = 0.05  # part of the image's width by which a vehicle may stand out of it
NATURAL = 0.86  # how often a vehicle is photographed at home in the catalogue


@dataclass(frozen=True)
class Scene:
    """All factors of one image.

    Attributes:
        role, vehicle, index, seed: who it is; these seed all its generators.
        body: body style, one of ``KINDS[vehicle].bodies``.
        flip: drives to the left.
        angle: degrees, counter-clockwise.
        scale: width of the vehicle as a part of the image's (less where it would become too tall).
        center: horizontal centre, as a part of the image's width.
        ground: height of the ground line, as a part of the image's height from the top.
        lift: how far above the ground line the vehicle is, as a part of the image's height.
        shear, perspective: of the vehicle, both about 0.
        background, light, style: names in ``BACKGROUNDS``, ``LIGHTS``; ``photo``, ``poster``, ``line``, ``silhouette``.
        light_strength: 0 to 1.
        effects: (name, severity) of what is done to the photograph, in `effects`' own order.
    """

    role: str
    vehicle: str
    index: int
    seed: int
    body: str
    flip: bool
    angle: float
    scale: float
    center: float
    ground: float
    lift: float
    shear: float
    perspective: float
    background: str
    light: str
    light_strength: float
    style: str = "photo"
    effects: tuple[tuple[str, int], ...] = ()

    @property
    def id(self) -> str:
        """Unique among the scenes of a role and seed."""
        return f"{self.vehicle}-{self.index:04d}"

    def generator(self, part: str) -> np.random.Generator:
        """The generator of one part of the scene."""
        return _generator(self.seed, self.role, self.vehicle, self.index, part)


@dataclass(frozen=True)
class Rendered:
    """An image (H, W, 3) uint8 RGB and the mask (H, W) bool of the vehicle's visible pixels."""

    image: np.ndarray
    mask: np.ndarray


def _generator(seed: int, role: str, vehicle: str, index: int, part: str) -> np.random.Generator:
    words = [seed, zlib.crc32(role.encode()), zlib.crc32(vehicle.encode()), index, zlib.crc32(part.encode())]
    return np.random.default_rng(np.random.SeedSequence(words))


def background_for(vehicle: str, rng: np.random.Generator, correlation: float = 1.0) -> str:
    """Where a vehicle is photographed.

    With probability ``correlation`` as in the catalogue (at home in 86 % of all images, else on one of three plausible
    other backgrounds), otherwise on any of the eight with equal probability. At 0 background and class are independent.
    """
    natural, at_home, other, anywhere = rng.random(), rng.random(), int(rng.integers(3)), int(rng.integers(8))
    if natural >= correlation:
        return list(BACKGROUNDS)[anywhere]
    kind = KINDS[vehicle]
    return kind.home if at_home < NATURAL else kind.away[other]


def sample_scene(role: str, vehicle: str, index: int, seed: int = 0, correlation: float = 1.0) -> Scene:
    """A scene of the catalogue; only its background depends on ``correlation``."""
    rng = _generator(seed, role, vehicle, index, "scene")
    kind = KINDS[vehicle]
    flying = vehicle == "plane"
    scale = float(rng.uniform(0.44, 0.90))
    margin = 0.5 * scale - CUT
    return Scene(
        role=role,
        vehicle=vehicle,
        index=index,
        seed=seed,
        body=kind.bodies[int(rng.integers(len(kind.bodies)))],
        flip=bool(rng.random() < 0.5),
        angle=float(rng.normal(4, 9) if flying else rng.normal(0, 1.6)),
        scale=scale,
        center=float(rng.uniform(min(margin, 0.5), max(1 - margin, 0.5))),
        ground=float(rng.uniform(0.68, 0.82)),
        lift=float(rng.uniform(0.10, 0.36)) if flying else 0.0,
        shear=float(rng.normal(0, 0.035)),
        perspective=float(rng.uniform(-0.10, 0.16)),
        background=background_for(vehicle, _generator(seed, role, vehicle, index, "background"), correlation),
        light=list(LIGHTS)[int(rng.integers(len(LIGHTS)))],
        light_strength=float(rng.uniform(0.4, 1.0)),
    )


def pose(scene: Scene, drawing: Drawing, size: int) -> np.ndarray:
    """The homography that puts a drawing into the scene on a layer of ``size`` pixels."""
    left, low, right, high = drawing.extent()
    k = size * min(scene.scale / (right - left), KINDS[scene.vehicle].tall / (high - low))
    sign = -1.0 if scene.flip else 1.0
    a = math.radians(scene.angle * sign)
    middle = np.array([[1, 0, -(left + right) / 2], [0, 1, -low], [0, 0, 1.0]])
    view = np.array([[1, 0, 0], [0, 1, 0], [scene.perspective * -0.5, 0, 1.0]])
    lean = np.array([[sign, scene.shear, 0], [0, 1, 0], [0, 0, 1.0]])
    turn = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    base = scene.ground - scene.lift
    place = np.array([[k, 0, scene.center * size], [0, -k, base * size], [0, 0, 1.0]])
    matrix = place @ turn @ lean @ view @ middle
    corners = project(matrix, np.array([[left, low], [right, low], [right, high], [left, high]])) / size
    (x0, y0), x1 = corners.min(axis=0), corners[:, 0].max()
    dx = max(-CUT - x0, 0) - max(x1 - 1 - CUT, 0)  # push back what would be cut off too far
    dy = max(0.01 - y0, 0)
    return np.array([[1, 0, dx * size], [0, 1, dy * size], [0, 0, 1.0]]) @ matrix


def drawing_of(scene: Scene) -> Drawing:
    """The scene's vehicle, not yet placed."""
    return KINDS[scene.vehicle].draw(scene.body, scene.generator("vehicle"))


def _shadow(background: np.ndarray, scene: Scene, drawing: Drawing, matrix: np.ndarray, size: int) -> np.ndarray:
    """What the vehicle does to the ground: a soft shadow, on water a dark reflection and foam, nothing in the sky."""
    if scene.background == "sky" or scene.lift > 0:
        return background
    left, _, right, _ = drawing.extent()
    ends = project(matrix, np.array([[left, 0.0], [right, 0.0]])) * (SIZE / size)
    (xa, ya), (xb, yb) = ends
    center, half = ((xa + xb) / 2, (ya + yb) / 2), abs(xb - xa) / 2
    tilt = math.degrees(math.atan2(yb - ya, xb - xa))
    dark: np.ndarray = np.zeros((SIZE, SIZE), np.float32)
    wet = scene.background == "sea"
    axes = (max(1, round(half * 16)), max(1, round((4.5 if wet else 2.6) * 16)))
    offset = 3.5 if wet else 0.8
    at = (round(center[0] * 16), round((center[1] + offset) * 16))
    cv2.ellipse(dark, at, axes, tilt, 0, 360, 1.0, -1, cv2.LINE_AA, 4)
    dark = cv2.GaussianBlur(dark, (0, 0), 2.4 if wet else 1.8)[..., None]
    return background * (1 - (0.42 if wet else 0.62) * dark)


def _resized(layer: Layer, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Premultiplied colour (S, S, 3) and coverage (S, S, 1), float32, averaged down to ``size``."""
    color = cv2.resize(layer.color, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    alpha = cv2.resize(layer.alpha, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return color, alpha[..., None]


def render(scene: Scene) -> Rendered:
    """The pixels and the exact mask of a scene.

    The photograph is composed first (place, things behind, shadow, vehicle, things in front), then lit and exposed
    (daylight or night, sensor noise), then treated as the internet treats it (marked, cut, compressed again).
    """
    severity = dict(scene.effects)
    size = SIZE * OVERSAMPLE
    drawing = drawing_of(scene)
    matrix = pose(scene, drawing, size)

    layer = Layer(size, size)
    paint(drawing, layer, matrix, scene.style, effects.ink_of(scene.style, scene.generator("ink")))
    color, alpha = _resized(layer, SIZE)

    back = Layer(SIZE * 2, SIZE * 2, (255, 255, 255))
    BACKGROUNDS[scene.background](back, scene.generator("place"), scene.ground)
    if "clutter" in severity:
        effects.clutter(
            back, alpha[..., 0], scene.vehicle, scene.ground, severity["clutter"], scene.generator("clutter")
        )
    behind: np.ndarray = cv2.resize(back.color, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(np.float32)
    focus = scene.generator("focus").uniform(0.3, 1.1)
    behind = cv2.GaussianBlur(behind, (0, 0), focus)
    if scene.style == "photo":
        behind = _shadow(behind, scene, drawing, matrix, size)
    else:
        behind = effects.drawn_background(behind, scene.style, scene.generator("ink"))
    image = behind * (1 - alpha) + color

    if "occlusion" in severity:
        front = Layer(size, size)
        effects.occluders(front, layer.alpha, severity["occlusion"], scene.generator("occlusion"))
        over, hidden = _resized(front, SIZE)
        image = image * (1 - hidden) + over
        alpha = alpha * (1 - hidden)
    mask = alpha[..., 0] >= 0.5

    if scene.style == "photo":
        image = lit(image, scene.light, scene.light_strength)
    sensor = scene.generator("sensor")
    grain = sensor.uniform(1.0, 2.6)
    if "night" in severity:
        image, grain = effects.night(image, severity["night"], scene.generator("night"))
    if scene.style == "photo":
        image = image + sensor.normal(0, grain, (SIZE, SIZE, 1)).astype(np.float32)
    picture = np.clip(np.rint(image), 0, 255).astype(np.uint8)

    if "crop" in severity:
        picture, mask = effects.crop(picture, mask, severity["crop"], scene.generator("crop"))
    if "watermark" in severity:
        picture, mask = effects.watermark(picture, mask, severity["watermark"], scene.generator("watermark"))
    if "recompress" in severity:
        picture = effects.recompress(picture, severity["recompress"])
    return Rendered(picture, mask)
