"""Accuracy after a shift as a line in accuracy before it, over many models, and what lies off that line.

Recht et al. 2019, "Do ImageNet classifiers generalize to ImageNet?" (the line); Miller et al. 2021, "Accuracy on the
line" (on a probit scale); Taori et al. 2020, "Measuring robustness to natural distribution shifts in image
classification" (effective robustness). The unit is a training run. Runs of one family are not independent of each
other, so the bootstrap draws families. A line is an association between two accuracies of the models at hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import expit, logit, ndtr, ndtri

from gradlens.records import Estimate
from gradlens.shift import intervals

FEWEST_MODELS = 5
LEAST_SPREAD = 0.05
"""Largest minus smallest in-distribution accuracy: below it a slope is noise."""

FEWEST_FAMILIES = 3
"""Clusters below which drawing clusters says nothing about their variation."""


def _same(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


TRANSFORMS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "identity": (_same, _same),
    "logit": (logit, expit),
    "probit": (ndtri, ndtr),
}
"""Scales of the line, by name: (from an accuracy, back to an accuracy)."""


@dataclass(frozen=True)
class Line:
    """A fitted line, ``f(y) = slope f(x) + intercept``.

    Attributes:
        transform: the name of f, see :data:`TRANSFORMS`.
        slope, intercept: with their t intervals, n - 2 degrees of freedom; ``n`` counts models.
        r2: share of the variance of f(y) that the line explains, in [0, 1]; ``nan`` where f(y) does not vary.
        middle: mean of f(x).
        spread: sum of squared distances of f(x) from its mean.
        scatter: standard deviation of f(y) around the line, n - 2 degrees of freedom.
    """

    transform: str
    slope: Estimate
    intercept: Estimate
    r2: float
    middle: float
    spread: float
    scatter: float

    @property
    def n(self) -> int:
        return self.slope.n

    def at(self, x: np.ndarray | float) -> np.ndarray:
        """Accuracies that the line expects at in-distribution accuracies ``x``, same shape; clipped to [0, 1]."""
        return self._back(self._on_scale(x))

    def band(
        self, x: np.ndarray | float, confidence: float = 0.95, *, new: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) around :meth:`at`: where a further model would lie, or with ``new=False`` the line itself.

        Prediction interval with t quantiles, exact where the scatter around the line is normal on the line's scale.
        """
        f, _ = TRANSFORMS[self.transform]
        half = stats.t.ppf((1 + confidence) / 2, self.n - 2) * self._error(np.asarray(f(np.asarray(x))), new)
        middle = self._on_scale(x)
        return self._back(middle - half), self._back(middle + half)

    def p_value(self, x: float, y: float) -> float:
        """Two-sided p of a further model lying this far from the line; 1 where it lies on a line without scatter."""
        f, _ = TRANSFORMS[self.transform]
        off, error = float(f(np.asarray(y)) - self._on_scale(x)), float(self._error(np.asarray(f(np.asarray(x))), True))
        if error == 0:
            return 1.0 if abs(off) < 1e-12 else 0.0
        return float(2 * stats.t.sf(abs(off) / error, self.n - 2))

    def _on_scale(self, x: np.ndarray | float) -> np.ndarray:
        f, _ = TRANSFORMS[self.transform]
        return np.asarray(self.slope.value * f(np.asarray(x, dtype=np.float64)) + self.intercept.value)

    def _back(self, values: np.ndarray) -> np.ndarray:
        return np.clip(TRANSFORMS[self.transform][1](values), 0.0, 1.0)

    def _error(self, fx: np.ndarray, new: bool) -> np.ndarray:
        return np.asarray(self.scatter * np.sqrt(float(new) + 1 / self.n + (fx - self.middle) ** 2 / self.spread))


def family_of(model: str) -> str:
    """The family of a training run: its name without a seed's ending, ``resnet-s2`` is of ``resnet``."""
    return re.sub(r"-s\d+$", "", model)


def refusal(x: Sequence[float] | np.ndarray) -> str:
    """Why no line should go through models with these in-distribution accuracies; empty where one may."""
    x = np.asarray(x, dtype=np.float64)
    if len(x) < FEWEST_MODELS:
        return f"{len(x)} models, and a line needs at least {FEWEST_MODELS}"
    spread = float(x.max() - x.min())
    if spread < LEAST_SPREAD - 1e-12:
        return (
            f"the in-distribution accuracies of {len(x)} models lie within {100 * spread:.1f} points, "
            f"and a line needs at least {100 * LEAST_SPREAD:g}"
        )
    return ""


def inside(values: np.ndarray, n: np.ndarray | None, transform: str) -> np.ndarray:
    """Accuracies that ``transform`` can take: 0 and 1 become half an image right and half an image wrong.

    Logit and probit are infinite there; 1 / (2 n) is the usual correction (Cox 1970, "Analysis of binary data").

    Args:
        values: (m,) accuracies in [0, 1].
        n: (m,) images behind each, or ``None`` where unknown.
        transform: a name of :data:`TRANSFORMS`.

    Raises:
        ValueError: an accuracy is 0 or 1, the scale cannot take that, and the number of images is not known.
    """
    values = np.asarray(values, dtype=np.float64)
    if transform == "identity":
        return values
    ends = (values <= 0) | (values >= 1)
    if not ends.any():
        return values
    if n is None or not (np.asarray(n)[ends] > 0).all():
        raise ValueError(f"{transform} of an accuracy of exactly 0 or 1 needs the number of images behind it")
    half = 0.5 / np.maximum(np.asarray(n, dtype=np.float64), 1)
    return np.where(values <= 0, half, np.where(values >= 1, 1 - half, values))


def fit(
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray,
    transform: str = "probit",
    *,
    n_x: np.ndarray | None = None,
    n_y: np.ndarray | None = None,
    confidence: float = 0.95,
) -> Line:
    """Least squares line of f(y) on f(x), one point per model, with t intervals (scipy's ``linregress``).

    Miller et al. 2021 take f probit; Recht et al. 2019 the identity. Noise in x (few images) pulls the slope towards
    0, see :func:`noise_share`. Two agreement rates make a line of the same kind (Baek et al. 2022).

    Args:
        x: (m,) in-distribution accuracies in [0, 1], m >= 3, not all equal.
        y: (m,) accuracies after the shift.
        transform: name of f.
        n_x, n_y: (m,) images behind each, for accuracies of exactly 0 or 1 on a logit or probit scale.
        confidence: nominal coverage.

    Raises:
        ValueError: fewer than three points, equal x, or an end of the scale without its number of images.
    """
    f, _ = TRANSFORMS[transform]
    fx, fy = f(inside(np.asarray(x), n_x, transform)), f(inside(np.asarray(y), n_y, transform))
    m = len(fx)
    if m < 3 or np.ptp(fx) == 0:
        raise ValueError(f"a line needs at least three points with different x, got {m} with {len(set(fx))} different")
    order = np.lexsort((fy, fx))  # sums of floats must not depend on the order of the models
    fx, fy = fx[order], fy[order]
    result = stats.linregress(fx, fy)
    t = float(stats.t.ppf((1 + confidence) / 2, m - 2))
    made = intervals.label("t", confidence)

    def around(value: float, error: float) -> Estimate:
        return Estimate(float(value), float(value - t * error), float(value + t * error), m, made)

    middle, spread = float(fx.mean()), float(((fx - fx.mean()) ** 2).sum())
    scatter = float(np.sqrt(((fy - result.slope * fx - result.intercept) ** 2).sum() / (m - 2)))
    return Line(
        transform=transform,
        slope=around(result.slope, scatter / np.sqrt(spread)),
        intercept=around(result.intercept, scatter * np.sqrt(1 / m + middle**2 / spread)),
        r2=float(result.rvalue**2) if np.ptp(fy) else float("nan"),
        middle=middle,
        spread=spread,
        scatter=scatter,
    )


def bootstrap(
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray,
    families: Sequence[str],
    transform: str = "probit",
    *,
    n_x: np.ndarray | None = None,
    n_y: np.ndarray | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[Estimate, Estimate]:
    """Slope and intercept of :func:`fit` with percentile intervals from drawing families with all their models.

    Draws whose models all have one x have no slope; they are left out, and the interval's name says how many. Fewer
    than three families give no interval, and the name says that. Cameron & Miller 2015, "A practitioner's guide to
    cluster-robust inference": with few clusters such intervals are too narrow.

    Args:
        x, y, transform, n_x, n_y, confidence: as :func:`fit` takes them.
        families: (m,) names.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    line = fit(x, y, transform, n_x=n_x, n_y=n_y, confidence=confidence)
    names = sorted(set(families))
    if len(names) < FEWEST_FAMILIES:
        few = f"not defined: {len(names)} families, and drawing families needs {FEWEST_FAMILIES}"
        return Estimate.undefined(few, line.n), Estimate.undefined(few, line.n)
    f, _ = TRANSFORMS[transform]
    fx, fy = f(inside(np.asarray(x), n_x, transform)), f(inside(np.asarray(y), n_y, transform))
    middle = float(np.sort(fy).mean())
    fx, fy = fx - line.middle, fy - middle  # sums of squares lose digits far from zero
    member = np.array([names.index(name) for name in families])
    parts = np.stack([np.bincount(member, v, len(names)) for v in (np.ones(len(fx)), fx, fy, fx * fx, fx * fy)], axis=1)
    rng = np.random.default_rng([seed, len(names)])
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    n, sx, sy, sxx, sxy = (drawn @ parts).T  # (resamples,) each
    across = sxx - sx * sx / n
    some = across > 1e-9 * line.spread
    slopes = (sxy - sx * sy / n)[some] / across[some]
    intercepts = middle + sy[some] / n[some] - slopes * (line.middle + sx[some] / n[some])
    made = intervals.label(f"bootstrap over {len(names)} families", confidence)
    if not some.all():
        made += f", {int((~some).sum())} of {resamples} draws without spread left out"
    found = []
    for point, values in ((line.slope.value, slopes), (line.intercept.value, intercepts)):
        low, high = intervals.percentile(values, point, confidence)
        found.append(Estimate(point, low, high, line.n, made))
    return found[0], found[1]


def noise_share(x: Sequence[float] | np.ndarray, n_x: Sequence[int] | np.ndarray) -> float:
    """How much of the variance of the in-distribution accuracies is sampling noise, at least 0: mean p(1-p)/n over it.

    An identity line's slope is pulled towards 0 by about this share (regression dilution, Spearman 1904; Fuller 1987,
    "Measurement error models"). ``nan`` where the accuracies do not vary or the numbers of images are not known.
    """
    x, n = np.asarray(x, dtype=np.float64), np.asarray(n_x, dtype=np.float64)
    spread = float(np.var(x, ddof=1)) if len(x) > 1 else 0.0
    if spread == 0 or not (n > 0).all():
        return float("nan")
    return float(np.mean(x * (1 - x) / n)) / spread


def effective_robustness(
    line: Line, x: float, y: float, *, n_x: int = 0, n_y: int = 0, confidence: float = 0.95
) -> tuple[Estimate, float]:
    """(rho, p): accuracy beyond what a baseline's line expects, rho = y - f^-1(slope f(x) + intercept), in [-1, 1].

    Taori et al. 2020. The interval is that of a further model of the baseline: it holds the scatter of the baseline's
    models (and with it the noise of their accuracies) and the uncertainty of the line. The model must not be one of
    those that the line was fitted through.

    Args:
        line: of the baseline's models.
        x, y: accuracy of the model in distribution and after the shift.
        n_x, n_y: images behind them, 0 where unknown.
        confidence: nominal coverage.

    Raises:
        ValueError: an accuracy of 0 or 1 on a logit or probit scale without its number of images.
    """
    fx = float(inside(np.array([x]), np.array([n_x]), line.transform)[0])
    fy = float(inside(np.array([y]), np.array([n_y]), line.transform)[0])
    low, high = line.band(fx, confidence)
    rho = y - float(line.at(fx))
    made = intervals.label("t prediction", confidence)
    return Estimate(rho, min(y - float(high), rho), max(y - float(low), rho), line.n, made), line.p_value(fx, fy)
