"""How a run was made: command, versions, inputs, weights, intervals, and what to keep in mind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradlens.report.cells import title_of
from gradlens.report.run_files import Run


def remarks(about: Mapping[str, Any]) -> list[str]:
    """What a reader must know of a run, from its ``run.json``: limits that were missed, where a study leaves what was
    published, then the run's own warnings.
    """
    limits = about.get("limits")
    missed = _list(limits.get("missed")) if isinstance(limits, dict) else []
    study = about.get("study")
    notes = _list(study.get("notes")) if isinstance(study, dict) else []
    return [str(remark) for remark in (*missed, *notes, *_list(about.get("warnings")))]


def intervals(run: Run) -> list[tuple[str, str, str]]:
    """(metrics, how the intervals of their scores were made, how those of their gaps were made)."""
    scores: dict[str, dict[str, None]] = {}
    gaps: dict[str, dict[str, None]] = {}
    for own in run.scores.values():
        for metric, estimate in own.items():
            scores.setdefault(metric, {})[estimate.interval] = None
    for g in run.gaps:
        if g.label_space == "shared":
            gaps.setdefault(g.metric, {})[g.gap.interval] = None
    ways: dict[tuple[str, str], list[str]] = {}
    for metric in scores:
        ways.setdefault(("; ".join(scores[metric]), "; ".join(gaps.get(metric, {}))), []).append(title_of(metric))
    return [(", ".join(metrics), *way) for way, metrics in ways.items()]


def _said(record: Mapping[str, Any], key: str) -> str:
    return str(record[key]) if record.get(key) not in (None, "") else "–"


def inputs(run: Run) -> list[tuple[str, ...]]:
    """(name, role, images, classes, paired with, beginning of the fingerprint) of each image set."""
    return [
        (
            *(_said(s, key) for key in ("name", "role", "n")),
            str(len(s["classes"])) if isinstance(s.get("classes"), list) else _said(s, "classes"),
            _said(s, "paired_with"),
            _said(s, "fingerprint")[:16],
        )
        for s in [run.about.get("in_dist"), *_list(run.about.get("probe_sets"))]
        if isinstance(s, dict)
    ]


def weights(run: Run) -> list[tuple[str, ...]]:
    """(name, builder, beginning of the weights' checksum or what is said instead) of each model."""
    recorded = [
        m for m in _list(run.about.get("models")) if isinstance(m, dict) and (m.get("builder") or m.get("weights"))
    ]
    return [
        tuple(_said(m, key)[: 16 if key == "weights" else None] for key in ("name", "builder", "weights"))
        for m in recorded
    ]


def facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What ``run.json`` says, as a list for people."""
    found = [("Command", str(about["command"]))] if about.get("command") else []
    device = " — ".join(str(about[k]) for k in ("device", "device_name") if about.get(k))
    plain = {"Device": device, "Precision": about.get("precision"), "Seed": about.get("seed")}
    confidence = about.get("confidence")
    plain["Confidence"] = f"{100 * confidence:g} %" if isinstance(confidence, float | int) else None
    resamples = about.get("resamples")
    plain["Bootstrap resamples"] = f"{resamples:,}" if isinstance(resamples, int) else None
    found += [(name, str(value)) for name, value in plain.items() if value not in (None, "")]
    for name in ("versions", "timings"):
        values = about.get(name)
        if isinstance(values, dict):
            unit = " s" if name == "timings" else ""
            parts = [f"{k} {v:,.1f}{unit}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()]
            found.append((name.capitalize(), ", ".join(parts)))
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
