"""Evaluate: is the map true? Every measure of every method at every depth of every model, and what to make of it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor, nn

from gradlens.cam import faithfulness, localisation  # noqa: F401  (these register measures)
from gradlens.cam.engine import Explanation, at_the_pixels, explain_all
from gradlens.cam.localisation import network_mask
from gradlens.cam.measures import MEASURES as MEASURES  # with all of them registered
from gradlens.cam.measures import mean_interval, random_heat
from gradlens.cam.methods import METHODS
from gradlens.cam.sanity import randomisation, survives
from gradlens.cam.twins import TwinAnswer, tell_apart
from gradlens.data import probe_sets
from gradlens.data.preprocess import to_tensor
from gradlens.data.sources import ImageSet, decoded, open_source
from gradlens.depths.find import Depths
from gradlens.errors import InputError, ModelError
from gradlens.figures.cam_scores import cam_scores
from gradlens.figures.style import save
from gradlens.records import CamScore, HookPoint, LoadedModel, Skipped
from gradlens.runtime import Runtime, versions
from gradlens.shift.tables import SKIPPED, skipped_rows, write_csv
from gradlens.workflows.run_folder import RunFolder
from gradlens.workflows.see import depths_of
from gradlens.workflows.see.pictures import one_per_class
from gradlens.zoo import checkpoints

BATCH = 8  # images whose maps of all methods and depths are in memory at once
RANDOM = "random"  # the row of maps that know nothing
SANITY_IMAGES = 8  # randomisation explains every image again at every level
# What the ranking of `trust.csv` rests on: does the model agree with the map? Masks have no say in it: of a model that
# reads the background, a map that lies on the object is a wrong map.
RANKED = ("insertion", "deletion", "road")
MOST_UNDEFINED = 0.1  # a map that is blank for more images than this share is not one to rely on


@dataclass(frozen=True)
class EvaluateRequest:
    """What ``gradlens cam --evaluate`` was asked for; see its options.

    Attributes:
        methods: registered names; all of them if empty.
        measures: registered names; all of them if empty.
        twins: a collection that holds, under the same names, the models' twins trained without the shortcut.
    """

    models: Sequence[str]
    layers: Sequence[str] = ("stages",)
    methods: Sequence[str] = ()
    measures: Sequence[str] = ()
    data: str | None = None
    n: int = 32
    twins: str | None = None
    formats: Sequence[str] = ("png",)
    dpi: int = 300
    zoo: Path | None = None
    weights: str | None = None
    classes: int | None = None


@dataclass(frozen=True)
class Randomised:
    """How alike maps stay while the network is filled with random weights from the logits down (Adebayo et al. 2018).

    Attributes:
        level: ``"trained"``, ``"after <depth>"``: everything behind that depth is random; ``"all"``.
        share: of the parameters that are random, in 0..1.
        n: images with a defined value.
        spearman, ssim: similarity to the trained network's raw maps, mean over images; ``_absolute``: of their absolute
            values.
        verdict: of the method at this depth: ``survives`` (the same map whatever the weights are: it shows the image
            or the architecture), ``depends on the weights``, ``undecided``.
    """

    model: str
    method: str
    depth: str
    level: str
    share: float
    n: int
    spearman: float
    spearman_absolute: float
    ssim: float
    ssim_absolute: float
    verdict: str


@dataclass(frozen=True)
class TwinVerdict:
    """Which of two twins learnt the background, told from their maps alone (:mod:`gradlens.cam.twins`).

    Attributes:
        depth: the hook point's name; stage: its place among the depths that were looked at, from 1.
        answer: the one that is said to read the background, or ``undecided``.
        hit: whether it is the one that was trained with the shortcut; ``None`` where undecided.
        energy_model, energy_twin: share of the map on the object, mean over images; energy_p: of their difference.
        movement_model, movement_twin: how far the map moves when only the background changes; movement_p likewise.
    """

    model: str
    twin: str
    method: str
    depth: str
    stage: int
    answer: str
    hit: bool | None
    energy_model: float
    energy_twin: float
    energy_p: float
    movement_model: float
    movement_twin: float
    movement_p: float


@dataclass(frozen=True)
class Trust:
    """How one method at one depth of a model stands among all others there.

    Attributes:
        mean_rank: over the ranked measures, 1 is best.
        verdict: of randomisation; a map that ``survives`` it is not to be trusted whatever its rank.
        undefined: share of the images without a value.
    """

    model: str
    method: str
    depth: str
    mean_rank: float
    verdict: str
    undefined: float


@dataclass
class EvaluateRun:
    """What a run left."""

    folder: Path
    n: int = 0
    data: str = ""
    scores: list[CamScore] = field(default_factory=list)
    randomised: list[Randomised] = field(default_factory=list)
    trust: list[Trust] = field(default_factory=list)
    verdicts: list[TwinVerdict] = field(default_factory=list)
    figures: list[Path] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "data": self.data,
            "n": self.n,
            "scores": [_plain(asdict(s)) for s in self.scores],
            "randomisation": [_plain(asdict(r)) for r in self.randomised],
            "trust": [_plain(asdict(t)) for t in self.trust],
            "twins": [_plain(asdict(v)) for v in self.verdicts],
            "figures": [str(p) for p in self.figures],
            "skipped": [asdict(s) for s in self.skipped],
        }


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


@dataclass(frozen=True)
class _Scenes:
    """Images as one model's input.

    Attributes:
        x: (N, 3, H, W); masks: bool (N, H, W), or ``None`` where the set has none.
    """

    ids: tuple[str, ...]
    x: Tensor
    masks: Tensor | None

    def batches(self) -> Iterator[_Scenes]:
        for i in range(0, len(self.ids), BATCH):
            part = slice(i, i + BATCH)
            yield _Scenes(self.ids[part], self.x[part], None if self.masks is None else self.masks[part])

    def first(self, n: int) -> _Scenes:
        return _Scenes(self.ids[:n], self.x[:n], None if self.masks is None else self.masks[:n])


def evaluate(request: EvaluateRequest, runtime: Runtime, folder: Path) -> EvaluateRun:
    """Measure the maps of all asked models, methods and depths on images of one set; write tables and figures."""
    started = time.perf_counter()
    methods = list(request.methods) or list(METHODS)
    measures = list(request.measures) or list(MEASURES)
    for name in methods:
        METHODS[name]  # an unknown name is refused before anything is computed
    for name in measures:
        MEASURES[name]
    names = checkpoints.expand(request.models, request.zoo)
    models = [_load(name, request, runtime) for name in names]
    images = _images(request, models, runtime)
    run = EvaluateRun(folder, data=images.name)
    pixels = _decoded(images, run, runtime)
    run.n = len(pixels)
    usable: dict[str, list[str]] = {}
    with RunFolder(folder) as place:
        for model in runtime.progress(models, "models", unit="model"):
            scenes = _scenes(model, images, pixels, runtime)
            depths = depths_of(model, runtime)
            own = usable[model.name] = _usable(model, scenes, depths, methods, run, runtime)
            run.scores += _measured(model, scenes, depths, request, own, measures, runtime)
            run.randomised += _randomised(model, scenes.first(SANITY_IMAGES), depths, request, own, runtime)
            run.trust = _trust(run.scores, run.randomised)
            _tables(run, place)
        if request.twins:
            run.verdicts = _twins(models, images, pixels, usable, request, run, runtime)
            _tables(run, place)
        _write(run, request, models, place, runtime, started)
    return run


def _load(name: str, request: EvaluateRequest, runtime: Runtime) -> LoadedModel:
    model = checkpoints.load(
        name, zoo=request.zoo, weights=request.weights, classes=request.classes, offline=runtime.offline
    )
    model.module.to(runtime.torch_device())
    return model


def _images(request: EvaluateRequest, models: Sequence[LoadedModel], runtime: Runtime) -> ImageSet:
    """``n`` images of the asked set, or of the models' own test set, spread over the classes."""
    name = request.data
    if name is None:
        tests = {str(m.card.get("test", "")) for m in models}
        name = tests.pop() if len(tests) == 1 else ""
        if not name or name not in probe_sets.known():
            raise InputError("these models have no common test set here to take images from; give --data")
    whole = open_source(name, offline=runtime.offline, runtime=runtime)
    return whole.subset(one_per_class(whole, request.n))


def _decoded(images: ImageSet, run: EvaluateRun, runtime: Runtime) -> dict[int, np.ndarray]:
    pixels: dict[int, np.ndarray] = {}
    run.skipped += images.skipped
    for i, one in decoded(images, runtime.workers):
        if isinstance(one, Skipped):
            run.skipped.append(one)
            runtime.say(f"skipped {one.path}: {one.reason}")
        else:
            pixels[i] = one
    if not pixels:
        raise InputError(f"expected at least one readable image in {images.name}, got none")
    return pixels


def _scenes(model: LoadedModel, images: ImageSet, pixels: Mapping[int, np.ndarray], runtime: Runtime) -> _Scenes:
    device = runtime.torch_device()
    x = torch.stack([to_tensor(model.preprocess, p) for p in pixels.values()]).to(device)
    masks = [images.mask(i) for i in pixels]
    whole = [m for m in masks if m is not None]
    if len(whole) < len(masks):
        if whole:
            runtime.say(f"{images.name}: {len(masks) - len(whole)} of {len(masks)} images have no mask; none is used")
        return _Scenes(tuple(images.samples[i].id for i in pixels), x, None)
    shaped = torch.stack([network_mask(model.preprocess, m) for m in whole]).to(device)
    return _Scenes(tuple(images.samples[i].id for i in pixels), x, shaped)


def _usable(
    model: LoadedModel, scenes: _Scenes, depths: Depths, methods: Sequence[str], run: EvaluateRun, runtime: Runtime
) -> list[str]:
    """The methods that this network has; the others are listed with their reason."""
    usable = []
    for name in methods:
        try:
            explain_all(model.module, scenes.x[:1], layers="last", methods=[name], depths=depths)
        except ModelError as err:
            reason = str(err).partition("\n")[0]
            run.skipped.append(Skipped(f"{model.name} × {name}", reason))
            runtime.say(f"{model.name}: {name} is left out: {reason}")
        else:
            usable.append(name)
    if not usable:
        raise ModelError(f"{model.name} has none of the asked methods: {', '.join(methods)}")
    return usable


def _columns(explanations: Sequence[Explanation]) -> list[tuple[str, HookPoint]]:
    return [(e.method, point) for e in explanations for point in e.depths]


def _heat(explanations: Sequence[Explanation]) -> Tensor:
    """(M, N, H, W) in 0..1 of the first target, one per method and depth."""
    return torch.cat([e.heatmaps()[:, 0].transpose(0, 1) for e in explanations])


def _measured(
    model: LoadedModel,
    scenes: _Scenes,
    depths: Depths,
    request: EvaluateRequest,
    methods: Sequence[str],
    measures: Sequence[str],
    runtime: Runtime,
) -> list[CamScore]:
    """The mean of every measure for every method and depth, and for maps that know nothing."""
    values: dict[str, list[Tensor]] = {}
    chances: dict[str, list[Tensor]] = {}
    columns: list[tuple[str, HookPoint]] = []

    def heat_of(x: Tensor, targets: Tensor) -> Tensor:
        found = explain_all(model.module, x, layers=request.layers, methods=methods, targets=targets, depths=depths)
        columns[:] = [*_columns(found), (RANDOM, at_the_pixels((x.shape[2], x.shape[3])))]
        return torch.cat([_heat(found), random_heat(x)[None]])

    batches = list(scenes.batches())
    for batch in runtime.progress(batches, f"{model.name} measures", unit="batch"):
        with torch.no_grad():
            targets = explain_all(model.module, batch.x, layers="last", depths=depths)[0].targets[:, 0]
        heat = heat_of(batch.x, targets)
        for name in measures:
            m = MEASURES[name]
            if m.needs == "mask":
                if batch.masks is None:
                    continue
                got = m.function(heat, batch.masks)
                if m.chance is not None:
                    chances.setdefault(name, []).append(m.chance(batch.masks))
            elif m.needs == "model":
                got = m.function(model.module, batch.x, targets, heat)
            else:
                got = m.function(heat_of, batch.x, targets)
            values.setdefault(name, []).append(got.detach().float().cpu())
    scores = []
    for name, parts in values.items():
        table = torch.cat(parts, 1).numpy()
        chance = float(torch.cat(chances[name]).double().mean()) if name in chances else math.nan
        for (method, point), row in zip(columns, table, strict=True):
            mean, low, high = mean_interval(row, seed=runtime.seed)
            defined = int(np.isfinite(row).sum())
            scores.append(
                CamScore(
                    model.name,
                    method,
                    point.name,
                    point.position,
                    name,
                    defined,
                    len(row) - defined,
                    mean,
                    low,
                    high,
                    chance,
                )
            )
    return scores


def _randomised(
    model: LoadedModel,
    scenes: _Scenes,
    depths: Depths,
    request: EvaluateRequest,
    methods: Sequence[str],
    runtime: Runtime,
) -> list[Randomised]:
    """The similarity curve of every method and depth under cascading randomisation, and whether the map survives."""
    targets = explain_all(model.module, scenes.x, layers="last", depths=depths)[0].targets[:, 0]
    points = depths.select(request.layers)
    columns: list[tuple[str, HookPoint]] = []
    levels = runtime.progress(range(len(points) + 2), f"{model.name} randomisation", unit="level")
    steps = iter(levels)

    def maps(module: nn.Module) -> Tensor:
        next(steps, None)
        found = explain_all(module, scenes.x, layers=request.layers, methods=methods, targets=targets, depths=depths)
        columns[:] = _columns(found)
        size = (scenes.x.shape[2], scenes.x.shape[3])
        return torch.stack(
            [F.interpolate(m[:, :1], size, mode="bilinear", align_corners=False)[:, 0] for e in found for m in e.maps]
        )

    curve = randomisation(model.module, scenes.x, points, maps, seed=runtime.seed)
    rows = []
    for k, (method, point) in enumerate(columns):
        verdict = survives(curve.spearman[:, k]).answer
        for i, (level, share) in enumerate(zip(curve.levels, curve.shares, strict=True)):
            likeness = {
                name: getattr(curve, name)[i, k].double().cpu().numpy()
                for name in ("spearman", "spearman_absolute", "ssim", "ssim_absolute")
            }
            defined = int(np.isfinite(likeness["spearman"]).sum())
            means = {name: mean_interval(values)[0] for name, values in likeness.items()}
            rows.append(
                Randomised(
                    model=model.name,
                    method=method,
                    depth=point.name,
                    level=level,
                    share=share,
                    n=defined,
                    verdict=verdict,
                    **means,
                )
            )
    return rows


def _trust(scores: Sequence[CamScore], randomised: Sequence[Randomised]) -> list[Trust]:
    """Methods and depths of each model by their mean rank over the ranked measures, best first.

    Left out are maps at which a ranked measure has no value at all, and the random row.
    """
    verdicts = {(r.model, r.method, r.depth): r.verdict for r in randomised}
    told = []
    for model in dict.fromkeys(s.model for s in scores):
        ranks: dict[tuple[str, str], list[float]] = {}
        undefined: dict[tuple[str, str], float] = {}
        ranked = [m for m in RANKED if any(s.model == model and s.measure == m for s in scores)]
        for name in ranked:
            own = [s for s in scores if s.model == model and s.measure == name and s.method != RANDOM and s.n]
            sign = -1 if MEASURES[name].better == "higher" else 1
            for s, rank in zip(own, rankdata([sign * s.value for s in own]), strict=True):
                ranks.setdefault((s.method, s.depth), []).append(float(rank))
                share = s.undefined / (s.n + s.undefined)
                undefined[s.method, s.depth] = max(share, undefined.get((s.method, s.depth), 0.0))
        rows = [
            Trust(model, method, depth, float(np.mean(r)), verdicts[model, method, depth], undefined[method, depth])
            for (method, depth), r in ranks.items()
            if len(r) == len(ranked)
        ]
        told += sorted(rows, key=lambda t: (t.verdict == "survives", t.undefined > MOST_UNDEFINED, t.mean_rank))
    return told


# ---------------------------------------------------------------- twins


def _twins(
    models: Sequence[LoadedModel],
    images: ImageSet,
    pixels: Mapping[int, np.ndarray],
    usable: Mapping[str, Sequence[str]],
    request: EvaluateRequest,
    run: EvaluateRun,
    runtime: Runtime,
) -> list[TwinVerdict]:
    """Every model beside its twin: which of the two reads the background?

    Raises:
        InputError: there is no set with the same objects before other backgrounds, or no masks.
    """
    swapped, partners = _swapped(images, pixels, runtime)
    verdicts = []
    for model in runtime.progress(models, "twins", unit="pair"):
        twin_name = f"{request.twins}/{model.name.rpartition('/')[2]}"
        if twin_name not in checkpoints.names(request.zoo):
            run.skipped.append(Skipped(f"{model.name} × twin", f"there is no {twin_name}"))
            runtime.say(f"{model.name}: there is no twin {twin_name}")
            continue
        twin = checkpoints.load(twin_name, zoo=request.zoo, offline=runtime.offline)
        twin.module.to(runtime.torch_device())
        here = _scenes(model, images, pixels, runtime)
        there = _scenes(model, swapped, partners, runtime)
        if here.masks is None:
            raise InputError(f"telling twins apart needs masks of the objects; {images.name} has none")
        maps = [
            _all_heat(m, scenes, request, usable[model.name], runtime)
            for m in (model, twin)
            for scenes in (here, there)
        ]
        for k, (method, point, stage) in enumerate(maps[0][0]):
            a, b, c, d = (heat[k] for _, heat in maps)
            told = tell_apart(a, b, c, d, here.masks.cpu())
            verdicts.append(_verdict(told, model.name, twin_name, method, point.name, stage))
    return verdicts


def _swapped(
    images: ImageSet, pixels: Mapping[int, np.ndarray], runtime: Runtime
) -> tuple[ImageSet, dict[int, np.ndarray]]:
    """The same objects before other backgrounds: their set, and its images in the order of ``pixels``."""
    for name in probe_sets.known():
        manifest = probe_sets.Manifest.read(probe_sets.find(name) / probe_sets.MANIFEST)
        if manifest.paired_with == images.name and manifest.shift == "context":
            whole = open_source(name, runtime=runtime)
            place = {s.pair: i for i, s in enumerate(whole.samples)}
            wanted = [place[images.samples[i].id] for i in pixels]
            subset = whole.subset(wanted)
            return subset, {i: subset.read(i) for i in range(len(wanted))}
    raise InputError(f"no probe set shows the objects of {images.name} before other backgrounds")


def _all_heat(
    model: LoadedModel, scenes: _Scenes, request: EvaluateRequest, methods: Sequence[str], runtime: Runtime
) -> tuple[list[tuple[str, HookPoint, int]], Tensor]:
    """Heat (M, N, H, W) of every method and depth for the predicted class, and what the M are."""
    depths = depths_of(model, runtime)
    parts: list[Tensor] = []
    columns: list[tuple[str, HookPoint, int]] = []
    for batch in scenes.batches():
        found = explain_all(model.module, batch.x, layers=request.layers, methods=methods, depths=depths)
        columns = [(e.method, p, k) for e in found for k, p in enumerate(e.depths, start=1)]
        parts.append(_heat(found).cpu())
    return columns, torch.cat(parts, 1)


def _verdict(told: TwinAnswer, model: str, twin: str, method: str, depth: str, stage: int) -> TwinVerdict:
    answer = {"A": model, "B": twin, "undecided": "undecided"}[told.answer]
    return TwinVerdict(
        model=model,
        twin=twin,
        method=method,
        depth=depth,
        stage=stage,
        answer=answer,
        hit=None if told.answer == "undecided" else told.answer == "A",
        energy_model=told.energy.a,
        energy_twin=told.energy.b,
        energy_p=told.energy.p,
        movement_model=told.movement.a,
        movement_twin=told.movement.b,
        movement_p=told.movement.p,
    )


# ---------------------------------------------------------------- files


def _tables(run: EvaluateRun, place: RunFolder) -> None:
    """What is known so far; written after every model, so that an interrupted run keeps what it has."""
    for name, kind, rows in (
        ("evaluation.csv", CamScore, run.scores),
        ("randomisation.csv", Randomised, run.randomised),
        ("trust.csv", Trust, run.trust),
        ("twins.csv", TwinVerdict, run.verdicts),
    ):
        if rows or name != "twins.csv":
            write_csv(place.file(name), [f.name for f in fields(kind)], [asdict(r) for r in rows])


def _write(
    run: EvaluateRun,
    request: EvaluateRequest,
    models: Sequence[LoadedModel],
    place: RunFolder,
    runtime: Runtime,
    started: float,
) -> None:
    made = {
        "command": "gradlens cam --evaluate",
        "versions": versions(),
        "weights": {m.name: m.weights for m in models},
        "asked": list(request.layers),
        "data": run.data,
        "n": run.n,
        "precision": runtime.precision,
        "device": str(runtime.torch_device()),
        "seed": runtime.seed,
    }
    for measure in dict.fromkeys(s.measure for s in run.scores):
        m = MEASURES[measure]
        own = [s for s in run.scores if s.measure == measure]
        figure = cam_scores(own, title=m.title, better=m.better)
        caption = f"{m.title} of class activation maps on {run.n} images of {run.data} ({m.paper})."
        facts = made | {"caption": caption, "alt": f"Heat map of methods by depths and models: {caption}"}
        stem = run.folder / "figures" / f"cam-scores--{measure}"
        run.figures += [place.add(p) for p in save(figure, stem, request.formats, request.dpi, facts)]
    write_csv(place.file("skipped.csv"), SKIPPED, skipped_rows(run.skipped))
    place.finish({**made, "seconds": time.perf_counter() - started, **run.document()})
