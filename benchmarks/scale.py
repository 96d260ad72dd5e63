"""What ``--plan`` predicts beside what the evaluation then takes, at several sizes.

    python benchmarks/scale.py [--sizes 250,1000,4000,16000] [--out runs/scale]

Each size is a folder of noise images (64 × 64 pixels, JPEG) and two small networks. For each, the plan is measured
just before the networks run over all images, in one process and with an empty cache; the time is that of decoding and
networks, as the plan's is (scoring and figures come on top). Wall time, because that is what a plan promises: on a busy
machine both sides of the comparison feel the others.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gradlens.records import Preprocess
from gradlens.runtime import Runtime
from gradlens.workflows.measure import run_shard
from gradlens.workflows.measure.evidence import Request
from gradlens.workflows.measure.plan import plan
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build
from gradlens.zoo.cards import Card, Preprocessing

CLASSES = ("ash", "beech", "cedar", "dogwood")


def networks(zoo: Path) -> None:
    """Two small networks with random weights, as checkpoints."""
    preprocess = Preprocessing.of(Preprocess((3, 64, 64)))
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        arguments = {"widths": [16, 32, 64, 64]}
        card = Card(builder="gradlens:custom_cnn", arguments=arguments, classes=CLASSES, preprocess=preprocess)
        checkpoints.save(zoo / "trees" / name, build("gradlens:custom_cnn", arguments, len(CLASSES)), card)


def images(folder: Path, count: int) -> None:
    """``count`` images of noise in class folders."""
    rng = np.random.default_rng(count)
    for i in range(count):
        path = folder / CLASSES[i % 4] / f"{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--sizes", default="250,1000,4000,16000")
    options.add_argument("--out", type=Path, default=Path("runs/scale"))
    given = options.parse_args()
    networks(given.out / "zoo")
    images(given.out / "web", 4)
    runtime = Runtime(device="cpu", quiet=True)
    print("   images  predicted s  measured s  ratio  processor s  load")
    for size in map(int, given.sizes.split(",")):
        shutil.rmtree(given.out / "test", ignore_errors=True)
        shutil.rmtree(given.out / "cache", ignore_errors=True)
        images(given.out / "test", size)
        os.environ["GRADLENS_CACHE"] = str(given.out / "cache")
        request = Request(
            out=Path(), models=("trees/*",), zoo=given.out / "zoo", in_dist=str(given.out / "test"),
            probes=(str(given.out / "web"),), shard=(1, 1),
        )  # fmt: skip
        predicted = plan(request, runtime).seconds
        started, before = time.perf_counter(), time.process_time()
        evidence = run_shard(request, runtime)
        used = time.process_time() - before
        taken = sum(v for k, v in evidence.timings.items() if k.startswith("predicting"))
        row = {"images": size, "predicted": predicted, "measured": taken, "whole": time.perf_counter() - started}
        print(
            f"{size:>9,}  {predicted:11.1f}  {taken:10.1f}  {taken / predicted:5.2f}  {used:11.1f}  "
            f"{os.getloadavg()[0]:4.1f}   {json.dumps(row)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
