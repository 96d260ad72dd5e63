"""Published predictions and published accuracy tables in, published numbers out, through the command line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from scipy import stats
from scipy.special import softmax
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from gradlens.cli.main import main
from gradlens.errors import GradlensError, InputError, NotFoundError
from gradlens.figures import style
from gradlens.figures.shift_scatter import Point
from gradlens.runtime import Runtime
from gradlens.shift import accuracies, intervals, lines
from gradlens.workflows.measure import Request, leave
from gradlens.workflows.measure.analyses import ANALYSES, Outcome, Subject
from gradlens.workflows.measure.analyses.lines import Zoo, accuracy, fit
from gradlens.workflows.measure.published import from_files
from gradlens.workflows.measure.score import score
from runs import Run

SETS = ("cifar10", "cifar10.1-v4", "cifar10.1-v6")
ACCURACIES = {  # of the data's own description
    "cudaconvnet": ("0.8854", "0.77536", "0.7820"),
    "vgg_15_BN_64": ("0.9299", "0.84859", "0.8505"),
    "resnet_basic_110": ("0.9346", "0.85156", "0.8540"),
    "wrn_28_10": ("0.9593", "0.89708", "0.9015"),
    "shake_shake_26_2x64d_SSI_cutout16": ("0.9711", "0.92974", "0.9310"),
}


def without_figures(patch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time; other tests draw and write them."""
    patch.setattr(leave, "draw", lambda *_: None)
    patch.setattr(style, "save", lambda *_, **__: [])


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


# --- predictions -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on the published predictions of Recht et al. 2018."""
    out = tmp_path_factory.mktemp("published") / "run"
    file = shared_data / "cifar10.1-predictions.parquet"
    args = ["--in-dist", SETS[0], "--probe", SETS[1], "--probe", SETS[2], "--resamples", "500", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        without_figures(patch)
        with pytest.raises(SystemExit) as left:
            main(["shift-eval", "--predictions", str(file), *args, "--out", str(out)])
    assert not left.value.code
    return out


@pytest.fixture(scope="module")
def answers(shared_data: Path) -> dict[tuple[str, str], np.ndarray]:
    """Right or wrong by (model, set), read without gradlens."""
    table = pq.read_table(shared_data / "cifar10.1-predictions.parquet").to_pandas().sort_values("index")
    return {key: (rows["label"] == rows["prediction"]).to_numpy() for key, rows in table.groupby(["model", "dataset"])}


def test_accuracies_to_all_digits_with_the_papers_intervals(published: Path) -> None:
    rows = {(r["model"], r["dataset"]): r for r in read(published / "summary.csv") if r["metric"] == "accuracy"}
    assert len(rows) == 15
    for model, expected in ACCURACIES.items():
        for dataset, digits in zip(SETS, expected, strict=True):
            row = rows[model, dataset]
            assert f"{float(row['value']):.{len(digits) - 2}f}" == digits
            n = int(row["n"])
            low, high = proportion_confint(round(float(row["value"]) * n), n, method="beta")
            assert (float(row["low"]), float(row["high"])) == pytest.approx((low, high))
    last = rows["shake_shake_26_2x64d_SSI_cutout16", SETS[0]], rows["shake_shake_26_2x64d_SSI_cutout16", SETS[1]]
    printed = [f"{100 * float(r[k]):.1f}" for r in last for k in ("value", "low", "high")]
    assert printed == ["97.1", "96.8", "97.4", "93.0", "91.8", "94.0"]  # the paper's table 1


def test_gaps_have_newcombes_intervals(published: Path, answers: dict[tuple[str, str], np.ndarray]) -> None:
    rows = [r for r in read(published / "gaps.csv") if (r["metric"], r["label_space"]) == ("accuracy", "shared")]
    assert len(rows) == 10
    for row in rows:
        one, two = answers[row["model"], SETS[0]], answers[row["model"], row["probe"]]
        assert float(row["gap"]) == pytest.approx(one.mean() - two.mean(), abs=1e-12)
        expected = intervals.newcombe(int(one.sum()), len(one), int(two.sum()), len(two))
        assert (float(row["low"]), float(row["high"])) == pytest.approx(expected)
        assert float(row["mix"]) + float(row["within"]) == pytest.approx(float(row["gap"]))
    last = next(r for r in rows if r["model"].startswith("shake") and r["probe"] == SETS[1])
    assert f"{100 * float(last['gap']):.1f}" == "4.1"  # the paper's table 1


def test_all_pairs_with_mcnemar_holm_and_their_family(
    published: Path, answers: dict[tuple[str, str], np.ndarray]
) -> None:
    table = read(published / "pairs.csv")
    assert list(table[0])[-2:] == ["p_bh", "family"]
    assert len(table) == 3 * 10
    for dataset in SETS:
        rows = [r for r in table if r["dataset"] == dataset]
        p = [float(r["p_exact"]) for r in rows]
        for row in rows:
            a, b = answers[row["model_a"], dataset], answers[row["model_b"], dataset]
            assert (int(row["b"]), int(row["c"])) == ((a & ~b).sum(), (~a & b).sum())
            own = mcnemar([[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]], exact=True)
            assert float(row["p_exact"]) == pytest.approx(own.pvalue, abs=1e-12)
            assert row["family"] == "10"
        assert [float(r["p_holm"]) for r in rows] == pytest.approx(multipletests(p, method="holm")[1])
        assert [float(r["p_bh"]) for r in rows] == pytest.approx(multipletests(p, method="fdr_bh")[1])


def test_ranks_do_not_change_and_two_models_share_theirs(published: Path) -> None:
    rows = {(r["model"], r["dataset"]): r for r in read(published / "ranks.csv")}
    for place, model in enumerate(reversed(ACCURACIES), 1):
        for dataset in SETS:
            assert float(rows[model, dataset]["rank"]) == place
        assert [float(rows[model, d]["change"]) for d in SETS[1:]] == [0, 0]
    close = ("vgg_15_BN_64", "resnet_basic_110")
    for dataset in SETS:
        groups = {m: set(rows[m, dataset]["groups"].split()) for m in ACCURACIES}
        for a in ACCURACIES:
            for b in ACCURACIES:
                assert bool(groups[a] & groups[b]) == (a == b or {a, b} == set(close))
        assert [(rows[m, dataset]["best"], rows[m, dataset]["worst"]) for m in close] == [("3", "4")] * 2
    for row in read(published / "rank_correlation.csv"):
        assert float(row["tau"]) == 1
        assert 0.7 < float(row["low"]) < 1


def test_line_through_five_models_is_that_of_numpy(published: Path, answers: dict[tuple[str, str], np.ndarray]) -> None:
    rows = [r for r in read(published / "lines.csv") if r["interval"] == "t 95%"]
    assert len(rows) == 2 * 3
    scales: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "identity": np.asarray,
        "logit": lambda p: np.log(p / (1 - p)),
        "probit": stats.norm.ppf,
    }
    for row in rows:
        f = scales[row["transform"]]
        x = f(np.array([answers[m, SETS[0]].mean() for m in ACCURACIES]))
        y = f(np.array([answers[m, row["probe"]].mean() for m in ACCURACIES]))
        slope, intercept = np.polyfit(x, y, 1)
        assert (float(row["slope"]), float(row["intercept"])) == pytest.approx((slope, intercept))
        assert float(row["r2"]) == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)
        assert (row["models"], row["families"]) == ("5", "5")
        assert float(row["spread"]) == pytest.approx(0.9711 - 0.8854)
    robust = read(published / "effective_robustness.csv")
    assert {r["interval"] for r in robust} == {"not defined: 4 models, and a line needs at least 5"}
    assert {r["baseline_models"] for r in robust} == {"4"}


def test_run_says_what_it_found_and_what_it_did_not_do(published: Path) -> None:
    about = json.loads((published / "run.json").read_text())
    analyses = {a["name"]: a for a in about["analyses"]}
    assert analyses["ranks"]["findings"][0].startswith("9 of 10 pairs of models are told apart on cifar10")
    assert "needs logits or probabilities" in analyses["calibration"]["not_done"]
    assert analyses["luck"]["not_done"].startswith("none of 5 models was trained twice")
    asked = {q["question"]: q["answer"] for q in about["questions"]}
    assert "30 pairs were tested, 10 on each of 3 sets" in asked[6]
    assert "A ranking is given on 3 of 3 sets" in asked[6]
    assert "R² 0.99" in asked[9]
    assert "5 training runs of 5 families" in asked[10]


def test_three_models_have_no_line(
    shared_data: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_figures(monkeypatch)
    file = shared_data / "cifar10.1-predictions.parquet"
    models = [x for m in list(ACCURACIES)[:3] for x in ("--model", m)]
    args = ["--predictions", file, *models, "--in-dist", SETS[0], "--probe", SETS[1], "--resamples", 100]
    result = run(*args, "--out", tmp_path / "run")
    assert result.code == 0
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    told = next(a for a in about["analyses"] if a["name"] == "lines")
    assert told["not_done"] == "no line is drawn: 3 models, and a line needs at least 5 (cifar10.1-v4)"
    assert not (tmp_path / "run" / "lines.csv").exists()
    asked = {q["question"]: q["answer"] for q in about["questions"]}
    assert asked[9].startswith("No line is drawn: 3 models")
    assert asked[10].startswith("3 training runs of 3 families")


# --- many models, in every form ---------------------------------------------------------------------------------------


def zoo_of(models: int, n: int = 200, k: int = 5) -> dict[str, dict[str, list[Any]]]:
    """Predictions of many models as columns, by form."""
    rng = np.random.default_rng(0)
    plain: dict[str, list[Any]] = {c: [] for c in ("model", "dataset", "index", "label", "prediction")}
    logits, probabilities = [], []
    for dataset, shift in (("test", 0.0), ("probe", 0.8)):
        labels = rng.integers(k, size=n)
        common = rng.normal(size=(n, k))
        for m in range(models):
            z = (common + 0.7 * rng.normal(size=(n, k))).astype(np.float32)
            z[np.arange(n), labels] += 0.8 + 3 * m / models - shift
            plain["model"] += [f"net{m // 2:02d}-s{m % 2}"] * n
            plain["dataset"] += [dataset] * n
            plain["index"] += range(n)
            plain["label"] += labels.tolist()
            plain["prediction"] += z.argmax(axis=1).tolist()
            logits += z.tolist()
            probabilities += softmax(z.astype(float), axis=1).tolist()
    return {
        "hard": plain,
        "logits": {**plain, "logits": logits},
        "probabilities": plain | {"probabilities": probabilities},
    }


MANY = 24
ANALYSED = ("ranks", "lines", "luck", "calibration")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Outcome]]:
    """What is found in two dozen models from hard predictions, logits and probabilities, in Parquet and in CSV."""
    place = tmp_path_factory.mktemp("many")
    for form, columns in zoo_of(MANY).items():
        pq.write_table(pa.table(columns), place / f"{form}.parquet")
        as_text = {c: [json.dumps(v) for v in values] if c == form else values for c, values in columns.items()}
        pa_csv.write_csv(pa.table(as_text), place / f"{form}.csv")
    found = {}
    for file in sorted(place.iterdir()):
        request = Request(out=place / "run", predictions=(file,), in_dist="test", resamples=100)
        evidence = from_files(request)
        subject = Subject(evidence, score(evidence, request, Runtime(quiet=True)), request, Runtime(quiet=True))
        found[file.name] = {name: ANALYSES[name].of(subject) for name in ANALYSED}
        found[file.name]["pairs"] = Outcome(tables={"pairs.csv": ((), subject.found.pairs)})
    return found


def rows_of(found: dict[str, Outcome], analysis: str, table: str) -> list[Any]:
    return list(found[analysis].tables[table][1])


def test_forms_agree(many: dict[str, dict[str, Outcome]]) -> None:
    assert len(many) == 6
    plain, logits = many["hard.parquet"], many["logits.parquet"]
    for name, found in many.items():
        for analysis in ("pairs", "ranks", "lines", "luck"):
            assert str(found[analysis].tables) == str(plain[analysis].tables), (name, analysis)
            assert list(found[analysis].findings) == list(plain[analysis].findings)
        if "hard" in name:
            assert "needs logits or probabilities" in found["calibration"].not_done
            continue
        one, two = (rows_of(f, "calibration", "calibration.csv") for f in (found, logits))
        assert len(one) == MANY * 2 * 2 * 6
        for a, b in zip(one, two, strict=True):
            assert (a["model"], a["dataset"], a["metric"]) == (b["model"], b["dataset"], b["metric"])
            if a["metric"] in ("nll", "brier"):
                assert a["value"] == pytest.approx(b["value"], abs=1e-4)


def test_many_models_get_lines_ranks_and_luck(many: dict[str, dict[str, Outcome]]) -> None:
    found = many["logits.parquet"]
    assert len(rows_of(found, "pairs", "pairs.csv")) == 2 * MANY * (MANY - 1) // 2
    rows = [r for r in rows_of(found, "lines", "lines.csv") if r["transform"] == "probit"]
    assert [(r["models"], r["families"]) for r in rows] == [(MANY, MANY // 2)] * 2
    assert rows[0]["r2"] > 0.9
    assert rows[1]["interval"] == f"bootstrap over {MANY // 2} families 95%"
    robust = rows_of(found, "lines", "effective_robustness.csv")
    assert len(robust) == 3 * MANY
    assert {(r["baseline"], r["baseline_models"]) for r in robust if r["family"] == "net03"} == {
        ("all families but net03", MANY - 2)
    }
    luck = rows_of(found, "luck", "luck.csv")
    assert {r["runs"] for r in luck} == {2}
    assert len(luck) == 3 * MANY // 2


# --- accuracy tables -------------------------------------------------------------------------------------------------


def table(
    place: Path, rows: int = 12, *, percent: bool = False, ending: str = "csv", **columns: list[Any]
) -> tuple[Path, np.ndarray, np.ndarray]:
    """A published table, and its accuracies as fractions."""
    rng = np.random.default_rng(1)
    fx = np.linspace(0.2, 1.5, rows)
    x, y = stats.norm.cdf(fx), stats.norm.cdf(0.9 * fx - 0.4 + rng.normal(0, 0.05, rows))
    scale = 100 if percent else 1
    content = {"model": [f"m{i // 2}-s{i % 2}" for i in range(rows)], "imagenet": x * scale, "v2": y * scale}
    whole = pa.table(content | columns)
    path = place / f"zoo.{ending}"
    if ending == "csv":
        pa_csv.write_csv(whole, path)
    else:
        pq.write_table(whole, path)
    return path, x, y


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("percent", [False, True])
def test_table_to_line_and_effective_robustness(tmp_path: Path, run: Run, ending: str, percent: bool) -> None:
    path, x, y = table(tmp_path, percent=percent, ending=ending)
    out = tmp_path / "run"
    result = run("--accuracies", path, "--in-dist", "imagenet", "--probe", "v2", "--resamples", 200, "--out", out)
    assert result.code == 0, result.err
    read_as = "percent" if percent else "fractions"
    assert f"was read as {read_as}" in result.err
    assert "explains accuracy on v2" in result.out
    row = next(r for r in read(out / "lines.csv") if (r["transform"], r["interval"]) == ("probit", "t 95%"))
    expected = stats.linregress(stats.norm.ppf(x), stats.norm.ppf(y))
    assert (float(row["slope"]), float(row["intercept"])) == pytest.approx((expected.slope, expected.intercept))
    assert (row["models"], row["families"], row["n_in_dist"]) == ("12", "6", "")
    robust = {(r["model"], r["transform"]): r for r in read(out / "effective_robustness.csv")}
    assert len(robust) == 3 * 12
    others = np.arange(12) >= 2  # of another family than m0
    line = stats.linregress(stats.norm.ppf(x[others]), stats.norm.ppf(y[others]))
    rho = y[0] - stats.norm.cdf(line.slope * stats.norm.ppf(x[0]) + line.intercept)
    assert float(robust["m0-s0", "probit"]["effective_robustness"]) == pytest.approx(rho)
    assert robust["m0-s0", "probit"]["baseline"] == "all families but m0"
    about = json.loads((out / "run.json").read_text())
    assert (about["mode"], about["read_as"], about["in_dist"]) == ("accuracies", read_as, "imagenet")
    on_disk = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert set(about["files"]) == on_disk
    assert {"lines.csv", "effective_robustness.csv", "accuracies.csv", "figures/lines.png", "run.json"} <= on_disk


def test_table_as_json(tmp_path: Path, run: Run) -> None:
    path, _, _ = table(tmp_path, family=["a"] * 6 + ["b"] * 3 + ["c"] * 3, n=[1000] * 12)
    args = ("--accuracies", path, "--in-dist", "imagenet", "--resamples", 100, "--out", tmp_path / "run", "--json")
    document = json.loads(run(*args).out)
    assert document["schema"] == 1
    assert document["probe_sets"] == ["v2"]
    assert [m["family"] for m in document["models"]] == ["a"] * 6 + ["b"] * 3 + ["c"] * 3
    assert {r["n_in_dist"] for r in document["lines"]} == {1000}
    assert len(document["effective_robustness"]) == 36
    accurate = read(tmp_path / "run" / "accuracies.csv")
    k = round(float(accurate[0]["accuracy"]) * 1000)
    assert (float(accurate[0]["low"]), float(accurate[0]["high"])) == pytest.approx(intervals.clopper_pearson(k, 1000))


def test_named_baseline_and_extra_data(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    without_figures(monkeypatch)
    tags = ["no"] * 11 + ["LAION"]
    path, x, y = table(tmp_path, extra_data=tags)
    common = ("--accuracies", path, "--in-dist", "imagenet", "--resamples", 100)
    assert run(*common, "--out", tmp_path / "a").code == 0
    rows = {r["model"]: r for r in read(tmp_path / "a" / "effective_robustness.csv") if r["transform"] == "logit"}
    assert rows["m0-s0"]["baseline"] == "all families but m0 without extra data"
    assert rows["m0-s0"]["baseline_models"] == "9"
    assert rows["m5-s1"]["extra_data"] == "LAION"
    assert rows["m5-s0"]["extra_data"] == ""
    assert run(*common, "--baseline", "m[0-3]", "--out", tmp_path / "b").code == 0
    rows = {r["model"]: r for r in read(tmp_path / "b" / "effective_robustness.csv") if r["transform"] == "logit"}
    assert rows["m0-s0"]["interval"].startswith("not defined: the model is of the baseline")
    assert rows["m0-s0"]["p"] == rows["m0-s0"]["low"] == ""
    z = [np.log(v[:8] / (1 - v[:8])) for v in (x, y)]
    line = stats.linregress(*z)
    expected = 1 / (1 + np.exp(-(line.slope * np.log(x[10] / (1 - x[10])) + line.intercept)))
    assert float(rows["m5-s0"]["expected"]) == pytest.approx(expected)
    assert (rows["m5-s0"]["baseline"], rows["m5-s0"]["baseline_models"]) == ("m[0-3]", "8")
    unknown = run(*common, "--baseline", "resnet", "--out", tmp_path / "c")
    assert unknown.code == 1
    assert "no baseline family or model named 'resnet'" in unknown.err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--model", "x"], "leave out --model"),
        (["--predictions", "x.csv"], "leave out --predictions"),
        (["--plan"], "leave out --plan"),
        (["--with", "all"], "leave out --with"),
    ],
)
def test_options_of_models_are_wrong_usage(tmp_path: Path, run: Run, more: list[str], said: str) -> None:
    path, _, _ = table(tmp_path)
    result = run("--accuracies", path, "--in-dist", "imagenet", *more)
    assert result.code == 2
    assert said in result.err


def test_too_few_models_or_too_little_spread_is_refused(tmp_path: Path, run: Run) -> None:
    path, _, _ = table(tmp_path, rows=4)
    result = run("--accuracies", path, "--in-dist", "imagenet", "--out", tmp_path / "run")
    assert result.code == 1
    assert "no line is drawn: 4 models, and a line needs at least 5 (v2)" in result.err
    assert not (tmp_path / "run").exists()
    (tmp_path / "flat.csv").write_text("model,a,b\n" + "".join(f"m{i},0.9{i},0.8{i}\n" for i in range(5)))
    result = run("--accuracies", tmp_path / "flat.csv", "--in-dist", "a", "--out", tmp_path / "run")
    assert result.code == 1
    assert "within 4.0 points" in result.err


def test_limits_and_skipped_rows_have_their_exit_codes(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_figures(monkeypatch)
    path, _, _ = table(tmp_path)
    common = ("--accuracies", path, "--in-dist", "imagenet", "--resamples", 100, "--out", tmp_path / "run")
    drop = run(*common, "--max-drop", 0.05)
    assert drop.code == 4
    assert "more than --max-drop 0.05" in drop.err
    assert run(*common, "--max-drop", 0.9).code == 0
    least = run(*common, "--min-accuracy", 0.9)
    assert least.code == 4
    assert "below --min-accuracy 0.9" in least.err
    gone = table(tmp_path, v3=[None] + [0.5] * 11)[0]
    common = ("--accuracies", gone, "--in-dist", "imagenet", "--probe", "v3", "--resamples", 100)
    with_hole = run(*common, "--out", tmp_path / "run", "--strict")
    assert with_hole.code == 3
    assert read(tmp_path / "run" / "skipped.csv") == [{"path": "m0-s0", "reason": "no accuracy in column v3"}]
    assert run(*common, "--out", tmp_path / "run").code == 0


BAD = {
    "name,a\nx,0.5\n": "expected a column model",
    "model,a,b\n": "the file has no rows",
    "model,a,b\nx,0.5,0.4\nx,0.6,0.5\n": "x has 2; rename or merge",
    "model,a,b\nx,0.5,high\n": "expected numbers in the column b, it holds values like 'high'",
    "model,a,b\nx,0.5,400\n": "row 1 has 400",
    "model,a,b\nx,-0.5,0.4\n": "row 1 has -0.5",
    "model,a,b\nx,93.0,0.9\ny,88.0,0.8\n": "the column b holds at most 0.9 where others hold percent",
    "model,a,b\nx,,0.4\n": "no model has an accuracy in each of a, b",
    "model,a,b,n\nx,0.5,0.4,2.5\n": "whole numbers of images in the column n",
    "model,a,b\n,0.5,0.4\n": "model is missing in row 1",
}


@pytest.mark.parametrize("content", BAD)
def test_bad_tables_are_told_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=BAD[content].replace("(", "\\(")) as told:
        accuracies.read(path, "a", ["b"] if ",b" in content else [])
    assert "\n" not in str(told.value)


def test_columns_that_are_not_there_are_named(tmp_path: Path) -> None:
    path, _, _ = table(tmp_path, params=[1.5e6] * 12)
    with pytest.raises(InputError, match="expected --in-dist with the column of the in-distribution set: imagenet, v2"):
        accuracies.read(path, None, [])
    with pytest.raises(NotFoundError, match="no column named 'v3'"):
        accuracies.read(path, "imagenet", ["v3"])
    with pytest.raises(InputError, match="is the in-distribution column already"):
        accuracies.read(path, "imagenet", ["imagenet"])
    with pytest.raises(InputError, match=r"name the columns of accuracies with --in-dist and --probe"):
        accuracies.read(path, "imagenet", [])  # parameters are no accuracies
    with pytest.raises(InputError, match="there is no such file"):
        accuracies.read(tmp_path / "none.csv", "a", [])
    (tmp_path / "bytes.csv").write_bytes(b"model,a\n\xff\xfe,0.5\n")
    with pytest.raises(GradlensError, match=r"bytes\.csv"):
        accuracies.read(tmp_path / "bytes.csv", "a", [])


def test_numbers_of_images_by_set(tmp_path: Path) -> None:
    path, _, _ = table(tmp_path, n=[50_000] * 12, n_v2=[10_000] * 12)
    found = accuracies.read(path, "imagenet", [])
    assert found.sets == ("imagenet", "v2")
    assert found.images[0].tolist() == [50_000, 10_000]
    assert found.families[:3] == ("m0", "m0", "m1")


# --- lines over points -----------------------------------------------------------------------------------------------


def points(x: list[float], y: list[float], n: int = 0) -> list[Point]:
    return [
        Point(f"m{i}", "in", "out", accuracy(a, n, 0.95), accuracy(b, n, 0.95))
        for i, (a, b) in enumerate(zip(x, y, strict=True))
    ]


def zoo(some: list[Point], **rest: Any) -> Zoo:
    return Zoo(some, {p.model: lines.family_of(p.model) for p in some}, resamples=200, **rest)


def test_perfect_accuracy_without_its_images_has_an_identity_line_only() -> None:
    x, y = [0.6, 0.7, 0.8, 0.9, 0.95, 1.0], [0.5, 0.55, 0.7, 0.72, 0.8, 0.9]
    rows = fit(zoo(points(x, y))).tables["lines.csv"][1]
    assert {r["transform"] for r in rows if not math.isnan(r["slope"])} == {"identity"}
    reason = next(r["interval"] for r in rows if r["transform"] == "probit")
    assert reason == "not defined: probit of an accuracy of exactly 0 or 1 needs the number of images behind it"
    known = fit(zoo(points(x, y, 500))).tables["lines.csv"][1]
    assert not any(math.isnan(r["slope"]) for r in known)


def test_one_model_far_off_is_found_against_the_others() -> None:
    rng = np.random.default_rng(0)
    x = np.linspace(0.6, 0.95, 12)
    y = x - 0.1 + rng.normal(0, 0.005, 12)
    y[4] += 0.15
    outcome = fit(zoo(points(x.tolist(), y.tolist())))
    rows = [r for r in outcome.tables["effective_robustness.csv"][1] if r["transform"] == "identity"]
    assert [r["model"] for r in rows if r["p_holm"] < 0.05] == ["m4"]
    off = next(r for r in rows if r["model"] == "m4")
    assert off["low"] > 0.1
    assert "the largest of them: m4 on out" in outcome.findings[1]
    assert "off the line of the others: m4" in outcome.answers[0].text


def test_noisy_accuracies_are_said_to_flatten_the_line() -> None:
    rng = np.random.default_rng(0)
    x = rng.binomial(60, np.linspace(0.8, 0.86, 10)) / 60
    outcome = fit(zoo(points(x.tolist(), (x - 0.1).tolist(), 60)))
    share = outcome.tables["lines.csv"][1][0]["noise_share"]
    assert share == pytest.approx(lines.noise_share(x, [60] * 10))
    assert any("sampling noise makes" in note for note in outcome.notes)


def test_order_of_points_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    some = points(rng.uniform(0.6, 0.95, 9).tolist(), rng.uniform(0.4, 0.8, 9).tolist(), 200)
    one, two = (fit(zoo(p)).tables for p in (some, some[::-1]))
    assert str(one) == str(two)
