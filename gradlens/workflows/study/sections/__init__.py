"""What studies tell at their end: one file per section, named below.

To add one, write a function under ``@section`` in a file of its own here; study files name it under ``sections``.
"""

from __future__ import annotations

from importlib import import_module

from gradlens.workflows.study.section import SECTIONS, Course, Section, Trained

for _file in (
    *("classes", "curves", "stability", "report", "confusion_pairs", "paired", "transfer"),
    *("costs", "efficiency", "recommendation", "cam_depths"),
):
    import_module(f"{__name__}.{_file}")

__all__ = ["SECTIONS", "Course", "Section", "Trained"]
