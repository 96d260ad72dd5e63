"""Maps of the models on some images of every set, and what is measured of each: what compares explanations starts here.

Images are decoded once and shown to one model after the other. What is kept does not grow with the sets, only with the
number of images that are compared (``--cam-images``): what the networks see of each in 8 bits, per depth a few numbers
and a small pooled map, and, one model after the other, the ranks of its maps in distribution, which those of the same
scenes are held against.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor

from gradlens.cam import shape
from gradlens.cam.engine import Explanation, explain
from gradlens.cam.localisation import area, energy, network_mask
from gradlens.data.preprocess import normalised, to_pixels
from gradlens.data.sources import ImageSet, decoded
from gradlens.depths.find import Depths
from gradlens.errors import DepthError, ModelError
from gradlens.records import HookPoint, LoadedModel, Skipped
from gradlens.runtime import Runtime
from gradlens.shift.explanation_shift import balanced
from gradlens.shift.gap import ENOUGH_PAIRS
from gradlens.workflows.measure.evidence import Evidence, Request
from gradlens.workflows.see import depths_of

BATCH = 16  # images per pass when nobody said
CELLS = 16  # cells a side at most of a pooled map
COMPARED = 64  # cells a side at most of the enlarged maps whose shape and ranks are compared
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
        ranks: per depth n arrays: the ranks of the enlarged map's cells, of mean 0 and length 1, NaN where there is no
            map or an even one; of the in-distribution set, and only while its model is at work.
    """

    depths: tuple[HookPoint, ...] = ()
    images: list[int] = field(default_factory=list)
    values: dict[str, list[np.ndarray]] = field(default_factory=dict)
    statuses: list[list[str]] = field(default_factory=list)
    pooled: list[list[np.ndarray]] = field(default_factory=list)
    ranks: list[list[np.ndarray]] = field(default_factory=list)

    @property
    def reading(self) -> int:
        """The depth that findings are read at: the deepest with 6 by 6 cells and a usable map of half the images.

        Asked of the in-distribution side; the last depth where none has as many cells.
        """
        fine = [d for d, p in enumerate(self.depths) if min(p.shape[1:]) >= FEWEST_CELLS]
        usable = [d for d in fine if not self.statuses or self.ok()[:, d].mean() >= 0.5]
        return (usable or fine or [len(self.depths) - 1])[-1]

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
    there = {in_dist.samples[i].id: i for i in answered(evidence, in_dist)}
    found = []
    for info in evidence.probes:
        probe = evidence.images[info.name]
        scored = answered(evidence, probe)
        by_scene: dict[str, list[str]] = {}
        for i in scored:
            pair = probe.samples[i].pair
            if info.paired_with == in_dist.name and pair is not None and pair in there:
                by_scene.setdefault(pair, []).append(probe.samples[i].id)
        place = {s.id: i for i, s in enumerate(probe.samples)}
        pairs = sum(map(len, by_scene.values()))
        if scored and pairs >= ENOUGH_PAIRS * len(scored):
            scenes = balanced(by_class(in_dist, [there[s] for s in by_scene]), request.cam_images, seed)
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
        ours, theirs = by_class(in_dist, list(there.values())), by_class(probe, scored)
        shared = sorted(set(ours) & set(theirs))
        if shared:
            one, other = (balanced({c: side[c] for c in shared}, request.cam_images, seed) for side in (ours, theirs))
            found.append(Comparison(info.name, False, tuple(there[s] for s in one), tuple(place[s] for s in other)))
    return found


def answered(evidence: Evidence, images: ImageSet) -> list[int]:
    """Places of the images that every model has an answer to."""
    known = set.intersection(*(set(evidence.predictions[m.name, images.name].ids) for m in evidence.models))
    return [i for i, s in enumerate(images.samples) if s.label is not None and s.id in known]


def by_class(images: ImageSet, places: Sequence[int]) -> dict[str, list[str]]:
    """Ids of the labelled images at these places, by class name."""
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
    """Make and measure the maps of every model on every comparison's images."""
    compared = comparisons(evidence, request, runtime.seed)
    home = evidence.images[evidence.in_dist.name]
    refused: dict[str, str] = {}
    result = Gathered(compared, {}, {}, refused, [])
    work: list[tuple[ImageSet, Comparison | None, list[int]]] = [
        (home, None, sorted({i for c in compared for i in c.in_dist}, key=lambda i: home.samples[i].id))
    ]
    work += [(evidence.images[c.probe], c, list(c.images)) for c in compared]
    seen = _seen(evidence, work, runtime, result.skipped)
    batches = [
        (images, c, there[start : start + (runtime.batch_size or BATCH)])
        for images, c, places in work
        for there in ([i for i in places if (images.name, i) in seen],)
        for start in range(0, len(there), runtime.batch_size or BATCH)
    ]
    for name, network in evidence.networks.items():
        was = next((p.device for p in network.module.parameters()), torch.device("cpu"))
        try:
            depths = depths_of(network, runtime)
            for images, comparison, places in runtime.progress(batches, f"explaining {name}", unit="batch"):
                pixels = torch.stack([seen[images.name, i][_geometry(network)] for i in places])
                _measure(network, depths, images, comparison, places, pixels, request, runtime, result)
        except (DepthError, ModelError) as err:
            refused[name] = str(err).partition("\n")[0]
            result.in_dist.pop(name, None)
        finally:
            network.module.to(was)
            if name in result.in_dist:
                result.in_dist[name].ranks.clear()
    return result


def _geometry(network: LoadedModel) -> tuple[object, ...]:
    """Models with the same one see the same pixels."""
    p = network.preprocess
    return p.input_size, p.interpolation, p.crop_pct, p.crop_mode


def _seen(
    evidence: Evidence,
    work: Sequence[tuple[ImageSet, Comparison | None, Sequence[int]]],
    runtime: Runtime,
    skipped: list[Skipped],
) -> dict[tuple[str, int], dict[tuple[object, ...], Tensor]]:
    """By set and place what networks see of an image, uint8 (3, h, w), once per geometry; each is decoded once."""
    geometries = {_geometry(n): n.preprocess for n in evidence.networks.values()}
    found: dict[tuple[str, int], dict[tuple[object, ...], Tensor]] = {}
    for images, _, places in work:
        for k, pixels in decoded(images.subset(places), runtime=runtime):
            if isinstance(pixels, Skipped):
                skipped.append(pixels)
            else:
                found[images.name, places[k]] = {g: to_pixels(p, pixels) for g, p in geometries.items()}
    return found


def _measure(
    network: LoadedModel,
    depths: Depths,
    images: ImageSet,
    comparison: Comparison | None,
    places: Sequence[int],
    pixels: Tensor,
    request: Request,
    runtime: Runtime,
    result: Gathered,
) -> None:
    """Explain one batch of one set and add what is measured to the result."""
    device = runtime.torch_device()
    x = normalised(network.preprocess, pixels.to(device))
    targets, unknown = _targets(network, images, places, request, device)
    with runtime.autocast():
        e = explain(network.module, x, layers="stages", targets=targets, method=request.cam_method, depths=depths)
    statuses = [list(map(str, row[0])) for row in e.statuses()]
    for n in unknown:
        statuses[n] = ["class unknown to the model"] * len(e.depths)
    sound = torch.tensor([[s == "ok" for s in row] for row in statuses], device=device).T  # (D, N)
    height, width = e.input_size
    heat, small = (
        torch.where(sound[..., None, None], e.heatmaps(size)[:, 0].transpose(0, 1), torch.nan)  # (D, N, H, W)
        for size in (None, (min(COMPARED, height), min(COMPARED, width)))
    )
    values = _of_one(network, images, places, heat, small)
    ranks = _ranks(small)
    if comparison is None:
        own = result.in_dist.setdefault(network.name, Measured(e.depths))
        for d, rows in enumerate(ranks):
            if len(own.ranks) <= d:
                own.ranks.append([])
            own.ranks[d].extend(rows)
    else:
        own = result.probes.setdefault((network.name, comparison.probe), Measured(e.depths))
        if comparison.paired:
            values |= _of_pairs(result.in_dist[network.name], comparison, places, values, ranks)
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


def _of_one(
    network: LoadedModel, images: ImageSet, places: Sequence[int], heat: Tensor, small: Tensor
) -> dict[str, Tensor]:
    """Per measure (D, N); ``small`` is ``heat`` on fewer cells."""
    masks = [images.mask(i) for i in places]
    nothing = np.zeros(heat.shape[-2:], dtype=bool)
    stacked = torch.stack(
        [torch.from_numpy(nothing) if m is None else network_mask(network.preprocess, m) for m in masks]
    ).to(heat.device)
    on_object, covers = energy(heat, stacked), area(stacked).expand(heat.shape[:2])
    x, y = shape.centre(small)
    return {
        "energy": on_object,
        "object": torch.where(torch.isnan(on_object), torch.nan, covers),
        "excess": on_object - covers,
        "entropy": shape.entropy(small),
        "spread": shape.spread(small),
        "centre-x": x,
        "centre-y": y,
    }


def _of_pairs(
    before: Measured, comparison: Comparison, places: Sequence[int], values: Mapping[str, Tensor], ranks: np.ndarray
) -> dict[str, Tensor]:
    """Per measure (D, N): each map against the map of the same scene in distribution."""
    partner = dict(zip(comparison.images, comparison.in_dist, strict=True))
    place = {i: n for n, i in enumerate(before.images)}
    rows = [place.get(partner[i], -1) for i in places]  # -1: its image could not be read again
    x, y = (values[name].double().cpu().numpy() for name in ("centre-x", "centre-y"))
    shift, alike = np.full(x.shape, np.nan), np.full(x.shape, np.nan)
    for n, row in enumerate(rows):
        if row >= 0:
            old_x, old_y = before.values["centre-x"][row], before.values["centre-y"][row]
            shift[:, n] = np.hypot(x[:, n] - old_x, y[:, n] - old_y)
            alike[:, n] = [ranks[d, n] @ before.ranks[d][row] for d in range(len(x))]
    return {"centre-shift": torch.from_numpy(shift), "map-similarity": torch.from_numpy(alike.clip(-1, 1))}


def _ranks(small: Tensor) -> np.ndarray:
    """(D, N, cells): ranks of each map's cells, ties at their mean rank, so scaled that a product is Spearman's rho."""
    flat = small.flatten(2).cpu().numpy()
    ranks = rankdata(flat, axis=2).astype(np.float32)  # NaN where there is no map
    ranks -= ranks.mean(axis=2, keepdims=True)
    length = np.linalg.norm(ranks, axis=2, keepdims=True)
    return np.divide(ranks, length, out=np.full_like(ranks, np.nan), where=length > 0)


def _pooled(e: Explanation, sound: Tensor) -> Iterator[Tensor]:
    """Per depth (N, cells): the positive part on at most 16 by 16 cells, of sum 1; NaN where there is no map."""
    for m, ok in zip(e.maps, sound, strict=True):
        positive = torch.nan_to_num(m[:, :1].float(), nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0)
        size = min(m.shape[2], CELLS), min(m.shape[3], CELLS)
        flat = F.adaptive_avg_pool2d(positive, size).flatten(1)
        yield torch.where(ok[:, None], flat / flat.sum(1, keepdim=True), torch.nan)
