"""The training loop: reads top to bottom, can be killed at any moment, and ends with the same weights all the same.

After every epoch the whole state goes to ``state.pt`` in one step. Nothing random is kept in it: the order of the
images, their augmentation and the dropout of an epoch are drawn from (seed, epoch), so a run that continues from the
last finished epoch repeats the cut one exactly, on the same machine with the same number of threads.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from gradlens.errors import TrainingError
from gradlens.runtime import Runtime, plain_file, seed_everything, whole_file
from gradlens.train import freezing
from gradlens.train.augment import Augmenter, derive_seed, draw, order
from gradlens.train.balance import class_weights
from gradlens.train.images import Images
from gradlens.train.mix import Mixer, batch_seed
from gradlens.train.optimise import Rates, move_average, optimiser_of, reason_to_stop, uphill
from gradlens.train.parallel import in_parallel, synchronised, weight_of_share
from gradlens.train.policies import batches
from gradlens.train.settings import Phase, Recipe
from gradlens.zoo.outputs import logits_of


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        epoch: from 1.
        loss: mean over the training images, label smoothing included.
        accuracy: on the training images as they were seen (augmented, weights still moving); of mixed images, how
            many were given the label of the first.
        select_accuracy: on the selection images, of the weights that would be kept (the average, with ``ema``).
        select_loss: cross-entropy there, without label smoothing.
        lr: learning rate of the last step; of the head, where the backbone has another.
        seconds: spent on training and selection.
        phase: of the recipe, from 1.
    """

    epoch: int
    loss: float
    accuracy: float
    select_accuracy: float
    select_loss: float
    lr: float
    seconds: float
    phase: int = 1


@dataclass(frozen=True)
class Trained:
    """The outcome of a training run.

    Attributes:
        epoch: the one whose weights were kept, from 1.
        history: one per epoch.
        seconds: of all epochs together, also those before an interruption.
        images_per_second: training images over all of that time.
        stopped: why it ended before its last epoch; empty where it did not.
        last: weights after the last epoch (their average, with ``ema``), whichever epoch's were kept.
    """

    epoch: int
    history: tuple[Epoch, ...]
    seconds: float
    images_per_second: float
    stopped: str
    last: dict[str, torch.Tensor] = field(repr=False, compare=False)


@contextlib.contextmanager
def plain_attention(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Have timm's attention layers multiply matrices plainly on a CPU, for the length of a ``with`` block.

    There the backward pass of torch's fused attention takes two fifths of a training step of a small ViT in bf16; the
    plain products make that step 1.8 times as fast. On GPUs the fused kernel is the faster one.
    """
    fused: list[Any] = [m for m in module.modules() if device.type == "cpu" and getattr(m, "fused_attn", False) is True]
    try:
        for layer in fused:
            layer.fused_attn = False
        yield
    finally:
        for layer in fused:
            layer.fused_attn = True


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
    on_step: Callable[[dict[str, float]], None] | None = None,
) -> Trained:
    """Train ``module`` in place; on return it holds the kept weights, in evaluation mode, on the CPU.

    Args:
        module: a network as it starts; its weights before the first epoch are drawn from ``recipe.seed``, or loaded.
        recipe: with ``mean`` and ``std`` given.
        images: training images, of side ``recipe.cache_size``.
        select: selection images, of side ``recipe.input_size``.
        folder: takes ``state.pt`` (the last epoch's weights, the kept one's, and all that the next epoch needs) and
            ``metrics.jsonl``; a state found there is continued.
        runtime: device, progress, processes that augmentation policies run in, and those that train together (each on
            its share of every batch; the first one writes); its precision and batch size are the recipe's business.
        data_fingerprint: of the images and of the weights it starts from; a state made with others is refused.
        on_epoch: called after each epoch, once its state is safe.
        on_step: called after each step with ``step`` (from 1, over the whole run), ``epoch``, ``phase``, ``loss``,
            ``accuracy`` (of the batch; of several processes, of this one's share) and ``lr``.

    Raises:
        TrainingError: the loss is not finite; the state in ``folder`` belongs to another recipe or other images; or a
            phase cannot be carried out on this network.
        NotFoundError: a phase names a depth that the network does not have.
    """
    if recipe.mean is None or recipe.std is None:
        raise ValueError("the recipe needs mean and std; see mean_and_std")
    if len(images) < recipe.batch_size:
        raise TrainingError(
            f"{recipe.model}: {len(images)} training images are less than one batch of {recipe.batch_size}; "
            "lower batch_size"
        )
    processes = runtime.processes
    if recipe.batch_size < processes.world:
        raise TrainingError(
            f"{recipe.model}: a batch of {recipe.batch_size} images cannot be shared by {processes.world} processes"
        )
    phases = recipe.phases or (Phase(epochs=recipe.epochs),)
    plan = freezing.plan(module, recipe.input_size, [p.train for p in phases])
    device = runtime.torch_device()
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    module.to(device, memory_format=layout)  # type: ignore[call-overload]
    steps = len(images) // recipe.batch_size  # the rest of an epoch is left out: another one each time
    average = copy.deepcopy(module) if recipe.ema else module
    augment = Augmenter(recipe.augment, recipe.input_size, recipe.mean, recipe.std)
    plain = Augmenter(type(recipe.augment)(), recipe.input_size, recipe.mean, recipe.std)
    mix = Mixer(recipe.mix, plan[0].classes)
    balanced = recipe.class_weights == "balanced"
    weight = class_weights(images.labels, plan[0].classes).to(device) if balanced else None
    passes = Runtime(
        device=runtime.device, precision=recipe.precision, quiet=runtime.quiet, processes=runtime.processes
    )

    history: list[Epoch] = []
    kept: dict[str, Any] = {"epoch": 0, "accuracy": -1.0, "weights": {}}
    state: dict[str, Any] = {}
    state_file = folder / "state.pt"
    mark = {"recipe": recipe.model_dump_json(), "data": data_fingerprint}
    if processes.several:
        mark["processes"] = str(processes.world)
    if state_file.exists():
        state = _read_state(state_file, mark, recipe)
        module.load_state_dict(state["module"])
        if recipe.ema:
            average.load_state_dict(state["average"])
        history, kept = [Epoch(**e) for e in state["history"]], state["kept"]
        if len(history) < recipe.epochs:
            runtime.say(f"{recipe.model}: continues after epoch {len(history)} of {recipe.epochs}")

    def backward(
        network: nn.Module, x: torch.Tensor, target: torch.Tensor, batch: torch.Tensor, scaler: torch.amp.GradScaler
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and logits of this process's share of a batch; the gradients are added to those that are there."""
        with passes.autocast():
            logits = logits_of(network(x))
            loss = F.cross_entropy(logits, target, weight, label_smoothing=recipe.label_smoothing)
            loss = loss * weight_of_share(target, images.labels[batch], weight, processes.world)
        scaler.scale(loss).backward()
        return loss, logits

    rho, sam_from = recipe.optimiser.sam_rho, recipe.optimiser.sam_start * recipe.epochs * steps
    stopped, last = "", 0
    with plain_attention(module, device), synchronised(module, device, runtime):
        for number, (phase, chosen) in enumerate(zip(phases, plan, strict=True), start=1):
            first, last = last + 1, last + phase.epochs
            if len(history) >= last:
                continue  # it was finished before an interruption
            freezing.apply(module, chosen)
            optimiser = optimiser_of(module, recipe.optimiser, phase, chosen)
            rates = Rates(optimiser, recipe.schedule, steps, phase.epochs)
            scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
            if len(history) >= first:
                optimiser.load_state_dict(state["optimiser"])
                rates.load_state_dict(state["rates"])
                scaler.load_state_dict(state["scaler"])
            network = in_parallel(module, device, processes)
            which = f"phase {number} of {len(phases)} " if len(phases) > 1 else ""
            runtime.say(f"{recipe.model}: {which}{freezing.report(chosen)}")

            for epoch in range(len(history) + 1, last + 1):
                if number == len(phases):
                    so_far = history[first - 1 :]
                    stopped = reason_to_stop(
                        recipe.stopping, [e.select_loss for e in so_far], [e.select_accuracy for e in so_far]
                    )
                    if stopped:
                        break
                started = time.perf_counter()
                # dropout, stochastic depth; of several processes each draws its own
                seed_everything(derive_seed(recipe.seed, epoch, use=2) + processes.rank)
                shuffled = order(len(images), recipe.seed, epoch)
                draws = draw(len(images), recipe.seed, epoch)
                planned = shuffled[: steps * recipe.batch_size].split(recipe.batch_size)
                # what mixes images needs the whole batch; the network then gets this process's share of it
                own = planned if mix.mixes else [processes.share(batch) for batch in planned]
                total_loss, right, seen = 0.0, 0, 0
                freezing.train_mode(module)
                bar = runtime.progress(
                    batches(images.pixels, own, recipe, epoch, runtime.workers),
                    f"{recipe.model} {epoch}/{recipe.epochs}",
                    total=steps,
                    unit="batch",
                )
                for step, (batch, pixels) in enumerate(bar):
                    x = augment(pixels.to(device), draws[batch])
                    y = target = images.labels[batch].to(device)
                    if mix.mixes:
                        x, target = mix(x, y, batch_seed(recipe.seed, epoch, step))
                        x, y, target = processes.share(x), processes.share(y), processes.share(target)
                    x = x.contiguous(memory_format=layout)
                    taken = (epoch - 1) * steps + step  # before this one
                    optimiser.zero_grad(set_to_none=True)
                    loss, logits = backward(network, x, target, planned[step], scaler)
                    if rho and taken >= sam_from:
                        with uphill(module, rho):
                            optimiser.zero_grad(set_to_none=True)
                            backward(network, x, target, planned[step], scaler)
                    if recipe.optimiser.clip_norm:
                        scaler.unscale_(optimiser)
                        nn.utils.clip_grad_norm_(module.parameters(), recipe.optimiser.clip_norm)
                    lr, scale = rates.lr, scaler.get_scale()
                    scaler.step(optimiser)
                    scaler.update()
                    if scaler.get_scale() >= scale:  # else the gradients overflowed, and no step was taken
                        rates.step()
                    if recipe.ema:
                        move_average(average, module, recipe.ema, taken)
                    batch_loss, hits = float(loss.detach()), int((logits.detach().argmax(1) == y).sum())
                    total_loss += batch_loss * len(planned[step])
                    right += hits
                    seen += len(planned[step])
                    if not math.isfinite(total_loss):
                        raise TrainingError(
                            f"{recipe.model}: the loss became {batch_loss} in epoch {epoch}, step {step + 1}, at "
                            f"learning rate {lr:.2g}; lower optimiser.lr (now {recipe.optimiser.lr:g}) or set "
                            "optimiser.clip_norm = 1"
                        )
                    if isinstance(bar, tqdm):
                        speed = seen / (time.perf_counter() - started)
                        left = ((recipe.epochs - epoch + 1) * steps * recipe.batch_size - seen) / speed
                        bar.set_postfix_str(
                            f"loss {total_loss / seen:.3f}, acc {right / seen:.1%}, lr {lr:.2g}, {speed:.0f} images/s, "
                            f"{left / 60:.1f} min left in all"
                        )
                    if on_step is not None:
                        told = {"step": taken + 1, "epoch": epoch, "phase": number, "loss": batch_loss}
                        on_step(told | {"accuracy": hits / len(y), "lr": lr})
                sums = processes.all([total_loss, float(right)])
                total_loss = sum(of_process[0] for of_process in sums) / processes.world
                right = int(sum(of_process[1] for of_process in sums))
                processes.align(module)
                if recipe.ema:
                    processes.align(average)
                accuracy, select_loss = evaluate(average, select, plain, recipe, passes)
                rates.epoch(select_loss)
                seconds = time.perf_counter() - started
                done = Epoch(epoch, total_loss / seen, right / seen, accuracy, select_loss, lr, seconds, number)
                history.append(done)
                if recipe.keep == "last" or accuracy >= kept["accuracy"]:
                    weights = average.state_dict()  # with its layers' versions, without which MNASNet takes none
                    weights.update({k: v.detach().cpu().clone() for k, v in weights.items()})
                    kept = {"epoch": epoch, "accuracy": accuracy, "weights": weights}
                if processes.first:
                    _write_metrics(folder, history)
                    packed = io.BytesIO()  # torch would hide why a file cannot be written
                    torch.save(
                        {
                            "mark": mark,
                            "module": module.state_dict(),
                            "average": average.state_dict() if recipe.ema else {},
                            "optimiser": optimiser.state_dict(),
                            "rates": rates.state_dict(),
                            "scaler": scaler.state_dict(),
                            "history": [asdict(e) for e in history],
                            "kept": kept,
                        },
                        packed,
                    )
                    with whole_file(state_file) as path:
                        path.write_bytes(packed.getbuffer())
                left = (recipe.epochs - epoch) * seconds
                runtime.say(
                    f"{recipe.model} {epoch:>3}/{recipe.epochs}  loss {done.loss:.3f}  train {done.accuracy:.1%}  "
                    f"select {accuracy:.2%}  lr {lr:.2g}  {seen / seconds:.0f} images/s"
                    + (f"  {left / 60:.1f} min left" if left else "")
                )
                if on_epoch is not None:
                    on_epoch(done)

    if stopped:
        runtime.say(f"{recipe.model}: stopped after epoch {len(history)} of {recipe.epochs}: {stopped}")
        if processes.first:
            _write_metrics(folder, history, stopped)
    final = {k: v.detach().cpu().clone() for k, v in average.state_dict().items()}
    module.load_state_dict(kept["weights"])
    module.requires_grad_(True)
    module.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    seconds = sum(e.seconds for e in history)
    speed = len(history) * steps * recipe.batch_size / seconds
    return Trained(kept["epoch"], tuple(history), seconds, speed, stopped, final)


def evaluate(
    module: nn.Module, images: Images, plain: Augmenter, recipe: Recipe, passes: Runtime
) -> tuple[float, float]:
    """(accuracy, mean cross-entropy) on images of the network's own size, in evaluation mode.

    Of several processes each takes every so many-th batch; the losses are added in the batches' order all the same.
    """
    device = passes.torch_device()
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    module.eval()
    processes = passes.processes
    found: dict[int, tuple[int, float]] = {}
    nothing = draw(len(images), 0, 0)
    with torch.inference_mode(), passes.autocast():
        for number, batch in enumerate(torch.arange(len(images)).split(256)):
            if number % processes.world != processes.rank:
                continue
            x = plain(images.pixels[batch].to(device), nothing[batch]).contiguous(memory_format=layout)
            y = images.labels[batch].to(device)
            logits = logits_of(module(x)).float()
            found[number] = (
                int((logits.argmax(1) == y).sum()), float(F.cross_entropy(logits, y, reduction="sum"))
            )  # fmt: skip
    together = {number: sums for part in processes.all(found) for number, sums in part.items()}
    right, loss = 0, 0.0
    for number in sorted(together):
        right, loss = right + together[number][0], loss + together[number][1]
    return right / len(images), loss / len(images)


def _write_metrics(folder: Path, history: Sequence[Epoch], stopped: str = "") -> None:
    """A line of JSON per epoch; a run that stopped early has one more, with its last epoch and the reason."""
    lines: list[dict[str, Any]] = [asdict(e) for e in history]
    if stopped:
        lines.append({"stopped": len(history), "reason": stopped})
    with whole_file(folder / "metrics.jsonl") as path:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _read_state(path: Path, mark: Mapping[str, str], recipe: Recipe) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(plain_file(path), map_location="cpu", weights_only=True)
        found, _ = state["mark"], state["rates"]  # the latter is missing from a state of an older version
        other = Recipe.model_validate_json(found["recipe"])
    except Exception as err:  # torch raises many kinds for a file that is none of its own
        raise TrainingError(f"{path} is no training state ({type(err).__name__}); --fresh starts anew") from err
    elsewhere = "--fresh starts anew, --work names another folder"
    if different := recipe.differences(other):
        raise TrainingError(f"{path} belongs to a run with another {', '.join(different)}; {elsewhere}")
    if (before := found.get("processes", "1")) != (now := mark.get("processes", "1")):
        raise TrainingError(
            f"{path} belongs to a run of {before} processes, and this one has {now}: torchrun --nproc-per-node "
            f"{before} goes on with it; {elsewhere}"
        )
    if found["data"] != mark["data"]:
        raise TrainingError(f"{path} belongs to a run on other images; {elsewhere}")
    return state
