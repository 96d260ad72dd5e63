"""What ``--plan`` predicts beside what the evaluation then takes, at several sizes.

    python benchmarks/scale.py [--sizes 200,1000,5000,20000] [--out runs/scale]

Each size is a folder of noise images (64 × 64 pixels, JPEG) and two small networks. For each, the plan is measured
just before the networks run over all images, in one process and with an empty cache; the wall time is that of decoding
and networks, as the plan's is (scoring and figures come on top). On a busy machine both sides of it feel the others,
and not equally; so the plan is also made in processor time, beside the processor time that the whole run then takes,
with its start-up and listing.
"""

from __future__ import annotations

import argparse
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
    options.add_argument("--sizes", default="200,1000,5000,20000")
    options.add_argument("--out", type=Path, default=Path("runs/scale"))
    given = options.parse_args()
    networks(given.out / "zoo")
    images(given.out / "web", 4)
    runtime = Runtime(device="cpu", quiet=True)
    print("            wall time (s)                 processor time (s)")
    print("   images  predicted  measured   ratio   predicted  measured   ratio   load")
    for size in map(int, given.sizes.split(",")):
        shutil.rmtree(given.out / "test", ignore_errors=True)
        shutil.rmtree(given.out / "cache", ignore_errors=True)
        images(given.out / "test", size)
        os.environ["GRADLENS_CACHE"] = str(given.out / "cache")
        request = Request(
            out=Path(), models=("trees/*",), zoo=given.out / "zoo", in_dist=str(given.out / "test"),
            probes=(str(given.out / "web"),), shard=(1, 1),
        )  # fmt: skip
        predicted, processor = (plan(request, runtime, clock=c).seconds for c in (time.perf_counter, time.process_time))
        before = time.process_time()
        evidence = run_shard(request, runtime)
        used = time.process_time() - before
        taken = sum(v for k, v in evidence.timings.items() if k.startswith("predicting"))
        print(
            f"{size:>9,}  {predicted:9.1f}  {taken:8.1f}  {taken / predicted:6.2f}   {processor:9.1f}  {used:8.1f}  "
            f"{used / processor:6.2f}   {os.getloadavg()[0]:4.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
