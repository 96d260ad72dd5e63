"""What a run says in sentences, as a page shows it: short names, and what holds for several sets said once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradlens.report import answers
from gradlens.report.run_files import Analysed, Run

SHOWN = 4  # findings of an analysis; the others are folded


@dataclass(frozen=True)
class Words:
    """What an analysis found.

    Attributes:
        findings: the first of them; more: the others.
        notes: what limits them.
    """

    findings: tuple[str, ...]
    more: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Reply:
    """The answer to a reviewer's question.

    Attributes:
        text: what is said of everything.
        by_set: (sets, what is said of each of them).
    """

    text: str
    by_set: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Asked:
    """What a study set out to find, and what it found.

    Attributes:
        question: as its file puts it.
        findings: of the sections that answer it; none where no section was named, or none could be done.
    """

    question: str
    findings: tuple[str, ...]


def asked(run: Run, names: Mapping[str, str]) -> Asked | None:
    """The question of the study that a run belongs to; ``None`` where it belongs to none."""
    study = run.about.get("study")
    if not isinstance(study, dict) or not study.get("question"):
        return None
    answering = study.get("answer")
    order = answering if isinstance(answering, list) else []
    findings = [text for name in order for one in run.analyses if one.name == name for text in one.findings]
    return Asked(str(study["question"]), tuple(shorten(text, names) for text in findings[:SHOWN]))


def short_names(run: Run) -> dict[str, str]:
    """Full name -> what the page calls it, of models and probe sets."""
    sets = answers.short_sets(run.datasets)
    return answers.short_models(run.models) | {name: sets[name] for name in run.probes if name in sets}


def shorten(text: str, names: Mapping[str, str]) -> str:
    """``text`` with every full name in it as the page calls it."""
    full = sorted((name for name in names if names[name] != name), key=len, reverse=True)
    if not full:
        return text
    pattern = rf"(?<![\w/-])(?:{'|'.join(map(re.escape, full))})(?![\w/-])"
    return re.sub(pattern, lambda found: names[found[0]], text)


def words(one: Analysed, names: Mapping[str, str]) -> Words:
    """An analysis's sentences; a note that begins with the analysis's own name loses it."""
    own = re.compile(rf"{re.escape(one.name.replace('_', ' '))}: ")
    findings = [shorten(text, names) for text in one.findings]
    notes = [shorten(own.sub("", text, count=1) if own.match(text) else text, names) for text in one.notes]
    return Words(tuple(findings[:SHOWN]), tuple(findings[SHOWN:]), tuple(notes))


def reply(text: str, sets: Sequence[str], names: Mapping[str, str]) -> Reply:
    """An answer in parts: ``night: the same classes. crop: the same classes.`` is one line about both sets.

    Args:
        text: the answer as the file has it.
        sets: names that a sentence about one set begins with.
        names: full name -> what the page calls it.
    """
    starts = "|".join(re.escape(name) for name in sorted(sets, key=len, reverse=True))
    parts = re.split(rf"(?:^|(?<=\. ))(?=(?:{starts}): )", text) if sets else [text]
    parts = [part for part in parts if part]
    said = {name: part[len(name) + 2 :] for part in parts for name in sets if part.startswith(f"{name}: ")}
    if len(said) < 2 or len(said) + 1 < len(parts):
        return Reply(shorten(text, names), ())
    rest = [part for part in parts if not any(part.startswith(f"{name}: ") for name in sets)]
    last = list(said)[-1]
    if all(". " not in own.rstrip(". ") for name, own in said.items() if name != last):
        own, mark, after = said[last].partition(". ")  # what follows the last set is said of all
        said[last] = own + mark
        rest.append(after)
    grouped: dict[str, list[str]] = {}
    for name, own in said.items():
        grouped.setdefault(own.strip().rstrip("."), []).append(name)
    lines = []
    for own, of in grouped.items():
        who = f"all {len(sets)} sets" if len(of) == len(sets) > 2 else ", ".join(names.get(name, name) for name in of)
        lines.append((who, shorten(own, names)))
    return Reply(shorten(" ".join(filter(None, rest)).strip(), names), tuple(lines))
