"""What a network is trained on: images of a batch, and below each what augmentation made of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from gradlens.figures import style

_COLUMNS = 8
_GAP = 0.05  # inches between pictures
_WORDS = 0.24  # inches below a pair


def augmented_batch(
    originals: np.ndarray,
    seen: np.ndarray,
    shares: np.ndarray,
    classes: Sequence[str],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    title: str,
) -> Figure:
    """Draw pairs of pictures, eight to a row: the original above, the network's input, with its normalisation undone.

    Below stands the target: the class, or the two classes and their shares where images were mixed.

    Args:
        originals: (N, H, W, 3) uint8.
        seen: (N, h, w, 3) float32, normalised.
        shares: (N, K), rows summing to 1.
        classes: K names.
        mean, std: of the normalisation, on a 0-1 scale.
        title: one line above.

    Raises:
        ValueError: there is no image.
    """
    if not len(originals):
        raise ValueError("there is no image to draw")
    pictures = np.clip(seen * np.asarray(std) + np.asarray(mean), 0, 1)
    columns = min(_COLUMNS, len(originals))
    rows = -(-len(originals) // columns)
    cell = (style.PAGE_WIDTH - 0.1) / _COLUMNS - _GAP
    width, top = max(style.COLUMN_WIDTH, columns * (cell + _GAP) + 0.1), 0.45
    with style.paper():
        figure = Figure(figsize=(width, top + rows * (2 * (cell + _GAP) + _WORDS)))
        figure.set_layout_engine("none")  # laid out in inches, as a contact sheet is
        ax = figure.add_axes((0, 0, 1, 1))
        ax.axis("off")
        ax.text(0.06, 0.13, style.drawable(title), fontsize=8.5, va="center")
        ax.text(
            0.06, 0.31, "Above: as kept. Below: as the network sees it, normalisation undone.", fontsize=6.5,
            va="center", color="#444444",
        )  # fmt: skip
        for i, (original, picture, share) in enumerate(zip(originals, pictures, shares, strict=True)):
            left = 0.06 + i % columns * (cell + _GAP)
            y = top + i // columns * (2 * (cell + _GAP) + _WORDS)
            for image, upper in ((original, y), (picture, y + cell + _GAP)):
                ax.imshow(image, extent=(left, left + cell, upper + cell, upper), aspect="auto")
            words = _target(share, classes)
            ax.text(left, y + 2 * cell + _GAP + 0.03, words, fontsize=5, va="top", linespacing=1.05)
        ax.set(xlim=(0, width), ylim=(figure.get_figheight(), 0))  # inches, y downwards
    return figure


def _target(share: np.ndarray, classes: Sequence[str]) -> str:
    strongest = [k for k in np.argsort(-share)[:2] if share[k] > 0]
    if len(strongest) == 1:
        return style.short(classes[strongest[0]], 20)
    return "\n".join(f"{share[k]:.2f} {style.short(classes[k], 16)}" for k in strongest)
