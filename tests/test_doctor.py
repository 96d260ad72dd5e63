"""``gradlens doctor`` against installations that are broken in the ways that were seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from gradlens import doctor
from gradlens.cli.doctor import command
from gradlens.errors import InstallationError


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    doctor._torch_stack.cache_clear()


@pytest.fixture
def shadowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands before site-packages in every process this test starts."""
    place = tmp_path / "shadow"
    place.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(place))
    return place


def fake(place: Path, module: str, source: str) -> None:
    (place / f"{module}.py").write_text(source)


NMS = "raise RuntimeError('operator torchvision::nms does not exist')"


def test_a_mismatched_torchvision_is_named_with_its_fix(shadowed: Path) -> None:
    fake(shadowed, "torch", "")
    fake(shadowed, "torchvision", NMS)
    fake(shadowed, "timm", "import torchvision")
    found = doctor.examine(["torch and torchvision", "timm"])
    pair = found["torch and torchvision"]
    assert pair.status == "fail"
    assert "do not match each other" in pair.found
    assert "torchvision::nms" in pair.found
    assert "torch==2.15.0 torchvision==0.29.2" in pair.fix
    assert found["timm"].status == "fail"
    assert "torch and torchvision first" in found["timm"].fix


def test_an_import_that_kills_the_interpreter_is_a_finding(shadowed: Path) -> None:
    fake(shadowed, "torch", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    found = doctor.examine(["torch and torchvision", "device", "captum"])
    assert "killed the interpreter (signal 11)" in found["torch and torchvision"].found
    assert {f.status for f in found.values()} == {"fail"}


def test_libgl_missing(shadowed: Path) -> None:
    text = "libGL.so.1: cannot open shared object file: No such file or directory"
    fake(shadowed, "cv2", f"raise ImportError({text!r})")
    finding = doctor.examine(["opencv"])["opencv"]
    assert finding.status == "fail"
    assert "libGL.so.1" in finding.found
    assert "apt install libgl1" in finding.fix
    assert "opencv-python-headless" in finding.fix


def test_an_empty_cv2_is_not_taken_for_opencv(shadowed: Path) -> None:
    (shadowed / "cv2").mkdir()  # what is left after one of two flavours was removed
    (shadowed / "cv2" / "__init__.py").touch()
    finding = doctor.examine(["opencv"])["opencv"]
    assert finding.status == "fail"
    assert "empty module" in finding.found


@pytest.mark.parametrize(
    ("flavours", "status", "text"),
    [
        ({"opencv-python": "5.0.0", "opencv-python-headless": "5.0.0"}, "warn", "until one of them is removed"),
        ({"opencv-python": "5.0.0", "opencv-python-headless": "4.9.0"}, "fail", "overwrite each other's files"),
        ({"opencv-python-headless": "5.0.0"}, "ok", "opencv-python-headless 5.0.0"),
    ],
)
def test_two_flavours_of_opencv(
    shadowed: Path, monkeypatch: pytest.MonkeyPatch, flavours: dict[str, str], status: str, text: str
) -> None:
    fake(shadowed, "cv2", "imdecode = resize = None")
    monkeypatch.setattr(doctor, "_installed", flavours.get)
    finding = doctor.examine(["opencv"])["opencv"]
    assert finding.status == status
    assert text in finding.found


def test_a_missing_and_an_old_library(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor._installed
    monkeypatch.setattr(
        doctor, "_installed", lambda name: {"timm": None, "torchvision": "0.20.1"}.get(name, real(name))
    )
    finding = doctor.examine(["requirements"])["requirements"]
    assert finding.status == "fail"
    assert "timm is missing" in finding.found
    assert "torchvision 0.20.1 does not satisfy" in finding.found
    assert "'timm>=" in finding.fix
    assert "'torchvision>=" in finding.fix


def test_an_accelerator_that_cannot_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {
        "names": {"cpu": "2 threads", "cuda:0": "Old GPU"},
        "broken": {"cuda:0": "no kernel image"},
        "built_for": "13",
    }
    monkeypatch.setattr(doctor, "_torch_stack", lambda: {"device": seen})
    monkeypatch.setattr(doctor._torch_stack, "cache_clear", lambda: None, raising=False)
    finding = doctor.examine(["device"])["device"]
    assert finding.status == "fail"
    assert "no kernel image" in finding.found
    assert "--device cpu" in finding.fix


def test_a_cache_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GRADLENS_CACHE", str(tmp_path / "file" / "cache"))
    finding = doctor.examine(["cache folder"])["cache folder"]
    assert finding.status == "fail"
    assert "GRADLENS_CACHE" in finding.fix


def test_a_zoo_that_is_empty_and_one_that_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "bundled", lambda what: tmp_path / "package" / what)
    assert doctor.examine(["zoo"])["zoo"].status == "fail"
    assert doctor.examine(["probe sets"])["probe sets"].status == "fail"
    model = tmp_path / "checkpoints" / "mine" / "net"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps({"gradlens": {}}))
    (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")  # a pointer, not the weights
    broken = doctor.examine(["zoo"])["zoo"]
    assert broken.status == "fail"
    assert "mine/net" in broken.found
    (model / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert doctor.examine(["zoo"])["zoo"] == doctor.Finding("ok", "mine: 1 models")


def test_a_check_that_raises_is_a_check_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> doctor.Finding:
        raise KeyError("surprise")

    monkeypatch.setitem(doctor.CHECKS._things, "python", broken)
    finding = doctor.examine(["python"])["python"]
    assert finding.status == "fail"
    assert "KeyError: 'surprise'" in finding.found


def test_probe_answers_in_order_whatever_became_of_the_others() -> None:
    found = doctor.probe(
        {
            "a": "print('chatter')\nanswer = [1]",
            "b": "import no_such_module",
            "c": "answer = 2",
            "d": "import os\nos._exit(3)",
        }
    )
    assert found["a"] == [1]
    assert found["c"] == 2
    assert isinstance(found["b"], InstallationError)
    assert "no_such_module" in str(found["b"])
    assert "without a word" in str(found["d"])


def test_a_probe_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SECONDS", 2)
    found = doctor.probe({"a": "answer = 1", "b": "import time\ntime.sleep(60)", "c": "answer = 3"})
    assert found["a"] == 1
    assert "no answer after 2 s" in str(found["b"])
    assert "c" not in found


def test_command_prints_fixes_and_leaves_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradlens.cli.doctor import command

    findings = {"good": doctor.Finding("ok", "fine"), "bad": doctor.Finding("fail", "broken", "mend it")}
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    done = CliRunner().invoke(command, [])
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0].split() == ["ok", "good", "fine"]
    assert "fix: mend it" in done.stdout
    assert "1 of 2 checks failed: bad" in done.stderr
    done = CliRunner().invoke(command, ["--json"])
    document = json.loads(done.stdout)
    assert document["schema"] == 1
    assert document["checks"][1] == {"name": "bad", "status": "fail", "found": "broken", "fix": "mend it"}
    del findings["bad"]
    assert CliRunner().invoke(command, []).exit_code == 0


def test_this_installation_is_sound() -> None:
    """The libraries the other tests run on, through the real command, with nothing faked."""
    done = subprocess.run(
        [sys.executable, "-m", "gradlens", "doctor", "--json"], capture_output=True, text=True, env=os.environ
    )
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert list(checks) == list(doctor.CHECKS)
    assert {name: check["found"] for name, check in checks.items() if check["status"] == "fail"} == {}
    assert done.returncode == 0


def test_the_cache_is_shown_with_its_size_and_pruned_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can be made again goes, what is not gradlens's stays; with a number of days, only what nobody used."""
    monkeypatch.setenv("GRADLENS_CACHE", str(tmp_path))
    for name in ("outputs/key/old.parquet", "outputs/other/new.parquet", "sets/x/a.png", "another program/abc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0" * 1000)
    ancient = time.time() - 40 * 86_400
    for name in ("outputs/key/old.parquet", "sets/x/a.png"):
        os.utime(tmp_path / name, (ancient, ancient))
    assert doctor.cache_size() == 3000
    assert "doctor --prune" in doctor.examine(["cache folder"])["cache folder"].found
    done = CliRunner().invoke(command, ["--prune", "--unused-for", "30", "--json"], standalone_mode=False)
    assert json.loads(done.stdout) == {"schema": 1, "files": 2, "bytes": 2000}
    left = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert left == ["another program/abc", "outputs/other/new.parquet"]
    assert CliRunner().invoke(command, ["--prune"], standalone_mode=False).exception is None
    assert doctor.cache_size() == 0
    assert (tmp_path / "another program" / "abc").is_file()
