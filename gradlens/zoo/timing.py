"""How fast a network is on this machine, and how much memory a pass takes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradlens.runtime import Runtime


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass of one image.

    Attributes:
        median_ms, p95_ms: median and 95th percentile.
        passes: that were timed, after the warm-up.
    """

    median_ms: float
    p95_ms: float
    passes: int


@dataclass(frozen=True)
class Throughput:
    """Forward passes of whole batches.

    Attributes:
        batch_size: images per pass.
        images_per_second: batch size over the median pass; ``None`` where the device's memory did not hold the batch.
        peak_mb: see :func:`growth`: weights, images and what a pass allocates on top at most, in 10^6 bytes; ``None``
            where it cannot be measured.
        passes: that were timed, after a warm-up pass.
    """

    batch_size: int
    images_per_second: float | None
    peak_mb: float | None
    passes: int


def latency(module: nn.Module, input_size: tuple[int, int, int], runtime: Runtime, passes: int = 100) -> Latency:
    """Time passes of one image in eval mode on the runtime's device, after a warm-up of a fifth as many.

    Args:
        module: moved to the device and left there, in eval mode.
        input_size: (3, H, W).
        runtime: device, precision.
        passes: timed passes.
    """
    device = runtime.torch_device()
    module = module.eval().to(device)
    image = torch.randn(1, *input_size, device=device)
    with torch.inference_mode(), runtime.autocast():
        _seconds(module, image, max(2, passes // 5))
        single = _seconds(module, image, passes)
    return Latency(float(single.median()) * 1e3, float(single.quantile(0.95)) * 1e3, passes)


def throughput(
    module: nn.Module, input_size: tuple[int, int, int], runtime: Runtime, batch_size: int, passes: int = 10
) -> Throughput:
    """Time passes of a batch in eval mode on the runtime's device; memory is watched during the first one.

    Args: as of :func:`latency`; ``batch_size`` images per pass.
    """
    device = runtime.torch_device()
    module = module.eval().to(device)
    weights = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    try:
        batch = torch.randn(batch_size, *input_size, device=device)
        with torch.inference_mode(), runtime.autocast():
            _seconds(module, batch[:1], 1)  # what the library allocates once and for all is not the pass's
            with growth(device) as grown:
                _seconds(module, batch, 1)
            took = _seconds(module, batch, passes)
    except torch.OutOfMemoryError:
        return Throughput(batch_size, None, None, 0)
    peak = None if grown.bytes is None else (weights + batch.nbytes + grown.bytes) / 1e6
    return Throughput(batch_size, batch_size / float(took.median()), peak, passes)


def _seconds(module: nn.Module, batch: torch.Tensor, times: int) -> torch.Tensor:
    """(times,) float64: what each pass took, until its result is there."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        module(batch)
        if batch.device.type != "cpu":
            torch.accelerator.synchronize(batch.device)
        found.append(time.perf_counter() - start)
    return torch.tensor(found, dtype=torch.float64)


# ---------------------------------------------------------------- memory


class Growth:
    """What :func:`growth` found; ``bytes`` is set when its block ends."""

    bytes: int | None = None


@contextlib.contextmanager
def growth(device: torch.device) -> Iterator[Growth]:
    """Most memory in use inside the block, over what was in use when it began.

    On CUDA devices torch counts what its tensors and kernels allocate. On the CPU it counts nothing, and kernels have
    scratch space of their own; there the process's resident memory is measured, which Linux alone can watch for a
    stretch of time: freed memory is handed back before, so that what is resident is what is in use. Elsewhere the
    answer is ``None``.
    """
    found = Growth()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        torch.cuda.synchronize(device)
        found.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    before_cpu = _forget_peak() if device.type == "cpu" else None
    yield found
    if before_cpu is not None:
        found.bytes = max(0, _resident("VmHWM") - before_cpu)


def _forget_peak() -> int | None:
    """Have the kernel count peak resident memory anew; the resident bytes now, or ``None`` where it cannot."""
    libc: Any = ctypes.CDLL(None) if platform.system() == "Linux" else None
    if not hasattr(libc, "malloc_trim"):  # another C library keeps freed memory, and the growth would be too small
        return None
    libc.malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _resident("VmRSS")
    except OSError:  # not granted in some containers
        return None


def _resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024
