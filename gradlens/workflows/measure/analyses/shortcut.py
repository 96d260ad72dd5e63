"""Which models rest on the background, told from pairs in which nothing but the background changed.

From predictions: what the swap costs, and whether the answers go to the class that usually stands before the new
background (:mod:`gradlens.shift.shortcut`). From maps, where ``--with explanations`` made them: of two models of one
architecture, whose maps lie less on the object and move more when the background is swapped
(:mod:`gradlens.cam.twins`, which is given the maps at the depth that the explanations are read at).

Which sets show such pairs is read from the factors that the images were made with, not from the sets' names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from gradlens.records import Predictions
from gradlens.shift.shortcut import (
    FEWEST_PAIRS,
    LossDifference,
    Swap,
    loss_difference,
    only_background,
    own_class,
    swap,
    told_by_background,
)
from gradlens.workflows.measure.analyses.analysis import Outcome, Subject, analysis
from gradlens.workflows.measure.analyses.explanations import IMAGES, number, span

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gradlens.cam.twins import TwinAnswer

COLUMNS = (
    "model", "probe", "n", "in_dist_value", "swapped_value", "loss", "low", "high", "interval", "p", "n_lured",
    "follows_before", "follows", "gain", "gain_low", "gain_high", "verdict", "n_maps", "energy_in_dist",
    "energy_swapped", "map_similarity",
)  # fmt: skip
PAIR_COLUMNS = (
    "model_a", "model_b", "builder", "probe", "n", "loss_a", "loss_b", "difference", "low", "high", "interval",
    "by_predictions", "n_maps", "energy_a", "energy_b", "energy_p", "movement_a", "movement_b", "movement_p", "by_maps",
    "rests_on_the_background",
)  # fmt: skip
_Answers = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
MOST_SENTENCES = 12  # pairs told in words; the table has all


@dataclass(frozen=True)
class _Pairs:
    """The pairs of one probe set in which only the background changed, in the order of their ids.

    Attributes:
        ids, partners: n ids in the probe set and in distribution.
        new, old: n class names that own the new and the old background; empty where none does.
        of: pairs of the set altogether.
    """

    probe: str
    ids: tuple[str, ...]
    partners: tuple[str, ...]
    new: tuple[str, ...]
    old: tuple[str, ...]
    of: int


@analysis(
    "shortcut",
    "Does a model rest on the background?",
    "What a swapped background alone does to every model, whose answers follow it, and which of two models of one "
    "architecture rests on it.",
)
def shortcut(subject: Subject) -> Outcome:
    """Find the pairs, judge every model, and every two models of one architecture."""
    evidence = subject.evidence
    if not evidence.images:
        return Outcome(not_done="predictions files do not say what the images were made with; run the models instead")
    swaps = [p for p in map(partial(_pairs, subject), subject.probes) if len(p.ids) >= FEWEST_PAIRS]
    if not swaps:
        return Outcome(
            not_done=f"no probe set has {FEWEST_PAIRS} pairs in which the factor 'background' changed and no other did"
        )
    rows, pair_rows, findings = [], [], []
    judged: dict[tuple[str, str], Swap] = {}
    answers: dict[tuple[str, str], _Answers] = {}
    for one in swaps:
        maps = _maps(subject, one)
        for model in subject.models:
            own = answers[model, one.probe] = _answers(subject, one, model)
            judged[model, one.probe] = told = swap(*own, confidence=subject.request.confidence)
            rows.append(_row(model, one.probe, told, maps.get(model, {})))
        for a, b in _of_one_architecture(subject):
            pair_rows.append(_compared(subject, one, a, b, answers, maps))
        findings += [_verdicts(subject, one, judged), *_named(pair_rows, one.probe), _planted(subject)]
    figures: list[tuple[str, Callable[[], Figure]]] = [("shortcut", partial(_figure, judged))]
    tables: dict[str, tuple[Sequence[str], Sequence[Mapping[str, Any]]]] = {"shortcut.csv": (COLUMNS, rows)}
    if pair_rows:
        tables["shortcut_pairs.csv"] = (PAIR_COLUMNS, pair_rows)
    return Outcome(
        tables=tables,
        figures=figures,
        findings=list(dict.fromkeys(f for f in findings if f)),
        notes=[f"shortcut: {p.probe}: {len(p.ids)} of {p.of} pairs changed the background alone" for p in swaps],
    )


def _pairs(subject: Subject, probe: str) -> _Pairs:
    evidence = subject.evidence
    home, away = evidence.images[subject.in_dist], evidence.images[probe]
    if away.paired_with != home.name:
        return _Pairs(probe, (), (), (), (), 0)
    place = {s.id: s for s in home.samples}
    own = own_class(home.samples)

    def owner(background: object) -> str:
        label = own.get(str(background))
        return "" if label is None or home.classes is None else home.classes[label]

    known = set.intersection(*(set(evidence.predictions[m, probe].ids) for m in subject.models))
    known_home = set.intersection(*(set(evidence.predictions[m, home.name].ids) for m in subject.models))
    samples = sorted((s for s in away.samples if s.pair in place and s.id in known), key=lambda s: s.id)
    samples = [s for s in samples if s.pair in known_home]
    found = [(s, place[s.pair]) for s in samples if s.pair and only_background(s, place[s.pair])]
    return _Pairs(
        probe,
        tuple(s.id for s, _ in found),
        tuple(p.id for _, p in found),
        tuple(owner(s.factors["background"]) for s, _ in found),
        tuple(owner(p.factors["background"]) for _, p in found),
        len(samples),
    )


def _answers(subject: Subject, one: _Pairs, model: str) -> _Answers:
    """What :func:`gradlens.shift.shortcut.swap` takes."""
    before, label = _said(subject.evidence.predictions[model, subject.in_dist])
    after, _ = _said(subject.evidence.predictions[model, one.probe])
    truth = np.array([label[i] for i in one.partners], dtype=object)
    old, new = (np.array(names, dtype=object) for names in (one.old, one.new))
    said_before = np.array([before[i] for i in one.partners], dtype=object)
    said_after = np.array([after[i] for i in one.ids], dtype=object)
    lured = (new != "") & (new != truth) & (new != old)
    return said_before == truth, said_after == truth, lured, said_before == new, said_after == new


def _said(p: Predictions) -> tuple[dict[str, str], dict[str, str]]:
    """(answer by id, label by id), as class names."""
    labelled = [(i, k, name) for i, (k, name) in enumerate(zip(p.labels.tolist(), p.ids, strict=True)) if k >= 0]
    return (
        {name: p.classes[int(p.predicted[i])] for i, _, name in labelled},
        {name: p.label_classes[k] for _, k, name in labelled},
    )


def _maps(subject: Subject, one: _Pairs) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Model -> probe image -> its row of the explanations, where they were made and the background alone changed."""
    settled = subject.settled.get("explanations")
    if settled is None or IMAGES not in settled.tables:
        return {}
    wanted = set(one.ids)
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for r in settled.tables[IMAGES][1]:
        if r["probe"] == one.probe and r["id"] in wanted and r["pair"]:
            found.setdefault(r["model"], {})[r["id"]] = r
    return found


def _row(model: str, probe: str, told: Swap, maps: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    facts = asdict(told)
    before, after, alike = (
        np.array([r[name] for r in maps.values()], dtype=np.float64)
        for name in ("energy_in_dist", "energy", "map_similarity")
    )
    both = np.isfinite(before) & np.isfinite(after) & np.isfinite(alike)
    means = [float(v[both].mean()) if both.any() else math.nan for v in (before, after, alike)]
    return {
        **{name: facts[name] for name in COLUMNS if name in facts},
        "model": model,
        "probe": probe,
        "in_dist_value": told.in_dist,
        "swapped_value": told.swapped,
        "n_maps": int(both.sum()),
        **dict(zip(("energy_in_dist", "energy_swapped", "map_similarity"), means, strict=True)),
    }


def _of_one_architecture(subject: Subject) -> list[tuple[str, str]]:
    """Every two models that were built alike: the same builder, arguments and number of parameters."""
    groups: dict[tuple[str, str, int | None], list[str]] = {}
    for m in subject.evidence.models:
        network = subject.evidence.networks.get(m.name)
        arguments = json.dumps((network.card if network else {}).get("arguments"), sort_keys=True, default=str)
        groups.setdefault((m.builder, arguments, m.parameters), []).append(m.name)
    return [pair for names in groups.values() for pair in combinations(sorted(names), 2)]


def _compared(
    subject: Subject,
    one: _Pairs,
    a: str,
    b: str,
    answers: Mapping[tuple[str, str], _Answers],
    maps: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> dict[str, Any]:
    """Two models of one architecture: which of them rests on the background, by predictions, by maps, by both."""
    of_a, of_b = answers[a, one.probe], answers[b, one.probe]
    request = subject.request
    lost = loss_difference(
        of_a[0], of_a[1], of_b[0], of_b[1], request.confidence, request.resamples, subject.runtime.seed
    )
    twins = _by_maps(maps.get(a, {}), maps.get(b, {}), 1 - request.confidence)
    builder = next(m.builder for m in subject.evidence.models if m.name == a)
    names = {"A": a, "B": b, "undecided": "undecided"}
    row = {
        "model_a": a,
        "model_b": b,
        "builder": builder,
        "probe": one.probe,
        "n": lost.n,
        "loss_a": float(of_a[0].mean() - of_a[1].mean()),
        "loss_b": float(of_b[0].mean() - of_b[1].mean()),
        "difference": lost.difference,
        "low": lost.low,
        "high": lost.high,
        "interval": lost.interval,
        "by_predictions": names[lost.points_to],
        "rests_on_the_background": names[_together(lost, twins)],
    }
    nan = math.nan
    energy, moved = (twins.energy, twins.movement) if twins else (None, None)
    return row | {
        "n_maps": moved.pairs if moved else 0,
        "energy_a": energy.a if energy else nan,
        "energy_b": energy.b if energy else nan,
        "energy_p": energy.p if energy else nan,
        "movement_a": moved.a if moved else nan,
        "movement_b": moved.b if moved else nan,
        "movement_p": moved.p if moved else nan,
        "by_maps": names[twins.answer] if twins else "no maps",
    }


def _by_maps(a: Mapping[str, Mapping[str, Any]], b: Mapping[str, Mapping[str, Any]], level: float) -> TwinAnswer | None:
    images = sorted(set(a) & set(b))
    if not images:
        return None
    import torch

    from gradlens.cam.twins import told_by

    def values(own: Mapping[str, Mapping[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        on = [(own[i]["energy_in_dist"] + own[i]["energy"]) / 2 for i in images]
        return torch.tensor(on), torch.tensor([1 - own[i]["map_similarity"] for i in images])

    (on_a, moved_a), (on_b, moved_b) = values(a), values(b)
    return told_by(on_a, on_b, moved_a, moved_b, level=level)


def _together(lost: LossDifference, twins: TwinAnswer | None) -> str:
    """Predictions and maps: the one that is decided, both where they agree; at odds nobody decides."""
    said = {lost.points_to} | ({twins.answer} if twins else set())
    said -= {"undecided"}
    return said.pop() if len(said) == 1 else "undecided"


# --- words -----------------------------------------------------------------------------------------------------------


def _verdicts(subject: Subject, one: _Pairs, judged: Mapping[tuple[str, str], Swap]) -> str:
    """Who rests on the background, in one sentence."""
    own = {m: judged[m, one.probe] for m in subject.models}
    parts = []
    for verdict, (few, many) in {
        "rests on the background": ("rests on it", "rest on it"),
        "does not rest on the background": ("does not", "do not"),
        "undecided": ("is undecided", "are undecided"),
    }.items():
        names = sorted((m for m in own if own[m].verdict == verdict), key=lambda m: (-own[m].loss, m))
        if not names:
            continue
        count = f"{len(names)} of {len(own)} models {few if len(names) == 1 else many}"
        if len(names) > 3:
            parts.append(f"{count}, from {_told(names[0], own[names[0]])} to {_told(names[-1], own[names[-1]])}")
        else:
            parts.append(f"{count}: {', '.join(_told(m, own[m]) for m in names)}")
    return f"Only the background is another one in {one.probe} ({len(one.ids)} pairs). {'; '.join(parts)}."


def _told(model: str, s: Swap) -> str:
    text = f"{model} (loses {number(100 * s.loss, 1)} points {span(100 * s.low, 100 * s.high, 1)}"
    if s.n_lured:
        before, after = f"{100 * s.follows_before:.1f} %", f"{100 * s.follows:.1f} %"
        text += f" and names the new background's class in {after}, before in {before}"
    return text + ")"


def _named(rows: Sequence[Mapping[str, Any]], probe: str) -> list[str]:
    """Of two models of one architecture, which."""
    found = []
    own = [r for r in rows if r["probe"] == probe]
    for r in own[:MOST_SENTENCES]:
        answer = r["rests_on_the_background"]
        reason = (
            f"the swap costs {r['model_a']} {number(100 * r['loss_a'], 1)} and {r['model_b']} "
            f"{number(100 * r['loss_b'], 1)} points, difference {number(100 * r['difference'], 1)} "
            f"{span(100 * r['low'], 100 * r['high'], 1)}"
        )
        if r["n_maps"]:
            reason += (
                f"; maps of the same scene move {number(r['movement_a'])} against {number(r['movement_b'])} "
                f"(p {r['movement_p']:.1g}) and lie {number(r['energy_a'])} against {number(r['energy_b'])} on the "
                f"object (p {r['energy_p']:.1g}, {r['n_maps']} pairs), which says "
                f"{r['by_maps'] if r['by_maps'] != 'undecided' else 'nothing certain'}"
            )
        subject = f"Of {r['model_a']} and {r['model_b']}, built alike, "
        if answer == "undecided":
            found.append(f"{subject}neither can be named as resting more on the background: {reason}.")
        else:
            found.append(f"{subject}{answer} rests on the background: {reason}.")
    if len(own) > MOST_SENTENCES:
        decided = sum(r["rests_on_the_background"] != "undecided" for r in own)
        found.append(
            f"{probe}: of {len(own)} pairs of models built alike, {decided} are decided; see shortcut_pairs.csv."
        )
    return found


def _planted(subject: Subject) -> str:
    """How much the background tells in distribution."""
    k, n = told_by_background(subject.evidence.images[subject.in_dist].samples)
    if not n:
        return ""
    return (
        f"In {subject.in_dist} the background alone tells the class of {100 * k / n:.1f} % of {n} images (the most "
        f"frequent class before each background)."
    )


def _figure(judged: Mapping[tuple[str, str], Swap]) -> Figure:
    from gradlens.figures.shortcut import shortcut as draw

    return draw(judged)
