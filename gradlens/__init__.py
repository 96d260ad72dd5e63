"""gradlens: where image classifiers look, at every depth, and how much of their score survives outside their own data.

Importing this package does nothing and imports nothing heavy; see ``gradlens --help``.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("gradlens")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> object:
    # these import torch, so only when somebody asks for them
    if name == "explain":
        from gradlens.cam.engine import explain

        return explain
    if name == "Contrast":
        from gradlens.cam.targets import Contrast

        return Contrast
    raise AttributeError(f"module 'gradlens' has no attribute {name!r}")
