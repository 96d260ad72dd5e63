"""Fixtures that all tests share, and the surroundings they run in: no network, no display, no cache of the user's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from runs import Result, Run

pytest_plugins = ["browser"]  # tabs of a real one

ROOT = Path(__file__).resolve().parent.parent

# examples are timed by the wall clock, and a busy machine is no fault of theirs; the same ones are tried on every run
settings.register_profile("gradlens", deadline=None, derandomize=True)
settings.load_profile("gradlens")

# before any library reads them
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
# the networks here are tiny: a second thread gains nothing, and waits in every layer where another process has its core
os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in [
    n for n in os.environ if n.startswith("GRADLENS_") and n not in ("GRADLENS_SHARED_DATA", "GRADLENS_TEST_CACHE")
]:
    del os.environ[name]  # options of the person who runs the tests


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache of this test run: a fresh folder, or ``$GRADLENS_TEST_CACHE`` where rendered sets should be kept.

    The user's configuration folder, where consent to code lies, is a fresh one too.
    """
    given = os.environ.get("GRADLENS_TEST_CACHE")
    place = Path(given).resolve() if given else tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("GRADLENS_CACHE", str(place))
        yield place


@pytest.fixture(scope="session")
def root() -> Path:
    """The source tree: where ``checkpoints/`` and ``probe_sets/`` lie."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs and third-party checkpoints; they are not part of the project, so tests that need them skip."""
    place = Path(os.environ.get("GRADLENS_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not place.is_dir():
        pytest.skip(f"real data not found at {place}; set GRADLENS_SHARED_DATA to its folder")
    return place


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """``gradlens shift-eval`` with the arguments given, in this process."""

    def call(*args: object) -> Result:
        import runs  # with the next, not before the surroundings above are set
        from gradlens.cli.main import main

        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(["shift-eval", *map(str, args)])
        captured = capsys.readouterr()
        return runs.Result(int(left.value.code or 0), captured.out, captured.err)

    return call
