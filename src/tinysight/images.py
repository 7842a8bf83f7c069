"""Any image -> square RGB uint8, the same way for data that is imported and images to predict.

Decided here, once for both:

- Alpha is composited on white: most cut-outs were made for a white page, and the colors under full
  transparency are arbitrary. Of an animation the first frame is used. EXIF orientation is applied.
  Color profiles are ignored: values are taken as sRGB.
- A fit gives the frame that becomes the square: "crop" the largest centered square in the image,
  "pad" the smallest around it, "stretch" the image itself. Padding has the image's own mean color:
  the mean over a dataset stays that of its pictures, and no edge is harder than in a picture.
- The frame is resized with Pillow's bicubic filter, which widens its support when it shrinks, so it
  does not alias. It keeps as much detail as Lanczos and overshoots less at the hard edges of
  drawings and cut-outs.
"""

from __future__ import annotations

import logging
import math
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, ImageStat, UnidentifiedImageError

from tinysight.files import expand

logger = logging.getLogger("tinysight")
Source = str | Path | BinaryIO | bytes | Image.Image | npt.NDArray[np.uint8]
Fit = Literal["crop", "pad", "stretch"]
Boxes = npt.NDArray[np.floating]

FITS: tuple[Fit, ...] = ("crop", "pad", "stretch")

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIC")
READABLE = "JPEG, PNG, WebP, BMP, GIF, TIFF and AVIF files, and HEIC with the extra heic"
SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif"),
}
SIGNATURE_LENGTH = 32  # bytes at the start of a file that `format_of` needs
# Admits 108-megapixel phones; 480 MB once decoded. Pillow's own global limit is left alone.
MAX_PIXELS = 120_000_000
# A JPEG may be scaled down while it is decoded, but never below this many times the side that is
# wanted. A photograph of 12 megapixels then takes a third of the time (34 ms), and differs by 0.2
# gray levels on average, 3 at most.
JPEG_MARGIN = 3
BICUBIC_REACH = 2  # pixels to each side, of the larger of the two grids

LFS_POINTER = "a Git LFS pointer"
_SIGNATURES = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), name)
    for pattern, name in (
        *((rb"\xff\xd8\xff", "JPEG"), (rb"\x89PNG\r\n\x1a\n", "PNG"), (rb".{8}WEBP", "WEBP")),
        *((rb"GIF8", "GIF"), (rb"BM.{4}\0{4}", "BMP"), (rb"II[*+]\0|MM\0[*+]", "TIFF")),
        (rb".{4}ftyp(avi[fs]|(mif|msf)1.{4}(.{4})*avi[fs])", "AVIF"),
        (rb".{4}ftyp(he[iv][cxms]|(mif|msf)1)", "HEIC"),
        *((rb".{4}ftyp", "MP4"), (rb"%PDF", "PDF"), (rb"<svg", "SVG"), (rb"<\?xml", "XML or SVG")),
        *((rb"<html|<!doctype", "HTML"), (rb"version https://git-lfs", LFS_POINTER)),
    )
)
_ON_ITS_SIDE = (5, 6, 7, 8)  # orientations in EXIF
_IGNORED_CHUNKS = (b"iCCP", b"tEXt", b"zTXt", b"iTXt")  # of a PNG


def format_of(head: bytes) -> str | None:
    """Return the format that a file's first SIGNATURE_LENGTH bytes show, read or not; or None."""
    return next((name for pattern, name in _SIGNATURES if pattern.match(head)), None)


def read_image(source: Source, *, at_least: int | None = None) -> Image.Image:
    """Read an upright RGB image from a file of FORMATS, a Pillow image or an array.

    Files may be given as path, stream or bytes, arrays as uint8 (H, W), (H, W, 3) or (H, W, 4). A
    JPEG that is cut short is read as viewers do, what is missing in gray, and logged as a warning.

    Args:
        at_least: a JPEG may be scaled down by 2, 4 or 8 while it is decoded, as long as its shorter
            side keeps so many pixels.

    Raises:
        ValueError: names the file, what is wrong, and the formats that are read.
    """
    return _read(source, at_least)[0]


def _read(source: Source, at_least: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """Read an image, and the width and height that it has if it is not scaled down."""
    if not isinstance(source, str | Path | bytes | np.ndarray | Image.Image) and not (
        hasattr(source, "read") and hasattr(source, "seekable")
    ):
        kind, how = type(source).__name__, ""
        if kind == "Tensor":
            how = "; of values in 0..1: image.mul(255).byte().permute(1, 2, 0).cpu().numpy()"
        expected = f"give a path, a file, a PIL image or a uint8 array (H, W, 3){how}"
        raise ValueError(f"cannot read a {kind}: {expected}")
    with _naming(source):
        if isinstance(source, np.ndarray):
            image = to_rgb(_from_array(source))
            return image, image.size
        if isinstance(source, Image.Image):
            image = source.copy()
            image.load()
            upright = _to_upright_rgb(image)
            return upright, upright.size
        with _opened(source) as (image, stream):
            is_jpeg, size = image.format in ("JPEG", "MPO"), _upright_size(image)
            _scale_down(image, at_least)
            try:
                image.load()
                upright = _to_upright_rgb(image)
            except OSError as error:
                if not is_jpeg:
                    raise
                upright = _read_cut_short(stream, at_least, _name(source), error)
            return upright, size if is_jpeg else upright.size


def upright_size(source: str | Path | BinaryIO | bytes) -> tuple[int, int]:
    """Return width and height of the image that `read_image` makes of a file; ValueError as there.

    Only a PNG is decoded for it: one may give its orientation after the pixels.
    """
    with _naming(source), _opened(source) as (image, _):
        return _upright_size(image)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    with suppress(Exception):  # damaged EXIF does not affect the pixels
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        # Pillow has the sides of a TIFF turned as soon as it is open, by this tag
        turned = getattr(image, "tag_v2", {}).get(ExifTags.Base.Orientation) in _ON_ITS_SIDE
        if orientation in _ON_ITS_SIDE and not turned:
            return image.height, image.width
    return image.size


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to a new RGB one; alpha on white, 16-bit gray scaled to 8."""
    if image.mode == "F":
        raise _UnreadableError("its pixels are 32-bit floats; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = _to_eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return white


@dataclass(frozen=True)
class Frame:
    """The rectangle of an image that becomes a square, in whole pixels: halves blur.

    Where it pads, it extends beyond the image.
    """

    left: int
    top: int
    width: int
    height: int

    def to_square(self, boxes: Boxes, size: int) -> Boxes:
        """Move boxes (N, 4) from pixels of the image to those of its square; nothing is clipped."""
        return (boxes - self._corners) * size / self._sides

    def to_image(self, boxes: Boxes, size: int) -> Boxes:
        """Move boxes (N, 4) from pixels of the square to those of its image."""
        return boxes * self._sides / size + self._corners

    @property
    def _corners(self) -> tuple[int, int, int, int]:
        return (self.left, self.top, self.left, self.top)

    @property
    def _sides(self) -> tuple[int, int, int, int]:
        return (self.width, self.height, self.width, self.height)


def frame_of(width: int, height: int, fit: Fit) -> Frame:
    """Return the frame of an image: see the head of this module."""
    if fit == "stretch":
        return Frame(0, 0, width, height)
    side = {"crop": min, "pad": max}[fit](width, height)
    return Frame((width - side) // 2, (height - side) // 2, side, side)


def frame_side(source: str | Path | BinaryIO | bytes, fit: Fit) -> int:
    """Return the shorter side of a file's frame, in pixels, from its header alone."""
    with _naming(source), _opened(source) as (image, _):  # turning it upright changes no side
        frame = frame_of(*image.size, fit)
        return min(frame.width, frame.height)


def to_square(image: Image.Image, size: int, fit: Fit = "crop") -> npt.NDArray[np.uint8]:
    """Resize the frame of an image: uint8 (size, size, 3), RGB, a copy.

    Only the frame is resampled, so a crop of 1 x 5000 costs no more than the middle pixel. A frame
    of `size` keeps its exact pixels.
    """
    if size < 1:
        raise ValueError(f"image size {size} is not possible; choose 1 or more pixels")
    if image.mode != "RGB":
        image = to_rgb(image)
    frame = frame_of(*image.size, fit)
    if fit == "pad":
        image = _padded(image, frame, size)
        frame = Frame(0, 0, *image.size)
    return np.array(_resized(image, frame, size))


def _resized(image: Image.Image, frame: Frame, size: int) -> Image.Image:
    """Resize the columns of a frame, then its rows; rows that it does not reach are left out.

    Pillow rounds between the two, and since 13 takes the rows of some tall images first: left to
    it, the same picture would have other bytes by Pillow's version, and in the exported page.
    """
    reach = math.ceil(BICUBIC_REACH * max(1.0, frame.height / size)) + 1
    first = max(0, frame.top - reach)
    last = min(image.height, frame.top + frame.height + reach)
    if last - first < image.height:
        image = image.crop((0, first, image.width, last))
    window = (frame.left, 0, frame.left + frame.width, image.height)
    image = image.resize((size, image.height), Image.Resampling.BICUBIC, box=window)
    window = (0, frame.top - first, size, frame.top - first + frame.height)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=window)


def _padded(image: Image.Image, frame: Frame, size: int) -> Image.Image:
    """Resize the longer side to `size`, then pad the other: 1 x 5000 never becomes 5000 x 5000."""
    wide = image.width > image.height
    shape, canvas = (image.width, size), (frame.width, size)
    if wide:
        shape, canvas = (size, image.height), (size, frame.height)
    image = image.resize(shape, Image.Resampling.BICUBIC)
    color = tuple(round(mean) for mean in ImageStat.Stat(image).mean)
    padded = Image.new("RGB", canvas, color)
    padded.paste(image, (0, -frame.top) if wide else (-frame.left, 0))
    return padded


def load_square(source: Source, size: int, fit: Fit = "crop") -> npt.NDArray[np.uint8]:
    """Read an image as uint8 (size, size, 3); see `read_image` and `to_square`."""
    return load_square_of(source, size, fit)[0]


def load_square_of(
    source: Source, size: int, fit: Fit = "crop"
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Do what `load_square` does; return width and height of the upright image, too."""
    image, full_size = _read(source, JPEG_MARGIN * size)
    return to_square(image, size, fit), full_size


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Drop Pillow's warnings; around threads that read images, as these share the filters."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


class _UnreadableError(Exception):
    """Why a source is not read, in words that follow "cannot read NAME: "."""


@contextmanager
def _naming(source: Source) -> Iterator[None]:
    """Turn every exception into a ValueError that names the source."""
    try:
        yield
    except Exception as error:  # Pillow's parsers raise a dozen types, IndexError among them
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # its message names an object of ours
            reason = "its header is damaged or incomplete"
        elif not isinstance(error, _UnreadableError):
            reason = f"its data cannot be decoded ({reason})"
        what = f"cannot read {_name(source)}: {reason}; tinysight reads {READABLE}"
        raise ValueError(what) from error


def _name(source: Source) -> str:
    if isinstance(source, bytes):
        return f"an image of {len(source)} bytes"
    if isinstance(source, np.ndarray):
        return f"an array of {source.dtype} {source.shape}"
    path = source if isinstance(source, str | Path) else getattr(source, "name", "<stream>")
    return repr(str(path))


@contextmanager
def _opened(source: str | Path | BinaryIO | bytes) -> Iterator[tuple[Image.Image, BinaryIO]]:
    """Open an image without decoding its pixels, and its stream; refuse other formats and sizes.

    Pillow's warnings (odd EXIF, nearly too large, malformed MPO) are dropped: the image is read,
    or an error gives the reason. The filter names Pillow's modules only, as all threads share it.
    """
    with _stream(source) as stream, quiet_pillow():
        head = stream.read(SIGNATURE_LENGTH)
        if not head:
            raise _UnreadableError("it is empty")
        found = format_of(head)  # whatever its name is
        if found == LFS_POINTER:
            raise _UnreadableError(f"it is {found}, not the image; fetch it by `git lfs pull`")
        if found not in FORMATS:
            raise _UnreadableError(f"it holds {found} data" if found else "it is not an image")
        stream.seek(0)
        if found == "PNG":
            stream = BytesIO(_without_profile_and_text(stream.read()))
        if found == "HEIC":
            found = _register_heic()
        with Image.open(stream, formats=(found,)) as image:
            if image.width * image.height > MAX_PIXELS:
                most = f"{MAX_PIXELS // 1_000_000} million, scale it down first"
                raise _UnreadableError(
                    f"{image.width} x {image.height} pixels are more than {most}"
                )
            yield image, stream


def _scale_down(image: Image.Image, at_least: int | None) -> None:
    if at_least is not None:
        image.draft(None, (at_least, at_least))


def _read_cut_short(
    stream: BinaryIO, at_least: int | None, name: str, error: OSError
) -> Image.Image:
    """Read what there is of a JPEG, or raise `error`; an end marker makes the decoder go on."""
    stream.seek(0)
    data = stream.read()
    last_segment = max(data.rfind(b"\xff\xc4"), data.rfind(b"\xff\xda"))  # of a progressive one
    for end in (len(data), last_segment):
        whole = BytesIO(data[:end] + b"\xff\xd9")
        with suppress(OSError), Image.open(whole, formats=("JPEG",)) as image:
            _scale_down(image, at_least)
            image.load()
            logger.warning("%s is cut short; what is missing is gray", name)
            return _to_upright_rgb(image)
    raise error


def _without_profile_and_text(png: bytes) -> bytes:
    """Drop the chunks of a PNG that are not used, because Pillow refuses large ones."""
    kept, at = [png[:8]], 8
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        keyword = png[at + 8 : at + 40].lower()
        orients = b"exif" in keyword or b"xmp" in keyword
        if png[at + 4 : at + 8] not in _IGNORED_CHUNKS or orients:
            kept.append(png[at:end])
        at = end
    return b"".join(kept)


def _register_heic() -> str:
    """Let Pillow read HEIC; return what it calls the format."""
    try:
        import pillow_heif
    except ImportError:
        raise _UnreadableError(
            "it holds HEIC data, which needs an extra: pip install 'tinysight[heic]'"
        ) from None
    pillow_heif.register_heif_opener()
    return "HEIF"


@contextmanager
def _stream(source: str | Path | BinaryIO | bytes) -> Iterator[BinaryIO]:
    """Yield a seekable stream at the source's start; close it only if it was opened here."""
    if isinstance(source, bytes):
        yield BytesIO(source)
    elif isinstance(source, str | Path):
        path = expand(source)
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
                raise _UnreadableError("it is not a file")
            stream = path.open("rb")
        except OSError as error:
            raise _UnreadableError(error.strerror or str(error)) from error
        with stream:
            yield cast(BinaryIO, stream)
    else:
        seekable = source if source.seekable() else BytesIO(source.read())
        seekable.seek(0)
        yield seekable


def _to_upright_rgb(image: Image.Image) -> Image.Image:
    with suppress(Exception):  # damaged EXIF does not affect the pixels
        ImageOps.exif_transpose(image, in_place=True)
    upright = to_rgb(image)
    upright.info = {}  # an orientation left here would be applied twice by whoever saves the image
    return upright


def _from_array(array: npt.NDArray[np.uint8]) -> Image.Image:
    fits = array.size and array.ndim in (2, 3) and array.shape[2:] in ((), (3,), (4,))
    if array.dtype != np.uint8 or not fits:
        how = ""
        if array.dtype.kind == "f":
            how = "; of values in 0..1 make (image * 255).round().astype('uint8')"
        raise _UnreadableError(f"it is not uint8 (H, W), (H, W, 3) or (H, W, 4){how}")
    return Image.fromarray(array)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray to 8 bits, where Pillow clips; keep a transparent value."""
    values = np.array(image, np.uint32)
    if values.max(initial=0) > 65535:
        raise _UnreadableError("its pixels have more than 16 bits; save it with 8 or 16")
    opaque = values != image.info.get("transparency", -1)
    values *= 255  # in place: one copy of a large image is large enough
    values += 32767
    values //= 65535
    gray = Image.fromarray(values.astype(np.uint8))
    if not opaque.all():
        gray.putalpha(Image.fromarray(opaque.astype(np.uint8) * np.uint8(255)))
    return gray
