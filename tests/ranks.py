"""Several processes as torchrun starts them, without the seconds that each fresh interpreter takes to import torch."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

DEADLINE = 240.0  # seconds after which a process that still runs hangs


@dataclass(frozen=True)
class Ended:
    """How one process ended: exit code (negative: the signal), and what it said."""

    code: int
    out: str
    err: str


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_together(world: int, work: Callable[..., None], *args: Any, folder: Path, cache: Path) -> list[Ended]:
    """Run ``work(rank, *args)`` in ``world`` processes that can meet, and wait for all of them.

    Args:
        world: how many.
        work: a function of a module; its first argument is the rank.
        args: the others.
        folder: takes what the processes say.
        cache: their ``GRADLENS_CACHE``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["gradlens.workflows.measure.computed", "gradlens.workflows.train", "torch"])
    # as torchrun does, the store where they meet lies outside of them, and outlives each
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    surroundings = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    surroundings |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "GRADLENS_CACHE": str(cache)}
    started = []
    for rank in range(world):
        own = surroundings | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = server.Process(target=_inside, args=(own, folder, work, rank, *args))
        process.start()
        started.append(process)
    until = time.monotonic() + DEADLINE
    for process in started:
        process.join(max(0.0, until - time.monotonic()))
    hanging = [p for p in started if p.exitcode is None]
    for process in hanging:
        process.kill()
        process.join()
    said = [[(folder / f"{rank}.{stream}").read_text() for stream in ("out", "err")] for rank in range(world)]
    assert not hanging, f"{len(hanging)} of {world} processes hang: {said}"
    return [Ended(p.exitcode or 0, *texts) for p, texts in zip(started, said, strict=True)]


def _inside(surroundings: Mapping[str, str], folder: Path, work: Callable[..., None], rank: int, *args: Any) -> None:
    os.environ.update(surroundings)
    for number, stream in ((1, "out"), (2, "err")):
        file = os.open(folder / f"{rank}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    try:
        work(rank, *args)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
