"""A sweep on a Ray cluster: each task runs one model over one image set, and the outputs meet in the run's store.

Ray places tasks, repeats those that fail and notices dead workers; what a task computes is what ``--shard 1/1`` would.
Workers are other machines, so the folder of the run and the sources must be where all of them see them. Each task
decodes its own images: a set is decoded once per model, which torchrun and ``--shard`` do once for all models.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from gradlens.errors import GradlensError, InstallationError
from gradlens.runtime import Runtime
from gradlens.workflows.measure.computed import image_sets, output_store, run_one, unlabelled_sets
from gradlens.workflows.measure.evidence import Request
from gradlens.zoo import checkpoints

RETRIES = 2  # of a task, after its first try
OBJECT_BYTES = 100 * 2**20  # of shared memory on this machine: tasks return one number, outputs travel as files


def spread(request: Request, runtime: Runtime, address: str) -> Request:
    """Run every model over every set as tasks of a cluster, and return when all are done.

    Args:
        request: with ``shards``, a folder that all workers see.
        runtime: of each task.
        address: of the cluster: ``HOST:PORT``, ``auto`` for the one that this machine belongs to, or ``local:N`` for N
            workers on this machine.

    Returns:
        The request whose evaluation finds all outputs.

    Raises:
        InstallationError: Ray is missing.
        GradlensError: there is no cluster, or tasks failed as often as they were tried; all others are kept.
    """
    try:
        import ray
    except ImportError as err:
        raise InstallationError(f"--ray needs the package 'ray' ({err}); run: pip install 'gradlens[ray]'") from err
    names = checkpoints.expand(request.models or ("all",), request.zoo)
    in_dist, probes = image_sets(request, names, runtime)
    unlabelled = unlabelled_sets(request, [in_dist.name, *(p.name for p in probes)], runtime)
    specs = [request.in_dist or in_dist.name, *(p for p in request.probes if p != "all")]
    specs += [p.name for p in probes[len(specs) - 1 :]]  # those that come with the in-distribution set
    opened = zip([in_dist, *probes, *unlabelled], [*specs, *request.unlabelled], strict=True)
    sets = [(image_set.name, spec) for image_set, spec in opened]
    started = _join(ray, address)
    try:
        gpus = 1 if runtime.torch_device().type == "cuda" else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES, retry_exceptions=True)(_task)
        one = replace(request, shard=(1, 1))
        silent = replace(runtime, quiet=True)
        asked = {task.remote(one, m, spec, silent): (m, dataset) for m in names for dataset, spec in sets}
        runtime.say(f"{len(asked)} tasks ({len(names)} models × {len(sets)} sets) on {_size(ray)}")
        failed: list[str] = []
        waiting = list(asked)
        bar: Any = runtime.progress((), "tasks", total=len(asked), unit="task")
        while waiting:
            (ready,), waiting = ray.wait(waiting, num_returns=1)
            try:
                ray.get(ready)
            except ray.exceptions.RayError as err:
                model, dataset = asked[ready]
                failed.append(f"{model} on {dataset}: {_reason(err)}")
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
    return replace(request, fresh=False)


def _task(request: Request, model: str, spec: str, runtime: Runtime) -> int:
    return run_one(request, model, spec, runtime, output_store(request))


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
