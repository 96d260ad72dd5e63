"""What moves the weights: optimisers, sharpness-aware steps, learning-rate schedules, moving average, early stopping.

Each is made anew for every phase of a run. Each rate is reached in the same way after an interruption: schedules are
closed formulas of the step, except ``plateau``, whose state is kept.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from timm.optim import Muon
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import lr_scheduler

from gradlens.errors import TrainingError
from gradlens.train.freezing import Chosen
from gradlens.train.settings import Optimiser, Phase, Schedule, Stopping

START = 0.04  # of the highest rate: where warm-up begins

# position embeddings and class tokens are (1, tokens, channels), yet no weight matrices
_NO_MATRICES = ("pos_embed", "cls_token", "relative_position_bias_table", "class_token", "pos_embedding")


def optimiser_of(module: nn.Module, settings: Optimiser, phase: Phase, chosen: Chosen) -> torch.optim.Optimizer:
    """The optimiser of what learns in a phase, at the phase's rates.

    Weight decay acts on matrices and kernels alone, as is usual since He et al. 2019's "Bag of Tricks"; so does Muon.

    Raises:
        TrainingError: a rate of its own is asked for the backbone of a network whose head is not known.
    """
    if phase.backbone_lr != 1 and not chosen.head:
        raise TrainingError(
            "backbone_lr sets the backbone apart from the head, but "
            + ("no last layer was found in this network; use backbone_lr = 1" if "all" in phase.train else
               f"train = {list(phase.train)} leaves the head as it is; add 'head', or set lr instead")
        )  # fmt: skip
    lr = phase.lr or settings.lr
    head = set(chosen.head) if phase.backbone_lr != 1 else set()
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = lr if name in head or not head else lr * phase.backbone_lr
        matrix = parameter.ndim > 1 and name.rsplit(".", 1)[-1] not in _NO_MATRICES
        groups.setdefault((rate, matrix), []).append(parameter)
    # the head's group comes first: the rate that is shown is the one that the phase names
    order = sorted(groups, reverse=True)
    options: list[dict[str, Any]] = [
        {"params": groups[rate, matrix], "lr": rate, "weight_decay": settings.weight_decay if matrix else 0.0}
        for rate, matrix in order
    ]
    match settings.name:
        case "sgd":
            return torch.optim.SGD(options, lr=lr, momentum=settings.momentum, nesterov=settings.momentum > 0)
        case "adam":
            return torch.optim.Adam(options, lr=lr)
        case "adamw":
            return torch.optim.AdamW(options, lr=lr)
        case "muon":
            for (_, matrix), group in zip(order, options, strict=True):
                group["use_fallback"] = not matrix  # timm goes by shapes, and takes a table of positions for a matrix
            muon: torch.optim.Optimizer = Muon(
                options, lr=lr, momentum=settings.momentum, nesterov=True, adjust_lr_fn="match_rms_adamw"
            )
            return muon


class Rates:
    """The learning rates of a phase: :meth:`step` after each batch, :meth:`epoch` after each epoch.

    Args:
        optimiser: its groups' rates, as they are now, are the highest that each group reaches.
        schedule: how they move.
        steps: per epoch.
        epochs: of the phase.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, schedule: Schedule, steps: int, epochs: int) -> None:
        total = steps * epochs
        self.up = round(schedule.warmup * total)
        self.taken = 0
        self.plateau: lr_scheduler.ReduceLROnPlateau | None = None
        self.optimiser = optimiser
        if schedule.name == "onecycle":
            length = max(3, total + 1)  # torch divides by the length of each part
            self.by_step: lr_scheduler.LRScheduler = lr_scheduler.OneCycleLR(
                optimiser,
                max_lr=[float(group["lr"]) for group in optimiser.param_groups],
                total_steps=length,
                pct_start=max(schedule.warmup, 2 / length),
                div_factor=1 / START,
                final_div_factor=START / max(schedule.final, 1e-9),
                cycle_momentum=False,
            )
            return
        # torch's own warm-up is chained by SequentialLR, which knows one floor for all groups and warns of itself
        self.by_step = lr_scheduler.LambdaLR(optimiser, factor_of(schedule, steps, epochs))
        if schedule.name == "plateau":
            self.plateau = lr_scheduler.ReduceLROnPlateau(optimiser, factor=schedule.factor, patience=schedule.patience)

    @property
    def lr(self) -> float:
        """The rate that the next step takes; of the head, where the backbone has another."""
        return float(self.optimiser.param_groups[0]["lr"])

    def step(self) -> None:
        """After each step of the optimiser."""
        self.taken += 1
        if self.plateau is None or self.taken <= self.up:  # after warm-up, plateau's rates are its own
            self.by_step.step()

    def epoch(self, select_loss: float) -> None:
        """After each epoch, with the loss on the selection images."""
        if self.plateau is not None and self.taken >= self.up:
            self.plateau.step(select_loss)

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs; the rates themselves stand in the optimiser's state."""
        plateau = {} if self.plateau is None else self.plateau.state_dict()
        return {"taken": self.taken, "by_step": self.by_step.state_dict(), "plateau": plateau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken, once the optimiser has its own state back."""
        self.taken = state["taken"]
        self.by_step.load_state_dict(state["by_step"])
        if self.plateau is not None:
            self.plateau.load_state_dict(state["plateau"])


def factor_of(schedule: Schedule, steps: int, epochs: int) -> Callable[[int], float]:
    """Step (from 0) -> the rate, as a part of the highest one; of every schedule but ``onecycle``.

    Linear from 0.04 during warm-up. Then, for cosine (Loshchilov & Hutter 2017, without restarts),
    f + (1 - f) (1 + cos(π t / T)) / 2 with T the steps that are left and t those taken of them; for step,
    factor^⌊epoch / every⌋ with epochs counted from 0.
    """
    total = steps * epochs
    up = round(schedule.warmup * total)

    def factor(step: int) -> float:
        if step < up:
            return START + (1 - START) * step / up
        if schedule.name == "cosine":
            done = min(1.0, (step - up) / max(1, total - up))
            return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * done)) / 2
        if schedule.name == "step":
            return float(schedule.factor ** (step // steps // schedule.every))
        return 1.0

    return factor


@contextlib.contextmanager
def uphill(module: nn.Module, rho: float) -> Iterator[None]:
    """Move what learns a step of length ``rho`` along its gradient, for the length of a ``with`` block.

    The first half of a step of sharpness-aware minimisation (Foret et al. 2021, "Sharpness-aware minimization for
    efficiently improving generalization", algorithm 1); the gradient taken inside is the one to descend. Afterwards the
    weights are what they were, to the bit. Batch norms leave their running statistics alone meanwhile: they are of the
    weights that stay.

    Args:
        module: with the gradients of a batch; their scale does not matter.
        rho: length of the step, in the L2 norm over all gradients together.
    """
    moved: list[torch.Tensor] = [p for p in module.parameters() if p.grad is not None]
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    with torch.no_grad():
        before = [p.clone() for p in moved]
        gradients = [p.grad for p in moved if p.grad is not None]
        length = nn.utils.get_total_norm(gradients)
        torch._foreach_add_(moved, list(torch._foreach_mul(gradients, float(rho / (length + 1e-12)))))
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        with torch.no_grad():
            torch._foreach_copy_(moved, before)


@torch.no_grad()
def move_average(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights and of norms' statistics.

    Decays less at first, so that the random start is soon forgotten (as TensorFlow's does). torch's ``AveragedModel``
    also averages whole-number buffers, which truncates Swin's table of relative positions: here they are copied.
    """
    decay = min(decay, (1 + step) / (10 + step))
    mine, theirs = average.state_dict(), module.state_dict()
    moving = [k for k, v in mine.items() if v.is_floating_point()]
    torch._foreach_lerp_([mine[k] for k in moving], [theirs[k] for k in moving], 1 - decay)
    for key in mine.keys() - set(moving):
        mine[key].copy_(theirs[key])


def reason_to_stop(stopping: Stopping, losses: Sequence[float], accuracies: Sequence[float]) -> str:
    """Why a phase ends after its epochs so far; empty where it goes on.

    Args:
        stopping: when.
        losses, accuracies: on the selection images, of each epoch of the phase.
    """
    if not stopping.patience:
        return ""
    values = [-v for v in losses] if stopping.metric == "loss" else list(accuracies)
    best, at = -math.inf, 0
    for i, value in enumerate(values):
        if value > best + stopping.min_delta:
            best, at = value, i
    stale = len(values) - 1 - at
    if stale < stopping.patience:
        return ""
    what = f"{abs(best):.4f}" if stopping.metric == "loss" else f"{best:.2%}"
    better = f" by more than {stopping.min_delta:g}" if stopping.min_delta else ""
    return f"the selection {stopping.metric} has not got better than {what}{better} for {stale} epochs"
