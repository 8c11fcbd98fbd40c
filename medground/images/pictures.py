"""Pictures and masks from files, and back.

The decoder is Pillow, restricted: only the formats of `FORMATS` are tried, size on disk and size in pixels are checked
before a pixel is decoded, and whatever the decoder raises on a hostile file becomes one `InputError`. Messages name the
file, never its folder.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from medground.errors import InputError
from medground.geometry import Size
from medground.types import Image

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM")
"""The formats that are read, by Pillow's names."""
MAX_PIXELS = 64_000_000
"""The most pixels a file may claim in its header: 192 MB of RGB, decoded."""
MAX_BYTES = 512_000_000
"""The largest file that is opened."""

# What Pillow 12 and 13 raise on damaged files, by decoder and damage; found by mutation, see tests/test_bad_images.py.
_DECODER_ERRORS = (
    Pillow.DecompressionBombError,  # its own pixel limit, reached inside nested images and tiles
    OSError,  # truncated data, unidentified image, a broken stream of any decoder
    SyntaxError,  # broken PNG, TIFF and JPEG headers
    ValueError,  # impossible sizes, modes and conversions; text chunks that inflate too far
    TypeError,  # TIFF tags of the wrong kind
    KeyError,  # unknown TIFF compressions, modes and tags
    IndexError,  # headers and palettes that are too short
    AttributeError,  # a stream closed by an earlier failure
    EOFError,  # frames that are announced and absent
    OverflowError,  # sizes beyond the machine's integers
    ZeroDivisionError,  # rational tags over zero
    MemoryError,  # allocations asked for by a header
    NotImplementedError,  # rare TIFF layouts
    RuntimeError,  # decoder limits
    struct.error,  # short binary fields
    zlib.error,  # damaged PNG chunks
)

Stored = TypeVar("Stored", bound=np.generic)
Numbers = NDArray[Any]
"""An array of numbers of any dtype."""

# EXIF orientation -> what brings the stored array upright (CIPA DC-008, tag 0x0112).
_ORIENTATION = 0x0112
UPRIGHT: dict[int, Callable[[Numbers], Numbers]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def decode_picture(stream: BinaryIO, name: str) -> tuple[Image, bool]:
    """Read a picture as H×W×3 uint8 RGB, upright; the second value is True if an EXIF orientation was applied.

    Grey is repeated over the channels. Grey of more than 8 bits (16-bit, 32-bit, float) is stretched linearly so that
    its smallest finite value becomes 0 and its largest 255; a constant one becomes 0. 16-bit colour keeps its high
    bytes. Palettes are looked up. Alpha is composited on black. CMYK is converted without a colour profile; profiles are
    ignored everywhere.

    >>> read_image("scan.nii.gz", plane="axial", slice=40, window="lung").shape  # doctest: +SKIP
    (512, 512, 3)

    Args:
        stream: a file, or its bytes as `io.BytesIO`.
        name: names it in messages.

    Raises:
        InputError: if it is not a picture, damaged, of another format, holds several frames (which one is meant cannot be
            guessed), or is beyond `MAX_BYTES` or `MAX_PIXELS`.
    """
    return _decoded(stream, name, _rgb)


def decode_mask(stream: BinaryIO, name: str, values: tuple[int, ...] | None = None) -> NDArray[np.bool_]:
    """Read a mask from a picture as H×W bool: foreground where the stored value is not 0, or is one of `values`.

    Palette indices count as stored; of colours, any channel; where there is alpha, only what is not transparent. JPEG
    blurs edges, so a JPEG mask counts from 128. The EXIF orientation is applied.

    Raises:
        InputError: as `decode_picture`; for `values` of a picture that is no map of whole numbers.
    """
    if values is None:
        return _decoded(stream, name, _foreground)[0]
    return np.isin(_decoded(stream, name, _label_values)[0], values)


def read_label_map(path: Path) -> Numbers:
    """Return the stored whole numbers of a picture that is a label map, H×W; palette indices count as stored.

    Raises:
        InputError: as `decode_mask`.
    """
    with open_file(path) as stream:
        return _decoded(stream, printable(path.name), _label_values)[0]


def write_mask(path: str | Path, mask: NDArray[np.bool_]) -> None:
    """Write an H x W mask as an 8-bit grey PNG of 0 and 255, whatever the suffix.

    Raises:
        ValueError: if `mask` is not H x W bool.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"a mask is H x W bool, not {mask.dtype} of shape {mask.shape}")
    Path(path).write_bytes(png_bytes(mask))


def png_bytes(array: NDArray[np.uint8] | NDArray[np.bool_]) -> bytes:
    """Return an image (H x W x 3 or H x W uint8) or a mask (H x W bool, written as 0 and 255) as a PNG file's bytes."""
    pixels = array.astype(np.uint8) * 255 if array.dtype == np.bool_ else array
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def encoded_size(data: bytes, name: str) -> Size:
    """Return (H, W) of a picture's bytes by its header, upright; no pixel is decoded, but a PNG's checksums are verified.

    Raises:
        InputError: as `decode_picture`, as far as the header tells.
    """
    orientation = orientation_of(io.BytesIO(data), name)
    with _opened(io.BytesIO(data), name) as picture:
        width, height = picture.size
        # Orientations 5 to 8 lie on their side; the size that Pillow tells of a TIFF is upright.
        lying = orientation >= 5 and picture.format != "TIFF"
        picture.verify()
        return (width, height) if lying else (height, width)


def orientation_of(stream: BinaryIO, name: str) -> int:
    """Return the EXIF orientation that a picture states, 1 to 8; 1 where it states none. Raises as `decode_picture`."""
    with _opened(stream, name) as picture:
        if picture.format == "PNG":
            # Pillow decodes a PNG to look for EXIF behind its pixels, where next to none has it.
            position = stream.tell()
            stream.seek(0)
            data = stream.read()
            stream.seek(position)
            if not any(chunk in data for chunk in (b"eXIf", b"tEXt", b"zTXt", b"iTXt")):
                return 1
        stated = picture.getexif().get(_ORIENTATION, 1)
        return int(stated) if stated in list(UPRIGHT) else 1


def printable(name: str) -> str:
    """Return a file's name fit for messages: ``?`` for what cannot be printed."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open an existing file.

    Raises:
        InputError: if it does not exist, is no file, is empty, or may not be read.
    """
    name = printable(path.name)
    try:
        if not path.exists():
            raise InputError(f"{name} does not exist", hint="check the path")
        if not path.is_file():
            raise InputError(f"{name or 'the path'} is not a file", hint="give one image file")
        if path.stat().st_size == 0:
            raise InputError(f"{name} is empty", hint="copy or export it again")
        stream = path.open("rb")
    except PermissionError as error:
        raise InputError(f"{name} may not be read", hint="check its permissions") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{name} cannot be looked up", hint="check the path and its permissions") from error
    with stream:
        yield stream


def _decoded(
    stream: BinaryIO, name: str, convert: Callable[[Pillow.Image], NDArray[Stored]]
) -> tuple[NDArray[Stored], bool]:
    """(the pixels, upright; whether that took an EXIF orientation)."""
    with _opened(stream, name) as picture:
        picture.load()
        array, upright = convert(picture), UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
        return np.require(array if upright is None else upright(array), requirements=["C", "W"]), upright is not None


@contextmanager
def _opened(stream: BinaryIO, name: str) -> Iterator[Pillow.Image]:
    """A picture whose header was checked; whatever its decoder raises inside becomes one `InputError`."""
    _check_size(stream, name)
    try:
        with warnings.catch_warnings():
            # What Pillow warns of, damaged metadata and large sizes, is read or refused here.
            warnings.simplefilter("ignore")
            with Pillow.open(stream, formats=FORMATS) as picture:
                _check_header(picture, name)
                yield picture
    except UnidentifiedImageError as error:
        raise InputError(
            f"{name} is not an image of a format that can be read", hint=f"use one of {', '.join(FORMATS)}"
        ) from error
    except Pillow.DecompressionBombError as error:
        raise _too_many(name, "far more pixels than can be read") from error
    except _DECODER_ERRORS as error:
        raise InputError(
            f"{name} is damaged or incomplete", hint="open it in a viewer and save it again, or copy it anew"
        ) from error


def _check_size(stream: BinaryIO, name: str) -> None:
    size = stream.seek(0, 2)
    stream.seek(0)
    if size > MAX_BYTES:
        raise InputError(f"{name} takes {size / 1e6:.0f} MB", hint=f"the limit is {MAX_BYTES / 1e6:.0f} MB; shrink it")


def _check_header(picture: Pillow.Image, name: str) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise _too_many(name, f"{width} x {height} pixels")
    # A camera's MPO is one photograph with previews; every other set of frames is a film or a stack.
    if picture.format != "MPO" and getattr(picture, "is_animated", False):
        raise InputError(f"{name} holds several frames", hint="save the one you mean as an image of its own")


def _too_many(name: str, claim: str) -> InputError:
    return InputError(
        f"{name} claims {claim}", hint=f"the limit is {MAX_PIXELS / 1e6:.0f} megapixels; shrink or crop it"
    )


def _rgb(picture: Pillow.Image) -> NDArray[np.uint8]:
    if picture.mode[0] in "IF":
        return np.repeat(_stretch(np.asarray(picture))[..., None], 3, axis=2)
    if picture.has_transparency_data:
        layers = picture.convert("RGBA")
        black = Pillow.new("RGB", picture.size)
        black.paste(layers, mask=layers.getchannel("A"))
        return np.asarray(black)
    return np.asarray(picture.convert("RGB"))


def _stretch(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey of any depth to 8 bits, smallest finite value 0, largest 255."""
    grey = values.astype(np.float32)
    finite = np.isfinite(grey)
    if not finite.any():
        return np.zeros(grey.shape, np.uint8)
    low, high = float(grey.min(where=finite, initial=np.inf)), float(grey.max(where=finite, initial=-np.inf))
    np.nan_to_num(grey, copy=False, nan=low, posinf=high, neginf=low)
    grey -= np.float32(low)
    grey *= np.float32(255.0 / (high - low) if high > low else 0.0)
    return np.rint(np.clip(grey, 0, 255)).astype(np.uint8)


def _label_values(picture: Pillow.Image) -> Numbers:
    stored: Numbers = np.asarray(picture)
    if stored.ndim == 3 and picture.mode == "RGB" and (stored == stored[..., :1]).all():
        stored = stored[..., 0]
    if stored.ndim != 2 or picture.format in ("JPEG", "MPO") or stored.dtype.kind not in "bui":
        raise InputError("a mask of colours or of a lossy format holds no label values", hint="save it as a grey PNG")
    return stored


def _foreground(picture: Pillow.Image) -> NDArray[np.bool_]:
    if picture.format in ("JPEG", "MPO"):
        return np.asarray(picture.convert("L")) >= 128
    stored: Numbers = np.asarray(picture)
    if stored.ndim == 2:
        stored = stored[..., None]
    elif picture.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        stored = stored[..., :-1]
    foreground: NDArray[np.bool_] = np.any(stored, axis=2)
    if picture.has_transparency_data:
        foreground &= np.asarray(picture.convert("RGBA").getchannel("A")) > 0
    return foreground
