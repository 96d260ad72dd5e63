"""Training by several processes: PyTorch's DistributedDataParallel, so that they take the step that one would take.

Every process draws the same order and the same augmentation for the same image, runs its share of each batch, and gets
the gradient of the whole batch. What one process would compute differs by the order of summation alone, with two
exceptions that are said when they arise: dropout and stochastic depth are drawn by each process for its own images, and
batch norm on a CPU takes the statistics of each process's share, because PyTorch's SyncBatchNorm needs CUDA.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from gradlens.errors import TrainingError
from gradlens.processes import Processes
from gradlens.runtime import Runtime


def in_parallel(module: nn.Module, device: torch.device, processes: Processes) -> nn.Module:
    """The network as it is trained: itself, or wrapped so that gradients are averaged over all processes.

    Args:
        module: on ``device``, with what learns in this phase set to.
        device: of this process.
        processes: those that train together.

    Raises:
        TrainingError: there are more processes on this machine than GPUs.
    """
    if not processes.several:
        return module
    if device.type == "cuda" and processes.local >= torch.cuda.device_count():
        raise TrainingError(
            f"expected a GPU for each process, and {processes.host} has {torch.cuda.device_count()}; "
            f"use torchrun --nproc-per-node {torch.cuda.device_count()}"
        )
    # a static graph may leave parameters unused, as auxiliary heads are
    ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=ids, static_graph=True)


@contextlib.contextmanager
def synchronised(module: nn.Module, device: torch.device, runtime: Runtime) -> Iterator[None]:
    """Have batch norms take the statistics of the whole batch, for the length of a ``with`` block; says where not."""
    norms = {name: m for name, m in module.named_modules() if isinstance(m, _BatchNorm)}
    if not (runtime.processes.several and norms):
        yield
        return
    if device.type != "cuda":
        runtime.say(
            f"note: {len(norms)} batch norms take the statistics of each process's share of a batch, because those of "
            "the whole batch need CUDA; the result depends on the number of processes"
        )
        yield
        return
    nn.SyncBatchNorm.convert_sync_batchnorm(module)  # shares weights and statistics with the norms it stands for
    try:
        yield
    finally:
        for name, norm in norms.items():
            module.set_submodule(name, norm)


def weight_of_share(
    target: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None, world: int
) -> torch.Tensor | float:
    """What a share's mean loss is multiplied by, so that the mean over processes is the mean over the whole batch.

    DistributedDataParallel averages the gradients of processes as if their shares were equal. With n_r the images of a
    share (or the sum of their class weights) and n those of the batch, it is world · n_r / n: 1 for one process.

    Args:
        target: of the share: (n_r,) class indices, or (n_r, K) shares of mixed labels, whose mean is over
            images whatever the class weights.
        labels: (n,) of the whole batch.
        weight: (K,) of classes, or ``None``.
        world: how many processes.
    """
    if world == 1:
        return 1.0
    if weight is None or target.ndim > 1:
        return world * len(target) / len(labels)
    return world * weight[target].sum() / weight[labels.to(weight.device)].sum()
