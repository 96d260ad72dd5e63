"""What ``--target`` means: ``predicted``, ``second``, ``true``, a class, an index, ``top:K``, ``contrast:A/B``.

The words come before classes of the same name; such a class is reached by its index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from gradlens.errors import InputError, NotFoundError
from gradlens.records import LoadedModel

Labels = Sequence[str | None]
Pick = Callable[[torch.Tensor, Labels], torch.Tensor]  # (N, K) logits and N labels -> (N,) class indices
RANKS = {"predicted": 1, "second": 2}
CONTRAST = "contrast:"


@dataclass(frozen=True)
class Ask:
    """One target per image.

    Attributes:
        words: for a title.
        pick: which class it is in each image.
        against: which class it is contrasted with, if any.
    """

    words: str
    pick: Pick
    against: Pick | None = None


def asks(specs: Sequence[str], model: LoadedModel) -> list[Ask]:
    """What the target options mean for a model.

    Raises:
        NotFoundError: no such class.
        InputError: a rank or a contrast that makes no sense.
    """
    found = []
    for spec in specs:
        if spec.startswith("top:"):
            found += _top(spec, model)
        elif spec.startswith(CONTRAST):
            one, other = _sides(spec, model)
            pick, against = _pick(one, model), _pick(other, model)
            found.append(Ask(f"{_words(one, model)} rather than {_words(other, model)}", pick, against))
        else:
            words = _words(spec, model)
            found.append(Ask(words if spec in (*RANKS, "true") else f"class {words}", _pick(spec, model)))
    return found


def _top(spec: str, model: LoadedModel) -> list[Ask]:
    count = spec.removeprefix("top:")
    if not count.isdigit() or not 1 <= int(count) <= len(model.classes):
        raise InputError(f"--target {spec}: expected top:K with K in 1..{len(model.classes)}")
    return [Ask("predicted class" if k == 1 else f"class ranked {k}", _ranked(k)) for k in range(1, int(count) + 1)]


def _sides(spec: str, model: LoadedModel) -> tuple[str, str]:
    """A and B of ``contrast:A/B``. Class names may contain slashes: the split is where both sides mean something."""
    text = spec.removeprefix(CONTRAST)
    splits = [(text[:i], text[i + 1 :]) for i, letter in enumerate(text) if letter == "/"]
    sound = [(a, b) for a, b in splits if _means(a, model) and _means(b, model)]
    if len(sound) == 1:
        return sound[0]
    if len(sound) > 1:
        raise InputError(f"--target {spec} can be read in {len(sound)} ways; name the classes by their index")
    if len(splits) == 1:
        for side in splits[0]:
            if not _means(side, model):
                raise NotFoundError(f"class of {model.name}", side, model.classes)
    raise InputError(
        f"--target {spec}: expected contrast:A/B, where A and B are predicted, second, true, a class or an index"
    )


def _means(word: str, model: LoadedModel) -> bool:
    return word in RANKS or word == "true" or word in model.classes or _is_index(word, model)


def _is_index(word: str, model: LoadedModel) -> bool:
    return word.isdecimal() and int(word) < len(model.classes)


def _words(spec: str, model: LoadedModel) -> str:
    if spec in (*RANKS, "true"):
        return f"{spec} class"
    return spec if spec in model.classes or not _is_index(spec, model) else model.classes[int(spec)]


def _pick(spec: str, model: LoadedModel) -> Pick:
    if spec in RANKS:
        if len(model.classes) < RANKS[spec]:
            raise InputError(f"--target {spec}: {model.name} has {len(model.classes)} class")
        return _ranked(RANKS[spec])
    if spec == "true":
        return lambda logits, labels: torch.tensor([_true(label, model) for label in labels], device=logits.device)
    if spec in model.classes:
        index = model.classes.index(spec)
    elif _is_index(spec, model):
        index = int(spec)
    else:
        raise NotFoundError(f"class of {model.name}", spec, model.classes)
    return lambda logits, labels: torch.full((len(labels),), index, device=logits.device)


def _ranked(k: int) -> Pick:
    return lambda logits, labels: logits.topk(k, dim=1).indices[:, k - 1]


def _true(label: str | None, model: LoadedModel) -> int:
    if label is None:
        raise InputError("--target true: expected labelled images, but these have no labels; use predicted or a class")
    if label not in model.classes:
        raise NotFoundError(f"class of {model.name}", label, model.classes)
    return model.classes.index(label)
