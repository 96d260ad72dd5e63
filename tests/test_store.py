"""Predictions files: what is read back, what is refused, and the store of outputs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gradlens.errors import InputError
from gradlens.records import Predictions
from gradlens.shift import store
from gradlens.shift.store import Outputs, OutputStore


def made(n: int = 12, k: int = 3, ids: tuple[str, ...] | None = None, **changes: object) -> Predictions:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(n, k)).astype(np.float32)
    fields: dict[str, object] = {
        "model": "zoo/a",
        "dataset": "pets",
        "classes": ("cat", "dog", "eel")[:k],
        "label_classes": ("eel", "fox", "cat"),
        "ids": ids or tuple(f"x/{i}.jpg" for i in range(n)),
        "labels": rng.integers(-1, 3, size=n),
        "predicted": logits.argmax(axis=1),
        "logits": logits,
        "pairs": None,
    }
    return Predictions(**{**fields, **changes})  # type: ignore[arg-type]


def same(a: Predictions, b: Predictions) -> bool:
    arrays = ("labels", "predicted", "logits")
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in arrays) and all(
        getattr(a, f) == getattr(b, f) for f in ("model", "dataset", "classes", "label_classes", "ids", "pairs")
    )


# ------------------------------------------------------------------------------------------- what a run writes


def test_written_predictions_read_back_the_same(tmp_path: Path) -> None:
    predictions = made(pairs=tuple(None if i % 2 else f"p{i}" for i in range(12)))
    store.write(tmp_path / "p.parquet", predictions, {"role": "train"})
    (found,) = store.read([tmp_path / "p.parquet"])
    assert same(found.predictions, predictions)
    assert found.about["role"] == "train"


def test_in_the_written_file_argmax_of_logits_equal_to_label_means_correct(tmp_path: Path) -> None:
    predictions = made()
    store.write(tmp_path / "p.parquet", predictions, {})
    table = pd.read_parquet(tmp_path / "p.parquet")
    by_number = np.array([np.argmax(row) for row in table.logits]) == table.label
    names = [predictions.label_classes[i] if i >= 0 else None for i in predictions.labels]
    by_name = [predictions.classes[p] == name for p, name in zip(predictions.predicted, names, strict=True)]
    assert by_number.tolist() == by_name
    assert any(by_name)
    assert not all(by_name)


def test_row_numbers_become_an_index_column_and_paths_a_path_column(tmp_path: Path) -> None:
    store.write(tmp_path / "i.parquet", made(ids=tuple(map(str, range(12)))), {})
    store.write(tmp_path / "p.parquet", made(), {})
    # "007" is a name, not a number: as a number it would come back as "7"
    store.write(tmp_path / "z.parquet", made(n=1, ids=("007",)), {})
    columns = [pq.read_schema(tmp_path / f"{name}.parquet").names[2] for name in "ipz"]
    assert columns == ["index", "path", "path"]
    assert store.read([tmp_path / "i.parquet"])[0].predictions.ids == tuple(map(str, range(12)))


def test_the_same_predictions_are_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        store.write(tmp_path / name, made(), {"role": "test"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_hard_predictions_and_no_images_survive(tmp_path: Path) -> None:
    hard = made(logits=None)
    store.write(tmp_path / "h.parquet", hard, {})
    assert same(store.read([tmp_path / "h.parquet"])[0].predictions, hard)
    store.write(tmp_path / "e.parquet", made(n=0, ids=()), {})
    assert pq.read_table(tmp_path / "e.parquet").num_rows == 0


def test_file_names_are_different_and_safe() -> None:
    pairs = [("a/b", "c"), ("a--b", "c"), ("a", "b--c"), ("../../etc", "x"), ("m" * 300, "x"), ("m" * 301, "x")]
    names = store.file_names(pairs)
    assert names["a/b", "c"] == "a--b--c.parquet"
    assert len(set(names.values())) == len(pairs)
    assert not any("/" in n or n.startswith(".") or len(n) > 255 for n in names.values())


# ------------------------------------------------------------------------------------------- what others published


def rows(**columns: list[object]) -> dict[str, list[object]]:
    n = len(next(iter(columns.values()))) if columns else 4
    plain: dict[str, list[object]] = {
        "model": ["m"] * n,
        "dataset": ["d"] * n,
        "index": list(range(n)),
        "label": [0, 1, 2, 1][:n],
        "prediction": [0, 1, 1, 1][:n],
    }
    return {**plain, **columns}


def parquet(path: Path, columns: dict[str, list[object]], metadata: dict[str, object] | None = None) -> Path:
    table = pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata({k: json.dumps(v) for k, v in metadata.items()})
    pq.write_table(table, path)
    return path


def csv(path: Path, columns: dict[str, list[object]], head: str = "") -> Path:
    path.write_text(head + pd.DataFrame(columns).to_csv(index=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("write", [parquet, csv])
def test_hard_predictions_of_several_models_and_sets(tmp_path: Path, write: object) -> None:
    columns = rows(model=["m", "m", "n", "n"], dataset=["d", "e", "d", "d"], index=[0, 0, 1, 0])
    found = store.read([write(tmp_path / "p.parquet" if write is parquet else tmp_path / "p.csv", columns)])  # type: ignore[operator]
    assert [(f.predictions.model, f.predictions.dataset, f.predictions.ids) for f in found] == [
        ("m", "d", ("0",)),
        ("m", "e", ("0",)),
        ("n", "d", ("1", "0")),
    ]
    assert found[0].predictions.classes == ("class_0", "class_1", "class_2")
    assert found[2].predictions.labels.tolist() == [2, 1]
    assert found[2].predictions.logits is None


@pytest.mark.parametrize("write", [parquet, csv])
def test_labels_and_predictions_as_names(tmp_path: Path, write: object) -> None:
    columns = rows(label=["cat", "dog", "eel", "cat"], prediction=["cat", "fox", "cat", "dog"])
    (found,) = store.read([write(tmp_path / ("p.csv" if write is csv else "p.parquet"), columns)])  # type: ignore[operator]
    p = found.predictions
    assert [p.label_classes[i] for i in p.labels] == columns["label"]
    assert [p.classes[i] for i in p.predicted] == columns["prediction"]


def test_class_names_come_from_the_metadata(tmp_path: Path) -> None:
    own = parquet(tmp_path / "a.parquet", rows(), {"classes": ["x", "y", "z"]})
    hugging = {"huggingface": {"info": {"features": {"label": {"names": ["x", "y", "z"], "_type": "ClassLabel"}}}}}
    theirs = parquet(tmp_path / "b.parquet", rows(), hugging)
    text = csv(tmp_path / "c.csv", rows(), '# classes: ["x", "y", "z"]\n')
    assert [store.read([f])[0].predictions.classes for f in (own, theirs, text)] == [("x", "y", "z")] * 3


def test_logits_and_probabilities(tmp_path: Path) -> None:
    logits = [[2.0, 1.0, 0.0], [0.0, 3.0, 0.0], [0.0, 1.0, 0.5], [0.0, 9.0, 1.0]]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    with_logits = parquet(tmp_path / "l.parquet", rows(logits=logits))
    with_probabilities = parquet(tmp_path / "p.parquet", rows(probabilities=p.tolist()))
    in_csv = csv(tmp_path / "l.csv", rows(logits=[json.dumps(row) for row in logits]))
    for file in (with_logits, with_probabilities, in_csv):
        got = store.read([file])[0].predictions.logits
        assert got is not None
        assert got.dtype == np.float32
        softmax = np.exp(got) / np.exp(got).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(softmax, p, rtol=1e-5)


def test_a_probability_of_zero_keeps_its_logit_finite(tmp_path: Path) -> None:
    file = parquet(tmp_path / "p.parquet", rows(probabilities=[[1.0, 0, 0], [0, 1.0, 0], [0, 1.0, 0], [0, 1.0, 0]]))
    logits = store.read([file])[0].predictions.logits
    assert logits is not None
    assert np.isfinite(logits).all()


def test_missing_labels_mean_unlabelled(tmp_path: Path) -> None:
    for file in (
        parquet(tmp_path / "a.parquet", rows(label=[0, None, 2, 1])),
        csv(tmp_path / "a.csv", rows(label=[0, None, 2, 1])),
        parquet(tmp_path / "b.parquet", rows(label=[0, -1, 2, 1])),
    ):
        assert store.read([file])[0].predictions.labels.tolist() == [0, -1, 2, 1]


def test_parts_of_one_model_and_set_are_joined(tmp_path: Path) -> None:
    whole = made()
    parts = []
    for name, keep in (("a", [0, 2, 4]), ("b", [1, 3, 5])):
        part = made(
            n=3,
            ids=tuple(whole.ids[i] for i in keep),
            labels=whole.labels[keep],
            predicted=whole.predicted[keep],
            logits=whole.logits[keep],  # type: ignore[index]
        )
        store.write(tmp_path / name, part, {})
        parts.append(tmp_path / name)
    (found,) = store.read(parts)
    by_id = dict(zip(found.predictions.ids, found.predictions.labels, strict=True))
    assert by_id == dict(zip(whole.ids[:6], whole.labels[:6], strict=True))


REFUSED: dict[str, tuple[dict[str, list[object]], dict[str, object], str]] = {
    "a label out of range": (rows(label=[0, 1, 3, 1]), {"classes": ["x", "y", "z"]}, "row 3 has 3"),
    "a negative prediction": (rows(prediction=[0, 1, -1, 1]), {}, "row 3 has -1"),
    "a label below -1": (rows(label=[0, -2, 1, 1]), {}, "row 2 has -2"),
    "a fraction": (rows(label=[0.0, 1.5, 1.0, 1.0]), {}, "row 2 has 1.5"),
    "a word among numbers": (rows(label=["0", "1", "none", "1"]), {}, "row 3 is 'none'"),
    "numbers against names": (rows(prediction=["x", "y", "y", "x"]), {}, "one holds numbers"),
    "a name nobody knows": (
        rows(label=["x", "y", "y", "x"], prediction=["x", "y", "q", "x"]),
        {"classes": ["x", "y"]},
        "'q' is not among",
    ),
    "an image twice": (rows(index=[0, 1, 2, 1]), {}, "index 1 more than once"),
    "no model name": (rows(model=["m", None, "m", "m"]), {}, "model is missing in row 2"),
    "an empty id": ({**rows(), "index": ["a", "", "b", "c"]}, {}, "index is missing in row 2"),
    "no prediction": (rows(prediction=[0, None, 1, 1]), {}, "prediction is missing in row 2"),
    "a wild label": (rows(label=[0, 1, 2_000_000_000, 1]), {}, "would mean 2000000001 classes"),
    "logits of two lengths": (rows(logits=[[1.0, 0, 0], [1.0], [0.0, 1, 0], [0.0, 1, 0]]), {}, "row 2 has 1"),
    "too few logits": (rows(logits=[[1.0, 0]] * 4), {"classes": ["x", "y", "z"]}, "expected 3 logits"),
    "an infinite logit": (rows(logits=[[1.0, 0, float("inf")]] * 4), {}, "finite"),
    "logits that say otherwise": (rows(logits=[[0.0, 1.0, 0.0]] * 4), {}, "row 1 predicts class 0"),
    "probabilities that are logits": (rows(probabilities=[[5.0, 1, -2]] * 4), {}, "sum to 1"),
    "logits of unnamed names": (
        rows(label=["x", "y"], prediction=["x", "y"], logits=[[1.0, 0.0], [0.0, 1.0]]),
        {},
        "need class names",
    ),
    "class names that are no list": (rows(), {"classes": "cat"}, "JSON list of class names"),
    "class names twice": (rows(), {"classes": ["x", "x", "y"]}, "not unique"),
    "no rows": ({k: [] for k in rows()}, {}, "no rows"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    columns, metadata, message = REFUSED[name]
    file = parquet(tmp_path / "p.parquet", columns, metadata)
    with pytest.raises(InputError) as err:
        store.read([file])
    assert message in str(err.value)
    assert str(file) in str(err.value)
    assert "\n" not in str(err.value)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    columns = {k: v for k, v in rows().items() if k not in ("index", "label")}
    with pytest.raises(InputError, match="index or path, label are missing"):
        store.read([parquet(tmp_path / "p.parquet", columns)])


@pytest.mark.parametrize("content", [b"", b"PAR1 not really", b"\x00\xff\x00\xff" * 50, b"model,dataset\n1,2,3\n"])
def test_files_that_are_no_tables_are_refused(tmp_path: Path, content: bytes) -> None:
    for name in ("p.csv", "p.parquet"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as err:
            store.read([tmp_path / name])
        assert "\n" not in str(err.value)


def test_one_image_in_two_files_is_refused(tmp_path: Path) -> None:
    a = parquet(tmp_path / "a.parquet", rows())
    b = parquet(tmp_path / "b.parquet", rows())
    with pytest.raises(InputError, match="is both in"):
        store.read([a, b])


# ------------------------------------------------------------------------------------------- the store of outputs


def test_outputs_are_merged_by_id_over_parts_and_folders(tmp_path: Path) -> None:
    here, there = OutputStore(tmp_path / "a", tmp_path / "b"), OutputStore(tmp_path / "b")
    here.save("key", Outputs({"1": np.array([1, 2], np.float32)}, {"2": "broken"}), {})
    there.save("key", Outputs({"3": np.array([3, 4], np.float32)}), {})
    there.save("other", Outputs({"4": np.array([5, 6], np.float32)}), {})
    found = here.known("key")
    assert found.logits(["3", "1"], 2).tolist() == [[3, 4], [1, 2]]
    assert not found.has_logits("2")
    assert found.skipped == {"2": "broken"}
    assert all(image in found for image in "123")
    assert "4" not in found


def test_what_a_cache_has_is_copied_to_where_others_read_it(tmp_path: Path) -> None:
    """A machine that ran these images before leaves its outputs for the one that merges, which has another cache."""
    OutputStore(tmp_path / "cache").save("key", Outputs({"1": np.array([1, 2], np.float32)}), {})
    assert "1" in OutputStore(tmp_path / "met", tmp_path / "cache", whole=True).known("key")
    assert "1" in OutputStore(tmp_path / "met").known("key")
    assert "1" in OutputStore(tmp_path / "other", tmp_path / "cache").known("key")
    assert not (tmp_path / "other").exists()


def test_a_damaged_part_counts_as_not_there(tmp_path: Path) -> None:
    outputs = OutputStore(tmp_path)
    kept = outputs.save("key", Outputs({"1": np.array([1, 2], np.float32)}), {})
    lost = outputs.save("key", Outputs({"2": np.array([1, 2], np.float32)}), {})
    assert kept is not None
    assert lost is not None
    whole = lost.read_bytes()
    for damaged in (whole[:-10], b"", b"\0" * len(whole), whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]):
        lost.write_bytes(damaged)
        found = outputs.known("key")
        assert "1" in found
        assert "2" not in found


def test_what_a_killed_process_left_is_never_read_and_swept_away_later(tmp_path: Path) -> None:
    outputs = OutputStore(tmp_path)
    whole = outputs.save("key", Outputs({"1": np.array([1, 2], np.float32)}), {})
    assert whole is not None
    old, new = (whole.with_name(f".part-{name}.parquet") for name in ("old", "new"))
    old.write_bytes(whole.read_bytes())
    new.write_bytes(b"half")
    os.utime(old, (0, 0))
    whole.unlink()
    assert "1" not in outputs.known("key")
    outputs.save("key", Outputs({"2": np.array([1, 2], np.float32)}), {})
    assert not old.exists()  # a day old
    assert new.exists()  # somebody may be writing it


def test_large_logits_live_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = OutputStore(tmp_path)
    rows = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    outputs.save("key", Outputs({str(i): row for i, row in enumerate(rows[:20])}), {})
    outputs.save("key", Outputs({str(20 + i): row for i, row in enumerate(rows[20:])}), {})
    order = [str(i) for i in reversed(range(30))]
    small = outputs.known("key").logits(order, 5)
    monkeypatch.setattr("gradlens.shift.store.IN_MEMORY", 100)
    large = outputs.known("key").logits(order, 5)
    assert isinstance(large, np.memmap)
    assert not isinstance(small, np.memmap)
    np.testing.assert_array_equal(large, rows[::-1])
    np.testing.assert_array_equal(small, rows[::-1])
    assert sorted(p.suffix for p in (tmp_path / "key").iterdir()) == [".parquet", ".parquet"]  # nothing is left


def test_nothing_is_no_file(tmp_path: Path) -> None:
    assert OutputStore(tmp_path).save("key", Outputs(), {}) is None
    assert not any(tmp_path.iterdir())


def test_published_cifar_predictions(shared_data: Path) -> None:
    """The accuracies of the data's README, to all of their digits."""
    found = store.read([shared_data / "cifar10.1-predictions.parquet"])
    accuracy = {
        (f.predictions.model, f.predictions.dataset): float((f.predictions.labels == f.predictions.predicted).mean())
        for f in found
    }
    assert len(found) == 15
    assert accuracy["cudaconvnet", "cifar10"] == 0.8854
    assert accuracy["wrn_28_10", "cifar10.1-v6"] == 0.9015
    assert round(accuracy["shake_shake_26_2x64d_SSI_cutout16", "cifar10.1-v4"], 5) == 0.92974
