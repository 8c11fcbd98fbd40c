"""The size a compressed picture states in its own first bytes: JPEG, JPEG-LS and JPEG 2000."""

import struct

_NO_LENGTH = {0x01, *range(0xD0, 0xD9)}
"""JPEG markers that stand alone."""
_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""JPEG markers that open a picture: SOF0 to SOF15, and JPEG-LS's SOF55."""


def claimed_size(data: bytes) -> tuple[int, int] | None:
    """(H, W) as the code stream states it; None where it is of no such kind, such as run lengths.

    Raises:
        ValueError: if it begins as one and states no size.
    """
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    at = data[:4096].find(b"\xff\x4f\xff\x51")  # start of code stream and of its size, within a JP2 file too
    if at >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
        return bottom - top, right - left
    return None


def _jpeg(data: bytes) -> tuple[int, int]:
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            raise ValueError("no marker where one must be")
        marker = data[at + 1]
        if marker == 0xFF or marker in _NO_LENGTH:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAME:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])
    raise ValueError("no size stated")
