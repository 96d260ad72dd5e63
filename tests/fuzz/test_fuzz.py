"""Every reader ends with a result or one clear line: valid files, broken ones by number, what Hypothesis breaks.

``benchmarks/fuzz.py`` reads twenty thousand, under limits of time and memory, and the bombs.
"""

from __future__ import annotations

import random
import resource
import runpy
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.bombs import BOMBS
from fuzz.inputs import case, cases, outcome
from fuzz.mutations import BINARY, TEXT
from fuzz.readers import READERS

CORPUS = 12  # broken inputs of each reader, in every run of the tests
# a gigabyte or seconds of work each; the benchmark reads them all
HEAVY = (
    "20 million rows",
    "long lists",
    "800 million",
    "gigabyte of zeros",
    "of a billion",
    "a million channels",
    "90 MB",
)


def test_every_reader_is_fuzzed_with_guidance(root: Path) -> None:
    benchmark = runpy.run_path(str(root / "benchmarks" / "fuzz_guided.py"))
    assert list(benchmark["GUIDED"]) == list(READERS)


@pytest.mark.parametrize("reader", READERS)
def test_valid_files_are_read(reader: str, tmp_path: Path) -> None:
    for i, valid in enumerate(cases(reader)):
        kind, why = outcome(reader, valid, tmp_path / "case")
        assert kind == ("error" if READERS[reader].refuses else "result"), (i, why)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.filterwarnings("ignore")
def test_broken_files_of_the_corpus(reader: str, tmp_path: Path) -> None:
    for number in range(1, CORPUS + 1):
        kind, why = outcome(reader, case(reader, number), tmp_path / "case")
        assert kind != "failure", (number, why)


@st.composite
def broken_case(draw: st.DrawFn, reader: str) -> dict[str, bytes]:
    """A valid case with mutations that Hypothesis chooses, and shrinks."""
    chosen = dict(draw(st.sampled_from(cases(reader))))
    name = draw(st.sampled_from([n for n in READERS[reader].broken if n in chosen]))
    text = READERS[reader].text and not name.endswith((".png", ".safetensors"))
    for mutation in draw(st.lists(st.sampled_from(TEXT if text else BINARY), min_size=1, max_size=3)):
        chosen[name] = mutation(random.Random(draw(st.integers(0, 2**32))), chosen[name], [chosen[name]])
    return chosen


@pytest.mark.parametrize("reader", [r for r in READERS if READERS[r].cost < 5])
@pytest.mark.filterwarnings("ignore")
def test_what_hypothesis_breaks(reader: str, tmp_path: Path) -> None:
    @settings(max_examples=10, suppress_health_check=list(HealthCheck), database=None)
    @given(broken_case(reader))
    def ends_clearly(broken: dict[str, bytes]) -> None:
        kind, why = outcome(reader, broken, tmp_path / "case")
        assert kind != "failure", why

    ends_clearly()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
@pytest.mark.parametrize("bomb", [name for name in BOMBS if not any(h in name for h in HEAVY)])
@pytest.mark.filterwarnings("ignore")
def test_bombs_do_not_go_off(bomb: str, tmp_path: Path) -> None:
    reader, make = BOMBS[bomb]
    given_files = make()
    before = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**31, before[1]))
    try:
        kind, why = outcome(reader, given_files, tmp_path / "case")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert kind != "failure", why
