"""Where a model was trained several times: how much of its scores and gaps is the luck of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from gradlens.figures import style
from gradlens.shift import gap, luck
from gradlens.shift.lines import family_of
from gradlens.shift.metrics import Scored, on_classes
from gradlens.shift.pairs import holm
from gradlens.shift.tables import percent
from gradlens.workflows.measure.analyses.analysis import Answer, Outcome, Subject, analysis
from gradlens.workflows.measure.evidence import SetInfo

LUCK = (
    *("family", "runs", "quantity", "dataset", "n_in_dist", "n", "paired", "classes"),
    *("value", "low", "high", "interval"),
    *("sd_between_runs", "sd_training", "sd_sampling", "training_share"),
)
LUCK_PAIRS = (
    *("family_a", "family_b", "runs_a", "runs_b", "quantity", "dataset", "n_in_dist", "n", "paired"),
    *("difference", "low", "high", "interval", "training_error", "sampling_error", "freedom", "p", "p_holm", "tests"),
)


@analysis(
    "luck", "Training luck", "Where a model was trained several times: luck of training against luck of sampling."
)
def of_subject(subject: Subject) -> Outcome:
    """Variance of accuracies and gaps between runs of one model, and families compared against both kinds of luck."""
    families: dict[str, list[str]] = {}
    for model in sorted(subject.models):
        families.setdefault(family_of(model), []).append(model)
    several = {name: runs for name, runs in families.items() if len(runs) > 1}
    if not several:
        return Outcome(
            not_done=f"none of {len(subject.models)} models was trained twice; runs of one model are recognised by "
            "names that differ in their ending -s1, -s2, ... only"
        )
    rows, tests = [], []
    notes = []
    alone = [name for name, runs in families.items() if len(runs) == 1]
    if alone:
        notes.append(f"one run each, so nothing is known of their training luck: {', '.join(alone)}")
    for quantity, s in [("accuracy", s) for s in subject.evidence.sets] + [("gap", p) for p in subject.evidence.probes]:
        own_sides, head = sides(subject, quantity, s, several)
        if own_sides is None:
            notes.append(f"{s.name}: no training luck of the {quantity}; {head['reason']}")
            continue
        head |= {"quantity": quantity, "dataset": s.name}
        for name, values in own_sides.items():
            rows.append(_row(name, values, head, subject.request.confidence))
        own = [
            _test(a, b, own_sides[a], own_sides[b], head, subject.request.confidence)
            for a, b in combinations(own_sides, 2)
        ]
        for row, p in zip(own, holm([r["p"] for r in own]), strict=True):
            row |= {"p_holm": p, "tests": len(own)}
        tests += own
    if not rows:
        return Outcome(not_done="; ".join(notes))
    return Outcome(
        tables={"luck.csv": (LUCK, rows), "luck_pairs.csv": (LUCK_PAIRS, tests)},
        findings=[_main(rows), *_judged(tests, 1 - subject.request.confidence)],
        notes=notes,
        answers=[_answer(several, len(subject.models))],
    )


def sides(
    subject: Subject, quantity: str, s: SetInfo, several: dict[str, list[str]]
) -> tuple[dict[str, list[np.ndarray]] | None, dict[str, Any]]:
    """Per family its (runs, n) values of each side, on images that every run was scored on; ``None`` and a reason."""
    runs = [m for own in several.values() for m in own]
    said = subject.evidence.predictions
    if quantity == "accuracy":
        values = _right([on_classes(said[m, s.name]) for m in runs])[1]
        head: dict[str, Any] = {"n_in_dist": None, "n": values.shape[1], "paired": False, "classes": len(s.classes)}
        return _enough(several, runs, [values], head)
    sides = [(said[m, subject.in_dist], said[m, s.name]) for m in runs]
    shared = [gap.shared_classes(a, b) for a, b in sides]
    classes = tuple(c for c in shared[0] if all(c in own for own in shared))
    if not classes:
        return None, {"reason": "no class in common"}
    one, two = ([on_classes(side[i], classes) for side in sides] for i in (0, 1))
    (ids0, right0), (ids1, right1) = _right(one), _right(two)
    head = {"paired": False, "classes": len(classes)}
    pairs = dict(zip(two[0].ids, two[0].pairs, strict=True))
    place = {name: i for i, name in enumerate(ids0)}
    partner = np.array([place.get(pairs[name] or "", -1) for name in ids1], dtype=np.int64)
    image = np.flatnonzero(partner >= 0)
    if s.paired_with == subject.in_dist and len(image) and len(image) >= gap.ENOUGH_PAIRS * len(ids1):
        # the scene is the unit, as in gaps.csv: all its probe images against its one in-distribution image
        scenes, scene = np.unique(partner[image], return_inverse=True)
        times = np.bincount(scene)
        after = np.stack([np.bincount(scene, row[image], len(scenes)) for row in right1])
        weight = len(scenes) / len(image)
        head |= {"paired": True, "n_in_dist": len(scenes), "n": len(image)}
        return _enough(several, runs, [(right0[:, scenes] * times - after) * weight], head)
    head |= {"n_in_dist": right0.shape[1], "n": right1.shape[1]}
    return _enough(several, runs, [right0, right1], head)


def _enough(
    several: dict[str, list[str]], runs: Sequence[str], sides: Sequence[np.ndarray], head: dict[str, Any]
) -> tuple[dict[str, list[np.ndarray]] | None, dict[str, Any]]:
    if min(side.shape[1] for side in sides) < 2:
        return None, {"reason": "fewer than two images that every run was scored on"}
    place = {m: i for i, m in enumerate(runs)}
    return {name: [side[[place[m] for m in own]] for side in sides] for name, own in several.items()}, head


def _right(scored: Sequence[Scored]) -> tuple[list[str], np.ndarray]:
    """(ids, (S, n) right or wrong) of the images that every run was scored on, in the order of their ids."""
    common = set(scored[0].ids).intersection(*(s.ids for s in scored[1:]))
    right = [s.correct[[i for i, name in enumerate(s.ids) if name in common]] for s in scored]
    return sorted(common), np.array(right, dtype=np.float64).reshape(len(scored), len(common))


def _row(family: str, values: list[np.ndarray], head: dict[str, Any], confidence: float) -> dict[str, Any]:
    split, mean = luck.split(values), luck.mean_interval(values, confidence)
    return {
        **{k: head[k] for k in ("quantity", "dataset", "n_in_dist", "n", "paired", "classes")},
        "family": family,
        "runs": split.runs,
        "value": mean.value,
        "low": mean.low,
        "high": mean.high,
        "interval": mean.interval,
        "sd_between_runs": math.sqrt(split.between),
        "sd_training": math.sqrt(split.training),
        "sd_sampling": math.sqrt(split.sampling),
        "training_share": split.share,
    }


def _test(
    a: str, b: str, one: list[np.ndarray], two: list[np.ndarray], head: dict[str, Any], confidence: float
) -> dict[str, Any]:
    d = luck.difference(one, two, confidence)
    return {
        **{k: head[k] for k in ("quantity", "dataset", "n_in_dist", "n", "paired")},
        "family_a": a,
        "family_b": b,
        "runs_a": len(one[0]),
        "runs_b": len(two[0]),
        "difference": d.value.value,
        "low": d.value.low,
        "high": d.value.high,
        "interval": d.value.interval,
        "training_error": d.training_error,
        "sampling_error": d.sampling_error,
        "freedom": d.freedom,
        "p": d.p,
    }


# --- sentences -------------------------------------------------------------------------------------------------------


def _main(rows: Sequence[dict[str, Any]]) -> str:
    gaps = [r for r in rows if r["quantity"] == "gap"] or list(rows)
    most = max(gaps, key=lambda r: (r["sd_training"], r["family"]))
    what = "gap to" if most["quantity"] == "gap" else "accuracy on"
    families = style.display_names(sorted({r["family"] for r in rows}))
    shares = [r["training_share"] for r in gaps if not math.isnan(r["training_share"])]
    text = (
        f"Training luck is largest in the {what} {most['dataset']} of {families[most['family']]}: "
        f"{percent(most['value'], signed=most['quantity'] == 'gap')} points "
        f"[{percent(most['low'])}, {percent(most['high'])}] over {most['runs']} runs, "
        f"standard deviation {100 * most['sd_training']:.1f} points from training and "
        f"{100 * most['sd_sampling']:.1f} from sampling"
    )
    if shares:
        text += f"; training is {percent(float(np.median(shares)))} % of the variance in the median of {len(shares)}"
        text += " gaps" if most["quantity"] == "gap" else " accuracies"
    return text + "."


def _judged(tests: Sequence[dict[str, Any]], alpha: float) -> list[str]:
    found = []
    for quantity in ("accuracy", "gap"):
        own = [t for t in tests if t["quantity"] == quantity]
        if not own:
            continue
        differ = [t for t in own if t["p_holm"] < alpha]
        text = f"{len(differ)} of {len(own)} differences in {quantity} between two families exceed both kinds of luck "
        text += "(t over runs and images, Holm within a set)"
        t = max(differ or own, key=lambda t: (abs(t["difference"]), t["family_a"], t["family_b"]))
        text += (
            f"; the largest{' of them' if differ else ''}: {t['family_a']} against {t['family_b']} on {t['dataset']}, "
            f"{percent(t['difference'], signed=True)} points [{percent(t['low'])}, {percent(t['high'])}]"
        )
        found.append(text + ".")
    return found


def _answer(several: dict[str, list[str]], models: int) -> Answer:
    runs = sum(map(len, several.values()))
    text = f"{runs} of {models} models are runs of {len(several)} families that were trained more than once; "
    text += "families are judged against the variance between runs and that between images."
    return Answer(10, text, ("luck.csv", "luck_pairs.csv"))
