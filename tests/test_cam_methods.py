"""Every CAM method: its paper's formula written slowly in float64, other people's code, and what all methods promise.

The registry decides what is tested: a method without a slow second version in this file fails.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from captum.attr import GuidedBackprop, GuidedGradCam, IntegratedGradients, LayerGradCam, Occlusion
from torch import Tensor, nn
from torchcam import methods as torchcam
from transformers import ViTConfig, ViTForImageClassification

from gradlens.cam.attribution import IG_STEPS, OCCLUDED, full_gradient
from gradlens.cam.engine import Explanation, explain, explain_all
from gradlens.cam.methods import METHODS
from gradlens.depths.capture import Captured, Score, capture
from gradlens.depths.find import find_depths
from gradlens.errors import ModelError
from gradlens.records import HookPoint

FORMULAS = [name for name, m in METHODS.items() if m.needs != "model"]
RUNNERS = [name for name, m in METHODS.items() if m.needs == "model"]
# Papers whose map, before any ReLU of its own, is a sum of things that cannot be negative.
NEVER_NEGATIVE = {"elementwise", "fullgrad", "rollout", "gradient-rollout"}
TRANSFORMERS_ONLY = {"rollout", "gradient-rollout"}
RECTIFIERS_ONLY = {"guided-backprop", "guided-gradcam"}


class TinyCnn(nn.Module):
    """Two stages, every ReLU its own module, nothing in place: a network that all peers can handle.

    Args:
        linear: average pooling and one linear layer behind the second stage; otherwise a further hidden layer.
        smooth: GELU instead of ReLU, so that there is a second derivative.
    """

    def __init__(self, linear: bool = True, smooth: bool = False) -> None:
        super().__init__()
        act = nn.GELU if smooth else nn.ReLU
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), act())
        self.stage1 = nn.Sequential(nn.Conv2d(5, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), act())
        self.stage2 = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), act())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 4) if linear else nn.Sequential(nn.Linear(8, 7), act(), nn.Linear(7, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.stage2(self.stage1(self.stem(x)))).flatten(1))


def tiny_cnn(linear: bool = True, smooth: bool = False) -> TinyCnn:
    torch.manual_seed(3)
    model = TinyCnn(linear, smooth)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean, 0.1, 0.3)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
            nn.init.normal_(m.bias, 0, 0.3)
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.Linear):
                m.weight *= 3
    return model.eval()


def tiny_vit(**arguments: object) -> nn.Module:
    torch.manual_seed(3)
    shape = {"img_size": (16, 24), "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 4}
    model = timm.create_model("vit_tiny_patch16_224", **shape | arguments)
    with torch.no_grad():
        for p in model.parameters():  # timm's are too small to make two tokens differ
            p.add_(torch.randn(p.shape) * 0.15)
    return model.eval()


def pictures(n: int = 2, size: tuple[int, int] = (16, 24)) -> Tensor:
    return torch.randn((n, 3, *size), generator=torch.Generator().manual_seed(7))


def close(ours: object, truth: object, tolerance: float = 1e-4, name: str = "") -> None:
    """Equal up to a share of the truth's largest value (cells near zero are sums that cancel)."""
    ours, truth = (np.asarray(v.detach() if isinstance(v, Tensor) else v, np.float64) for v in (ours, truth))
    assert ours.shape == truth.shape, name
    size = np.nanmax(np.abs(truth)) if truth.size and not np.isnan(truth).all() else 0.0
    np.testing.assert_allclose(ours, truth, rtol=tolerance, atol=tolerance * size, err_msg=name)


# --- formulas over one captured pass ---------------------------------------------------------------------------------

Map = np.ndarray


def cells(a: Map) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(a.shape[1]) for j in range(a.shape[2]))


def weighted(weights: Sequence[float], a: Map) -> Map:
    out = np.zeros(a.shape[1:])
    for c in range(len(a)):
        for i, j in cells(a):
            out[i, j] += weights[c] * a[c, i, j]
    return out


def slow_gradcam(a: Map, g: Map, _h: Map) -> Map:
    return weighted([sum(g[c, i, j] for i, j in cells(a)) / a[0].size for c in range(len(a))], a)


def slow_gradcam_plus_plus(a: Map, g: Map, _h: Map) -> Map:
    weights = []
    for c in range(len(a)):
        total = sum(a[c, i, j] for i, j in cells(a))
        weight = 0.0
        for i, j in cells(a):
            above, below = g[c, i, j] ** 2, 2 * g[c, i, j] ** 2 + g[c, i, j] ** 3 * total
            weight += (above / below if below else 0.0) * max(g[c, i, j], 0.0)
        weights.append(weight)
    return weighted(weights, a)


def slow_products(a: Map, g: Map, each: Callable[[float, float], float]) -> Map:
    out = np.zeros(a.shape[1:])
    for c in range(len(a)):
        for i, j in cells(a):
            out[i, j] += each(a[c, i, j], g[c, i, j])
    return out


def slow_xgradcam(a: Map, g: Map, _h: Map) -> Map:
    weights = []
    for c in range(len(a)):
        total = sum(a[c, i, j] for i, j in cells(a))
        weights.append(sum(g[c, i, j] * a[c, i, j] for i, j in cells(a)) / total if total else 0.0)
    return weighted(weights, a)


def slow_component(x: Map) -> Map:
    matrix = np.array([x[:, i, j] for i, j in cells(x)])  # cells x channels, as in the paper
    _, _, directions = np.linalg.svd(matrix)
    projected = (matrix @ directions[0]).reshape(x.shape[1:])
    return -projected if projected.sum() < 0 else projected


def slow_shapleycam(a: Map, g: Map, h: Map) -> Map:
    return slow_gradcam(a, g - 0.5 * h, h)


def slow_cam(a: Map, g: Map, h: Map) -> Map:
    uneven = max(np.ptp(channel) for channel in g)
    if np.abs(h).max() > 1e-3 * np.abs(g).max() or uneven > 1e-3 * np.abs(g).max() or not g.any():
        return np.full(a.shape[1:], np.nan)
    return weighted([g[c, 0, 0] * a[0].size for c in range(len(a))], a)  # y = Σ_c W_c mean A_c, so G = W / (h·w)


SLOW_FORMULAS: dict[str, Callable[[Map, Map, Map], Map]] = {
    "gradcam": slow_gradcam,
    "gradcam++": slow_gradcam_plus_plus,
    "hirescam": lambda a, g, h: slow_products(a, g, lambda x, y: x * y),
    "elementwise": lambda a, g, h: slow_products(a, g, lambda x, y: max(x * y, 0.0)),
    "layercam": lambda a, g, h: slow_products(a, g, lambda x, y: x * max(y, 0.0)),
    "xgradcam": slow_xgradcam,
    "eigencam": lambda a, g, h: slow_component(a),
    "eigengradcam": lambda a, g, h: slow_component(g * a),
    "shapleycam": slow_shapleycam,
    "finercam": slow_gradcam,  # the contrast is in the score, which the engine chooses
    "cam": slow_cam,
}


def apply(name: str, a: Map, g: Map, h: Map) -> Map:
    """The registered function on float32 tensors."""
    m = METHODS[name]
    count = {"activations": 1, "gradients": 2, "curvature": 3}[m.needs]
    made = m.function(*[torch.from_numpy(v).float() for v in (a, g, h)[:count]])
    assert isinstance(made, Tensor)
    assert made.dtype == torch.float32
    return made.numpy()


CASES = {
    "plain": (1.0, (3, 5, 3, 4)),
    "wide": (1.0, (2, 40, 2, 3)),
    "small gradients": (1e-8, (3, 5, 3, 4)),
    "large gradients": (1e4, (1, 5, 4, 3)),
    "one cell": (1.0, (2, 6, 1, 1)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FORMULAS)
def test_formula_equals_its_slow_version(name: str, case: str) -> None:
    size, shape = CASES[case]
    rng = np.random.default_rng(5)
    a = np.maximum(rng.normal(size=shape), 0) + 0.0
    g, h = rng.normal(size=shape) * size, rng.normal(size=shape) * size
    g[:, 0] = 0  # a channel without gradient
    a[:, 1] = 0  # and one without activation
    ours = apply(name, a, g, h)
    # the slow version sees what float32 can hold, in float64
    seen = [v.astype(np.float32).astype(np.float64) for v in (a, g, h)]
    for i in range(shape[0]):
        close(ours[i], SLOW_FORMULAS[name](*(v[i] for v in seen)), 2e-4, f"image {i}")


@pytest.mark.parametrize("name", FORMULAS)
def test_formula_with_signed_activations(name: str) -> None:
    rng = np.random.default_rng(6)
    a, g, h = (rng.normal(size=(2, 7, 3, 5)) for _ in range(3))
    ours = apply(name, a, g, h)
    for i in range(2):
        close(ours[i], SLOW_FORMULAS[name](a[i], g[i], h[i]), 1e-3)


@pytest.mark.parametrize("name", FORMULAS)
def test_formula_without_gradient(name: str) -> None:
    a = np.abs(np.random.default_rng(7).normal(size=(2, 4, 3, 3)))
    zero = np.zeros_like(a)
    ours = apply(name, a, zero, zero)
    for i in range(2):
        close(ours[i], SLOW_FORMULAS[name](a[i], zero[i], zero[i]))


@pytest.mark.parametrize("name", [n for n in FORMULAS if n not in NEVER_NEGATIVE | {"eigencam", "eigengradcam"}])
def test_formula_keeps_an_all_negative_map(name: str) -> None:
    """All evidence against the class: a sign that is lost here would be a blank or, worse, an inverted picture."""
    a = np.abs(np.random.default_rng(8).normal(size=(1, 4, 3, 3)))
    g = -np.ones_like(a)
    ours = apply(name, a, g, np.zeros_like(a))
    if METHODS[name].function in (METHODS["layercam"].function, METHODS["gradcam++"].function):
        assert (ours == 0).all()  # their weights are ReLU(G)
    else:
        assert (ours < 0).all()


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e6])
def test_cam_recognises_a_linear_head(scale: float) -> None:
    rng = np.random.default_rng(9)
    a = rng.normal(size=(2, 5, 3, 4))
    g = np.broadcast_to(rng.normal(size=(2, 5, 1, 1)) * scale, a.shape).copy()
    ours = apply("cam", a, g, np.zeros_like(a))
    for i in range(2):
        close(ours[i], slow_cam(a[i], g[i], np.zeros_like(a[i])))
        assert np.isfinite(ours[i]).all()


# --- methods that run the model: their slow versions, one image, one target, float64 ----------------------------------

Slow = Callable[[nn.Module, Tensor, HookPoint, int], Tensor]


@contextlib.contextmanager
def replaced(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    handle = module.register_forward_hook(lambda _m, _i, out: change(out))
    try:
        yield
    finally:
        handle.remove()


def slow_output(model: nn.Module, x: Tensor, point: HookPoint) -> Tensor:
    """A depth's output as (C, rows, columns), and the raw tensor's layout undone by hand."""
    kept: list[Tensor] = []

    def keep(out: Tensor) -> Tensor:
        kept.append(out.detach().clone())
        return out

    with replaced(model.get_submodule(point.path), keep), torch.no_grad():
        model(x)
    (out,) = kept
    if point.layout == "NLC":
        _, rows, columns = point.shape
        return out[0, point.prefix :].T.reshape(-1, rows, columns)
    return out[0]


def enlarged(m: Tensor, size: tuple[int, int]) -> Tensor:
    """(h, w) to (H, W), bilinear between the cells' centres, one pixel at a time."""
    out = torch.zeros(size, dtype=torch.float64)
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * m.shape[0] / size[0] - 0.5, 0), m.shape[0] - 1)
            x = min(max((j + 0.5) * m.shape[1] / size[1] - 0.5, 0), m.shape[1] - 1)
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, m.shape[0] - 1), min(left + 1, m.shape[1] - 1)
            upper = m[top, left] * (1 - (x - left)) + m[top, right] * (x - left)
            lower = m[bottom, left] * (1 - (x - left)) + m[bottom, right] * (x - left)
            out[i, j] = upper * (1 - (y - top)) + lower * (y - top)
    return out


@torch.no_grad()
def slow_scorecam(model: nn.Module, x: Tensor, point: HookPoint, target: int) -> Tensor:
    a = slow_output(model, x, point)
    nothing = model(torch.zeros_like(x))[0, target]
    rises = []
    for channel in a:
        up = enlarged(channel, x.shape[2:])
        if channel.max() == channel.min():
            rises.append(torch.tensor(-torch.inf, dtype=torch.float64))
            continue
        mask = (up - up.min()) / (up.max() - up.min())
        rises.append(model(x * mask)[0, target] - nothing)
    share = [math.exp(r) for r in rises]
    return sum(s / sum(share) * channel for s, channel in zip(share, a, strict=True))


@torch.no_grad()
def slow_ablationcam(model: nn.Module, x: Tensor, point: HookPoint, target: int) -> Tensor:
    a = slow_output(model, x, point)
    whole = model(x)[0, target]
    out = torch.zeros(a.shape[1:], dtype=torch.float64)
    for c in range(len(a)):

        def without(raw: Tensor, c: int = c) -> Tensor:
            raw = raw.clone()
            if point.layout == "NLC":
                raw[:, point.prefix :, c] = 0
            else:
                raw[:, c] = 0
            return raw

        with replaced(model.get_submodule(point.path), without):
            out += (whole - model(x)[0, target]) / whole.abs() * a[c]
    return out


def slow_attention(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """timm's vision transformer, block by block, with its attention spelt out: logits and (heads, L, L) per block."""
    x = model.patch_embed(x)
    x = model.norm_pre(model.patch_drop(model._pos_embed(x)))
    attention = []
    for block in model.blocks:
        n, length, width = x.shape
        heads = block.attn.num_heads
        q, k, v = block.attn.qkv(block.norm1(x)).reshape(n, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(width // heads), -1)
        attention.append(weights)
        x = x + block.attn.proj((weights @ v).transpose(1, 2).reshape(n, length, width))
        x = x + block.mlp(block.norm2(x))
    return model.forward_head(model.norm(x)), attention


def slow_rollout(model: nn.Module, x: Tensor, point: HookPoint, target: int, weighted_by_gradient: bool) -> Tensor:
    logits, attention = slow_attention(model, x)
    torch.testing.assert_close(logits, model(x))
    length = attention[0].shape[-1]
    rolled = torch.eye(length, dtype=torch.float64)
    for block in range(int(point.path.split(".")[1]) + 1):
        step = torch.eye(length, dtype=torch.float64)
        if weighted_by_gradient:
            (g,) = torch.autograd.grad(logits[0, target], attention[block], retain_graph=True)
            for head in range(g.shape[1]):
                step = step + (g[0, head] * attention[block][0, head]).clamp(min=0).detach() / g.shape[1]
        else:
            mean = sum(head for head in attention[block][0].detach()) / attention[block].shape[1]
            step = 0.5 * step + 0.5 * mean
        rolled = step @ rolled
    if model.global_pool == "token":
        row = rolled[0]
    else:
        row = rolled[point.prefix :].mean(0)
    return row[point.prefix :].reshape(point.shape[1:])


def gradient_at_pixels(model: nn.Module, x: Tensor, target: int) -> Tensor:
    x = x.clone().requires_grad_(True)
    return torch.autograd.grad(model(x)[0, target], x)[0][0]


def stretched(values: Tensor) -> Tensor:
    values = values.abs()
    return (values - values.min()) / (values.max() - values.min())


def slow_fullgrad(model: nn.Module, x: Tensor, _point: HookPoint, target: int) -> Tensor:
    """Bias gradients found by moving each bias on its own: a map of zeros is added to every output and differentiated.

    Only for networks of plain convolutions and batch norms.
    """
    extra: list[tuple[nn.Module, Tensor]] = []
    handles = []
    for m in model.modules():
        if isinstance(m, nn.Conv2d | nn.BatchNorm2d) and m.bias is not None:

            def add(module: nn.Module, _i: object, out: Tensor) -> Tensor:
                zeros = torch.zeros_like(out, requires_grad=True)
                extra.append((module, zeros))
                return out + zeros

            handles.append(m.register_forward_hook(add))
    logit = model(x)[0, target]
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(logit, [zeros for _, zeros in extra])
    total = stretched(gradient_at_pixels(model, x, target) * x[0]).sum(0)
    for (m, _), g in zip(extra, gradients, strict=True):
        bias = m.bias
        if isinstance(m, nn.BatchNorm2d):
            bias = m.bias - m.weight * m.running_mean / torch.sqrt(m.running_var + m.eps)
        for channel in stretched(torch.stack([b * gc for b, gc in zip(bias, g[0], strict=True)])):
            total = total + enlarged(channel, x.shape[2:])
    return total


class SlowGuided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        out = torch.zeros_like(g)
        flat_x, flat_g, flat_out = x.flatten(), g.flatten(), out.view(-1)
        for i in range(len(flat_x)):
            if flat_x[i] > 0 and flat_g[i] > 0:
                flat_out[i] = flat_g[i]
        return out


class SlowGuidedReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return SlowGuided.apply(x)


def slow_guided(model: nn.Module, x: Tensor, _point: HookPoint, target: int) -> Tensor:
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.ReLU):
                setattr(parent, name, SlowGuidedReLU())
    return gradient_at_pixels(model, x, target).sum(0)


def slow_guided_gradcam(model: nn.Module, x: Tensor, point: HookPoint, target: int) -> Tensor:
    a = slow_output(model, x, point)
    zeros = torch.zeros((1, *a.shape), dtype=torch.float64, requires_grad=True)
    with replaced(model.get_submodule(point.path), lambda out: out + zeros):
        (g,) = torch.autograd.grad(model(x)[0, target], zeros)
    coarse = torch.from_numpy(slow_gradcam(a.numpy(), g[0].numpy(), a.numpy())).clamp(min=0)
    return slow_guided(model, x, point, target) * enlarged(coarse, x.shape[2:])


def slow_integrated(model: nn.Module, x: Tensor, _point: HookPoint, target: int) -> Tensor:
    nodes, weights = np.polynomial.legendre.leggauss(IG_STEPS)
    total = torch.zeros_like(x[0])
    for node, weight in zip(nodes, weights, strict=True):
        total += weight / 2 * gradient_at_pixels(model, (node + 1) / 2 * x, target)
    return (total * x[0]).sum(0)


@torch.no_grad()
def slow_occlusion(model: nn.Module, x: Tensor, _point: HookPoint, target: int) -> Tensor:
    height, width = x.shape[2:]
    side = round(min(height, width) * OCCLUDED)
    step = side // 2
    whole = model(x)[0, target]
    drops, times = torch.zeros((height, width), dtype=torch.float64), torch.zeros((height, width))
    for top in range(0, height - side + step, step):
        for left in range(0, width - side + step, step):
            covered = x.clone()
            covered[:, :, top : top + side, left : left + side] = 0
            drops[top : top + side, left : left + side] += whole - model(covered)[0, target]
            times[top : top + side, left : left + side] += 1
    return drops / times


SLOW_RUNNERS: dict[str, Slow] = {
    "scorecam": slow_scorecam,
    "ablationcam": slow_ablationcam,
    "rollout": lambda *given: slow_rollout(*given, weighted_by_gradient=False),
    "gradient-rollout": lambda *given: slow_rollout(*given, weighted_by_gradient=True),
    "fullgrad": slow_fullgrad,
    "guided-backprop": slow_guided,
    "guided-gradcam": slow_guided_gradcam,
    "integrated-gradients": slow_integrated,
    "occlusion": slow_occlusion,
}


def test_every_method_has_a_second_version() -> None:
    assert set(METHODS) == set(SLOW_FORMULAS) | set(SLOW_RUNNERS)
    assert set(FORMULAS) == set(SLOW_FORMULAS)


def nets(name: str) -> dict[str, tuple[nn.Module, list[str]]]:
    """The networks that a method's slow version can explain, and depths of them."""
    cnns = {
        "linear head": (tiny_cnn(), ["stem", "stage1", "stage2"]),
        "hidden layer": (tiny_cnn(linear=False), ["stem.1", "stage2"]),  # stem.1: signed activations
    }
    vits = {
        "class token": (tiny_vit(), ["blocks.0", "blocks.1"]),
        "average pooling": (tiny_vit(global_pool="avg", class_token=False), ["blocks.0", "blocks.2"]),
    }
    if name in TRANSFORMERS_ONLY:
        registers = tiny_vit(reg_tokens=3, global_pool="avg", class_token=False)
        return vits | {"registers only": (registers, ["blocks.1"])}
    if name in RECTIFIERS_ONLY or name == "fullgrad":
        return cnns
    return cnns | vits


@pytest.mark.parametrize("name", RUNNERS)
def test_runner_equals_its_slow_version(name: str) -> None:
    x = pictures()
    targets = torch.tensor([[1, 3], [0, 2]])
    for label, (model, layers) in nets(name).items():
        explanation = explain(model, x, layers=layers, targets=targets, method=name)
        exact = copy.deepcopy(model).double()
        for d, point in enumerate(explanation.depths):
            for i in range(2):
                for t in range(2):
                    truth = SLOW_RUNNERS[name](exact, x[i : i + 1].double(), point, int(targets[i, t]))
                    close(explanation.maps[d][i, t], truth, 1e-3, f"{label}, {point.name}, image {i}, target {t}")


# --- other people's code ---------------------------------------------------------------------------------------------


def peer(cls: str, model: nn.Module, layer: nn.Module, x: Tensor, targets: Sequence[int], **more: object) -> Map:
    """pytorch-grad-cam's map (N, h, w) before its ReLU, scaling and enlarging."""
    library = pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam: pip install --no-deps grad-cam ttach")
    raw: list[Map] = []
    with getattr(library, cls)(model, [layer], **more) as explainer:
        inner = getattr(explainer, "base_cam", explainer)
        original = inner.get_cam_image

        def keep(*args: object, **kwargs: object) -> Map:
            raw.append(np.asarray(original(*args, **kwargs)))
            return raw[-1]

        inner.get_cam_image = keep
        if targets:
            explainer(x, targets=[library.utils.model_targets.ClassifierOutputTarget(t) for t in targets])
        else:
            explainer(x, alpha=1, comparison_categories=[1])  # Finer-CAM chooses both classes
    return raw[0]


def ours(name: str, model: nn.Module, layer: str, x: Tensor, targets: Sequence[int] | None) -> Tensor:
    fixed = None if targets is None else torch.tensor(targets)
    return explain(model, x, layers=layer, targets=fixed, method=name).maps[0][:, 0]


PEERS = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "elementwise": "GradCAMElementWise",
    "xgradcam": "XGradCAM",
    "layercam": "LayerCAM",
    "shapleycam": "ShapleyCAM",
}


class TestPytorchGradCam:
    """pytorch-grad-cam 1.5.7, on a network without the traps it falls into."""

    @pytest.mark.parametrize("layer", ["stage1", "stage2"])
    @pytest.mark.parametrize("name", PEERS)
    def test_same_maps(self, name: str, layer: str) -> None:
        model = tiny_cnn(smooth=name == "shapleycam")
        with torch.no_grad():  # gradients so large that its epsilon of 1e-6 does not show in Grad-CAM++
            for p in model.head.parameters():
                p *= 1000 if name == "gradcam++" else 1
        theirs = peer(PEERS[name], model, model.get_submodule(layer), pictures(), [1, 3])
        # it adds 1e-7 to every denominator
        close(ours(name, model, layer, pictures(), [1, 3]), theirs, 1e-3)

    @pytest.mark.parametrize("name", ["gradcam", "hirescam", "layercam", "elementwise"])
    def test_same_maps_on_a_transformer(self, name: str) -> None:
        model = tiny_vit()
        theirs = peer(
            PEERS[name], model, model.blocks[0], pictures(), [1, 3],
            reshape_transform=lambda t: t[:, 1:].reshape(len(t), 2, 3, -1).permute(0, 3, 1, 2),
        )  # fmt: skip
        close(ours(name, model, "blocks.0", pictures(), [1, 3]), theirs, 1e-3)

    @pytest.mark.parametrize("grad", [False, True])
    def test_eigen_methods_centre_the_features_there(self, grad: bool) -> None:
        """The paper takes the first singular vector of the features as they are; the peer takes their mean off first.

        Done to our input as well, the maps agree but for the sign, which a singular vector does not have.
        """
        model = tiny_cnn()
        x = pictures()
        cls, name = ("EigenGradCAM", "eigengradcam") if grad else ("EigenCAM", "eigencam")
        theirs = peer(cls, model, model.stage1, x, [1, 3])
        c = captured(model, "stage1", x, [1, 3])
        features = c.activations[0] * c.gradients[0] if grad else c.activations[0]
        centred = features - features.mean((2, 3), keepdim=True)
        mine = METHODS["eigencam"].function(centred)
        for m, t in zip(mine, theirs, strict=True):
            close(m.abs(), np.abs(t), 1e-3)
            assert abs(float(np.sign((m.numpy() * t).sum()))) == 1
        assert not np.allclose(ours(name, model, "stage1", x, [1, 3]), theirs, rtol=0.1)

    def test_finercam(self) -> None:
        model = tiny_cnn(linear=False)
        x = pictures()
        theirs = peer("FinerCAM", model, model.stage1, x, [])
        close(ours("finercam", model, "stage1", x, None), theirs, 1e-3)

    def test_scorecam_where_nothing_is_enlarged(self) -> None:
        """At the input's own resolution; elsewhere it enlarges masks with corners aligned, and maps differ a bit."""
        model = tiny_cnn(linear=False)
        theirs = peer("ScoreCAM", model, model.stem, pictures(), [1, 3])
        close(ours("scorecam", model, "stem", pictures(), [1, 3]), theirs, 1e-3)
        theirs = peer("ScoreCAM", model, model.stage2, pictures(), [1, 3])
        mine = ours("scorecam", model, "stage2", pictures(), [1, 3]).numpy()
        assert not np.allclose(mine, theirs, rtol=1e-3)
        assert np.sum(mine * theirs) / np.linalg.norm(mine) / np.linalg.norm(theirs) > 0.98

    def test_ablationcam(self) -> None:
        """Behind a ReLU; where activations can be negative it puts -1e7 in a channel's place, not the paper's 0."""
        model = tiny_cnn(linear=False)
        x = pictures()
        with torch.no_grad():
            logits = model(x)
        targets = [int(logits[0].argmax()), int(logits[1].argmin())]
        assert logits[0].max() > 0 > logits[1].min()
        theirs = peer("AblationCAM", model, model.stage1[2], x, targets)
        # its map turns over where the logit is negative
        close(ours("ablationcam", model, "stage1.2", x, targets), theirs * np.array([1, -1])[:, None, None], 1e-3)

    def test_fullgrad_parts(self) -> None:
        """Its bias gradients are ours. It then scales channels one by one to 0..1; the authors' code scales layers."""
        model = tiny_cnn(linear=False)
        x, targets = pictures(), [1, 3]
        library = pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam: pip install --no-deps grad-cam ttach")
        with library.FullGrad(model, []) as explainer:
            explainer(x, targets=[library.utils.model_targets.ClassifierOutputTarget(t) for t in targets])
            gradients = [g.numpy() for g in explainer.activations_and_grads.gradients]
            biases = explainer.bias_data
        (parts,) = full_gradient(model, x, torch.tensor(targets)[:, None], list)
        spatial = [p for p in parts[1:] if p.grid((16, 24)) is not None]
        assert len(spatial) == len(biases) == 4
        for part, bias, g in zip(spatial, biases, gradients, strict=True):
            close(part.values, bias[None, :, None, None] * g)


class TestTorchCam:
    """TorchCAM 0.5.0; its maps come with a ReLU."""

    @pytest.mark.parametrize("layer", ["stage1", "stage2"])
    @pytest.mark.parametrize(
        ("name", "cls"),
        [("gradcam", torchcam.GradCAM), ("layercam", torchcam.LayerCAM), ("xgradcam", torchcam.XGradCAM)],
    )
    def test_same_maps(self, name: str, cls: type, layer: str) -> None:
        model = tiny_cnn()
        x = pictures()
        with cls(model, layer, input_shape=(3, 16, 24)) as explainer:
            (theirs,) = explainer([1, 3], model(x), normalized=False)
        close(ours(name, model, layer, x, [1, 3]).clamp(min=0), theirs.detach(), 1e-3)

    def test_gradcam_plus_plus_is_not_divided(self) -> None:
        """Its division works on a copy (``alpha[mask].div_``), so that its weights are Σ_ij G² ReLU(G)."""
        model = tiny_cnn(linear=False)
        x = pictures()
        with torchcam.GradCAMpp(model, "stage1", input_shape=(3, 16, 24)) as explainer:
            (theirs,) = explainer([1, 3], model(x), normalized=False)
        c = captured(model, "stage1", x, [1, 3])
        (a,), (g,) = c.activations, c.gradients
        weights = (g**2 * g.clamp(min=0)).sum((2, 3), keepdim=True)
        close((weights * a).sum(1).clamp(min=0), theirs.detach())

    def test_cam(self) -> None:
        model = tiny_cnn()
        with torchcam.CAM(model, "stage2", "head", input_shape=(3, 16, 24)) as explainer:
            model(pictures())
            (theirs,) = explainer([1, 3], normalized=False)
        close(ours("cam", model, "stage2", pictures(), [1, 3]), theirs)

    def test_scorecam_where_nothing_is_enlarged(self) -> None:
        """It normalises masks before it enlarges them; at the input's own resolution that is the same."""
        model = tiny_cnn(linear=False)
        with torchcam.ScoreCAM(model, "stem", input_shape=(3, 16, 24)) as explainer:
            model(pictures())
            (theirs,) = explainer([1, 3], normalized=False)
        close(ours("scorecam", model, "stem", pictures(), [1, 3]).clamp(min=0), theirs, 1e-3)


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")  # Captum announces them
class TestCaptum:
    def test_gradcam(self) -> None:
        model, x = tiny_cnn(), pictures()
        theirs = LayerGradCam(model, model.stage1).attribute(x, target=torch.tensor([1, 3]))[:, 0]
        close(ours("gradcam", model, "stage1", x, [1, 3]), theirs)

    def test_guided_backprop(self) -> None:
        model, x = tiny_cnn(linear=False), pictures()
        theirs = GuidedBackprop(model).attribute(x.requires_grad_(), target=torch.tensor([1, 3]))
        close(ours("guided-backprop", model, "stage1", x, [1, 3]), theirs.sum(1))

    def test_guided_gradcam(self) -> None:
        model, x = tiny_cnn(linear=False), pictures()
        explainer = GuidedGradCam(model, model.stage1)
        theirs = explainer.attribute(x.requires_grad_(), target=torch.tensor([1, 3]), interpolate_mode="bilinear")
        close(ours("guided-gradcam", model, "stage1", x, [1, 3]), theirs.sum(1))

    def test_integrated_gradients_add_up_to_the_logits(self) -> None:
        model, x = tiny_cnn(smooth=True), pictures()
        theirs = IntegratedGradients(model).attribute(x, target=torch.tensor([1, 3]), n_steps=200)
        mine = ours("integrated-gradients", model, "stage1", x, [1, 3])
        close(mine, theirs.sum(1), 1e-3)
        with torch.no_grad():
            moved = (model(x) - model(torch.zeros_like(x))).gather(1, torch.tensor([[1], [3]]))[:, 0]
        close(mine.sum((1, 2)), moved, 1e-3)

    def test_occlusion(self) -> None:
        model, x = tiny_cnn(), pictures(2, (32, 40))
        windows = {"sliding_window_shapes": (3, 4, 4), "strides": (3, 2, 2)}
        theirs = Occlusion(model).attribute(x, target=torch.tensor([1, 3]), **windows)
        close(ours("occlusion", model, "stage1", x, [1, 3]), theirs[:, 0])


def captured(model: nn.Module, layer: str, x: Tensor, targets: Sequence[int]) -> Captured:
    points = find_depths(model, x[:1]).select([layer])
    return capture(model, x, points, lambda _: [Score(torch.tensor(targets))], lambda c: c)[0]


# --- particular methods ----------------------------------------------------------------------------------------------


class TestFullGradient:
    @pytest.mark.parametrize("net", ["tiny", "resnet", "densenet"])
    def test_adds_up_to_the_logit_in_networks_of_relus(self, net: str) -> None:
        torch.manual_seed(0)
        model = {
            "tiny": lambda: tiny_cnn(linear=False),
            "resnet": lambda: timm.create_model("resnet18", channels=[8, 12, 16, 20], num_classes=4),
            "densenet": lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=4),  # in place, functional
        }[net]()
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                nn.init.normal_(m.running_mean, 0, 0.2)
                nn.init.normal_(m.bias, 0, 0.2)
        model.double()
        x = pictures(2, (32, 32)).double()
        targets = torch.tensor([[0, 3], [2, 1]])
        with torch.no_grad():
            logits = model.eval()(x)
        for t, parts in enumerate(full_gradient(model, x, targets, list)):
            total = sum(p.values.double().flatten(1).sum(1) for p in parts)
            close(total, logits.gather(1, targets)[:, t], 1e-5)
            assert len(parts) > 4

    def test_tokens_and_nhwc_are_read_as_grids(self) -> None:
        swin = {"img_size": 56, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2), "num_classes": 4}
        for model, size, expected in (
            (tiny_vit(), (16, 24), {(2, 3)}),
            (timm.create_model("swin_tiny_patch4_window7_224", **swin), (56, 56), {(14, 14), (7, 7)}),
        ):
            (parts,) = full_gradient(model, pictures(1, size), torch.tensor([[1]]), list)
            grids = {tuple(g.shape[2:]) for p in parts[1:] if (g := p.grid(size)) is not None}
            assert grids == expected

    @pytest.mark.parametrize(
        ("builder", "size"),
        [("beit_base_patch16_224", 32), ("vit_base_patch16_siglip_224", 32), ("maxvit_rmlp_pico_rw_256", 256)],
    )
    def test_odd_calls_of_linear_layers(self, builder: str, size: int) -> None:
        """Weights by keyword (BEiT), layers over parameters alone (queries, position tables)."""
        small = {"img_size": size, "embed_dim": 24, "depth": 1, "num_heads": 2} if "max" not in builder else {}
        torch.manual_seed(0)
        model = timm.create_model(builder, num_classes=4, **small).eval()
        (maps,) = METHODS["fullgrad"].function(model, pictures(1, (size, size)), [], torch.tensor([[1]]))
        assert torch.isfinite(maps).all()
        assert maps.max() > 0


class TestGuided:
    def test_functional_reused_and_in_place_relus_are_relus(self) -> None:
        class Reuses(TinyCnn):
            def __init__(self) -> None:
                super().__init__(linear=False)
                self.relu = nn.ReLU(inplace=True)

            def forward(self, x: Tensor) -> Tensor:
                x = self.relu(self.stem[1](self.stem[0](x)))
                x = F.relu(self.stage1[1](self.stage1[0](x)), inplace=True)
                x = torch.relu_(self.stage2[0](x))
                return self.head[2](self.relu(self.head[0](self.pool(x).flatten(1))))

        plain = tiny_cnn(linear=False)
        model = Reuses().eval()
        model.load_state_dict(plain.state_dict())
        x = pictures()
        expected = explain(plain, x, layers="stage1.1", method="guided-backprop").maps[0]
        assert expected.abs().max() > 0
        torch.testing.assert_close(explain(model, x, layers="stage1.1", method="guided-backprop").maps[0], expected)

    def test_relu6_and_hardtanh(self) -> None:
        """Where nothing reaches 6 they are ReLUs; a hardtanh that lets negative values pass is none."""
        maps = []
        for act in (nn.ReLU(), nn.ReLU6(inplace=True), nn.Hardtanh(0, 50)):
            model = tiny_cnn(linear=False)
            model.stage1[2] = act
            model.stage2[1] = act
            maps.append(explain(model, pictures(), layers="stem.1", method="guided-backprop").maps[0])
        assert maps[0].abs().max() > 0
        torch.testing.assert_close(maps[1], maps[0])
        torch.testing.assert_close(maps[2], maps[0])
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardtanh(-1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        with pytest.raises(ModelError, match="ReLU"):
            METHODS["guided-backprop"].function(model, pictures(), [], torch.tensor([[0], [1]]))

    @pytest.mark.parametrize("name", sorted(RECTIFIERS_ONLY))
    def test_a_network_without_relus_is_refused(self, name: str) -> None:
        """Swin v2 has ReLUs, but only in front of its position biases, which no pixel reaches."""
        torch.manual_seed(0)
        swin = {"img_size": 32, "window_size": 4, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2)}
        for model in (tiny_vit(img_size=(32, 32)), timm.create_model("swinv2_tiny_window8_256", **swin)):
            with pytest.raises(ModelError, match="ReLU"):
                explain(model.eval(), pictures(2, (32, 32)), layers="stages", method=name)


class TestAblation:
    def test_the_front_runs_on_one_image_per_batch(self) -> None:
        model = tiny_cnn(linear=False)
        depths = find_depths(model, pictures(1))
        sizes: list[int] = []
        handle = model.stem.register_forward_hook(lambda _m, _i, out: sizes.append(len(out)))
        explain(model, pictures(1), layers="stage2", method="ablationcam", depths=depths)
        handle.remove()
        assert set(sizes) == {1}

    def test_a_network_that_remembers_its_batch_size(self) -> None:
        """What was learned about the batch before the depth does not fit behind it: everything runs again instead."""

        class Remembers(TinyCnn):
            def forward(self, x: Tensor) -> Tensor:
                n = x.shape[0]
                return self.head(self.pool(self.stage2(self.stage1(self.stem(x)))).reshape(n, 8))

        plain = tiny_cnn()
        model = Remembers().eval()
        model.load_state_dict(plain.state_dict())
        expected = explain(plain, pictures(), layers="stage1", method="ablationcam").maps[0]
        torch.testing.assert_close(explain(model, pictures(), layers="stage1", method="ablationcam").maps[0], expected)

    def test_channels_last_layout(self) -> None:
        torch.manual_seed(0)
        arguments = {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2)}
        model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=4, **arguments).eval()
        x = pictures(1, (32, 32))
        explanation = explain(model, x, layers="layers.0.blocks.0", targets=torch.tensor([2]), method="ablationcam")
        assert explanation.depths[0].layout == "NHWC"
        with torch.no_grad():
            whole = model(x)[0, 2]
            raw: list[Tensor] = []
            out = torch.zeros(8, 8)
            for c in range(12):

                def without(tensor: Tensor, c: int = c) -> Tensor:
                    raw.append(tensor.clone())
                    return torch.cat([tensor[..., :c], torch.zeros_like(tensor[..., :1]), tensor[..., c + 1 :]], -1)

                with replaced(model.layers[0].blocks[0], without):
                    out += (whole - model(x)[0, 2]) / whole.abs() * raw[-1][0, ..., c]
        close(explanation.maps[0][0, 0], out, 1e-3)


class TestRollout:
    """Attention is found without knowing the library: its matrices against what each library can be made to show."""

    def test_transformers(self) -> None:
        for implementation in ("sdpa", "eager"):
            torch.manual_seed(0)
            config = ViTConfig(
                hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=(16, 24),
                patch_size=8, num_labels=4, attn_implementation=implementation, initializer_range=0.3,
            )  # fmt: skip
            model = ViTForImageClassification(config).eval()
            x = pictures()
            explanation = explain(model, x, layers="blocks", method="rollout")
            model.set_attn_implementation("eager")
            with torch.no_grad():
                attention = model(x, output_attentions=True).attentions
            rolled = torch.eye(7)
            for d, a in enumerate(attention):
                rolled = (0.5 * a.mean(1) + 0.5 * torch.eye(7)) @ rolled
                close(explanation.maps[d][:, 0], rolled[:, 0, 1:].reshape(2, 2, 3))

    def test_torchvision(self) -> None:
        """Its attention is ``nn.MultiheadAttention``, asked for no weights; asked for them, it returns them."""
        torch.manual_seed(0)
        model = torchvision.models.VisionTransformer(24, 8, 2, 2, 24, 32, num_classes=4).eval()
        nn.init.normal_(model.heads.head.weight)  # torchvision starts with zeros: nothing would be read out
        x = pictures(2, (24, 24))
        explanation = explain(model, x, layers="blocks", method="rollout")
        seen: list[Tensor] = []
        handles = [
            layer.self_attention.register_forward_hook(
                lambda m, args, _out: seen.append(
                    F.multi_head_attention_forward(
                        *(t.transpose(0, 1) for t in args), m.embed_dim, m.num_heads, m.in_proj_weight, m.in_proj_bias,
                        None, None, False, 0.0, m.out_proj.weight, m.out_proj.bias, need_weights=True,
                    )[1]
                )
            )
            for layer in model.encoder.layers
        ]  # fmt: skip
        with torch.no_grad():
            model(x)
        for handle in handles:
            handle.remove()
        rolled = torch.eye(10)
        for a in seen:
            rolled = (0.5 * a + 0.5 * torch.eye(10)) @ rolled
        close(explanation.maps[-1][:, 0], rolled[:, 0, 1:].reshape(2, 3, 3))

    def test_attention_with_a_bias_and_spelt_out(self) -> None:
        """BEiT adds a learned bias inside fused attention; with fusing off the same network spells it out."""
        torch.manual_seed(0)
        arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 4}
        model = timm.create_model("beit_base_patch16_224", **arguments).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape) * 0.2)
        fused = explain(model, pictures(2, (32, 32)), layers="blocks", method="gradient-rollout")
        for block in model.blocks:
            assert block.attn.fused_attn
            block.attn.fused_attn = False
        spelt = explain(model, pictures(2, (32, 32)), layers="blocks", method="gradient-rollout")
        for a, b in zip(fused.maps, spelt.maps, strict=True):
            close(a, b)

    def test_before_the_first_layer_it_is_undefined(self) -> None:
        explanation = explain(tiny_vit(), pictures(), layers=["patch_embed", "blocks.0"], method="rollout")
        assert explanation.depths[0].path.startswith("patch_embed")
        assert [s[0] for s in explanation.statuses()] == [["undefined", "ok"]] * 2

    @pytest.mark.parametrize(
        ("net", "reason"),
        [
            (tiny_cnn, "no attention layer"),
            (lambda: timm.create_model("swin_tiny_patch4_window7_224", img_size=32, window_size=4), "windows"),
            (lambda: timm.create_model("pvt_v2_b0", num_classes=4), "attends from 64 tokens to 1"),
            (lambda: timm.create_model("xcit_nano_12_p16_224", img_size=64, depth=2, num_classes=4), "items"),
        ],
    )
    @pytest.mark.parametrize("name", sorted(TRANSFORMERS_ONLY))
    def test_networks_without_global_attention_are_refused(
        self, name: str, net: Callable[[], nn.Module], reason: str
    ) -> None:
        torch.manual_seed(0)
        model = net().eval()
        with pytest.raises(ModelError, match=reason):
            explain(model, pictures(1, (64, 64) if "items" in reason else (32, 32)), method=name)

    def test_torch_is_as_before(self) -> None:
        before = F.scaled_dot_product_attention, F.softmax, torch.softmax, Tensor.softmax
        torch.manual_seed(0)
        model = torchvision.models.VisionTransformer(24, 8, 1, 2, 24, 32, num_classes=4)
        model.encoder.layers[0].mlp.register_forward_hook(lambda *_: 1 / 0)
        points = find_depths(tiny_vit(), pictures(1)).points
        with pytest.raises(ZeroDivisionError):
            METHODS["rollout"].function(model, pictures(1, (24, 24)), points[:0], torch.tensor([[0]]))
        assert (F.scaled_dot_product_attention, F.softmax, torch.softmax, Tensor.softmax) == before


# --- what every method promises --------------------------------------------------------------------------------------


def subjects(name: str) -> list[tuple[nn.Module, list[str]]]:
    """Networks that a method can explain, and selectors."""
    cnn = (tiny_cnn(linear=False), ["stem.1", "stage2"]) if name != "cam" else (tiny_cnn(), ["stage2"])
    vit = (tiny_vit(), ["blocks.0", "blocks.1"])
    if name in TRANSFORMERS_ONLY:
        return [vit]
    if name in RECTIFIERS_ONLY or name == "cam":
        return [cnn]
    return [cnn, vit]


def run(name: str, x: Tensor, targets: Tensor) -> list[Explanation]:
    return [explain(m, x, layers=layers, targets=targets, method=name) for m, layers in subjects(name)]


@pytest.mark.parametrize("name", METHODS)
class TestContract:
    targets = torch.tensor([[1, 2], [3, 0], [2, 2]])

    def test_shapes_types_and_finite_values(self, name: str) -> None:
        for e in run(name, pictures(3), self.targets):
            m = METHODS[name]
            assert len(e.maps) == len(e.depths) == (1 if m.at == "pixels" else 2 if name != "cam" else 1)
            for point, maps in zip(e.depths, e.maps, strict=True):
                grid = (16, 24) if name in {"guided-gradcam"} else point.shape[1:]
                assert maps.shape == (3, 2, *grid)
                assert maps.dtype == torch.float32
                assert not maps.requires_grad
                assert torch.isfinite(maps).all()

    def test_the_sign_is_kept(self, name: str) -> None:
        values = torch.cat([m.flatten() for e in run(name, pictures(3), self.targets) for m in e.maps])
        assert (values > 0).any()
        assert (values < 0).any() == (name not in NEVER_NEGATIVE)

    def test_images_and_targets_do_not_see_one_another(self, name: str) -> None:
        x = pictures(3)
        together = run(name, x, self.targets)
        order = [2, 0, 1]
        shuffled = run(name, x[order], self.targets[order])
        for i in range(3):
            for t in range(2):
                alone = run(name, x[i : i + 1], self.targets[i : i + 1, t])
                for e, s, a in zip(together, shuffled, alone, strict=True):
                    for d in range(len(e.maps)):
                        close(e.maps[d][i, t], a.maps[d][0, 0], 1e-3, f"image {i}, target {t}, depth {d}")
                        close(s.maps[d][order.index(i), t], e.maps[d][i, t], 1e-3)

    def test_the_model_is_left_as_it_was(self, name: str) -> None:
        for model, layers in subjects(name):
            model.train()
            next(model.children()).eval()
            first = next(model.parameters())
            first.requires_grad_(False)
            before = state(model)
            explain(model, pictures(), layers=layers, method=name)
            assert state(model) == before

    @pytest.mark.parametrize("caller", ["frozen", "no_grad", "inference_mode", "inference tensors"])
    def test_any_caller(self, name: str, caller: str) -> None:
        expected = run(name, pictures(3), self.targets)
        context = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(caller, contextlib.nullcontext)
        networks = subjects(name)
        x, targets = pictures(3), self.targets
        if caller == "inference tensors":
            with torch.inference_mode():
                x, targets = x.clone(), targets.clone()
        with context():
            if caller == "inference_mode":
                x, targets = x + 0, targets + 0
            for e, (model, layers) in zip(expected, networks, strict=True):
                model.requires_grad_(caller != "frozen")
                got = explain(model, x, layers=layers, targets=targets, method=name)
                for a, b in zip(got.maps, e.maps, strict=True):
                    torch.testing.assert_close(a, b)

    def test_the_record_says_what_it_is(self, name: str) -> None:
        m = METHODS[name]
        assert m.name == name
        assert m.title
        assert m.formula
        assert any(str(year) in m.paper for year in range(2014, 2027))
        assert (m.function.__doc__ or "").strip()


def state(model: nn.Module) -> list[object]:
    return [
        *(
            (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ),
        *((p.requires_grad, p.grad is None, p._version) for p in model.parameters()),
        *(b.sum().item() for b in model.buffers()),
    ]


def test_methods_together_equal_methods_alone() -> None:
    names = [n for n in METHODS if n not in TRANSFORMERS_ONLY]
    model = tiny_cnn(linear=False)
    together = explain_all(model, pictures(), layers=["stage1"], methods=names)
    for name, e in zip(names, together, strict=True):
        assert e.method == name
        for a, b in zip(e.maps, explain(model, pictures(), layers=["stage1"], method=name).maps, strict=True):
            torch.testing.assert_close(a, b, equal_nan=True)
