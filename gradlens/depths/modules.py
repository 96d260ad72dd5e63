"""Handling a user's module so that it is left exactly as it was: unwrapping, modes, flags, hooks, outputs."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from gradlens.errors import ModelError


def unwrap(model: nn.Module) -> nn.Module:
    """The module whose submodules' hooks fire: out of ``torch.compile``, ``DataParallel`` and DDP.

    Hooks never fire inside compiled code, and a data-parallel wrapper runs replicas that carry no hooks.

    Raises:
        ModelError: a scripted or traced module, whose submodules cannot be hooked.
    """
    while True:
        if isinstance(model, torch.jit.ScriptModule):
            raise ModelError(
                "expected an ordinary module, got a scripted or traced one, whose inner outputs cannot be hooked and "
                "which does not keep the module it was made from; pass that one, or make it again and give it the "
                "weights: module.load_state_dict(scripted.state_dict())"
            )
        if hasattr(model, "_orig_mod"):  # torch.compile
            inner: Any = model._orig_mod
            model = inner
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with frozen parameters and gradients enabled, whatever the caller's state; all of it put back.

    Every submodule gets its own ``training`` flag back and every parameter its own ``requires_grad``, also after an
    exception. Works inside ``no_grad`` and ``inference_mode``. Freezing the parameters is what keeps a backward pass
    from computing (and storing) weight gradients.
    """
    # all modes are noted before any is changed; nothing is touched that is as it should be (thousands of modules cost)
    modes = [(m, m.training) for m in model.modules()]
    trained = [p for p in model.parameters() if p.requires_grad]
    training = any(mode for _, mode in modes)
    try:
        if training:
            model.eval()
        for p in trained:
            p.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad(), _uncompiled(model):
            yield
    finally:
        if training:
            for m, mode in modes:
                m.training = mode
        for p in trained:
            p.requires_grad_(True)


@contextlib.contextmanager
def _uncompiled(model: nn.Module) -> Iterator[None]:
    """Runs compiled parts of a network as they were written: hooks do not fire in compiled code."""
    if not any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules()):
        yield
        return
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        # counting operations sets hooks on all modules; that the compiled part's would fire twice harms nobody
        warnings.filterwarnings("ignore", message="Using `torch.compile")
        yield


@contextlib.contextmanager
def hooked(modules: Mapping[str, nn.Module], see: Callable[[str, int, torch.Tensor], Any]) -> Iterator[None]:
    """Calls ``see(path, call, tensor)`` with the first tensor of every output of the given modules.

    ``call`` counts the calls of one module from 1, so that a module used twice has two outputs under two names.
    What ``see`` returns, if anything, travels onward in the tensor's place. All hooks are gone afterwards.
    """
    calls = dict.fromkeys(modules, 0)
    handles = []

    def hook_of(path: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            tensor = first_tensor(output)
            if tensor is None:
                return None
            calls[path] += 1
            onward = see(path, calls[path], tensor)
            return None if onward is None else replace_first_tensor(output, onward)

        return hook

    try:
        for path, module in modules.items():
            handles.append(module.register_forward_hook(hook_of(path)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(output: Any) -> torch.Tensor | None:
    """The first tensor of a module's output: itself, or the first in a tuple, list or mapping."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, tuple | list):
        return next((t for t in map(first_tensor, output) if t is not None), None)
    return None


def replace_first_tensor(output: Any, onward: torch.Tensor) -> Any:
    """``output`` with its first tensor replaced, of the same type."""
    if isinstance(output, torch.Tensor):
        return onward
    if isinstance(output, Mapping):
        key = next(k for k, v in output.items() if first_tensor(v) is not None)
        changed = output.copy() if hasattr(output, "copy") else dict(output)
        changed[key] = replace_first_tensor(output[key], onward)
        return changed
    at = next(i for i, v in enumerate(output) if first_tensor(v) is not None)
    parts = [*output[:at], replace_first_tensor(output[at], onward), *output[at + 1 :]]
    return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
