"""Seconds from a picture to the answer of ``gradlens app``: each model asked for the first time, and again.

    OMP_NUM_THREADS=1 python benchmarks/app.py --out app.json

A server is started in a process of its own and asked through its web interface by ``gradio_client``: a picture is
uploaded, and the five best classes come back after the pass that gives the maps of all depths. Beside the wall clock
stands the processor time that the server took, which other work on the machine changes little; with several threads,
waiting threads spin and count as well. What is bare is one ``gradlens.explain`` of a picture that was prepared before,
in this process, with everything warm; the ratio to it is what the app adds.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gradio_client import Client, handle_file
from PIL import Image

import gradlens
from gradlens.data.preprocess import to_tensor
from gradlens.depths.find import find_depths
from gradlens.zoo import checkpoints

TICKS = os.sysconf("SC_CLK_TCK")
AGAIN = 5  # pictures that a warm model is asked about; the median counts


def processor_seconds(pid: int) -> float:
    """User and system time of a process and its threads so far, by Linux' ``/proc``."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def photograph(seed: int, path: Path) -> Path:
    """A smooth picture of nothing in particular, 480 × 640."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(path)
    return path


def bare(name: str, picture: Path) -> float:
    """Milliseconds of processor time of one pass with maps of all depths, everything warm."""
    model = checkpoints.load(name)
    images = to_tensor(model.preprocess, np.asarray(Image.open(picture)))[None]
    depths = find_depths(model.module, images)
    took = []
    for _ in range(AGAIN + 2):
        started = time.process_time()
        gradlens.explain(model.module, images, layers="all", depths=depths)
        took.append(1000 * (time.process_time() - started))
    return statistics.median(took[2:])


def ask(client: Client, pid: int, name: str, picture: Path) -> tuple[float, float]:
    """Seconds by the wall and of the server's processors, from the upload to the answer."""
    wall, processor = time.perf_counter(), processor_seconds(pid)
    told = client.predict(handle_file(picture), [name], "gradcam", api_name="/classify")
    taken = time.perf_counter() - wall, processor_seconds(pid) - processor
    assert len(told["models"][0]["top"]) == 5, told
    return taken


def main() -> None:
    """Start the app, ask it, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append", help="names in the zoo, globs [default: vehicles/*]")
    parser.add_argument("--port", type=int, default=7862)
    parser.add_argument("--out", type=Path, help="write the numbers here, as JSON")
    asked = parser.parse_args()
    names = checkpoints.expand(asked.model or ["vehicles/*"])
    command = [sys.executable, "-m", "gradlens", "app", "--device", "cpu", "--quiet", "--port", str(asked.port)]
    command += [word for name in names for word in ("--model", name)]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        pictures = [photograph(i, Path(place) / f"{i}.png") for i in range(AGAIN + 1)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            start = {"wall_s": time.perf_counter() - started, "processor_s": processor_seconds(server.pid)}
            client = Client(address, verbose=False)
            rows: list[dict[str, Any]] = []
            # the last first: those that the page chooses at first are being prepared meanwhile
            for name in reversed(names):
                cold = ask(client, server.pid, name, pictures[0])
                warm = [ask(client, server.pid, name, picture) for picture in pictures[1:]]
                rows.append({
                    "model": name,
                    "first_wall_s": cold[0],
                    "first_processor_s": cold[1],
                    "again_wall_s": statistics.median(w for w, _ in warm),
                    "again_processor_s": statistics.median(p for _, p in warm),
                })  # fmt: skip
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()
        for row in rows:
            row["bare_ms"] = bare(row["model"], pictures[0])
    print(f"from the command to the address: {start['wall_s']:.1f} s, {start['processor_s']:.1f} s of processor time")
    print("| model | first, s | processor | again, s | processor | bare pass, ms | again ÷ bare |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for r in rows:
        print(
            f"| {r['model']} | {r['first_wall_s']:.2f} | {r['first_processor_s']:.2f} | {r['again_wall_s']:.2f} "
            f"| {r['again_processor_s']:.2f} | {r['bare_ms']:.0f} "
            f"| {1000 * r['again_processor_s'] / r['bare_ms']:.1f} |"
        )
    if asked.out:
        threads = {"torch": torch.get_num_threads(), "cpus": os.cpu_count()}
        asked.out.write_text(json.dumps({"schema": 1, "start": start, **threads, "models": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
