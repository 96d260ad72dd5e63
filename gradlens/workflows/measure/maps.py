"""Maps of the models on some images of every set, and what is measured of each: what compares explanations starts here.

Images are decoded once and shown to all models. What is kept does not grow with the sets, only with the number of
images that are compared (``--cam-images``): per image and depth a few numbers, a small pooled map, and of the
in-distribution images their raw maps, which the same scenes of every probe set are held against.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gradlens.cam import shape
from gradlens.cam.engine import Explanation, explain
from gradlens.cam.localisation import area, energy, network_mask
from gradlens.cam.measures import spearman
from gradlens.cam.methods import METHODS
from gradlens.data.preprocess import to_tensor
from gradlens.data.sources import ImageSet, decoded
from gradlens.depths.find import Depths
from gradlens.errors import ModelError
from gradlens.records import HookPoint, LoadedModel, Skipped
from gradlens.runtime import Runtime
from gradlens.shift.explanation_shift import balanced
from gradlens.shift.gap import ENOUGH_PAIRS
from gradlens.workflows.measure.evidence import Evidence, Request
from gradlens.workflows.see import depths_of

BATCH = 16  # images per pass when nobody said
CELLS = 16  # cells a side at most of a pooled map
FEWEST_CELLS = 6  # cells a side that a map needs for its place to be told: coarser ones smear over the object's edge
OF_ONE = ("energy", "object", "excess", "entropy", "spread", "centre-x", "centre-y")
OF_A_PAIR = ("centre-shift", "map-similarity")


@dataclass(frozen=True)
class Comparison:
    """Which images of a probe set are compared with which in distribution.

    Attributes:
        probe: the set's name.
        paired: whether the i-th of both sides show the same scene.
        in_dist, images: places in the two image sets; of equal length where paired.
        left_out: images of the probe set that have no partner, where it is paired.
    """

    probe: str
    paired: bool
    in_dist: tuple[int, ...]
    images: tuple[int, ...]
    left_out: int = 0


@dataclass
class Measured:
    """What was measured of one model's maps on n images of one set, D depths.

    Attributes:
        images: places in the image set; values and so on are in this order.
        values: per measure n arrays (D,); NaN where a map's status is not ``ok`` or there is no mask.
        statuses: n lists of D statuses (:class:`gradlens.records.CamStack`), or why there is no map.
        pooled: per depth n arrays (cells,) of sum 1, NaN where there is no map.
        raw: per depth n maps (rows, columns); of the in-distribution set only.
    """

    depths: tuple[HookPoint, ...] = ()
    images: list[int] = field(default_factory=list)
    values: dict[str, list[np.ndarray]] = field(default_factory=dict)
    statuses: list[list[str]] = field(default_factory=list)
    pooled: list[list[np.ndarray]] = field(default_factory=list)
    raw: list[list[Tensor]] = field(default_factory=list)

    @property
    def reading(self) -> int:
        """The depth that findings are read at: the deepest with at least 6 by 6 cells, the last where none has."""
        fine = [d for d, p in enumerate(self.depths) if min(p.shape[1:]) >= FEWEST_CELLS]
        return fine[-1] if fine else len(self.depths) - 1

    def table(self, measure: str) -> np.ndarray:
        """(n, D) values of a measure."""
        return np.array(self.values[measure]).reshape(-1, len(self.depths))

    def ok(self) -> np.ndarray:
        """(n, D) bool: where there is a map."""
        return np.array([[s == "ok" for s in row] for row in self.statuses]).reshape(-1, len(self.depths))


def comparisons(evidence: Evidence, request: Request, seed: int) -> list[Comparison]:
    """Which images are compared, for every labelled probe set: as many of each class as can be, drawn by id and seed.

    The same scenes where the set is paired and nine tenths of its images have their partner, other images of the
    classes both sides have where it is not. A set that shares no class is left out.
    """
    in_dist = evidence.images[evidence.in_dist.name]
    there = {in_dist.samples[i].id: i for i in _scored(evidence, in_dist)}
    found = []
    for info in evidence.probes:
        probe = evidence.images[info.name]
        scored = _scored(evidence, probe)
        by_scene: dict[str, list[str]] = {}
        for i in scored:
            pair = probe.samples[i].pair
            if info.paired_with == in_dist.name and pair is not None and pair in there:
                by_scene.setdefault(pair, []).append(probe.samples[i].id)
        place = {s.id: i for i, s in enumerate(probe.samples)}
        pairs = sum(map(len, by_scene.values()))
        if scored and pairs >= ENOUGH_PAIRS * len(scored):
            scenes = balanced(_by_class(in_dist, [there[s] for s in by_scene]), request.cam_images, seed)
            shown = [balanced({"": by_scene[s]}, 1, seed)[0] for s in scenes]  # a scene may have several images
            found.append(
                Comparison(
                    info.name,
                    True,
                    tuple(there[s] for s in scenes),
                    tuple(place[s] for s in shown),
                    len(scored) - pairs,
                )
            )
            continue
        ours, theirs = _by_class(in_dist, list(there.values())), _by_class(probe, scored)
        shared = sorted(set(ours) & set(theirs))
        if shared:
            one, other = (balanced({c: side[c] for c in shared}, request.cam_images, seed) for side in (ours, theirs))
            found.append(Comparison(info.name, False, tuple(there[s] for s in one), tuple(place[s] for s in other)))
    return found


def _scored(evidence: Evidence, images: ImageSet) -> list[int]:
    """Places of the images that every model has an answer to."""
    known = set.intersection(*(set(evidence.predictions[m.name, images.name].ids) for m in evidence.models))
    return [i for i, s in enumerate(images.samples) if s.label is not None and s.id in known]


def _by_class(images: ImageSet, places: Sequence[int]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for i in places:
        found.setdefault(class_of(images, i), []).append(images.samples[i].id)
    return found


def class_of(images: ImageSet, i: int) -> str:
    """The name of a labelled image's class."""
    label = images.samples[i].label
    assert label is not None
    assert images.classes is not None
    return images.classes[label]


@dataclass(frozen=True)
class Gathered:
    """Maps of all models.

    Attributes:
        in_dist: by model; probes: by (model, probe set).
        refused: model -> why it has no maps.
        skipped: images that could not be read again.
    """

    comparisons: list[Comparison]
    in_dist: dict[str, Measured]
    probes: dict[tuple[str, str], Measured]
    refused: dict[str, str]
    skipped: list[Skipped]


def gather(evidence: Evidence, request: Request, runtime: Runtime) -> Gathered:
    """Make and measure the maps of every model on every comparison's images.

    Raises:
        NotFoundError: no CAM method of that name.
    """
    METHODS[request.cam_method]
    compared = comparisons(evidence, request, runtime.seed)
    home = evidence.images[evidence.in_dist.name]
    depths: dict[str, Depths] = {}
    refused: dict[str, str] = {}
    for name, network in evidence.networks.items():
        depths[name] = depths_of(network, runtime)
    result = Gathered(compared, {}, {}, refused, [])
    work: list[tuple[ImageSet, Comparison | None, list[int]]] = [
        (home, None, sorted({i for c in compared for i in c.in_dist}, key=lambda i: home.samples[i].id))
    ]
    work += [(evidence.images[c.probe], c, list(c.images)) for c in compared]
    batches = [
        (images, c, places[start : start + (runtime.batch_size or BATCH)])
        for images, c, places in work
        for start in range(0, len(places), runtime.batch_size or BATCH)
    ]
    for images, comparison, places in runtime.progress(batches, "explaining", unit="batch"):
        shown = list(_read(images, places, runtime, result.skipped))
        for name, network in evidence.networks.items():
            if not shown or name in refused:
                continue
            try:
                _measure(network, depths[name], images, comparison, shown, request, runtime, result)
            except ModelError as err:
                refused[name] = str(err).partition("\n")[0]
    return result


def _read(
    images: ImageSet, places: Sequence[int], runtime: Runtime, skipped: list[Skipped]
) -> Iterator[tuple[int, np.ndarray]]:
    for k, pixels in decoded(images.subset(places), runtime.workers):
        if isinstance(pixels, Skipped):
            skipped.append(pixels)
        else:
            yield places[k], pixels


def _measure(
    network: LoadedModel,
    depths: Depths,
    images: ImageSet,
    comparison: Comparison | None,
    shown: Sequence[tuple[int, np.ndarray]],
    request: Request,
    runtime: Runtime,
    result: Gathered,
) -> None:
    """Explain one batch of one set and add what is measured to the result."""
    device = runtime.torch_device()
    places = [i for i, _ in shown]
    x = torch.stack([to_tensor(network.preprocess, pixels) for _, pixels in shown]).to(device)
    targets, unknown = _targets(network, images, places, request, device)
    with runtime.autocast():
        e = explain(network.module, x, layers="stages", targets=targets, method=request.cam_method, depths=depths)
    heat = e.heatmaps()[:, 0].transpose(0, 1)  # (D, N, H, W)
    statuses = [list(map(str, row[0])) for row in e.statuses()]
    for n in unknown:
        statuses[n] = ["class unknown to the model"] * len(e.depths)
    sound = torch.tensor([[s == "ok" for s in row] for row in statuses], device=device).T  # (D, N)
    heat = torch.where(sound[..., None, None], heat, torch.nan)
    if comparison is None:
        own = result.in_dist.setdefault(network.name, Measured(e.depths))
        _keep_raw(own, e)
    else:
        own = result.probes.setdefault((network.name, comparison.probe), Measured(e.depths))
    values = _of_one(network, images, places, heat)
    if comparison is not None and comparison.paired:
        values |= _of_pairs(result.in_dist[network.name], comparison, places, heat)
    for name, table in values.items():
        own.values.setdefault(name, []).extend(table.T.double().cpu().numpy())
    own.images += places
    own.statuses += statuses
    for d, m in enumerate(_pooled(e, sound)):
        if len(own.pooled) <= d:
            own.pooled.append([])
        own.pooled[d].extend(m.cpu().numpy())


def _targets(
    network: LoadedModel, images: ImageSet, places: Sequence[int], request: Request, device: torch.device
) -> tuple[Tensor | None, list[int]]:
    """What is explained (``None``: the predicted class), and which images have a class that the model does not know."""
    if request.cam_target == "predicted":
        return None, []
    known = {name: k for k, name in enumerate(network.classes)}
    columns = [known.get(class_of(images, i), -1) for i in places]
    unknown = [n for n, k in enumerate(columns) if k < 0]
    return torch.tensor([max(k, 0) for k in columns], device=device), unknown


def _of_one(network: LoadedModel, images: ImageSet, places: Sequence[int], heat: Tensor) -> dict[str, Tensor]:
    """Per measure (D, N)."""
    masks = [images.mask(i) for i in places]
    nothing = np.zeros(heat.shape[-2:], dtype=bool)
    stacked = torch.stack(
        [torch.from_numpy(nothing) if m is None else network_mask(network.preprocess, m) for m in masks]
    ).to(heat.device)
    on_object, covers = energy(heat, stacked), area(stacked).expand(heat.shape[:2])
    x, y = shape.centre(heat)
    return {
        "energy": on_object,
        "object": torch.where(torch.isnan(on_object), torch.nan, covers),
        "excess": on_object - covers,
        "entropy": shape.entropy(heat),
        "spread": shape.spread(heat),
        "centre-x": x,
        "centre-y": y,
    }


def _of_pairs(before: Measured, comparison: Comparison, places: Sequence[int], heat: Tensor) -> dict[str, Tensor]:
    """Per measure (D, N): each map against the map of the same scene in distribution."""
    partner = dict(zip(comparison.images, comparison.in_dist, strict=True))
    place = {i: n for n, i in enumerate(before.images)}
    rows = [place.get(partner[i], -1) for i in places]  # -1: its image could not be read again
    shift, alike = torch.full_like(heat[..., 0, 0], torch.nan), torch.full_like(heat[..., 0, 0], torch.nan)
    there = [n for n, row in enumerate(rows) if row >= 0]
    x, y = shape.centre(heat)
    for d in range(len(heat)):
        if not there:
            continue
        raw = torch.stack([before.raw[d][rows[n]] for n in there]).to(heat.device)
        ok = torch.tensor([before.statuses[rows[n]][d] == "ok" for n in there], device=heat.device)
        old = torch.where(ok[:, None, None], _enlarged(raw, heat.shape[-2:]), torch.nan)
        old_x, old_y = shape.centre(old)
        shift[d, there] = torch.hypot(x[d, there] - old_x, y[d, there] - old_y).to(shift.dtype)
        alike[d, there] = spearman(old, heat[d, there]).to(alike.dtype)
    return {"centre-shift": shift, "map-similarity": alike}


def _enlarged(raw: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """(N, H, W): the positive part at the image's size, as :meth:`Explanation.heatmaps` enlarges it."""
    positive = torch.nan_to_num(raw, nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0)[:, None]
    top = positive.amax((2, 3), keepdim=True)
    scaled = torch.where(top > 0, positive / torch.where(top > 0, top, 1.0), 0.0)
    return F.interpolate(scaled, tuple(size), mode="bilinear", align_corners=False)[:, 0]


def _keep_raw(own: Measured, e: Explanation) -> None:
    for d, m in enumerate(e.maps):
        if len(own.raw) <= d:
            own.raw.append([])
        own.raw[d].extend(m[:, 0].float().cpu())


def _pooled(e: Explanation, sound: Tensor) -> Iterator[Tensor]:
    """Per depth (N, cells): the positive part on at most 16 by 16 cells, of sum 1; NaN where there is no map."""
    for m, ok in zip(e.maps, sound, strict=True):
        positive = torch.nan_to_num(m[:, :1].float(), nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0)
        size = min(m.shape[2], CELLS), min(m.shape[3], CELLS)
        flat = F.adaptive_avg_pool2d(positive, size).flatten(1)
        yield torch.where(ok[:, None], flat / flat.sum(1, keepdim=True), torch.nan)
