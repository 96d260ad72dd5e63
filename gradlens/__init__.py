"""gradlens: where image classifiers look, at every depth, and how much of their score survives outside their own data.

Importing this package does nothing and imports nothing heavy; see ``gradlens --help``.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("gradlens")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
