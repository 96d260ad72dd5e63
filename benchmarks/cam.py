"""Layer-wise Grad-CAM: gradlens beside its peers, and beside the least that autograd can do. Prints Markdown tables.

    python benchmarks/cam.py                        all five networks at batch 1 and 8, two threads
    python benchmarks/cam.py --model resnet50 --batch 1 --repeats 5
    python benchmarks/cam.py --memory               peak memory over a plain forward pass, growth over 50 calls
    python benchmarks/cam.py --device cuda          the same ratios with CUDA events

Every contender makes maps of the same depths for the predicted class, from pixels to heat maps in 0..1 at the image's
size. Contenders run in one process, in a new random order each round, and the median is taken: machines are noisy, so
only the ratios mean something. `forward` is a forward pass without gradients, `bare pass` one forward pass plus one
``torch.autograd.grad`` to the same depths with frozen parameters. Weights are random: they do not change the time.
Needs the `test` extra (grad-cam, torchcam).
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from gradlens.cam.engine import explain
from gradlens.cam.fast import compare, fast_copy
from gradlens.depths.find import Depths, find_depths

MODELS = {
    "ResNet-50": "torchvision:resnet50",
    "DenseNet-121": "torchvision:densenet121",
    "ConvNeXt-T": "torchvision:convnext_tiny",
    "Swin-T": "torchvision:swin_t",
    "ViT-B/16": "timm:vit_base_patch16_224",
}
SIZE = 224
Run = Callable[[], object]


def build(name: str, device: str) -> nn.Module:
    source, _, arch = MODELS[name].partition(":")
    torch.manual_seed(0)
    model = timm.create_model(arch) if source == "timm" else getattr(torchvision.models, arch)(weights=None)
    model = model.eval().to(device)
    for p in model.parameters():
        p.requires_grad_(False)
    return model


@dataclass(frozen=True)
class Setting:
    """One network, one batch, and the depths that everybody is asked for."""

    model: nn.Module
    images: torch.Tensor
    found: Depths
    layers: tuple[str, ...]  # paths of four depths

    @property
    def modules(self) -> list[nn.Module]:
        return [self.model.get_submodule(path) for path in self.layers]


def setting(name: str, batch: int, device: str) -> Setting:
    model = build(name, device)
    images = torch.randn((batch, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1)).to(device)
    found = find_depths(model, images[:1])
    return Setting(model, images, found, tuple(p.path for p in found.select(["4"])))


def forward(s: Setting) -> Run:
    def run() -> None:
        with torch.no_grad():
            s.model(s.images)

    return run


def bare_pass(s: Setting) -> Run:
    """One forward pass and one autograd.grad: hook, pass a clone onward, differentiate."""

    def run() -> None:
        kept: list[torch.Tensor] = []

        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
            kept.append(output if output.requires_grad else output.detach().requires_grad_(True))
            return kept[-1].clone()

        handles = [m.register_forward_hook(hook) for m in s.modules]
        logits = s.model(s.images)
        for handle in handles:
            handle.remove()
        score = logits.gather(1, logits.argmax(1, keepdim=True)).sum()
        torch.autograd.grad(score, kept, allow_unused=True)

    return run


def gradlens(s: Setting, layers: tuple[str, ...], model: nn.Module | None = None, targets: int = 1) -> Run:
    top = None if targets == 1 else lambda logits: logits.topk(targets).indices

    def run() -> None:
        explain(model or s.model, s.images, layers=layers, targets=top, depths=s.found).heatmaps()

    return run


def pytorch_grad_cam(s: Setting) -> Run:
    """One object per layer: it averages the layers of one object into one map. It cannot explain frozen parameters."""
    from pytorch_grad_cam import GradCAM

    points = {p.path: p for p in s.found.select(list(s.layers))}

    def reshaper(path: str) -> Callable[[torch.Tensor], torch.Tensor] | None:
        p = points[path]
        if p.layout == "NHWC":
            return lambda t: t.permute(0, 3, 1, 2)
        if p.layout == "NLC":
            return lambda t: t[:, p.prefix :].transpose(1, 2).unflatten(2, p.shape[1:])
        return None

    def run() -> None:
        s.model.requires_grad_(True)
        for path, module in zip(s.layers, s.modules, strict=True):
            with GradCAM(s.model, [module], reshape_transform=reshaper(path)) as cam:
                cam(s.images, targets=None)
        s.model.requires_grad_(False)
        s.model.zero_grad(set_to_none=True)

    return run


def torchcam(s: Setting) -> Run:
    from torchcam.methods import GradCAM

    def run() -> None:
        with GradCAM(s.model, list(s.layers), input_shape=(3, SIZE, SIZE)) as extractor:
            logits = s.model(s.images.requires_grad_(True))
            maps = extractor(logits.argmax(1).tolist(), logits)
        s.images.requires_grad_(False)
        for m in maps:
            F.interpolate(m[:, None] if m.ndim == 3 else m[None, None], (SIZE, SIZE), mode="bilinear")

    return run


def captum(s: Setting) -> Run:
    from captum.attr import LayerAttribution, LayerGradCam

    def run() -> None:
        with torch.no_grad():
            target = s.model(s.images).argmax(1)
        for module in s.modules:
            maps = LayerGradCam(s.model, module).attribute(s.images, target=target, relu_attributions=True)
            maps = maps[:, None] if maps.ndim == 3 else maps
            maps = LayerAttribution.interpolate(maps, (SIZE, SIZE), "bilinear")
            maps / maps.amax((2, 3), keepdim=True).clamp(min=1e-12)

    return run


PEERS: dict[str, Callable[[Setting], Run]] = {
    "pytorch-grad-cam": pytorch_grad_cam,
    "TorchCAM": torchcam,
    "Captum": captum,
}


def clock(device: str) -> Callable[[Run], float]:
    """Seconds of one call: CUDA events on a GPU, the wall clock on a CPU."""

    def cpu(run: Run) -> float:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    def cuda(run: Run) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000

    return cuda if device.startswith("cuda") else cpu


def medians(contenders: dict[str, Run], repeats: int, device: str) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    once = clock(device)
    order = list(contenders)
    for _ in range(repeats):
        random.shuffle(order)
        for name in order:
            seconds[name].append(once(contenders[name]))
    return {name: statistics.median(values) for name, values in seconds.items()}


def contenders(s: Setting, peers: bool = True) -> tuple[dict[str, Run], dict[str, str]]:
    """What is timed, each called once already, and remarks: how far the fast copies' maps are from the plain ones."""
    points = s.found.points
    runs = {
        "forward": forward(s),
        "bare pass": bare_pass(s),
        "gradlens": gradlens(s, s.layers),
        "16 depths": gradlens(s, ("16",)),
        "5 targets, all depths": gradlens(s, ("all",), targets=5),
    }
    remarks = {}
    for label, dtype in (("fast", torch.float32), ("fast bf16", torch.bfloat16)):
        quick = fast_copy(s.model, s.images[:1], points, dtype)
        runs[label] = gradlens(s, s.layers, quick.module)
        runs[f"{label}, 5 targets, all depths"] = gradlens(s, ("all",), quick.module, targets=5)
        plain = explain(s.model, s.images, layers=s.layers, depths=s.found)
        remarks[label] = str(
            compare(plain, explain(quick.module, s.images, layers=s.layers, depths=s.found, targets=plain.targets))
        )
    for run in runs.values():
        run()  # first calls allocate
    if peers:
        for label, make in PEERS.items():
            run = make(s)
            try:
                run()
            except Exception as err:
                remarks[label] = f"fails: {type(err).__name__}: {str(err).splitlines()[0]}"
            else:
                runs[label] = run
    return runs, remarks


def times(names: list[str], batches: list[int], repeats: int, device: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for batch in batches:
        for name in names:
            s = setting(name, batch, device)
            runs, remarks = contenders(s)
            took = medians(runs, repeats, device)
            row = {"model": name, "batch": batch, "seconds": took, "depths": len(s.found.points), "remarks": remarks}
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
            del s, runs
            gc.collect()
    return rows


def time_tables(rows: list[dict[str, object]]) -> str:
    over_bare = ["gradlens", "fast", "fast bf16", *PEERS]
    over_forward = ["bare pass", "gradlens", "5 targets, all depths", "fast, 5 targets, all depths"]
    lines = [
        "Four depths, time as a multiple of the bare pass (16 depths: of gradlens with four):",
        "",
        f"| network | batch | forward ms | {' | '.join(over_bare)} | 16 depths |",
        f"|---|--:|--:|{'--:|' * (len(over_bare) + 1)}",
    ]
    for row in rows:
        took: dict[str, float] = row["seconds"]  # type: ignore[assignment]
        cells = [f"{took[c] / took['bare pass']:.2f}" if c in took else "fails" for c in over_bare]
        sixteen = f"{took['16 depths'] / took['gradlens']:.2f}"
        lines.append(
            f"| {row['model']} | {row['batch']} | {1e3 * took['forward']:.0f} | {' | '.join(cells)} | {sixteen} |"
        )
    lines += [
        "",
        "Time as a multiple of one forward pass:",
        "",
        f"| network | batch | {' | '.join(over_forward)} | fast bf16, 5 targets, all depths |",
        f"|---|--:|{'--:|' * (len(over_forward) + 1)}",
    ]
    for row in rows:
        took = row["seconds"]  # type: ignore[assignment]
        cells = [f"{took[c] / took['forward']:.2f}" for c in [*over_forward, "fast bf16, 5 targets, all depths"]]
        lines.append(f"| {row['model']} | {row['batch']} | {' | '.join(cells)} |")
    for row in rows:
        for what, remark in row["remarks"].items():  # type: ignore[attr-defined]
            lines.append(f"\n{row['model']}, batch {row['batch']}, {what}: {remark}.")
    return "\n".join(lines)


def resident(what: str) -> float:
    """Resident memory of this process in MB: ``VmRSS`` now, ``VmHWM`` its peak since :func:`forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def memory_of(name: str, batch: int, contender: str) -> dict[str, float]:
    """In a process of its own: peak over plain forward passes, and growth over 50 calls, in MB."""
    s = setting(name, batch, "cpu")
    plain = forward(s)
    run = {"forward": plain, "bare pass": bare_pass(s), "gradlens": gradlens(s, s.layers)}.get(contender)
    run = run or PEERS[contender](s)
    run()  # first calls allocate for good
    peaks = []
    for call in (plain, run):
        gc.collect()
        forget_peak()
        for _ in range(3):
            call()
        peaks.append(resident("VmHWM"))
    if contender in PEERS:
        return {"peak": peaks[1] - peaks[0]}
    settled = resident("VmRSS")
    for _ in range(50):
        run()
    return {"peak": peaks[1] - peaks[0], "growth": resident("VmRSS") - settled}


def memory_table(names: list[str], batches: list[int], threads: int) -> str:
    columns = ["bare pass", "gradlens", *PEERS]
    lines = [
        "Peak memory over a plain forward pass, MB (in brackets: growth over 50 more calls):",
        "",
        f"| network | batch | {' | '.join(columns)} |",
        f"|---|--:|{'--:|' * len(columns)}",
    ]
    for batch in batches:
        for name in names:
            cells = []
            for contender in columns:
                arguments = ["--measure", contender, "--model", name, "--batch", str(batch), "--threads", str(threads)]
                # freed memory goes back at once, so that what is resident is what is used
                frugal = {"MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_TRIM_THRESHOLD_": "1000000"}
                done = subprocess.run(
                    [sys.executable, __file__, *arguments], capture_output=True, text=True, env=os.environ | frugal
                )
                if done.returncode:
                    cells.append("fails")
                    continue
                got = json.loads(done.stdout.splitlines()[-1])
                cells.append(f"{got['peak']:.0f}" + (f" ({got['growth']:+.0f})" if "growth" in got else ""))
            lines.append(f"| {name} | {batch} | {' | '.join(cells)} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=list(MODELS), help="repeatable [default: all]")
    parser.add_argument("--batch", action="append", type=int, help="repeatable [default: 1 and 8]")
    parser.add_argument("--repeats", type=int, default=11, help="rounds, of which the median is taken")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time (CPU)")
    parser.add_argument("--measure", choices=["forward", "bare pass", "gradlens", *PEERS], help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")  # what peers and random weights warn about is not what is measured
    logging.disable()
    names, batches = given.model or list(MODELS), given.batch or [1, 8]
    if given.measure:
        print(json.dumps(memory_of(names[0], batches[0], given.measure)))
    elif given.memory:
        print(memory_table(names, batches, given.threads))
    else:
        print(time_tables(times(names, batches, given.repeats, given.device)))


if __name__ == "__main__":
    main()
