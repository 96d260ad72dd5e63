"""Every SOURCE form gives the same kind of image set; nothing is dropped silently, nothing wrong is read."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gradlens.data.image_set import ImageSet, decoded
from gradlens.data.sources import images_from_paths, open_source
from gradlens.data.sources import parquet as parquet_module
from gradlens.data.sources.tar import expand_braces
from gradlens.errors import InputError, InstallationError, NotFoundError
from gradlens.records import Sample, Skipped
from gradlens.runtime import Runtime


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No probe set of the source tree stands in the current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def png(colour: tuple[int, int, int] = (9, 99, 199), size: tuple[int, int] = (6, 4)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def colour_of(i: int) -> tuple[int, int, int]:
    return (i % 256, 7, 255 - i % 256)


def folder(place: Path, **classes: int) -> Path:
    """A folder of class folders with so many images of each class, every one of another colour."""
    i = 0
    for name, count in classes.items():
        (place / name).mkdir(parents=True)
        for n in range(count):
            (place / name / f"{n}.png").write_bytes(png(colour_of(i)))
            i += 1
    return place


def parquet(
    path: Path, rows: int, names: Sequence[str] | None = ("a", "b", "c"), row_group_size: int = 4, **columns: object
) -> Path:
    images = [{"bytes": png(colour_of(i)), "path": None} for i in range(rows)]
    table = pa.table(
        {
            "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "label": pa.array([i % 3 for i in range(rows)], pa.int64()),
            **columns,
        }
    )
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def shard(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def check(images: ImageSet, classes: tuple[str, ...] | None, n: int) -> None:
    assert images.classes == classes
    assert len(images) == n
    assert len({s.id for s in images.samples}) == n
    assert len(images.fingerprint) == 64
    for i in range(n):
        assert images.read(i).shape[2] == 3
        assert images.mask(i) is None


# --- folders -------------------------------------------------------------------------------------------------------


def test_class_folders(tmp_path: Path) -> None:
    images = open_source(str(folder(tmp_path / "photos", dog=2, cat=3)))
    check(images, ("cat", "dog"), 5)
    assert (images.name, images.role, images.location) == ("photos", "test", str(tmp_path / "photos"))
    assert [s.id for s in images.samples] == ["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png"]
    assert images.labels.tolist() == [0, 0, 0, 1, 1]
    assert tuple(images.read(0)[0, 0]) == colour_of(2)  # the third that was written
    assert (images.skipped, images.remarks) == ((), ())


def test_nothing_in_a_folder_is_dropped_silently(tmp_path: Path) -> None:
    place = folder(tmp_path / "photos", cat=1, dog=1)
    (place / "cat" / "notes.txt").write_text("x")
    (place / "cat" / "raw.heic").write_text("x")
    (place / "stray.jpg").write_bytes(png())
    (place / "cat" / "deeper").mkdir()
    (place / "cat" / "deeper" / "image.JPEG").write_bytes(png((1, 2, 3)))
    for litter in ("Thumbs.db", ".DS_Store", "desktop.ini", ".hidden.png"):
        (place / "cat" / litter).write_text("x")
    for aside in ("_masks", ".git"):
        (place / aside).mkdir()
        (place / aside / "x.png").write_bytes(png())
    images = open_source(str(place))
    check(images, ("cat", "dog"), 3)
    assert {Path(s.path).name: s.reason for s in images.skipped} == {
        "notes.txt": "not an image by its ending (.txt)",
        "raw.heic": "not an image by its ending (.heic)",
        "stray.jpg": "lies beside the class folders, so its class is unknown",
    }


def test_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    place = folder(tmp_path, flat=3) / "flat"
    images = open_source(str(place))
    check(images, None, 3)
    assert images.role == "unlabelled"
    assert images.labels.tolist() == [-1] * 3


def test_folders_that_cannot_be_meant(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found none"):
        open_source(str(tmp_path / "empty"))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"found none \(1 other files\)"):
        open_source(str(tmp_path / "texts"))
    folder(tmp_path / "imagenet" / "train", cat=1)
    folder(tmp_path / "imagenet" / "val", cat=1)
    with pytest.raises(InputError, match=r"got splits \(train, val\); name one: .*imagenet.val"):
        open_source(str(tmp_path / "imagenet"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file names are Unicode")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    place = folder(tmp_path / "photos", cat=1)
    (place / "cat" / "0.png").rename(place / "cat" / os.fsdecode(b"caf\xe9.png"))
    (place / "cat" / "x.png").write_bytes(png())
    images = open_source(str(place))
    assert [s.id for s in images.samples] == ["cat/x.png"]
    assert images.skipped[0].reason == "its name is not valid Unicode; rename it"
    assert images.skipped[0].path.endswith(r"caf\udce9.png")
    images.skipped[0].path.encode()
    (place / os.fsdecode(b"d\xf6g")).mkdir()
    with pytest.raises(InputError, match=r"d\\udcf6g has a name that is not valid Unicode"):
        open_source(str(place))


def test_odd_classes_are_remarked_on(tmp_path: Path) -> None:
    place = folder(tmp_path / "photos", Cat=1, dog=1, none=0)
    (place / "cat").mkdir(exist_ok=True)
    (place / "cat" / "x.png").write_bytes(png())
    remarks = open_source(str(place)).remarks
    if len(list(place.iterdir())) == 4:  # a file system that tells case apart
        assert "'Cat' and 'cat' differ by case" in remarks[0]
    assert remarks[-1] == "no image of 'none'"


def test_images_by_hand(tmp_path: Path) -> None:
    place = folder(tmp_path / "photos", cat=2)
    (tmp_path / "photo without ending").write_bytes(png())
    images = images_from_paths([tmp_path / "photo without ending", place])
    check(images, None, 3)
    assert images.samples[0].id == str(tmp_path / "photo without ending")
    assert images.path(0) == images.samples[0].id
    with pytest.raises(InputError, match=r"no\.jpg: expected an image file or a folder .* none of that name"):
        images_from_paths([tmp_path / "no.jpg"])
    with pytest.raises(InputError, match="got none"):
        images_from_paths([])


# --- what every set can do -----------------------------------------------------------------------------------------


def test_subset_keeps_reading_the_right_images(tmp_path: Path) -> None:
    images = open_source(str(parquet(tmp_path / "x.parquet", 10)))
    part = images.subset([7, 2]).subset(np.array([1, 0]))
    assert [s.id for s in part.samples] == ["2", "7"]
    assert tuple(part.read(1)[0, 0]) == colour_of(7)
    assert part.digest(1) == images.digest(7)
    assert part.fingerprint != images.fingerprint
    assert part.classes == images.classes


def test_fingerprint_follows_content_labels_and_names(tmp_path: Path) -> None:
    place = folder(tmp_path / "photos", cat=2, dog=2)
    first = open_source(str(place)).fingerprint
    assert open_source(str(place)).fingerprint == first
    original = (place / "cat" / "0.png").read_bytes()
    other = original.replace(original[60:61], bytes([original[60] ^ 1]), 1)
    assert len(other) == len(original)
    (place / "cat" / "0.png").write_bytes(other)
    assert open_source(str(place)).fingerprint != first  # same names, same sizes
    (place / "cat" / "0.png").write_bytes(original)
    assert open_source(str(place)).fingerprint == first
    (place / "dog" / "0.png").rename(place / "cat" / "9.png")
    assert open_source(str(place)).fingerprint != first


def test_double_ids_and_wrong_labels_are_impossible(tmp_path: Path) -> None:
    images = open_source(str(folder(tmp_path / "photos", cat=2)))
    arguments = {"name": "x", "role": "test", "location": "x", "store": images.store, "rows": (0, 1)}
    with pytest.raises(ValueError, match="not unique"):
        ImageSet(classes=("cat",), samples=(Sample("a", 0), Sample("a", 0)), **arguments)
    with pytest.raises(ValueError, match="label 1"):
        ImageSet(classes=("cat",), samples=(Sample("a", 0), Sample("b", 1)), **arguments)
    with pytest.raises(ValueError, match="class names"):
        ImageSet(classes=("cat", "cat"), samples=(Sample("a", 0), Sample("b", 1)), **arguments)


@pytest.mark.parametrize("workers", [1, 3])
def test_decoded_keeps_order_and_names_what_it_cannot_read(tmp_path: Path, workers: int) -> None:
    place = folder(tmp_path / "photos", cat=40)
    (place / "cat" / "13.png").write_bytes(b"")
    images = open_source(str(place))
    bad = [s.id for s in images.samples].index("cat/13.png")
    got = list(decoded(images, workers, Runtime(quiet=True)))
    assert [i for i, _ in got] == list(range(40))
    for i, image in got:
        if i == bad:
            assert isinstance(image, Skipped)
            assert image.path == f"{place}/cat/13.png"
            assert "the file is empty" in image.reason
        else:
            assert tuple(image[0, 0]) == tuple(images.read(i)[0, 0])


def test_decoded_can_be_left_early(tmp_path: Path) -> None:
    images = open_source(str(folder(tmp_path / "photos", cat=50)))
    before = threading.active_count()
    walk = decoded(images, 2)
    assert next(walk)[0] == 0
    walk.close()
    assert threading.active_count() == before


# --- Parquet -------------------------------------------------------------------------------------------------------


def test_parquet(tmp_path: Path) -> None:
    images = open_source(str(parquet(tmp_path / "photos.parquet", 10)))
    check(images, ("a", "b", "c"), 10)
    assert (images.name, images.role) == ("photos", "test")
    assert images.labels.tolist() == [i % 3 for i in range(10)]
    assert [tuple(images.read(i)[0, 0]) for i in range(10)] == [colour_of(i) for i in range(10)]


def test_parquet_reads_each_row_group_once_and_keeps_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_source(str(parquet(tmp_path / "x.parquet", 40)))
    reads: Counter[int] = Counter()
    file = images.store._file
    group = file.read_row_group(0, columns=["image"]).column("image").nbytes

    class Counting:
        def iter_batches(self, size: int, row_groups: list[int], columns: list[str]) -> Iterator[pa.RecordBatch]:
            reads.update(row_groups)
            return file.iter_batches(size, row_groups=row_groups, columns=columns)

    monkeypatch.setattr(images.store, "_file", Counting())
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(images.read, list(range(40)) * 3))
    assert [tuple(g[0, 0]) for g in got] == [colour_of(i) for i in list(range(40)) * 3]
    assert reads == dict.fromkeys(range(10), 1)
    monkeypatch.setattr(parquet_module, "CACHE_BYTES", int(group * 2.5))
    small = open_source(str(tmp_path / "x.parquet"))
    for i in range(40):
        small.read(i)
        assert len(small.store._groups) <= 2


def test_parquet_labels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="names no classes"):
        open_source(str(parquet(tmp_path / "numbers.parquet", 3, names=None)))
    texts = open_source(str(parquet(tmp_path / "texts.parquet", 3, names=None, label=pa.array(["dog", "cat", None]))))
    assert (texts.classes, [s.label for s in texts.samples]) == (("cat", "dog"), [1, 0, None])
    coded = pa.array(["dog", "cat", "dog"]).dictionary_encode()
    assert open_source(str(parquet(tmp_path / "coded.parquet", 3, names=None, label=coded))).labels.tolist() == [
        1,
        0,
        1,
    ]
    with pytest.raises(InputError, match="row 2 has label 2, but there are 2 classes"):
        open_source(str(parquet(tmp_path / "few.parquet", 3, names=["a", "b"])))
    with pytest.raises(InputError, match="names a class twice"):
        open_source(str(parquet(tmp_path / "twice.parquet", 3, names=["a", "b", "a"])))
    hidden = open_source(str(parquet(tmp_path / "hidden.parquet", 3, label=pa.array([-1, None, 1], pa.int64()))))
    assert [s.label for s in hidden.samples] == [None, None, 1]


def test_parquet_of_other_layouts(tmp_path: Path) -> None:
    pq.write_table(pa.table({"img": [png(), png()]}), tmp_path / "bytes.parquet")
    check(open_source(str(tmp_path / "bytes.parquet")), None, 2)
    (tmp_path / "beside.png").write_bytes(png((1, 2, 3)))
    rows = [{"bytes": None, "path": "beside.png"}, {"bytes": None, "path": "../../etc/passwd"}, None]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "paths.parquet")
    images = open_source(str(tmp_path / "paths.parquet"))
    assert tuple(images.read(0)[0, 0]) == (1, 2, 3)
    with pytest.raises(InputError, match="outside the table's folder"):
        images.read(1)
    with pytest.raises(InputError, match="row 2 holds no image"):
        images.read(2)


def test_parquet_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="expected a Parquet file"):
        open_source(str(tmp_path / "x.parquet"))
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "y.parquet")
    with pytest.raises(InputError, match=r"expected a column 'image' .* got text"):
        open_source(str(tmp_path / "y.parquet"))
    with pytest.raises(InputError, match="without rows"):
        open_source(str(parquet(tmp_path / "z.parquet", 0)))


def test_real_photographs(shared_data: Path) -> None:
    images = open_source(str(shared_data / "cifar10-internet.parquet"))
    assert len(images) == 152
    counts = Counter(images.classes[s.label] for s in images.samples)
    assert counts == {
        "bird": 40, "cat": 40, "dog": 40, "ship": 11, "automobile": 9, "truck": 6, "frog": 3, "airplane": 2, "horse": 1,
    }  # fmt: skip
    assert images.remarks == ("no image of 'deer'",)
    assert not [s for _, s in decoded(images, 2) if isinstance(s, Skipped)]
    test = open_source(str(shared_data / "cifar10-test.parquet"))
    assert (len(test), test.classes, test.name) == (10_000, images.classes, "cifar10-test")
    assert test.read(9_999).shape == (32, 32, 3)


# --- NumPy archives ------------------------------------------------------------------------------------------------


def test_npz(tmp_path: Path) -> None:
    pixels = np.arange(4 * 5 * 6 * 3, dtype=np.uint8).reshape(4, 5, 6, 3)
    np.savez(tmp_path / "a.npz", images=pixels, labels=[0, 1, 1, -1], classes=["cat", "dog"])
    images = open_source(str(tmp_path / "a.npz"))
    check(images, ("cat", "dog"), 4)
    assert images.labels.tolist() == [0, 1, 1, -1]
    np.testing.assert_array_equal(images.read(2), pixels[2])
    np.savez_compressed(tmp_path / "b.npz", images=pixels[..., 0], labels=np.array([[3], [1], [0], [1]]))
    grey = open_source(str(tmp_path / "b.npz"))
    check(grey, ("0", "1", "2", "3"), 4)
    np.testing.assert_array_equal(grey.read(1), np.repeat(pixels[1, ..., :1], 3, axis=2))
    np.savez(tmp_path / "c.npz", images=pixels, labels=["b", "a", "b", "a"])
    assert open_source(str(tmp_path / "c.npz")).labels.tolist() == [1, 0, 1, 0]
    np.savez(tmp_path / "d.npz", images=pixels)
    check(open_source(str(tmp_path / "d.npz")), None, 4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": [1]}, "expected the arrays images, labels, got x"),
        ({"images": np.zeros((2, 4, 4, 3), np.float32)}, "expected images as uint8"),
        ({"images": np.zeros((2, 3, 4, 4), np.uint8)}, "expected images as uint8"),
        ({"images": np.zeros((0, 4, 4, 3), np.uint8)}, "expected images"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": [0]}, "one label for each of 2 images"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": [0.5, 1]}, "whole numbers or text"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": [0, 2], "classes": ["a", "b"]}, "there are 2 classes"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": ["a", "c"], "classes": ["a", "b"]}, "label 'c'"),
        ({"images": np.array([object()])}, "plain arrays"),
    ],
)
def test_bad_npz(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", allow_pickle=True, **arrays)
    with pytest.raises(InputError, match=message):
        open_source(str(tmp_path / "x.npz"))


def test_npz_that_is_none(tmp_path: Path) -> None:
    for data in (b"", b"PK\x03\x04 no zip", b"text", b"\x93NUMPY"):
        (tmp_path / "x.npz").write_bytes(data)
        with pytest.raises(InputError, match=r"x\.npz: expected a NumPy archive"):
            open_source(str(tmp_path / "x.npz"))


# --- WebDataset ----------------------------------------------------------------------------------------------------


def test_tar(tmp_path: Path) -> None:
    members = {
        "a/0.jpg": png((1, 0, 0)), "a/0.cls": b"1", "a/1.png": png((2, 0, 0)), "a/1.cls": b"0\n",
        "a/2.webp": png((3, 0, 0)), "a/2.json": b'{"label": 1}', "a/._0.jpg": b"", "a/2.caption": b"?",
        "a/3.jpg": png((4, 0, 0)), "a/3.json": b"{}", "a/3.cls": b"1", "a/1.jpg": png(), "a/4.cls": b"1",
    }  # fmt: skip
    images = open_source(str(shard(tmp_path / "photos.tar", members)))
    check(images, ("0", "1"), 4)
    assert images.name == "photos"
    assert [s.id for s in images.samples] == ["a/0", "a/1", "a/2", "a/3"]
    assert images.labels.tolist() == [1, 0, 1, 1]
    assert tuple(images.read(2)[0, 0]) == (3, 0, 0)
    assert sorted((Path(s.path).name, s.reason) for s in images.skipped) == [
        ("1.jpg", "a second image of the same key"),
        ("4", "a sample without an image"),
    ]
    assert list(tmp_path.glob("**/*.jpg")) == []
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    assert open_source(str(tmp_path / "photos.tar")).classes == ("cat", "dog")


def test_tar_shards_and_names_as_labels(tmp_path: Path) -> None:
    for n in range(3):
        shard(tmp_path / f"test-{n:02d}.tar", {"0.jpg": png(colour_of(n)), "0.txt": ["dog", "cat", "dog"][n].encode()})
    images = open_source(str(tmp_path / "test-{00..02}.tar"))
    check(images, ("cat", "dog"), 3)
    assert images.name == "test"
    assert [s.id for s in images.samples] == ["test-00/0", "test-01/0", "test-02/0"]
    assert images.labels.tolist() == [1, 0, 1]
    with pytest.raises(InputError, match=r"test-03\.tar: .* no such file"):
        open_source(str(tmp_path / "test-{00..03}.tar"))


def test_brace_expansion() -> None:
    assert expand_braces("a-{008..010}.tar") == ["a-008.tar", "a-009.tar", "a-010.tar"]
    assert expand_braces("{a,b}/{1..2}.tar") == ["a/1.tar", "a/2.tar", "b/1.tar", "b/2.tar"]
    assert expand_braces("plain.tar") == ["plain.tar"]
    with pytest.raises(InputError, match="100,000"):
        expand_braces("{0..999999999}.tar")


def test_bad_tars(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="uncompressed"):
        open_source(str(shard(tmp_path / "gz.tar", {"0.jpg": png()}, "w:gz")))
    (tmp_path / "no.tar").write_bytes(b"x" * 2000)
    with pytest.raises(InputError, match="expected an uncompressed WebDataset tar"):
        open_source(str(tmp_path / "no.tar"))
    with pytest.raises(InputError, match="found none"):
        open_source(str(shard(tmp_path / "texts.tar", {"0.txt": b"x"})))
    with pytest.raises(InputError, match=r"0\.json: expected a label"):
        open_source(str(shard(tmp_path / "json.tar", {"0.jpg": png(), "0.json": b"{"})))
    cut = shard(tmp_path / "cut.tar", {"0.jpg": png(size=(500, 500)), "0.cls": b"0"})
    whole = open_source(str(cut))
    cut.write_bytes(cut.read_bytes()[:600])
    with pytest.raises(InputError, match="ends early"):
        whole.read(0)


def test_tar_never_follows_links(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, link in (("0.jpg", "/etc/passwd"), ("../../evil.jpg", "/etc/passwd")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info)
    with pytest.raises(InputError, match="found none"):
        open_source(str(tmp_path / "x.tar"))


@pytest.mark.parametrize("kind", ["parquet", "tar", "npz"])
def test_damaged_files_are_refused_or_skipped(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "parquet":
        parquet(path, 12)
    elif kind == "tar":
        shard(
            path, {f"{i}.{e}": d for i in range(8) for e, d in (("png", png(colour_of(i))), ("json", b'{"label": 1}'))}
        )
    else:
        np.savez(path, images=np.zeros((9, 8, 8, 3), np.uint8), labels=np.arange(9))
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    outcomes: Counter[str] = Counter()
    for n in range(90):
        damaged = bytearray(whole)
        for at in random.integers(0, len(whole), 3):
            damaged[at] = random.integers(256)
        path.write_bytes(damaged[: random.integers(1, len(whole))] if n % 3 == 0 else damaged)
        try:
            read = [image for _, image in decoded(open_source(str(path)), 1)]
        except InputError as err:
            outcomes["refused" if "\n" not in str(err) else "several lines"] += 1
        else:
            outcomes["skipped" if any(isinstance(r, Skipped) for r in read) else "read"] += 1
    assert outcomes["refused"] > 10
    assert not outcomes["several lines"]


# --- other libraries -----------------------------------------------------------------------------------------------


def test_torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torchvision import datasets

    monkeypatch.setattr(datasets.FakeData.__init__, "__defaults__", (6, (3, 8, 8), 10, None, None, 0))
    images = open_source("torchvision:FakeData:test", offline=True)
    assert len(images) == 6
    assert images.name == "FakeData-test"
    again = open_source("torchvision:FakeData:test", offline=True)
    np.testing.assert_array_equal(images.read(3), again.read(3))
    with ThreadPoolExecutor(4) as pool:  # FakeData seeds torch's one generator for every image
        for i, image in enumerate(pool.map(images.read, range(6))):
            np.testing.assert_array_equal(image, images.read(i))
    assert len(images.fingerprint) == 64


def test_torchvision_offline_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"torchvision:CIFAR10:test.*--offline") as error:
        open_source(f"torchvision:CIFAR10:test:{tmp_path}", offline=True)
    assert "\n" not in str(error.value)
    with pytest.raises(NotFoundError, match="did you mean 'test'"):
        open_source("torchvision:CIFAR10:tset", offline=True)
    with pytest.raises(NotFoundError, match="did you mean 'CIFAR10'"):
        open_source("torchvision:CIFR10:test", offline=True)
    with pytest.raises(InputError, match="expected torchvision:NAME:SPLIT"):
        open_source("torchvision:CIFAR10", offline=True)


def test_hub_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InstallationError, match=r"pip install 'gradlens\[hf\]'"):
        open_source("hf:someone/cats:test")
    with pytest.raises(InputError, match="expected hf:REPO"):
        open_source("hf:someone")


def test_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra gradlens[hf] is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "cats").mkdir()
    parquet(tmp_path / "cats" / "test.parquet", 5)
    for spec in (f"hf:{tmp_path}/cats:test", f"hf:{tmp_path}/cats:default:test"):
        images = open_source(spec, offline=True)
        check(images, ("a", "b", "c"), 5)
        assert (images.name, images.role) == ("cats-test", "test")
        assert images.labels.tolist() == [0, 1, 2, 0, 1]
        assert [tuple(images.read(i)[0, 0]) for i in range(5)] == [colour_of(i) for i in range(5)]
    with pytest.raises(InputError, match=r"cannot be opened without a network \(--offline\): Unknown split"):
        open_source(f"hf:{tmp_path}/cats:train", offline=True)


# --- mappings ------------------------------------------------------------------------------------------------------


def mapped(tmp_path: Path, text: str, **classes: int) -> ImageSet:
    place = tmp_path / "photos"
    if not place.exists():
        folder(place, **(classes or {"airplane": 1, "automobile": 2, "frog": 2, "truck": 1}))
    (tmp_path / "map.toml").write_text(text)
    return open_source(f"{place}@{tmp_path}/map.toml")


def test_mapping_renames_merges_and_drops(tmp_path: Path) -> None:
    text = 'drop = ["frog"]\n[classes]\nautomobile = "car"\ntruck = "car"\nairplane = "plane"\n'
    images = mapped(tmp_path, text)
    check(images, ("plane", "car"), 4)
    assert images.name == "photos"
    assert [(s.id, images.classes[s.label]) for s in images.samples] == [
        ("airplane/0.png", "plane"), ("automobile/0.png", "car"), ("automobile/1.png", "car"), ("truck/0.png", "car"),
    ]  # fmt: skip
    assert [Path(s.path).parent.name for s in images.skipped] == ["frog", "frog"]
    assert "class 'frog' is dropped by" in images.skipped[0].reason
    assert tuple(images.read(3)[0, 0]) == tuple(open_source(str(tmp_path / "photos")).read(5)[0, 0])
    assert images.fingerprint != open_source(str(tmp_path / "photos")).fingerprint
    assert mapped(tmp_path, 'others = "drop"\n[classes]\ntruck = "lorry"\nfrog = ""\n').classes == ("lorry",)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('[classes]\nautomobil = "car"\n', NotFoundError, "did you mean 'automobile'.*mentioned in"),
        ('drop = ["frogs"]\n', NotFoundError, "did you mean 'frog'"),
        ("[classes]\nfrog = 3\n", InputError, r"classes\.frog"),
        ('[class]\nfrog = "x"\n', InputError, "class: Extra inputs"),
        ("[classes", InputError, "in TOML"),
        ('others = "drop"\n', InputError, "drops every class"),
        ('drop = ["frog"]\n[classes]\nfrog = "x"\n', InputError, "both renamed and dropped"),
    ],
)
def test_bad_mappings(text: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        mapped(tmp_path, text)


def test_mapping_needs_labels_and_a_file(tmp_path: Path) -> None:
    place = folder(tmp_path, flat=1) / "flat"
    (tmp_path / "m.toml").write_text('drop = ["a"]')
    with pytest.raises(InputError, match="has no labels"):
        open_source(f"{place}@{tmp_path}/m.toml")
    with pytest.raises(InputError, match="no such file"):
        open_source(f"{place}@{tmp_path}/none.toml")


# --- names ---------------------------------------------------------------------------------------------------------


def test_unknown_sources(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no image set named 'nonsense'.*a SOURCE is a probe set's name, a folder"):
        open_source("nonsense")
    folder(Path("probe_sets") / "my-photos", cat=1)
    with pytest.raises(NotFoundError, match="did you mean 'my-photos'"):
        open_source("my-photo")
    assert open_source("my-photos").role == "probe"
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(InputError, match=r"got a file that ends in \.zip"):
        open_source(str(tmp_path / "x.zip"))
    (tmp_path / "x.JPG").write_bytes(png())
    with pytest.raises(InputError, match="gradlens cam --image"):
        open_source(str(tmp_path / "x.JPG"))
    with pytest.raises(InputError, match="empty name"):
        open_source("")
