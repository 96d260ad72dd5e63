"""Running models over image sets: each image is decoded once for all models, what was computed before is not again.

The network always sees the same number of images at once, and the last batch is filled up with copies: a convolution
or matrix product takes another path for another batch size, and its last digits with it. On a CPU that number is fixed
(:data:`CPU_PASS`), so that ``--batch-size`` cannot move a result; on an accelerator it is ``--batch-size``.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from gradlens.data.decode import DECODE_POLICY, decode
from gradlens.data.image_set import ImageSet, decoded
from gradlens.data.preprocess import normalised, to_pixels
from gradlens.errors import GradlensError, ModelError
from gradlens.records import LoadedModel, Predictions, Preprocess, Skipped
from gradlens.runtime import Runtime, versions
from gradlens.shift.store import Known, Outputs, OutputStore, key_of
from gradlens.zoo.outputs import logits_of

CPU_PASS = 32  # measured on narrow networks: 16 to 64 are equally quick, and 32 images of 224 pixels fit anywhere
ACCELERATOR_PASS = 256
FLUSH_IMAGES = 4096  # at most this many images, or this many seconds of work, are lost when a process is killed
FLUSH_SECONDS = 60.0
A = TypeVar("A")
B = TypeVar("B")
VERSIONS = ("gradlens", "torch", "torchvision", "pillow", "numpy", "timm")  # of what can move a logit
NON_FINITE = "the model's output is not finite"


@dataclass
class Answers:
    """One model's predictions on one image set, and what it took.

    Attributes:
        skipped: images that have no prediction, and why.
        computed: how many images were run now; the rest came from the cache.
        forward_seconds: time in the network.
    """

    predictions: Predictions
    skipped: tuple[Skipped, ...]
    computed: int
    forward_seconds: float


@dataclass
class Timings:
    """Where the time of one image set went, in seconds of wall clock."""

    images: int = 0
    total: float = 0.0
    forward: float = 0.0


def predict(
    models: Sequence[LoadedModel],
    image_set: ImageSet,
    runtime: Runtime,
    store: OutputStore,
    *,
    fresh: bool = False,
    shard: tuple[int, int] = (1, 1),
    timings: Timings | None = None,
) -> list[Answers]:
    """Run models over one labelled image set, decoding each image once for all of them.

    What is finished is kept in ``store`` as it goes, also when the run is interrupted.

    Args:
        models: in eval mode; moved to the runtime's device for the duration, and back.
        image_set: what to score.
        store: what was computed before, and where to keep what is computed now.
        fresh: compute everything again.
        shard: (i, n), from (1, 1): only each n-th image, starting with the i-th.
        timings: filled in where given.

    Returns:
        One per model, in order. With a shard, only its images are in the predictions.

    Raises:
        ModelError: a model does not return one logit per class.
    """
    timings = timings if timings is not None else Timings()
    share = range(shard[0] - 1, len(image_set), shard[1])
    wanted = [image_set.samples[i].id for i in share]
    keys = {m.name: about(m, image_set, runtime) for m in models}
    known = {m.name: Known() if fresh else store.known(key_of(keys[m.name])) for m in models}
    seconds = dict.fromkeys(known, 0.0)
    missing = {m.name: tuple(i for i in share if image_set.samples[i].id not in known[m.name]) for m in models}
    todo = sorted({i for indices in missing.values() for i in indices})
    if todo:
        started = time.perf_counter()
        run = [m for m in models if missing[m.name]]
        new = {m.name: Outputs() for m in run}
        written: dict[str, list[Path]] = {m.name: [] for m in run}
        saved = time.monotonic()

        def flush() -> None:
            for name, outputs in new.items():
                part = store.save(key_of(keys[name]), outputs, keys[name])
                written[name] += [part] if part is not None else []
                new[name] = Outputs()

        groups = [_Group(g, pre, set(missing[g[0].name]), runtime) for pre, g in _by_input(run, missing)]
        with _Placed(run, runtime.torch_device()):
            try:
                for names_outputs in _forward(image_set, todo, groups, runtime, seconds):
                    for name, outputs in names_outputs.items():
                        new[name].update(outputs)
                    waiting = max(len(o) for o in new.values())
                    if waiting >= FLUSH_IMAGES or time.monotonic() - saved > FLUSH_SECONDS:
                        flush()
                        saved = time.monotonic()
            finally:
                flush()
        for name, parts in written.items():
            # with --fresh older parts of the same key are not to be believed
            known[name] = Known(parts) if fresh else store.known(key_of(keys[name]))
        timings.images += len(todo)
        timings.total += time.perf_counter() - started
        timings.forward += sum(seconds.values())
    return [_answers(m, image_set, share, wanted, known[m.name], len(missing[m.name]), seconds[m.name]) for m in models]


def _answers(
    model: LoadedModel,
    image_set: ImageSet,
    share: range,
    wanted: Sequence[str],
    outputs: Known,
    computed: int,
    seconds: float,
) -> Answers:
    kept = [i for i, image in zip(share, wanted, strict=True) if outputs.has_logits(image)]
    ids = tuple(image_set.samples[i].id for i in kept)
    logits = outputs.logits(ids, len(model.classes))
    pairs = tuple(image_set.samples[i].pair for i in kept)
    predictions = Predictions(
        model=model.name,
        dataset=image_set.name,
        classes=model.classes,
        label_classes=image_set.classes or (),
        ids=ids,
        labels=image_set.labels[kept],
        predicted=logits.argmax(axis=1).astype(np.int64),  # of equal logits the first, on every machine
        logits=logits,
        pairs=pairs if image_set.paired_with is not None else None,
    )
    skipped = []
    for i, image in zip(share, wanted, strict=True):
        if image in outputs.skipped:
            reason = outputs.skipped[image]
            skipped.append(
                Skipped(image_set.path(i), f"{model.name}: {reason}" if reason.startswith(NON_FINITE) else reason)
            )
    return Answers(predictions, tuple(skipped), computed, seconds)


def cached(model: LoadedModel, image_set: ImageSet, runtime: Runtime, store: OutputStore) -> int:
    """Of how many images of the set the store has the model's output."""
    known = store.known(key_of(about(model, image_set, runtime)))
    return sum(sample.id in known for sample in image_set.samples)


# ---------------------------------------------------------------------------------------------- what made an output


def about(model: LoadedModel, image_set: ImageSet, runtime: Runtime) -> dict[str, object]:
    """Everything that can change a logit: a stored output is used again only where all of this is equal."""
    device = runtime.torch_device()
    installed = versions()
    return {
        "weights": _state_digest(model.module) if model.weights in ("random", "pretrained") else model.weights,
        "builder": model.builder,
        "arguments": json.dumps(model.card.get("arguments", {}), sort_keys=True, default=str),
        "code": _code_digest(model.module),
        "classes": list(model.classes),
        "images": image_set.fingerprint,
        "preprocess": asdict(model.preprocess),
        "decode": DECODE_POLICY,
        "precision": runtime.precision,
        "device": device.type if device.type == "cpu" else f"{device.type}, {pass_size(runtime)} at once",
        "versions": {name: installed[name] for name in VERSIONS if name in installed},
    }


def _state_digest(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _code_digest(module: torch.nn.Module) -> str:
    """A hash of the network's structure, of the source files of its own layers, and of those that make its input.

    Layers of installed libraries are covered by their versions; a user's own file can change under the same weights.
    """
    digest = hashlib.sha256(str(module).encode())
    files = {inspect.getfile(to_pixels), inspect.getfile(decode)}
    for kind in {type(m) for m in module.modules()}:
        try:
            file = inspect.getsourcefile(kind)
        except (TypeError, OSError):
            continue
        if file and "site-packages" not in Path(file).parts:
            files.add(file)
    for file in sorted(files):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------- running


def pass_size(runtime: Runtime) -> int:
    """How many images the network sees at once."""
    if runtime.torch_device().type == "cpu":
        return CPU_PASS
    return runtime.batch_size or ACCELERATOR_PASS


def _by_input(
    models: Sequence[LoadedModel], missing: dict[str, tuple[int, ...]]
) -> list[tuple[Preprocess, list[LoadedModel]]]:
    """Models that see the same tensors of the same images, together."""
    groups: dict[tuple[Preprocess, tuple[int, ...]], list[LoadedModel]] = {}
    for m in models:
        groups.setdefault((m.preprocess, missing[m.name]), []).append(m)
    return [(preprocess, group) for (preprocess, _), group in groups.items()]


class _Placed:
    """Models on a device and in eval mode inside the ``with``; as they were after it."""

    def __init__(self, models: Sequence[LoadedModel], device: torch.device) -> None:
        self.models, self.device = models, device

    def __enter__(self) -> None:
        self.before = [(m.module.training, _device_of(m.module)) for m in self.models]
        for m in self.models:
            m.module.eval().to(self.device)

    def __exit__(self, *_: object) -> None:
        for m, (training, device) in zip(self.models, self.before, strict=True):
            m.module.train(training).to(device)


def _device_of(module: torch.nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))


@dataclass
class _Group:
    """Models that share their input, and the images that wait for the next pass."""

    models: list[LoadedModel]
    preprocess: Preprocess
    indices: set[int]
    runtime: Runtime
    ids: list[str] = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)  # images per pass, by model; halved where memory runs out

    def run(self, seconds: dict[str, float]) -> dict[str, Outputs]:
        """Run what waits through all models."""
        size = pass_size(self.runtime)
        device = self.runtime.torch_device()
        # 8-bit pixels travel to the device, a quarter of the bytes of its input
        pixels = torch.stack(self.tensors + [self.tensors[-1]] * (size - len(self.tensors))).to(device)
        images = normalised(self.preprocess, pixels)
        outputs = {}
        for m in self.models:
            started = time.perf_counter()
            logits = self._logits(m, images)[: len(self.ids)]
            seconds[m.name] += time.perf_counter() - started
            outputs[m.name] = _sorted_out(self.ids, logits)
        self.ids, self.tensors = [], []
        return outputs

    def _logits(self, model: LoadedModel, images: torch.Tensor) -> np.ndarray:
        while True:
            size = self.sizes.get(model.name, len(images))
            try:
                # a clone, because a network may overwrite its input and the next one gets the same tensor
                with torch.no_grad(), self.runtime.autocast():
                    parts = [logits_of(model.module(part.clone())).float().cpu() for part in images.split(size)]
                break
            except GradlensError:
                raise
            except Exception as err:  # a network may raise anything
                if not _out_of_memory(err) or size == 1:
                    raise _refused(model, images, err) from err
                self.sizes[model.name] = size // 2
            # out of the except block the traceback no longer holds the pass's tensors
            if images.device.type == "cuda":
                torch.cuda.empty_cache()
            self.runtime.say(f"{model.name}: out of memory with {size} images at once; going on with {size // 2}")
        logits = torch.cat(parts).numpy()
        if logits.shape != (len(images), len(model.classes)):
            raise ModelError(
                f"{model.name}: expected {len(model.classes)} logits per image (one per class), got {logits.shape[1]}"
            )
        return logits


def _out_of_memory(err: BaseException) -> bool:
    return isinstance(err, torch.OutOfMemoryError) or "can't allocate memory" in str(err)


def _refused(model: LoadedModel, images: torch.Tensor, err: Exception) -> GradlensError:
    shape = " x ".join(map(str, images.shape[1:]))
    why = str(err).splitlines()[0]
    return ModelError(f"{model.name}: the network fails on an image of {shape}: {why}")


def _sorted_out(ids: Sequence[str], logits: np.ndarray) -> Outputs:
    outputs = Outputs()
    finite = np.isfinite(logits).all(axis=1)
    for image, row, ok in zip(ids, logits, finite, strict=True):
        if ok:
            outputs.logits[image] = row
        else:
            outputs.skipped[image] = f"{NON_FINITE} ({'nan' if np.isnan(row).any() else 'infinite'} logits)"
    return outputs


def _forward(
    image_set: ImageSet, todo: Sequence[int], groups: list[_Group], runtime: Runtime, seconds: dict[str, float]
) -> Iterator[dict[str, Outputs]]:
    """Outputs by model, as they come: one dictionary per pass, and one per image that cannot be read."""
    size = pass_size(runtime)
    asked: dict[int, list[Preprocess]] = {}
    for group in groups:
        for i in group.indices:
            asked.setdefault(i, []).append(group.preprocess)

    def prepared(item: tuple[int, np.ndarray | Skipped]) -> tuple[int, dict[Preprocess, torch.Tensor] | Skipped]:
        i, image = todo[item[0]], item[1]
        if isinstance(image, Skipped):
            return i, image
        return i, {preprocess: to_pixels(preprocess, image) for preprocess in asked[i]}

    subset = image_set if len(todo) == len(image_set) else image_set.subset(todo)
    inputs = _ahead(prepared, decoded(subset, runtime.workers), depth=2 * size)
    for i, tensors in runtime.progress(inputs, image_set.name, total=len(todo), unit="image"):
        image = image_set.samples[i].id
        for group in groups:
            if i not in group.indices:
                continue
            if isinstance(tensors, Skipped):
                yield {m.name: Outputs(skipped={image: tensors.reason}) for m in group.models}
                continue
            group.ids.append(image)
            group.tensors.append(tensors[group.preprocess])
            if len(group.ids) == size:
                yield group.run(seconds)
    for group in groups:
        if group.ids:
            yield group.run(seconds)


def _ahead(work: Callable[[A], B], items: Iterable[A], depth: int) -> Iterator[B]:
    """``work`` of each item, in order, done by a thread while the one before is used; at most ``depth`` wait.

    Where ``items`` fails, what it gave before is still worked on, and then its exception raised.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="prepare")
    waiting: deque[Future[B]] = deque()
    failure: Exception | None = None
    source = iter(items)
    try:
        while True:
            try:
                item = next(source)
            except StopIteration:
                break
            except Exception as err:
                failure = err
                break
            waiting.append(pool.submit(work, item))
            while len(waiting) > depth or (waiting and waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        if failure is not None:
            raise failure
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
