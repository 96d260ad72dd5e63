"""The analyses of what changed, on small networks and small sets that say what their images were made with."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gradlens.cli.main import main
from gradlens.data import probe_sets
from gradlens.data.corruptions import CORRUPTIONS
from gradlens.data.preprocess import to_tensor
from gradlens.data.properties import Match, matched
from gradlens.data.sources import open_source
from gradlens.errors import NotFoundError
from gradlens.figures import style
from gradlens.records import Preprocess, Sample
from gradlens.runtime import Runtime
from gradlens.workflows.measure import Request
from gradlens.workflows.measure.analyses import Outcome, Subject, controls, corruptions, factors, severity
from gradlens.workflows.measure.computed import from_models
from gradlens.workflows.measure.evidence import Evidence, ModelInfo, SetInfo
from gradlens.workflows.measure.score import Findings, score
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build
from gradlens.zoo.cards import Card, Preprocessing
from tests.shift_samples import told

CLASSES = ("ash", "beech", "cedar", "dogwood")
PER_CLASS = 10
PLACES = ("wood", "park", "street", "shore")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three networks; a test set at home in one place a class; a graded, smaller and coarser set paired with it."""
    root = tmp_path_factory.mktemp("what-changed")
    rng = np.random.default_rng(0)
    sets = root / "probe_sets"
    lines: dict[str, list[str]] = {"trees-test": [], "trees-web": []}
    for label, name in enumerate(CLASSES):
        for i in range(PER_CLASS):
            path = f"{name}/{i:02d}.jpg"
            color = np.array([60 * label, 255 - 60 * label, 100])
            pixels = (color + rng.normal(0, 60, size=(24, 32, 3))).clip(0, 255).astype(np.uint8)
            level = 1 + i % 3
            for s in lines:
                (sets / s / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(sets / "trees-test" / path, quality=95)
            dark = Image.fromarray(pixels // (1 + level)).resize((20, 20))
            dark.save(sets / "trees-web" / path, quality=30)
            home, away = PLACES[label], PLACES[(label + 1) % 4]
            lines["trees-test"].append(f"{path},{name},,,,,{home if i else away},{i / 10},")
            effects = f"crop:1 dark:{level}" if i % 4 else f"dark:{level}"
            lines["trees-web"].append(f"{path},{name},{path},{level},,,{away if i % 2 else home},{i / 10},{effects}")
    for name, role, shift, pair in (
        ("trees-test", "test", "none", None),
        ("trees-web", "probe", "web", "trees-test"),
    ):
        manifest = probe_sets.Manifest(
            schema=1, name=name, role=role, shift=shift, classes=list(CLASSES), paired_with=pair
        )
        (sets / name / "probe.toml").write_text(manifest.to_toml(), encoding="utf-8")
        header = "path,class,pair,severity,sha256,mask,place,age,effects"
        (sets / name / "images.csv").write_text("\n".join([header, *lines[name]]) + "\n")
    train(root, sets / "trees-test")
    return root


def train(root: Path, folder: Path) -> None:
    """Three networks that know the test set more or less: untrained ones answer with one class for everything."""
    arguments = {"widths": [4, 4, 4, 4]}
    preprocess = Preprocess((3, 16, 16))
    images = open_source(str(folder))
    x = torch.stack([to_tensor(preprocess, images.read(i)) for i in range(len(images))])
    y = torch.from_numpy(images.labels)
    for seed, name in enumerate(("one", "two", "three")):
        torch.manual_seed(seed)
        module = build("gradlens:custom_cnn", arguments, len(CLASSES)).train()
        optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
        for _ in range(15 + 10 * seed):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(x), y).backward()
            optimizer.step()
        card = Card(
            builder="gradlens:custom_cnn",
            arguments=arguments,
            classes=CLASSES,
            preprocess=Preprocessing.of(preprocess),
        )
        checkpoints.save(root / "zoo" / "trees" / name, module.eval(), card)


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def subject(here: Path) -> Subject:
    return subject_of(("trees/one", "trees/two", "trees/three"))


def subject_of(models: Sequence[str], probes: Sequence[str] = ("trees-web",), **more: Any) -> Subject:
    request = Request(
        out=Path("unused"),
        models=tuple(models),
        zoo=Path("zoo"),
        in_dist="trees-test",
        probes=tuple(probes),
        resamples=100,
        **more,
    )
    runtime = Runtime(device="cpu", quiet=True)
    evidence = from_models(request, runtime, None)
    return Subject(evidence, score(evidence, request, runtime), request, runtime)


SHORT = (
    ("accuracy", ""),
    ("error", ""),
    ("part", ""),
    ("slope", ""),
    ("drop", ""),
)  # of which low and high are the ends


def check(outcome: Outcome) -> None:
    """What every outcome must be: complete rows, no reasonless NaN, intervals that contain, figures that draw."""
    assert not outcome.not_done
    for columns, table in outcome.tables.values():
        assert table
        for row in table:
            assert set(columns) <= set(row)
            for value, prefix in (*((c, f"{c}_") for c in ("drop", "explained", "remainder")), *SHORT):
                low, high = f"{prefix}low", f"{prefix}high"
                if {value, low, high} <= set(columns) and not math.isnan(row[low]):
                    assert row[low] <= row[value] <= row[high], row
                    if not prefix:
                        break
    for _, draw in outcome.figures:
        draw().canvas.draw()  # type: ignore[attr-defined]
    assert outcome.findings
    assert all(any(c.isdigit() for c in text) and text.endswith(".") for text in outcome.findings)


def accuracies(subject: Subject, model: str, dataset: str) -> float:
    return subject.found.scores[model, dataset]["accuracy"].value


def test_factors_of_a_run(subject: Subject) -> None:
    outcome = factors.of_subject(subject)
    check(outcome)
    _, split = outcome.tables["factor_split.csv"]
    assert {r["factor"] for r in split} == {"place_typical", "crop", "dark", "not explained"}
    for model in subject.models:
        own = [r for r in split if r["model"] == model]
        gap = accuracies(subject, model, "trees-test") - accuracies(subject, model, "trees-web")
        assert sum(r["part"] for r in own) == pytest.approx(gap, abs=1e-9)
    _, levels = outcome.tables["factors.csv"]
    ages = [r for r in levels if (r["factor"], r["model"]) == ("age", "trees/one")]
    assert sum(r["n"] for r in ages) == len(CLASSES) * PER_CLASS
    assert outcome.findings[0].startswith("Of the ")
    assert any("a place unusual for the class" in text for text in outcome.findings)


def with_right(right: dict[str, Callable[[Sample], bool]], origin: Subject) -> Subject:
    """The same sets, and models that get right what they are told to."""
    sets = origin.evidence.images
    said = {}
    for model, hits in right.items():
        for name, image_set in sets.items():
            labels = image_set.labels
            hit = np.array([hits(s) for s in image_set.samples])
            answer = np.where(hit, labels, (labels + 1) % len(CLASSES))
            said[model, name] = told(
                labels,
                answer,
                CLASSES,
                model=model,
                dataset=name,
                ids=tuple(s.id for s in image_set.samples),
                pairs=tuple(s.pair for s in image_set.samples) if image_set.paired_with else None,
            )
    evidence = replace(origin.evidence, models=[ModelInfo(m, 4) for m in right], predictions=said)
    return Subject(evidence, origin.found, origin.request, origin.runtime)


def test_the_model_that_reads_the_background_is_named(subject: Subject) -> None:
    home = dict(zip(CLASSES, PLACES, strict=True))
    told_apart = with_right(
        {
            "by place": lambda s: s.factors["place"] == home[CLASSES[s.label or 0]],
            "by light": lambda s: s.severity != 3,
        },
        subject,
    )
    outcome = factors.of_subject(told_apart)
    text = next(f for f in outcome.findings if "unusual for the class" in f and f.startswith("Of by place's"))
    assert "the most of 2 models" in text
    _, split = outcome.tables["factor_split.csv"]
    parts = {(r["model"], r["factor"]): r for r in split}
    lost = 5 / 10 - 1 / 10  # of ten images of a class, those in an unusual place afterwards less those before
    assert parts["by place", "place_typical"]["part"] == pytest.approx(lost, abs=0.03)
    assert parts["by place", "place_typical"]["drop"] == pytest.approx(lost)
    assert parts["by place", "place_typical"]["low"] > parts["by light", "place_typical"]["high"]
    assert parts["by light", "dark"]["low"] > 0


def test_severity_of_a_run(subject: Subject) -> None:
    outcome = severity.of_subject(subject)
    check(outcome)
    _, rows = outcome.tables["severity.csv"]
    for model in subject.models:
        own = [r for r in rows if r["model"] == model]
        assert [r["severity"] for r in own] == [1, 2, 3]
        mean = sum(r["n"] * r["accuracy"] for r in own) / sum(r["n"] for r in own)
        assert mean == pytest.approx(accuracies(subject, model, "trees-web"))
    _, trends = outcome.tables["severity_trends.csv"]
    assert {(r["n"], r["steps"]) for r in trends} == {(40, 3)}


def test_sets_that_say_nothing(subject: Subject, tmp_path: Path) -> None:
    plain = replace(subject.evidence, images={
        name: replace(s, samples=tuple(replace(x, factors={}, severity=None) for x in s.samples))
        for name, s in subject.evidence.images.items()
    })  # fmt: skip
    bare = replace(subject, evidence=plain)
    assert factors.of_subject(bare).not_done.startswith("no probe set says what its images were made with")
    assert severity.of_subject(bare).not_done.startswith("no probe set comes in several severities")
    files = replace(subject, evidence=replace(subject.evidence, images={}))
    assert "predictions from files" in factors.of_subject(files).not_done
    assert "predictions from files" in severity.of_subject(files).not_done


def test_the_order_of_models_changes_nothing(here: Path) -> None:
    one, other = (subject_of(names) for names in (("trees/one", "trees/two"), ("trees/two", "trees/one")))
    for of in (factors.of_subject, severity.of_subject):
        for name, (columns, rows) in of(one).tables.items():

            def key(r: dict[str, Any]) -> tuple[str, ...]:
                return tuple(f"{r[c]:.9f}" if isinstance(r[c], float) else str(r[c]) for c in columns)  # noqa: B023

            assert sorted(map(key, rows)) == sorted(map(key, of(other).tables[name][1]))  # type: ignore[arg-type]


def test_corruptions_of_a_run(here: Path) -> None:
    subject = subject_of(
        ("trees/one", "trees/two", "trees/three"), corruptions=("fog", "gaussian_noise"), severities=(1, 5)
    )
    outcome = corruptions.of_subject(subject)
    check(outcome)
    _, rows = outcome.tables["corruptions.csv"]
    assert len(rows) == 3 * 2 * 2
    _, mce = outcome.tables["mce.csv"]
    (reference,) = {r["reference"] for r in mce}
    ranked = sorted(subject.models, key=lambda m: (accuracies(subject, m, "trees-test"), m))
    assert reference == ranked[1]
    for r in mce:
        own = [x for x in rows if x["model"] == r["model"] and r["corruption"] in (x["corruption"], "mean")]
        assert r["error"] == pytest.approx(np.mean([x["error"] for x in own]))
        if r["model"] == reference:
            assert r["ce"] == pytest.approx(1)
    again = corruptions.of_subject(subject)
    assert again.findings == outcome.findings
    asked = replace(subject, request=replace(subject.request, reference="two"))
    assert {r["reference"] for r in corruptions.of_subject(asked).tables["mce.csv"][1]} == {"trees/two"}
    with pytest.raises(NotFoundError, match="no model of this run named 'tow'"):
        corruptions.of_subject(replace(subject, request=replace(subject.request, reference="tow")))


def test_corrupted_predictions_are_those_of_corrupted_images(here: Path) -> None:
    """The same set, once inside the analysis and once as a probe set of its own."""
    subject = subject_of(("trees/one",), probes=("trees-test+fog-3",), corruptions=("fog",), severities=(3,))
    assert subject.evidence.probes[0].paired_with == "trees-test"
    (row,) = corruptions.of_subject(subject).tables["corruptions.csv"][1]
    assert row["error"] == pytest.approx(1 - accuracies(subject, "trees/one", "trees-test+fog-3"))
    (gap,) = [g for g in subject.found.gaps if g.metric == "accuracy" and g.label_space == "shared"]
    assert gap.paired
    assert (row["drop"], row["drop_low"]) == pytest.approx((gap.gap.value, gap.gap.low))


def test_controls_of_a_run(subject: Subject) -> None:
    outcome = controls.of_subject(subject)
    check(outcome)
    _, rows = outcome.tables["controls.csv"]
    assert len(rows) == 2 * 4
    for r in rows:
        assert r["explained"] + r["remainder"] == pytest.approx(r["gap"], abs=1e-9)
        if r["model"] in subject.models:
            expected = accuracies(subject, r["model"], "trees-test") - accuracies(subject, r["model"], "trees-web")
            assert r["gap"] == pytest.approx(expected)
        assert r["changed"] == 40
    _, table = outcome.tables["set_properties.csv"]
    said = {(r["dataset"], r["property"]): r for r in table}
    assert said["trees-test", "JPEG quality"]["median"] == 95
    assert said["trees-web", "JPEG quality"]["median"] == 30
    assert (said["trees-web", "width"]["median"], said["trees-test", "width"]["median"]) == (20, 32)
    assert said["trees-test", "upsampling to 16"]["median"] == pytest.approx(16 / 24)
    assert said["trees-test", "codec JPEG"]["share"] == 1
    (answer,) = outcome.answers
    assert answer.question == 4
    assert "on trees-web" in answer.text


def test_a_control_that_is_the_shift_explains_all_of_it(here: Path, tmp_path: Path) -> None:
    """Images that were only made smaller and compressed: the matched control sees the same pixels."""
    origin = open_source("trees-test")
    for i, sample in enumerate(origin.samples):
        path = tmp_path / "smaller" / sample.id
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(matched(origin.read(i), Match(size=(16, 12))))
        small.save(path, quality=20, subsampling=2)
    (tmp_path / "smaller" / "probe.toml").write_text(
        probe_sets.Manifest(
            schema=1, name="smaller", role="probe", shift="size", classes=list(CLASSES), paired_with="trees-test"
        ).to_toml()
    )
    lines = [f"{s.id},{s.id.split('/')[0]},{s.id}" for s in origin.samples]
    (tmp_path / "smaller" / "images.csv").write_text("\n".join(["path,class,pair", *lines]) + "\n")
    subject = subject_of(("trees/one", "trees/two"), probes=(str(tmp_path / "smaller"),))
    rows = [r for r in controls.of_subject(subject).tables["controls.csv"][1] if r["control"] == "size+aspect+codec"]
    assert [r["remainder"] for r in rows] == pytest.approx([0] * 3, abs=1e-9)


def test_sets_that_are_alike_need_no_control(here: Path) -> None:
    subject = subject_of(("trees/one",), probes=("trees-test+brightness-3",))
    image = replace(subject.evidence.images["trees-test"], name="trees-test+brightness-3", paired_with="trees-test")
    same = replace(image, samples=tuple(replace(s, pair=s.id) for s in image.samples))
    alike = replace(
        subject.evidence, images={**subject.evidence.images, same.name: same}, networks={}
    )  # no network may run
    rows = controls.of_subject(replace(subject, evidence=alike)).tables["controls.csv"][1]
    assert {(r["changed"], r["explained"], r["explained_interval"]) for r in rows} == {
        (0, 0.0, "exact: both sets have them alike")
    }
    assert all(r["remainder"] == pytest.approx(r["gap"]) for r in rows)


def test_independent_sets_are_drawn_for(here: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in CLASSES[:3]:  # one class is missing
        for i in range(4):
            (tmp_path / "web" / name).mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (18, 18, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "web" / name / f"{i}.jpg", quality=40)
    subject = subject_of(("trees/one", "trees/two"), probes=(str(tmp_path / "web"),))
    outcome = controls.of_subject(subject)
    check(outcome)
    rows = outcome.tables["controls.csv"][1]
    assert {(r["n_in_dist"], r["n_probe"]) for r in rows} == {(30, 12)}
    gaps = {g.model: g.gap.value for g in subject.found.gaps if (g.metric, g.label_space) == ("accuracy", "shared")}
    for r in rows:
        assert r["explained"] + r["remainder"] == pytest.approx(r["gap"], abs=1e-9)
        if r["model"] in gaps:
            assert r["gap"] == pytest.approx(gaps[r["model"]])
    assert controls.of_subject(subject).tables["controls.csv"][1] == rows


def test_from_the_command_line(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "save", lambda *_, **__: [])  # drawing takes most of the time
    options = ["shift-eval", "--zoo", "zoo", "--model", "trees/one", "--resamples", "100", "--device", "cpu"]
    options += ["--in-dist", "trees-test", "--probe", "trees-web", "--quiet", "--out", str(tmp_path / "run")]
    options += ["--with", "corruptions", "--with", "controls", "--corruption", "contrast", "--severity", "5"]
    with pytest.raises(SystemExit) as left:
        main(options)
    assert not left.value.code
    for name in ("factors", "factor_tests", "factor_split", "severity", "corruptions", "mce", "controls"):
        with (tmp_path / "run" / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
            assert list(csv.DictReader(stream))
    with (tmp_path / "run" / "questions.csv").open(encoding="utf-8", newline="") as stream:
        answers = {r["question"]: r["answer"] for r in csv.DictReader(stream)}
    assert answers["4"].startswith("Size, aspect and codec alone explain")
    told = {a["name"]: a for a in json.loads((tmp_path / "run" / "run.json").read_text())["analyses"]}
    assert told["corruptions"]["figures"] == ["corruptions", "corruption_severity"]
    assert told["severity"]["figures"] == ["severity"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main([*options, "--corruption", "contrst"])
    assert left.value.code == 1
    assert "no corruption named 'contrst'; did you mean 'contrast'" in capsys.readouterr().err


def test_vehicles_recover_the_planted_shortcut(root: Path) -> None:
    """Backgrounds go with the class in the renderer's catalogue; swapping them is found to be what changed."""
    sets = {name: open_source(str(root / "probe_sets" / name)) for name in ("vehicles-test", "vehicles-context")}
    rng = np.random.default_rng(0)
    said = {}
    for model, loses in (("reads the background", 0.9), ("reads the vehicle", 0.1)):
        for name, s in sets.items():
            wrong = rng.random(len(s)) < (loses if name == "vehicles-context" else 0.02)
            answer = np.where(wrong, (s.labels + 1) % 8, s.labels)
            ids, pairs = tuple(x.id for x in s.samples), tuple(x.pair for x in s.samples)
            said[model, name] = told(
                s.labels, answer, s.classes or (), model=model, dataset=name, ids=ids,
                pairs=pairs if s.paired_with else None,
            )  # fmt: skip
    infos = [SetInfo(n, s.role, len(s), s.classes or (), paired_with=s.paired_with) for n, s in sets.items()]
    models = [ModelInfo(m, 8) for m in ("reads the background", "reads the vehicle")]
    evidence = Evidence(models, infos[0], infos[1:], said, images=sets)
    request = Request(out=Path("unused"), resamples=200)
    found = Findings({}, [], [], [], [], [], [])
    outcome = factors.of_subject(Subject(evidence, found, request, Runtime(quiet=True)))
    text = next(f for f in outcome.findings if "a background unusual for the class" in f)
    assert text.startswith("Of reads the background's")
    assert "320 of 320 images changed it" in text
    assert "of reads the vehicle's" in text
    _, split = outcome.tables["factor_split.csv"]
    assert {r["factor"] for r in split} == {"background_typical", "not explained"}


def test_the_whole_of_the_registry_is_offered(here: Path) -> None:
    subject = subject_of(("trees/one",), severities=(2,))
    _, rows = corruptions.of_subject(subject).tables["corruptions.csv"]
    assert [r["corruption"] for r in rows] == list(CORRUPTIONS)
    assert {r["family"] for r in rows} == {"noise", "blur", "weather", "digital"}
