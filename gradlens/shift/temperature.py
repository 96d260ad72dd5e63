"""One temperature for a model's logits, fitted on labelled in-distribution images."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from gradlens.errors import InputError

BOUNDS = (0.02, 50.0)
"""Temperatures that are tried. A minimum at either end is no minimum."""


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T > 0 at which softmax(logits / T) has the smallest mean negative log-likelihood.

    Guo, Pleiss, Sun & Weinberger 2017, "On calibration of modern neural networks". Fit it on in-distribution images
    only, and use the same T wherever probabilities of that model are used: a threshold that was set on calibrated
    probabilities says nothing about raw ones.

    Args:
        logits: (n, K).
        labels: (n,) columns of the true classes.

    Raises:
        InputError: there is no such temperature: no image, or the likelihood only grows towards 0 (every image right,
            so that no confidence is too high) or towards infinity (the logits know nothing of the labels).
    """
    if not len(labels):
        raise InputError("a temperature needs labelled images of classes that the model knows, got none")
    z = np.asarray(logits, dtype=np.float64)
    z = z - z[np.arange(len(z)), labels][:, None]  # (n, K): -log p(true class) = logsumexp of a row
    if (z <= 0).all():
        raise InputError(f"all {len(labels)} images are right, so the likelihood only grows as the temperature falls")

    def loss(log_t: float) -> float:
        return float(logsumexp(z / np.exp(log_t), axis=1).mean())

    low, high = np.log(BOUNDS)
    found = float(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x)
    if min(found - low, high - found) < 1e-3:
        raise InputError(
            f"no temperature between {BOUNDS[0]:g} and {BOUNDS[1]:g} fits; the logits are not calibratable"
        )
    return float(np.exp(found))
