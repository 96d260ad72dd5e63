"""``SOURCE@MAP.toml``: classes renamed, merged or dropped, by name.

.. code-block:: toml

    drop = ["frog"]        # the same as frog = ""
    others = "keep"        # or "drop": what becomes of classes the table does not mention

    [classes]
    automobile = "car"     # two classes may become one
    airplane = "plane"
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from gradlens.data.image_set import ImageSet
from gradlens.errors import InputError, NotFoundError
from gradlens.records import Skipped
from gradlens.runtime import plain_file


class ClassMap(BaseModel):
    """What a mapping file says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: dict[str, str] = {}
    drop: list[str] = []
    others: Literal["keep", "drop"] = "keep"

    @classmethod
    def read(cls, path: Path) -> ClassMap:
        """The mapping in a file.

        Raises:
            InputError: no such file, not TOML, or a field is unknown or wrong.
        """
        try:
            return cls.model_validate(tomllib.loads(plain_file(path).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise InputError(f"{path}: expected a class mapping, but there is no such file") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as err:
            raise InputError(f"{path}: expected a class mapping in TOML: {err}") from err
        except ValidationError as err:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in err.errors())
            raise InputError(f"{path}: {wrong}") from None


def map_classes(image_set: ImageSet, mapping: ClassMap, name: str) -> ImageSet:
    """The set with its classes renamed; images of dropped classes are in ``skipped``.

    Args:
        image_set: a labelled set.
        mapping: what becomes of its classes.
        name: what messages call the mapping.

    Raises:
        InputError: the set has no classes, or none is left.
        NotFoundError: the mapping mentions a class that the set does not have.
    """
    if image_set.classes is None:
        raise InputError(f"{name}: a class mapping needs a labelled set, but {image_set.location} has no labels")
    for mentioned in (*mapping.classes, *mapping.drop):
        if mentioned not in image_set.classes:
            raise NotFoundError(f"class of {image_set.name}", mentioned, image_set.classes, f"mentioned in {name}")
    if both := [c for c in mapping.drop if mapping.classes.get(c)]:
        raise InputError(f"{name}: {both[0]!r} is both renamed and dropped")
    becomes = {
        c: "" if c in mapping.drop else mapping.classes.get(c, c if mapping.others == "keep" else "")
        for c in image_set.classes
    }
    classes = tuple(dict.fromkeys(new for new in becomes.values() if new))
    if not classes:
        raise InputError(f"{name}: drops every class of {image_set.location}")
    position = {c: i for i, c in enumerate(classes)}
    keep: list[int] = []
    labels: list[int | None] = []
    skipped: list[Skipped] = list(image_set.skipped)
    for i, sample in enumerate(image_set.samples):
        old = None if sample.label is None else image_set.classes[sample.label]
        if old is not None and not becomes[old]:
            skipped.append(Skipped(image_set.path(i), f"class {old!r} is dropped by {name}"))
        else:
            keep.append(i)
            labels.append(None if old is None else position[becomes[old]])
    kept = image_set.subset(keep)
    samples = tuple(replace(s, label=label) for s, label in zip(kept.samples, labels, strict=True))
    return replace(kept, classes=classes, samples=samples, skipped=tuple(skipped))
