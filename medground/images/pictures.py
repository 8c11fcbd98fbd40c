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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from medground.errors import InputError, ViewError
from medground.geometry import Size
from medground.images.codings import Coding, read_coding, refuse_coding, unsupported
from medground.images.mask_values import brightness, target_pixels, whole_numbers
from medground.images.view import View
from medground.images.windows import WINDOWS, Numbers, apply_window, grey_to_rgb, window_numbers
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

_DEEP = {"I": Coding(bits=16, dtype="u2"), "F": Coding(bits=32, dtype="f4")}
"""Pillow's mode -> coding, of other files than PNG and TIFF."""

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """A decoded picture, upright."""

    pixels: Image
    """H×W×3 uint8 RGB."""
    window: str | None
    """The window that made 8 bits of deeper grey, in words; None where there was nothing to choose."""
    reoriented: bool
    """True if an EXIF orientation was applied."""


def decode_picture(stream: BinaryIO, name: str, window: str | None = None) -> Picture:
    """Read a picture as H×W×3 uint8 RGB, upright.

    Grey is repeated over the channels. Grey of more than 8 bits (12, 16, 32 bits, signed, float) becomes 8 bits by a window,
    as DICOM and NIfTI do: the one that is given, else the percentiles 0.5 to 99.5 of its finite values. 16-bit colour keeps
    its high bytes. Palettes are looked up; a TIFF in which 0 is white is inverted. Alpha is composited on black. CMYK is
    converted without a colour profile; profiles and gamma are ignored everywhere.

    Args:
        stream: a file, or its bytes as `io.BytesIO`.
        name: names it in messages.
        window: ``percentiles``, ``full`` or ``CENTRE,WIDTH``.

    Raises:
        InputError: if it is not a picture, damaged, of another format or coding, holds several frames (which one is meant
            cannot be guessed), or is beyond `MAX_BYTES` or `MAX_PIXELS`.
        ViewError: for a window of 8-bit or colour pixels, and for one that a picture cannot have.
    """
    shown: list[str] = []

    def rgb(picture: Pillow.Image, coding: Coding) -> Image:
        if coding.dtype == "u1" or len(picture.getbands()) > 1:
            View(window=window).refuse_on(name, "a picture of 8 bits or of colours", "window")
            return _rgb(picture)
        if window == "file" or window in WINDOWS:
            raise ViewError(f"{name} states no {window} window", hint="take percentiles, full or CENTRE,WIDTH")
        if coding.scaled and window is not None and window_numbers(window):
            raise ViewError(f"{name} is a PNM whose values are scaled", hint="take percentiles or full")
        grey, description = apply_window(_samples(picture, coding), window or "percentiles")
        shown.append(description)
        return grey_to_rgb(grey)

    pixels, reoriented = _decoded(stream, name, rgb)
    return Picture(pixels=pixels, window=shown[0] if shown else None, reoriented=reoriented)


def decode_mask(
    stream: BinaryIO, name: str, values: tuple[int, ...] | None = None, threshold: float | None = None
) -> NDArray[np.bool_]:
    """Read a mask from a picture as H×W bool: the target by what the picture shows, see `medground.images.mask_values`.

    Palettes are looked up and alpha is composited on black. One colour on black is the target. With `values` or a
    `threshold`, whole numbers count as stored, palette indices too. The EXIF orientation is applied.

    Args:
        stream: a file, or its bytes as `io.BytesIO`.
        name: names it in messages.
        values: the labels that are meant.
        threshold: the least value that is meant.

    Raises:
        InputError: as `decode_picture`; if the target cannot be known; for `values` of a picture that is no label map.
    """

    def target(picture: Pillow.Image, coding: Coding) -> NDArray[np.bool_]:
        if values is not None or threshold is not None:
            return target_pixels(_labels(picture, coding, name), name, wanted=values, threshold=threshold)
        full: int | None = 255
        if picture.mode == "P" or len(picture.getbands()) > 1:
            shown = _shown(picture, coding, name)
        elif picture.has_transparency_data:
            shown = _rgb(picture)[..., 0]
        else:
            shown = _samples(picture, coding)
            full = (1 << coding.bits) - 1 if coding.dtype[0] == "u" else None
        return target_pixels(shown, name, full=full, lossy=_is_lossy(picture))

    return _decoded(stream, name, target)[0]


def read_label_map(path: Path) -> Numbers:
    """Return the stored whole numbers of a picture that is a label map, H×W; palette indices count as stored.

    Raises:
        InputError: as `decode_mask`.
    """
    name = printable(path.name)
    with open_file(path) as stream:
        return _decoded(stream, name, lambda picture, coding: whole_numbers(_labels(picture, coding, name), name))[0]


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
    with _opened(io.BytesIO(data), name) as (picture, _):
        width, height = picture.size
        # Orientations 5 to 8 lie on their side; the size that Pillow tells of a TIFF is upright.
        lying = orientation >= 5 and picture.format != "TIFF"
        picture.verify()
        return (width, height) if lying else (height, width)


def orientation_of(stream: BinaryIO, name: str) -> int:
    """Return the EXIF orientation that a picture states, 1 to 8; 1 where it states none. Raises as `decode_picture`."""
    with _opened(stream, name) as (picture, _):
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
    stream: BinaryIO, name: str, convert: Callable[[Pillow.Image, Coding], NDArray[Stored]]
) -> tuple[NDArray[Stored], bool]:
    """(the pixels, upright; whether that took an EXIF orientation)."""
    with _opened(stream, name) as (picture, coding):
        upright = UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
        picture.load()
        array = convert(picture, coding)
        if upright is not None and picture.format != "TIFF":  # which Pillow turns as it loads
            array = upright(array)
        return np.require(array, requirements=["C", "W"]), upright is not None


@contextmanager
def _opened(stream: BinaryIO, name: str) -> Iterator[tuple[Pillow.Image, Coding]]:
    """A picture whose header was checked, and its coding; whatever its decoder raises inside becomes one `InputError`."""
    _check_size(stream, name)
    coding = None
    try:
        with warnings.catch_warnings():
            # What Pillow warns of, damaged metadata and large sizes, is read or refused here.
            warnings.simplefilter("ignore")
            coding = read_coding(stream, name)
            with Pillow.open(stream, formats=FORMATS) as picture:
                _check_header(picture, name)
                if coding and coding.bits not in (1, 8) and picture.mode != "P" and "transparency" in picture.info:
                    raise InputError(
                        f"{name} has a transparent value of {coding.bits} bits", hint="save it with 8 bits"
                    )
                if picture.format == "PPM":
                    coding = _pnm(picture)
                yield picture, coding or _DEEP.get(picture.mode, Coding())
    except UnidentifiedImageError as error:
        about = coding.about if coding else unsupported(stream)
        if about:
            raise refuse_coding(name, about) from error
        raise InputError(
            f"{name} is not an image of a format that can be read", hint=f"use one of {', '.join(FORMATS)}"
        ) from error
    except Pillow.DecompressionBombError as error:
        raise _too_many(name, "far more pixels than can be read") from error
    except _DECODER_ERRORS as error:
        raise InputError(
            f"{name} is damaged or incomplete", hint="open it in a viewer and save it again, or copy it anew"
        ) from error


def _pnm(picture: Pillow.Image) -> Coding:
    """The coding of a PNM. One with another maximum than 255 or 65535 has a decoder that scales its values."""
    [(decoder, _, _, arguments), *_] = picture.tile  # type: ignore[attr-defined]
    scaled = decoder.startswith("ppm") and isinstance(arguments, tuple) and arguments[1] not in (255, 65535)
    return replace(_DEEP.get(picture.mode, Coding()), scaled=scaled)


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
    if picture.format == "JPEG" and picture.mode == "CMYK" and "adobe" not in picture.info:
        raise InputError(f"{name} is a JPEG of four inks that does not say how", hint="save it as RGB")


def _too_many(name: str, claim: str) -> InputError:
    return InputError(
        f"{name} claims {claim}", hint=f"the limit is {MAX_PIXELS / 1e6:.0f} megapixels; shrink or crop it"
    )


def _rgb(picture: Pillow.Image) -> Image:
    if picture.has_transparency_data:
        layers = picture.convert("RGBA")
        black = Pillow.new("RGB", picture.size)
        black.paste(layers, mask=layers.getchannel("A"))
        return np.asarray(black)
    return np.asarray(picture.convert("RGB"))


def _samples(picture: Pillow.Image, coding: Coding) -> Numbers:
    """The samples of a grey picture as the file holds them, H×W; 0 is black."""
    samples: Numbers = np.asarray(picture)
    if samples.dtype.str[2:] == coding.dtype[1:] and samples.dtype != np.bool_:
        samples = samples.view(samples.dtype.str[0] + coding.dtype)
    if coding.bits in (2, 4):
        samples = samples // (255 // ((1 << coding.bits) - 1))  # Pillow spreads them over 8 bits
    if coding.white_is_zero and coding.bits == 16:
        samples = np.uint16(65535) - samples
    return samples


def _is_lossy(picture: Pillow.Image) -> bool:
    """Return True if a picture was compressed as JPEG, in a file of its own or in a TIFF."""
    return picture.format in ("JPEG", "MPO") or picture.info.get("compression") == "jpeg"


def _labels(picture: Pillow.Image, coding: Coding, name: str) -> Numbers:
    """The whole numbers of a label map as stored, H×W."""
    stored: Numbers = np.asarray(picture)
    if picture.mode == "RGB" and coding.bits == 8 and (stored == stored[..., :1]).all():
        stored = stored[..., 0]
    if stored.ndim == 2 and not (_is_lossy(picture) or coding.white_is_zero or coding.scaled):
        return _samples(picture, coding) if picture.mode not in ("P", "RGB") else stored
    raise InputError(
        f"the mask {name} is coloured, lossy, scaled or inverted, so it holds no label values",
        hint="save it as a grey PNG",
    )


def _shown(picture: Pillow.Image, coding: Coding, name: str) -> Numbers:
    """The brightness of a mask in colours, H×W uint8: that of grey ones, and 0 and 255 where one colour lies on black."""
    if coding.bits > 8:
        raise InputError(f"the mask {name} has colours of {coding.bits} bits", hint="save it as a grey PNG of 8 bits")
    opaque = picture if picture.has_transparency_data else picture.convert("RGB")
    layers = np.asarray(opaque.convert("RGBA")).astype(np.int16)
    colours, alpha = layers[..., :3], layers[..., 3:]
    if len(np.unique(alpha[alpha > 0])) > 1:
        colours = np.rint(colours * (alpha / 255.0)).astype(np.int16)
    else:
        colours = colours * (alpha > 0)
    if (alpha == 0).any() and (alpha > 0).any() and not colours.any():
        raise InputError(f"the mask {name} is black on transparent", hint="save its target as 0 and 255")
    return brightness(colours, name)
