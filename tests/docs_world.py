"""What the documentation takes for granted: a project folder with photographs, weights and tables of the reader's own.

Images are rendered vehicles under the names and classes that the pages speak of. Where the real data of
``../shared/data`` are here, a few of their rows stand in for them, so that nothing takes long.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from documents import ROOT
from PIL import Image

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TABLES = {
    "cifar10-train": CIFAR10,
    "cifar10-test": CIFAR10,
    "cifar10-internet": CIFAR10,
    "catdog-train": ("cat", "dog"),
    "catdog-test": ("cat", "dog"),
    "catdog-breeds": ("cat", "dog"),
}
ROWS, ROWS_TO_TRAIN = 80, 400  # of each table; an epoch is at least one batch of 128


def furnish(place: Path) -> Path:
    """Make ``place/project`` and ``place/shared/data``."""
    project, data = place / "project", place / "shared" / "data"
    project.mkdir()
    data.mkdir(parents=True)
    pictures = sorted((ROOT / "probe_sets" / "vehicles-test").rglob("*.jpg"))
    pictures = [p for p in pictures if "_masks" not in p.parts][::5]
    encoded = [p.read_bytes() for p in pictures]
    for name, classes in TABLES.items():
        _table(data / f"{name}.parquet", classes, encoded)
    _published(data / "cifar10.1-predictions.parquet")
    for here, there in (
        *((n, n) for n in ("cifar10-train", "cifar10-test", "catdog-train", "catdog-test", "catdog-breeds")),
        ("test", "cifar10-test"),
        ("cifar10.1-predictions", "cifar10.1-predictions"),
    ):
        os.link(data / f"{there}.parquet", project / f"{here}.parquet")
    Image.open(io.BytesIO(encoded[0])).save(project / "photo.jpg")
    for i, picture in enumerate(encoded[:12]):
        for folder in ("photos/train", "photos/select", "photos/test", "data/test", "data/web", "data/train"):
            _write(project / folder / ("robin", "wren")[i % 2] / f"{folder.replace('/', '-')}-{i}.jpg", picture)
        _write(project / "downloads" / "photos" / f"{i}.jpg", picture)
        _write(project / "holiday" / f"{i}.jpg", picture)
    (project / "classes.txt").write_text("robin\nwren\n")
    (project / "map.toml").write_text('others = "keep"\n[classes]\nrobin = "bird"\nwren = "bird"\n')
    import timm
    import torch

    torch.save({"state_dict": timm.create_model("resnet18", num_classes=2).state_dict()}, project / "birds.pth")
    (project / "Makefile").symlink_to(ROOT / "Makefile")
    return place


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _table(path: Path, classes: tuple[str, ...], encoded: list[bytes]) -> None:
    n = ROWS_TO_TRAIN if path.stem.endswith("train") else ROWS
    real = Path(os.environ.get("GRADLENS_SHARED_DATA") or ROOT.parent / "shared" / "data") / path.name
    if real.is_file():
        table = pq.read_table(real)
        pq.write_table(table.take(np.linspace(0, len(table) - 1, min(n, len(table))).astype(int)), path)
        return
    features = {"label": {"names": list(classes), "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    rows = [{"bytes": encoded[i % len(encoded)], "path": f"{i}.jpg"} for i in range(n)]
    table = pa.table({"image": rows, "label": [i % len(classes) for i in range(n)]})
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(about), path)


def _published(path: Path) -> None:
    """Hard predictions of five models on three sets, in the layout of those of Recht et al."""
    rng = np.random.default_rng(0)
    columns: dict[str, list[object]] = {c: [] for c in ("model", "dataset", "index", "label", "prediction")}
    for dataset, hard in (("cifar10", 0.1), ("cifar10.1-v4", 0.2), ("cifar10.1-v6", 0.2)):
        labels = rng.integers(0, 10, 200)
        for m in range(5):
            wrong = rng.random(200) < hard + 0.03 * m
            said = np.where(wrong, (labels + rng.integers(1, 10, 200)) % 10, labels)
            columns["model"] += [f"model-{m}"] * 200
            columns["dataset"] += [dataset] * 200
            columns["index"] += range(200)
            columns["label"] += labels.tolist()
            columns["prediction"] += said.tolist()
    pq.write_table(pa.table(columns), path)
