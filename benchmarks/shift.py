"""Running many models over two image sets: gradlens beside loops as timm and torchvision have them. Prints Markdown.

    python benchmarks/shift.py                       three cases, three rounds, two threads
    python benchmarks/shift.py --case photographs --rounds 5
    python benchmarks/shift.py --memory              peak memory for more and more images

The peers are written as their projects' own scripts are (timm's ``validate.py``, torchvision's
``references/classification``): for each model and set a data set, a loader with worker processes, the project's own
evaluation transform (Pillow's antialiased resize), batches through the network. gradlens decodes each image once for
all models that want the same input, and keeps the logits on disk as it goes. All run in one process, in a new random
order each round, on the same files, and medians are taken: machines are noisy, so only the ratios mean something. The
last columns say for how many images the peers' predicted class is another one than gradlens'.

Photographs are made here: pictures with the spectrum of natural ones (amplitude falling with 1/f; Field 1987), 1024 by
768 pixels, JPEG quality 90.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from timm.data import create_dataset, create_loader
from torchvision.transforms import v2

from gradlens.data.sources import open_source
from gradlens.records import LoadedModel, Preprocess
from gradlens.runtime import Runtime
from gradlens.shift.predict import predict
from gradlens.shift.store import OutputStore
from gradlens.zoo import checkpoints

WORKERS, BATCH = 2, 32
SIZE = (768, 1024)
Said = dict[tuple[str, str], np.ndarray]  # (model, set) -> predicted class of each file, in the order of their names


@dataclass(frozen=True)
class Case:
    """Models and two sets of images on disk."""

    models: list[LoadedModel]
    sets: list[Path]

    def images(self) -> int:
        return sum(len(open_source(str(s))) for s in self.sets)


# ---------------------------------------------------------------------------------------------- data and models


def photograph(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """uint8 (height, width, 3) with amplitudes falling as 1/f and random phases."""
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    f[0, 0] = 1
    phases = np.exp(2j * np.pi * rng.random((3, *f.shape)))
    shared = np.exp(2j * np.pi * rng.random(f.shape))  # natural colours are correlated
    picture = np.fft.irfft2((0.3 * phases + shared) / f, s=(height, width))
    picture /= picture.std((1, 2), keepdims=True)
    return np.moveaxis(np.clip(110 + 55 * picture, 0, 255), 0, 2).astype(np.uint8)


def photographs(folder: Path, classes: Sequence[str], per_class: int, seed: int, size: tuple[int, int] = SIZE) -> Path:
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            Image.fromarray(photograph(rng, *size)).save(folder / name / f"{i:04d}.jpg", quality=90)
    return folder


def copied(probe_set: str, folder: Path) -> Path:
    """The images of a probe set alone: peers would take its masks for a class."""
    found = open_source(probe_set)
    for sample in found.samples:
        (folder / sample.id).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(found.location) / sample.id, folder / sample.id)
    return folder


def zoo_models(n: int) -> list[LoadedModel]:
    return [checkpoints.load(name) for name in checkpoints.expand(("vehicles/*",), None)[:n]]


def large_models(classes: Sequence[str]) -> list[LoadedModel]:
    """Full-size networks with random weights, which take as long as trained ones."""
    found = []
    for name in ("resnet50", "densenet121", "convnext_tiny", "swin_t"):
        torch.manual_seed(0)
        module = getattr(torchvision.models, name)(weights=None, num_classes=len(classes)).eval()
        preprocess = Preprocess((3, 224, 224), crop_pct=0.875)
        found.append(LoadedModel(name, module, tuple(classes), preprocess, f"torchvision:{name}"))
    return found


def case(name: str, folder: Path) -> Case:
    models = zoo_models(12)
    classes = models[0].classes
    if name == "small images":
        return Case(models, [copied(s, folder / s) for s in ("vehicles-test", "vehicles-internet")])
    per_class = 12 if name == "photographs" else 4
    sets = [photographs(folder / str(seed), sorted(classes), per_class, seed) for seed in (0, 1)]
    return Case(models if name == "photographs" else large_models(classes), sets)


CASES = {
    "photographs": "12 narrow models, 96 pixels, 2 × 96 photographs",
    "small images": "12 narrow models, 96 pixels, 2 × 320 images of 96 pixels",
    "large networks": "4 full-size models, 224 pixels, 2 × 32 photographs",
}


# ---------------------------------------------------------------------------------------------- contenders


def gradlens(c: Case) -> Said:
    said: Said = {}
    with tempfile.TemporaryDirectory() as cache:
        for folder in c.sets:
            image_set = open_source(str(folder))
            answers = predict(c.models, image_set, Runtime(device="cpu", quiet=True), OutputStore(Path(cache)))
            for model, answer in zip(c.models, answers, strict=True):
                order = np.argsort(answer.predictions.ids)
                said[model.name, str(folder)] = answer.predictions.predicted[order]
    return said


def _loop(c: Case, loader: Callable[[LoadedModel, Path], object]) -> Said:
    said: Said = {}
    for model in c.models:
        for folder in c.sets:
            answers = []
            with torch.inference_mode():
                for images, _ in loader(model, folder):  # type: ignore[attr-defined]
                    output = model.module(images)
                    answers.append((output if isinstance(output, torch.Tensor) else output.logits).argmax(1))
            said[model.name, str(folder)] = torch.cat(answers).numpy()
    return said


def timm_validate(c: Case) -> Said:
    def loader(model: LoadedModel, folder: Path) -> object:
        p = model.preprocess
        return create_loader(
            create_dataset("", root=str(folder)),
            input_size=p.input_size,
            batch_size=BATCH,
            use_prefetcher=False,
            interpolation=p.interpolation,
            mean=p.mean,
            std=p.std,
            crop_pct=p.crop_pct,
            crop_mode=p.crop_mode,
            num_workers=WORKERS,
        )

    return _loop(c, loader)


def torchvision_reference(c: Case) -> Said:
    def loader(model: LoadedModel, folder: Path) -> object:
        p = model.preprocess
        transform = v2.Compose(
            [
                v2.Resize(int(p.size[0] / p.crop_pct), v2.InterpolationMode(p.interpolation), antialias=True),
                v2.CenterCrop(p.size),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(p.mean, p.std),
            ]
        )
        dataset = torchvision.datasets.ImageFolder(str(folder), transform)
        return torch.utils.data.DataLoader(dataset, batch_size=BATCH, num_workers=WORKERS)

    return _loop(c, loader)


CONTENDERS: dict[str, Callable[[Case], Said]] = {
    "gradlens": gradlens,
    "timm": timm_validate,
    "torchvision": torchvision_reference,
}


def measured(c: Case, rounds: int) -> tuple[dict[str, float], dict[str, int]]:
    """Median seconds of each contender, and in how many answers a peer differs from gradlens."""
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    said: dict[str, Said] = {}
    shuffled = random.Random(0)
    for _ in range(rounds):
        for name in shuffled.sample(list(CONTENDERS), len(CONTENDERS)):
            started = time.perf_counter()
            said[name] = CONTENDERS[name](c)
            seconds[name].append(time.perf_counter() - started)
    differ = {
        name: sum(int((answers != said["gradlens"][key]).sum()) for key, answers in said[name].items())
        for name in said
        if name != "gradlens"
    }
    return {name: statistics.median(s) for name, s in seconds.items()}, differ


# ---------------------------------------------------------------------------------------------- memory


def peak_memory(images: int) -> float:
    """Peak resident MB of scoring two zoo models on so many images, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        models = zoo_models(2)
        small = photographs(Path(folder) / "one", sorted(models[0].classes), 1, 0, (96, 96))
        for name in models[0].classes:  # hard links: many files, little disk
            first = small / name / "0000.jpg"
            for i in range(1, images // len(models[0].classes)):
                (small / name / f"{i:06d}.jpg").hardlink_to(first)
        predict(models, open_source(str(small)), Runtime(device="cpu", quiet=True), OutputStore(Path(folder) / "cache"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---------------------------------------------------------------------------------------------- tables


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--case", action="append", choices=list(CASES), help="repeatable [default: all]")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--memory", action="store_true", help="peak memory instead of time")
    options.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    if given.measure:
        print(peak_memory(given.measure))
        return
    print(f"torch {torch.__version__}, timm {timm.__version__}, {torch.get_num_threads()} threads, CPU\n")
    if given.memory:
        print("| images | peak memory, MB |\n|--:|--:|")
        for images in (1_600, 12_800, 51_200):
            command = [sys.executable, __file__, "--measure", str(images), "--threads", str(given.threads)]
            peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(f"| {images:,} | {peak:.0f} |", flush=True)
        return
    print(
        "| case | answers | gradlens, s | timm ÷ gradlens | torchvision ÷ gradlens | other class: timm | torchvision |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name in given.case or CASES:
        with tempfile.TemporaryDirectory() as folder:
            c = case(name, Path(folder))
            answers = c.images() * len(c.models)
            seconds, differ = measured(c, given.rounds)
        ratios = " | ".join(f"{seconds[peer] / seconds['gradlens']:.2f}" for peer in differ)
        print(
            f"| {CASES[name]} | {answers:,} | {seconds['gradlens']:.1f} | {ratios} | "
            + " | ".join(str(n) for n in differ.values())
            + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
