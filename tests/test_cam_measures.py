"""Measures of maps: slow second versions, other people's libraries, cases with a known answer, what all promise."""

from __future__ import annotations

import itertools
from functools import cache, partial

import numpy as np
import pytest
import torch
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import sensitivity_max as captum_sensitivity
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from gradlens.cam import faithfulness, localisation, sanity
from gradlens.cam.engine import explain
from gradlens.cam.faithfulness import PERCENTILES, STEPS, impute, road_curves
from gradlens.cam.measures import MEASURES, Measure, mean_interval, probabilities, random_heat, ranks, spearman
from gradlens.cam.twins import tell_apart
from gradlens.data import probe_sets
from gradlens.data.preprocess import to_tensor
from gradlens.depths.find import find_depths
from gradlens.errors import DepthError
from gradlens.records import LoadedModel, Preprocess
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build

WITH_MODEL = [n for n, m in MEASURES.items() if m.needs == "model"]
WITH_MASK = [n for n, m in MEASURES.items() if m.needs == "mask"]
WITH_EXPLAINER = [n for n, m in MEASURES.items() if m.needs == "explainer"]


class Spot(nn.Module):
    """Two classes; texture in the top left quarter speaks for the second one, texture elsewhere speaks against it."""

    def __init__(self, side: int = 16, gain: float = 6.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((side, side), -gain / (0.75 * side * side)), requires_grad=False)
        self.weight[: side // 2, : side // 2] = gain / (0.25 * side * side)
        self.images = 0
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        self.passes += 1
        value = (x.square().mean(1) * self.weight).sum((1, 2))
        return torch.stack([torch.zeros_like(value), value], 1)

    def truth(self, n: int) -> Tensor:
        """The map that tells what the model does: 1 where it looks for its class."""
        return (self.weight > 0).float().expand(n, -1, -1).clone()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def textured(n: int = 3, side: int = 16) -> Tensor:
    """Images with texture of varied contrast everywhere: what :class:`Spot` reads, and a blur takes away."""
    return torch.sign(noise(n, 3, side, side, seed=1) - 0.5) * torch.linspace(1, 1.2, n)[:, None, None, None]


def small() -> nn.Module:
    torch.manual_seed(0)
    return build("timm:resnet18", {"channels": [8, 16, 24, 32]}, 8).eval()


@cache
def zoo(name: str, n: int = 10) -> tuple[LoadedModel, Tensor, Tensor, Tensor]:
    """A model of the zoo, with images, labels and masks of the ``vehicles-test`` set, spread over the classes."""
    model = checkpoints.load(name)
    tests = probe_sets.open_probe_set(probe_sets.find("vehicles-test"))
    assert tests.classes is not None
    chosen = np.linspace(0, len(tests) - 1, n).astype(int).tolist()
    images = torch.stack([to_tensor(model.preprocess, tests.read(i)) for i in chosen])
    labels = torch.tensor([model.classes.index(tests.classes[int(tests.labels[i])]) for i in chosen])
    masks = []
    for i in chosen:
        mask = tests.mask(i)
        assert mask is not None
        masks.append(localisation.network_mask(model.preprocess, mask))
    return model, images, labels, torch.stack(masks)


# --- what every measure promises


def value(m: Measure, heat: Tensor, model: nn.Module, images: Tensor, targets: Tensor, masks: Tensor) -> Tensor:
    if m.needs == "model":
        return m.function(model, images, targets, heat)
    if m.needs == "mask":
        return m.function(heat, masks)
    # an explainer that gives these maps and is shaken a little by the image
    shaken = partial(lambda h, x, _t: h * (1 + 0.1 * (x - images).mean((1, 2, 3))[:, None, None]), heat)
    return m.function(shaken, images, targets)


def case(n: int = 3) -> tuple[Tensor, nn.Module, Tensor, Tensor, Tensor]:
    model = Spot()
    masks = torch.zeros((n, 16, 16), dtype=torch.bool)
    masks[:, 2:9, 3:8] = True
    return noise(4, n, 16, 16, seed=3), model, textured(n), torch.tensor([1, 0, 1] * n)[:n], masks


@pytest.mark.parametrize("name", MEASURES)
def test_one_value_per_map_and_image_in_the_range_it_states(name: str) -> None:
    heat, *rest = case()
    m = MEASURES[name]
    many = value(m, heat, *rest)
    assert many.shape == (4, 3)
    assert not many.isnan().any()
    assert bool((many >= m.low).all())
    assert bool((many <= m.high).all())
    for one, row in zip(heat, many, strict=True):
        torch.testing.assert_close(value(m, one, *rest), row)


@pytest.mark.parametrize("name", MEASURES)
def test_the_scale_of_a_map_does_not_matter(name: str) -> None:
    heat, *rest = case()
    m = MEASURES[name]
    torch.testing.assert_close(value(m, 1e3 * heat, *rest), value(m, heat, *rest), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MEASURES)
def test_an_image_is_measured_alike_wherever_it_stands_in_a_batch(name: str) -> None:
    heat, model, images, targets, masks = case()
    order = torch.tensor([2, 0, 1])
    m = MEASURES[name]
    turned = value(m, heat[:, order], model, images[order], targets[order], masks[order])
    torch.testing.assert_close(turned, value(m, heat, model, images, targets, masks)[:, order])


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("fill", [0.0, torch.nan])
def test_a_blank_or_broken_map_has_no_value_and_spoils_no_other(name: str, fill: float) -> None:
    heat, *rest = case()
    m = MEASURES[name]
    sound = value(m, heat, *rest)
    heat[1, 2] = fill
    got = value(m, heat, *rest)
    assert bool(got[1, 2].isnan())
    got[1, 2] = sound[1, 2]
    torch.testing.assert_close(got, sound)


def test_a_constant_map_ranks_nothing() -> None:
    heat, model, images, targets, _ = case()
    heat[0] = 2.5
    for name in ("insertion", "deletion", "road"):
        assert MEASURES[name].function(model, images, targets, heat).isnan().any(1).tolist() == [
            True,
            False,
            False,
            False,
        ]
    assert not faithfulness.average_drop(model, images, targets, heat).isnan().any()


@pytest.mark.parametrize("name", WITH_MODEL)
def test_the_model_and_the_images_are_left_as_they_were(name: str) -> None:
    model = small().train()
    images, heat = textured(2, 32), noise(2, 32, 32)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    kept, drawn = images.clone(), heat.clone()
    with torch.inference_mode():
        MEASURES[name].function(model, images, torch.tensor([0, 3]), heat)
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(images, kept)
    assert torch.equal(heat, drawn)


@pytest.mark.parametrize("name", WITH_MODEL)
def test_the_true_map_of_a_known_model_beats_a_random_and_an_inverted_one(name: str) -> None:
    model, images = Spot(), textured()
    truth = model.truth(3) + 1e-3 * noise(3, 16, 16)  # no ties
    heat = torch.stack([truth, 1.001 - truth, *(random_heat(images, seed=s) for s in range(10))])
    good, wrong, *nothing = MEASURES[name].function(model, images, torch.ones(3, dtype=torch.long), heat)
    sign = 1 if MEASURES[name].better == "higher" else -1
    assert bool((sign * good > sign * torch.stack(nothing).mean(0)).all())
    assert bool((sign * good > sign * wrong).all())


# probabilities of the zoo are next to 1, which leaves no increase to be seen: random maps do as well there
@pytest.mark.parametrize("name", [n for n in WITH_MODEL + WITH_MASK if n not in ("increase", "average-gain")])
def test_a_map_of_the_zoo_beats_random_and_inverted_ones(name: str) -> None:
    model, images, labels, masks = zoo("vehicles/densenet")
    drawn = explain(model.module, images, layers=["features.denseblock3"], targets=labels).heatmaps()[:, 0, 0]
    # random maps with the values of the drawn ones: average drop is lower for any map that shows more of the image
    values = drawn.flatten(1).sort(1, descending=True).values
    blind = [values.gather(1, ranks(random_heat(images, seed=s)).flatten(1)).view_as(drawn) for s in range(3)]
    heat = torch.stack([drawn, 1 - drawn, *blind])
    good, wrong, *nothing = value(MEASURES[name], heat, model.module, images, labels, masks).mean(1).tolist()
    sign = 1 if MEASURES[name].better == "higher" else -1
    assert sign * good > sign * np.mean(nothing)
    assert sign * good > sign * wrong


def test_measures_say_where_they_come_from() -> None:
    assert len(WITH_MODEL) + len(WITH_MASK) + len(WITH_EXPLAINER) == len(MEASURES)
    for name, m in MEASURES.items():
        assert m.name == name
        assert m.title
        assert m.paper
        assert m.low < m.high
        assert (m.chance is not None) == (m.needs == "mask")


# --- faithfulness


def slow_curve(model: nn.Module, start: Tensor, end: Tensor, target: int, heat: Tensor, steps: int) -> list[float]:
    """One image, one pixel at a time."""
    side = heat.shape[-1]
    order = sorted(range(heat.numel()), key=lambda i: -float(heat.flatten()[i]))  # Python's sort is stable
    picture, found = start.clone(), []
    todo = list(order)
    for k in range(steps + 1):
        while len(order) - len(todo) < round(heat.numel() * k / steps):
            i = todo.pop(0)
            picture[:, i // side, i % side] = end[:, i // side, i % side]
        found.append(float(model(picture[None]).softmax(1)[0, target]))
    return found


@pytest.mark.parametrize("ties", [False, True])
def test_insertion_and_deletion_pixel_by_pixel(ties: bool) -> None:
    model = small()
    images, targets = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 5])
    heat = noise(2, 32, 32)
    heat = (heat * 4).round() if ties else heat
    blur = faithfulness.blurred(images)
    for curve, area, pair in (
        (faithfulness.insertion_curve, faithfulness.insertion, (blur, images)),
        (faithfulness.deletion_curve, faithfulness.deletion, (images, torch.zeros_like(images))),
    ):
        got = curve(model, images, targets, heat, steps=7, batch=3)
        with torch.no_grad():
            slow = [slow_curve(model, *(p[i] for p in pair), int(targets[i]), heat[i], 7) for i in range(2)]
        np.testing.assert_allclose(got, slow, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            area(model, images, targets, heat, steps=7), np.trapezoid(slow, np.linspace(0, 1, 8), axis=1), rtol=1e-4
        )


def test_the_blur_is_that_of_rise_at_224_pixels() -> None:
    dot = torch.zeros(1, 3, 224, 224)
    dot[..., 112, 112] = 1
    offset = torch.arange(-5.0, 6.0)
    line = torch.exp(-offset.square() / (2 * 25))
    line /= line.sum()
    torch.testing.assert_close(faithfulness.blurred(dot)[0, 0, 107:118, 107:118], line[:, None] * line)
    assert faithfulness.blurred(torch.randn(1, 3, 8, 8)).shape == (1, 3, 8, 8)  # smaller than the kernel


def slow_imputation(image: Tensor, hole: np.ndarray) -> np.ndarray:
    """The paper's equations, one row per missing pixel, dense, float64."""
    height, width = hole.shape
    where = [tuple(p) for p in np.argwhere(hole)]
    a, b = np.zeros((len(where), len(where))), np.zeros((len(where), image.shape[0]))
    for row, (i, j) in enumerate(where):
        for down, across in itertools.product((-1, 0, 1), repeat=2):
            r, c = i + down, j + across
            if (down, across) == (0, 0) or not (0 <= r < height and 0 <= c < width):
                continue
            weight = 1 / 12 if down and across else 1 / 6
            a[row, row] += weight
            if hole[r, c]:
                a[row, where.index((r, c))] -= weight
            else:
                b[row] += weight * image[:, r, c].double().numpy()
    filled = image.double().numpy().copy()
    for (i, j), x in zip(where, np.linalg.solve(a, b), strict=True):
        filled[:, i, j] = x
    return filled


@pytest.mark.parametrize("share", [0.004, 0.3, 0.9])
@pytest.mark.parametrize("smooth", [False, True])
def test_imputation_solves_the_equations(share: float, smooth: bool) -> None:
    images = torch.randn(2, 3, 13, 17, generator=torch.Generator().manual_seed(2))
    heat = random_heat(images, cells=3) if smooth else noise(2, 13, 17)
    missing = ranks(heat) < round(13 * 17 * share)
    got = impute(images, missing)
    for image, hole, filled in zip(images, missing, got, strict=True):
        np.testing.assert_allclose(filled, slow_imputation(image, hole.numpy()), rtol=1e-4, atol=1e-5)
    assert torch.equal(got[~missing[:, None].expand_as(got)], images[~missing[:, None].expand_as(images)])


def test_imputation_fills_a_ramp_exactly_and_leaves_a_whole_image_alone() -> None:
    ramp = (torch.arange(20.0)[:, None] + 2 * torch.arange(20.0)).expand(1, 3, 20, 20)
    hole = torch.zeros(1, 20, 20, dtype=torch.bool)
    hole[:, 4:15, 6:12] = True  # a linear function has no curvature, so the weighted mean of neighbours is itself
    torch.testing.assert_close(impute(ramp, hole), ramp, rtol=1e-5, atol=1e-4)
    assert torch.equal(impute(ramp, torch.zeros_like(hole)), ramp)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_road_against_pytorch_grad_cam() -> None:
    road_of = pytest.importorskip("pytorch_grad_cam.metrics.road")
    peer = pytest.importorskip("pytorch_grad_cam.metrics.perturbation_confidence")
    softmax = pytest.importorskip("pytorch_grad_cam.utils.model_targets").ClassifierOutputSoftmaxTarget
    model = small()
    # at 30 pixels their percentile and our count remove the same pixels
    images, targets = torch.randn(2, 3, 30, 30, generator=torch.Generator().manual_seed(4)), torch.tensor([1, 6])
    heat = random_heat(images, cells=5, seed=3)
    clear = road_of.NoisyLinearImputer(noise=0)
    curves = road_curves(model, images, targets, heat, noise=0)
    for kind, curve in zip((peer.RemoveMostRelevantFirst, peer.RemoveLeastRelevantFirst), curves, strict=True):
        for k, percentile in enumerate(PERCENTILES):
            metric = peer.PerturbationConfidenceMetric(kind(100 - percentile, clear))
            theirs = metric(images, heat.numpy(), [softmax(int(t)) for t in targets], model, return_diff=False)
            np.testing.assert_allclose(curve[:, k], theirs, rtol=2e-3, atol=1e-5)
    combined = (curves[1] - curves[0]).mean(1) / 2
    torch.testing.assert_close(faithfulness.road(model, images, targets, heat, noise=0), combined)


def test_road_adds_the_noise_it_says() -> None:
    model = Spot()
    images, seen = torch.ones(1, 3, 16, 16), []
    model.register_forward_pre_hook(lambda _m, x: seen.append(x[0].clone()))
    road_curves(model, images, torch.tensor([1]), noise_free := noise(1, 16, 16), percentiles=(50,), noise=0.1)
    removed = seen[0][:, :, (ranks(noise_free)[0] < 128)] - 1
    assert float(removed.std()) == pytest.approx(0.1, rel=0.1)
    assert float((seen[0][:, :, (ranks(noise_free)[0] >= 128)] - 1).abs().max()) == 0


def test_two_forward_passes_per_percentile() -> None:
    model, images = Spot(), textured(5)
    faithfulness.road(model, images, torch.ones(5, dtype=torch.long), noise(5, 16, 16))
    assert model.images == 2 * len(PERCENTILES) * 5
    assert model.passes <= 2 * len(PERCENTILES)


@pytest.mark.parametrize(
    ("name", "per_image", "per_map"),
    [
        ("insertion", 2, STEPS - 1), ("deletion", 2, STEPS - 1), ("road", 0, 2 * len(PERCENTILES)),
        ("average-drop", 1, 1), ("increase", 1, 1), ("average-gain", 1, 1), ("infidelity", 21, 0),
    ],
)  # fmt: skip
def test_forward_passes_are_as_many_as_the_docstrings_say(name: str, per_image: int, per_map: int) -> None:
    heat, model, images, targets, _ = case()
    assert isinstance(model, Spot)
    MEASURES[name].function(model, images, targets, heat)
    assert model.images == 3 * (per_image + 4 * per_map)
    assert set(WITH_MODEL) == {
        "insertion",
        "deletion",
        "road",
        "average-drop",
        "increase",
        "average-gain",
        "infidelity",
    }


def test_drop_increase_and_gain_by_hand() -> None:
    model, images = Spot(), textured()
    targets = torch.tensor([1, 1, 0])
    heat = model.truth(3)
    heat[1] = 1
    before, after = (model(x).softmax(1).gather(1, targets[:, None])[:, 0] for x in (images, images * heat[:, None]))
    y, o = before.numpy(), after.numpy()
    run = (model, images, targets, 5 * heat)
    np.testing.assert_allclose(faithfulness.average_drop(*run), np.maximum(0, y - o) / y, rtol=1e-5)
    np.testing.assert_allclose(faithfulness.average_gain(*run), np.maximum(0, o - y) / (1 - y), rtol=1e-5)
    # the whole evidence and nothing against it; everything; everything that speaks for the other class
    assert faithfulness.increase(*run).tolist() == [1, 0, 0]
    assert float(faithfulness.average_drop(*run)[1]) == 0


def test_infidelity_against_captum() -> None:
    model = small()
    images, targets = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 5, 1])
    heat = noise(3, 32, 32) - 0.3
    squares = faithfulness.removal_squares((32, 32), 12, seed=5)

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:  # captum repeats each image 12 times
        removed = squares.repeat(len(inputs) // 12, 1, 1)[:, None].expand_as(inputs)
        return removed.float() / 3, torch.where(removed, 0.0, inputs)  # the map is given for each of three channels

    theirs = captum_infidelity(
        lambda x: model(x).softmax(1), perturb, images, heat[:, None].expand(-1, 3, -1, -1).contiguous(),
        target=targets, n_perturb_samples=12, normalize=True,
    )  # fmt: skip
    ours = faithfulness.infidelity(model, images, targets, heat, samples=12, seed=5)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-3, atol=1e-9)


def test_infidelity_is_zero_for_the_map_of_a_linear_function() -> None:
    class Linear(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            p = 0.5 + (x.mean(1) * weight).sum((1, 2))
            return torch.stack([1 - p, p], 1).log()  # probabilities that are linear in the pixels

    weight = (noise(16, 16) - 0.5) / 300
    images = torch.ones(2, 3, 16, 16)
    targets = torch.tensor([1, 1])
    exact = faithfulness.infidelity(Linear(), images, targets, weight.expand(2, -1, -1))
    other = faithfulness.infidelity(Linear(), images, targets, weight.roll(5, 0).expand(2, -1, -1))
    assert float(exact.max()) < 1e-12
    assert float(other.min()) > 1e-6


def test_sensitivity_against_captum() -> None:
    model = small()
    images, targets = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 5])

    def explainer(x: Tensor, t: Tensor) -> Tensor:
        return explain(model, x, layers=["layer2"], targets=t).maps[0][:, 0]

    def captum_explainer(x: Tensor | tuple[Tensor], target: Tensor) -> Tensor | tuple[Tensor]:
        return (explainer(x[0], target),) if isinstance(x, tuple) else explainer(x, target)

    draws = torch.stack(list(faithfulness.noises(images, 0.1, 4, seed=7)))
    theirs = captum_sensitivity(
        captum_explainer, images, lambda x: x + draws.repeat(2, 1, 1, 1), n_perturb_samples=4, target=targets
    )
    ours = faithfulness.max_sensitivity(explainer, images, targets, radius=0.1, samples=4, seed=7)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert float(draws.abs().max()) <= 0.1
    assert float(ours.min()) > 0
    still = faithfulness.max_sensitivity(lambda x, t: torch.ones(2, 4, 4), images, targets)
    assert still.tolist() == [0, 0]


def test_maps_that_do_not_fit_are_refused() -> None:
    heat, model, images, targets, masks = case()
    with pytest.raises(ValueError, match=r"expected heat \(3, 16, 16\)"):
        faithfulness.insertion(model, images, targets, heat[..., :8])
    with pytest.raises(ValueError, match="expected 3 class indices"):
        faithfulness.deletion(model, images, targets[:2], heat)
    with pytest.raises(ValueError, match="percentiles between 0 and 100"):
        faithfulness.road(model, images, targets, heat, percentiles=(0, 50))
    with pytest.raises(ValueError, match="one mask of the map's size per image"):
        localisation.energy(heat, masks[:2])


def test_probabilities_of_any_callable() -> None:
    model, images = Spot(), textured()
    targets = torch.tensor([0, 1, 1])
    expected = model(images).softmax(1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(probabilities(lambda x: {"logits": model(x)}, images, targets), expected)
    assert torch.equal(random_heat(images, seed=4), random_heat(images, seed=4))


# --- localisation


def square(*at: int, side: int = 12) -> Tensor:
    mask = torch.zeros(1, side, side, dtype=torch.bool)
    top, left, bottom, right = at
    mask[:, top:bottom, left:right] = True
    return mask


def test_the_perfect_map_gets_one_the_uniform_one_chance_and_the_inverse_nothing() -> None:
    mask = square(2, 3, 7, 6)
    heat = torch.stack([mask.float(), torch.ones(1, 12, 12), (~mask).float()])
    chance = float(mask.float().mean())
    for name in WITH_MASK:
        perfect, uniform, inverse = MEASURES[name].function(heat, mask)[:, 0].tolist()
        level = MEASURES[name].chance
        assert level is not None
        assert perfect == 1
        assert uniform == pytest.approx(float(level(mask)[0]), rel=1e-6)
        assert inverse <= uniform
        assert name == "pointing-tolerant" or float(level(mask)[0]) == pytest.approx(chance)
        assert name == "pointing-tolerant" or inverse == 0


def test_nothing_can_be_said_about_an_empty_mask() -> None:
    for name in WITH_MASK:
        m = MEASURES[name]
        assert m.chance is not None
        masks = torch.cat([square(0, 0, 0, 0), square(1, 1, 4, 4)])
        assert m.function(noise(2, 12, 12), masks).isnan().tolist() == [True, False]
        assert m.chance(masks).isnan().tolist() == [True, False]


def test_negative_heat_is_no_heat() -> None:
    heat, mask = noise(1, 12, 12) - 0.5, square(2, 2, 8, 8)
    for name in WITH_MASK:
        torch.testing.assert_close(
            MEASURES[name].function(heat, mask), MEASURES[name].function(heat.clamp(min=0), mask)
        )


def test_tied_maxima_count_by_their_share() -> None:
    heat, mask = torch.zeros(1, 12, 12), square(0, 0, 6, 6)
    heat[0, 1, 1] = heat[0, 2, 2] = heat[0, 9, 9] = 3
    assert localisation.pointing(heat, mask).item() == pytest.approx(2 / 3)


def test_tolerance_is_a_disc_of_four_percent() -> None:
    mask = square(40, 40, 60, 60, side=100)  # reach 4 pixels
    for (row, column), hit in {(36, 50): 1, (35, 50): 0, (37, 38): 1, (37, 37): 0, (50, 64): 0, (50, 63): 1}.items():
        heat = torch.zeros(1, 100, 100)
        heat[0, row, column] = 1
        assert localisation.pointing_tolerant(heat, mask).item() == hit
        assert localisation.pointing(heat, mask).item() == 0


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.booleans())
def test_localisation_against_slow_versions(seed: int, side: int, ties: bool) -> None:
    draw = np.random.default_rng(seed)
    heat = draw.random((1, side, side)).astype(np.float32)
    heat = np.round(heat * 3) / 3 if ties else heat
    mask = draw.random((1, side, side)) < 0.4
    heat[0, 0, 0], mask[0, -1, -1] = 1, True  # neither is empty
    h, m = heat[0], mask[0]
    run = torch.from_numpy(heat), torch.from_numpy(mask)

    assert localisation.energy(*run).item() == pytest.approx(h[m].sum() / h.sum(), rel=1e-5)
    assert localisation.pointing(*run).item() == pytest.approx(m[h == h.max()].mean(), rel=1e-5)
    overlaps = {t: (m & (h >= t)).sum() / (m | (h >= t)).sum() for t in np.unique(h) if t > 0}
    assert localisation.best_iou(*run).item() == pytest.approx(max(overlaps.values()), rel=1e-5)
    half = h >= 0.5 * h.max()
    assert localisation.iou(*run).item() == pytest.approx((m & half).sum() / (m | half).sum(), rel=1e-5)
    hits, places = 0.0, int(m.sum())
    for level in sorted(np.unique(h), reverse=True):  # from each group of ties as many as there are places, at random
        taken = min(places, int((h == level).sum()))
        hits, places = hits + taken * m[h == level].mean(), places - taken
    assert localisation.rank_accuracy(*run).item() == pytest.approx(hits / m.sum(), rel=1e-5)
    for name in WITH_MASK:
        assert 0 <= MEASURES[name].function(*run).item() <= 1


@given(st.integers(0, 2**32 - 1))
def test_best_iou_is_at_least_any_other(seed: int) -> None:
    heat, mask = noise(1, 9, 9, seed=seed), noise(1, 9, 9, seed=seed + 1) < 0.3
    mask[0, 4, 4] = True
    best = localisation.best_iou(heat, mask)
    assert all(best >= localisation.iou(heat, mask, t) for t in (0.1, 0.5, 0.9, 1.0))


PREPROCESS = {
    "as it is": Preprocess((3, 40, 40)),
    "crop": Preprocess((3, 32, 32), crop_pct=0.8),
    "smaller": Preprocess((3, 24, 24), crop_pct=0.9),
    "squashed": Preprocess((3, 32, 24), crop_mode="squash"),
    "larger": Preprocess((3, 80, 80)),
}


@pytest.mark.parametrize("name", PREPROCESS)
@pytest.mark.parametrize("shape", [(40, 40), (60, 40), (40, 90)])
def test_a_mask_goes_where_the_image_goes(name: str, shape: tuple[int, int]) -> None:
    preprocess = PREPROCESS[name]
    mask = np.zeros(shape, dtype=bool)
    mask[shape[0] // 3 : shape[0] // 2, shape[1] // 2 : shape[1] * 3 // 4] = True
    got = localisation.network_mask(preprocess, mask)
    picture = np.where(mask[..., None], 255, 0).astype(np.uint8).repeat(3, 2)
    pixels = to_tensor(preprocess, picture)[0] * preprocess.std[0] + preprocess.mean[0]
    assert got.shape == preprocess.size
    # resizing blurs the edge by a pixel; what is clearly object or clearly not must agree
    clear = (pixels < 0.1) | (pixels > 0.9)
    assert torch.equal(got[clear], (pixels > 0.5)[clear])
    assert float(clear.float().mean()) > 0.8
    assert bool(got.any())


def test_a_mask_that_is_not_resized_is_cropped_to_the_pixel() -> None:
    mask = noise(40, 40).numpy() < 0.5
    preprocess = Preprocess((3, 32, 32), crop_pct=0.8)
    assert np.array_equal(localisation.network_mask(preprocess, mask), mask[4:36, 4:36])


# --- statistics


def test_spearman_is_scipys() -> None:
    first, second = noise(2, 3, 6, 7), noise(2, 3, 6, 7, seed=1)
    first[0] = (first[0] * 3).round()
    got = spearman(first, second)
    for i, j in np.ndindex(2, 3):
        expected = stats.spearmanr(first[i, j].flatten(), second[i, j].flatten()).statistic
        assert got[i, j].item() == pytest.approx(expected, abs=1e-6)
    assert bool(spearman(torch.ones(1, 4, 4), noise(1, 4, 4)).isnan().all())
    assert bool(spearman(torch.full((1, 4, 4), torch.nan), noise(1, 4, 4)).isnan().all())


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    held = 0
    for i in range(200):
        mean, low, high = mean_interval(draw.exponential(size=60), resamples=400, seed=i)
        assert low <= mean <= high
        held += low <= 1 <= high
    assert 0.88 < held / 200 <= 0.99
    assert mean_interval(np.array([np.nan, 2.0, np.nan])) == (2.0, 2.0, 2.0)
    assert np.isnan(mean_interval(np.array([np.nan]))).all()


def slow_ssim(x: np.ndarray, y: np.ndarray, span: float, side: int) -> float:
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    values = []
    for i, j in np.ndindex(x.shape[0] - side + 1, x.shape[1] - side + 1):
        p, q = x[i : i + side, j : j + side].ravel(), y[i : i + side, j : j + side].ravel()
        (vp, vpq), (_, vq) = np.cov(p, q)
        values.append(
            (2 * p.mean() * q.mean() + c1) * (2 * vpq + c2) / ((p.mean() ** 2 + q.mean() ** 2 + c1) * (vp + vq + c2))
        )
    return float(np.mean(values))


@pytest.mark.parametrize(("side", "window"), [(12, 7), (5, 5), (4, 3)])
def test_ssim_window_by_window(side: int, window: int) -> None:
    x, y = noise(side, side, seed=1), noise(side, side, seed=2) - 0.5
    plus = slow_ssim((x / x.max()).numpy(), (y.abs() / y.abs().max()).numpy(), 1, window)
    signed = slow_ssim((x / x.max()).numpy(), (y / y.abs().max()).numpy(), 2, window)
    assert sanity.ssim(x[None], y.abs()[None]).item() == pytest.approx(plus, abs=1e-5)
    assert sanity.ssim(x[None], y[None]).item() == pytest.approx(signed, abs=1e-5)


def test_similarity_of_a_map_with_itself_its_negative_and_nothing() -> None:
    maps = noise(2, 9, 9) - 0.5
    same, turned = sanity.similarity(maps, 3 * maps), sanity.similarity(maps, -maps)
    for name in ("spearman", "spearman_absolute", "ssim", "ssim_absolute"):
        torch.testing.assert_close(getattr(same, name), torch.ones(2))
    torch.testing.assert_close(turned.spearman, -torch.ones(2))
    torch.testing.assert_close(turned.spearman_absolute, torch.ones(2))
    assert bool((turned.ssim < 0.9).all())
    blank = sanity.similarity(maps, torch.zeros(2, 9, 9))
    assert bool(blank.spearman.isnan().all())
    assert bool(blank.ssim.isnan().all())
    with pytest.raises(ValueError, match="at least 3 x 3"):
        sanity.ssim(maps[:, :2, :2], maps[:, :2, :2])


# --- cascading randomisation


def changed(model: nn.Module, other: nn.Module) -> set[str]:
    before = dict(model.named_parameters())
    return {n for n, p in other.named_parameters() if not torch.equal(p, before[n])}


def test_a_cascade_runs_from_the_logits_to_the_pixels() -> None:
    model, images = small(), torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        for n, p in model.named_parameters():  # norms leave their defaults, or a reset would not show
            p.add_(0.01 * torch.rand(p.shape) if "bn" in n or "downsample.1" in n else 0)
    points = find_depths(model, images[:1]).select(["layer1", "layer3", "layer4"])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    levels = list(sanity.cascade(model, images, points))
    assert [level.name for level in levels] == ["after layer4", "after layer3", "after layer1", "all"]
    everything = {n for n, _ in model.named_parameters()}
    behind = [{"fc"}, {"fc", "layer4"}, {"fc", "layer4", "layer3", "layer2"}]
    for level, parts in zip(levels, behind, strict=False):
        assert changed(model, level.model) == {n for n in everything if n.split(".")[0] in parts}
    assert changed(model, levels[-1].model) == everything
    shares = [level.share for level in levels]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    # what is random already stays as it is on the way down
    later = dict(levels[2].model.named_parameters())
    for n in changed(model, levels[1].model):
        assert torch.equal(dict(levels[1].model.named_parameters())[n], later[n])
    again = list(sanity.cascade(model, images, points))
    assert not changed(levels[-1].model, again[-1].model)
    assert changed(levels[-1].model, list(sanity.cascade(model, images, points, seed=1))[-1].model)


def test_reset_norms_are_measured_anew_on_the_images() -> None:
    model, images = small(), 5 + 3 * torch.randn(6, 3, 32, 32)
    points = find_depths(model, images[:1]).select(["layer2"])
    first, everything = sanity.cascade(model, images, points)
    last = dict(everything.model.named_modules())
    seen: list[Tensor] = []
    last["conv1"].register_forward_hook(lambda _m, _x, out: seen.append(out))
    with torch.no_grad():
        logits = everything.model(images)
    torch.testing.assert_close(last["bn1"].running_mean, seen[0].mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(last["bn1"].running_var, seen[0].var((0, 2, 3)), rtol=1e-3, atol=1e-4)
    assert last["bn1"].momentum == dict(model.named_modules())["bn1"].momentum
    assert not any(m.training for m in everything.model.modules())
    assert bool(logits.isfinite().all())
    assert float(logits.std(0).mean()) > 1e-4  # the network is alive: images give different logits
    untouched = dict(first.model.named_modules())["layer1.0.bn1"]
    assert torch.equal(untouched.running_mean, dict(model.named_modules())["layer1.0.bn1"].running_mean)


def test_parameters_of_containers_go_where_they_are_read() -> None:
    torch.manual_seed(0)
    model = build("timm:vit_tiny_patch16_224", {"depth": 3, "embed_dim": 24, "num_heads": 3, "img_size": 32}, 5)
    images = torch.randn(3, 3, 32, 32)
    points = find_depths(model, images[:1]).select(["blocks.0", "blocks.1"])
    *early, last = sanity.cascade(model, images, points)
    first_read = {"cls_token", "pos_embed"}
    assert all(not first_read & changed(model, level.model) for level in early)
    assert first_read <= changed(model, last.model)
    drawn, before = (dict(m.named_parameters())["pos_embed"].detach().std() for m in (last.model, model))
    assert drawn.item() == pytest.approx(before.item(), rel=0.2)


def test_a_cascade_works_in_a_callers_inference_mode_and_keeps_the_random_state() -> None:
    model = small()
    with torch.inference_mode():
        images = torch.randn(2, 3, 32, 32)
        points = find_depths(model, images[:1]).select(["stages"])
        torch.manual_seed(3)
        levels = [level.name for level in sanity.cascade(model, images, points)]
        drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    assert levels[-1] == "all"
    with pytest.raises(DepthError, match="at least one depth"):
        list(sanity.cascade(model, images, []))


def test_an_edge_detector_survives_randomisation_and_gradcam_does_not() -> None:
    model, images, labels, _ = zoo("vehicles/densenet")
    points = find_depths(model.module, images[:1]).select(["stages"])

    def edges(_model: nn.Module) -> Tensor:
        grey = images.mean(1)
        return (grey.diff(dim=1, append=grey[:, -1:]) ** 2 + grey.diff(dim=2, append=grey[:, :, -1:]) ** 2).sqrt()

    def gradcam(m: nn.Module) -> Tensor:
        return explain(m, images, layers=["features.denseblock3"], targets=labels).maps[0][:, 0]

    def both(m: nn.Module) -> Tensor:
        return torch.stack([edges(m)[:, :6, :6], gradcam(m)])

    curve = sanity.randomisation(model.module, images, points, both)
    assert curve.levels[0] == "trained"
    assert curve.levels[-1] == "all"
    assert curve.shares[0] == 0
    assert curve.shares[-1] == 1
    assert curve.ssim.shape == (len(curve.levels), 2, len(images))
    assert bool((curve.spearman[0] == 1).all())
    assert sanity.survives(curve.spearman[:, 0]).answer == "survives"
    verdict = sanity.survives(curve.spearman[:, 1])
    assert verdict.answer == "depends on the weights"
    assert verdict.low <= verdict.similarity <= verdict.high


@pytest.mark.parametrize(
    ("last", "answer"),
    [
        ([0.9, 0.8, 0.95, 0.85], "survives"),
        ([-0.9, -0.8, -0.95, -0.85], "survives"),
        ([0.1, -0.1, 0.0, 0.2], "depends on the weights"),
        ([0.1, 0.9, 0.2, 0.8], "undecided"),
        ([0.1, 0.1, torch.nan, torch.nan], "undecided"),
    ],
)
def test_the_verdict_follows_its_rule(last: list[float], answer: str) -> None:
    assert sanity.survives(torch.tensor([[1.0] * 4, last])).answer == answer


def test_no_loss_of_similarity_means_that_the_map_survives() -> None:
    # alike by chance before and after: low, and no lower for the randomisation
    curve = torch.tensor([[0.2, 0.3, 0.1, 0.2], [0.3, 0.2, 0.2, 0.1]])
    verdict = sanity.survives(curve)
    assert verdict.answer == "survives"
    assert "no loss" in verdict.reason
    with pytest.raises(ValueError, match="at least two levels"):
        sanity.survives(curve[:1])


# --- twins


def made(on_object: float, moves: bool, seed: int, n: int = 20) -> tuple[Tensor, Tensor, Tensor]:
    """Maps of a pair with ``on_object`` of noise on the object; the background's part is drawn anew or kept."""
    mask = torch.zeros(n, 12, 12, dtype=torch.bool)
    mask[:, 3:8, 4:9] = True
    back, other, front = (noise(n, 12, 12, seed=seed + k) for k in (1, 2, 3))
    return (
        torch.where(mask, on_object * front, back),
        torch.where(mask, on_object * front, other if moves else back),
        mask,
    )


@pytest.mark.parametrize("biased", ["A", "B"])
def test_the_twin_that_reads_the_background_is_found(biased: str) -> None:
    reads, reads_swapped, masks = made(0.5, moves=True, seed=0)
    looks, looks_swapped, _ = made(3.0, moves=False, seed=10)
    pairs = [(reads, reads_swapped), (looks, looks_swapped)]
    (a, a_swapped), (b, b_swapped) = pairs if biased == "A" else pairs[::-1]
    found = tell_apart(a, a_swapped, b, b_swapped, masks)
    assert found.answer == found.energy.points_to == found.movement.points_to == biased
    sign = 1 if biased == "A" else -1
    assert found.energy.pairs == 20
    for evidence in (found.energy, found.movement):
        assert sign * evidence.towards_a > 0
        assert evidence.low <= evidence.towards_a <= evidence.high
        assert evidence.p < 0.025
    assert sign * (found.energy.b - found.energy.a) == pytest.approx(sign * found.energy.towards_a)
    assert sign * (found.movement.a - found.movement.b) == pytest.approx(sign * found.movement.towards_a)


def test_twins_that_do_not_differ_or_contradict_are_not_told_apart() -> None:
    a, a_swapped, masks = made(1.0, moves=True, seed=0)
    b, b_swapped, _ = made(1.0, moves=True, seed=10)
    assert tell_apart(a, a_swapped, b, b_swapped, masks).answer == "undecided"
    same = tell_apart(a, a_swapped, a, a_swapped, masks)
    assert same.answer == "undecided"
    assert same.energy.p == same.movement.p == 1
    # A lies less on the object, B moves more
    a, a_swapped, _ = made(0.5, moves=False, seed=0)
    b, b_swapped, _ = made(2.0, moves=True, seed=10)
    at_odds = tell_apart(a, a_swapped, b, b_swapped, masks)
    assert (at_odds.energy.points_to, at_odds.movement.points_to, at_odds.answer) == ("A", "B", "undecided")


def test_one_piece_of_evidence_is_enough() -> None:
    a, a_swapped, masks = made(0.5, moves=False, seed=0)
    b, b_swapped, _ = made(2.0, moves=False, seed=10)
    found = tell_apart(a, a_swapped, b, b_swapped, masks)
    assert (found.energy.points_to, found.movement.points_to, found.answer) == ("A", "undecided", "A")


def test_pairs_with_a_blank_map_are_left_out_and_counted() -> None:
    a, a_swapped, masks = made(0.5, moves=True, seed=0)
    b, b_swapped, _ = made(2.0, moves=False, seed=10)
    b[3], a_swapped[5] = 0, 0
    found = tell_apart(a, a_swapped, b, b_swapped, masks)
    assert found.answer == "A"
    assert found.energy.pairs == found.movement.pairs == 18
    nothing = tell_apart(0 * a, a_swapped, b, b_swapped, masks)
    assert nothing.answer == "undecided"
    assert nothing.energy.pairs == 0
    with pytest.raises(ValueError, match="four stacks of maps"):
        tell_apart(a, a_swapped, b, b_swapped[:5], masks)


@given(st.integers(0, 2**31))
def test_swapping_the_names_of_the_twins_swaps_the_answer(seed: int) -> None:
    a, a_swapped, masks = made(1.0, moves=True, seed=seed, n=8)
    b, b_swapped, _ = made(1.4, moves=False, seed=seed + 10, n=8)
    one = tell_apart(a, a_swapped, b, b_swapped, masks)
    other = tell_apart(b, b_swapped, a, a_swapped, masks)
    assert one.answer == {"A": "B", "B": "A", "undecided": "undecided"}[other.answer]
    assert one.energy.towards_a == pytest.approx(-other.energy.towards_a)


def test_twins_without_a_difference_are_named_no_oftener_than_the_level_says() -> None:
    named = 0
    for seed in range(150):
        a, a_swapped, masks = made(1.0, moves=True, seed=100 * seed, n=12)
        b, b_swapped, _ = made(1.0, moves=True, seed=100 * seed + 10, n=12)
        named += tell_apart(a, a_swapped, b, b_swapped, masks, level=0.1).answer != "undecided"
    assert named / 150 < 0.17  # 0.1 and three standard errors
