"""See: where do the models look? Depths of each, maps at the asked ones, grids, raw maps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gradlens.cam.derived import Channels, outline, strongest_channels
from gradlens.cam.engine import Explanation, at_the_pixels, explain, explain_all
from gradlens.cam.fast import compare, fast_copy
from gradlens.cam.methods import METHODS, Method
from gradlens.cam.targets import Contrast, Targets
from gradlens.data.preprocess import to_tensor
from gradlens.data.sources import ImageSet
from gradlens.depths.capture import Score, capture
from gradlens.depths.find import Depths, find_depths
from gradlens.errors import InputError, ModelError
from gradlens.figures.style import save
from gradlens.records import CamStack, LoadedModel, MapStatus, Skipped
from gradlens.report import page
from gradlens.runtime import Runtime, versions, whole_file
from gradlens.shift.tables import skipped_rows, write_csv
from gradlens.workflows.run_folder import RunFolder
from gradlens.workflows.see.pages import Drawing, drawings, file_name
from gradlens.workflows.see.pictures import Picture, chosen_sets, pictures
from gradlens.workflows.see.run import CamRequest, CamRun, Seen, SeenImage, layer_fields
from gradlens.workflows.see.targets import CONTRAST, Labels, asks
from gradlens.zoo import checkpoints

__all__ = ["CamRequest", "CamRun", "Seen", "SeenImage", "cam", "layer_fields", "layers", "methods"]

BATCH = 16  # images per pass when nobody said


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
        found.append((model, depths_of(model, runtime)))
    return found


def methods() -> list[Method]:
    """Every way to make maps."""
    return list(METHODS.values())


def _is_foreign(name: str) -> bool:
    return ":" in name


def depths_of(model: LoadedModel, runtime: Runtime) -> Depths:
    """The depths of a loaded model at its own input size; the model is on the run's device from here on."""
    device = runtime.torch_device()
    model.module.to(device)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((1, *model.preprocess.input_size), generator=generator).to(device)
    return find_depths(model.module, image)


def cam(request: CamRequest, runtime: Runtime, folder: Path) -> CamRun:
    """Maps and figures of all asked models on all asked images, written into ``folder``.

    Images are read and explained batch by batch; of each, the raw maps and a small picture are kept.
    """
    started = time.perf_counter()
    names = checkpoints.expand(request.models, request.zoo)
    request = replace(request, methods=tuple(dict.fromkeys(request.methods)))
    _check(request)
    run = CamRun(folder, request)
    asked = list(request.layers) or (["last"] if len(names) > 1 else ["stages"])
    models = [
        checkpoints.load(n, zoo=request.zoo, weights=request.weights, classes=request.classes, offline=runtime.offline)
        for n in names
    ]
    sets = chosen_sets(request.images, request.data, request.n, models, runtime)
    for one in sets:
        for remark in one.remarks:
            runtime.say(f"{one.name}: {remark}")
    with RunFolder(folder) as place:
        viewers = [_viewer(model, asked, request, runtime) for model in models]
        run.seen = [viewer.seen for viewer in viewers]
        for batch in _batches(sets, run, runtime):
            for viewer in viewers:
                viewer.look(batch)
        if not run.pictures:
            raise InputError(f"expected at least one readable image, got none of {len(run.skipped)}")
        made = {
            "command": "gradlens cam",
            "versions": versions(),
            "weights": {m.name: m.weights for m in models},
            "asked": asked,
            "targets": list(request.targets),
            "methods": list(request.methods),
            "scale": request.scale,
            "precision": runtime.precision,
            "fast": request.fast,
            "device": str(runtime.torch_device()),
            "seed": runtime.seed,
        }
        if request.outline:
            made |= {"outline": request.outline, "threshold": request.threshold}
        for drawing in runtime.progress(drawings(run.seen, request), "figures", unit="figure"):
            run.figures += _draw(folder, request, drawing, made)
        if request.save_maps:
            run.maps = [path for seen in run.seen for path in _save_maps(folder, seen)]
        for path in (*run.figures, *run.maps):
            place.add(path)
        write_csv(place.file("skipped.csv"), ("path", "reason"), skipped_rows(run.skipped))
        told = {**made, "seconds": time.perf_counter() - started, **run.document()}
        place.add(page.build(place.path, told | {"files": place.files}))
        place.finish(told)
    return run


def _check(request: CamRequest) -> None:
    """What can be refused before anything is computed."""
    for name in request.methods:
        chosen = METHODS[name]
        if chosen.needs == "model" and any(target.startswith(CONTRAST) for target in request.targets):
            raise InputError(
                f"{chosen.title} explains one class at a time, so it cannot contrast two; "
                "use a method over gradients, such as gradcam, or two --target"
            )
    if not 0 < request.threshold <= 1:
        raise InputError(f"expected a threshold above 0 and at most 1, got {request.threshold:g}")


def _batches(sets: Sequence[ImageSet], run: CamRun, runtime: Runtime) -> Iterator[list[tuple[Picture, np.ndarray]]]:
    """Images with their pixels, some at a time; notes in ``run`` which there are and which cannot be read."""
    batch: list[tuple[Picture, np.ndarray]] = []
    total = sum(map(len, sets))
    for one in runtime.progress(pictures(sets, runtime), "images", total=total, unit="image"):
        if isinstance(one, Skipped):
            runtime.say(f"skipped {one.path}: {one.reason}")
            run.skipped.append(one)
            continue
        run.pictures.append(one[0])
        batch.append(one)
        if len(batch) == (runtime.batch_size or BATCH):
            yield batch
            batch = []
    if batch:
        yield batch


def _viewer(model: LoadedModel, asked: Sequence[str], request: CamRequest, runtime: Runtime) -> _Viewer:
    depths = depths_of(model, runtime)
    if depths.note:
        runtime.say(f"{model.name}: {depths.note}")
    seen = Seen(model, depths.select(asked), tuple(asks(request.targets, model)))
    module = model.module
    if request.fast:
        generator = torch.Generator().manual_seed(0)
        image = torch.randn((1, *model.preprocess.input_size), generator=generator).to(runtime.torch_device())
        module = fast_copy(module, image, seen.points, runtime.dtype()).module
    return _Viewer(seen, depths, request, runtime, module)


@dataclass(frozen=True)
class _Viewer:
    """One model at work; ``module`` is what runs: the model's own, or a faster copy of it."""

    seen: Seen
    depths: Depths
    request: CamRequest
    runtime: Runtime
    module: nn.Module

    def look(self, batch: Sequence[tuple[Picture, np.ndarray]]) -> None:
        """A batch of images through the model."""
        model = self.seen.model
        for picture, pixels in batch:
            picture.keep_view(model.preprocess, pixels)
        tensors = torch.stack([to_tensor(model.preprocess, pixels) for _, pixels in batch])
        tensors = tensors.to(self.runtime.torch_device())
        labels = [picture.label for picture, _ in batch]
        ids = [picture.id for picture, _ in batch]
        with nullcontext() if self.request.fast else self.runtime.autocast():
            if not self.seen.images and (self.request.fast or self.runtime.precision != "fp32"):
                self._compare(tensors)
            logits, columns = self._explain(tensors, labels, ids)
            channels = self._channels(tensors, labels) if self.request.features else [[]] * len(batch)
        probabilities, best = logits.softmax(1).max(1)
        for i, (picture, _) in enumerate(batch):
            stacks = tuple(column[i] for column in columns)
            outlines = tuple(self._outlines(stack) for stack in stacks) if self.request.outline else ()
            prediction = model.classes[int(best[i])], float(probabilities[i])
            self.seen.images.append(SeenImage(picture, prediction, stacks, outlines, tuple(channels[i])))

    def _compare(self, tensors: torch.Tensor) -> None:
        """Note and say how far the maps of this batch are from those of the plain fp32 pass."""
        layers = [p.name for p in self.seen.points]
        with torch.autocast(tensors.device.type, enabled=False):
            plain = explain(self.seen.model.module, tensors, layers=layers, depths=self.depths)
        quick = explain(self.module, tensors, layers=layers, targets=plain.targets, depths=self.depths)
        off = compare(plain, quick)
        self.seen.deviation.append(off)
        self.runtime.say(f"{self.seen.model.name}: Grad-CAM of the first {len(tensors)} images: {off}")

    def _explain(
        self, tensors: torch.Tensor, labels: Labels, ids: Sequence[str]
    ) -> tuple[torch.Tensor, list[list[CamStack]]]:
        """Logits (N, K), and per target and method, targets outermost, the stacks of all images.

        All plain targets share one forward pass, and so do all contrasts.
        """
        model = self.seen.model
        found: dict[int, list[list[CamStack]]] = {}
        for contrast in (False, True):
            numbers = [k for k, ask in enumerate(self.seen.asks) if bool(ask.against) == contrast]
            if not numbers:
                continue

            def targets(logits: torch.Tensor, numbers: Sequence[int] = numbers) -> torch.Tensor | Contrast:
                chosen = [self.seen.asks[k] for k in numbers]
                picked = torch.stack([ask.pick(logits, labels) for ask in chosen], 1)
                against = [ask.against(logits, labels) for ask in chosen if ask.against]
                return Contrast(picked, torch.stack(against, 1)) if against else picked

            explanations = self._by_methods(tensors, targets)
            logits = explanations[0].logits
            stacks = {e.method: e.stacks(model.classes, ids, model.name) for e in explanations}
            stacks |= {name: self._undefined(stacks[explanations[0].method], name) for name in self.seen.refused}
            for t, k in enumerate(numbers):
                found[k] = [stacks[name][t :: len(numbers)] for name in self.request.methods]
        return logits, [column for k in sorted(found) for column in found[k]]

    def _by_methods(self, tensors: torch.Tensor, targets: Targets) -> list[Explanation]:
        """By every method that this network allows; what it refuses is noted and said, as long as one remains."""
        refused = self.seen.refused
        while True:
            methods = [name for name in self.request.methods if name not in refused]
            try:
                return self._explained(tensors, targets, methods)
            except ModelError as err:
                new = self._refusals(tensors, methods)
                if not new or len(new) == len(methods):
                    raise ModelError(f"{self.seen.model.name}: {err}") from err
                for name, reason in new.items():
                    self.runtime.say(f"{self.seen.model.name}: no {METHODS[name].title}: {reason}")
                refused |= new

    def _refusals(self, tensors: torch.Tensor, methods: Sequence[str]) -> dict[str, str]:
        """Which methods this network refuses, and why."""
        new = {}
        for name in methods:
            try:
                self._explained(tensors[:1], None, [name])
            except ModelError as err:
                new[name] = str(err)
        return new

    def _explained(self, tensors: torch.Tensor, targets: Targets, methods: Sequence[str]) -> list[Explanation]:
        return explain_all(
            self.module,
            tensors,
            layers=[p.name for p in self.seen.points],
            targets=targets,
            methods=methods,
            depths=self.depths,
        )

    def _undefined(self, like: Sequence[CamStack], method: str) -> list[CamStack]:
        """Stacks of a method that the network refuses: no maps, and a status that says so."""
        pixels = METHODS[method].at == "pixels"
        depths = (at_the_pixels(self.seen.model.preprocess.size),) if pixels else self.seen.points
        nothing = tuple(np.full((1, 1), np.nan, np.float32) for _ in depths)
        undefined: MapStatus = "undefined"
        statuses = tuple(undefined for _ in depths)
        return [replace(stack, method=method, depths=depths, maps=nothing, statuses=statuses) for stack in like]

    def _channels(self, tensors: torch.Tensor, labels: Labels) -> list[list[Channels]]:
        """The strongest channels for the first target, per image and depth."""
        ask = self.seen.asks[0]

        def score(logits: torch.Tensor) -> list[Score]:
            return [Score(ask.pick(logits, labels), ask.against(logits, labels) if ask.against else None)]

        points, request = self.seen.points, self.request
        (channels,) = capture(
            self.module,
            tensors,
            points,
            score,
            lambda captured: strongest_channels(captured, points, request.features, request.rank),
        )
        return channels

    def _outlines(self, stack: CamStack) -> tuple[Any, ...]:
        size = self.seen.model.preprocess.size
        return tuple(
            outline(m, size, self.request.threshold) if status == "ok" else None
            for m, status in zip(stack.maps, stack.statuses, strict=True)
        )


def _draw(folder: Path, request: CamRequest, drawing: Drawing, provenance: dict[str, Any]) -> list[Path]:
    """Write a drawing page by page: ``name.png``, or ``name-1.png``, ``name-2.png``, ... where there are several."""
    provenance = provenance | {"caption": drawing.title, "alt": drawing.alt}
    pages = drawing.draw()
    page, following = next(pages, None), next(pages, None)
    stems = (f"{drawing.name}-{i}" for i in range(1, 10**6)) if following else iter([drawing.name])
    written = []
    while page is not None:
        written += save(page, folder / "figures" / next(stems), request.formats, request.dpi, provenance)
        page, following = following, next(pages, None)
    return written


def _save_maps(folder: Path, seen: Seen) -> list[Path]:
    """Raw, signed maps as ``.npz``: one file of the maps on the depths' own grids, one (``--input``) of those at the
    pixels, and one for each method whose maps at depths are as large as the image.

    Per depth one array (stacks, rows, columns) under its name; what the stacks are, row by row, under ``stacks.*``:
    image, target, against (empty unless contrasted), method, logit, probability, status (stacks, layers); the names of
    the layers under ``stacks.layers``. Methods that the network refuses are left out.
    """
    files: dict[str, list[tuple[Picture, CamStack]]] = {}
    for image in seen.images:
        for stack in image.stacks:
            if stack.method not in seen.refused:
                files.setdefault(_map_file(stack), []).append((image.picture, stack))
    written = []
    for ending, rows in files.items():
        depths = rows[0][1].depths
        arrays = {p.name: np.stack([stack.maps[i] for _, stack in rows]) for i, p in enumerate(depths)}
        arrays |= {
            "stacks.image": np.array([picture.path for picture, _ in rows]),
            "stacks.target": np.array([stack.target[1] for _, stack in rows]),
            "stacks.against": np.array([stack.against[1] if stack.against else "" for _, stack in rows]),
            "stacks.method": np.array([stack.method for _, stack in rows]),
            "stacks.logit": np.array([stack.logit for _, stack in rows]),
            "stacks.probability": np.array([stack.probability for _, stack in rows]),
            "stacks.status": np.array([stack.statuses for _, stack in rows]),
            "stacks.layers": np.array([p.name for p in depths]),
        }
        path = folder / "maps" / f"{file_name(seen.model.name)}{ending}.npz"
        with whole_file(path) as part:
            np.savez_compressed(part, **arrays)  # type: ignore[arg-type]
        written.append(path)
    return written


def _map_file(stack: CamStack) -> str:
    """What the file of a stack's maps is called besides the model; maps of one file have the same sizes."""
    if not stack.depths[0].path:
        return "--input"
    own = all(m.shape == p.shape[1:] for m, p in zip(stack.maps, stack.depths, strict=True))
    return "" if own else f"--{stack.method}"
