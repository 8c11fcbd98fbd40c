"""How a PNG, JPEG or TIFF file codes its samples, and a refusal of what Pillow would misread, before a pixel is decoded."""

import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import JpegImagePlugin, TiffImagePlugin

from medground.errors import InputError

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NIFTI = {b"n+1\0": "NIfTI without its suffix .nii", b"ni1\0": "half of a NIfTI pair (.hdr and .img)"}
_COMPRESSIONS = {
    2: "CCITT RLE", 3: "CCITT T.4", 4: "CCITT T.6", 5: "LZW", 6: "old JPEG", 7: "JPEG", 8: "Deflate",
    32773: "PackBits", 32946: "Deflate", 34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA", 50000: "Zstandard",
    50001: "WebP",
}  # fmt: skip
_JPEG_COMPRESSED = 7
_READ_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}
_KINDS = {1: "unsigned integers", 2: "signed integers", 3: "floats", 5: "complex integers", 6: "complex numbers"}
_DTYPES = {1: "u", 2: "i", 3: "f"}
_GREY, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = (0, 1), 2, 3, 5, 6, 8
"""Photometric interpretations; grey 0 shows 0 as white."""
_PHOTOMETRIC = {
    0: "white is zero", 1: "black is zero", _RGB: "RGB", _PALETTE: "palette", _CMYK: "CMYK", _YCBCR: "YCbCr", _LAB: "Lab",
}  # fmt: skip
_CHANNELS = {_RGB: 3, _CMYK: 4, _YCBCR: 3, _LAB: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """How the samples of a picture are stored."""

    bits: int = 8
    """Per sample."""
    dtype: str = "u1"
    """numpy's, of one sample; of fewer bits than 8, and of 12, the next larger."""
    white_is_zero: bool = False
    scaled: bool = False
    """True if the decoder scales the values, so that they are not those that the file holds."""
    about: str = ""
    """Of a TIFF, in words."""


def read_coding(stream: BinaryIO, name: str) -> Coding | None:
    """Return the coding of a PNG or TIFF file, None of another one, and rewind the stream.

    Raises:
        InputError: if Pillow would decode other values than the file holds.
        ValueError, TypeError, KeyError, OSError, SyntaxError, struct.error, OverflowError: of damaged tags, as by Pillow.
    """
    start, coding = stream.read(54), None
    if start.startswith(b"BM") and start[28:29] in b"\2\4\x08" and start[46:50] == b"\2\0\0\0":
        raise refuse_coding(name, f"BMP of {start[28]} bits with two colours")
    if start.startswith(_PNG) and len(start) == 54:
        coding = Coding(bits=start[24], dtype="u2" if start[24] == 16 else "u1")
    if start.startswith(_TIFF):
        coding = _tiff(stream, name)
    stream.seek(0)
    return coding


def unsupported(stream: BinaryIO) -> str | None:
    """Return what a file is that Pillow did not recognise; None where nothing is known of it."""
    stream.seek(0)
    start = stream.read(348)
    stream.seek(0)
    if start[344:348] in _NIFTI:
        return _NIFTI[start[344:348]]
    if not start.startswith(_JPEG):
        return None
    try:
        JpegImagePlugin.JpegImageFile(stream)
    except SyntaxError as error:
        return f"JPEG of a rare coding ({error})"
    except (OSError, ValueError, IndexError, struct.error):
        return None
    return None


def _tiff(stream: BinaryIO, name: str) -> Coding:
    stream.seek(0)
    start = stream.read(8)
    if 43 in start[2:4]:
        start += stream.read(8)
    if start[:4] == _TIFF[3]:
        raise refuse_coding(name, "BigTIFF, big-endian")
    tags = TiffImagePlugin.ImageFileDirectory_v2(start)
    stream.seek(tags.next)
    tags.load(stream)
    bits, kinds = _numbers(tags, TiffImagePlugin.BITSPERSAMPLE, 1), _numbers(tags, TiffImagePlugin.SAMPLEFORMAT, 1)
    [photometric] = _numbers(tags, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, -1)
    [compression] = _numbers(tags, TiffImagePlugin.COMPRESSION, 1)
    [separate] = _numbers(tags, TiffImagePlugin.PLANAR_CONFIGURATION, 1)
    [samples] = _numbers(tags, TiffImagePlugin.SAMPLESPERPIXEL, 1)
    [fill] = _numbers(tags, TiffImagePlugin.FILLORDER, 1)
    extras = len(_numbers(tags, TiffImagePlugin.EXTRASAMPLES, 0)) if TiffImagePlugin.EXTRASAMPLES in tags else 0
    big_endian, planes = start[:2] == b"MM", separate == 2 and samples > 1
    facts = {
        f"TIFF of {samples} x {'/'.join(map(str, sorted(set(bits))))}-bit {_KINDS.get(kinds[0], 'numbers')}": True,
        _PHOTOMETRIC.get(photometric, "without a known photometric interpretation"): True,
        "big-endian": big_endian,
        "in planes": planes,
        "bits reversed": fill == 2,
        _COMPRESSIONS.get(compression, f"compression {compression}"): compression != 1,
    }
    about = ", ".join(fact for fact, true in facts.items() if true)
    misread = (
        compression not in _READ_COMPRESSIONS
        or len(set(bits)) != 1
        or len(set(kinds)) != 1
        or not _depth_is_read(photometric, kinds[0], bits[0])
        or (photometric in _CHANNELS and samples != _CHANNELS[photometric] + extras)
        or (planes and (photometric not in _CHANNELS or (bits[0] == 16 and compression == 1)))
        or (photometric == _YCBCR and (planes or compression != _JPEG_COMPRESSED))
        or (fill == 2 and photometric not in _GREY)
        or (photometric == _PALETTE and 0 < max(_numbers(tags, TiffImagePlugin.COLORMAP, 0)) < 256)
        or (big_endian and compression != 1 and bits[0] > 8 and (kinds[0] != 1 or bits[0] == 32))
    )
    if misread:
        raise refuse_coding(name, about)
    dtype = f"{_DTYPES[kinds[0]]}{max(bits[0] + 7, 8) // 8}"
    return Coding(bits=bits[0], dtype=dtype, white_is_zero=photometric == 0, about=about)


def refuse_coding(name: str, about: str) -> InputError:
    """Return the error that a file is coded as `about` says."""
    return InputError(f"{name} is {about}, which cannot be read", hint="save it as PNG, or a volume as .nii")


def _numbers(tags: TiffImagePlugin.ImageFileDirectory_v2, tag: int, default: int) -> tuple[int, ...]:
    return tuple(int(number) for number in np.atleast_1d(tags.get(tag, default)))


def _depth_is_read(photometric: int, kind: int, bits: int) -> bool:
    """Return True if Pillow decodes samples of this kind and depth as they are."""
    if photometric == 1:
        return bits in {1: (1, 2, 4, 8, 12, 16, 32), 2: (8, 16, 32), 3: (32,)}.get(kind, ())
    depths = {0: (1, 2, 4, 8, 16), _PALETTE: (1, 2, 4, 8), _RGB: (8, 16), _CMYK: (8, 16), _YCBCR: (8,), _LAB: (8,)}
    return kind == 1 and bits in depths.get(photometric, ())
