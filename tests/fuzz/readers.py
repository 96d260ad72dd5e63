"""Every reader of gradlens under one signature, with valid files to start from; all of them are made by code.

A case is a folder of files: name -> bytes. A reader is given the folder, reads all that a command would read of it, and
ends with a result or raises one of :data:`CLEAR`.
"""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save

import runs
from gradlens.cli.zoo import _classes
from gradlens.data import checking
from gradlens.data.decode import decode
from gradlens.data.headers import header
from gradlens.data.image_set import ImageSet
from gradlens.data.probe_sets import open_probe_set
from gradlens.data.sources import open_source
from gradlens.data.sources.mapping import ClassMap, map_classes
from gradlens.errors import GradlensError
from gradlens.records import Preprocess
from gradlens.shift import store
from gradlens.train import recipes
from gradlens.train.loop import _read_state
from gradlens.workflows.study import schema
from gradlens.zoo import checkpoints
from gradlens.zoo.build import build_seeded
from gradlens.zoo.cards import Card, Preprocessing
from gradlens.zoo.weights import read_state_dict

CLEAR = (GradlensError, click.UsageError)
"""What a reader may raise; a usage error is what click makes of a wrong option."""

Case = Mapping[str, bytes]
NAMES = ("ash", "beech", "cedar")


@dataclass(frozen=True)
class Reader:
    """A reader and what it reads.

    Attributes:
        read: (folder of a case) -> anything.
        cases: valid ones.
        broken: names of the files of a case that are broken; the others lie there as they are.
        text: whether these are text.
        cost: how much an input takes; inputs are shared out by its inverse.
        refuses: whether even the valid cases are refused, in one line.
    """

    read: Callable[[Path], object]
    cases: Callable[[], list[Case]]
    broken: tuple[str, ...]
    text: bool = False
    cost: float = 1.0
    refuses: bool = False


# ---------------------------------------------------------------------------------------------- images


def _picture(seed: int, side: int = 12) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side + 3, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """An image as a file's bytes."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def _images(kind: str) -> list[Case]:
    one, two = _picture(1), _picture(2)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [encoded(one, kind)]
    if kind in ("JPEG", "PNG", "WEBP", "AVIF"):
        files.append(encoded(one, kind, exif=exif))
    if kind in ("PNG", "TIFF", "BMP", "GIF", "PPM"):
        files += [encoded(one.convert("1"), kind), encoded(one.convert("L"), kind)]
    if kind in ("PNG", "GIF", "BMP", "TIFF"):
        files.append(encoded(one.convert("P"), kind))
    if kind in ("PNG", "WEBP", "TIFF"):
        files.append(encoded(one.convert("RGBA"), kind))
    if kind in ("PNG", "TIFF", "PPM"):
        files.append(encoded(Image.fromarray(np.arange(150, dtype=np.uint16).reshape(10, 15) * 400), kind))
    if kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        files.append(encoded(one, kind, save_all=True, append_images=[two, one]))
    if kind == "TIFF":
        files += [encoded(one, kind, compression=c) for c in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")]
        files.append(encoded(one.convert("CMYK"), kind))
    if kind == "JPEG":
        files += [encoded(one, kind, progressive=True), encoded(one.convert("CMYK"), kind)]
    return [{"image": file} for file in files]


def _read_image(folder: Path) -> object:
    data = (folder / "image").read_bytes()
    header(data, "image")
    return decode(data, "image"), decode(folder / "image", "image")


def _read_all(images: ImageSet) -> list[object]:
    """Every image, as a run reads it: one that is damaged is skipped with its reason."""
    told: list[object] = [images.fingerprint]
    for i in range(len(images)):
        for read in (images.read, images.mask):
            try:
                told.append(read(i))
            except GradlensError as err:
                told.append(str(err))
    return told


# ---------------------------------------------------------------------------------------------- sources


def _parquet(folder: Path) -> bytes:
    images = [{"bytes": encoded(_picture(i), "PNG"), "path": f"{i}.png"} for i in range(6)]
    table = pa.table(
        {
            "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "label": pa.array([i % 3 for i in range(6)], pa.int64()),
        }
    )
    features = {"image": {"_type": "Image"}, "label": {"names": list(NAMES), "_type": "ClassLabel"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, folder / "a", row_group_size=2)
    return (folder / "a").read_bytes()


def _parquet_of_names(folder: Path) -> bytes:
    images = [encoded(_picture(i), "JPEG") for i in range(4)]
    table = pa.table({"image": pa.array(images, pa.binary()), "label": ["ash", "beech", "ash", None]})
    pq.write_table(table, folder / "b", compression="zstd")
    return (folder / "b").read_bytes()


def _in_folder(*makers: Callable[[Path], bytes]) -> list[bytes]:
    with tempfile.TemporaryDirectory() as place:
        return [make(Path(place)) for make in makers]


def shard(members: Mapping[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar file's bytes."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def _shards() -> list[Case]:
    images = [encoded(_picture(i), "PNG") for i in range(3)]
    numbers = {f"{i}.{e}": d for i in range(3) for e, d in (("png", images[i]), ("cls", str(i).encode()))}
    names = {f"a/{i}.{e}": d for i in range(3) for e, d in (("png", images[i]), ("json", b'{"label": "ash"}'))}
    long = {"x" * 120 + ".png": images[0], "x" * 120 + ".txt": b"beech"}
    classes = "\n".join(NAMES).encode()
    kinds = ((numbers, tarfile.PAX_FORMAT), (names, tarfile.USTAR_FORMAT), (long, tarfile.PAX_FORMAT),
             (long, tarfile.GNU_FORMAT))  # fmt: skip
    return [{"shard.tar": shard(m, k), "classes.txt": classes} for m, k in kinds]


def npz(**arrays: np.ndarray) -> bytes:
    """A NumPy archive's bytes."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def _archives() -> list[Case]:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
    labels = np.arange(5) % 3
    return [
        {"images.npz": npz(images=pixels, labels=labels)},
        {"images.npz": npz(images=pixels[..., 0], labels=np.array(NAMES)[labels], classes=np.array(NAMES))},
        {"images.npz": npz(images=pixels[..., :1])},
    ]


def _source(name: str) -> Callable[[Path], object]:
    return lambda folder: _read_all(open_source(str(folder / name), offline=True))


_MANIFEST = """schema = 1
name = "trees"
title = "Trees"
kind = "images"
role = "probe"
shift = "season"
classes = ["ash", "beech", "cedar"]
images = 3
licence = "CC0"
filtered_by = ["one"]
seed = 3
"""


def _probe_sets() -> list[Case]:
    images = {f"{name}/0.png": encoded(_picture(i), "PNG") for i, name in enumerate(NAMES)}
    table = "path,class,pair,severity,sha256,mask,width,height,codec,season\n" + "".join(
        f"{name}/0.png,{name},,{i},,,15,12,PNG,{i}.5\n" for i, name in enumerate(NAMES)
    )
    tables = {"quarantine.csv": b"path,reason\nx.png,small\n",
              "duplicates.csv": b"path,set,repeats,distance,alike,fine,exact,same_class\n"}  # fmt: skip
    whole = {"probe.toml": _MANIFEST.encode(), "images.csv": table.encode(), **tables, **images}
    return [whole, {k: v for k, v in whole.items() if k != "images.csv"}]


def _read_probe_set(folder: Path) -> object:
    told = _read_all(open_probe_set(folder))
    return told, checking.check(folder)


def _class_maps() -> list[Case]:
    whole = b'drop = ["cedar"]\nothers = "keep"\n[classes]\nash = "tree"\nbeech = "tree"\n'
    return [{"map.toml": whole}, {"map.toml": b'others = "drop"\n[classes]\nash = "x"\n'}]


def _read_class_map(folder: Path) -> object:
    data = npz(images=np.zeros((3, 2, 2), np.uint8), labels=np.arange(3), classes=np.array(NAMES))
    (folder / "images.npz").write_bytes(data)
    images = open_source(str(folder / "images.npz"))
    return map_classes(images, ClassMap.read(folder / "map.toml"), "map.toml")


def _read_class_list(folder: Path) -> object:
    parameter = click.Option(["--classes"])
    context = click.Context(click.Command("import"))
    return [_classes(context, parameter, str(folder / name)) for name in ("classes.txt", "classes.json")]


# ---------------------------------------------------------------------------------------------- predictions


def _predictions(folder: Path) -> list[Case]:
    made = runs.predictions("one", "test", 0.7, 0, n=12, classes=NAMES)
    store.write(folder / "p", made, {"role": "test", "shift": "none"})
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 8)
    table = pa.table(
        {
            "model": ["m"] * 8, "dataset": ["d"] * 8, "index": list(range(8)),
            "label": [NAMES[i % 3] for i in range(8)], "prediction": [NAMES[i] for i in p.argmax(1)],
            "probabilities": pa.array(p.tolist(), pa.list_(pa.float64(), 3)),
        }
    )  # fmt: skip
    pq.write_table(table.replace_schema_metadata({"classes": json.dumps(NAMES)}), folder / "q")
    return [{"p.parquet": (folder / name).read_bytes()} for name in ("p", "q")]


def _prediction_tables() -> list[Case]:
    head = b"model,dataset,path,label,prediction"
    rows = [head, *(f"m,d,{i}.png,{i % 3},{(i * i) % 3}".encode() for i in range(6))]
    names = [head, *(f"m,d,{i}.png,{NAMES[i % 3]},{NAMES[i * i % 3]}".encode() for i in range(6))]
    logits = [b'# classes: ["ash", "beech"]', head + b",logits", b'm,d,a,0,1,"[0.5, 1.25]"', b'm,d,b,1,0,"[2, -1e3]"']
    return [{"p.csv": b"\n".join(lines) + b"\n"} for lines in (rows, names, logits)]


def _cache_part(folder: Path) -> list[Case]:
    outputs = store.Outputs({"a": np.ones(3, np.float32), "b": np.zeros(3, np.float32)}, {"c": "damaged"})
    path = store.OutputStore(folder).save("key", outputs, {"weights": "x"})
    assert path is not None
    return [{"part.parquet": path.read_bytes()}]


def _read_cache_part(folder: Path) -> object:
    known = store.Known([folder / "part.parquet"])
    ids = [i for i in ("a", "b", "c") if known.has_logits(i)]
    return known.logits(ids, 3) if ids else None


def _npz_predictions() -> list[Case]:
    return [{"p.npz": npz(logits=np.eye(3), labels=np.arange(3))}]


# ---------------------------------------------------------------------------------------------- models


@cache
def _network() -> torch.nn.Module:
    return build_seeded("gradlens:custom_cnn", {"widths": [4, 4, 4, 4]}, 3)


def _checkpoints(folder: Path) -> list[Case]:
    card = Card(
        builder="gradlens:custom_cnn", arguments={"widths": [4, 4, 4, 4]}, classes=NAMES,
        preprocess=Preprocessing.of(Preprocess((3, 32, 32))),
    )  # fmt: skip
    checkpoints.save(folder / "one", _network(), card)
    whole = {p.name: p.read_bytes() for p in (folder / "one").iterdir()}
    timm = json.loads(whole["config.json"])
    del timm["gradlens"]
    return [whole, {**whole, "config.json": json.dumps(timm, indent=1).encode()}]


def _read_checkpoint(folder: Path) -> object:
    """As ``zoo list`` and ``zoo show`` do."""
    card = checkpoints.read_card(folder)
    checkpoints.builder_of(card, folder)
    return checkpoints.stale_fields(folder, card)


def _load_checkpoint(folder: Path) -> object:
    return checkpoints.load_folder(folder, "one")


def _weights() -> list[Case]:
    state = {k: v for k, v in _network().state_dict().items() if v.numel() < 200}
    cases = [{"weights": save(state)}]
    for document in (state, {"state_dict": {f"module.{k}": v.half() for k, v in state.items()}}):
        for zipped in (True, False):
            stream = io.BytesIO()
            torch.save(document, stream, _use_new_zipfile_serialization=zipped)
            cases.append({"weights": stream.getvalue()})
    return cases


def _states() -> list[Case]:
    recipe = recipes.load("cifar10", "resnet").model_dump_json()
    stream = io.BytesIO()
    torch.save({"mark": {"recipe": recipe, "data": "x"}, "rates": {}, "history": [], "module": {}}, stream)
    return [{"state.pt": stream.getvalue()}]


def _read_training_state(folder: Path) -> object:
    recipe = recipes.load("cifar10", "resnet")
    return _read_state(folder / "state.pt", {"data": "x"}, recipe)


def _recipes() -> list[Case]:
    places = Path(recipes.__file__).parent / "recipes"
    return [{"recipe.toml": path.read_bytes()} for path in sorted(places.glob("*.toml"))]


def _read_recipe(folder: Path) -> object:
    path = folder / "recipe.toml"
    return [recipes.load(path, model) for model in recipes.models(path)[:3]]


def _studies() -> list[Case]:
    return [{"study.toml": path.read_bytes()} for path in schema.known().values()]


def _read_study(folder: Path) -> object:
    return [
        schema.runs(schema.load(str(folder / "study.toml"), scale))
        for scale in schema.scales_of(str(folder / "study.toml"))
    ]


# ---------------------------------------------------------------------------------------------- runs


def _runs(folder: Path) -> list[Case]:
    accuracies = {"one": {"test": 0.9, "web": 0.6}, "two": {"test": 0.8, "web": 0.7}}
    runs.write_run(folder / "run", accuracies, in_dist="test", classes=NAMES, n=24, resamples=20)
    (folder / "run" / "figures").mkdir()
    Image.new("RGB", (30, 20), "red").save(folder / "run" / "figures" / "drift.png")
    files = [p for p in (folder / "run").rglob("*") if p.is_file()]
    return [{p.relative_to(folder / "run").as_posix(): p.read_bytes() for p in files}]


def _read_run(folder: Path) -> object:
    from gradlens import report  # as the command does

    return report.build(folder)


def _kept(make: Callable[[Path], list[Case]]) -> Callable[[], list[Case]]:
    def cases() -> list[Case]:
        with tempfile.TemporaryDirectory() as place:
            return make(Path(place))

    return cases


READERS: dict[str, Reader] = {
    **{
        f"image: {kind}": Reader(_read_image, lambda kind=kind: _images(kind), ("image",), kind == "PPM")
        for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF")
    },
    "images: Parquet": Reader(
        _source("images.parquet"),
        lambda: [{"images.parquet": data} for data in _in_folder(_parquet, _parquet_of_names)],
        ("images.parquet",),
    ),
    "images: tar shard": Reader(_source("shard.tar"), _shards, ("shard.tar", "shard.tar", "classes.txt")),
    "images: NPZ": Reader(_source("images.npz"), _archives, ("images.npz",)),
    "probe set": Reader(
        _read_probe_set, _probe_sets, ("probe.toml", "images.csv", "images.csv", "duplicates.csv"), True, 8
    ),
    "class map": Reader(_read_class_map, _class_maps, ("map.toml",), True),
    "class list": Reader(
        _read_class_list,
        lambda: [{"classes.txt": b"ash\nbeech\n", "classes.json": b'["ash", "beech"]'}],
        ("classes.txt", "classes.json"),
        True,
    ),
    "predictions: Parquet": Reader(
        lambda folder: store.read([folder / "p.parquet"]), _kept(_predictions), ("p.parquet",)
    ),
    "predictions: CSV": Reader(lambda folder: store.read([folder / "p.csv"]), _prediction_tables, ("p.csv",), True),
    "predictions: NPZ": Reader(
        lambda folder: store.read([folder / "p.npz"]), _npz_predictions, ("p.npz",), refuses=True
    ),
    "cache of outputs": Reader(_read_cache_part, _kept(_cache_part), ("part.parquet",)),
    "checkpoint: card": Reader(_read_checkpoint, _kept(_checkpoints), ("config.json", "README.md"), True, 2),
    "checkpoint: network": Reader(
        _load_checkpoint, _kept(lambda folder: _checkpoints(folder)[:1]), ("config.json", "model.safetensors"), True, 8
    ),
    "weight file": Reader(lambda folder: read_state_dict(folder / "weights"), _weights, ("weights",)),
    "training state": Reader(_read_training_state, _states, ("state.pt",), False, 2),
    "recipe": Reader(_read_recipe, _recipes, ("recipe.toml",), True, 3),
    "study": Reader(_read_study, _studies, ("study.toml",), True, 6),
    "run folder": Reader(
        _read_run,
        _kept(_runs),
        ("run.json", "summary.csv", "gaps.csv", "per_class.csv", "pairs.csv", "skipped.csv", "figures/drift.png"),
        True,
        30,
    ),
}
