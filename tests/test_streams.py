"""Sets too large to keep: what is counted is what the predictions say, in whatever parts and processes it was read."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gradlens.data.sources import open_source, stream
from gradlens.data.sources.stream import open_stream
from gradlens.errors import InputError
from gradlens.records import Predictions, Preprocess
from gradlens.runtime import Runtime
from gradlens.shift import counts, gap, metrics
from gradlens.shift.counts import Sums
from gradlens.workflows.measure import streamed
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build
from gradlens.zoo.cards import Card, Preprocessing
from runs import Run, predictions

CLASSES = ("ash", "beech", "cedar", "dogwood", "elm", "fir", "ginkgo")


def picture(rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (18, 18, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def shards(folder: Path, name: str, count: int, per_shard: int, seed: int) -> str:
    """WebDataset shards with one damaged image and one without a label in each."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classnames.txt").write_text("\n".join(CLASSES))
    rng = np.random.default_rng(seed)
    for number in range(count):
        with tarfile.open(folder / f"{name}-{number}.tar", "w") as archive:
            for i in range(per_shard):
                data = b"no image" if i == 3 else picture(rng)
                label = str(rng.integers(len(CLASSES))).encode()
                for ending, content in (("png", data), *([] if i == 5 else [("cls", label)])):
                    member = tarfile.TarInfo(f"{i:03d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return str(folder / f"{name}-{{0..{count - 1}}}.tar")


def table(path: Path, rows: int, seed: int, names: bool = False) -> str:
    """A Parquet file of several row groups, its labels numbers with names in the schema, or names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(CLASSES), size=rows)
    cells = [{"bytes": picture(rng), "path": None} for _ in range(rows)]
    image = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    label = pa.array([CLASSES[i] for i in labels]) if names else pa.array(labels)
    features = {"image": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}
    metadata = {} if names else {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table({"image": image, "label": label}).replace_schema_metadata(metadata), path,
                   row_group_size=16)  # fmt: skip
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("streams")
    arguments = {"widths": [4, 4, 4, 4]}
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        module = build("gradlens:custom_cnn", arguments, len(CLASSES))
        for parameter in module.parameters():
            parameter.data *= 3
        preprocess = Preprocessing.of(Preprocess((3, 16, 16)))
        card = Card(builder="gradlens:custom_cnn", arguments=arguments, classes=CLASSES, preprocess=preprocess)
        checkpoints.save(root / "zoo" / "trees" / name, module, card)
    shards(root / "tar", "near", 3, 40, 0)
    table(root / "far.parquet", 70, 1)
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_stream_scores_as_the_kept_predictions_do(
    place: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values of every metric, on shards and on row groups read in parts of 16, equal those of the set as a whole."""
    monkeypatch.setenv("GRADLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stream, "PART", 16)
    arguments = [
        *("--model", "trees/*", "--zoo", place / "zoo", "--in-dist", place / "tar" / "near-{0..2}.tar"),
        *("--probe", place / "far.parquet", "--resamples", 400, "--device", "cpu", "--top-k", 3),
    ]
    result = run(*arguments, "--stream", "--out", tmp_path / "streamed")
    assert result.code == 0, result.err
    assert "multinomial bootstrap of the confusion counts" in result.out
    models = {name: checkpoints.load(name, zoo=place / "zoo") for name in ("trees/one", "trees/two")}
    from gradlens.shift.predict import predict
    from gradlens.shift.store import OutputStore

    said = {}
    for spec in (str(place / "tar" / "near-{0..2}.tar"), str(place / "far.parquet")):
        images = open_source(spec)
        images = images.subset(np.flatnonzero(images.labels >= 0))
        answers = predict(list(models.values()), images, Runtime(device="cpu", quiet=True), OutputStore(tmp_path / "o"))
        said |= {(a.predictions.model, a.predictions.dataset): a.predictions for a in answers}
    expected = {key: metrics.evaluate(p, top_k=3, resamples=400) for key, p in said.items()}
    found = {(r["model"], r["dataset"], r["metric"]): r for r in rows(tmp_path / "streamed" / "summary.csv")}
    assert {key[:2] for key in found} == set(expected)
    for (model, dataset), estimates in expected.items():
        for name, estimate in estimates.items():
            row = found[model, dataset, name]
            assert int(row["n"]) == estimate.n
            assert float(row["value"]) == pytest.approx(estimate.value, rel=1e-12)
            if name in ("accuracy", "top3"):  # exact intervals are the same ones
                assert (float(row["low"]), float(row["high"])) == (estimate.low, estimate.high)
    gaps = {(r["model"], r["metric"], r["label_space"]): r for r in rows(tmp_path / "streamed" / "gaps.csv")}
    for model in models:
        for g in gap.gaps(said[model, "near"], said[model, "far"], paired=False, top_k=3, resamples=400):
            assert float(gaps[model, g.metric, g.label_space]["gap"]) == pytest.approx(
                g.gap.value, rel=1e-11, abs=1e-12
            )
    skipped = [r["reason"] for r in rows(tmp_path / "streamed" / "skipped.csv")]
    assert skipped.count("no label") == 3
    assert len(skipped) == 6
    assert (tmp_path / "streamed" / "report.html").is_file()
    assert not (tmp_path / "streamed" / "predictions").exists()


def test_counts_of_parts_and_processes_are_those_of_one(tmp_path: Path) -> None:
    p = predictions("m", "set", 0.7, seed=3, n=500)
    whole, halves = Sums("m", "set", p.classes), [Sums("m", "set", p.classes), Sums("m", "set", p.classes)]
    for number, start in enumerate(range(0, 500, 64)):
        at = slice(start, start + 64)
        part = Predictions("m", "set", p.classes, p.label_classes, p.ids[at], p.labels[at], p.predicted[at],
                           None if p.logits is None else p.logits[at])  # fmt: skip
        whole.add(number, part)
        halves[number % 2].add(number, part)
    merged = Sums("m", "set", p.classes)
    for half in reversed(halves):
        merged.take(Sums.of(json.loads(json.dumps(half.plain()))))
    assert counts.evaluate(merged, resamples=200) == counts.evaluate(whole, resamples=200)  # to the last digit
    with pytest.raises(ValueError, match="counted twice"):
        merged.take(halves[0])


def test_intervals_from_counts_are_those_of_the_bootstrap_over_images() -> None:
    """The two draw from the same distribution, so that the ends differ by the noise of 4,000 resamples only."""
    p, q = predictions("m", "near", 0.8, seed=1, n=2000), predictions("m", "far", 0.6, seed=2, n=1500)
    sums = []
    for one in (p, q):
        sums.append(Sums("m", one.dataset, one.classes))
        sums[-1].add(0, one)
    kept = metrics.evaluate(p, resamples=4000)
    for name, estimate in counts.evaluate(sums[0], resamples=4000).items():
        width = kept[name].high - kept[name].low
        assert estimate.value == pytest.approx(kept[name].value, rel=1e-12)
        assert estimate.low == pytest.approx(kept[name].low, abs=0.12 * width), name
        assert estimate.high == pytest.approx(kept[name].high, abs=0.12 * width), name
    told = {(g.metric, g.label_space): g.gap for g in gap.gaps(p, q, paired=False, resamples=4000)}
    for g in counts.gaps(*sums, resamples=4000):
        other = told[g.metric, g.label_space]
        assert g.gap.value == pytest.approx(other.value, abs=1e-12)
        assert g.gap.low == pytest.approx(other.low, abs=0.12 * (other.high - other.low)), g.metric


def test_labels_that_are_names_and_files_in_braces(tmp_path: Path) -> None:
    for i in (0, 1):
        table(tmp_path / f"part-{i}.parquet", 40, i, names=True)
    found = open_stream(str(tmp_path / "part-{0..1}.parquet"))
    assert (found.name, found.length) == ("part", 80)
    parts = list(found.parts())
    assert [s.id for part in parts for s in part.samples][38:42] == ["part-0/38", "part-0/39", "part-1/0", "part-1/1"]
    assert all(set(part.classes or ()) <= set(CLASSES) for part in parts)
    assert parts[0].read(0).shape == (18, 18, 3)


@pytest.mark.fault("shift-eval --stream", "Ctrl-C")
def test_a_stream_that_was_killed_goes_on(
    place: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PART", 16)
    monkeypatch.setattr(streamed, "SAVE_SECONDS", 0.0)
    arguments = [
        *("--model", "trees/one", "--zoo", place / "zoo", "--in-dist", place / "tar" / "near-{0..2}.tar"),
        *("--probe", place / "far.parquet", "--resamples", 100, "--device", "cpu", "--stream"),
    ]
    assert run(*arguments, "--out", tmp_path / "whole").code == 0
    answered, calls = streamed._answered, []

    def cut(*more):  # type: ignore[no-untyped-def]
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return answered(*more)

    monkeypatch.setattr(streamed, "_answered", cut)
    assert run(*arguments, "--out", tmp_path / "run").code == 130
    result = run(*arguments, "--out", tmp_path / "run")
    assert result.code == 0, result.err
    assert "near: goes on after 4 parts" in result.err
    assert len(calls) == 5 + (9 - 4) + 5  # three shards of three parts each, and five of the table
    for name in ("summary.csv", "gaps.csv", "per_class.csv", "confusion.csv", "skipped.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("more", "said", "code"),
    [
        (["--shard", "1/2"], "--stream keeps counts and no predictions; leave out --shard", 2),
        ([], "expected --in-dist SOURCE and at least one --probe SOURCE", 1),
    ],
)
def test_what_a_stream_cannot_do_is_refused(
    more: list[str], said: str, code: int, place: Path, tmp_path: Path, run: Run
) -> None:
    result = run("--stream", "--zoo", place / "zoo", "--model", "trees/one", "--out", tmp_path / "run", *more)
    assert result.code == code
    assert said in result.err


def test_a_damaged_table_and_an_empty_set(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="expected a Parquet file"):
        open_stream(str(tmp_path / "x.parquet"))
    with pytest.raises(InputError, match="No such file"):
        open_stream(str(tmp_path / "none-{0..1}.tar"))


def test_a_data_set_of_the_hub_is_streamed_as_it_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels, names and pixels of ``hf:``, in parts of 16, are those of the same data set as a whole."""
    datasets = pytest.importorskip("datasets", reason="the extra gradlens[hf] is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(stream, "PART", 16)
    table(tmp_path / "trees" / "test.parquet", 40, 2)
    spec = f"hf:{tmp_path}/trees:test"
    listed = open_source(spec, offline=True)
    streamed_set = open_stream(spec, offline=True)
    assert (streamed_set.name, streamed_set.role) == (listed.name, listed.role) == ("trees-test", "test")
    parts = list(streamed_set.parts())
    assert [len(part) for part in parts] == [16, 16, 8]
    assert all(part.classes == listed.classes == CLASSES for part in parts)
    assert np.concatenate([part.labels for part in parts]).tolist() == listed.labels.tolist()
    pixels = [part.read(i) for part in parts for i in range(len(part))]
    assert all(np.array_equal(image, listed.read(i)) for i, image in enumerate(pixels))
    assert [s.id for part in parts for s in part.samples] == [str(i) for i in range(40)]
    with pytest.raises(InputError, match=r"cannot be opened without a network \(--offline\)"):
        open_stream(f"hf:{tmp_path}/birds:test", offline=True)
