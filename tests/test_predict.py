"""Running models over image sets: one decode, one answer whatever the batch, nothing computed twice."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gradlens.data.image_set import ImageSet
from gradlens.data.preprocess import to_tensor
from gradlens.data.sources import open_source
from gradlens.errors import ModelError
from gradlens.records import LoadedModel, Preprocess
from gradlens.runtime import Runtime
from gradlens.shift import predict as module
from gradlens.shift.predict import CPU_PASS, predict
from gradlens.shift.store import OutputStore

CLASSES = ("ash", "beech", "cedar")
N = CPU_PASS + 8  # more than one pass, the last one not full
RUNTIME = Runtime(device="cpu", quiet=True)


class Net(nn.Module):
    """A convolution, a batch norm, a pooling, a head; counts the images it was given."""

    def __init__(self, seed: int, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, classes)
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


def loaded(seed: int, name: str | None = None, size: int = 16, **changes: object) -> LoadedModel:
    fields: dict[str, object] = {
        "name": name or f"net{seed}",
        "module": Net(seed).eval(),
        "classes": CLASSES,
        "preprocess": Preprocess((3, size, size)),
        "builder": "test:Net",
    }
    return LoadedModel(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    rng = np.random.default_rng(0)
    for i in range(N):
        folder = tmp_path / "woods" / CLASSES[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(14, 30, size=2)
        pixels = rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return open_source(str(tmp_path / "woods"))


@pytest.fixture
def store(tmp_path: Path) -> OutputStore:
    return OutputStore(tmp_path / "outputs")


def test_logits_are_those_of_the_images_one_by_one(images: ImageSet, store: OutputStore) -> None:
    models = [loaded(1), loaded(2), loaded(3, size=24)]
    for model, answer in zip(models, predict(models, images, RUNTIME, store), strict=True):
        p = answer.predictions
        assert p.ids == tuple(s.id for s in images.samples)
        assert p.labels.tolist() == images.labels.tolist()
        assert p.logits is not None
        assert p.logits.dtype == np.float32
        with torch.no_grad():
            alone = [model.module(to_tensor(model.preprocess, images.read(i))[None])[0] for i in range(N)]
        np.testing.assert_allclose(p.logits, torch.stack(alone).numpy(), atol=1e-5)
        assert np.array_equal(p.predicted, p.logits.argmax(axis=1))
        assert answer.computed == N
        assert not answer.skipped


def test_each_image_is_decoded_once_for_all_models(
    images: ImageSet, store: OutputStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = ImageSet.read

    def counting(self: ImageSet, i: int) -> np.ndarray:
        read.append(i)
        return original(self, i)

    monkeypatch.setattr(ImageSet, "read", counting)
    predict([loaded(1), loaded(2), loaded(3, size=24)], images, RUNTIME, store)
    assert sorted(read) == list(range(N))


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (7, 3), (500, 2)])
def test_neither_batch_size_nor_workers_move_a_bit(
    images: ImageSet, store: OutputStore, tmp_path: Path, batch_size: int, workers: int
) -> None:
    (plain,) = predict([loaded(1)], images, RUNTIME, store)
    runtime = replace(RUNTIME, batch_size=batch_size, workers=workers)
    (other,) = predict([loaded(1)], images, runtime, OutputStore(tmp_path / "other"))
    assert plain.predictions.logits is not None
    assert other.predictions.logits is not None
    assert plain.predictions.logits.tobytes() == other.predictions.logits.tobytes()


def test_the_network_always_sees_the_same_number_of_images(images: ImageSet, store: OutputStore) -> None:
    model = loaded(1)
    predict([model], images, RUNTIME, store)
    assert model.module.batches == [CPU_PASS, CPU_PASS]  # type: ignore[comparison-overlap]


def test_what_was_computed_is_not_computed_again(images: ImageSet, store: OutputStore) -> None:
    (first,) = predict([loaded(1)], images, RUNTIME, store)
    again, new = predict([loaded(1, name="renamed"), loaded(2)], images, RUNTIME, store)
    assert (again.computed, new.computed) == (0, N)
    assert again.predictions.model == "renamed"
    assert first.predictions.logits is not None
    assert again.predictions.logits is not None
    assert first.predictions.logits.tobytes() == again.predictions.logits.tobytes()
    (fresh,) = predict([loaded(1)], images, RUNTIME, store, fresh=True)
    assert fresh.computed == N


def test_any_change_that_could_move_a_logit_is_computed_anew(images: ImageSet, store: OutputStore) -> None:
    predict([loaded(1)], images, RUNTIME, store)
    changed = loaded(1, name="weights")
    with torch.no_grad():
        changed.module.head.bias[0] += 1e-4  # type: ignore[index, union-attr, operator]
    for model, runtime, what in (
        (changed, RUNTIME, "weights"),
        (loaded(1, size=20), RUNTIME, "size"),
        (loaded(1, preprocess=Preprocess((3, 16, 16), "bicubic")), RUNTIME, "interpolation"),
        (loaded(1, builder="test:Other"), RUNTIME, "builder"),
        (loaded(1, card={"arguments": {"width": 2}}), RUNTIME, "arguments"),
        (loaded(1), replace(RUNTIME, precision="bf16"), "precision"),
    ):
        (answer,) = predict([model], images, runtime, store)
        assert answer.computed == N, what
    Image.new("RGB", (20, 20)).save(Path(images.location) / images.samples[3].id)
    (answer,) = predict([loaded(1)], open_source(images.location), RUNTIME, store)
    assert answer.computed == N


def test_new_labels_do_not_come_from_the_cache(images: ImageSet, store: OutputStore) -> None:
    predict([loaded(1)], images, RUNTIME, store)
    turned = replace(images, samples=tuple(replace(s, label=2 - (s.label or 0)) for s in images.samples))
    (answer,) = predict([loaded(1)], turned, RUNTIME, store)
    assert answer.predictions.labels.tolist() == turned.labels.tolist()


def test_an_image_that_cannot_be_read_is_skipped_by_every_model(images: ImageSet, store: OutputStore) -> None:
    broken = Path(images.location) / images.samples[5].id
    broken.write_bytes(broken.read_bytes()[:60])
    image_set = open_source(images.location)
    answers = predict([loaded(1), loaded(2, size=20)], image_set, RUNTIME, store)
    for answer in answers:
        (skipped,) = answer.skipped
        assert Path(skipped.path) == broken
        assert images.samples[5].id not in answer.predictions.ids
        assert len(answer.predictions) == N - 1
    assert answers[0].skipped == answers[1].skipped
    (cached,) = predict([loaded(1)], image_set, RUNTIME, store)
    assert cached.computed == 0
    assert cached.skipped == answers[0].skipped


class Bright(Net):
    """Not a number for images that are bright on average."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        return torch.where(x.mean((1, 2, 3))[:, None] > 1.5, torch.full_like(logits, math.nan), logits)


def test_logits_that_are_not_finite_are_a_status_of_that_model(images: ImageSet, store: OutputStore) -> None:
    Image.new("RGB", (20, 20), (255, 255, 255)).save(Path(images.location) / images.samples[5].id)
    bright = loaded(1, name="bright", module=Bright(1).eval())
    answer, other = predict([bright, loaded(2)], open_source(images.location), RUNTIME, store)
    (skipped,) = answer.skipped
    assert skipped.path.endswith(images.samples[5].id)
    assert "bright" in skipped.reason
    assert "nan" in skipped.reason
    assert len(answer.predictions) == N - 1
    assert len(other.predictions) == N


class Small(Net):
    """Runs out of memory with more than ten images at once, as a device would."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(x)


def test_out_of_memory_halves_the_batch_and_says_so(
    images: ImageSet, store: OutputStore, capsys: pytest.CaptureFixture[str]
) -> None:
    small = loaded(1, name="small", module=Small(1).eval())
    answer, whole = predict([small, loaded(1)], images, Runtime(device="cpu"), store)
    assert answer.predictions.logits is not None
    assert whole.predictions.logits is not None
    np.testing.assert_allclose(answer.predictions.logits, whole.predictions.logits, atol=1e-6)
    said = capsys.readouterr().err
    assert "small: out of memory with 32 images at once; going on with 16" in said
    assert "going on with 8" in said
    assert said.count("out of memory") == 2  # found out once, not in every pass


class Overwriting(Net):
    """Works on its input in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.mul_(2).sub_(1))


def test_a_network_that_overwrites_its_input_does_not_reach_the_next_one(
    images: ImageSet, store: OutputStore, tmp_path: Path
) -> None:
    _, after = predict([loaded(1, module=Overwriting(1).eval()), loaded(2)], images, RUNTIME, store)
    (alone,) = predict([loaded(2)], images, RUNTIME, OutputStore(tmp_path / "alone"))
    assert after.predictions.logits is not None
    assert alone.predictions.logits is not None
    assert after.predictions.logits.tobytes() == alone.predictions.logits.tobytes()


class Broken(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("Input height (16) doesn't match model (224).\nmore")


@pytest.mark.parametrize(
    ("network", "message"),
    [(Broken(1), "fails on an image of 3 x 16 x 16: Input height"), (Net(1, classes=4), "expected 3 logits per image")],
)
def test_a_network_that_does_not_fit_is_one_line(
    images: ImageSet, store: OutputStore, network: nn.Module, message: str
) -> None:
    with pytest.raises(ModelError, match=message) as err:
        predict([loaded(1, name="odd", module=network.eval())], images, RUNTIME, store)
    assert "odd" in str(err.value)
    assert "\n" not in str(err.value)


class Interrupting(Net):
    """Stops the second pass as Ctrl-C would."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.batches:
            raise KeyboardInterrupt
        return super().forward(x)


def test_an_interrupted_run_keeps_what_it_had(images: ImageSet, store: OutputStore) -> None:
    with pytest.raises(KeyboardInterrupt):
        predict([loaded(1, module=Interrupting(1).eval())], images, RUNTIME, store)
    # the code of the network is part of the key, so the same class goes on, with its interruption behind it
    patient = Interrupting(1).eval()
    patient.forward = lambda x: Net.forward(patient, x)  # type: ignore[method-assign]
    (answer,) = predict([loaded(1, module=patient)], images, RUNTIME, store)
    assert answer.computed == N - CPU_PASS
    assert len(answer.predictions) == N


def test_shards_merge_to_what_one_process_computes(images: ImageSet, store: OutputStore, tmp_path: Path) -> None:
    (whole,) = predict([loaded(1)], images, RUNTIME, OutputStore(tmp_path / "whole"))
    shares = [predict([loaded(1)], images, RUNTIME, store, shard=(i, 3))[0] for i in (1, 2, 3)]
    assert [s.computed for s in shares] == [14, 13, 13]
    assert sorted(i for s in shares for i in s.predictions.ids) == sorted(whole.predictions.ids)
    (merged,) = predict([loaded(1)], images, RUNTIME, store)
    assert merged.computed == 0
    assert merged.predictions.ids == whole.predictions.ids
    assert merged.predictions.logits is not None
    assert whole.predictions.logits is not None
    assert merged.predictions.logits.tobytes() == whole.predictions.logits.tobytes()


def test_a_model_is_left_as_it_was(images: ImageSet, store: OutputStore) -> None:
    model = loaded(1)
    model.module.train()
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    predict([model], images, RUNTIME, store)
    assert model.module.training
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    assert all(p.grad is None for p in model.module.parameters())
    assert module._device_of(model.module) == torch.device("cpu")
