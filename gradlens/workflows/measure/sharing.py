"""One evaluation by several processes: each runs the models on its share of the images, one merges and scores.

They start together (torchrun, :func:`share_out`) or each by itself as a job array does (``--shard I/N``); of the latter
each leaves a mark when it is done, so that a merge cannot be started too early without a word.

The shares are those of ``--shard``: each ``world``-th image from the ``rank``-th on, so that every image belongs to
exactly one process. (PyTorch's ``DistributedSampler`` fills up uneven shares with images that then count twice.) The
outputs meet in the store, by image, and what is there already is not run again.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from gradlens.errors import InputError
from gradlens.processes import Processes
from gradlens.runtime import Runtime, cache_dir, whole_file
from gradlens.workflows.measure import run_shard
from gradlens.workflows.measure.computed import image_sets, load_models, unlabelled_sets
from gradlens.workflows.measure.evidence import Evidence, Request
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


def mark_done(request: Request, evidence: Evidence) -> None:
    """Leave word, in the folder where shards meet, that the shard of a request is done; in the cache none is left."""
    if request.shard is None or request.shards is None:
        return
    i, n = request.shard
    told = {
        "models": {m.name: m.weights for m in evidence.models},
        "sets": {s.name: s.fingerprint for s in (*evidence.sets, *evidence.unlabelled)},
    }
    with whole_file(request.shards / f"done-{i}-of-{n}.json") as part:
        part.write_text(json.dumps(told, sort_keys=True), encoding="utf-8")


def check_shards(request: Request, runtime: Runtime) -> None:
    """Before a merge: are the shards of a job array complete, and of one evaluation?

    Raises:
        InputError: a shard is missing, or shards are of different models or images.
    """
    marks = sorted(request.shards.glob("done-*-of-*.json")) if request.shards is not None else []
    done: dict[int, set[int]] = {}
    told: dict[str, list[str]] = {}
    for mark in marks:
        if found := re.fullmatch(r"done-(\d+)-of-(\d+)\.json", mark.name):
            done.setdefault(int(found[2]), set()).add(int(found[1]))
            told.setdefault(mark.read_text(encoding="utf-8"), []).append(f"{found[1]}/{found[2]}")
    if not done:
        return
    if len(told) > 1:
        different = " and ".join(", ".join(shards) for shards in told.values())
        raise InputError(
            f"{request.shards}: expected shards of one evaluation, but {different} were run with different models or "
            "on different images; give each evaluation its own --out"
        )
    missing = {n: sorted(set(range(1, n + 1)) - there) for n, there in done.items()}
    if all(missing.values()):
        n = min(missing, key=lambda n: len(missing[n]))
        listed = ", ".join(f"{i}/{n}" for i in missing[n][:8]) + (", ..." if len(missing[n]) > 8 else "")
        are = "is" if len(missing[n]) == 1 else "are"
        raise InputError(
            f"{request.shards}: expected the outputs of {n} shards, {len(missing[n])} {are} missing or unfinished: "
            f"{listed}; run --shard {missing[n][0]}/{n} again (it goes on where it was), "
            "or remove done-*.json there to have the rest computed here"
        )
    if len(done) > 1:
        several = " and of ".join(map(str, sorted(done)))
        runtime.say(f"note: shards of {several} lie in {request.shards}; every image counts once")


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
