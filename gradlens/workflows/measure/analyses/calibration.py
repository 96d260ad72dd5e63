"""Whether confidences mean what they say in distribution, and whether they still do after the shift."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from gradlens.figures import reliability as figure
from gradlens.shift import calibration
from gradlens.shift.metrics import on_classes
from gradlens.shift.tables import percent
from gradlens.workflows.measure.analyses.analysis import Outcome, Subject, analysis

CALIBRATION = (
    *("model", "dataset", "role", "n", "metric", "scaling", "temperature", "fitted_on"),
    *("value", "low", "high", "interval"),
)
MOST_DRAWN = 6
Scaling = Literal["none", "temperature"]


@analysis("calibration", "Calibration", "Whether confidences mean what they say, before and after temperature scaling.")
def of_subject(subject: Subject) -> Outcome:
    """Calibration of every model on every set."""
    said = subject.evidence.predictions
    models = [m for m in subject.models if all(said[m, s.name].logits is not None for s in subject.evidence.sets)]
    without = [m for m in subject.models if m not in models]
    if not models:
        return Outcome(not_done="calibration needs logits or probabilities; the predictions have neither")
    notes = [f"no calibration of {', '.join(without)}: predictions without logits"] if without else []
    rows: list[dict[str, Any]] = []
    fitted: dict[str, float] = {}
    curves: list[calibration.Reliability] = []
    for model in models:
        try:
            own, fitted[model], drawn, told = _of_model(subject, model)
        except ValueError as err:
            notes.append(f"no calibration of {model}: {err}")
            continue
        rows += own
        curves += drawn
        notes += told
    if not rows:
        return Outcome(not_done="; ".join(notes))
    largest = _largest(curves, subject.in_dist)
    chosen = sorted(largest, key=lambda m: (-largest[m].ece, m))[:MOST_DRAWN]
    shown = [c for m in chosen for c in curves if c.model == m and c.dataset in (subject.in_dist, largest[m].dataset)]
    shown = shown or [c for c in curves if c.model in models[:MOST_DRAWN]]
    return Outcome(
        tables={"calibration.csv": (CALIBRATION, rows)},
        figures=[("reliability", lambda: figure.reliability(shown, subject.in_dist))],
        findings=[_main(subject, rows), _temperatures(fitted, subject.in_dist), *_scaled(subject, rows)],
        notes=notes,
    )


def _of_model(
    subject: Subject, model: str
) -> tuple[list[dict[str, Any]], float, list[calibration.Reliability], list[str]]:
    """(rows, temperature, curves, notes).

    Raises:
        ValueError: too few images to fit a temperature on.
    """
    said, confidence = subject.evidence.predictions, subject.request.confidence
    settings: Any = {
        "confidence": confidence,
        "resamples": subject.request.resamples,
        "seed": subject.runtime.seed,
    }
    inside = on_classes(said[model, subject.in_dist])
    fitted = calibration.temperature(inside)
    crossed = calibration.cross_fitted(inside, subject.runtime.seed)
    halves = ", ".join(f"{t:.4g}" for t in sorted(set(crossed.tolist())))
    notes = []
    if not 1.01 * calibration.COOLEST < fitted < 0.99 * calibration.HOTTEST:
        notes.append(f"{model}: the temperature {fitted:.3g} is at the limit of the search, so scaling says little")
    rows, curves = [], []
    for s in subject.evidence.sets:
        scored = on_classes(said[model, s.name])
        if not len(scored):
            notes.append(f"{s.name}: no labelled image, so no calibration of {model}")
            continue
        own: Sequence[tuple[Scaling, float | np.ndarray, str]] = (
            ("none", 1.0, ""),
            ("temperature", fitted, f"all of {subject.in_dist}"),
        )
        if s.name == subject.in_dist:
            own = (own[0], ("temperature", crossed, f"the other half of {subject.in_dist} (T {halves})"))
        for scaling, t, source in own:
            graded = calibration.graded(scored, t)
            head: dict[str, Any] = {
                "model": model,
                "dataset": s.name,
                "role": s.role,
                "scaling": scaling,
                "fitted_on": source,
            }
            head |= {"temperature": math.nan if scaling == "none" else fitted}
            rows += [
                head
                | {"metric": name, "n": e.n, "value": e.value, "low": e.low, "high": e.high, "interval": e.interval}
                for name, e in calibration.evaluate(graded, **settings).items()
            ]
            curves.append(calibration.reliability(graded, model, s.name, scaling, level=confidence))
    return rows, fitted, curves, notes


def _largest(curves: Sequence[calibration.Reliability], in_dist: str) -> dict[str, calibration.Reliability]:
    """Of each model the probe set with the largest calibration error after scaling."""
    found: dict[str, calibration.Reliability] = {}
    for c in curves:
        if c.dataset != in_dist and c.scaling == "temperature" and (c.model not in found or found[c.model].ece < c.ece):
            found[c.model] = c
    return found


def _main(subject: Subject, rows: Sequence[Mapping[str, Any]]) -> str:
    def middle(dataset: str, scaling: str) -> float:
        own = [r["value"] for r in rows if (r["dataset"], r["scaling"], r["metric"]) == (dataset, scaling, "ece")]
        return statistics.median(own)

    models = len({r["model"] for r in rows})
    before, after = middle(subject.in_dist, "none"), middle(subject.in_dist, "temperature")
    text = (
        f"Calibration error (ECE, {'median of ' + str(models) + ' models' if models > 1 else '1 model'}) on "
        f"{subject.in_dist}: {percent(before)} %, {percent(after)} % after temperature scaling (cross-fitted)"
    )
    probes = [r for r in rows if r["dataset"] != subject.in_dist]
    if probes:
        worst = max(dict.fromkeys(r["dataset"] for r in probes), key=lambda d: middle(d, "temperature"))
        ece = [r for r in probes if (r["metric"], r["scaling"]) == ("ece", "temperature")]
        most = max(ece, key=lambda r: r["value"])
        text += f"; with the same temperatures {percent(middle(worst, 'temperature'))} % on {worst}"
        text += f"; the largest is that of {most['model']} on {most['dataset']}: {percent(most['value'])} % "
        text += f"[{percent(most['low'])}, {percent(most['high'])}]"
    return text + "."


def _scaled(subject: Subject, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """On how many probe scores the temperature of the in-distribution set helped."""
    nll = {(r["model"], r["dataset"], r["scaling"]): r["value"] for r in rows if r["metric"] == "nll"}
    known = [k[:2] for k, v in nll.items() if k[1] != subject.in_dist and k[2] == "none" and not math.isnan(v)]
    if not known:
        return []
    better = sum(nll[*k, "temperature"] < nll[*k, "none"] for k in known)
    return [f"The temperature fitted in distribution lowers the NLL in {better} of {len(known)} model-probe pairs."]


def _temperatures(fitted: Mapping[str, float], in_dist: str) -> str:
    sure = sum(t > 1 for t in fitted.values())
    low, high = (min(fitted, key=lambda m: fitted[m]), max(fitted, key=lambda m: fitted[m]))
    text = f"{sure} of {len(fitted)} models are too sure of themselves on {in_dist} (temperature above 1)"
    if len(fitted) > 1:
        text += f"; temperatures from {fitted[low]:.2f} ({low}) to {fitted[high]:.2f} ({high})"
    else:
        text += f"; its temperature is {fitted[low]:.2f}"
    return text + "."
