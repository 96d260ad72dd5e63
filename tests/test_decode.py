"""One decoder: every kind of file people have gives the right pixels, or one clear line."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from gradlens.data import decode as module
from gradlens.data.decode import EXTENSIONS, FORMATS, PIXEL_LIMIT, decode, decode_mask, file_ending
from gradlens.errors import InputError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def corners() -> Image.Image:
    """16 x 8 (width, height): a red block top left, on blue."""
    image = Image.new("RGB", (16, 8), BLUE)
    image.paste(RED, (0, 0, 8, 4))
    return image


def png_16(pixels: np.ndarray, colour: int) -> bytes:
    """A 16-bit PNG, which Pillow does not write in colour. ``colour``: 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""
    height, width = pixels.shape[:2]

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = np.asarray(corners())
    # how a camera that writes this tag has stored the upright scene
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    got = decode(encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options), "x")
    assert got.shape == upright.shape
    np.testing.assert_allclose(got, upright, atol=3)


@pytest.mark.parametrize("kind", [k for k in FORMATS if k != "DIB"])
def test_every_format_is_read(kind: str) -> None:
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 100}}
    data = encoded(corners(), kind, **options.get(kind, {}))
    got = decode(data, "x")
    assert (got.dtype, got.shape) == (np.uint8, (8, 16, 3))
    np.testing.assert_allclose(got[[1, 6], [2, 13]], [RED, BLUE], atol=12)
    assert file_ending(data) in EXTENSIONS


def test_cmyk_is_converted() -> None:
    got = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), "x")
    np.testing.assert_allclose(got[4, 4], RED, atol=3)


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_rescaled_not_clipped(colour: int, channels: int) -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)
    pixels = np.repeat(ramp.reshape(1, 256, 1), channels, axis=2)
    if channels in (2, 4):
        pixels[..., -1] = 65535  # opaque
    got = decode(png_16(pixels, colour), "x")
    assert got.shape == (1, 256, 3)
    np.testing.assert_array_equal(got[0, :, 0], np.arange(256))
    assert (got == got[..., :1]).all()


def test_sixteen_bit_grey_of_other_formats() -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(1, 256)
    tiff = decode(encoded(Image.fromarray(ramp), "TIFF"), "x")
    pgm = decode(b"P5 256 1 65535\n" + ramp.astype(">u2").tobytes(), "x")
    for got in (tiff, pgm):
        np.testing.assert_array_equal(got[0, :, 1], np.arange(256))


@pytest.mark.parametrize("mode", ["F", "I"])
def test_values_without_a_white_are_refused(mode: str) -> None:
    with pytest.raises(InputError, match="no defined white"):
        decode(encoded(Image.new(mode, (4, 4)), "TIFF"), "x")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L", "RGB", "I;16"])
def test_transparency_shows_white(mode: str) -> None:
    options: dict[str, object] = {}
    if mode in ("RGBA", "LA"):
        image = Image.new(mode, (2, 1), 0)  # transparent black
        image.putpixel((1, 0), (0,) * (len(mode) - 1) + (255,))
    elif mode == "PA":
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 0, 0, 0])
        image.putpixel((1, 0), 1)
        options["transparency"] = bytes([0, 255])  # alpha of each palette entry
    elif mode == "P":
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 0, 0, 0])
        image.putpixel((1, 0), 1)
        options["transparency"] = 0
    else:
        image = Image.new(mode, (2, 1), 7 if mode != "RGB" else (7, 7, 7))
        image.putpixel((1, 0), 0 if mode != "RGB" else (0, 0, 0))
        options["transparency"] = 7 if mode != "RGB" else (7, 7, 7)
    got = decode(encoded(image, "PNG", **options), "x")
    np.testing.assert_array_equal(got, [[WHITE, (0, 0, 0)]])


def test_half_transparency_is_blended() -> None:
    got = decode(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128))), "x")
    np.testing.assert_allclose(got[0, 0], 127, atol=1)


def test_palettes_greys_and_bits() -> None:
    assert tuple(decode(encoded(corners().convert("P", palette=Image.Palette.ADAPTIVE)), "x")[0, 0]) == RED
    assert tuple(decode(encoded(Image.new("L", (2, 2), 99)), "x")[0, 0]) == (99,) * 3
    assert tuple(decode(encoded(Image.new("1", (2, 2), 1)), "x")[0, 0]) == WHITE


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_animations(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in (RED, GREEN, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    got = decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options), "x")
    assert got.shape == (8, 8, 3)
    assert tuple(got[3, 3]) == RED


def test_one_pixel() -> None:
    assert decode(encoded(Image.new("RGB", (1, 1), GREEN)), "x").tolist() == [[list(GREEN)]]


def test_huge_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def bomb(width: int, height: int) -> bytes:
        def chunk(name: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")

    def never(self: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", never)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    with pytest.raises(InputError, match=r"huge\.png: expected at most 178,956,970 pixels"):
        decode(bomb(20_000, 20_000), "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # a program that has switched Pillow's own check off
    with pytest.raises(InputError, match="got 20000 x 20000 = 400,000,000"):
        decode(bomb(20_000, 20_000), "huge.png")
    assert PIXEL_LIMIT > 13_000 * 13_000  # Pillow would warn of this one; warnings are errors here
    with pytest.raises((InputError, AssertionError), match=r"decoded|damaged"):
        decode(bomb(13_000, 13_000), "large.png")


HTML = b"<!DOCTYPE html><html><body>404</body></html>"
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"bad\.jpg: expected an image, but the file is empty"),
    "html": (HTML, r"bad\.jpg: expected an image .* got an HTML page"),
    "text": (b"hello, this is not an image", r"bad\.jpg: expected an image .* starts with b'hello, t'"),
    "svg": (b"<?xml version='1.0'?><svg/>", "XML or SVG"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
    "zip": (b"PK\x03\x04rest", "zip"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "got something else"),
    "jpeg header": (encoded(corners(), "JPEG")[:100], r"bad\.jpg: expected .* damaged"),
    "jpeg body": (encoded(Image.effect_noise((99, 99), 50), "JPEG")[:-900], r"bad\.jpg: expected .*JPEG.* damaged"),
    "png body": (encoded(Image.effect_noise((99, 99), 50))[:-900], r"bad\.jpg: expected .*PNG.* damaged"),
    "gif body": (encoded(Image.effect_noise((99, 99), 50), "GIF")[:-900], r"bad\.jpg: expected .*GIF.* damaged"),
    "webp body": (encoded(Image.effect_noise((99, 99), 50), "WEBP")[:-900], r"bad\.jpg: expected .* damaged"),
    "tiff body": (encoded(Image.effect_noise((99, 99), 50), "TIFF")[:5000], r"bad\.jpg: expected .* damaged"),
    "bmp body": (encoded(Image.effect_noise((99, 99), 50), "BMP")[:5000], r"bad\.jpg: expected .* damaged"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files_give_one_clear_line(what: str, tmp_path: Path) -> None:
    data, message = BAD[what]
    with pytest.raises(InputError, match=message) as from_bytes:
        decode(data, "bad.jpg")
    assert "\n" not in str(from_bytes.value)
    (tmp_path / "bad.jpg").write_bytes(data)
    with pytest.raises(InputError, match=message):
        decode(tmp_path / "bad.jpg", "bad.jpg")


def test_truncated_files_are_refused_even_where_a_program_tolerates_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = BAD["jpeg body"][0]
    assert np.asarray(Image.open(io.BytesIO(data))).shape == (99, 99)  # Pillow fills the rest with grey
    with pytest.raises(InputError, match="damaged"):
        decode(data, "x")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_missing_folder_and_pipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is none of that name"):
        decode(tmp_path / "no.jpg", "no.jpg")
    with pytest.raises(InputError, match="got a folder"):
        decode(tmp_path, "folder")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        with pytest.raises(InputError, match="device or pipe"):  # and does not wait for a writer
            decode(tmp_path / "pipe.jpg", "pipe.jpg")


def test_random_damage_is_an_input_error_or_an_image() -> None:
    random = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF"):
        whole = encoded(Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8)), kind)
        for _ in range(60):
            damaged = bytearray(whole)
            for at in random.integers(0, len(whole), 4):
                damaged[at] = random.integers(256)
            try:
                got = decode(bytes(damaged[: random.integers(1, len(whole) + 1)]), "x")
            except InputError:
                continue
            assert got.dtype == np.uint8
            assert got.shape[2:] == (3,)


def corrupt_exif() -> bytes:
    """A sound JPEG whose EXIF claims data far beyond its end: Pillow warns of it."""
    entries = struct.pack("<HHHII", 1, 0x010F, 2, 4000, 100_000) + b"\0\0\0\0"
    exif = b"Exif\0\0II*\0\x08\0\0\0" + entries
    jpeg = encoded(corners(), "JPEG", quality=95)
    start = jpeg.index(b"\xff\xdb")  # no JFIF header: Pillow then looks for the resolution in the EXIF
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[start:]


def test_pillow_does_warn_of_the_corrupt_exif_above() -> None:
    with pytest.warns(UserWarning, match="EXIF|larger than file|metadata|Truncated"):
        Image.open(io.BytesIO(corrupt_exif())).getexif()


def test_no_warning_leaks_and_filters_are_left_alone() -> None:
    data = corrupt_exif()
    before = list(warnings.filters)
    assert decode(data, "x").shape == (8, 16, 3)  # warnings are errors in these tests
    assert warnings.filters == before
    with pytest.raises(InputError):
        decode(b"", "x")
    assert warnings.filters == before


def test_filters_survive_threads() -> None:
    data = corrupt_exif()
    before = list(warnings.filters)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                decode(data, "x")
        except BaseException as err:  # a warning would arrive here as an error
            failures.append(err)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):  # another part of the program swaps the filters meanwhile, as torch does
        with warnings.catch_warnings():
            warnings.simplefilter("error")
    for thread in threads:
        thread.join()
    assert not failures
    assert warnings.filters == before
    assert module._users == 0


def test_mask() -> None:
    image = Image.new("L", (4, 2), 0)
    image.paste(255, (2, 0, 4, 2))
    mask = decode_mask(encoded(image), "m.png")
    assert mask.dtype == bool
    assert mask.tolist() == [[False, False, True, True]] * 2


@pytest.mark.parametrize("reader", ["pillow", "opencv"])
def test_plain_photographs_have_other_readers_pixels(reader: str, shared_data: Path) -> None:
    import pyarrow.parquet as pq

    read: dict[str, Callable[[bytes], np.ndarray]] = {
        "pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
        "opencv": _opencv,
    }
    table = pq.read_table(shared_data / "cifar10-internet.parquet", columns=["image"]).column("image")
    compared = 0
    for i in range(0, len(table), 15):
        data = table[i].as_py()["bytes"]
        if Image.open(io.BytesIO(data)).getexif().get(0x0112, 1) == 1 and data[:2] == b"\xff\xd8":
            np.testing.assert_array_equal(decode(data, str(i)), read[reader](data))
            compared += 1
    assert compared > 5


def _opencv(data: bytes) -> np.ndarray:
    cv2 = pytest.importorskip("cv2")
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
