"""The training loop: reads top to bottom, can be killed at any moment, and ends with the same weights all the same.

After every epoch the whole state goes to ``state.pt`` in one step. Nothing random is kept in it: the order of the
images, their augmentation and the dropout of an epoch are drawn from (seed, epoch), so a run that continues from the
last finished epoch repeats the cut one exactly, on the same machine with the same number of threads.
"""

from __future__ import annotations

import copy
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler
from tqdm import tqdm

from gradlens.errors import TrainingError
from gradlens.runtime import Runtime, seed_everything, whole_file
from gradlens.train.augment import Augmenter, derive_seed, draw
from gradlens.train.images import Images
from gradlens.train.settings import Optimiser, Recipe, Schedule
from gradlens.zoo.outputs import logits_of


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        epoch: from 1.
        loss: mean over the training images, label smoothing included.
        accuracy: on the training images as they were seen (augmented, weights still moving).
        select_accuracy: on the selection images, of the weights that would be kept (the average, with ``ema``).
        select_loss: cross-entropy there, without label smoothing.
        lr: learning rate of the last step.
        seconds: spent on training and selection.
    """

    epoch: int
    loss: float
    accuracy: float
    select_accuracy: float
    select_loss: float
    lr: float
    seconds: float


@dataclass(frozen=True)
class Trained:
    """The outcome of a training run.

    Attributes:
        epoch: the one whose weights were kept, from 1.
        history: one per epoch.
        seconds: of all epochs together, also those before an interruption.
        images_per_second: training images over all of that time.
    """

    epoch: int
    history: tuple[Epoch, ...]
    seconds: float
    images_per_second: float


@torch.no_grad()
def calm(module: nn.Module, classes: int) -> None:
    """Draw a classification head anew, in place, where its library's initialisation is too large for few classes.

    EfficientNet's (Tan & Le 2019), which MobileNet and MNASNet share in timm and torchvision, draws it from
    ±1/sqrt(classes): right for 1,000 outputs, but with eight the first logits are near five and the first epochs are
    spent on forgetting them. torch's own initialisation goes by the number of inputs.
    """
    for layer in module.modules():
        if not isinstance(layer, nn.Linear) or layer.out_features != classes:
            continue
        if float(layer.weight.std()) > 2 / math.sqrt(3 * layer.in_features):  # torch's own has half of that
            layer.reset_parameters()


def unfuse_attention(module: nn.Module) -> list[Any]:
    """Have timm's attention layers multiply matrices plainly; returns those that used the fused kernel.

    On CPUs the backward pass of torch's fused attention takes two fifths of a training step of a small ViT in bf16;
    the plain products make that step 1.8 times as fast. On GPUs the fused kernel is the faster one.
    """
    found = [layer for layer in module.modules() if getattr(layer, "fused_attn", False) is True]
    for layer in found:
        layer.fused_attn = False
    return found


def train(
    module: nn.Module,
    recipe: Recipe,
    images: Images,
    select: Images,
    folder: Path,
    runtime: Runtime,
    *,
    data_fingerprint: str = "",
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Train ``module`` in place; on return it holds the kept weights, in evaluation mode, on the CPU.

    Args:
        module: a freshly built network; its weights before the first epoch are part of what ``recipe.seed`` decides.
        recipe: with ``mean`` and ``std`` given.
        images: training images, of side ``recipe.cache_size``.
        select: selection images, of side ``recipe.input_size``.
        folder: takes ``state.pt`` and ``metrics.jsonl``; a state found there is continued.
        runtime: device, progress; its precision and batch size are the recipe's business.
        data_fingerprint: of the images; a state made on others is refused.
        on_epoch: called after each epoch, once its state is safe.

    Raises:
        TrainingError: the loss is not finite; or the state in ``folder`` belongs to another recipe or other images.
    """
    if recipe.mean is None or recipe.std is None:
        raise ValueError("the recipe needs mean and std; see mean_and_std")
    if len(images) < recipe.batch_size:
        raise TrainingError(
            f"{recipe.model}: {len(images)} training images are less than one batch of {recipe.batch_size}; "
            "lower batch_size"
        )
    device = runtime.torch_device()
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    module.to(device, memory_format=layout)  # type: ignore[call-overload]
    fused = unfuse_attention(module) if device.type == "cpu" else []
    steps = len(images) // recipe.batch_size  # the rest of an epoch is left out: another one each time
    optimiser = _optimiser(module, recipe.optimiser)
    schedule = _schedule(optimiser, recipe.schedule, recipe.optimiser, steps * recipe.epochs)
    average = copy.deepcopy(module) if recipe.ema else module
    augment = Augmenter(recipe.augment, recipe.input_size, recipe.mean, recipe.std)
    plain = Augmenter(type(recipe.augment)(), recipe.input_size, recipe.mean, recipe.std)
    passes = Runtime(device=runtime.device, precision=recipe.precision, quiet=runtime.quiet)

    history: list[Epoch] = []
    kept: dict[str, Any] = {"epoch": 0, "accuracy": -1.0, "weights": {}}
    state_file = folder / "state.pt"
    mark = {"recipe": recipe.model_dump_json(), "data": data_fingerprint}
    if state_file.exists():
        state = _read_state(state_file, mark, recipe)
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        if recipe.ema:
            average.load_state_dict(state["average"])
        history = [Epoch(**e) for e in state["history"]]
        kept = state["kept"]
        if len(history) < recipe.epochs:
            runtime.say(f"{recipe.model}: continues after epoch {len(history)} of {recipe.epochs}")

    for epoch in range(len(history) + 1, recipe.epochs + 1):
        started = time.perf_counter()
        seed_everything(derive_seed(recipe.seed, epoch, use=2))  # dropout, stochastic depth
        order = torch.randperm(
            len(images), generator=torch.Generator().manual_seed(derive_seed(recipe.seed, epoch, use=3))
        )
        draws = draw(len(images), recipe.seed, epoch)
        total_loss, right, seen = 0.0, 0, 0
        module.train()
        bar = runtime.progress(
            order[: steps * recipe.batch_size].split(recipe.batch_size),
            f"{recipe.model} {epoch}/{recipe.epochs}",
            total=steps,
            unit="batch",
        )
        for step, batch in enumerate(bar):
            x = augment(images.pixels[batch].to(device), draws[batch]).contiguous(memory_format=layout)
            y = images.labels[batch].to(device)
            with passes.autocast():
                logits = logits_of(module(x))
                loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.optimiser.clip_norm:
                nn.utils.clip_grad_norm_(module.parameters(), recipe.optimiser.clip_norm)
            optimiser.step()
            lr = float(schedule.get_last_lr()[0])
            schedule.step()
            if recipe.ema:
                _move_average(average, module, recipe.ema, (epoch - 1) * steps + step)
            total_loss += float(loss.detach()) * len(batch)
            right += int((logits.detach().argmax(1) == y).sum())
            seen += len(batch)
            if not math.isfinite(total_loss):
                raise TrainingError(
                    f"{recipe.model}: the loss became {float(loss.detach())} in epoch {epoch}, step {step + 1}, at "
                    f"learning rate {lr:.2g}; lower optimiser.lr (now {recipe.optimiser.lr:g}) or set "
                    "optimiser.clip_norm = 1"
                )
            if isinstance(bar, tqdm):
                rate = seen / (time.perf_counter() - started)
                bar.set_postfix_str(f"loss {total_loss / seen:.3f}, acc {right / seen:.1%}, {rate:.0f} images/s")
        accuracy, select_loss = evaluate(average, select, plain, recipe, passes)
        seconds = time.perf_counter() - started
        done = Epoch(epoch, total_loss / seen, right / seen, accuracy, select_loss, lr, seconds)
        history.append(done)
        if recipe.keep == "last" or accuracy >= kept["accuracy"]:
            weights = {k: v.detach().cpu().clone() for k, v in average.state_dict().items()}
            kept = {"epoch": epoch, "accuracy": accuracy, "weights": weights}
        with whole_file(folder / "metrics.jsonl") as path:
            path.write_text("".join(json.dumps(asdict(e)) + "\n" for e in history), encoding="utf-8")
        with whole_file(state_file) as path:
            torch.save(
                {
                    "mark": mark,
                    "module": module.state_dict(),
                    "average": average.state_dict() if recipe.ema else {},
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                    "history": [asdict(e) for e in history],
                    "kept": kept,
                },
                path,
            )
        left = (recipe.epochs - epoch) * seconds
        runtime.say(
            f"{recipe.model} {epoch:>3}/{recipe.epochs}  loss {done.loss:.3f}  train {done.accuracy:.1%}  "
            f"select {accuracy:.2%}  lr {lr:.2g}  {seen / seconds:.0f} images/s"
            + (f"  {left / 60:.1f} min left" if left else "")
        )
        if on_epoch is not None:
            on_epoch(done)

    for layer in fused:
        layer.fused_attn = True
    module.load_state_dict(kept["weights"])
    module.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    seconds = sum(e.seconds for e in history)
    return Trained(kept["epoch"], tuple(history), seconds, len(history) * steps * recipe.batch_size / seconds)


def evaluate(
    module: nn.Module, images: Images, plain: Augmenter, recipe: Recipe, passes: Runtime
) -> tuple[float, float]:
    """(accuracy, mean cross-entropy) on images of the network's own size, in evaluation mode."""
    device = passes.torch_device()
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    module.eval()
    right, loss = 0, 0.0
    nothing = draw(len(images), 0, 0)
    with torch.inference_mode(), passes.autocast():
        for batch in torch.arange(len(images)).split(256):
            x = plain(images.pixels[batch].to(device), nothing[batch]).contiguous(memory_format=layout)
            y = images.labels[batch].to(device)
            logits = logits_of(module(x)).float()
            right += int((logits.argmax(1) == y).sum())
            loss += float(F.cross_entropy(logits, y, reduction="sum"))
    return right / len(images), loss / len(images)


def _optimiser(module: nn.Module, settings: Optimiser) -> torch.optim.Optimizer:
    """Weight decay on matrices and kernels alone, as is usual since He et al. 2019's "Bag of Tricks"."""
    moving = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    # by size and by name: position embeddings and class tokens are (1, tokens, channels), yet no weight matrices
    apart = ("pos_embed", "cls_token", "relative_position_bias_table", "class_token", "pos_embedding")
    plain = [p for n, p in moving if p.ndim <= 1 or n.rsplit(".", 1)[-1] in apart]
    chosen = {id(p) for p in plain}
    groups = [
        {"params": [p for _, p in moving if id(p) not in chosen], "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0)
    return torch.optim.AdamW(groups, lr=settings.lr)


def _schedule(
    optimiser: torch.optim.Optimizer, schedule: Schedule, settings: Optimiser, steps: int
) -> lr_scheduler.LRScheduler:
    """Stepped once per batch, ``steps`` times in all."""
    start = 0.04  # of the highest rate: where warm-up begins
    if schedule.name == "onecycle":
        total = max(3, steps + 1)  # torch divides by the length of each phase
        return lr_scheduler.OneCycleLR(
            optimiser,
            max_lr=settings.lr,
            total_steps=total,
            pct_start=max(schedule.warmup, 2 / total),
            div_factor=1 / start,
            final_div_factor=start / max(schedule.final, 1e-9),
            cycle_momentum=False,
        )
    up = round(schedule.warmup * steps)
    down: lr_scheduler.LRScheduler = (
        lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps - up), eta_min=settings.lr * schedule.final)
        if schedule.name == "cosine"
        else lr_scheduler.ConstantLR(optimiser, factor=1.0, total_iters=0)
    )
    if not up:
        return down
    warm = lr_scheduler.LinearLR(optimiser, start_factor=start, total_iters=up)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The epoch parameter")  # torch's own SequentialLR still passes it
        return lr_scheduler.SequentialLR(optimiser, [warm, down], milestones=[up])


@torch.no_grad()
def _move_average(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
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


def _read_state(path: Path, mark: Mapping[str, str], recipe: Recipe) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = state["mark"]
        other = Recipe.model_validate_json(found["recipe"])
    except Exception as err:  # torch raises many kinds for a file that is none of its own
        raise TrainingError(f"{path} is no training state ({type(err).__name__}); --fresh starts anew") from err
    elsewhere = "--fresh starts anew, --work names another folder"
    if different := recipe.differences(other):
        raise TrainingError(f"{path} belongs to a run with another {', '.join(different)}; {elsewhere}")
    if found["data"] != mark["data"]:
        raise TrainingError(f"{path} belongs to a run on other images; {elsewhere}")
    return state
