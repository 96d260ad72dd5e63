"""How far models agree about one picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from gradlens.app.looking import Look


@dataclass(frozen=True)
class Agreement:
    """What several models say together.

    Attributes:
        votes: class and number of models that predict it, most first; of equals the one with more probability.
        models: how many voted.
        pairs, same: pairs of models, and those that predict the same class.
        overlap: mean over pairs of Σ_c min(p_c, q_c) over the classes that both know, in [0, 1]: 1 where the
            probabilities are the same; 0 with fewer than two models.
    """

    votes: tuple[tuple[str, int], ...]
    models: int
    pairs: int
    same: int
    overlap: float


def agreement(looks: Sequence[Look]) -> Agreement:
    """Votes, and how alike the models are two by two. Classes are matched by name."""
    votes = Counter(look.prediction for look in looks)
    mass: Counter[str] = Counter()
    for look in looks:
        mass.update(dict(look.top(len(look.classes))))
    order = sorted(votes, key=lambda c: (-votes[c], -mass[c], c))
    pairs = list(combinations(looks, 2))
    return Agreement(
        votes=tuple((c, votes[c]) for c in order),
        models=len(looks),
        pairs=len(pairs),
        same=sum(a.prediction == b.prediction for a, b in pairs),
        overlap=fmean(_overlap(a, b) for a, b in pairs) if pairs else 0.0,
    )


def _overlap(a: Look, b: Look) -> float:
    p, q = dict(a.top(len(a.classes))), dict(b.top(len(b.classes)))
    return sum(min(p[c], q[c]) for c in p.keys() & q.keys())
