"""Is this installation sound? One check per thing that has been seen to go wrong, each fault with its fix.

Nothing here may fall over what it looks for: libraries are imported in a process of their own (a mismatched pair of
torch and torchvision raises on import, other faults abort the interpreter), and a check that raises is a check that
failed. A further check is one function under ``@CHECKS.register``.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any, Literal

from gradlens.errors import InstallationError
from gradlens.registry import Registry
from gradlens.runtime import bundled, cache_dir

Status = Literal["ok", "warn", "fail"]
SECONDS = 300  # the first import of torch from a slow disk takes a minute; longer means that it hangs


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        status: ``"ok"``; ``"warn"``: works, but look at it; ``"fail"``: something will not work.
        found: what is there.
        fix: what mends it; empty when nothing needs mending.
    """

    status: Status
    found: str
    fix: str = ""


CHECKS: Registry[Callable[[], Finding]] = Registry("check")

OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
MEND_OPENCV = f"pip uninstall -y {' '.join(OPENCV)} && pip install opencv-python"
MEND_TORCH = "pip install --force-reinstall torch==2.15.0 torchvision==0.29.2  (both from one index)"


def examine(names: Iterable[str] | None = None) -> dict[str, Finding]:
    """Run the checks (all by default).

    Returns:
        name of the check -> what it found, in the order of ``CHECKS``.
    """
    findings = {}
    for name in CHECKS if names is None else names:
        try:
            findings[name] = CHECKS[name]()
        except Exception as err:  # a broken installation raises anything
            text = f"the check itself failed: {type(err).__name__}: {err}"
            findings[name] = Finding("fail", text, "pip install --force-reinstall gradlens")
    return findings


def probe(steps: Mapping[str, str]) -> dict[str, Any]:
    """Run pieces of Python one after the other in one process of its own, each whatever became of those before.

    Args:
        steps: name -> code, which may leave an answer (anything JSON has) in ``answer``.

    Returns:
        name -> its answer, or an :class:`InstallationError` with the exception it raised, also where it killed the
        interpreter or hung; steps after such a one are missing.
    """
    code = "import json, sys\n" + "".join(
        f"answer = error = None\ntry:\n{indent(code, '    ')}\n"
        "except BaseException as err:\n    error = f'{type(err).__name__}: {err}'\n"
        f"print('answer:' + json.dumps([{name!r}, answer, error]), flush=True)\n"
        for name, code in steps.items()
    )
    ending = "the interpreter ended without a word"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)  # noqa: S603 (our own code)
        said = done.stdout
        if done.returncode < 0:
            ending = f"it killed the interpreter (signal {-done.returncode})"
        elif done.stderr.strip():
            ending = done.stderr.strip().splitlines()[-1]
    except subprocess.TimeoutExpired as late:
        said = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else late.stdout or ""
        ending = f"no answer after {SECONDS} s"
    answers: dict[str, Any] = {}
    for line in said.splitlines():
        if line.startswith("answer:"):  # libraries print, too
            name, answer, error = json.loads(line.removeprefix("answer:"))
            answers[name] = answer if error is None else InstallationError(error.splitlines()[0])
    unheard = next((name for name in steps if name not in answers), None)
    if unheard is not None:
        answers[unheard] = InstallationError(ending)
    return answers


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@CHECKS.register("python")
def _python() -> Finding:
    import gradlens

    system = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return Finding("ok", f"{system}; gradlens {gradlens.__version__}")


@CHECKS.register("requirements")
def _requirements() -> Finding:
    """Every library gradlens names, in a version it can use."""
    from packaging.requirements import Requirement

    missing, fine = [], 0
    for line in importlib.metadata.requires("gradlens") or ():
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        have = _installed(need.name)
        if have is None:
            missing.append((f"{need.name} is missing", need))
        elif not need.specifier.contains(have, prereleases=True):
            missing.append((f"{need.name} {have} does not satisfy {need.specifier}", need))
        else:
            fine += 1
    if missing:
        wanted = " ".join(f"'{need.name}{need.specifier}'" for _, need in missing)
        return Finding("fail", "; ".join(text for text, _ in missing), f"pip install {wanted}")
    return Finding("ok", f"{fine} libraries in usable versions")


@functools.cache
def _torch_stack() -> dict[str, Any]:
    """Everything that needs torch, in one process: its import is most of the work."""
    return probe(
        {
            # versions do not tell a mismatched pair; torchvision's own operator on one box does
            "pair": """
import torch, torchvision
answer = torchvision.ops.nms(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([1.0]), 0.5).tolist()
""",
            # each accelerator really multiplies: a driver or a build that does not fit shows only then
            "device": """
import torch
names = {"cpu": f"{torch.get_num_threads()} threads"}
for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
    p = torch.cuda.get_device_properties(i)
    names[f"cuda:{i}"] = f"{p.name}, {p.total_memory / 2**30:.0f} GiB"
if torch.backends.mps.is_available():
    names["mps"] = "Apple GPU"
broken = {}
for name in names:
    try:
        x = torch.ones(8, 8, device=name)
        assert (x @ x).sum().item() == 512
    except Exception as err:
        broken[name] = str(err).splitlines()[0]
answer = {"names": names, "broken": broken, "built_for": torch.version.cuda}
""",
            "timm": "import timm\nassert timm.is_model('resnet18')",
            "captum": "from captum.attr import LayerGradCam",
        }
    )


@CHECKS.register("torch and torchvision")
def _torch_pair() -> Finding:
    pair = f"torch {_installed('torch')}, torchvision {_installed('torchvision')}"
    kept = _torch_stack()["pair"]
    if isinstance(kept, InstallationError):
        mismatch = " do not match each other" if "torchvision::" in str(kept) else ""
        return Finding("fail", f"{pair}{mismatch}: {kept}", MEND_TORCH)
    if kept != [0]:
        return Finding("fail", f"{pair}: torchvision.ops.nms kept {kept} of one box", MEND_TORCH)
    return Finding("ok", pair)


@CHECKS.register("device")
def _device() -> Finding:
    seen = _torch_stack().get("device", InstallationError("torch was not reached"))
    if isinstance(seen, InstallationError):
        return Finding("fail", str(seen), MEND_TORCH)
    if seen["broken"]:
        text = "; ".join(
            f"{name} ({seen['names'][name]}) does not compute: {why}" for name, why in seen["broken"].items()
        )
        return Finding("fail", text, "install a torch built for this device and driver, or use --device cpu")
    found = ", ".join(f"{name} ({what})" for name, what in seen["names"].items())
    if len(seen["names"]) == 1 and seen["built_for"] and shutil.which("nvidia-smi"):
        fix = f"this torch is built for CUDA {seen['built_for']}; see with nvidia-smi whether the driver is as new"
        return Finding("warn", f"{found}; an NVIDIA driver is installed, but torch sees no GPU", fix)
    return Finding("ok", found)


def _imported(answer: Any, package: str) -> Finding:
    """A finding from a probe that only had to import and try a package."""
    if isinstance(answer, InstallationError):
        pair = "torchvision::" in str(answer) or "not reached" in str(answer)
        fix = "mend torch and torchvision first" if pair else f"pip install --force-reinstall {package}"
        return Finding("fail", f"{package} {_installed(package)}: {answer}", fix)
    return Finding("ok", str(_installed(package)))


@CHECKS.register("timm")
def _timm() -> Finding:
    return _imported(_torch_stack().get("timm", InstallationError("not reached")), "timm")


@CHECKS.register("captum")
def _captum() -> Finding:
    return _imported(_torch_stack().get("captum", InstallationError("not reached")), "captum")


@CHECKS.register("opencv")
def _opencv() -> Finding:
    """The flavours overwrite one another's files, and removing one leaves an empty ``cv2`` behind."""
    flavours = [f"{name} {_installed(name)}" for name in OPENCV if _installed(name)]
    whole = probe({"cv2": "import cv2\nanswer = hasattr(cv2, 'imdecode') and hasattr(cv2, 'resize')"})["cv2"]
    if isinstance(whole, InstallationError):
        if "cannot open shared object" in str(whole):  # libGL.so.1, libgthread-2.0.so.0
            library = "apt install libgl1 libglib2.0-0"
            headless = "pip uninstall -y opencv-python && pip install --force-reinstall opencv-python-headless"
            return Finding("fail", str(whole), f"{library}  (without root: {headless})")
        return Finding("fail", str(whole), MEND_OPENCV)
    if not whole:
        text = "cv2 is an empty module: one OpenCV flavour was removed and took the other's files with it"
        return Finding("fail", text, MEND_OPENCV)
    if len({name.split()[1] for name in flavours}) > 1:
        return Finding("fail", f"{' and '.join(flavours)} overwrite each other's files", MEND_OPENCV)
    if len(flavours) > 1:
        return Finding("warn", f"{' and '.join(flavours)}: works until one of them is removed", MEND_OPENCV)
    return Finding("ok", "".join(flavours) or "cv2 that pip did not install")


@CHECKS.register("scipy")
def _scipy() -> Finding:
    return _imported(probe({"scipy": "import scipy.stats\nassert scipy.stats.norm.cdf(0) == 0.5"})["scipy"], "scipy")


@CHECKS.register("matplotlib")
def _matplotlib() -> Finding:
    """Draws a word: finds out about fonts, FreeType and an unwritable configuration folder."""
    code = """
import io, matplotlib
matplotlib.use("Agg")
from matplotlib.figure import Figure
figure = Figure()
figure.text(0.5, 0.5, "Grad-CAM")
figure.savefig(io.BytesIO(), format="pdf")
"""
    return _imported(probe({"matplotlib": code})["matplotlib"], "matplotlib")


@CHECKS.register("pyarrow")
def _pyarrow() -> Finding:
    code = "import pyarrow.parquet\nassert pyarrow.array([1, 2]).sum().as_py() == 3"
    return _imported(probe({"pyarrow": code})["pyarrow"], "pyarrow")


def _refusal(folder: Path) -> str | None:
    """Why nothing can be written to a folder (made where it is missing); ``None`` where it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"gradlens")
            file.flush()
    except OSError as err:
        return f"{err.filename or folder}: {err.strerror or err}"
    return None


@CHECKS.register("cache folder")
def _cache() -> Finding:
    """Predictions and rendered images are kept here."""
    fix = "set GRADLENS_CACHE to a folder you can write to"
    try:
        folder = cache_dir()
    except OSError as err:
        return Finding("fail", f"{err.filename}: {err.strerror}", fix)
    refusal = _refusal(folder)
    if refusal:
        return Finding("fail", refusal, fix)
    size = cache_size()
    return Finding("ok", f"{folder}: {size / 1e9:.2f} GB" + ("; gradlens doctor --prune empties it" if size else ""))


KEPT = ("outputs", "sets", "torchvision")
"""Folders of the cache, which can be made or fetched again; what else lies there is somebody else's."""


def cache_size() -> int:
    """Bytes in the cache folder that :func:`prune` would free."""
    return sum(path.stat().st_size for name in KEPT for path in (cache_dir() / name).rglob("*") if path.is_file())


def prune(days: float = 0.0) -> tuple[int, int]:
    """Remove files of the cache that nobody wrote or read for some days; runs make again what they miss.

    A rendered set goes as a whole. A run that is under way keeps what it has opened, and computes the rest again.

    Returns:
        (files removed, bytes freed).
    """
    before = time.time() - days * 86_400
    files = freed = 0
    for name in KEPT:
        for entry in sorted((cache_dir() / name).glob("*")):
            inside = [p for p in (entry.rglob("*") if entry.is_dir() else [entry]) if p.is_file()]
            if any(max(p.stat().st_mtime, p.stat().st_atime) > before for p in inside):
                continue
            files, freed = files + len(inside), freed + sum(p.stat().st_size for p in inside)
            aside = entry.with_name(f".{entry.name}.removed")  # gone in one step: no reader sees a part of it
            entry.rename(aside)
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
    return files, freed


@CHECKS.register("hub cache")
def _hub_cache() -> Finding:
    """Only ``timm:`` and ``hf:`` models with published weights need it."""
    folder = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    refusal = _refusal(folder)
    if refusal:
        return Finding("warn", refusal, "set HF_HOME to a folder you can write to (needed for published weights only)")
    return Finding("ok", str(folder))


@CHECKS.register("disk space")
def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    status: Status = "fail" if free < 0.1 else "warn" if free < 1 else "ok"
    fix = "" if status == "ok" else "free some space: a run leaves up to a few hundred megabytes"
    return Finding(status, f"{free:.1f} GB free in {Path.cwd()}", fix)


REINSTALL = "reinstall gradlens from a wheel, or run it from a complete clone"


@CHECKS.register("zoo")
def _zoo() -> Finding:
    """Checkpoint folders that come with gradlens or stand in ``./checkpoints``; contents: ``gradlens zoo verify``."""
    whole, broken = set(), []
    for place in dict.fromkeys((Path("checkpoints").resolve(), bundled("checkpoints").resolve())):
        for config in sorted(place.glob("*/*/config.json")):
            name = f"{config.parent.parent.name}/{config.parent.name}"
            try:
                json.loads(config.read_text(encoding="utf-8"))["gradlens"]
                with config.with_name("model.safetensors").open("rb") as file:
                    header = int.from_bytes(file.read(8), "little")
                    json.loads(file.read(header))  # a Git LFS pointer or a cut-off download fails here
            except (OSError, ValueError, KeyError, OverflowError, MemoryError) as err:
                broken.append(f"{name} ({type(err).__name__})")
            else:
                whole.add(name)
    if broken:
        return Finding("fail", f"unreadable: {', '.join(broken)}", "gradlens zoo verify says more; " + REINSTALL)
    if not whole:
        return Finding("fail", f"no trained models in {bundled('checkpoints')}", REINSTALL)
    collections = sorted({name.split("/")[0] for name in whole})
    return Finding("ok", ", ".join(f"{c}: {sum(n.startswith(c + '/') for n in whole)} models" for c in collections))


@CHECKS.register("probe sets")
def _probe_sets() -> Finding:
    found, broken = set(), []
    for place in dict.fromkeys((Path("probe_sets").resolve(), bundled("probe_sets").resolve())):
        for manifest in sorted(place.glob("*/probe.toml")):
            try:
                found.add(tomllib.loads(manifest.read_text(encoding="utf-8"))["name"])
            except (OSError, ValueError, KeyError) as err:
                broken.append(f"{manifest.parent.name} ({type(err).__name__}: {err})")
    if broken:
        return Finding("fail", f"unreadable: {', '.join(broken)}", "gradlens probe check says more; " + REINSTALL)
    if not found:
        return Finding("fail", f"no probe sets in {bundled('probe_sets')}", REINSTALL)
    return Finding("ok", f"{len(found)} sets")
