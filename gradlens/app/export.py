"""A folder that runs as a hosted Gradio Space: the page, the chosen checkpoints, and what pictures are compared with.

gradlens itself is copied in, so that what runs there is what was exported, whether or not it can be installed there.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from PIL import Image

import gradlens
from gradlens.app.cards import render
from gradlens.app.familiar import Reference, file_name
from gradlens.app.serve import import_gradio
from gradlens.app.service import Service
from gradlens.app.settings import Settings, size_in_words
from gradlens.errors import InputError
from gradlens.runtime import Runtime, whole_folder
from gradlens.zoo.checkpoints import WEIGHTS, read_card

SPACE = "space.json"
RUN_FILES = ("run.json", "summary.csv", "gaps.csv")  # what the table of a run is made of


def export_space(settings: Settings, runtime: Runtime, folder: Path) -> Path:
    """Write the folder.

    Args:
        settings: what the page shows; every model must have a checkpoint folder.
        runtime: where the in-distribution images are run, unless that was done before.
        folder: new, or empty.

    Returns:
        The folder: ``app.py``, ``requirements.txt``, ``README.md`` with its front matter, ``space.json``,
        ``gradlens/``, ``checkpoints/``; and where there is something to put there ``references/``, ``examples/``,
        ``run/``.

    Raises:
        InputError: the folder holds something, or a model has no checkpoint folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"expected a new or empty folder to export to, got {folder}; remove it or name another one")
    import_gradio(offline=True)  # its version goes into the folder
    service = Service(settings, runtime)
    if without := [name for name in settings.models if name not in service.folders]:
        raise InputError(
            f"expected models with a checkpoint folder, which {', '.join(without)} has not; "
            "make one with: gradlens zoo import"
        )
    names = _names(service.folders)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_dir():
        folder.rmdir()
    with whole_folder(folder) as place:
        _copy_package(place / "gradlens")
        for name, source in service.folders.items():
            shutil.copytree(source, place / "checkpoints" / names[name])
        has_run = settings.run is not None and _copy_run(settings.run, place / "run")
        examples = service.examples()
        for i, one in enumerate(examples, start=1):
            path = place / "examples" / f"{i:02d} {one.name.replace('/', '-')}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(one.pixels).save(path)
        sources = _write_references(service, names, place / "references")
        told = {
            "models": list(names.values()),
            "memory": settings.memory,
            "concurrency": settings.concurrency,
            "max_upload": settings.max_upload,
            "title": settings.title,
            "examples": bool(examples),
            "run": has_run,
        }
        (place / SPACE).write_text(json.dumps({"schema": 1, **told}, indent=2, ensure_ascii=False) + "\n", "utf-8")
        (place / "app.py").write_text(render("space.py.j2"), "utf-8")
        (place / "requirements.txt").write_text("\n".join(_requirements()) + "\n", "utf-8")
        (place / "README.md").write_text(_readme(service, names, sources, told), "utf-8")
    return folder


def space_settings(folder: Path) -> Settings:
    """The settings of an exported folder.

    Raises:
        InputError: it is none.
    """
    path = folder / SPACE
    try:
        told = json.loads(path.read_text("utf-8"))
        return Settings(
            models=tuple(map(str, told["models"])),
            zoo=folder / "checkpoints",
            memory=int(told["memory"]),
            concurrency=int(told["concurrency"]),
            images=(folder / "examples",) if told["examples"] else (),
            references=folder / "references",
            run=folder / "run" if told["run"] else None,
            max_upload=int(told["max_upload"]),
            title=str(told["title"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise InputError(
            f"{path}: expected what gradlens app --export writes, got {type(err).__name__}: {err}"
        ) from err


def _names(folders: dict[str, Path]) -> dict[str, str]:
    """What each model is called in the export: its name in the zoo, or its folder's name."""
    names = {name: name if not Path(name).is_dir() else Path(name).resolve().name for name in folders}
    if len(set(names.values())) < len(names):
        raise InputError(f"two of the models would have the same name: {', '.join(sorted(names.values()))}")
    return names


def _copy_package(place: Path) -> None:
    source = Path(gradlens.__file__).parent
    shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__", "_bundled", ".*"))


def _copy_run(run: Path, place: Path) -> bool:
    place.mkdir()
    for name in RUN_FILES:
        if (run / name).is_file():
            shutil.copyfile(run / name, place / name)
    return True


def _write_references(service: Service, names: dict[str, str], place: Path) -> list[str]:
    """Write what each model gave for its in-distribution set, where that is at hand; names of the sets."""
    sources = []
    for name in service.runtime.progress(list(names), "in-distribution images", unit="model"):
        made = service.references.of(name)
        if isinstance(made, Reference):
            made.save(place / file_name(names[name]))
            sources.append(made.source)
        else:
            service.runtime.say(f"{name}: no warning about unfamiliar pictures there: {made}")
    return list(dict.fromkeys(sources))


def _requirements() -> list[str]:
    """What gradlens needs, and the Gradio of this export. No display there, so OpenCV without its windows."""
    wanted = [r for r in map(Requirement, requires("gradlens") or []) if r.marker is None]
    lines = [str(r).replace("opencv-python", "opencv-python-headless") for r in wanted]
    return [*sorted(lines), f"gradio=={version('gradio')}"]


def _readme(service: Service, names: dict[str, str], sources: list[str], told: dict[str, Any]) -> str:
    cards = {names[name]: read_card(folder) for name, folder in service.folders.items()}
    licences = {card.licence for card in cards.values()}
    size = sum((folder / WEIGHTS).stat().st_size for folder in service.folders.values() if (folder / WEIGHTS).is_file())
    return render(
        "space.md.j2",
        title=json.dumps(service.settings.title, ensure_ascii=False),  # quoted, as YAML reads it too
        heading=service.settings.title,
        gradio=version("gradio"),
        licence="apache-2.0" if licences == {"Apache-2.0"} else "other",
        cards=cards,
        sources=sources,
        size=size_in_words(size),
        told=told,
        version=gradlens.__version__,
    )
