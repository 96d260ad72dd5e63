"""Lines over many models: against statsmodels, against slow versions, and at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gradlens.shift import lines


def models(m: int = 12, seed: int = 0, slope: float = 1.3, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies on a probit line with scatter."""
    rng = np.random.default_rng(seed)
    fx = rng.normal(1.2, 0.5, m)
    return stats.norm.cdf(fx), stats.norm.cdf(slope * fx - 0.5 + rng.normal(0, noise, m))


@pytest.mark.parametrize("transform", lines.TRANSFORMS)
def test_scales_go_there_and_back(transform: str) -> None:
    f, back = lines.TRANSFORMS[transform]
    x = np.linspace(0.01, 0.99, 50)
    assert back(f(x)) == pytest.approx(x, abs=1e-12)
    assert (np.diff(f(x)) > 0).all()


@pytest.mark.parametrize("transform", lines.TRANSFORMS)
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_fit_is_statsmodels(transform: str, confidence: float) -> None:
    import statsmodels.api as sm

    x, y = models()
    f, back = lines.TRANSFORMS[transform]
    line = lines.fit(x, y, transform, confidence=confidence)
    other = sm.OLS(f(y), sm.add_constant(f(x))).fit()
    ends = other.conf_int(1 - confidence)
    assert (line.intercept.value, line.slope.value) == pytest.approx(tuple(other.params))
    assert (line.intercept.low, line.intercept.high) == pytest.approx(tuple(ends[0]))
    assert (line.slope.low, line.slope.high) == pytest.approx(tuple(ends[1]))
    assert line.r2 == pytest.approx(other.rsquared)
    at = np.array([0.6, 0.85, 0.97])
    frame = other.get_prediction(np.column_stack([np.ones(3), f(at)])).summary_frame(alpha=1 - confidence)
    assert line.at(at) == pytest.approx(np.clip(back(frame["mean"].to_numpy()), 0, 1))
    for new, name in ((True, "obs_ci"), (False, "mean_ci")):
        low, high = line.band(at, confidence, new=new)
        assert low == pytest.approx(np.clip(back(frame[f"{name}_lower"].to_numpy()), 0, 1))
        assert high == pytest.approx(np.clip(back(frame[f"{name}_upper"].to_numpy()), 0, 1))
    assert (line.n, line.slope.interval) == (12, f"t {100 * confidence:g}%")


def test_bootstrap_is_that_of_drawing_families_one_after_the_other() -> None:
    x, y = models(m=18, noise=0.3)
    families = [f"f{i % 6}" for i in range(18)]
    slope, intercept = lines.bootstrap(x, y, families, "probit", resamples=20_000)
    rng = np.random.default_rng(1)
    slow = []
    for _ in range(3000):
        rows = np.concatenate([np.flatnonzero(np.array(families) == f"f{j}") for j in rng.integers(6, size=6)])
        slow.append(stats.linregress(stats.norm.ppf(x[rows]), stats.norm.ppf(y[rows]))[:2])
    ends = np.quantile(slow, [0.025, 0.975], axis=0)
    assert (slope.low, slope.high) == pytest.approx(ends[:, 0], abs=0.05)
    assert (intercept.low, intercept.high) == pytest.approx(ends[:, 1], abs=0.05)
    assert slope.interval == "bootstrap over 6 families 95%"
    assert slope.value == lines.fit(x, y, "probit").slope.value


def test_families_widen_the_bootstrap() -> None:
    """Five runs of one family err together: drawing models would call that five pieces of evidence."""
    rng = np.random.default_rng(0)
    centre = rng.uniform(0.6, 0.95, 8)
    off = rng.normal(0, 0.05, 8)
    x = np.repeat(centre, 5) + rng.normal(0, 0.002, 40)
    y = np.repeat(0.9 * centre + off, 5) + rng.normal(0, 0.002, 40)
    own = [f"m{i}" for i in range(40)]
    families = [f"f{i // 5}" for i in range(40)]
    alone, together = (lines.bootstrap(x, y, names, "identity", resamples=4000)[0] for names in (own, families))
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_bootstrap_says_what_it_leaves_out_and_when_it_cannot_be_done() -> None:
    x = np.array([0.8, 0.8, 0.8, 0.9, 0.95])
    y = np.array([0.6, 0.61, 0.62, 0.7, 0.72])
    slope, _ = lines.bootstrap(x, y, ["a", "a", "a", "b", "c"], "identity", resamples=2000)
    assert "of 2000 draws without spread left out" in slope.interval
    slope, intercept = lines.bootstrap(x, y, list("aabbb"), "identity")
    assert not slope.defined
    assert not intercept.defined
    assert "2 families, and drawing families needs 3" in slope.interval


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 20), st.sampled_from(list(lines.TRANSFORMS)))
def test_order_of_models_does_not_matter_and_intervals_hold_their_point(seed: int, m: int, transform: str) -> None:
    x, y = models(m, seed, noise=0.3)
    families = [f"f{i % 4}" for i in range(m)]
    order = np.random.default_rng(seed).permutation(m)
    assert lines.fit(x, y, transform) == lines.fit(x[order], y[order], transform)
    one = lines.bootstrap(x, y, families, transform, resamples=200, seed=seed)
    two = lines.bootstrap(x[order], y[order], [families[i] for i in order], transform, resamples=200, seed=seed)
    for a, b in zip(one, two, strict=True):
        assert (a.low, a.high) == pytest.approx((b.low, b.high), abs=1e-9)
        assert a.low <= a.value <= a.high
    line = lines.fit(x, y, transform)
    assert 0 <= line.r2 <= 1 + 1e-12
    low, high = line.band(x)
    inner_low, inner_high = line.band(x, new=False)
    assert (low <= inner_low).all()
    assert (inner_low <= line.at(x) + 1e-12).all()
    assert (line.at(x) <= inner_high + 1e-12).all()
    assert (inner_high <= high).all()


def test_points_on_a_line_have_no_scatter() -> None:
    x = np.array([0.6, 0.7, 0.8, 0.9, 0.95])
    line = lines.fit(x, 0.8 * x + 0.1, "identity")
    assert (line.slope.value, line.intercept.value, line.r2) == pytest.approx((0.8, 0.1, 1))
    rho, p = lines.effective_robustness(line, 0.85, 0.8 * 0.85 + 0.1)
    assert rho.value == pytest.approx(0)
    assert p > 0.01
    flat = lines.fit(x, np.full(5, 0.5), "identity")
    assert flat.slope.value == 0
    assert math.isnan(flat.r2)


def test_too_little_for_a_line_is_said() -> None:
    assert lines.refusal([0.8, 0.85, 0.9, 0.95]) == "4 models, and a line needs at least 5"
    assert lines.refusal([0.90, 0.91, 0.92, 0.93, 0.94, 0.949]) == (
        "the in-distribution accuracies of 6 models lie within 4.9 points, and a line needs at least 5"
    )
    assert lines.refusal([0.90, 0.91, 0.92, 0.93, 0.95]) == ""
    with pytest.raises(ValueError, match="three points"):
        lines.fit([0.8, 0.8, 0.8], [0.1, 0.2, 0.3])


def test_ends_of_the_scale_become_half_an_image() -> None:
    x, n = np.array([0.0, 0.5, 1.0]), np.array([100, 100, 200])
    assert lines.inside(x, n, "probit").tolist() == [0.005, 0.5, 0.9975]
    assert lines.inside(x, None, "identity").tolist() == x.tolist()
    assert lines.inside(np.array([0.2]), None, "logit").tolist() == [0.2]
    with pytest.raises(ValueError, match="exactly 0 or 1 needs the number of images"):
        lines.inside(x, None, "logit")


def test_effective_robustness_written_out() -> None:
    """Taori et al. 2020: accuracy less what the line of the standard models expects."""
    x, y = models(10, 3)
    line = lines.fit(x, y, "logit")
    rho, p = lines.effective_robustness(line, 0.9, 0.95)
    slope, intercept = np.polyfit(np.log(x / (1 - x)), np.log(y / (1 - y)), 1)
    expected = 1 / (1 + math.exp(-(slope * math.log(0.9 / 0.1) + intercept)))
    assert rho.value == pytest.approx(0.95 - expected)
    assert rho.low <= rho.value <= rho.high
    assert (rho.low > 0) == (p < 0.05)
    assert rho.interval == "t prediction 95%"


def test_a_model_of_the_baseline_is_called_robust_as_often_as_it_may_be() -> None:
    """Simulated: of new models from the line itself, five in a hundred lie outside their interval."""
    outside = []
    for seed in range(400):
        x, y = models(9, seed, noise=0.2)
        _, p = lines.effective_robustness(lines.fit(x[1:], y[1:], "probit"), x[0], y[0])
        outside.append(p < 0.05)
    assert np.mean(outside) == pytest.approx(0.05, abs=0.03)


def test_noise_in_x_pulls_the_slope_down_by_its_share() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0.7, 0.9, 4000)
    seen = rng.binomial(100, x) / 100
    share = lines.noise_share(seen, np.full(4000, 100))
    slope = lines.fit(seen, 0.8 * x, "identity").slope.value
    assert slope == pytest.approx(0.8 * (1 - share), abs=0.02)
    assert math.isnan(lines.noise_share([0.5, 0.5], [10, 10]))
    assert math.isnan(lines.noise_share([0.5, 0.6], [0, 10]))


def test_family_is_the_name_without_its_seed() -> None:
    assert lines.family_of("vehicles/resnet-s2") == "vehicles/resnet"
    assert lines.family_of("resnet-s12") == lines.family_of("resnet") == "resnet"
    assert lines.family_of("convnext-small") == "convnext-small"
