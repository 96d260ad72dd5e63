"""What a run keeps of its images, for its page: samples with their maps at all depths, failures, what each set holds.

Everything lies in ``images/``: photographs as small WebP tiles, maps as 8-bit greyscale at the resolution they have
(many to a PNG, see :func:`gradlens.report.tiles.packed`), and ``index.json``, which says what is where.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from gradlens.data.headers import native_size
from gradlens.data.image_set import sha256_of
from gradlens.data.preprocess import crop_box, to_pixels
from gradlens.data.sources import ImageSet, decoded
from gradlens.errors import DepthError, InputError, ModelError
from gradlens.records import HookPoint, Preprocess, Skipped
from gradlens.report.tiles import Box, packed, photograph
from gradlens.runtime import whole_file
from gradlens.shift.explanation_shift import balanced
from gradlens.shift.store import different, safe_stem
from gradlens.workflows.measure.analyses import Outcome, Subject
from gradlens.workflows.measure.image_maps import Drawn, look
from gradlens.workflows.measure.maps import answered, by_class, class_of
from gradlens.workflows.run_folder import RunFolder

FOLDER = "images"
INDEX = f"{FOLDER}/index.json"
FAILURES = 300  # images of failures at most: what a page can hold beside everything else
SHEET = 24  # images of a set on its sheet
EXAMINED = 20_000  # images of a set whose size and content are compared; more are a sample
SIDES = {"sample": 128, "failure": 96, "sheet": 72}  # pixels a side at most of a photograph, by what it is for

Place = tuple[str, str]
"""An image: the set's name and the image's id."""


@dataclass(frozen=True)
class _Photographs:
    """What is kept of images.

    Attributes:
        entries: what the index says of each.
        inputs: by geometry what a network sees of each, uint8 (3, h, w), where one will look.
        unreadable: those that cannot be read again.
    """

    entries: dict[Place, dict[str, Any]] = field(default_factory=dict)
    inputs: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    unreadable: list[dict[str, str]] = field(default_factory=list)


def leave(run: RunFolder, subject: Subject, outcomes: Mapping[str, Outcome]) -> None:
    """Write ``images/`` into the run's folder; without pictures where ``--images 0`` was asked for.

    Args:
        run: the folder.
        subject: an evaluation whose models and images are at hand.
        outcomes: of its analyses, which say what failed.
    """
    evidence, count = subject.evidence, subject.request.images
    sets = {**evidence.images, **evidence.unlabelled_images}
    photographs, pictured = _Photographs(), _Pictured()
    scenes: list[dict[str, str]] = []
    sheets: dict[str, list[Place]] = {}
    if count:
        scenes, failures = _scenes(subject, count), _failures(outcomes)
        sheets = {s.name: _sheet(s, subject.runtime.seed) for s in sets.values()}
        uses = {
            "sample": [place for scene in scenes for place in scene.items()],
            "failure": list(failures),
            "sheet": [place for some in sheets.values() for place in some],
        }
        _photograph(run, subject, sets, uses, photographs)
        _picture(run, subject, photographs, scenes, failures, pictured)
    number = {place: entry["id"] for place, entry in photographs.entries.items()}
    document = {
        "schema": 1,
        "samples": list(photographs.entries.values()),
        "scenes": [{name: number[name, key] for name, key in s.items() if (name, key) in number} for s in scenes],
        "geometries": {n.name: _geometry(n.preprocess) for n in evidence.networks.values()},
        **asdict(pictured),
        "unreadable": photographs.unreadable,
        "sets": [_of_set(s, [number[p] for p in sheets.get(s.name, []) if p in number]) for s in sets.values()],
    }
    with whole_file(run.file(INDEX)) as part:
        part.write_text(json.dumps(document, allow_nan=False, separators=(",", ":")) + "\n", encoding="ascii")


# --- which images ----------------------------------------------------------------------------------------------------


def _scenes(subject: Subject, count: int) -> list[dict[str, str]]:
    """``count`` images in distribution, of different classes as far as there are, each with one of every probe set: of
    the same scene, or else of the same class. Set -> id; drawn by id and seed among the scenes most sets can show.
    """
    evidence, seed = subject.evidence, subject.runtime.seed
    home = evidence.images[subject.in_dist]
    probes = [evidence.images[name] for name in subject.probes]
    partners: dict[str, dict[str, list[str]]] = {}
    others: dict[str, dict[str, list[str]]] = {}
    for probe in probes:
        places = answered(evidence, probe)
        others[probe.name] = by_class(probe, places)
        if probe.paired_with == home.name:
            own = partners.setdefault(probe.name, {})
            for i in places:
                if (pair := probe.samples[i].pair) is not None:
                    own.setdefault(pair, []).append(probe.samples[i].id)
    there = {home.samples[i].id: i for i in answered(evidence, home)}
    seen_in = {
        name: sum(name in partners[p] if p in partners else class_of(home, i) in others[p] for p in others)
        for name, i in there.items()
    }
    most = max(seen_in.values(), default=0)
    everywhere = [i for name, i in there.items() if seen_in[name] == most]
    scenes: list[dict[str, str]] = []
    for name in balanced(by_class(home, everywhere), count, seed):
        scene = {home.name: name}
        for probe in probes:
            alike = others[probe.name].get(class_of(home, there[name]), [])
            candidates = partners[probe.name].get(name, []) if probe.name in partners else alike
            unused = [c for c in candidates if all(s.get(probe.name) != c for s in scenes)]
            if candidates:
                scene[probe.name] = balanced({"": unused or candidates}, 1, seed)[0]
        scenes.append(scene)
    return scenes


def _explored(subject: Subject, scenes: Sequence[Mapping[str, str]]) -> list[Place]:
    """The samples whose channels are kept: in distribution, and in the probe set where most accuracy is lost."""
    lost: dict[str, list[float]] = {}
    for g in subject.found.gaps:
        if (g.metric, g.label_space) == ("accuracy", "shared") and g.gap.defined:
            lost.setdefault(g.probe, []).append(g.gap.value)
    hardest = max(lost, key=lambda name: (sum(lost[name]) / len(lost[name]), name), default="")
    return [(name, scene[name]) for scene in scenes for name in (subject.in_dist, hardest) if name in scene]


def _failures(outcomes: Mapping[str, Outcome]) -> dict[Place, set[str]]:
    """At most :data:`FAILURES` images out of ``failures.csv`` with the models that fail on each (none named: all do).

    The first image of every kind, model and set, then the second of each, and so on.
    """
    if "failures" not in outcomes:  # --analyses left it out
        return {}
    _, rows = outcomes["failures"].tables.get("failures.csv", ((), ()))
    groups: dict[tuple[str, str, str], list[Place]] = {}
    models: dict[Place, set[str]] = {}
    everywhere = set()
    for row in rows:
        place = row["dataset"], row["id"]
        groups.setdefault((row["kind"], row["model"], row["dataset"]), []).append(place)
        if row["kind"] == "wrong in every model":
            everywhere.add(place)
        models.setdefault(place, set()).add(row["model"])
    chosen: dict[Place, set[str]] = {}
    for turn in range(max(map(len, groups.values()), default=0)):
        for own in groups.values():
            if turn < len(own) and len(chosen) < FAILURES:
                chosen[own[turn]] = set() if own[turn] in everywhere else models[own[turn]]
    return chosen


def _sheet(images: ImageSet, seed: int) -> list[Place]:
    """Two images of each class, as far as a sheet has room, class by class."""
    known = [i for i, s in enumerate(images.samples) if s.label is not None and images.classes]
    groups = by_class(images, known) if known else {"": [s.id for s in images.samples]}
    most = SHEET if not known else min(SHEET, 2 * len(groups))
    chosen = set(balanced(groups, most, seed))
    return [(images.name, name) for own in groups.values() for name in sorted(chosen.intersection(own))]


# --- photographs -----------------------------------------------------------------------------------------------------


def _geometry(preprocess: Preprocess) -> str:
    """In words what decides which part of an image a network sees, and at what size."""
    height, width = preprocess.size
    return f"{width}x{height} {preprocess.interpolation} {preprocess.crop_mode} {preprocess.crop_pct:g}"


def _photograph(
    run: RunFolder,
    subject: Subject,
    sets: Mapping[str, ImageSet],
    uses: Mapping[str, Sequence[Place]],
    photographs: _Photographs,
) -> None:
    """Decode every image that is kept once; write its tile, and hold what the networks will see of it."""
    use: dict[Place, str] = {}
    for name, places in uses.items():
        for place in places:
            use.setdefault(place, name)  # the first use needs the largest tile
    geometries = {_geometry(n.preprocess): n.preprocess for n in subject.evidence.networks.values()}
    for name, images in sets.items():
        row = {s.id: i for i, s in enumerate(images.samples)}
        wanted = [key for dataset, key in use if dataset == name]
        chosen = images.subset([row[key] for key in wanted])
        for k, pixels in decoded(chosen, subject.runtime.workers, subject.runtime):
            place = name, wanted[k]
            if isinstance(pixels, Skipped):
                photographs.unreadable.append({"path": pixels.path, "reason": pixels.reason})
                continue
            number = f"{len(photographs.entries):04d}"
            height, width = pixels.shape[:2]
            label = chosen.samples[k].label
            looked_at = {} if use[place] == "sheet" else geometries
            entry = photographs.entries[place] = {
                "id": number,
                "dataset": name,
                "key": wanted[k],
                "label": chosen.classes[label] if label is not None and chosen.classes else None,
                "width": width,
                "height": height,
                "use": use[place],
                "crops": {g: _crop(p, height, width) for g, p in looked_at.items()},
                "file": f"{FOLDER}/photographs/{number}.webp",
            }
            photographs.inputs[number] = {g: to_pixels(p, pixels) for g, p in looked_at.items()}
            with whole_file(run.file(entry["file"])) as part:
                part.write_bytes(photograph(pixels, SIDES[use[place]]))


def _crop(preprocess: Preprocess, height: int, width: int) -> list[float]:
    """The part that a network sees: left, top, right, bottom as shares of the image's width and height."""
    top, left, bottom, right = crop_box(preprocess, height, width)
    return [round(v, 5) for v in (left / width, top / height, right / width, bottom / height)]


# --- maps ------------------------------------------------------------------------------------------------------------


@dataclass
class _Pictured:
    """What the index says of maps.

    Attributes:
        depths: by model, those at which samples have maps; reading: the one at which failures have theirs.
        maps, features: one row each; see :class:`gradlens.workflows.measure.image_maps.Drawn`.
        refused: models that have no maps, and why.
    """

    depths: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    reading: dict[str, str] = field(default_factory=dict)
    maps: list[dict[str, Any]] = field(default_factory=list)
    features: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)


def _picture(
    run: RunFolder,
    subject: Subject,
    photographs: _Photographs,
    scenes: Sequence[Mapping[str, str]],
    failures: Mapping[Place, set[str]],
    pictured: _Pictured,
) -> None:
    """Maps of every model: of the samples at all depths, of its failures at one, and the channels of some samples."""
    entries = photographs.entries
    samples = [entries[p]["id"] for scene in scenes for p in scene.items() if p in entries]
    explored = [entries[p]["id"] for p in _explored(subject, scenes) if p in entries]
    there = [(entries[p]["id"], models) for p, models in failures.items() if p in entries]
    networks = list(subject.evidence.networks.values())
    stems = different({n.name: safe_stem(n.name) for n in networks})
    for network in subject.runtime.progress(networks, "picturing", unit="model"):
        own = [number for number, models in there if not models or network.name in models]
        inputs = {name: seen[_geometry(network.preprocess)] for name, seen in photographs.inputs.items() if seen}
        try:
            looked = look(network, inputs, samples, own, explored, subject.request, subject.runtime)
        except (DepthError, ModelError) as err:
            pictured.refused.append({"model": network.name, "reason": str(err).partition("\n")[0]})
            continue
        pictured.depths[network.name] = [_depth(p) for p in looked.depths]
        pictured.reading[network.name] = looked.reading
        stem = stems[network.name]
        pictured.maps += _packed(run, f"{FOLDER}/maps/{stem}.png", looked.maps)
        pictured.maps += _packed(run, f"{FOLDER}/failures/{stem}.png", looked.failures)
        pictured.features += _packed(run, f"{FOLDER}/features/{stem}.png", looked.features)


def _depth(point: HookPoint) -> dict[str, Any]:
    return {"name": point.name, "stride": point.stride_text, "shape": list(point.shape), "position": point.position}


def _packed(run: RunFolder, file: str, drawn: Sequence[Drawn]) -> list[dict[str, Any]]:
    """Write the maps that there are into one file, and say of every row where its map lies in it."""
    pixels = [d.pixels for d in drawn if d.pixels is not None]
    boxes: Iterator[Box] = iter(())
    if pixels:
        sheet, places = packed(pixels)
        boxes = iter(places)
        with whole_file(run.file(file)) as part:
            part.write_bytes(sheet)
    return [{**d.row, **({} if d.pixels is None else {"file": file, "box": list(next(boxes))})} for d in drawn]


# --- sets ------------------------------------------------------------------------------------------------------------


def _of_set(images: ImageSet, sheet: Sequence[str]) -> dict[str, Any]:
    """How many images of each class and size a set has, and how many are copies of another of it."""
    chosen = np.arange(len(images))
    if len(images) > EXAMINED:
        chosen = np.unique(np.linspace(0, len(images) - 1, EXAMINED).astype(int))
    sizes: Counter[tuple[int, int]] = Counter()
    contents: set[str] = set()
    examined = 0
    for i in chosen.tolist():
        try:
            encoded = images.store.encoded(images.rows[i])
            size, content = native_size(encoded, images.path(i)), sha256_of(encoded)
        except InputError:
            continue  # listed as skipped when the models were run
        sizes[size] += 1
        contents.add(content)
        examined += 1
    names = images.classes or ()
    counts = np.bincount(images.labels[images.labels >= 0], minlength=len(names))
    return {
        "name": images.name,
        "role": images.role,
        "images": len(images),
        "classes": {name: int(n) for name, n in zip(names, counts, strict=True)},
        "sizes": [[width, height, n] for (width, height), n in sorted(sizes.items(), key=lambda s: (-s[1], s[0]))],
        "examined": examined,
        "copies": examined - len(contents),
        "sheet": list(sheet),
    }
