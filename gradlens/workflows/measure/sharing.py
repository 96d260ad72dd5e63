"""One evaluation by several processes: each runs the models on its share of the images, the first merges and scores.

The shares are those of ``--shard``: each ``world``-th image from the ``rank``-th on, so that every image belongs to
exactly one process. (PyTorch's ``DistributedSampler`` fills up uneven shares with images that then count twice.) The
outputs meet in the store, by image, and what is there already is not run again.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from gradlens.errors import InputError
from gradlens.processes import Processes
from gradlens.runtime import Runtime, cache_dir
from gradlens.workflows.measure import run_shard
from gradlens.workflows.measure.computed import image_sets, load_models, unlabelled_sets
from gradlens.workflows.measure.evidence import Request
from gradlens.zoo import checkpoints


def share_out(request: Request, runtime: Runtime) -> Request:
    """Run this process's share, and return when all processes have run theirs.

    Args:
        request: the same on every process.
        runtime: with its ``processes``.

    Returns:
        The request with which the first process finds all outputs and merges them.

    Raises:
        GradlensError: something that was asked for cannot be had, the machines do not see one folder, or another
            process ended.
    """
    processes = runtime.processes
    if request.fresh and request.shards is None:  # in the cache, older outputs would lie among the new ones
        request = replace(request, shards=request.out / "shards")
    meeting = request.shards or cache_dir() / "outputs"
    if request.fresh and processes.first:
        shutil.rmtree(meeting, ignore_errors=True)
    _see_one_folder(meeting, processes)
    machines = len(set(processes.all(processes.host)))
    where = f"{machines} machines" if machines > 1 else "one machine"
    runtime.say(f"{processes.world} processes on {where} share the images; their outputs meet in {meeting}")
    if processes.first:  # renders and downloads what is not there yet, once
        names = checkpoints.expand(request.models or ("all",), request.zoo)
        in_dist, probes = image_sets(request, names, runtime)
        unlabelled_sets(request, [in_dist.name, *(p.name for p in probes)], runtime)
        load_models(request, names, runtime)
    processes.meet()
    run_shard(replace(request, shard=(processes.rank + 1, processes.world)), runtime)
    processes.meet()
    return replace(request, fresh=False)


def _see_one_folder(folder: Path, processes: Processes) -> None:
    """Refuse to start where the processes would not find each other's outputs."""
    mark = folder / processes.same(f".meeting-{uuid4().hex[:12]}")
    if processes.first:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    processes.meet()
    seen = processes.all(mark.exists())
    hosts = processes.all(processes.host)
    if processes.first:
        with contextlib.suppress(OSError):
            mark.unlink()
    blind = sorted({host for host, sees in zip(hosts, seen, strict=True) if not sees})
    if blind:
        raise InputError(
            f"expected a folder that all machines see, but {', '.join(blind)} does not see what {hosts[0]} writes to "
            f"{folder}; give --out on a file system that they share, or run --shard I/N and bring the shards together"
        )
