"""Puts the zoo, the probe sets and the studies into the wheel, as ``gradlens/_bundled/``.

An editable installation reads them from the source tree, so nothing is copied there. What a source tree does not have
(a sparse clone, say) is left out of the wheel with a remark: the package works without, with folders of one's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUNDLED = ("checkpoints/vehicles", "checkpoints/twins", "probe_sets", "studies")  # all that the demo needs
# file by file, so that the leavings of an interrupted training or of a file browser stay behind
KINDS = {".toml", ".csv", ".json", ".md", ".safetensors", ".jpg", ".png"}


class Bundle(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the files of ``BUNDLED`` to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds; ``version`` is ``"standard"`` or ``"editable"``."""
        if version == "editable":
            return
        for folder in BUNDLED:
            files = [
                path
                for path in sorted(Path(self.root, folder).rglob("*"))
                if path.is_file() and path.suffix in KINDS and not path.name.startswith(".")
            ]
            if not files:
                self.app.display_warning(f"{folder} is empty: this wheel comes without it")
            for file in files:
                build_data["force_include"][str(file)] = f"gradlens/_bundled/{file.relative_to(self.root).as_posix()}"
