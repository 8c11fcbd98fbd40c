"""What a compressed picture states in its own first bytes: JPEG, JPEG-LS and JPEG 2000."""

import struct
from dataclasses import dataclass

_NO_LENGTH = {0x01, *range(0xD0, 0xD9)}
"""JPEG markers that stand alone."""
_JP2 = b"\x00\x00\x00\x0cjP  "
"""The first box of a JP2 file."""
_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""JPEG markers that open a picture: SOF0 to SOF15, and JPEG-LS's SOF55."""


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What a code stream states."""

    size: tuple[int, int]
    """(H, W)."""
    bits: int
    """Of a sample."""
    signed: bool = False
    """Only JPEG 2000 can state signed samples."""
    transformed: bool | None = None
    """Of JPEG 2000: True if its components are a transform of RGB, which every decoder undoes."""


def frame_header(data: bytes) -> FrameHeader | None:
    """Return what the code stream states; None where it is of no such kind, for example run lengths.

    Raises:
        ValueError: if it begins as one and states no size, or could never be parsed.
    """
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    _check_boxes(data)
    at = data[:4096].find(b"\xff\x4f\xff\x51")  # start of code stream and of its size, within a JP2 file too
    if at >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
        depth = data[at + 42]
        size = (bottom - top, right - left)
        return FrameHeader(size, (depth & 0x7F) + 1, bool(depth & 0x80), _transformed(data, at + 2))
    return None


def _transformed(data: bytes, at: int) -> bool:
    """The multiple component transform of the COD segment (ISO/IEC 15444-1, A.6.1), from the SIZ segment on."""
    while data[at : at + 2] != b"\xff\x52":
        if data[at : at + 1] != b"\xff" or data[at : at + 2] == b"\xff\x90":
            raise ValueError("no coding style before the first tile")
        at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])
    return data[at + 8] != 0


def _check_boxes(data: bytes) -> None:
    """Refuse a JP2 file without code stream, or a box of length 0 before it: pydicom's parser would never leave it."""
    offset = 12
    while data.startswith(_JP2) and data[offset + 4 : offset + 8] != b"jp2c":
        length = int.from_bytes(data[offset : offset + 4], "big")
        if length == 0:
            raise ValueError("a box without length before the code stream")
        offset += length


def _jpeg(data: bytes) -> FrameHeader:
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            raise ValueError("no marker where one must be")
        marker = data[at + 1]
        if marker == 0xFF or marker in _NO_LENGTH:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAME:
            bits, height, width = struct.unpack_from(">BHH", data, at + 4)
            return FrameHeader((height, width), bits)
        at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])
    raise ValueError("no size stated")
