"""The answer in words: sentences and choices that follow from a run's numbers by rules stated with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup

from gradlens.records import Estimate, GapReport
from gradlens.report.run_files import Run
from gradlens.shift.tables import percent

NBSP = "\N{NO-BREAK SPACE}"
ALPHA = 0.05  # of Holm-corrected p values
ROOM = 0.02  # how far behind the best a balanced model may be
LIGHT_ROOM = 0.05  # and one for a device with little power


@dataclass(frozen=True)
class Outside:
    """How one model fares over all probe sets together, on the classes each shares with the in-distribution set.

    Attributes:
        accuracy: mean over the probe sets, each weighing the same.
        kept: the sum of its probe accuracies over the sum of its in-distribution accuracies.
        worst: the probe set of its largest gap.
    """

    accuracy: float
    kept: float
    worst: GapReport


@dataclass(frozen=True)
class Pick:
    """A choice, its rule and the number that made it."""

    title: str
    models: tuple[str, ...]
    value: str
    rule: str


@dataclass(frozen=True)
class Answer:
    """What a run found, most important first, and the models to choose."""

    sentences: list[Markup]
    picks: list[Pick]


def answer(run: Run, flops: Mapping[str, float] | None = None) -> Answer:
    """The answer in words. Every number in it is the run's own, every choice follows from the rule beside it.

    Args:
        run: what was measured.
        flops: of one image, by model, where the run counted them.
    """
    idle = guessing(run)
    return Answer(_sentences(run, idle), _picks(run, idle, flops or {}))


def outside(run: Run) -> dict[str, Outside]:
    """Each model that has an accuracy gap to every probe set."""
    gaps = run.gaps_of("accuracy")
    found = {}
    for model in run.models:
        own = [gaps[model, probe] for probe in run.probes if (model, probe) in gaps and gaps[model, probe].gap.defined]
        before = sum(g.in_dist_value for g in own)
        if own and len(own) == len(run.probes) and before > 0:
            after = sum(g.probe_value for g in own)
            found[model] = Outside(after / len(own), after / before, max(own, key=lambda g: g.gap.value))
    return found


def guessing(run: Run) -> list[str]:
    """Models that do no better in distribution than naming its largest class every time: the interval of their
    accuracy reaches down to that class's share. They lose little elsewhere, because they have nothing to lose.
    """
    sizes: dict[str, int] = {}
    for row in run.per_class:
        if row["dataset"] == run.in_dist:
            sizes[row["class"]] = max(sizes.get(row["class"], 0), row["n"])
    if not sum(sizes.values()):
        return []
    chance = max(sizes.values()) / sum(sizes.values())
    own = {m: run.scores[m, run.in_dist]["accuracy"] for m in run.models if (m, run.in_dist) in run.scores}
    return [m for m, e in own.items() if e.defined and e.low <= chance]


def parameters(run: Run) -> dict[str, int]:
    """Parameters by model, where the run recorded them."""
    rows = run.about.get("models")
    if not isinstance(rows, list):
        return {}
    known = {r["name"]: r.get("parameters") for r in rows if isinstance(r, dict) and isinstance(r.get("name"), str)}
    return {name: count for name, count in known.items() if isinstance(count, int)}


def short_models(names: Sequence[str]) -> dict[str, str]:
    """Model names without the collection (``vehicles/``) where all are of one."""
    return _without_shared_head(names, "/")


def short_sets(names: Sequence[str]) -> dict[str, str]:
    """Names of sets without the first word (``vehicles-``) where all share it."""
    return _without_shared_head(names, "-")


def _without_shared_head(names: Sequence[str], mark: str) -> dict[str, str]:
    heads = {name.partition(mark)[0] for name in names}
    tails = [name.partition(mark)[2] for name in names]
    return dict(zip(names, tails if len(heads) == 1 and len(names) > 1 and all(tails) else names, strict=True))


def _sentences(run: Run, idle: Sequence[str]) -> list[Markup]:
    models, sets = short_models(run.models), short_sets(run.datasets)
    said = [_best(run, models)]
    if idle:
        text = Markup(
            "{} {} no better than naming the largest class every time (interval of the accuracy on {}): what is said "
            "of keeping accuracy leaves {} out."
        )
        one = len(idle) == 1
        said.append(
            text.format(_names([models[m] for m in idle]), "is" if one else "are", run.in_dist, "it" if one else "them")
        )
    gaps = [g for g in run.gaps_of("accuracy").values() if g.gap.defined and g.model not in idle]
    if gaps:
        said += _hardest(run, gaps, models, sets)
        said.append(_told_from_zero(gaps))
        said += _mix(gaps, models, sets)
    return said


def points(gap: Estimate) -> str:
    """``31.2 points [28.4, 34.0]``, held together on one line."""
    return f"{percent(gap.value)} points [{percent(gap.low)}, {percent(gap.high)}]".replace(" ", NBSP)


def _score(e: Estimate) -> str:
    return f"{percent(e.value)} % [{percent(e.low)}, {percent(e.high)}]".replace(" ", NBSP)


def _names(names: Sequence[str]) -> Markup:
    *others, last = (Markup("<b>{}</b>").format(name) for name in names)
    return Markup(", ").join(others) + (Markup(" and ") if others else Markup("")) + last


def _best(run: Run, shown: Mapping[str, str]) -> Markup:
    scores = {m: run.scores[m, run.in_dist]["accuracy"] for m in run.models if (m, run.in_dist) in run.scores}
    scores = {m: e for m, e in scores.items() if e.defined}
    if not scores:
        return Markup("No accuracy is defined on {}.").format(run.in_dist)
    top = max(e.value for e in scores.values())
    best = [m for m, e in scores.items() if e.value == top]
    estimate = scores[best[0]]
    verb = "is" if len(best) == 1 else "are"
    most = f"{verb} the most accurate on" if len(scores) > 1 else "scores on"
    text = Markup("{} {} {}: {} of {:,} images").format(
        _names([shown[m] for m in best]), most, run.in_dist, _score(estimate), estimate.n
    )
    rivals = [
        other
        for row in run.pairs
        if row["dataset"] == run.in_dist and row.get("p_holm", 0.0) >= ALPHA
        for one, other in ((row["model_a"], row["model_b"]), (row["model_b"], row["model_a"]))
        if one == best[0] and other not in best
    ]
    if rivals:
        who = shown[rivals[0]] if len(rivals) == 1 else f"{len(rivals)} others"
        text += Markup("; {} cannot be told from {} (McNemar’s test, Holm-corrected p ≥ {:g})").format(
            who, "it" if len(best) == 1 else shown[best[0]], ALPHA
        )
    return text + "."


def _hardest(run: Run, gaps: Sequence[GapReport], models: Mapping[str, str], sets: Mapping[str, str]) -> list[Markup]:
    by_probe: dict[str, list[GapReport]] = {}
    for g in gaps:
        by_probe.setdefault(g.probe, []).append(g)
    mean = {probe: fmean(g.gap.value for g in own) for probe, own in by_probe.items()}
    hardest = max(mean, key=lambda probe: mean[probe])
    own = sorted(by_probe[hardest], key=lambda g: g.probe_value / g.in_dist_value if g.in_dist_value else 0.0)
    worst, best = own[0], own[-1]

    def kept(g: GapReport) -> str:
        return f"{percent(g.probe_value / g.in_dist_value)}{NBSP}%" if g.in_dist_value else "none"

    lead = Markup("") if len(by_probe) == 1 else Markup("The hardest probe set is <b>{}</b>. ").format(sets[hardest])
    if len(own) == 1:
        text = Markup("On {} <b>{}</b> keeps {} of its accuracy: a gap of {} ({}).")
        text = text.format(sets[hardest], models[best.model], kept(best), points(best.gap), _sizes(own))
    else:
        text = Markup(
            "On {} <b>{}</b> keeps the most of its accuracy, {} (a gap of {}), and <b>{}</b> the least, {} ({}); {}."
        )
        named = (models[best.model], kept(best), points(best.gap), models[worst.model], kept(worst), points(worst.gap))
        text = text.format(sets[hardest], *named, _sizes(own))
    said = [lead + text]
    if len(by_probe) > 1:
        mildest = min(mean, key=lambda probe: mean[probe])
        mild = sorted(by_probe[mildest], key=lambda g: g.gap.value)
        text = Markup("The mildest is <b>{}</b>: a gap of {} ({}).").format(
            sets[mildest], points(mild[0].gap), _sizes(mild)
        )
        if len(mild) > 1:
            text = Markup("The mildest is <b>{}</b>: from {} (<b>{}</b>) to {} (<b>{}</b>); {}.").format(
                *(sets[mildest], points(mild[0].gap), models[mild[0].model]),
                *(points(mild[-1].gap), models[mild[-1].model], _sizes(mild)),
            )
        said.append(text)
        largest = max(gaps, key=lambda g: g.gap.value)
        if largest.probe != hardest:
            text = Markup("The largest single gap is that of <b>{}</b> on {}: {} ({}).")
            text = text.format(models[largest.model], sets[largest.probe], points(largest.gap), _sizes([largest]))
            said.append(text)
    return said


def _sizes(gaps: Sequence[GapReport]) -> str:
    """``400 pairs of images``, or ``2,000 against 500 images``; of several models the range."""

    def counted(counts: set[int]) -> str:
        return f"{min(counts):,}" if len(counts) == 1 else f"{min(counts):,}–{max(counts):,}"

    probe = counted({g.n_probe for g in gaps})
    if all(g.paired for g in gaps):
        return f"{probe} pairs of images"
    return f"{counted({g.n_in_dist for g in gaps})} against {probe} images"


def _told_from_zero(gaps: Sequence[GapReport]) -> Markup:
    above = sum(g.gap.low > 0 for g in gaps)
    below = sum(g.gap.high < 0 for g in gaps)
    if len(gaps) == 1:
        state = "lies above zero" if above else "lies below zero" if below else "contains zero"
        return Markup("The interval of the gap {}.").format(state)
    return Markup("Of the {} intervals of gaps {} lie above zero, {} contain it, {} lie below.").format(
        len(gaps), above, len(gaps) - above - below, below
    )


def _mix(gaps: Sequence[GapReport], models: Mapping[str, str], sets: Mapping[str, str]) -> list[Markup]:
    largest = max(gaps, key=lambda g: abs(g.mix) if g.mix == g.mix else -1.0)
    if not abs(largest.mix) >= 0.005:  # under half a point it does not change any reading
        return []
    text = Markup(
        "Class mix alone accounts for up to {} points (<b>{}</b> on {}): the sets hold the classes in different shares."
    )
    return [text.format(percent(largest.mix, signed=True), models[largest.model], sets[largest.probe])]


def _picks(run: Run, idle: Sequence[str], flops: Mapping[str, float]) -> list[Pick]:
    """Models to choose, each by a rule that is stated beside it. None where one model is all there is."""
    if len(run.models) < 2:
        return []
    accuracy = {m: run.scores[m, run.in_dist]["accuracy"].value for m in run.models if (m, run.in_dist) in run.scores}
    accuracy = {m: v for m, v in accuracy.items() if v == v}
    away, size = outside(run), parameters(run)
    found = []

    def pick(
        title: str, values: Mapping[str, Any], best: Callable[..., Any], shown: Callable[[Any], str], rule: str
    ) -> None:
        if values:
            top = best(values.values())
            found.append(Pick(title, tuple(m for m, v in values.items() if v == top), shown(top), rule))

    def share(value: float) -> str:
        return f"{percent(value)} %"

    pick("Best in distribution", accuracy, max, share, f"highest accuracy on {run.in_dist}")
    where = "the probe set" if len(run.probes) == 1 else f"the {len(run.probes)} probe sets, each weighing the same"
    pick("Best outside", {m: o.accuracy for m, o in away.items()}, max, share, f"highest mean accuracy on {where}")
    kept = "largest share of its in-distribution accuracy kept"
    able = {m: o.kept for m, o in away.items() if m not in idle}
    pick("Most robust", able, max, share, f"{kept} on {where}")
    if len(size) == len(run.models):
        pick("Smallest", size, min, lambda n: f"{n / 1e6:.2f} M", "fewest parameters")
        if away:
            best = max(o.accuracy for o in away.values())
            near = {m: size[m] for m, o in away.items() if o.accuracy >= best - ROOM}
            rule = f"fewest parameters within {100 * ROOM:g} points of the best mean accuracy outside"
            pick("Balanced", near, min, lambda n: f"{n / 1e6:.2f} M", rule)
    reach = {m: o.accuracy for m, o in away.items()} or accuracy
    if reach and all(flops.get(m, 0.0) > 0 for m in run.models):
        light = {m: flops[m] for m, value in reach.items() if value >= max(reach.values()) - LIGHT_ROOM}
        what = "mean accuracy outside" if away else f"accuracy on {run.in_dist}"
        rule = f"fewest FLOPs for an image within {100 * LIGHT_ROOM:g} points of the best {what}"
        pick("Mobile", light, min, lambda n: f"{n / 1e9:.3g} GFLOPs", rule)
    return found
