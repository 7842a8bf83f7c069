"""Turn any image file into square RGB uint8, the same way when data is imported and when a picture
is recognized.

What is decided here, once, for both:

- Alpha is composited on white: most cut-outs were made for a white page, and what lies under full
  transparency is arbitrary. Of an animation the first frame counts. EXIF orientation is applied.
  Color profiles are ignored: values are taken as sRGB.
- The center square is resized with Pillow's bicubic filter, which widens its support when it
  shrinks, so it does not alias. It keeps as much detail as Lanczos and overshoots less at the
  hard edges of drawings and cut-outs."""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP")
READABLE = "JPEG, PNG and WebP files"  # FORMATS, for messages
SIGNATURE_LENGTH = 16  # bytes at the start of a file that `format_of` needs
# admits 108-megapixel phones; 480 MB once decoded. Pillow's own global limit is left alone
MAX_PIXELS = 120_000_000

# A JPEG may be scaled down while it is decoded, but never below this many times the side that is
# wanted. A photograph of 12 megapixels then takes a third of the time (34 ms), and differs by 0.2
# gray levels on average, 3 at most.
JPEG_GAP = 3

_SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WEBP"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyp", "HEIC or MP4"),
    (0, b"%PDF", "PDF"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "XML or SVG"),
    (0, b"<!DOCTYPE", "HTML"),
    (0, b"<!doctype", "HTML"),
    (0, b"<html", "HTML"),
)

_UPRIGHT = {  # EXIF orientation -> what makes the image upright; 1 and anything unknown: nothing
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)  # orientations that change width and height over


class _RefusalError(Exception):
    """Say why a source is not read, in words that follow "cannot read NAME: "."""


def format_of(head: bytes) -> str | None:
    """Name the format that a file's first SIGNATURE_LENGTH bytes announce, in FORMATS or another;
    None if unknown.
    """
    return next((name for at, mark, name in _SIGNATURES if head[at : at + len(mark)] == mark), None)


def read_image(source: Path | BinaryIO | bytes, *, at_least: int | None = None) -> Image.Image:
    """Decode a JPEG, PNG or WebP file of any mode into an upright RGB image.

    With `at_least`, a JPEG may be scaled down by 2, 4 or 8 while it is decoded, as long as its
    shorter side keeps that many pixels. Raises ValueError that names the file, what is wrong and
    the formats that are read."""
    with _told_of(source), _opened(source) as stream:
        _check_format(stream)
        return _decoded(stream, at_least)


def upright_size(path: Path) -> tuple[int, int]:
    """Return width and height of the image that `read_image` makes of a file; ValueError as there.

    The header tells; but a PNG may state an orientation behind its pixels, which then are decoded.
    """
    with _told_of(path), _opened(path) as stream:
        _check_format(stream)
        with _opened_image(stream) as image:
            return (
                (image.height, image.width) if _orientation(image) in _ON_ITS_SIDE else image.size
            )


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a Pillow image of any mode to a new RGB one; alpha on white, 16-bit gray scaled to 8
    bits.
    """
    if image.mode.startswith("I"):
        image = _eight_bit_gray(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return white


def to_square(image: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    """Resize the shorter side to `size` and crop the center: uint8 (size, size, 3), RGB, a copy.

    Only the center square of the source is resampled, so an image of 1 x 5000 costs no more than
    its middle pixel. An image whose shorter side is `size` keeps its very pixels."""
    if size < 1:
        raise ValueError(f"image size {size} is not possible; choose 1 or more pixels")
    if image.mode != "RGB":
        image = to_rgb(image)
    left, top, side = center_square(*image.size)
    box = (left, top, left + side, top + side)
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def center_square(width: int, height: int) -> tuple[int, int, int]:
    """Return left, top and side of the largest square in the middle of an image, in whole pixels:
    half a one blurs.
    """
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side


def load_square(source: Path | BinaryIO | bytes, size: int) -> npt.NDArray[np.uint8]:
    """Read an image file as uint8 (size, size, 3); see `read_image` and `to_square` for errors and
    for what is done.
    """
    return to_square(read_image(source, at_least=JPEG_GAP * size), size)


@contextmanager
def _told_of(source: Path | BinaryIO | bytes) -> Iterator[None]:
    """Turn whatever a source brings about into a ValueError that names it."""
    try:
        yield
    except _RefusalError as error:
        raise _unreadable(source, str(error)) from error
    except UnidentifiedImageError as error:  # its message names an object of ours
        raise _unreadable(source, "its header is damaged or incomplete") from error
    # Pillow's parsers raise a dozen unrelated types, SyntaxError and IndexError among them
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _unreadable(source, f"its data cannot be decoded ({reason})") from error


@contextmanager
def _opened(source: Path | BinaryIO | bytes) -> Iterator[BinaryIO]:
    """Give a seekable stream at the source's start; close it only if it was opened here."""
    if isinstance(source, bytes):
        yield BytesIO(source)
    elif isinstance(source, Path):
        try:
            if not stat.S_ISREG(source.stat().st_mode):  # opening a pipe would wait for ever
                raise _RefusalError("it is not a file")
            stream = source.open("rb")
        except OSError as error:
            raise _RefusalError(error.strerror or str(error)) from error
        with stream:
            yield cast(BinaryIO, stream)
    else:
        seekable = source if source.seekable() else BytesIO(source.read())
        seekable.seek(0)
        yield seekable


def _check_format(stream: BinaryIO) -> None:
    """Refuse what is not in FORMATS by its first bytes, whatever its name says; leave the stream at
    its start.
    """
    head = stream.read(SIGNATURE_LENGTH)
    if not head:
        raise _RefusalError("it is empty")
    found = format_of(head)
    if found not in FORMATS:
        raise _RefusalError(f"it holds {found} data" if found else "it holds no image")
    stream.seek(0)


def _decoded(stream: BinaryIO, at_least: int | None) -> Image.Image:
    with _opened_image(stream) as image:
        if at_least is not None:
            image.draft(None, (at_least, at_least))
        image.load()
        upright = to_rgb(image)
        if (turn := _UPRIGHT.get(_orientation(image))) is not None:
            upright = upright.transpose(turn)
        # an EXIF orientation left here would be applied twice by whoever saves it
        upright.info = {}
        return upright


@contextmanager
def _opened_image(stream: BinaryIO) -> Iterator[Image.Image]:
    """Open what has passed `_check_format`, pixels not yet decoded; refuse what is too large."""
    with _pillow_kept_quiet(), Image.open(stream, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            limit = f"{MAX_PIXELS // 1_000_000} million"
            raise _RefusalError(
                f"{image.width} x {image.height} pixels are more than {limit}, scale it down first"
            )
        yield image


@contextmanager
def _pillow_kept_quiet() -> Iterator[None]:
    """Drop Pillow's warnings (odd EXIF, nearly too large, malformed MPO): the image is read or an
    error says why not.

    The filter names Pillow's modules only, as `catch_warnings` is shared by all threads.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged EXIF block says nothing of the pixels, which are fine
        return 1


def _eight_bit_gray(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray to 8 bits (65535 to 255, rounded), where Pillow clips, and keep a
    transparent value.
    """
    values = np.array(image, np.uint32)
    opaque = values != image.info.get("transparency", -1)
    values *= 255  # in place: a large image is large enough once
    values += 32767
    values //= 65535
    gray = Image.fromarray(values.astype(np.uint8))
    if not opaque.all():
        gray.putalpha(Image.fromarray(opaque.astype(np.uint8) * np.uint8(255)))
    return gray


def _unreadable(source: Path | BinaryIO | bytes, reason: str) -> ValueError:
    if isinstance(source, bytes):
        name = f"an image of {len(source)} bytes"
    else:
        name = repr(
            str(source if isinstance(source, Path) else getattr(source, "name", "<stream>"))
        )
    return ValueError(f"cannot read {name}: {reason}; tinysight reads {READABLE}")
