"""What every long-running piece of work needs from its surroundings: device, precision, seeds, progress, places."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import platform
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from gradlens.errors import GradlensError, InputError, InstallationError
from gradlens.processes import ALONE, Processes

if TYPE_CHECKING:
    import numpy as np
    import torch

T = TypeVar("T")
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Runtime:
    """How to run: the options that every command shares.

    Attributes:
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``.
        precision: of the forward and backward passes.
        batch_size: images per pass; 0 means that the work chooses.
        workers: threads that decode images; 0 means that the work chooses.
        seed: of everything random.
        offline: look nothing up on a network.
        quiet: no progress bars and no remarks on stderr.
        processes: those that this one works with; of several, the first alone speaks.
    """

    device: str = "auto"
    precision: Precision = "fp32"
    batch_size: int = 0
    workers: int = 0
    seed: int = 0
    offline: bool = False
    quiet: bool = False
    processes: Processes = ALONE

    def among(self, processes: Processes) -> Runtime:
        """The runtime of one of several processes: quiet but for the first, each with a GPU of its own on ``auto``."""
        if not processes.several:
            return self
        import torch

        device = self.device
        if device in ("auto", "cuda") and torch.cuda.is_available():
            device = f"cuda:{processes.local % torch.cuda.device_count()}"
            torch.cuda.set_device(device)
        quiet = self.quiet or not processes.first
        return replace(self, device=device, quiet=quiet, processes=processes)

    def torch_device(self) -> torch.device:
        """The device this run computes on.

        Raises:
            GradlensError: the device that was asked for is not there.
        """
        import torch

        if self.device == "auto":
            if torch.cuda.is_available():
                return torch.device("cuda")
            return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError:
            raise GradlensError(f"expected a device like auto, cpu, cuda, cuda:0 or mps, got {self.device!r}") from None
        there = {
            "cpu": True,
            "cuda": torch.cuda.is_available() and (device.index or 0) < max(1, torch.cuda.device_count()),
            "mps": torch.backends.mps.is_available(),
        }
        if not there.get(device.type, False):
            raise GradlensError(f"device {self.device!r} was asked for but is not there; use --device auto or cpu")
        return device

    def dtype(self) -> torch.dtype:
        """The floating-point type that the precision names."""
        import torch

        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context in which forward passes run: autocast for bf16 and fp16, nothing for fp32."""
        import torch

        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.torch_device().type, dtype=self.dtype())

    def progress(self, work: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterable[T]:
        """``work``, with a bar on stderr once it has taken two seconds; silent when stderr is no terminal."""
        from tqdm import tqdm

        # disable=None is tqdm's "only on a terminal"
        return tqdm(
            work,
            desc=what,
            total=total,
            unit=unit,
            file=sys.stderr,
            delay=2,
            disable=True if self.quiet else None,
            dynamic_ncols=True,
            leave=False,
        )

    def say(self, message: str) -> None:
        """A remark for the person at the terminal (stderr; nothing when quiet)."""
        if not self.quiet:
            print(message, file=sys.stderr, flush=True)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def import_torch() -> None:
    """Import torch and torchvision, turning the error of a mismatched pair into a sentence.

    Raises:
        InstallationError: torch or torchvision is missing, or they were built for each other's neighbours.
    """
    try:
        import torch  # noqa: F401
        import torchvision  # noqa: F401  (its import is what fails when the pair does not match)
    except ImportError as err:
        raise InstallationError(f"torch and torchvision are needed, but: {err}; run: gradlens doctor") from err
    except RuntimeError as err:
        if "torchvision::" not in str(err):
            raise
        raise InstallationError(
            f"torch {_version('torch')} and torchvision {_version('torchvision')} do not match each other ({err}); "
            "install a matching pair from one index, for instance: "
            "pip install --force-reinstall torch==2.15.0 torchvision==0.29.2"
        ) from err


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def versions() -> dict[str, str]:
    """Versions of what can change a number: written into everything a run leaves."""
    names = ("gradlens", "torch", "torchvision", "timm", "captum", "opencv-python", "numpy", "scikit-learn", "pillow")
    return {"python": platform.python_version(), **{n: _version(n) for n in names if _version(n)[0] != "("}}


def bundled(name: Literal["checkpoints", "probe_sets", "studies"]) -> Path:
    """Where what comes with gradlens lies: in an installed wheel, else in the source tree."""
    package = Path(__file__).parent
    inside = package / "_bundled" / name
    return inside if inside.is_dir() else package.parent / name


def cache_dir() -> Path:
    """``$GRADLENS_CACHE``, else the user's cache folder. Created on demand."""
    import platformdirs

    given = os.environ.get("GRADLENS_CACHE")
    place = Path(given) if given else Path(platformdirs.user_cache_dir("gradlens"))
    place.mkdir(parents=True, exist_ok=True)
    return place


def scratch(shape: tuple[int, ...], dtype: Any, folder: Path | None = None) -> np.ndarray:
    """An array in an unnamed file, which the system may page out: for what would fill the memory.

    The room is reserved at once, because a disk that fills up later ends the process without a word.

    Args:
        shape, dtype: of the array; its values are zero.
        folder: where; the system's own place for such files if ``None``.

    Raises:
        OSError: there is no room.
    """
    import numpy as np

    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, max(1, math.prod(shape)) * np.dtype(dtype).itemsize)
        return np.memmap(file, dtype, "r+" if hasattr(os, "posix_fallocate") else "w+", shape=shape)


UNFINISHED = ".part-"
"""How the name of a file begins that is still being written, or whose writer was killed."""


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to; the file appears under its own name only when it is complete.

    The written file replaces ``path`` in one step when the block ends without an exception; otherwise it is removed
    and what stood at ``path`` is left alone. Its name keeps the ending of ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # named before it is there: a Ctrl-C may come between any two steps, also within what makes the file
    part = path.with_name(f"{UNFINISHED}{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        part.touch(exist_ok=False)
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """A new folder that takes the name ``final`` when the block ends without an exception, unless one came first."""
    with scratch_folder(final) as scratch:
        yield scratch
        try:
            scratch.rename(final)
        except OSError:
            if not final.is_dir():  # otherwise another process made the same folder meanwhile
                raise


@contextlib.contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """A new hidden folder beside a path, and so on the same disk; what is left of it at the end is removed."""
    beside.parent.mkdir(parents=True, exist_ok=True)
    scratch = beside.with_name(f".{beside.name}-{secrets.token_hex(4)}")  # named first, as in whole_file
    try:
        scratch.mkdir()
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def plain_file(path: Path) -> Path:
    """``path``, to be opened: a file, a folder or nothing at all, of which opening it tells at once.

    Raises:
        InputError: it is a pipe, which may be waited for without end, or a device, which may have no end.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"{path}: expected a file, got a pipe, a device or a socket; write its content to a file")
    return path
