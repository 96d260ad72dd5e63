"""Which Python files of checkpoint folders may run: those that somebody at this machine has agreed to, by content.

A checkpoint may bring the file that builds its network (``network.py``, ``head.py``). Loading it runs that file, so a
folder that came from elsewhere would run a stranger's code. It does not: a file runs when a command was given it by
name (``FILE.py:FACTORY``; training or importing with it agrees to the copy in the checkpoint) or when ``gradlens zoo
trust NAME`` has agreed to it. A file that changes by one byte is another file.

Consent lies in the user's own configuration folder and not in the cache: that one may be shared with people whose word
it is not, or emptied.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import platformdirs

from gradlens.errors import CheckpointError
from gradlens.runtime import whole_file


def agree(file: Path) -> None:
    """Let this content run from now on, for this user."""
    with whole_file(_place(file)) as part:
        part.write_text(f"{file.resolve()}\n", encoding="utf-8", errors="backslashreplace")


def require(file: Path) -> None:
    """Refuse a file that nobody has agreed to.

    Raises:
        CheckpointError: nobody has, or there is no such file.
    """
    if not _place(file).is_file():
        raise CheckpointError(
            f"{file.parent} brings Python code ({file.name}) that would run when the model is loaded, and nobody here "
            f"has agreed to it; read the file, then: gradlens zoo trust {file.parent}"
        )


def _place(file: Path) -> Path:
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as err:
        raise CheckpointError(f"{file}: expected a Python file, but it cannot be read: {err.strerror}") from err
    return Path(platformdirs.user_config_dir("gradlens")) / "trusted-code" / digest
