"""The folder of one run: one writer at a time, every file listed, ``run.json`` last."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from gradlens.errors import GradlensError
from gradlens.runtime import UNFINISHED, whole_file

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

RUN = "run.json"
LOCK = ".lock"


class RunFolder:
    """A folder that this process alone writes, from ``with`` to the end of its block.

    While the block runs there is no ``run.json``: a folder without one is unfinished. Files that an earlier run left
    here and this one did not write again are removed at the end, so that the folder never mixes two runs; files that
    no run listed are left alone.

    Args:
        path: the folder; made where it is not there.
        option: of the command, that names another folder.

    Raises:
        GradlensError: another process is writing here (on entering).
    """

    def __init__(self, path: Path, option: str = "--out") -> None:
        self.path, self.option = path, option
        self.files: list[str] = []
        self._before: list[str] = []
        self._handle = -1

    def __enter__(self) -> RunFolder:
        self.path.mkdir(parents=True, exist_ok=True)
        self._handle = _lock(self.path / LOCK, self.path, self.option)
        # what a run that was killed left; nobody else writes here now, except into the folder where shards meet
        for left in (*self.path.glob(f"{UNFINISHED}*"), *self.path.glob(f"*/{UNFINISHED}*")):
            left.unlink(missing_ok=True)
        self._before = _listed(self.path / RUN)
        (self.path / RUN).unlink(missing_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        _free(self.path / LOCK, self._handle)
        if kind is not None and not self.files:
            with contextlib.suppress(OSError):  # a run that failed before it wrote anything leaves no empty folder
                self.path.rmdir()

    @property
    def holds_files(self) -> bool:
        """Whether anything lies here, by whomever."""
        return any(path.name != LOCK for path in self.path.iterdir())

    def clear(self) -> None:
        """Remove all that lies here, also what no run listed."""
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()

    def file(self, name: str) -> Path:
        """Where to write the file ``name`` (a relative path); it is listed in ``run.json``."""
        if name not in self.files:
            self.files.append(name)
        return self.path / name

    def add(self, path: Path) -> Path:
        """List a file that something else wrote into the folder."""
        self.file(path.relative_to(self.path).as_posix())
        return path

    def finish(self, document: Mapping[str, Any]) -> Path:
        """Remove what only an earlier run left, then write ``run.json``: the run is complete."""
        for name in self._before:
            if name not in self.files and name != RUN:
                (self.path / name).unlink(missing_ok=True)
        whole = {"schema": 1, **document, "files": sorted([*self.files, RUN])}
        with whole_file(self.path / RUN) as part:
            part.write_text(json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        return self.path / RUN


@contextlib.contextmanager
def sole_writer(folder: Path, option: str) -> Iterator[None]:
    """One process at a time, for a folder that appears only when it is complete: the lock lies beside it.

    Raises:
        GradlensError: another process is making the folder.
    """
    path = folder.with_name(f"{LOCK}-{folder.name}")
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _lock(path, folder, option)
    try:
        yield
    finally:
        _free(path, handle)
        with contextlib.suppress(OSError):  # what fails before it writes anything leaves no empty folders
            for parent in made:
                parent.rmdir()


def _free(path: Path, handle: int) -> None:
    """Give the lock back: first unlinked, then released, see :func:`_lock`."""
    path.unlink(missing_ok=True)
    os.close(handle)


def _lock(path: Path, folder: Path, option: str) -> int:
    """Take the lock file or say what it locks. The system frees it when its holder ends, however it ends."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if sys.platform == "win32":
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise GradlensError(
                f"{folder}: another run is writing here; wait for it to end, or give this one its own {option}"
            ) from None
        try:
            # the holder before us may have removed the file between our open and our lock
            if os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)


def _listed(path: Path) -> list[str]:
    """The files that an earlier run listed; nothing outside its folder, whatever the list says."""
    try:
        files = json.loads(path.read_text(encoding="utf-8")).get("files", [])
    except (OSError, ValueError, AttributeError):
        return []
    names = [f for f in files if isinstance(f, str)]
    return [n for n in names if not PurePosixPath(n).is_absolute() and ".." not in PurePosixPath(n).parts]
