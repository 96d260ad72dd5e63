"""The page of a run: one HTML file, built from the run's files alone, that opens without a network."""

from gradlens.report.page import Section, build, index

__all__ = ["Section", "build", "index"]
