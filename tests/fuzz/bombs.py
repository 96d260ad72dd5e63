"""Small files that ask for much: memory, time, or another file; each with the reader that would open it."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from fuzz.readers import READERS, Case, encoded, npz, shard

PNG = b"\x89PNG\r\n\x1a\n"


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    width: int, height: int, bits: int = 8, colour: int = 2, lines: int | None = None, before: bytes = b""
) -> bytes:
    """A black PNG whose header says its size, with ``lines`` of its lines."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    line = b"" if lines == 0 else b"\0" * (1 + (width * channels * bits + 7) // 8)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(line) for _ in range(height if lines is None else lines)) + packer.flush()
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return PNG + header + before + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def endless_gif(frames: int) -> bytes:
    """A GIF of one pixel and many frames."""
    data = encoded(Image.new("P", (1, 1)), "GIF")
    frame = data[data.index(b",") : -1]
    return data[:-1] + frame * frames + b";"


def _tiff(width: int, height: int, next_page: int = 0) -> bytes:
    """A TIFF of one strip that is not there; ``next_page`` 8 points back at itself."""
    tags = ((256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 9))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", next_page)


def _resized(data: bytes, marker: bytes, offset: int, kind: str, *sizes: int) -> bytes:
    where = data.index(marker) + offset
    packed = struct.pack(kind, *sizes)
    return data[:where] + packed + data[where + len(packed) :]


def _huge(kind: str) -> bytes:
    """A small image of the format whose header claims a huge one."""
    small = encoded(Image.new("RGB", (8, 8)), kind)
    if kind == "JPEG":
        return _resized(small, b"\xff\xc0", 5, ">HH", 65_500, 65_500)
    if kind == "GIF":
        return _resized(small, b"GIF8", 6, "<HH", 65_535, 65_535)
    if kind == "BMP":
        return _resized(small, b"BM", 18, "<ii", 100_000, 100_000)
    if kind == "PPM":
        return b"P6 100000 100000 255\n" + b"\0" * 64
    return _tiff(100_000, 100_000)


def _rows(rows: int) -> bytes:
    """A predictions file of many equal rows, a few bytes each thousand."""
    stream = io.BytesIO()
    group = 500_000
    zeros = pa.array(np.zeros(group, np.int64))
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(group, np.int32)), pa.array(["m"]))
    table = pa.table({"model": text, "dataset": text, "index": zeros, "label": zeros, "prediction": zeros})
    with pq.ParquetWriter(stream, table.schema, compression="zstd") as writer:
        for _ in range(rows // group):
            writer.write_table(table)
    return stream.getvalue()


def _words(rows: int, size: int) -> bytes:
    """A predictions file in which one long name stands in every row."""
    stream = io.BytesIO()
    indices = pa.array(np.zeros(rows, np.int32))
    long = pa.DictionaryArray.from_arrays(indices, pa.array(["m" * size]))
    numbers = pa.array(np.arange(rows))
    table = pa.table({"model": long, "dataset": long, "index": numbers, "label": indices, "prediction": indices})
    pq.write_table(table, stream, compression="zstd", dictionary_pagesize_limit=2**30)
    return stream.getvalue()


def _lists(rows: int, length: int) -> bytes:
    """A predictions file with a million logits in every row."""
    stream = io.BytesIO()
    logits = pa.ListArray.from_arrays(
        pa.array(np.arange(rows + 1, dtype=np.int32) * length), pa.array(np.zeros(rows * length, np.float32))
    )
    zeros = pa.array(np.zeros(rows, np.int64))
    columns = {"model": ["m"] * rows, "dataset": ["d"] * rows, "index": list(range(rows)), "label": zeros}
    table = pa.table({**columns, "prediction": zeros, "logits": logits})
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def _zeros_npz(size: int) -> bytes:
    """A NumPy archive of ``size`` zeros, a thousandth as large."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as file:
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size // 10_000}, 100, 100), }}".encode()
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        for _ in range(size // 10**6):
            file.write(b"\0" * 10**6)
    return stream.getvalue()


def _claimed_npz() -> bytes:
    """A NumPy archive whose header claims a shape that no machine holds."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1000, 1000), }"
        archive.writestr("images.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    return stream.getvalue()


def _safetensors(header: Mapping[str, object] | bytes, claimed: int | None = None, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + data


def _tensor(*shape: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 if shape[0] else 0]}


def _twice(column: str) -> bytes:
    """A table of images in which a column stands twice."""
    picture = pa.array([{"bytes": encoded(Image.new("L", (2, 2)), "PNG"), "path": "a.png"}])
    columns = {"image": picture, "label": pa.array(["ash"])}
    names = [*columns, column]
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([columns[name] for name in names], names=names), stream)
    return stream.getvalue()


def _never_missing(data: bytes, column: bytes) -> bytes:
    """A Parquet file whose footer says of a column that may have gaps that it has none, beside its counts of them."""
    name = b"\x18%c%s" % (len(column), column)  # Thrift: a text; before it OPTIONAL (1, in zigzag 2), then REQUIRED
    assert b"\x25\x02" + name in data
    return data.replace(b"\x25\x02" + name, b"\x25\x00" + name)


def _torch(document: object) -> bytes:
    stream = io.BytesIO()
    torch.save(document, stream)
    return stream.getvalue()


def _deflated_torch() -> bytes:
    """A file of ``torch.save`` whose tensor is a gigabyte of zeros, compressed."""
    small = io.BytesIO(_torch({"weight": torch.zeros(4)}))
    stream = io.BytesIO()
    with zipfile.ZipFile(small) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            if member.filename.endswith("data/0"):
                with new.open(member.filename, "w") as file:
                    for _ in range(1000):
                        file.write(b"\0" * 10**6)
            else:
                new.writestr(member.filename, old.read(member))
    return stream.getvalue()


def _links() -> bytes:
    """A shard whose images are links and devices, or lie outside."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("c.png", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name in ("../../d.png", "/tmp/e.png"):
            data = encoded(Image.new("RGB", (4, 4)), "PNG")
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def _claiming_shard() -> bytes:
    """A shard whose only member claims eight gigabytes."""
    data = bytearray(shard({"a.png": encoded(Image.new("RGB", (4, 4)), "PNG")}, tarfile.USTAR_FORMAT))
    data[124:136] = b"77777777777\0"
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def _with(reader: str, name: str, data: bytes) -> Case:
    """The reader's first valid case with one file replaced."""
    return {**READERS[reader].cases()[0], name: data}


DEEP_JSON, DEEP_TOML = b"[" * 200_000, b"x = " + b"[" * 200_000
LONG_CELL = b"path,class\n" + b"a" * 3_000_000 + b",ash\n"

BOMBS: dict[str, tuple[str, Callable[[], Case]]] = {
    "PNG of 100,000 x 100,000": ("image: PNG", lambda: {"image": png(100_000, 100_000, lines=0)}),
    "PNG of 100,000 x 1": ("image: PNG", lambda: {"image": png(100_000, 1)}),
    "PNG of 3,000 x 3,000, 16 bits": ("image: PNG", lambda: {"image": png(3_000, 3_000, bits=16, colour=0)}),
    "PNG of 2,000,000,000 x 1": ("image: PNG", lambda: {"image": png(2_000_000_000, 1, lines=0)}),
    "PNG with a gigabyte of comment": (
        "image: PNG",
        lambda: {"image": png(4, 4, before=_chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 10**8, 9)))},
    ),
    "PNG with a large profile": (
        "image: PNG",
        lambda: {"image": png(4, 4, before=_chunk(b"iCCP", b"k\0\0" + zlib.compress(b"\0" * 10**8, 9)))},
    ),
    "GIF of 100,000 frames": ("image: GIF", lambda: {"image": endless_gif(100_000)}),
    "GIF without an end": ("image: GIF", lambda: {"image": endless_gif(1000)[:-1] + b"\x21\xff" * 1000}),
    "TIFF whose pages go round": ("image: TIFF", lambda: {"image": _tiff(4, 4, next_page=8)}),
    **{f"{k} that claims to be huge": (f"image: {k}", lambda k=k: {"image": _huge(k)})
       for k in ("JPEG", "GIF", "BMP", "PPM", "TIFF")},
    "Parquet of 20 million rows": ("predictions: Parquet", lambda: {"p.parquet": _rows(20_000_000)}),
    "Parquet of long words": ("predictions: Parquet", lambda: {"p.parquet": _words(20_000, 1_000_000)}),
    "Parquet of long lists": ("predictions: Parquet", lambda: {"p.parquet": _lists(40, 1_000_000)}),
    "Parquet with a footer that claims a gigabyte": (
        "predictions: Parquet", lambda: {"p.parquet": b"PAR1" + b"\0" * 64 + struct.pack("<I", 2**30) + b"PAR1"}
    ),
    "NPZ of 800 million zeros": ("images: NPZ", lambda: {"images.npz": _zeros_npz(800_000_000)}),
    "NPZ that claims an impossible shape": ("images: NPZ", lambda: {"images.npz": _claimed_npz()}),
    "NPZ of one image of 1 x 2,000,000": (
        "images: NPZ", lambda: {"images.npz": npz(images=np.zeros((1, 1, 2_000_000), np.uint8))}
    ),
    "tar of links and paths outside": ("images: tar shard", lambda: {"shard.tar": _links()}),
    "tar whose member claims 8 GB": ("images: tar shard", lambda: {"shard.tar": _claiming_shard()}),
    "tar with a label of nested lists": (
        "images: tar shard",
        lambda: {"shard.tar": shard({"a.png": encoded(Image.new("L", (2, 2)), "PNG"), "a.json": DEEP_JSON})},
    ),
    "tar with a label of 2**70": (
        "images: tar shard",
        lambda: {"shard.tar": shard({"a.png": encoded(Image.new("L", (2, 2)), "PNG"), "a.cls": b"%d" % 2**70})},
    ),
    "safetensors with a header of 2**60 bytes": (
        "weight file", lambda: {"weights": _safetensors(b'{"', claimed=2**60) + b"\0" * 99}
    ),
    "safetensors with a header of 90 MB": (
        "weight file", lambda: {"weights": _safetensors(b"{" + b" " * 90_000_000 + b"}")}
    ),
    "safetensors with a tensor of 2**60 numbers": (
        "weight file",
        lambda: {"weights": _safetensors({"w": _tensor(2**30, 2**30)}, None, b"\0" * 4)},
    ),
    "safetensors with 200,000 empty tensors": (
        "weight file",
        lambda: {"weights": _safetensors({str(i): _tensor(0) for i in range(200_000)})},
    ),
    "torch file with a gigabyte of zeros": ("weight file", lambda: {"weights": _deflated_torch()}),
    "torch file with a tensor of one number shown 10**12 times": (
        "weight file", lambda: {"weights": _torch({"w": torch.zeros(1).expand(10**12)})}
    ),
    "torch file with a sparse tensor": (
        "weight file", lambda: {"weights": _torch({"w": torch.zeros(10**4, 10**4).to_sparse()})}
    ),
    "card for an input of 100,000 pixels": ("checkpoint: network", lambda: _changed_card(input_size=[3, 10**5, 10**5])),
    "card for a network of a million channels": ("checkpoint: network", lambda: _changed_card(widths=[10**6] * 4)),
    "card for a network of a billion channels": ("checkpoint: network", lambda: _changed_card(widths=[10**9] * 4)),
    "card of nested lists": ("checkpoint: card", lambda: _with("checkpoint: card", "config.json", DEEP_JSON)),
    "run.json of nested lists": ("run folder", lambda: _with("run folder", "run.json", DEEP_JSON)),
    "summary.csv with a cell of 3 MB": ("run folder", lambda: _with("run folder", "summary.csv", LONG_CELL)),
    "images.csv with a cell of 3 MB": ("probe set", lambda: _with("probe set", "images.csv", LONG_CELL)),
    "duplicates.csv with a cell of 3 MB": ("probe set", lambda: _with("probe set", "duplicates.csv", LONG_CELL)),
    "probe.toml of nested lists": ("probe set", lambda: _with("probe set", "probe.toml", DEEP_TOML)),
    "class map of nested lists": ("class map", lambda: {"map.toml": DEEP_TOML}),
    "class list of nested lists": ("class list", lambda: {"classes.txt": b"a\n", "classes.json": DEEP_JSON}),
    "class list of a million equal names": (
        "class list", lambda: {"classes.txt": b"a\n" * 1_000_000, "classes.json": b"[1]"}
    ),
    "recipe of nested lists": ("recipe", lambda: {"recipe.toml": DEEP_TOML}),
    "study of nested lists": ("study", lambda: {"study.toml": DEEP_TOML}),
    "CSV of 100,000 columns": (
        "predictions: CSV", lambda: {"p.csv": b",".join(b"c%d" % i for i in range(100_000)) + b"\n" + b"," * 99_999}
    ),
    "CSV with a column twice": (
        "predictions: CSV", lambda: {"p.csv": b"model,dataset,path,label,prediction,path\nm,d,a,0,0,b\n"}
    ),
    "Parquet with the images twice": ("images: Parquet", lambda: {"images.parquet": _twice("image")}),
    "Parquet with the labels twice": ("images: Parquet", lambda: {"images.parquet": _twice("label")}),
    "Parquet of predictions with counts of gaps that cannot be": (
        "predictions: Parquet",
        lambda: {"p.parquet": _never_missing(READERS["predictions: Parquet"].cases()[1]["p.parquet"], b"model")},
    ),
    "Parquet of images with counts of gaps that cannot be": (
        "images: Parquet",
        lambda: {"images.parquet": _never_missing(READERS["images: Parquet"].cases()[0]["images.parquet"], b"label")},
    ),
    "CSV with a label that ends in zero bytes": (
        "predictions: CSV", lambda: {"p.csv": b"model,dataset,path,label,prediction\nm,d,a,0,0\nm,d,b,1,1\0\0\n"}
    ),
    "CSV with a label of a billion": (
        "predictions: CSV", lambda: {"p.csv": b"model,dataset,path,label,prediction\nm,d,a,999999999,0\n"}
    ),
    "CSV with logits of nested lists": (
        "predictions: CSV",
        lambda: {"p.csv": b"model,dataset,path,label,prediction,logits\nm,d,a,0,0," + DEEP_JSON + b"\n"},
    ),
}  # fmt: skip


def _changed_card(widths: list[int] | None = None, input_size: list[int] | None = None) -> Case:
    whole = READERS["checkpoint: network"].cases()[0]
    config = json.loads(whole["config.json"])
    if widths is not None:
        config["gradlens"]["arguments"]["widths"] = widths
    if input_size is not None:
        config["gradlens"]["preprocess"]["input_size"] = input_size
    return {**whole, "config.json": json.dumps(config).encode()}
