"""Class weights for training sets in which some classes have many more images than others."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight

from gradlens.errors import TrainingError


def class_weights(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Weights of the classes' losses, inversely proportional to their numbers of images: n / (K · n_k).

    King & Zeng 2001, "Logistic Regression in Rare Events Data", as scikit-learn's ``"balanced"`` computes it. Their
    mean over the training images is 1, so the loss keeps its size and the learning rate its meaning.

    Args:
        labels: (n,) int64, class indices of the training images.
        num_classes: K.

    Returns:
        (K,) float32.

    Raises:
        TrainingError: a class has no training image.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    if len(empty := torch.nonzero(counts == 0).flatten()):
        raise TrainingError(
            f"class_weights = 'balanced' needs at least one training image of each class, but {len(empty)} of "
            f"{num_classes} have none (first: class {int(empty[0])}); leave them out or set class_weights = 'none'"
        )
    weights = compute_class_weight("balanced", classes=np.arange(num_classes), y=labels.numpy())
    return torch.from_numpy(weights).to(torch.float32)
