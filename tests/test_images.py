"""Any image file gives square RGB uint8 of the right pixels, or one clear line."""

from __future__ import annotations

import io
import os
import random
import resource
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tinysight.images import (
    FITS,
    FORMATS,
    Fit,
    Frame,
    format_of,
    frame_of,
    frame_side,
    load_square,
    read_image,
    to_square,
    upright_size,
)

# top left, top right, bottom left, bottom right
QUADRANTS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (250, 250, 0))


def quadrants(width: int = 32, height: int = 32) -> Image.Image:
    """Draw an image whose orientation and channels show in its four corners."""
    image = Image.new("RGB", (width, height))
    for i, color in enumerate(QUADRANTS):
        left, top = (i % 2) * (width // 2), (i // 2) * (height // 2)
        image.paste(color, (left, top, left + width // 2, top + height // 2))
    return image


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    pixels = np.asarray(image)
    height, width = pixels.shape[0] // 4, pixels.shape[1] // 4
    return [tuple(pixels[y, x].tolist()) for y in (height, -height) for x in (width, -width)]


def close(found: object, expected: object, tolerance: int = 12) -> bool:
    return bool((np.abs(np.asarray(found, int) - np.asarray(expected, int)) <= tolerance).all())


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, color_type: int, rows: bytes, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))
    body = b"".join(chunks) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


SAVED = tuple(form for form in FORMATS if form != "HEIC")  # by Pillow itself


@pytest.mark.parametrize("form", SAVED)
def test_each_format_gives_its_pixels(form: str) -> None:
    image = read_image(encoded(quadrants(), form, quality=95))
    assert image.mode == "RGB"
    assert close(corners(image), QUADRANTS)


def test_every_kind_of_source_gives_the_same_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    data = encoded(quadrants(), "JPEG")
    path = tmp_path / "a b.jpg"
    path.write_bytes(data)
    expected = np.asarray(read_image(path))
    with path.open("rb") as stream:
        stream.seek(7)  # wherever a caller left it
        assert np.array_equal(np.asarray(read_image(stream)), expected)
        assert not stream.closed
    for source in (str(path), "~/a b.jpg", data, expected, Image.open(path)):
        assert np.array_equal(np.asarray(read_image(source)), expected)


def test_arrays_may_be_gray_or_have_alpha_and_other_arrays_are_refused() -> None:
    gray, transparent = np.full((4, 5), 7, np.uint8), np.zeros((4, 5, 4), np.uint8)
    assert corners(read_image(gray)) == [(7, 7, 7)] * 4
    assert corners(read_image(transparent)) == [(255, 255, 255)] * 4
    for array in (gray.astype(float), np.zeros((3, 4, 5), np.uint8), np.zeros(3, np.uint8)):
        with pytest.raises(ValueError, match=rf"array of {array.dtype}.*uint8 \(H, W\)"):
            read_image(array)


def test_a_pillow_image_is_made_upright_and_left_as_it_was() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.open(io.BytesIO(encoded(quadrants(48, 32), "JPEG", exif=exif.tobytes())))
    assert read_image(stored).size == (32, 48)
    assert stored.size == (48, 32) and stored.getexif()[0x0112] == 6


def test_stream_that_cannot_seek_is_read() -> None:
    reader, writer = os.pipe()
    os.write(writer, encoded(quadrants()))
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        assert close(corners(read_image(stream)), QUADRANTS)


# EXIF's own definition: what the first stored row and the first stored column are in the upright
# image.
ORIENTATIONS = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientation_is_applied_once(orientation: int, form: str) -> None:
    first_row, first_column = ORIENTATIONS[orientation]
    pixels = np.asarray(quadrants(48, 32))
    stored = pixels if first_row in ("top", "bottom") else pixels.transpose(1, 0, 2)
    stored = stored[::-1] if first_row in ("bottom", "right") else stored
    stored = stored[:, ::-1] if first_column in ("bottom", "right") else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    content = encoded(image, form, exif=exif.tobytes(), quality=95)
    assert upright_size(content) == (48, 32)
    image = read_image(content)
    assert image.size == (48, 32)
    assert close(corners(image), QUADRANTS)
    assert close(corners(ImageOps.exif_transpose(image)), QUADRANTS)  # nothing left to apply again


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_png_mode_becomes_rgb(mode: str) -> None:
    data = encoded(quadrants().convert(mode))
    expected = np.asarray(quadrants().convert(mode).convert("RGBA").convert("RGB"))
    assert np.array_equal(np.asarray(read_image(data)), expected)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_alpha_is_composited_on_white(form: str) -> None:
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))  # black under full transparency
    image.paste((200, 0, 0, 255), (8, 0, 16, 16))
    image.paste((0, 0, 0, 128), (0, 8, 8, 16))
    data = encoded(image, form, lossless=True, exact=True) if form == "WEBP" else encoded(image)
    white, gray, red = (255, 255, 255), (127, 127, 127), (200, 0, 0)
    assert close(corners(read_image(data)), [white, red, gray, red], 1)


def test_palette_with_graded_transparency_is_composited_without_a_warning() -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.paste(1, (8, 0, 16, 16))
    data = encoded(image, transparency=bytes([128, 255]))
    assert close(corners(read_image(data)), [(127, 127, 127), (0, 0, 255)] * 2, 1)


@pytest.mark.parametrize(("mode", "key"), [("L", 0), ("RGB", (0, 0, 0)), ("P", 0)])
def test_a_color_declared_transparent_becomes_white(mode: str, key: object) -> None:
    image = Image.new(mode, (16, 16), 0)
    image.paste({"L": 90, "P": 1, "RGB": (90, 90, 90)}[mode], (8, 0, 16, 16))
    if mode == "P":
        image.putpalette([0, 0, 0, 90, 90, 90])
    assert corners(read_image(encoded(image, transparency=key))) == [(255,) * 3, (90,) * 3] * 2


def test_sixteen_bit_gray_is_scaled_not_clipped() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    gray = np.asarray(read_image(encoded(Image.fromarray(values))))
    assert np.array_equal(gray[..., 0], np.round(values / 257).astype(np.uint8))
    assert np.array_equal(gray[..., 0], gray[..., 2])


def test_sixteen_bit_gray_with_a_transparent_value() -> None:
    rows = b"\x00" + struct.pack(">4H", 1000, 1001, 65535, 0)
    data = png(4, 1, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 1000)))
    assert np.asarray(read_image(data))[0, :, 0].tolist() == [255, 4, 255, 0]


def test_sixteen_bit_color_keeps_its_high_bytes() -> None:
    data = png(2, 1, 16, 2, b"\x00" + struct.pack(">6H", 65535, 32768, 256, 0, 128 << 8, 255))
    assert np.asarray(read_image(data))[0].tolist() == [[255, 128, 1], [0, 128, 0]]


def test_cmyk_is_not_inverted() -> None:
    data = encoded(quadrants().convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data  # and so stored inverted, as Adobe does
    assert close(corners(read_image(data)), QUADRANTS, 20)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF", "TIFF", "AVIF"])
def test_first_frame_of_an_animation(form: str) -> None:
    others = [Image.new("RGB", (32, 32), "black")] * 3
    data = encoded(quadrants(), form, save_all=True, append_images=others, quality=95)
    with Image.open(io.BytesIO(data)) as animation:
        assert animation.n_frames > 1
    assert close(corners(read_image(data)), QUADRANTS)


def test_phone_picture_with_a_second_image_behind_it() -> None:
    others = [Image.new("RGB", (32, 32))]
    data = encoded(quadrants(), "MPO", save_all=True, append_images=others, quality=95)
    assert close(corners(read_image(data)), QUADRANTS)


def with_exif(data: bytes, exif: bytes) -> bytes:
    """Insert an EXIF segment behind a JPEG's first marker."""
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif + data[2:]


BAD_EXIF = {
    "cut": b"MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03",
    "noise": bytes(range(200)),
    "offset": b"MM\0*\0\0\0\x08\0\x01\x01\x1a\0\x05\x7f\0\0\0\x7f\xff\xff\xff\0\0\0\0",
    "orientation is text": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0\0\0\0\0",
    "two orientations": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x02\0\x06\0\x06\0\0\0\0",
}


@pytest.mark.parametrize("name", BAD_EXIF)
def test_damaged_exif_neither_warns_nor_hides_the_pixels(name: str) -> None:
    data = with_exif(encoded(quadrants(), "JPEG", quality=95), BAD_EXIF[name])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image = read_image(data)
    assert image.size == (32, 32)
    assert not caught


def test_some_of_the_damaged_exif_makes_pillow_warn() -> None:
    """Show that the test above has something to catch."""
    with pytest.warns(UserWarning):
        for exif in BAD_EXIF.values():
            data = with_exif(encoded(quadrants(), "JPEG"), exif)
            Image.open(io.BytesIO(data)).getexif().get(0x0112)


def test_warnings_of_others_are_left_alone() -> None:
    before = list(warnings.filters)
    read_image(encoded(quadrants()))
    assert warnings.filters == before


OTHERS = {
    "MP4": b"\0\0\0\x18ftypisom\0\0\0\0isommp41",
    "fetch it by `git lfs pull`": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "HTML": b"<!DOCTYPE html><title>404 Not Found</title>",
    "is not an image": b"This is a text about a cat.\n",
    "it is empty": b"",
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_formats_are_named_whatever_the_suffix_says(what: str, tmp_path: Path) -> None:
    path = tmp_path / "cat 1.jpg"
    path.write_bytes(OTHERS[what])
    with pytest.raises(ValueError, match=rf"cat 1\.jpg.*{what}.*tinysight reads JPEG") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", [form for form in SAVED if form != "JPEG"])
@pytest.mark.parametrize("keep", [0.1, 0.6, 0.95])
def test_truncated_file_is_named(form: str, keep: float, tmp_path: Path) -> None:
    data = encoded(Image.fromarray(noise(48, 48)), form)
    path = tmp_path / "half.img"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ValueError, match=r"half\.img.*(cannot be decoded|is damaged).*WebP"):
        read_image(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.png", "': No such file"),
        (".", "': it is not a file"),
        ("pipe.png", "': it is not a file"),
        ("x" * 300, "': File name too long"),
        ("\0", "null"),
        ("a\nb.jpg", r"a\\nb\.jpg': No such file"),
    ],
)
def test_what_cannot_be_opened_is_named_in_one_line(name: str, reason: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=rf"cannot read '.*{reason}.*WebP") as error:
        read_image(tmp_path / name)
    assert "\n" not in str(error.value)


def test_decompression_bomb_is_refused_before_its_memory_is_taken() -> None:
    side = 60_000
    bomb = png(side, side, 8, 0, b"")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="pixels"):
        read_image(bomb)
    with pytest.raises(ValueError, match="10000 x 12001 pixels are more than 120 million"):
        read_image(png(10_000, 12_001, 8, 0, b""))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000 * (1024 if sys.platform == "darwin" else 1)


def test_image_that_pillow_only_warns_of_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 800)  # 32 x 32 exceed it, but not twice
    assert close(corners(read_image(encoded(quadrants()))), QUADRANTS)


def test_square_image_of_the_size_passes_through_unchanged() -> None:
    pixels = noise(64, 64)
    square = load_square(encoded(Image.fromarray(pixels)), 64)
    assert np.array_equal(square, pixels)
    square[0, 0] = 0  # a copy that can be written


@pytest.mark.parametrize("size", [(64, 99), (99, 64)])
def test_image_whose_shorter_side_fits_is_cropped_without_resampling(size: tuple[int, int]) -> None:
    pixels = noise(size[1], size[0])
    left, top = (size[0] - 64) // 2, (size[1] - 64) // 2
    square = to_square(Image.fromarray(pixels), 64)
    assert np.array_equal(square, pixels[top : top + 64, left : left + 64])


@pytest.mark.parametrize("width, height", [(300, 200), (200, 300), (20, 32), (640, 641)])
def test_square_equals_resizing_the_shorter_side_and_cropping_the_center(
    width: int, height: int
) -> None:
    y, x = np.mgrid[:height, :width] / max(width, height)
    smooth = np.stack([x, y, (np.sin(9 * x + 5 * y) + 1) / 2], axis=-1)
    image = Image.fromarray((smooth * 255).astype(np.uint8))
    scale = 40 / min(width, height)
    full = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    left, top = (full.width - 40) // 2, (full.height - 40) // 2
    assert close(to_square(image, 40), np.asarray(full)[top : top + 40, left : left + 40], 4)


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((640, 640, 3), np.uint8)
    # Finer than 64 pixels can show: gray, where sampling single pixels gives 0 or 255
    stripes[:, ::2] = 255
    assert close(to_square(Image.fromarray(stripes), 64), 128, 5)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2), (2, 30_000)])
def test_tiny_and_elongated_images_are_enlarged(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (10, 200, 30))
    assert np.array_equal(load_square(encoded(image), 64), np.full((64, 64, 3), (10, 200, 30)))


@pytest.mark.parametrize(
    ("size", "crop", "pad"),
    [
        ((160, 80), Frame(40, 0, 80, 80), Frame(0, -40, 160, 160)),
        ((80, 161), Frame(0, 40, 80, 80), Frame(-41, 0, 161, 161)),
        ((1, 5000), Frame(0, 2499, 1, 1), Frame(-2500, 0, 5000, 5000)),
        ((7, 7), Frame(0, 0, 7, 7), Frame(0, 0, 7, 7)),
    ],
)
def test_frames_are_centered_squares_or_the_image(
    size: tuple[int, int], crop: Frame, pad: Frame, tmp_path: Path
) -> None:
    assert [frame_of(*size, fit) for fit in FITS] == [crop, pad, Frame(0, 0, *size)]
    (tmp_path / "image.png").write_bytes(encoded(Image.new("RGB", size)))
    sides = [frame_side(tmp_path / "image.png", fit) for fit in FITS]
    assert sides == [min(size), max(size), min(size)]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(301, 200), (97, 160), (50, 33), (200, 200), (1, 90), (90, 1)])
def test_boxes_follow_the_pixels_and_come_back(size: tuple[int, int], fit: Fit) -> None:
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    box = np.array([[width // 3, height // 3, width - width // 3, height - height // 4]])
    x0, y0, x1, y1 = box[0]
    pixels[y0:y1, x0:x1] = 255
    frame = frame_of(width, height, fit)
    moved = frame.to_square(box, 120)
    rows, columns = np.nonzero(to_square(Image.fromarray(pixels), 120, fit)[..., 0] > 170)
    seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert seen == pytest.approx(moved[0].clip(0, 120), abs=1.01)
    assert frame.to_image(moved, 120) == pytest.approx(box)


@pytest.mark.parametrize("size", [(64, 40), (40, 64), (64, 1)])
def test_padding_keeps_every_pixel_and_has_the_mean_color(size: tuple[int, int]) -> None:
    pixels = noise(size[1], size[0])
    square = to_square(Image.fromarray(pixels), 64, "pad")
    frame = frame_of(*size, "pad")
    rows, columns = slice(-frame.top, size[1] - frame.top), slice(-frame.left, size[0] - frame.left)
    assert np.array_equal(square[rows, columns], pixels)
    outside = np.ones((64, 64), bool)
    outside[rows, columns] = False
    assert np.unique(square[outside], axis=0).tolist() == [pixels.mean((0, 1)).round().tolist()]


def test_stretching_resizes_both_sides() -> None:
    image = Image.fromarray(noise(30, 50))
    columns = image.resize((40, 30), Image.Resampling.BICUBIC)
    plain = np.asarray(columns.resize((40, 40), Image.Resampling.BICUBIC))
    assert np.array_equal(to_square(image, 40, "stretch"), plain)


@pytest.mark.parametrize("width, height", [(70, 100), (96, 150), (300, 900), (900, 300), (50, 50)])
def test_columns_are_resized_before_rows_whatever_the_shape(width: int, height: int) -> None:
    """Pillow 13 by itself takes the rows of tall images first, with other bytes."""
    image, side = Image.fromarray(noise(height, width)), min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    columns = image.resize(
        (64, height), Image.Resampling.BICUBIC, box=(left, 0, left + side, height)
    )
    rows = columns.resize((64, 64), Image.Resampling.BICUBIC, box=(0, top, 64, top + side))
    assert np.array_equal(to_square(image, 64), np.asarray(rows))


def test_to_square_takes_other_modes_and_refuses_no_size() -> None:
    assert (to_square(Image.new("LA", (9, 9), (0, 0)), 4) == 255).all()
    with pytest.raises(ValueError, match="choose 1 or more"):
        to_square(quadrants(), 0)


def test_photograph_scaled_while_decoding_stays_close_to_the_slow_way() -> None:
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(noise(30, 40)).resize((1600, 1200), Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse, int) + rng.normal(0, 8, (1200, 1600, 1))
    data = encoded(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), "JPEG", quality=92)
    fast = load_square(data, 64).astype(int)
    assert read_image(data, at_least=192).size == (400, 300)
    assert read_image(data).size == (1600, 1200)
    difference = np.abs(fast - to_square(read_image(data), 64))
    assert difference.mean() < 0.35 and difference.max() <= 5


def test_format_of_knows_what_it_reads() -> None:
    assert [format_of(encoded(quadrants(), form)[:32]) for form in SAVED] == list(SAVED)
    assert format_of(b"RIFF1234WAVEfmt ") is None
    assert format_of(b"BMW, a car of some kind") is None  # not a bitmap
    assert format_of(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif") == "AVIF"
    assert format_of(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic") == "HEIC"


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_cut_short_is_read_with_a_warning_that_names_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, progressive: bool
) -> None:
    data = encoded(Image.fromarray(noise(32, 32)), "JPEG", progressive=progressive)
    path = tmp_path / "cut.jpg"
    full = load_square(data, 32)
    path.write_bytes(data[:-2])
    assert np.array_equal(load_square(path, 32), full)  # lacks no pixel
    assert caplog.messages == [f"{str(path)!r} is cut short; what is missing is gray"]
    for cut in range(50, 300, 10):
        path.write_bytes(data[:-cut])
        square = load_square(path, 32)
        assert square.std() > 10 if progressive else np.array_equal(square[:8], full[:8])
    assert len(caplog.messages) == 26


def test_jpeg_cut_within_its_header_is_refused() -> None:
    data = encoded(quadrants(256, 256), "JPEG", quality=95)
    for end in (data.index(b"\xff\xda") + 4, data.index(b"\xff\xc0"), 40):
        with pytest.raises(ValueError, match="cannot read an image of"):
            read_image(data[:end])


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt", b"tEXt"])
def test_png_with_a_large_profile_or_text_is_an_image(kind: bytes) -> None:
    packed = zlib.compress(bytes(2_000_000))
    content = {
        b"iCCP": b"name\0\0" + packed,
        b"zTXt": b"name\0\0" + packed,
        b"iTXt": b"name\0\1\0\0\0" + packed,
        b"tEXt": b"name\0" + b"x" * 2_000_000,
    }
    data = encoded(quadrants())
    data = data[:33] + chunk(kind, content[kind]) + data[33:]
    assert np.array_equal(np.asarray(read_image(data)), np.asarray(quadrants()))


def test_heic_names_the_extra_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=r"HEIC.*pip install 'tinysight\[heic\]'"):
        read_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_heic_is_read_upright(orientation: int) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif, the extra heic, is missing")
    written, exif = {}, Image.Exif()
    exif[0x0112] = orientation
    for form in ("HEIC", "JPEG"):
        buffer = io.BytesIO()
        if form == "HEIC":
            heif.from_pillow(quadrants(64, 32)).save(buffer, quality=95, exif=exif.tobytes())
        else:
            quadrants(64, 32).save(buffer, form, quality=95, exif=exif)
        written[form] = buffer.getvalue()
    assert format_of(written["HEIC"][:32]) == "HEIC"
    heic, jpeg = (read_image(content) for content in written.values())
    assert heic.size == jpeg.size == upright_size(written["HEIC"])
    assert close(corners(heic), corners(jpeg))


def test_pixels_of_more_than_sixteen_bits_are_refused() -> None:
    for values in (np.full((4, 4), 0.5, np.float32), np.full((4, 4), 70_000, np.int32)):
        with pytest.raises(ValueError, match="with 8 or 16"):
            read_image(encoded(Image.fromarray(values), "TIFF"))


class Tensor:
    """Named as torch's."""


def test_arrays_of_shares_and_tensors_are_refused_with_the_conversion() -> None:
    with pytest.raises(ValueError, match=r"\(image \* 255\).round\(\).astype\('uint8'\)"):
        read_image(np.full((4, 4, 3), 0.5))
    with pytest.raises(ValueError, match=r"Tensor.*permute\(1, 2, 0\)"):
        read_image(Tensor())  # type: ignore[arg-type]


# Fuzzing: small valid files, a few random edits each.


def seeds() -> list[bytes]:
    rng = np.random.default_rng(4)
    image = Image.fromarray(noise(24, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "camera"
    frames = {"save_all": True, "append_images": [image.rotate(90)]}
    return [
        encoded(image, "JPEG", exif=exif.tobytes()),
        encoded(image, "JPEG", progressive=True, subsampling=0),
        encoded(image.convert("L"), "JPEG"),
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(image, "MPO", **frames),
        encoded(image, exif=exif.tobytes()),
        encoded(image.convert("RGBA")),
        encoded(image.convert("P"), transparency=bytes(range(100))),
        encoded(image.convert("1")),
        encoded(Image.fromarray(rng.integers(0, 65536, (9, 8), dtype=np.uint16))),
        encoded(image, **frames),
        encoded(image, "WEBP", exif=exif.tobytes()),
        encoded(image.convert("RGBA"), "WEBP", lossless=True),
        encoded(image, "WEBP", **frames),
        encoded(image, "BMP"),
        encoded(image.convert("P"), "GIF", **frames),
        encoded(Image.fromarray(noise(24, 20)), "TIFF", compression="tiff_lzw"),
        encoded(Image.fromarray(noise(24, 20)), "TIFF"),
        encoded(image, "AVIF"),
    ]


def mutated(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(changed) if rng.random() < 0.5 else min(64, len(changed)))
        kind = rng.randrange(6)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            changed[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 3:
            del changed[at : at + rng.randrange(1, 9)]
        elif kind == 4:
            values = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\xff\xff")
            changed[at : at + 4] = rng.choice(values)
        else:
            del changed[max(at, 16) :]
        if not changed:
            break
    if changed[:4] == b"\x89PNG" and rng.random() < 0.7:
        return with_valid_checksums(bytes(changed))
    return bytes(changed)


def with_valid_checksums(data: bytes) -> bytes:
    """Recompute a PNG's chunk checksums, so that damage reaches the parsers."""
    result, at = data[:8], 8
    while at + 12 <= len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        if at + 12 + length > len(data):
            break
        result += chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length])
        at += 12 + length
    return result + data[at:]


def fuzz(rounds: int, seed: int) -> tuple[int, int]:
    """Read `rounds` mutated files; return how many were read and how many refused."""
    rng = random.Random(seed)
    originals = seeds()
    read = refused = 0
    for _ in range(rounds):
        data = mutated(rng.choice(originals), rng)
        try:
            square = load_square(data, 32)
        except ValueError as error:
            assert str(error).startswith("cannot read an image of ")
            assert "\n" not in str(error) and "object at" not in str(error)
            refused += 1
        else:
            assert square.shape == (32, 32, 3) and square.dtype == np.uint8
            read += 1
    return read, refused


def test_mutated_images_are_read_or_refused() -> None:
    read, refused = fuzz(300, seed=0)
    assert read > 50 and refused > 50  # both happen


@pytest.mark.reliability
def test_ten_thousand_mutated_images_are_read_or_refused() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read, refused = fuzz(10_000, seed=1)
    assert read > 1000 and refused > 1000
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # KB: one image of MAX_PIXELS and its copies
    assert grown < 1_500_000 * (1024 if sys.platform == "darwin" else 1)
