"""What a network costs: parameters, multiply-accumulates, size, latency, throughput, memory.

MACs are counted by ``torch.utils.flop_counter``, which sees every matrix product and convolution of a forward pass,
fused attention included (fvcore and ptflops miss it: 14 to 27 % too few on a ViT). It counts FLOPs as two per
multiply-accumulate; so do we. Element-wise work (norms, activations) is not counted.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from gradlens.errors import ModelError
from gradlens.runtime import Runtime
from gradlens.zoo.outputs import logits_of


@dataclass(frozen=True)
class Profile:
    """What a network is, independent of the machine.

    Attributes:
        parameters: weights, trainable or not.
        trainable: those that require a gradient.
        macs: multiply-accumulates of one image's forward pass (matrix products and convolutions).
        size_mb: parameters and buffers as they lie in memory, in 10^6 bytes.
        activations_mb: tensors alive at once, at most, while one image goes through without gradients, in 10^6 bytes;
            weights, and what kernels allocate for themselves, come on top.
        input_size: (channels, height, width) that ``macs`` was counted at.
    """

    parameters: int
    trainable: int
    macs: int
    size_mb: float
    activations_mb: float
    input_size: tuple[int, int, int]

    @property
    def flops(self) -> int:
        """Two per multiply-accumulate."""
        return 2 * self.macs


@dataclass(frozen=True)
class Latency:
    """How fast a network is on this machine.

    Attributes:
        median_ms: of one forward pass of one image; p95_ms: its 95th percentile.
        images_per_second: of forward passes of ``batch_size`` images.
        batch_size: images per pass behind ``images_per_second``.
        passes: timed passes of one image, after the warm-up.
        peak_mb: 10^6 bytes allocated at most on a CUDA device; ``None`` elsewhere, where torch does not count.
    """

    median_ms: float
    p95_ms: float
    images_per_second: float
    batch_size: int
    passes: int
    peak_mb: float | None


def profile(module: nn.Module, input_size: tuple[int, int, int]) -> Profile:
    """Count the parameters and the work of one forward pass of one (3, H, W) image.

    The module's mode is left as it was.

    Raises:
        ModelError: the network does not take an input of that size.
    """
    was_training = module.training
    module.eval()
    parameter = next(module.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    image = torch.zeros(1, *input_size, device=device)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            logits_of(module(image))
        with torch.no_grad(), _Alive([image, *module.parameters(), *module.buffers()]) as alive:
            module(image)
    except (RuntimeError, ValueError, AssertionError, TypeError) as err:
        why = str(err).strip().partition("\n")[0]
        raise ModelError(f"the network does not take an input of {input_size}: {why}") from err
    finally:
        module.train(was_training)
    tensors = [*module.parameters(), *module.buffers()]
    return Profile(
        parameters=sum(p.numel() for p in module.parameters()),
        trainable=sum(p.numel() for p in module.parameters() if p.requires_grad),
        macs=counter.get_total_flops() // 2,
        size_mb=sum(t.numel() * t.element_size() for t in tensors) / 1e6,
        activations_mb=alive.peak / 1e6,
        input_size=input_size,
    )


class _Alive(TorchDispatchMode):
    """Counts the bytes of tensors made inside the block that are alive at once; ``given`` ones do not count."""

    def __init__(self, given: list[torch.Tensor]) -> None:
        super().__init__()
        self._given = {t.untyped_storage()._cdata for t in given}
        self._sizes: dict[int, int] = {}
        self._now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()  # shared by views
                key = storage._cdata
                if key not in self._given and key not in self._sizes:
                    self._sizes[key] = storage.nbytes()
                    self._now += storage.nbytes()
                    self.peak = max(self.peak, self._now)
                    weakref.finalize(storage, self._freed, key)
        return out

    def _freed(self, key: int) -> None:
        self._now -= self._sizes.pop(key)


def latency(module: nn.Module, input_size: tuple[int, int, int], runtime: Runtime, passes: int = 30) -> Latency:
    """Time forward passes in eval mode on the runtime's device, after a warm-up of a fifth as many.

    Args:
        module: moved to the device and left there, in eval mode.
        input_size: (3, H, W).
        runtime: device, precision; its batch size is that of the throughput (32 where it leaves the choice).
        passes: timed passes of one image.
    """
    device = runtime.torch_device()
    module = module.eval().to(device)
    batch_size = runtime.batch_size or 32
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def seconds(batch: torch.Tensor, times: int) -> list[float]:
        found = []
        for _ in range(times):
            start = time.perf_counter()
            module(batch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            found.append(time.perf_counter() - start)
        return found

    one, many = (torch.randn(n, *input_size, device=device) for n in (1, batch_size))
    with torch.inference_mode(), runtime.autocast():
        seconds(one, max(2, passes // 5))
        single = torch.tensor(seconds(one, passes), dtype=torch.float64)
        seconds(many, 1)
        whole = seconds(many, max(3, passes // 10))
    return Latency(
        median_ms=float(single.median()) * 1e3,
        p95_ms=float(single.quantile(0.95)) * 1e3,
        images_per_second=batch_size * len(whole) / sum(whole),
        batch_size=batch_size,
        passes=passes,
        peak_mb=torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None,
    )
