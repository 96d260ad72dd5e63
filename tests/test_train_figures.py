"""Figures of what is trained on: class distribution, and a batch as the network sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from torch import nn

from gradlens.data.headers import header, native_size
from gradlens.data.sources import open_source
from gradlens.errors import InputError
from gradlens.figures.class_distribution import SetSpread, class_distribution
from gradlens.runtime import Runtime, seed_everything
from gradlens.train import loop
from gradlens.train.images import Images
from gradlens.train.preview import first_batch
from gradlens.train.settings import Recipe
from gradlens.workflows.train_figures import draw_batch, draw_distribution, spread

# from Python 3.12 on a fork of a process with threads warns; the workers use none of them
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
QUIET = Runtime(device="cpu", quiet=True, workers=1)


def recipe(**changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "recipe": "test", "title": "test", "collection": "test", "model": "tiny", "builder": "test:tiny",
        "data": {"train": "somewhere", "select_fraction": 0.1}, "input_size": 8, "epochs": 1, "batch_size": 8,
        "optimiser": {"lr": 0.02}, "mean": [0.5, 0.4, 0.5], "std": [0.25, 0.25, 0.3],
    }  # fmt: skip
    return Recipe.model_validate(fields | changes)


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(Text) if isinstance(t, Text) and t.get_text()]


def told(classes: int, name: str = "set", use: str = "training", sizes: int = 40) -> SetSpread:
    rng = np.random.default_rng(classes)
    pairs = tuple((int(w), int(h)) for w, h in rng.integers(20, 900, (sizes, 2)))
    names = tuple(f"class {k} of a long name" if k % 5 == 0 else f"c{k}" for k in range(classes))
    return SetSpread(name, use, names, tuple(rng.integers(5, 300, classes).tolist()), pairs)


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Headings and names that are drawn over one another."""
    figure.draw_without_rendering()
    shown = [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_text().strip()]
    # matplotlib keeps ticks beyond an axis, which it does not draw
    boxes = [(t.get_text(), t.get_window_extent()) for t in shown if not t.get_text().isdigit()]
    return [
        (a, b)
        for i, (a, one) in enumerate(boxes)
        for b, other in boxes[i + 1 :]
        if min(one.x1, other.x1) - max(one.x0, other.x0) > 1 and min(one.y1, other.y1) - max(one.y0, other.y0) > 1
    ]


@pytest.mark.parametrize("classes", [2, 8, 37, 100])
def test_every_count_or_both_ends_of_them_are_printed(classes: int) -> None:
    sets = [told(classes), told(classes, "held-out", "selection"), told(classes, "probe-a", "probe", sizes=0)]
    figure = class_distribution(sets)
    words = texts(figure)
    for one in sets:
        assert f"{one.name}\n{one.use}, {sum(one.counts):,} images\nimbalance {one.imbalance:.3g}" in words
        if classes <= 37:
            assert all(f"{count:,}" in words for count in one.counts)
        else:
            assert any(w.startswith("fewest: ") and w.endswith(f", {min(one.counts):,}") for w in words)
            assert any(w.startswith("most: ") and w.endswith(f", {max(one.counts):,}") for w in words)
    assert not overlapping(figure)


def test_classes_stand_in_one_order_and_missing_ones_are_said(tmp_path: Path) -> None:
    first = SetSpread("a", "training", ("x", "y", "z"), (5, 9, 7), ((32, 32),) * 21)
    second = SetSpread("b", "probe", ("y", "x", "w"), (0, 2, 1), ((32, 32),) * 3)
    figure = class_distribution([first, second])
    left, right = figure.subfigs[0].axes
    assert [t.get_text() for t in left.get_yticklabels()] == ["y", "z", "x", "w"]
    assert [bar.get_width() for bar in left.patches] == [9, 7, 5]
    assert [bar.get_width() for bar in right.patches] == [0, 2, 1]
    words = texts(figure)
    assert words.count("no such class") == 2
    assert "b\nprobe, 3 images\na class is empty" in words
    assert any("All image files are 32 × 32 pixels." in w.replace("\n", " ") for w in words)
    assert second.imbalance == float("inf")
    assert first.imbalance == 9 / 5
    assert draw_distribution([first, second], tmp_path / "d") == [tmp_path / "d.png", tmp_path / "d.pdf"]
    with pytest.raises(ValueError, match="no image set"):
        class_distribution([])


def test_a_spread_counts_labels_and_reads_sizes_of_upright_pictures(tmp_path: Path) -> None:
    for kind, count in (("a", 2), ("b", 1)):
        (tmp_path / kind).mkdir()
        for i in range(count):
            Image.new("RGB", (30 + i, 20)).save(tmp_path / kind / f"{i}.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # lies on its side
    Image.new("RGB", (40, 10)).save(tmp_path / "b" / "turned.jpg", exif=turned)
    (tmp_path / "b" / "broken.png").write_bytes(b"no image")
    images = open_source(str(tmp_path))
    found = spread(images, "training", QUIET)
    assert (found.classes, found.counts) == (("a", "b"), (2, 3))
    assert sorted(found.sizes) == [(10, 40), (30, 20), (30, 20), (31, 20)]
    for i, sample in enumerate(images.samples):
        if "broken" not in sample.id:
            whole = header(images.store.encoded(images.rows[i]), sample.id)
            assert native_size(images.store.encoded(images.rows[i]), sample.id) == (whole.width, whole.height)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"augment": {"pad": 2, "flip": 0.5, "cutout": 3, "hue": 0.1}, "mix": {"mixup": 1.0, "cutmix": 1.0}},
        {"augment": {"policy": "trivialaugment"}},
    ],
    ids=["plain", "mixed", "policy"],
)
def test_the_preview_is_what_the_first_step_is_given(changes: dict[str, Any], tmp_path: Path) -> None:
    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[torch.Tensor] = []
            self.head = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.seen.append(x.detach().clone())
            return self.head(x.mean((2, 3)))

    pixels = torch.randint(0, 256, (24, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images, asked = Images(pixels, torch.arange(24) % 3), recipe(**changes)
    seed_everything(0)
    module = Watching()
    loop.train(module, asked, images, images, tmp_path, QUIET)
    batch = first_batch(images, asked, 3, 1)
    assert torch.equal(batch.seen, module.seen[0])
    assert batch.originals.shape == (8, 3, 8, 8)
    torch.testing.assert_close(batch.shares.sum(1), torch.ones(8))


def test_a_batch_is_drawn_with_its_normalisation_undone(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (24, 3, 8, 8), dtype=torch.uint8)
    images = Images(pixels, torch.arange(24) % 3)
    path = draw_batch(images, recipe(), ("猫", "$x", "c" * 60), tmp_path / "a.b.png", QUIET)
    assert path == tmp_path / "a.b.png"
    with Image.open(path) as picture:
        assert picture.width > 1500
    with pytest.raises(InputError, match=r"ending in \.png, \.pdf or \.svg, got 'batch\.gif'"):
        draw_batch(images, recipe(), ("a", "b", "c"), tmp_path / "batch.gif", QUIET)

    from gradlens.figures.augmented_batch import augmented_batch

    batch = first_batch(images, recipe(), 3)
    figure = augmented_batch(
        batch.originals.permute(0, 2, 3, 1).numpy(), batch.seen.permute(0, 2, 3, 1).numpy(), batch.shares.numpy(),
        ("a", "b", "c"), mean=(0.5, 0.4, 0.5), std=(0.25, 0.25, 0.3), title="t",
    )  # fmt: skip
    drawn = [image.get_array() for image in figure.axes[0].images]
    assert len(drawn) == 16
    for above, below in zip(drawn[::2], drawn[1::2], strict=True):  # nothing is augmented: the two are the same
        assert above is not None
        assert below is not None
        np.testing.assert_allclose(np.asarray(above) / 255, np.asarray(below), atol=1e-5)
