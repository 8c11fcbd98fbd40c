"""Pictures and masks from files, and back.

`read_image` and `read_mask` open every kind; DICOM and NIfTI have modules of their own. The decoder of pictures is
Pillow, fenced: only the formats of `FORMATS` are tried, size on disk and size in pixels are checked before a pixel is
decoded, and whatever the decoder raises on a hostile file becomes one `InputError`. Messages name the file, never its
folder.
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
"""What is read, by Pillow's names; most of the forty others are never met here."""
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

# EXIF orientation -> what brings the stored array upright (CIPA DC-008, tag 0x0112).
_ORIENTATION = 0x0112
_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def read_image(
    path: str | Path, *, plane: str | None = None, slice: int | None = None, window: str | None = None
) -> Image:
    """Read an image as H x W x 3 uint8 RGB, upright: a picture, a DICOM file or one slice of a NIfTI volume.

    Args:
        path: the file; its kind is known by its suffix, DICOM's by its first bytes too.
        plane: of a volume: ``axial``, ``coronal`` or ``sagittal``; never guessed.
        slice: of a volume, or the frame of a film, from 0; never guessed.
        window: of DICOM and NIfTI: how values become grey, see `medground.images.view.View`.

    Raises:
        ViewError: if a volume or a film comes without a plane or slice, or a picture with one.
        InputError: as `read_picture`, for every kind.
        PluginError: if the kind needs an extra that is not installed.
    """
    from medground.images.read import show  # the door knows this room, too
    from medground.images.view import View

    return show(Path(path), View(plane=plane, slice=slice, window=window)).image


def read_mask(
    path: str | Path, *, plane: str | None = None, slice: int | None = None, values: tuple[int, ...] | None = None
) -> NDArray[np.bool_]:
    """Read a mask as H x W bool: foreground where the stored value is not 0, or is one of `values`.

    Raises:
        ViewError, InputError, PluginError: as `read_image`.
    """
    from medground.images.read import read_any_mask
    from medground.images.view import View

    return read_any_mask(Path(path), View(plane=plane, slice=slice), values)


def read_picture(path: str | Path) -> Image:
    """Read a picture as H x W x 3 uint8 RGB, upright.

    The EXIF orientation is applied. Grey is repeated over the channels. Grey of more than 8 bits (16-bit, 32-bit,
    float) is stretched linearly so that its smallest finite value becomes 0 and its largest 255; a constant one becomes
    0. 16-bit colour keeps its high bytes. Palettes are looked up. Alpha is composited on black. CMYK is converted
    without a colour profile; profiles are ignored everywhere.

    Raises:
        InputError: if the file is missing, not a picture, damaged, of another format, holds several frames (which one
            is meant cannot be guessed), or is beyond `MAX_BYTES` or `MAX_PIXELS`.
    """
    return _decode(Path(path), _rgb)


def read_picture_mask(path: str | Path, values: tuple[int, ...] | None = None) -> NDArray[np.bool_]:
    """Read a mask from a picture as H x W bool: foreground where the stored value is not 0, or is one of `values`.

    Palette indices count as stored; of colours, any channel; where there is alpha, only what is not transparent. JPEG
    blurs edges, so a JPEG mask counts from 128. The EXIF orientation is applied.

    Raises:
        InputError: as `read_picture`; for `values` of a picture that is no map of whole numbers.
    """
    if values is None:
        return _decode(Path(path), _foreground)
    return np.isin(read_picture_values(path), values)


def read_picture_values(path: str | Path) -> NDArray[Any]:
    """The stored whole numbers of a label map, H x W; palette indices count as stored.

    Raises:
        InputError: as `read_picture`; for a picture that is no map of whole numbers.
    """
    return _decode(Path(path), _label_values)


def write_mask(path: str | Path, mask: NDArray[np.bool_]) -> None:
    """Write an H x W mask as an 8-bit grey PNG of 0 and 255, whatever the suffix.

    Raises:
        ValueError: if `mask` is not H x W bool.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"a mask is H x W bool, not {mask.dtype} of shape {mask.shape}")
    Path(path).write_bytes(png_bytes(mask))


def png_bytes(array: NDArray[np.uint8] | NDArray[np.bool_]) -> bytes:
    """An image (H x W x 3 or H x W uint8) or a mask (H x W bool, written as 0 and 255) as a PNG file's bytes."""
    pixels = array.astype(np.uint8) * 255 if array.dtype == np.bool_ else array
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def decode_image(data: bytes, name: str) -> Image:
    """A picture's bytes as H x W x 3 uint8 RGB, as `read_picture` reads files; `name` is what messages call it."""
    return _decoded(io.BytesIO(data), name, _rgb)


def decode_mask(data: bytes, name: str) -> NDArray[np.bool_]:
    """A mask's bytes as H x W bool, as `read_picture_mask` reads files."""
    return _decoded(io.BytesIO(data), name, _foreground)


def encoded_size(data: bytes, name: str) -> Size:
    """(H, W) of a picture's bytes by its header, upright; no pixel is decoded, but a PNG's checksums are verified.

    Raises:
        InputError: as `read_picture`, as far as the header tells.
    """
    with _opened(io.BytesIO(data), name) as picture:
        width, height = picture.size
        # Orientations 5 to 8 lie on their side.
        # Pillow decodes a PNG to look for EXIF behind its pixels, where next to none has it.
        known = picture.format != "PNG" or "exif" in picture.info
        aside = known and picture.getexif().get(_ORIENTATION, 1) >= 5
        picture.verify()
        return (width, height) if aside else (height, width)


def _decode(path: Path, convert: Callable[[Pillow.Image], NDArray[Stored]]) -> NDArray[Stored]:
    name = "".join(letter if letter.isprintable() else "?" for letter in path.name)
    _check_file(path, name)
    try:
        stream = path.open("rb")
    except PermissionError as error:
        raise InputError(f"{name} may not be read", hint="check its permissions") from error
    with stream:
        return _decoded(stream, name, convert)


def _decoded(stream: BinaryIO, name: str, convert: Callable[[Pillow.Image], NDArray[Stored]]) -> NDArray[Stored]:
    with _opened(stream, name) as picture:
        picture.load()
        array, upright = convert(picture), _UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
        return np.require(array if upright is None else upright(array), requirements=["C", "W"])


@contextmanager
def _opened(stream: BinaryIO, name: str) -> Iterator[Pillow.Image]:
    """A picture whose header was checked; whatever its decoder raises inside becomes one `InputError`."""
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


def _check_file(path: Path, name: str) -> None:
    try:
        if not path.exists():
            raise InputError(f"{name} does not exist", hint="check the path")
        if not path.is_file():
            raise InputError(f"{name or 'the path'} is not a file", hint="give one image file")
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{name} cannot be looked up", hint="check the path and its permissions") from error
    if size == 0:
        raise InputError(f"{name} is empty", hint="copy or export it again")
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


def _label_values(picture: Pillow.Image) -> NDArray[Any]:
    stored: NDArray[Any] = np.asarray(picture)
    if stored.ndim == 3 and picture.mode == "RGB" and (stored == stored[..., :1]).all():
        stored = stored[..., 0]
    if stored.ndim != 2 or picture.format in ("JPEG", "MPO") or stored.dtype.kind not in "bui":
        raise InputError("a mask of colours or of a lossy format holds no label values", hint="save it as a grey PNG")
    return stored


def _foreground(picture: Pillow.Image) -> NDArray[np.bool_]:
    if picture.format in ("JPEG", "MPO"):
        return np.asarray(picture.convert("L")) >= 128
    stored: NDArray[Any] = np.asarray(picture)
    if stored.ndim == 2:
        stored = stored[..., None]
    elif picture.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        stored = stored[..., :-1]
    found: NDArray[np.bool_] = np.any(stored, axis=2)
    if picture.has_transparency_data:
        found &= np.asarray(picture.convert("RGBA").getchannel("A")) > 0
    return found
