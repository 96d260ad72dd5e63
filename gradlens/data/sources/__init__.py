"""SOURCE, as commands take it, to an image set: one function, one file per kind of source beside it."""

from __future__ import annotations

from pathlib import Path

from gradlens.data.folders import images_from_paths, open_folder
from gradlens.data.image_set import ImageSet, decoded
from gradlens.errors import InputError, NotFoundError

__all__ = ["ImageSet", "decoded", "images_from_paths", "open_source"]

FORMS = (
    "a SOURCE is a probe set's name, a folder, a .parquet, .npz or .tar file, "
    "torchvision:NAME:SPLIT[:ROOT] or hf:REPO[:CONFIG]:SPLIT"
)


def open_source(spec: str, *, offline: bool = False) -> ImageSet:
    """The image set that a SOURCE names.

    Args:
        spec: one of the forms of :data:`FORMS`.
        offline: look nothing up on a network.

    Raises:
        NotFoundError: there is nothing of that name.
        InputError: there is, and it is not what it should be.
    """
    path = Path(spec)
    if path.is_dir():
        return open_folder(path)
    if path.suffix == ".parquet" and path.exists():
        from gradlens.data.sources.parquet import open_parquet

        return open_parquet(path)
    if path.exists():
        raise InputError(f"{spec}: {FORMS}")
    raise NotFoundError("image set", spec, hint=FORMS)
