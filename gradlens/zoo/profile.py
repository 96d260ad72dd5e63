"""What a network costs on any machine: parameters, multiply-accumulates, size, activations.

MACs are counted by ``torch.utils.flop_counter``, which sees every matrix product and convolution of a forward pass,
fused attention included (fvcore and ptflops miss it: 14 to 27 % too few on a ViT). It counts FLOPs as two per
multiply-accumulate; so do we. Element-wise work (norms, activations) is not counted. The one thing that it does not see
is ``nn.MultiheadAttention`` as a single fused operation, which PyTorch uses where no gradient is asked for
(torchvision's ViT); it is counted in its parts.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from gradlens.errors import ModelError
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
        with torch.no_grad(), _attention_in_parts(), FlopCounterMode(display=False) as counter:
            logits_of(module(image))
        with torch.no_grad(), Alive([image, *module.parameters(), *module.buffers()]) as alive:
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


@contextlib.contextmanager
def _attention_in_parts() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors made inside the block that are alive at once, those of backward passes too.

    Args:
        given: tensors that do not count.

    Attributes:
        peak: the most bytes at any time.
    """

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
