"""Broken inputs by number, and what became of each: the same ones everywhere, so that a failure has a name."""

from __future__ import annotations

import random
import shutil
import traceback
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from fuzz.mutations import broken
from fuzz.readers import CLEAR, READERS, Case

LONGEST = 2_000  # characters of a message


@cache
def cases(reader: str) -> list[Case]:
    """The reader's valid cases."""
    return READERS[reader].cases()


def case(reader: str, number: int) -> Case:
    """Input ``number`` of a reader: a valid case in which one file is broken. Number 0 and below are the valid ones."""
    known = cases(reader)
    if number <= 0:
        return known[-number % len(known)]
    rng = random.Random(f"{reader}/{number}")
    chosen = dict(rng.choice(known))
    name = rng.choice([n for n in READERS[reader].broken if n in chosen])
    others = [c[name] for c in known if name in c]
    text = READERS[reader].text and not name.endswith((".png", ".safetensors"))
    chosen[name] = broken(rng, chosen[name], others, text)
    return chosen


def outcome(reader: str, given: Case, place: Path) -> tuple[str, str]:
    """``("result", "")``, ``("error", message)`` or, for anything else, ``("failure", what)``."""
    shutil.rmtree(place, ignore_errors=True)
    for name, data in given.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    try:
        READERS[reader].read(place)
    except CLEAR as err:
        message = str(err)
        fault = unclear(message)
        return ("failure", f"{fault}: {message[:300]!r}") if fault else ("error", message)
    except Exception:
        return "failure", traceback.format_exc()
    return "result", ""


def unclear(message: str) -> str:
    """What keeps a message from being one line for a person; empty where nothing does."""
    if not message.strip():
        return "an empty message"
    if len(message) > LONGEST:
        return f"a message of {len(message)} characters"
    return "control characters in a message" if not message.isprintable() else ""


def count(outcomes: Iterable[str]) -> dict[str, int]:
    """How often each kind of outcome came."""
    counts = {"result": 0, "error": 0, "failure": 0}
    for kind in outcomes:
        counts[kind] += 1
    return counts
