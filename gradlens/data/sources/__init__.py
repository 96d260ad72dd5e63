"""SOURCE, as commands take it, to an image set: one function, one file per kind of source beside it."""

from __future__ import annotations

from pathlib import Path

from gradlens.data import probe_sets
from gradlens.data.decode import EXTENSIONS
from gradlens.data.folders import images_from_paths, open_folder
from gradlens.data.image_set import ImageSet, decoded
from gradlens.errors import InputError, NotFoundError
from gradlens.runtime import Runtime

__all__ = ["FORMS", "ImageSet", "decoded", "images_from_paths", "open_source"]

FORMS = (
    "a probe set's name, a folder, a .parquet, .npz or .tar file, torchvision:NAME:SPLIT[:ROOT], "
    "hf:REPO[:CONFIG]:SPLIT, each with @MAP.toml to map classes and +CORRUPTION-SEVERITY to corrupt images"
)


def open_source(spec: str, *, offline: bool = False, runtime: Runtime | None = None) -> ImageSet:
    """The image set that a SOURCE names.

    Args:
        spec: one of the forms of :data:`FORMS`. A probe set's name is looked up before a path of the same name;
            ``./name`` is always the path.
        offline: look nothing up on a network.
        runtime: shows the progress of a set that must be rendered first.

    Raises:
        NotFoundError: there is nothing of that name.
        InputError: there is, and it is not what it should be.
        InstallationError: the source needs a package that is not installed.
    """
    if "+" in spec and spec not in probe_sets.known() and not Path(spec).exists():
        from gradlens.data.derived import corrupted, of_scenes, split_spec

        if (parts := split_spec(spec)) is not None:
            origin = open_source(parts[0], offline=offline, runtime=runtime)
            return of_scenes(corrupted(origin, *parts[1:], seed=runtime.seed if runtime else 0))
    source, at, mapping = spec.rpartition("@")
    if not (at and source and mapping.endswith(".toml")) or Path(spec).exists():
        return _open(spec, offline, runtime)
    from gradlens.data.sources.mapping import ClassMap, map_classes

    return map_classes(_open(source, offline, runtime), ClassMap.read(Path(mapping)), mapping)


def _open(spec: str, offline: bool, runtime: Runtime | None) -> ImageSet:
    if spec.startswith(("torchvision:", "hf:")):
        from gradlens.data.sources import hub

        return hub.open_torchvision(spec, offline) if spec.startswith("torchvision:") else hub.open_hub(spec, offline)
    if not spec:
        raise InputError(f"expected {FORMS}; got an empty name")
    sets = probe_sets.known()
    if spec in sets:
        return probe_sets.open_probe_set(sets[spec], runtime)
    path = Path(spec)
    if path.is_dir():
        has_manifest = (path / probe_sets.MANIFEST).is_file()
        return probe_sets.open_probe_set(path, runtime) if has_manifest else open_folder(path)
    if spec.endswith(".tar") and (path.exists() or "{" in spec):
        from gradlens.data.sources.tar import open_tar

        return open_tar(spec)
    if not path.exists():
        raise NotFoundError("image set", spec, sets, hint=f"a SOURCE is {FORMS}")
    if path.suffix == ".parquet":
        from gradlens.data.sources.parquet import open_parquet

        return open_parquet(path)
    if path.suffix == ".npz":
        from gradlens.data.sources.npz import open_npz

        return open_npz(path)
    if path.suffix.lower() in EXTENSIONS:
        raise InputError(
            f"{spec}: one image is not an image set; put it into a folder, or: gradlens cam --image {spec}"
        )
    raise InputError(f"{spec}: expected {FORMS}; got a file that ends in {path.suffix or 'nothing'}")
