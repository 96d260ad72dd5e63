"""The table of a finished run: a row per model and data set, with scores and gaps as they stand in its files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradlens.report.run_files import Run, read
from gradlens.shift.metrics import METRICS

HEADS = ("model", "data set", "images", "score", "low", "high", "gap", "gap low", "gap high")
EVERYWHERE = "all sets"


@dataclass(frozen=True, eq=False)
class RunTable:
    """A run's table.

    Attributes:
        run: its files, read back.
    """

    run: Run

    @property
    def metrics(self) -> list[str]:
        """Metrics that are defined anywhere, accuracy first."""
        named = [m for own in self.run.scores.values() for m, e in own.items() if e.defined]
        return sorted(dict.fromkeys(named), key=lambda m: m != "accuracy")

    def is_percent(self, metric: str) -> bool:
        """Whether its values are shares, shown in percent; the others have no upper end."""
        return metric not in ("nll", "brier")

    def note(self, metric: str) -> str:
        """What the columns hold."""
        title = METRICS[metric].title if metric in METRICS else metric
        unit = "in percent, gaps in points" if self.is_percent(metric) else "as it is"
        intervals = {e.interval for own in self.run.scores.values() if (e := own.get(metric)) and e.defined}
        return (
            f"{title}, {unit}; low and high are the ends of the interval ({', '.join(sorted(intervals))}). A gap is "
            f"the score on {self.run.in_dist} less the score on the set, on the classes they share: positive is lost."
        )

    def rows(self, metric: str, dataset: str = EVERYWHERE) -> list[list[str | int | float | None]]:
        """One row per model and data set, in the order of :data:`HEADS`; ``None`` where there is no such number."""
        gaps = self.run.gaps_of(metric)
        found: list[list[str | int | float | None]] = []
        for (model, name), scores in self.run.scores.items():
            score = scores.get(metric)
            if score is None or dataset not in (EVERYWHERE, name):
                continue
            gap = gaps[model, name].gap if (model, name) in gaps else None
            values = [score.value, score.low, score.high, *((gap.value, gap.low, gap.high) if gap else [math.nan] * 3)]
            found.append([model, name, score.n, *self._shown(metric, values)])
        return found

    def table(self, metric: str, dataset: str = EVERYWHERE) -> dict[str, Any]:
        """The rows as Gradio's table takes them: numbers to sort by, and each as it is written, with all its digits."""
        rows, digits = self.rows(metric, dataset), self._digits(metric)
        written = [
            ["" if v is None else f"{v:.{digits}f}" if isinstance(v, float) else str(v) for v in row] for row in rows
        ]
        return {"headers": list(HEADS), "data": rows, "metadata": {"display_value": written}}

    def _digits(self, metric: str) -> int:
        return 1 if self.is_percent(metric) else 3

    def _shown(self, metric: str, values: Sequence[float]) -> list[float | None]:
        factor = 100 if self.is_percent(metric) else 1
        return [None if math.isnan(v) else round(factor * v, self._digits(metric)) for v in values]


def read_run(folder: Path) -> RunTable:
    """The table of a run's folder.

    Raises:
        InputError: it is no folder of a finished shift evaluation.
    """
    return RunTable(read(folder))
