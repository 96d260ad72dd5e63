"""The daylight of the catalogue."""

from __future__ import annotations

import numpy as np

# Daylights: gain of red, green, blue; contrast; brightness added at the top and at the bottom of the image.
LIGHTS: dict[str, tuple[tuple[float, float, float], float, float, float]] = {
    "noon": ((1.02, 1.01, 0.98), 1.06, 6, 0),
    "soft": ((1.0, 1.0, 1.0), 0.97, 4, 4),
    "overcast": ((0.94, 0.97, 1.01), 0.86, 4, -6),
    "golden": ((1.09, 0.99, 0.84), 1.0, 2, 4),
    "hazy": ((1.0, 1.0, 1.0), 0.78, 26, 14),
    "morning": ((1.01, 0.98, 1.03), 0.94, 8, -4),
}


def lit(image: np.ndarray, light: str, strength: float) -> np.ndarray:
    """An image (H, W, 3) float32, 0 to 255, in the named light, ``strength`` 0 (neutral) to 1."""
    gain, contrast, top, bottom = LIGHTS[light]
    factor = 1 + (np.asarray(gain, np.float32) - 1) * strength
    contrast = 1 + (contrast - 1) * strength
    ramp = np.linspace(top, bottom, image.shape[0], dtype=np.float32)[:, None, None] * strength
    return (image - 128) * contrast * factor + 128 * factor + ramp
