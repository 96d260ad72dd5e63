"""See: where do the models look? Depths of each, maps at the asked ones, grids, raw maps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradlens.cam.engine import explain_all
from gradlens.cam.methods import METHODS
from gradlens.data import probe_sets
from gradlens.data.preprocess import to_tensor, view
from gradlens.data.sources import ImageSet, decoded, images_from_paths, open_source
from gradlens.depths.find import Depths, find_depths
from gradlens.errors import GradlensError, InputError, NotFoundError
from gradlens.figures.cam_grid import Caption, Cell, Column, Row, Scale, cam_grid
from gradlens.figures.style import save
from gradlens.records import CamStack, HookPoint, LoadedModel, Skipped
from gradlens.runtime import Runtime, versions, whole_file
from gradlens.shift.tables import skipped_rows, write_csv
from gradlens.workflows.run_folder import RunFolder
from gradlens.zoo import checkpoints

BATCH = 16  # images per pass when nobody said
Grid = tuple[list[Row], list[Column], str]  # what a page shows, and its title


@dataclass(frozen=True)
class CamRequest:
    """What ``gradlens cam`` was asked for; see its options."""

    models: Sequence[str]
    layers: Sequence[str] = ()
    images: Sequence[Path] = ()
    data: str | None = None
    n: int = 8
    targets: Sequence[str] = ("predicted",)
    methods: Sequence[str] = ("gradcam",)
    scale: Scale = "map"
    formats: Sequence[str] = ("png",)
    dpi: int = 300
    save_maps: bool = False
    zoo: Path | None = None
    weights: str | None = None
    classes: int | None = None


@dataclass(frozen=True)
class Picture:
    """One decoded image with what is known about it."""

    id: str
    path: str
    source: str
    label: str | None
    pixels: np.ndarray


@dataclass(frozen=True)
class Seen:
    """One model's part of a run: its depths and one stack per image, target and method."""

    model: LoadedModel
    points: tuple[HookPoint, ...]
    stacks: tuple[CamStack, ...]
    predictions: tuple[tuple[str, float], ...]  # per image: class and its probability


@dataclass
class CamRun:
    """What a run left: for the printed summary and for ``--json``."""

    folder: Path
    seen: list[Seen] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    figures: list[Path] = field(default_factory=list)
    maps: list[Path] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """The JSON document of INTERFACE: models with their layers, images, figures, maps."""
        return {
            "models": [
                {
                    "name": s.model.name,
                    "layers": [
                        {**layer_fields(p), "status": [stack.statuses[i] for stack in s.stacks]}
                        for i, p in enumerate(s.points)
                    ],
                }
                for s in self.seen
            ],
            "images": [
                {
                    "path": stack_picture.path,
                    "model": s.model.name,
                    "prediction": s.predictions[i][0],
                    "probability": s.predictions[i][1],
                    "target": stack.target[1],
                    "target_probability": stack.probability,
                    "method": stack.method,
                }
                for s in self.seen
                for i, stack_picture, stack in _with_pictures(s, self.pictures)
            ],
            "figures": [str(p) for p in self.figures],
            "maps": [str(p) for p in self.maps],
            "skipped": [{"path": s.path, "reason": s.reason} for s in self.skipped],
        }


def layer_fields(point: HookPoint) -> dict[str, Any]:
    """What JSON says of a depth, the same for ``cam`` and ``layers``."""
    return {
        "name": point.name,
        "path": point.path,
        "stride": list(point.stride),
        "shape": list(point.shape),
        "layout": point.layout,
    }


def _with_pictures(seen: Seen, pictures: Sequence[Picture]) -> Iterator[tuple[int, Picture, CamStack]]:
    per_image = len(seen.stacks) // len(pictures)
    for j, stack in enumerate(seen.stacks):
        yield j // per_image, pictures[j // per_image], stack


def layers(
    models: Sequence[str],
    runtime: Runtime,
    *,
    zoo: Path | None = None,
    weights: str | None = None,
    classes: int | None = None,
) -> list[tuple[LoadedModel, Depths]]:
    """The depths of each model; architectures without weights are looked at with random ones."""
    found = []
    for name in checkpoints.expand(models, zoo):
        model = checkpoints.load(
            name, zoo=zoo, weights=weights or ("random" if _is_foreign(name) else None), classes=classes,
            offline=runtime.offline,
        )  # fmt: skip
        found.append((model, _depths(model, runtime)))
    return found


def _is_foreign(name: str) -> bool:
    return ":" in name


def _depths(model: LoadedModel, runtime: Runtime) -> Depths:
    device = runtime.torch_device()
    model.module.to(device)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((1, *model.preprocess.input_size), generator=generator).to(device)
    return find_depths(model.module, image)


def cam(request: CamRequest, runtime: Runtime, folder: Path) -> CamRun:
    """Maps and grids of all asked models on all asked images, written into ``folder``.

    One model gives images x depths. Several give images x models at the last depth, or, when layers were asked for,
    one page per image of models x depths.
    """
    started = time.perf_counter()
    names = checkpoints.expand(request.models, request.zoo)
    for method in request.methods:
        METHODS[method]  # an unknown name is refused before anything is computed
    run = CamRun(folder)
    several = len(names) > 1
    asked = list(request.layers) or (["last"] if several else ["stages"])
    models = [
        checkpoints.load(n, zoo=request.zoo, weights=request.weights, classes=request.classes, offline=runtime.offline)
        for n in names
    ]
    run.pictures, run.skipped = _pictures(request, models, runtime)
    with RunFolder(folder) as place:
        for model in runtime.progress(models, "models", unit="model"):
            run.seen.append(_see(model, run.pictures, asked, request, runtime))
        made = {
            "command": "gradlens cam",
            "versions": versions(),
            "weights": {m.name: m.weights for m in models},
            "asked": asked,
            "targets": list(request.targets),
            "methods": list(request.methods),
            "scale": request.scale,
            "precision": runtime.precision,
            "device": str(runtime.torch_device()),
            "seed": runtime.seed,
        }
        if not several:
            drawings = [(f"cam--{_file_name(names[0])}", _depth_grid(run.seen[0], run.pictures))]
        elif not request.layers:
            drawings = [("cam--models", _model_grid(run.seen, run.pictures))]
        else:
            drawings = [(f"cam--image-{i + 1:02d}", _image_page(run.seen, p, i)) for i, p in enumerate(run.pictures)]
        for name, grid in runtime.progress(drawings, "figures", unit="figure"):
            run.figures += _draw(folder, request, name, grid, made)
        if request.save_maps:
            run.maps = [_save_maps(folder, s, run.pictures) for s in run.seen]
        for path in (*run.figures, *run.maps):
            place.add(path)
        write_csv(place.file("skipped.csv"), ("path", "reason"), skipped_rows(run.skipped))
        place.finish({**made, "seconds": time.perf_counter() - started, **run.document()})
    return run


def _see(
    model: LoadedModel, pictures: Sequence[Picture], asked: Sequence[str], request: CamRequest, runtime: Runtime
) -> Seen:
    """Every picture through one model."""
    depths = _depths(model, runtime)
    if depths.note:
        runtime.say(f"{model.name}: {depths.note}")
    points = depths.select(asked)
    tensors = torch.stack([to_tensor(model.preprocess, p.pixels) for p in pictures])
    stacks: list[CamStack] = []
    predictions: list[tuple[str, float]] = []
    size = runtime.batch_size or BATCH
    for start in range(0, len(pictures), size):
        some = pictures[start : start + size]

        def targets(logits: torch.Tensor, some: Sequence[Picture] = some) -> torch.Tensor:
            probabilities, best = logits.float().softmax(1).max(1)
            chosen = zip(best.tolist(), probabilities.tolist(), strict=True)
            predictions.extend((model.classes[k], p) for k, p in chosen)
            return _targets(request.targets, logits, [p.label for p in some], model)

        with runtime.autocast():
            explanations = explain_all(
                model.module,
                tensors[start : start + size].to(runtime.torch_device()),
                layers=[p.name for p in points],
                targets=targets,
                methods=request.methods,
                depths=depths,
            )
        per_method = [e.stacks(model.classes, [p.id for p in some], model.name) for e in explanations]
        stacks += [stack for same in zip(*per_method, strict=True) for stack in same]
    return Seen(model, points, tuple(stacks), tuple(predictions))


def _targets(
    specs: Sequence[str], logits: torch.Tensor, labels: Sequence[str | None], model: LoadedModel
) -> torch.Tensor:
    """Class indices (N, T) that the target options mean for these logits (N, K)."""
    columns: list[torch.Tensor] = []
    for spec in specs:
        if spec == "predicted":
            columns.append(logits.argmax(1))
        elif spec == "true":
            columns.append(torch.tensor([_true_class(label, model) for label in labels], device=logits.device))
        elif spec.startswith("top:"):
            if not spec[4:].isdigit() or not 1 <= int(spec[4:]) <= logits.shape[1]:
                raise InputError(f"--target {spec}: expected top:K with K in 1..{logits.shape[1]}")
            columns += list(logits.topk(int(spec[4:]), dim=1).indices.unbind(1))
        else:
            columns.append(torch.full((len(labels),), _class_index(spec, model), device=logits.device))
    return torch.stack(columns, 1)


def _true_class(label: str | None, model: LoadedModel) -> int:
    if label is None:
        raise InputError("--target true: expected labelled images, but these have no labels; use predicted or a class")
    if label not in model.classes:
        raise NotFoundError(f"class of {model.name}", label, model.classes)
    return model.classes.index(label)


def _class_index(spec: str, model: LoadedModel) -> int:
    if spec in model.classes:
        return model.classes.index(spec)
    if spec.isdigit() and int(spec) < len(model.classes):
        return int(spec)
    raise NotFoundError(f"class of {model.name}", spec, model.classes)


def _pictures(
    request: CamRequest, models: Sequence[LoadedModel], runtime: Runtime
) -> tuple[list[Picture], list[Skipped]]:
    """The images to look at: those named, or n of a source, or by default one per class of the models' own data."""
    if request.images:
        sets = [images_from_paths(request.images)]
    elif request.data:
        whole = open_source(request.data, offline=runtime.offline, runtime=runtime)
        sets = [whole.subset(_one_per_class(whole, request.n))]
    else:
        sets = list(own_examples(models, runtime, request.n))
    pictures, skipped = [], [s for one in sets for s in one.skipped]
    for one in sets:
        for remark in one.remarks:
            runtime.say(f"{one.name}: {remark}")
        for i, pixels in decoded(one, runtime=runtime):
            if isinstance(pixels, Skipped):
                skipped.append(pixels)
                continue
            label = one.samples[i].label
            named = one.classes[label] if label is not None and one.classes else None
            pictures.append(Picture(one.samples[i].id, one.path(i), one.name, named, pixels))
    for s in skipped:
        runtime.say(f"skipped {s.path}: {s.reason}")
    if not pictures:
        raise InputError(f"expected at least one readable image, got none of {len(skipped)}")
    # the same scene in distribution and shifted belongs together
    return _interleaved(pictures, sets) if len(sets) == 2 and not skipped else pictures, skipped


def _interleaved(pictures: list[Picture], sets: Sequence[ImageSet]) -> list[Picture]:
    first, second = pictures[: len(sets[0])], pictures[len(sets[0]) :]
    return [p for pair in zip(first, second, strict=True) for p in pair]


def _one_per_class(images: ImageSet, n: int) -> list[int]:
    """``n`` images, spread evenly over the classes, in the set's order; the first ``n`` where unlabelled."""
    if images.classes is None:
        return list(range(min(n, len(images))))
    by_class: dict[int, list[int]] = {}
    for i, label in enumerate(images.labels.tolist()):
        by_class.setdefault(label, []).append(i)
    turns = max(map(len, by_class.values()), default=0)
    in_turn = [members[t] for t in range(turns) for members in by_class.values() if t < len(members)]
    return sorted(in_turn[:n])


def own_examples(models: Sequence[LoadedModel], runtime: Runtime, n: int) -> tuple[ImageSet, ImageSet]:
    """One image of each of ``n`` classes from the models' own test set, and the same scenes from the probe set that
    mixes all shifts.

    Raises:
        InputError: the models' cards name no test set that is at hand, or not all the same.
    """
    tests = {str(m.card.get("test", "")) for m in models}
    name = tests.pop() if len(tests) == 1 else ""
    if not name or name not in probe_sets.known():
        raise InputError("these models have no common test set here to take images from; give --image or --data")
    test = open_source(name, runtime=runtime)
    paired = [open_source(p, runtime=runtime) for p in probe_sets.known() if p != name and _is_paired(p, name)]
    if not paired:
        raise InputError(f"no probe set is paired with {name}; give --image or --data")
    probe = next((p for p in paired if p.shift == "internet"), paired[-1])
    partners = {s.pair: i for i, s in enumerate(probe.samples)}
    chosen: dict[int, int] = {}
    for i, sample in enumerate(test.samples):
        if sample.label is not None and sample.label not in chosen and sample.id in partners:
            chosen[sample.label] = i
    indices = list(chosen.values())[:n]
    return test.subset(indices), probe.subset([partners[test.samples[i].id] for i in indices])


def _is_paired(name: str, with_set: str) -> bool:
    manifest = probe_sets.Manifest.read(probe_sets.find(name) / probe_sets.MANIFEST)
    return manifest.paired_with == with_set


def _caption(prediction: tuple[str, float], label: str | None) -> Caption:
    name, probability = prediction
    correct = None if label is None else name == label
    return Caption(f"{name} {100 * probability:.0f}%", correct)


def _depth_grid(seen: Seen, pictures: Sequence[Picture]) -> Grid:
    """Images x depths of one model; a row per target and method where there are several."""
    rows = []
    several_methods = len({s.method for s in seen.stacks}) > 1
    several_targets = len(seen.stacks) > len(pictures) * len({s.method for s in seen.stacks})
    for i, picture, stack in _with_pictures(seen, pictures):
        about = [picture.source]
        if several_targets:
            about.append(f"→ {stack.target[1]}")
        if several_methods:
            about.append(stack.method)
        rows.append(
            Row(
                view=view(seen.model.preprocess, picture.pixels),
                name=picture.label or Path(picture.id).name,
                source=" · ".join(about[-2:]),
                cells=[Cell(m, s) for m, s in zip(stack.maps, stack.statuses, strict=True)],
                image=picture.path,
                caption=_caption(seen.predictions[i], picture.label),
            )
        )
    columns = [Column(p.name, f"stride {p.stride_text}") for p in seen.points]
    methods = ", ".join(dict.fromkeys(s.method for s in seen.stacks))
    return rows, columns, f"{seen.model.name} · {methods}"


def _model_grid(seen: Sequence[Seen], pictures: Sequence[Picture]) -> Grid:
    """Images x models at the last depth: every cell its own prediction; the first target and method."""
    per_image = len(seen[0].stacks) // len(pictures)
    rows = [
        Row(
            view=view(seen[0].model.preprocess, picture.pixels),
            name=picture.label or Path(picture.id).name,
            source=picture.source,
            cells=[
                Cell(
                    s.stacks[i * per_image].maps[-1],
                    s.stacks[i * per_image].statuses[-1],
                    _caption(s.predictions[i], picture.label),
                )
                for s in seen
            ],
            image=picture.path,
        )
        for i, picture in enumerate(pictures)
    ]
    columns = [Column(_short_name(s.model.name), s.points[-1].name) for s in seen]
    return rows, columns, f"{seen[0].stacks[0].method} at the last depth with a gradient"


def _short_name(name: str) -> str:
    return name.rpartition("/")[2]


def _image_page(seen: Sequence[Seen], picture: Picture, i: int) -> Grid:
    """Models x depths of one image."""
    most = max(len(s.points) for s in seen)
    rows = []
    for s in seen:
        per_image = len(s.stacks) // len(s.predictions)
        stack = s.stacks[i * per_image]
        cells: list[Cell | None] = [
            Cell(m, status, Caption(p.name)) for m, status, p in zip(stack.maps, stack.statuses, s.points, strict=True)
        ]
        rows.append(
            Row(
                view=view(s.model.preprocess, picture.pixels),
                name=_short_name(s.model.name),
                source=stack.method,
                cells=cells + [None] * (most - len(cells)),
                image=picture.path,
                caption=_caption(s.predictions[i], picture.label),
            )
        )
    columns = [Column(f"depth {k + 1}") for k in range(most)]
    return rows, columns, f"{picture.label or Path(picture.id).name} · {picture.source} · shallow to deep"


def _draw(folder: Path, request: CamRequest, name: str, grid: Grid, provenance: dict[str, Any]) -> list[Path]:
    rows, columns, title = grid
    provenance = provenance | {
        "caption": title,
        "alt": f"Class activation maps: {title}. Rows: {', '.join(dict.fromkeys(row.name for row in rows))}. "
        f"Columns: the image, {', '.join(column.name for column in columns)}.",
    }
    pages = cam_grid(rows, columns, title=title, scale=request.scale)
    stems = [name] if len(pages) == 1 else [f"{name}-{i}" for i in range(1, len(pages) + 1)]
    written = []
    for stem, page in zip(stems, pages, strict=True):
        written += save(page, folder / "figures" / stem, request.formats, request.dpi, provenance)
    return written


def _save_maps(folder: Path, seen: Seen, pictures: Sequence[Picture]) -> Path:
    """Raw maps as ``.npz``: one array (stacks, rows, columns) per depth, and what the stacks are, row by row."""
    arrays: dict[str, np.ndarray] = {
        p.name: np.stack([s.maps[i] for s in seen.stacks]) for i, p in enumerate(seen.points)
    }
    rows = list(_with_pictures(seen, pictures))
    arrays["stacks.image"] = np.array([p.path for _, p, _ in rows])
    arrays["stacks.target"] = np.array([s.target[1] for _, _, s in rows])
    arrays["stacks.method"] = np.array([s.method for _, _, s in rows])
    path = folder / "maps" / f"{_file_name(seen.model.name)}.npz"
    with whole_file(path) as part:
        np.savez_compressed(part, **arrays)  # type: ignore[arg-type]
    return path


def _file_name(model: str) -> str:
    name = model.replace("/", "--").replace(":", "-").strip(".-")
    if not name:
        raise GradlensError(f"cannot name a file after the model {model!r}")
    return name
