"""Tasks on a Ray cluster: Ray places them, repeats those that fail and notices dead workers.

Workers are other machines, so every folder and SOURCE that a task is given must be where all of them see it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from gradlens.errors import GradlensError, InstallationError
from gradlens.runtime import Runtime

T = TypeVar("T")

RETRIES = 2  # of a task, after its first try
OBJECT_BYTES = 100 * 2**20  # of shared memory on this machine: tasks leave files and return little


def run_tasks(
    function: Callable[..., T], tasks: Mapping[str, tuple[Any, ...]], what: str, runtime: Runtime, address: str
) -> dict[str, T]:
    """Call ``function`` once for each task on the workers of a cluster; what each returned, when all are done.

    Args:
        function: leaves files, and returns little.
        tasks: what a task is called, and its arguments.
        what: the tasks, for the person who waits: ``"12 models × 3 sets"``.
        runtime: a task has a core, and a GPU where this runs on one; progress.
        address: of the cluster: ``HOST:PORT``, ``auto`` for the one that this machine belongs to, or ``local:N`` for N
            workers on this machine.

    Raises:
        InstallationError: Ray is missing.
        GradlensError: there is no cluster, or tasks failed as often as they were tried; all others are kept.
    """
    try:
        import ray
    except ImportError as err:
        raise InstallationError(f"--ray needs the package 'ray' ({err}); run: pip install 'gradlens[ray]'") from err
    started = _join(ray, address)
    try:
        gpus = 1 if runtime.torch_device().type == "cuda" else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES, retry_exceptions=True)(function)
        asked = {task.remote(*arguments): name for name, arguments in tasks.items()}
        runtime.say(f"{len(asked)} tasks ({what}) on {_size(ray)}")
        done: dict[str, T] = {}
        failed: list[str] = []
        waiting = list(asked)
        bar: Any = runtime.progress((), "tasks", total=len(asked), unit="task")
        while waiting:
            (ready,), waiting = ray.wait(waiting, num_returns=1)
            try:
                done[asked[ready]] = ray.get(ready)
            except ray.exceptions.RayError as err:
                failed.append(f"{asked[ready]}: {_reason(err)}")
            bar.update(1)
        bar.close()
    finally:
        if started:
            ray.shutdown()
    if failed:
        raise GradlensError(
            f"{len(failed)} of {len(asked)} tasks failed {RETRIES + 1} times, the first: {failed[0]}; the others are "
            "kept, and the same command tries again"
        )
    return {name: done[name] for name in tasks}


def _join(ray: Any, address: str) -> bool:
    """Connect to a cluster, or start one; whether this process is the one to end the connection."""
    if ray.is_initialized():
        return False
    name, _, count = address.partition(":")
    try:
        if name == "local":
            ray.init(
                num_cpus=int(count or 2), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
                object_store_memory=OBJECT_BYTES,
            )  # fmt: skip
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as err:
        raise GradlensError(
            f"expected a Ray cluster at {address} (HOST:PORT, auto, or local:N), but: {_first_line(err)}"
        ) from err
    return True


def _size(ray: Any) -> str:
    there = ray.cluster_resources()
    return f"{sum(1 for n in ray.nodes() if n['Alive'])} machines with {there.get('CPU', 0):.0f} cores"


def _reason(err: Exception) -> str:
    """What the task itself said, without Ray's traceback."""
    cause = getattr(err, "cause", None) or err
    return f"{type(cause).__name__}: {_first_line(cause)}"


def _first_line(err: BaseException) -> str:
    return next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)
