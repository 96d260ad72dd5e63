"""Strategies by name: what a network that has learned elsewhere learns, and when. Each is a tuple of phases.

``NAME`` or ``NAME:DEPTHS``, where the depths (``last:2``, or names and globs with commas between them) say which blocks
learn beside the head:

========== ================================================================================================
scratch    everything, at one rate
full       everything, the backbone at a tenth of the head's rate
frozen     the head alone, on the features as they are (a linear probe, where the head is linear)
partial    the head and DEPTHS (``last:1``)
two-phase  the head alone for a third of the epochs, then the head and DEPTHS (``last:2``) at a tenth of the rate
one-frozen the head alone for one epoch, then everything at half the rate, the backbone at a hundredth of that
           (the proportions of fastai's ``fine_tune``: Howard & Gugger 2020)
gradual    the head alone, then with the last stage, the last two, the last three, then everything, in equal parts; the
           backbone at 1/2.6 of the head's rate (Howard & Ruder 2018, who divide by 2.6 at every layer)
========== ================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gradlens.errors import TrainingError
from gradlens.registry import Registry
from gradlens.train.settings import Phase


@dataclass(frozen=True)
class Strategy:
    """How the phases of a strategy are made.

    Attributes:
        make: (epochs, highest rate, depths) -> phases.
        least: epochs that it needs: one per phase.
        depths: what learns beside the head, where nothing else is said; ``None`` where there is nothing to say.
    """

    make: Callable[[int, float, tuple[str, ...]], tuple[Phase, ...]]
    least: int
    depths: tuple[str, ...] | None


STRATEGIES: Registry[Strategy] = Registry("strategy")


def phases(strategy: str, epochs: int, lr: float) -> tuple[Phase, ...]:
    """The phases of a strategy.

    Args:
        strategy: ``NAME`` or ``NAME:DEPTHS``, see above.
        epochs: of all phases together.
        lr: the highest learning rate.

    Raises:
        NotFoundError: no strategy of that name.
        TrainingError: it takes no depths, or needs more epochs.
    """
    name, colon, text = strategy.partition(":")
    found = STRATEGIES[name]
    depths = tuple(d.strip() for d in text.split(",") if d.strip())
    if colon and (found.depths is None or not depths):
        takes = " and ".join(n for n, s in STRATEGIES.items() if s.depths)
        raise TrainingError(f"strategy {strategy!r}: only {takes} take depths, like two-phase:last:2 or partial:layer4")
    if epochs < found.least:
        raise TrainingError(f"strategy {name!r} has {found.least} phases, so it needs as many epochs, got {epochs}")
    return found.make(epochs, lr, depths or found.depths or ())


def _strategy(name: str, least: int = 1, depths: tuple[str, ...] | None = None) -> Callable[[Any], Any]:
    def file(make: Callable[[int, float, tuple[str, ...]], tuple[Phase, ...]]) -> Any:
        STRATEGIES.register(name)(Strategy(make, least, depths))
        return make

    return file


@_strategy("scratch")
def _scratch(epochs: int, lr: float, depths: tuple[str, ...]) -> tuple[Phase, ...]:
    return (Phase(epochs=epochs),)


@_strategy("full")
def _full(epochs: int, lr: float, depths: tuple[str, ...]) -> tuple[Phase, ...]:
    return (Phase(epochs=epochs, backbone_lr=0.1),)


@_strategy("frozen")
def _frozen(epochs: int, lr: float, depths: tuple[str, ...]) -> tuple[Phase, ...]:
    return (Phase(epochs=epochs, train=("head",)),)


@_strategy("partial", depths=("last:1",))
def _partial(epochs: int, lr: float, depths: tuple[str, ...]) -> tuple[Phase, ...]:
    return (Phase(epochs=epochs, train=("head", *depths)),)


@_strategy("two-phase", least=2, depths=("last:2",))
def _two_phase(epochs: int, lr: float, depths: tuple[str, ...]) -> tuple[Phase, ...]:
    first = max(1, round(epochs / 3))
    return (
        Phase(epochs=first, train=("head",)),
        Phase(epochs=epochs - first, train=("head", *depths), lr=lr / 10),
    )


@_strategy("one-frozen", least=2)
def _one_frozen(epochs: int, lr: float, depths: tuple[str, ...]) -> tuple[Phase, ...]:
    return Phase(epochs=1, train=("head",)), Phase(epochs=epochs - 1, lr=lr / 2, backbone_lr=0.01)


_GRADUAL = (("head",), ("head", "last:1"), ("head", "last:2"), ("head", "last:3"), ("all",))


@_strategy("gradual", least=len(_GRADUAL))
def _gradual(epochs: int, lr: float, depths: tuple[str, ...]) -> tuple[Phase, ...]:
    ends = [epochs * i // len(_GRADUAL) for i in range(len(_GRADUAL) + 1)]
    return tuple(
        Phase(epochs=end - start, train=train, backbone_lr=1 if train == ("head",) else 1 / 2.6)
        for start, end, train in zip(ends, ends[1:], _GRADUAL, strict=False)
    )
