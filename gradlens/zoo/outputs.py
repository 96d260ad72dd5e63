"""The logits inside whatever a classifier returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gradlens.errors import ModelError


def logits_of(output: Any) -> torch.Tensor:
    """The (N, K) logits in a classifier's output.

    Takes a tensor; a tuple or list (the first (N, K) tensor: torchvision's GoogLeNet and Inception put the main
    logits first, auxiliary ones after); a mapping or a Hugging Face ``ModelOutput`` with ``logits``.

    Raises:
        ModelError: there is no (N, K) tensor in it.
    """
    found = _find(output)
    if found is None:
        kind = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
        raise ModelError(f"expected a classifier that returns (images, classes) logits, but it returned {kind}")
    return found


def _find(output: Any) -> torch.Tensor | None:
    if isinstance(output, torch.Tensor):
        return output if output.ndim == 2 else None
    if isinstance(output, Mapping):
        output = [output[k] for k in ("logits", "out", "output") if k in output] or list(output.values())
    elif hasattr(output, "logits"):  # GoogLeNetOutputs and ModelOutput
        output = [output.logits]
    if isinstance(output, tuple | list):
        return next((t for t in map(_find, output) if t is not None), None)
    return None
