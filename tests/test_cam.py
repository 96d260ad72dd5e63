"""The CAM engine: against Captum and the formulas, in the traps other tools fall into, and what it leaves behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn
from torchvision.models import DenseNet

import gradlens
from gradlens.cam.engine import explain, explain_all
from gradlens.cam.methods import METHODS
from gradlens.cam.targets import Contrast
from gradlens.depths.capture import Captured, Score, capture
from gradlens.depths.find import find_depths
from gradlens.depths.layout import Reading
from gradlens.errors import NotFoundError
from gradlens.records import HookPoint
from gradlens.zoo import checkpoints
from gradlens.zoo.architectures import ARCHITECTURES
from gradlens.zoo.build import build
from gradlens.zoo.outputs import logits_of

ZOO = list(checkpoints.names())


def images(n: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randn((n, 3, size, size), generator=torch.Generator().manual_seed(5))


def seeded(builder: str, **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    return build(builder, arguments, 8)


def small(**arguments: object) -> nn.Module:
    return seeded("timm:resnet18", channels=[8, 16, 24, 32], **arguments)


class Logits(nn.Module):
    """A classifier that returns bare logits, as Captum wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return logits_of(self.model(x))


class AsGrid(nn.Module):
    """Stands behind a module and hands Captum its output as (N, C, h, w), while the network goes on with its own."""

    def __init__(self, module: nn.Module, point: HookPoint) -> None:
        super().__init__()
        self.module = module
        self.reading = Reading(point.layout, point.prefix, point.shape[1], point.shape[2])
        self.watched = nn.Identity()
        self.prefix = point.prefix

    def forward(self, *args: object, **kwargs: object) -> torch.Tensor:
        # the clone keeps what the network does in place later away from what Captum watches
        out = self.module(*args, **kwargs).clone()
        grid = self.watched(self.reading.grid(out).contiguous()).clone()
        if self.reading.layout == "NCHW":
            return grid
        if self.reading.layout == "NHWC":
            return grid.permute(0, 2, 3, 1)
        return torch.cat([out[:, : self.prefix], grid.flatten(2).transpose(1, 2)], 1)


def captum_map(model: nn.Module, point: HookPoint, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Captum's LayerGradCam with its ReLU, for one depth."""
    parent, _, child = point.path.rpartition(".")
    owner = model.get_submodule(parent)
    original = getattr(owner, child)
    adapter = AsGrid(original, point)
    setattr(owner, child, adapter)
    try:
        explainer = LayerGradCam(Logits(model), adapter.watched)
        return explainer.attribute(x, target=target, relu_attributions=True)[:, 0].detach()
    finally:
        setattr(owner, child, original)


@pytest.mark.parametrize("name", ZOO)
def test_equals_captum_on_every_depth_of_the_zoo(name: str) -> None:
    loaded = checkpoints.load(name)
    model = loaded.module.eval()
    x = images(2, loaded.preprocess.size[0])
    stacks = explain(model, x, layers="all").stacks(name=name)
    target = torch.tensor([s.target[0] for s in stacks])
    for i, point in enumerate(stacks[0].depths):
        theirs = captum_map(model, point, x, target).numpy()
        ours = np.maximum(np.stack([s.maps[i] for s in stacks]), 0)
        size = max(np.abs(s.maps[i]).max() for s in stacks)
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * max(size, 1e-12), rtol=1e-4, err_msg=point.name)


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_maps_of_a_mirrored_network_are_mirrored_with_the_image(method: str) -> None:
    model = seeded("gradlens:custom_cnn", widths=[8, 16, 24, 32], residuals=[1, 0, 1], mirrored=True).eval()
    x = images(2, 32)
    here, there = (explain(model, i, layers="all", method=method).stacks(name="m") for i in (x, x.flip(-1)))
    assert {"stem", "stages.0", "stages.1", "stages.2"} <= {p.name.removesuffix(".2") for p in here[0].depths}
    for one, other in zip(here, there, strict=True):
        assert one.target == other.target
        for point, mine, theirs in zip(one.depths, one.maps, other.maps, strict=True):
            size = max(float(np.abs(mine).max()), 1e-12)
            np.testing.assert_allclose(theirs[:, ::-1] / size, mine / size, atol=1e-4, err_msg=point.name)


def bare_gradcam(model: nn.Module, module: nn.Module, x: torch.Tensor, target: int, call: int = 1) -> torch.Tensor:
    """The truth in a few lines: hook, clone what goes onward, one backward."""
    kept: list[torch.Tensor] = []

    def hook(_m: nn.Module, _i: object, out: torch.Tensor) -> torch.Tensor:
        kept.append(out)
        return out.clone()

    handle = module.register_forward_hook(hook)
    logits = logits_of(model(x))
    handle.remove()
    (g,) = torch.autograd.grad(logits[:, target].sum(), [kept[call - 1]])
    return (g.mean((2, 3), keepdim=True) * kept[call - 1]).sum(1).detach()


class TestTraps:
    """Each fails on an engine that hooks outputs and nothing more."""

    def test_in_place_after_the_hooked_output(self) -> None:
        torch.manual_seed(0)
        model = DenseNet(8, (2, 2, 2, 2), 16, num_classes=8).eval()
        x = images(2, 64)
        points = {p.name: p for p in find_depths(model, x[:1]).select(["features.norm5", "features.denseblock4"])}
        assert points["features.norm5"].overwritten
        for name in points:
            stacks = explain(model, x, layers=name, targets=torch.tensor([3, 3])).stacks()
            truth = bare_gradcam(model, model.get_submodule(name), x, 3).numpy()
            np.testing.assert_allclose(np.stack([s.maps[0] for s in stacks]), truth, rtol=1e-4, atol=1e-7)

    def test_each_call_of_a_module_used_twice(self) -> None:
        model = seeded("torchvision:resnet18").eval()
        x = images(1, 64)
        for call in (1, 2):
            name = "layer1.0.relu" + ("" if call == 1 else "#2")
            (stack,) = explain(model, x, layers=name, targets=torch.tensor([1])).stacks()
            truth = bare_gradcam(model, model.layer1[0].relu, x, 1, call)[0].numpy()
            np.testing.assert_allclose(stack.maps[0], truth, rtol=1e-4, atol=1e-8)

    def test_many_depths_at_once_equal_one_at_a_time(self) -> None:
        model = small().eval()
        x = images()
        together = explain(model, x, layers="all").stacks()
        for i, point in enumerate(together[0].depths):
            alone = explain(model, x, layers=point.name).stacks()
            np.testing.assert_allclose(alone[1].maps[0], together[1].maps[i], rtol=1e-4, atol=1e-8)

    def test_class_token_readout_says_zero_gradient(self) -> None:
        arch = ARCHITECTURES["vit"]
        model = seeded(arch.builder, **arch.arguments).eval()
        (stack,) = explain(model, images(1, 96), layers="all").stacks()
        assert stack.statuses[-1] == "zero gradient"
        assert set(stack.statuses[:-1]) <= {"ok", "all negative"}

    def test_products_that_cancel_are_no_picture(self) -> None:
        """Before a layer norm HiResCAM is zero by nature; rounding must not be drawn as a map."""
        for name, before_norm in (("vit", "blocks.4"), ("swin", "layers.3.blocks.1")):
            model = checkpoints.load(f"vehicles/{name}").module
            e = explain(model, images(2, 96), layers="all", method="hirescam")
            statuses = {d.name: {image[0][k] for image in e.statuses()} for k, d in enumerate(e.depths)}
            assert statuses[before_norm] == {"constant"}
            others = [s for d, s in statuses.items() if d.startswith(("blocks.0", "blocks.2", "layers.0"))]
            assert others
            assert all(s == {"ok"} for s in others)

    def test_one_target_per_image(self) -> None:
        model = small().eval()
        x = images(3)
        mixed = explain(model, x, targets=torch.tensor([1, 5, 7])).stacks()
        for i, target in enumerate((1, 5, 7)):
            (alone,) = explain(model, x[i : i + 1], targets=torch.tensor([target])).stacks()
            np.testing.assert_allclose(mixed[i].maps[-1], alone.maps[-1], rtol=1e-3, atol=1e-7)
            assert mixed[i].target == (target, str(target))

    def test_many_targets_share_one_forward_pass(self) -> None:
        model = small().eval()
        x = images(2)
        explain(model, x, layers="all")  # finds the depths
        passes = []
        handle = model.conv1.register_forward_hook(lambda *_: passes.append(1))
        e = explain(model, x, layers="all", targets=torch.tensor([[0, 1, 2], [3, 4, 5]]))
        handle.remove()
        assert len(passes) == 1
        for t in range(3):
            alone = explain(model, x, layers="all", targets=e.targets[:, t])
            for many, one in zip(e.maps, alone.maps, strict=True):
                torch.testing.assert_close(many[:, t], one[:, 0])

    def test_a_contrast_is_the_difference_of_two_logits(self) -> None:
        model = small().eval()
        x = images(2)
        one, two = torch.tensor([1, 2]), torch.tensor([5, 0])
        both = explain(model, x, targets=Contrast(one, two))
        plus, minus = explain(model, x, targets=one), explain(model, x, targets=two)
        for m, p, n in zip(both.maps, plus.maps, minus.maps, strict=True):
            torch.testing.assert_close(m, p - n, rtol=1e-3, atol=1e-6)  # Grad-CAM is linear in the score
        assert both.stacks()[0].against == (5, "5")

    def test_finer_cam_contrasts_with_the_likeliest_other_class(self) -> None:
        model = small().eval()
        x = images(3)
        plain, finer = explain_all(model, x, targets=torch.tensor([0, 1, 2]), methods=["gradcam", "finercam"])
        rivals = plain.logits.clone()
        rivals[range(3), range(3)] = -torch.inf
        assert plain.against is None
        assert finer.against is not None
        assert finer.against[:, 0].tolist() == rivals.argmax(1).tolist()
        by_hand = explain(model, x, targets=Contrast(torch.tensor([0, 1, 2]), rivals.argmax(1)))
        for m, expected in zip(finer.maps, by_hand.maps, strict=True):
            torch.testing.assert_close(m, expected)

    @pytest.mark.parametrize("targets", [torch.tensor([0]), torch.tensor([0, 8]), torch.tensor([0, -1])])
    def test_wrong_targets_are_named(self, targets: torch.Tensor) -> None:
        with pytest.raises(ValueError, match="target"):
            explain(small(), images(2), targets=targets)

    def test_dropout_and_batch_statistics_do_not_move(self) -> None:
        model = small(drop_rate=0.5).train()
        x = images()
        first, second = explain(model, x), explain(model, x)
        assert torch.equal(first.maps[0], second.maps[0])
        assert model.training
        assert float(model.bn1.num_batches_tracked) == 0

    def test_auxiliary_outputs(self) -> None:
        model = seeded("torchvision:googlenet", aux_logits=True, init_weights=False).train()
        assert explain(model, images(2, 64), layers="inception4a").maps[0].shape == (2, 1, 4, 4)

    @pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode])
    def test_inside_no_grad_and_inference_mode(self, caller: Callable[[], object]) -> None:
        model = small().eval()
        for p in model.parameters():
            p.requires_grad_(False)
        expected = explain(model, images())
        with caller():  # type: ignore[attr-defined]
            got = explain(model, images())
            assert not torch.is_grad_enabled()
        assert torch.equal(got.maps[-1], expected.maps[-1])

    @pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
    def test_wrapped_modules(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        model = small().eval()
        expected = explain(model, images())
        assert torch.equal(explain(wrap(model), images()).maps[0], expected.maps[0])

    def test_non_finite_maps_are_named(self) -> None:
        model = small().eval()
        with torch.no_grad():
            model.layer4[1].bn2.weight[0] = float("nan")
        depths = find_depths(small().eval(), images(1, 64))
        assert explain(model, images(1, 64), layers="layer4.1", depths=depths).statuses() == [[["non-finite"]]]


class TestAsALibrary:
    """Inside somebody else's loop."""

    def test_inside_autocast(self) -> None:
        model = checkpoints.load("vehicles/vit").module
        x = images(2, 96)
        plain = explain(model, x, targets=torch.tensor([1, 2]))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = explain(model, x, targets=torch.tensor([1, 2]))
        for one, two in zip(plain.maps, cast.maps, strict=True):
            assert two.dtype == torch.float32
            assert float(torch.nn.functional.cosine_similarity(one.flatten(), two.flatten(), 0)) > 0.99

    def test_a_training_step_around_it_is_what_it_was(self) -> None:
        def step(look: bool) -> torch.Tensor:
            model = small().train()
            loss = model(images()).square().sum()
            if look:
                explain(model, images(), layers="all")
            loss.backward()
            assert model.conv1.weight.grad is not None
            return model.conv1.weight.grad

        assert torch.equal(step(False), step(True))

    def test_depths_are_found_once_and_again_after_a_change(self) -> None:
        model = small().eval()
        passes = []
        handle = model.conv1.register_forward_hook(lambda *_: passes.append(1))
        explain(model, images())
        found = len(passes)
        explain(model, images())
        assert len(passes) == found + 1
        handle.remove()
        model.layer4 = nn.Identity()
        model.fc = nn.Linear(24, 8)
        assert not any(p.path.startswith("layer4.") for p in explain(model, images(), layers="all").depths)

    def test_a_model_that_was_explained_is_let_go(self) -> None:
        model = small().eval()
        alive = weakref.ref(model)
        kept = explain(model, images())
        del model
        gc.collect()
        assert alive() is None
        assert kept.maps


def living_tensors() -> int:
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())


class TestNothingIsLeftBehind:
    def state(self, model: nn.Module) -> list[object]:
        return [
            *((m.training, len(m._forward_hooks), len(m._backward_hooks)) for m in model.modules()),
            *((p.requires_grad, p.grad is None, p._version) for p in model.parameters()),
        ]

    def test_after_a_run(self) -> None:
        model = small().train()
        model.layer2.eval()
        model.fc.weight.requires_grad_(False)
        before = self.state(model)
        explain_all(model, images(), layers="all", methods=[m for m in METHODS if METHODS[m].needs != "model"])
        assert self.state(model) == before

    def test_after_an_exception(self) -> None:
        model = small().train()
        before = self.state(model)
        points = find_depths(model, images(1)).points

        def fail(_: Captured) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            capture(model, images(), points, lambda y: [Score(y.argmax(1))], fail)
        assert self.state(model) == before

    def test_maps_hold_no_graph(self) -> None:
        points = find_depths(small(), images(1)).points
        (kept,) = capture(small(), images(), points, lambda y: [Score(y.argmax(1))], lambda c: c, curvature=True)
        tensors = (kept.logits, *kept.activations, *kept.gradients, *kept.curvatures)
        assert not any(t.requires_grad for t in tensors)

    def test_explanations_hold_no_graph_and_nothing_accumulates(self) -> None:
        model = small()
        methods = [m for m in METHODS if METHODS[m].needs != "model"]
        for e in explain_all(model, images(), layers="all", methods=methods):
            assert not any(t.requires_grad for t in (e.logits, *e.maps, *e.evidence))
        del e
        gc.collect()
        before = living_tensors()
        for _ in range(5):
            explain_all(model, images(), layers="all", methods=methods)
        gc.collect()
        assert living_tensors() == before

    def test_the_users_images_keep_their_gradient_flag(self) -> None:
        x = images().requires_grad_(True)
        explain(small(), x)
        assert x.requires_grad
        assert x.grad is None


class TestRecords:
    def test_stacks_are_the_tensors_image_by_image(self) -> None:
        model = small().eval()
        x = images()
        with torch.no_grad():
            probabilities = model(x).softmax(1)
        e = explain(model, x, targets=lambda logits: logits.topk(2).indices)
        stacks = e.stacks(classes=[f"class {i}" for i in range(8)], ids=["a", "b"], name="m")
        assert [s.image for s in stacks] == ["a", "a", "b", "b"]
        assert stacks[0].target[0] == int(probabilities[0].argmax())
        assert stacks[0].target[1] == f"class {stacks[0].target[0]}"
        assert stacks[1].probability == pytest.approx(float(probabilities[0].topk(2).values[1]), rel=1e-4)
        assert all(m.dtype == np.float32 for m in stacks[0].maps)
        for d, maps in enumerate(e.maps):
            np.testing.assert_array_equal(stacks[3].maps[d], maps[1, 1].numpy())

    def test_heat_maps_are_the_positive_part_over_its_maximum(self) -> None:
        e = explain(small().eval(), images(), layers="all", targets=torch.tensor([[0, 1], [2, 3]]))
        heat = e.heatmaps()
        assert heat.shape == (2, 2, len(e.depths), 32, 32)
        assert float(heat.min()) >= 0
        assert float(heat.max()) <= 1
        cells = e.heatmaps(tuple(e.maps[-1].shape[2:]))[:, :, -1]  # at its own size nothing is interpolated
        raw = e.maps[-1].clamp(min=0)
        torch.testing.assert_close(cells, torch.nan_to_num(raw / raw.amax((2, 3), keepdim=True)))

    def test_blank_maps_give_blank_heat(self) -> None:
        model = small().eval()
        with torch.no_grad():
            model.fc.weight.zero_()
        e = explain(model, images(), targets=torch.tensor([0, 0]))
        assert {s for image in e.statuses() for t in image for s in t} == {"zero gradient"}
        assert float(e.heatmaps().abs().max()) == 0

    def test_maps_keep_their_sign(self) -> None:
        assert min(m.min() for m in explain(small().eval(), images(), layers="all").maps) < 0

    def test_unknown_method(self) -> None:
        with pytest.raises(NotFoundError, match="gradcam"):
            gradlens.explain(small(), images(), method="grad-cam")  # type: ignore[operator]
