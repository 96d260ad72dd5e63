"""What is built for others: the wheel holds the zoo, the probe sets and every data file, and works where it lies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    return Path(next(iter(WheelBuilder(str(root)).build(directory=str(folder), versions=["standard"]))))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def files(folder: Path, *endings: str) -> set[str]:
    return {
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.is_file() and p.suffix in endings and not p.name.startswith(".")
    }


def test_it_stays_under_100_mb(wheel: Path) -> None:
    assert wheel.stat().st_size < 100e6


def test_zoo_and_probe_sets_are_inside(root: Path, names: set[str]) -> None:
    models = files(root / "checkpoints" / "vehicles", ".safetensors", ".json")
    images = files(root / "probe_sets", ".jpg", ".png", ".toml", ".csv")
    assert len(models) >= 2 * 12
    assert len(images) > 1000
    assert {f"gradlens/_bundled/checkpoints/vehicles/{name}" for name in models} <= names
    assert {f"gradlens/_bundled/probe_sets/{name}" for name in images} <= names


def test_every_data_file_of_the_package_is_inside(root: Path, names: set[str]) -> None:
    package = files(root / "gradlens", ".py", ".toml", ".j2", ".css", ".js", ".md", ".typed", ".csv", ".json")
    assert {f"gradlens/{name}" for name in package if not name.startswith("_bundled/")} <= names
    assert "gradlens/py.typed" in names
    assert any(name.endswith(".toml") and name.startswith("gradlens/train/recipes/") for name in names)
    assert "gradlens/report/templates/report.html.j2" in names


def test_nothing_else_is_inside(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"gradlens"}
    assert not [name for name in names if "__pycache__" in name or "/." in name]


def test_the_unpacked_wheel_finds_what_it_brought(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import json, gradlens\nfrom gradlens import doctor\n"
        "found = doctor.examine(['zoo', 'probe sets'])\n"
        "print(json.dumps([gradlens.__file__, {k: [v.status, v.found] for k, v in found.items()}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )
    place, found = json.loads(done.stdout)
    assert place.startswith(str(tmp_path / "site"))
    assert found["zoo"][0] == "ok", found
    assert "vehicles: " in found["zoo"][1]
    assert found["probe sets"][0] == "ok", found


def test_a_source_tree_without_them_still_builds(root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A sparse clone, or a checkout before its zoo was trained; editable installations copy nothing at all."""
    (tmp_path / "gradlens").mkdir()
    (tmp_path / "gradlens" / "__init__.py").touch()
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        (tmp_path / name).write_bytes((root / name).read_bytes())
    built = Path(next(iter(WheelBuilder(str(tmp_path)).build(directory=str(tmp_path / "dist"), versions=["standard"]))))
    assert built.stat().st_size < 1e5
    assert "checkpoints/vehicles is empty" in capfd.readouterr().err
    builder = WheelBuilder(str(root))
    editable = Path(next(iter(builder.build(directory=str(tmp_path / "editable"), versions=["editable"]))))
    with zipfile.ZipFile(editable) as archive:
        assert not [name for name in archive.namelist() if "_bundled" in name]


def test_sdist_leaves_runs_and_environments_out(root: Path) -> None:
    paths = [f.distribution_path for f in SdistBuilder(str(root)).recurse_included_files()]
    assert "pyproject.toml" in paths
    assert "hatch_build.py" in paths
    assert not [p for p in paths if p.startswith(("runs/", ".venv", ".ci/", "dist/", "build/"))]


def test_constraints_name_versions_and_nothing_else(root: Path) -> None:
    lines = (root / "constraints.txt").read_text().splitlines()
    assert not [line for line in lines if "//" in line or "file:" in line or "@" in line or line.startswith("-")]
    pinned = {line.split("==")[0]: line.split("==")[1].split()[0] for line in lines if "==" in line}
    # a pair that was seen to work together; a lone torch 2.13.0 breaks torchvision's operators
    assert (pinned["torch"], pinned["torchvision"]) == ("2.15.0", "0.29.2")
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(need for extra in project["optional-dependencies"].values() for need in extra),
    ]
    for need in map(Requirement, wanted):
        name = canonicalize_name(need.name)
        assert name == "gradlens" or need.specifier.contains(pinned[name]), need
