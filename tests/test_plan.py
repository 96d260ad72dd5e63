"""``shift-eval --plan``: what is measured here, carried over to other sizes by nothing but multiplication."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gradlens.cli.shift_eval import _count
from gradlens.runtime import Runtime
from gradlens.workflows.measure import Request
from gradlens.workflows.measure.plan import ModelCost, Plan, SetCost, Size, _extrapolated, duration

SETS = (SetCost("near", 300, 300, 4.0, 1.0), SetCost("far", 100, 100, 8.0, 1.0))
MODELS = (ModelCost("one", 400, 2.0, 0.5, 10), ModelCost("two", 400, 6.0, 1.5, 10))
PLANNED = Plan(SETS, MODELS, seconds=5.6, disk_mb=0.03)
CPU = Runtime(device="cpu")


def test_the_cost_of_a_hundred_million_images() -> None:
    """(300·5 + 100·9)/400 = 6 ms to read an image, 4 ms in each of 50 networks, shared by 8 devices."""
    other = _extrapolated(PLANNED, Size(10**8, 50, 8), Request(out=Path()), CPU)
    assert other.reading_seconds == pytest.approx(10**8 / 8 * 0.006)
    assert other.running_seconds == pytest.approx(10**8 / 8 * 50 * 0.004)
    assert other.seconds == pytest.approx(other.reading_seconds + other.running_seconds)  # a CPU does both
    assert other.device_hours == pytest.approx(8 * other.seconds / 3600)
    assert other.exaflops == pytest.approx(10**8 * 50 * 1e9 / 1e18)
    assert other.disk_gb == pytest.approx(2 * 4 * 10 * 10**8 * 50 / 1e9)
    assert any("65.2 GiB" in a for a in other.assumptions)
    text = replace(PLANNED, other=other).text()
    assert "100,000,000 images × 50 models on 8 devices like this one: 29.8 days on each" in text
    assert "networks and decoding take turns" in text


def test_a_stream_takes_no_memory_and_little_disk() -> None:
    other = _extrapolated(PLANNED, Size(10**8, 50, 8), Request(out=Path(), stream=True), CPU)
    assert other.disk_gb < 2
    assert any("counts take no memory to speak of" in a for a in other.assumptions)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.34, "0.34 s"), (41.2, "41 s"), (600, "10.0 min"), (9000, "2.5 h"), (1e6, "11.6 days")]
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_counts_may_be_powers_of_ten() -> None:
    assert _count("1e8") == 10**8
    assert _count("50") == 50
    for wrong in ("0", "1.5", "many", "-3", "inf"):
        with pytest.raises((ValueError, OverflowError)):
            _count(wrong)
