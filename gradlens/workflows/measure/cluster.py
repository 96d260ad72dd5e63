"""A sweep on a Ray cluster: each task runs one model over one image set, and the outputs meet in the run's store.

What a task computes is what ``--shard 1/1`` would. Each decodes its own images: a set is decoded once per model, which
torchrun and ``--shard`` do once for all models.
"""

from __future__ import annotations

from dataclasses import replace

from gradlens.runtime import Runtime
from gradlens.workflows.cluster import run_tasks
from gradlens.workflows.measure.computed import image_sets, output_store, run_one, unlabelled_sets
from gradlens.workflows.measure.evidence import Request
from gradlens.zoo import checkpoints


def spread(request: Request, runtime: Runtime, address: str) -> Request:
    """Run every model over every set as tasks of a cluster, and return when all are done.

    Args:
        request: with ``shards``, a folder that all workers see.
        runtime: of each task.
        address: see :func:`gradlens.workflows.cluster.run_tasks`, which says what is raised, too.

    Returns:
        The request whose evaluation finds all outputs.
    """
    names = checkpoints.expand(request.models or ("all",), request.zoo)
    in_dist, probes = image_sets(request, names, runtime)
    unlabelled = unlabelled_sets(request, [in_dist.name, *(p.name for p in probes)], runtime)
    specs = [request.in_dist or in_dist.name, *(p for p in request.probes if p != "all")]
    specs += [p.name for p in probes[len(specs) - 1 :]]  # those that come with the in-distribution set
    opened = zip([in_dist, *probes, *unlabelled], [*specs, *request.unlabelled], strict=True)
    sets = [(image_set.name, spec) for image_set, spec in opened]
    one, silent = replace(request, shard=(1, 1)), replace(runtime, quiet=True)
    tasks = {f"{model} on {dataset}": (one, model, spec, silent) for model in names for dataset, spec in sets}
    run_tasks(_task, tasks, f"{len(names)} models × {len(sets)} sets", runtime, address)
    return replace(request, fresh=False)


def _task(request: Request, model: str, spec: str, runtime: Runtime) -> None:
    run_one(request, model, spec, runtime, output_store(request))
