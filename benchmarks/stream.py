"""Memory of a streamed evaluation: resident size over the images that one process has read, as a table and a plot.

    python benchmarks/stream.py [--images 1000000] [--seconds 3000] [--out runs/stream]

Tiny JPEG images (16 × 16 pixels of noise, four classes) lie in WebDataset shards of 1,000. Eight shards are made, the
others are links to them, and every image is read, decoded and run through a small convolutional network all the same.
After ``--seconds`` it stops where it is and says how far it came.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from gradlens.figures import style
from gradlens.records import Preprocess
from gradlens.runtime import Runtime
from gradlens.shift.tables import write_csv
from gradlens.workflows.measure.evidence import Request
from gradlens.workflows.measure.streamed import shift_eval_streamed
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build
from gradlens.zoo.cards import Card, Preprocessing

CLASSES = ("ash", "beech", "cedar", "dogwood")
PER_SHARD = 1000
MADE = 8


class Enough(Exception):
    """The time is up."""


def shards(folder: Path, count: int) -> str:
    """``count`` shards, and the SOURCE that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classnames.txt").write_text("\n".join(CLASSES))
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"tiny-{number:05d}.tar"
        path.unlink(missing_ok=True)
        if number >= MADE:
            path.symlink_to(f"tiny-{number % MADE:05d}.tar")
            continue
        with tarfile.open(path, "w") as archive:
            for i in range(PER_SHARD):
                buffer = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "JPEG")
                for ending, data in (("jpg", buffer.getvalue()), ("cls", str(i % 4).encode())):
                    member = tarfile.TarInfo(f"{i:04d}.{ending}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return f"{folder}/tiny-{{00000..{count - 1:05d}}}.tar"


def network(zoo: Path) -> None:
    """A small network with random weights, as a checkpoint."""
    torch.manual_seed(0)
    arguments = {"widths": [4, 4, 4, 4]}
    module = build("gradlens:custom_cnn", arguments, len(CLASSES))
    preprocess = Preprocessing.of(Preprocess((3, 16, 16)))
    card = Card(builder="gradlens:custom_cnn", arguments=arguments, classes=CLASSES, preprocess=preprocess)
    checkpoints.save(zoo / "trees" / "tiny", module, card)


def resident() -> float:
    """Resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def plot(rows: list[dict[str, float]]) -> Figure:
    """Resident memory over images."""
    with style.paper():
        figure = Figure(figsize=(style.PAGE_WIDTH, 2.4), layout="constrained")
        ax = figure.add_subplot()
        ax.plot([r["images"] / 1000 for r in rows], [r["mib"] for r in rows], color=style.PALETTE[0], linewidth=1)
        ax.set(
            xlabel="images read (thousand)",
            ylabel="resident memory (MiB)",
            ylim=(0, 1.2 * max(r["mib"] for r in rows)),
            xlim=(0, None),
        )
    return figure


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--images", type=int, default=1_000_000)
    options.add_argument("--seconds", type=float, default=3000)
    options.add_argument("--out", type=Path, default=Path("runs/stream"))
    given = options.parse_args()
    network(given.out / "zoo")
    far = shards(given.out / "far", 1)
    near = shards(given.out / "near", max(1, given.images // PER_SHARD))
    started, rows = time.monotonic(), []

    def on_part(seen: int) -> None:
        rows.append({"images": seen, "mib": resident(), "seconds": time.monotonic() - started})
        if len(rows) % 20 == 0:
            print(f"{seen:>10,} images  {rows[-1]['mib']:7.1f} MiB  {rows[-1]['seconds']:7.0f} s", file=sys.stderr)
        if rows[-1]["seconds"] > given.seconds:
            raise Enough

    request = Request(
        out=given.out / "run", models=("trees/tiny",), zoo=given.out / "zoo", in_dist=near, probes=(far,),
        stream=True, fresh=True, resamples=1000, command="benchmarks/stream.py",
    )  # fmt: skip
    try:
        shift_eval_streamed(request, Runtime(device="cpu", quiet=True), on_part=on_part)
    except Enough:
        print(f"stopped after {given.seconds:.0f} s", file=sys.stderr)
    rows = [r for i, r in enumerate(rows) if i == 0 or r["images"] > rows[i - 1]["images"]]  # of the large set alone
    write_csv(given.out / "memory.csv", ("images", "mib", "seconds"), rows)
    style.save(plot(rows), given.out / "memory", provenance={"command": "benchmarks/stream.py"})
    settled = [r for r in rows if r["images"] >= min(50_000, rows[-1]["images"] / 4)]
    told = {
        "images": int(rows[-1]["images"]),
        "seconds": round(rows[-1]["seconds"], 1),
        "mib_first": round(rows[0]["mib"], 1),
        "mib_settled": round(settled[0]["mib"], 1),
        "mib_last": round(rows[-1]["mib"], 1),
        "mib_most": round(max(r["mib"] for r in rows), 1),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
