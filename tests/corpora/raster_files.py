"""PNG, TIFF and NIfTI files written byte by byte, so that no library decides what they say."""

import gzip
import struct
import zlib

import numpy as np

PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row, first column, row step and column step of each pass (PNG, section 8.2)."""
TYPES = {"B": 1, "H": 3, "I": 4}
"""struct's letter -> TIFF's field type: byte, short, long."""


def packed(rows, bits, order=">"):
    """Rows of samples as bytes, each row filled up to a whole byte; samples of other depths have their high bits first."""
    rows = rows.reshape(len(rows), -1)
    if bits in (8, 16, 32, 64):
        return [row.astype(row.dtype.newbyteorder(order)).tobytes() for row in rows]
    wide = rows.astype(">u2").view(np.uint8).reshape(*rows.shape, 2)
    return [np.packbits(line).tobytes() for line in np.unpackbits(wide, axis=2)[..., -bits:].reshape(len(rows), -1)]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values, bits, colour, *, palette=None, transparent=None, interlaced=False, gamma=None):
    """A PNG of H×W or H×W×C samples.

    Args:
        values: the samples.
        bits: per sample.
        colour: PNG's colour type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha.
        palette: N×3 bytes.
        transparent: the content of a tRNS chunk.
        interlaced: by Adam7.
        gamma: the content of a gAMA chunk, 100000 times the exponent.
    """
    height, width = values.shape[:2]
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    lines = b""
    for row, column, down, across in passes:
        part = values[row::down, column::across]
        if part.size:
            lines += b"".join(b"\0" + line for line in packed(part, bits))
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"gAMA", struct.pack(">I", gamma)) if gamma else b""
    data += chunk(b"PLTE", palette.astype(np.uint8).tobytes()) if palette is not None else b""
    data += chunk(b"tRNS", transparent) if transparent else b""
    return data + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def tiff(values, bits, photometric, *, order="<", fill=1, rows_per_strip=None, planes=1, tags=()):
    """An uncompressed TIFF of H×W or H×W×C samples.

    Args:
        values: the samples.
        bits: per sample.
        photometric: TIFF's photometric interpretation; None leaves the tag out.
        order: ``<`` or ``>``.
        fill: FillOrder; 2 stores every byte with its lowest bit first.
        rows_per_strip: None for one strip.
        planes: PlanarConfiguration.
        tags: (number, struct's letter, values) that are added or replace ours.
    """
    height, width = values.shape[:2]
    layers = [values[..., k] for k in range(values.shape[2])] if planes == 2 else [values]
    rows = rows_per_strip or height
    lines = [packed(layer, bits, order) for layer in layers]
    strips = [b"".join(layer[top : top + rows]) for layer in lines for top in range(0, height, rows)]
    if fill == 2:
        strips = [
            np.packbits(np.unpackbits(np.frombuffer(strip, np.uint8)), bitorder="little").tobytes() for strip in strips
        ]
    channels = values.shape[2] if values.ndim == 3 else 1
    kind = {"u": 1, "i": 2, "f": 3, "b": 1}[values.dtype.kind]
    fields = {
        256: ("I", [width]), 257: ("I", [height]), 258: ("H", [bits] * channels), 259: ("H", [1]),
        273: ("I", [0] * len(strips)), 277: ("H", [channels]), 278: ("I", [rows]), 279: ("I", list(map(len, strips))),
        284: ("H", [planes]), 339: ("H", [kind] * channels), 266: ("H", [fill]),
    }  # fmt: skip
    if photometric is not None:
        fields[262] = ("H", [photometric])
    fields |= {number: (letter, list(content)) for number, letter, content in tags}
    start = 8 + 2 + 12 * len(fields) + 4
    start += sum(len(content) * struct.calcsize(letter) for letter, content in fields.values()) + 16
    offsets = np.cumsum([start, *map(len, strips)])[:-1]
    fields[273] = ("I", offsets.tolist())
    entries, heap = b"", b""
    at = 8 + 2 + 12 * len(fields) + 4
    for number, (letter, content) in sorted(fields.items()):
        data = struct.pack(f"{order}{len(content)}{letter}", *content)
        if len(data) > 4:
            position, heap = at + len(heap), heap + data
            data = struct.pack(f"{order}I", position)
        entries += struct.pack(f"{order}HHI", number, TYPES[letter], len(content)) + data.ljust(4, b"\0")
    first = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8) + struct.pack(f"{order}H", len(fields))
    whole = first + entries + b"\0" * 4 + heap
    return whole.ljust(start, b"\0") + b"".join(strips)


NIFTI_CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280}


def nifti(
    values, *, order="<", sform=None, qform=None, sform_code=1, qform_code=1, steps=(1, 1, 1), units=2, slope=0.0, inter=0.0,
    offset=352, display=(0, 0), zipped=False, magic=b"n+1\0", code=None,
):  # fmt: skip
    """A NIfTI-1 file of X×Y×Z voxels (nifti1.h).

    Args:
        values: the stored voxels, of numpy's type, or of bytes with `code`.
        order: ``<`` or ``>``.
        sform: 3×4; None writes zeros and a code of 0.
        qform: (b, c, d, x, y, z, qfac); None writes zeros and a code of 0.
        sform_code: of `sform`.
        qform_code: of `qform`.
        steps: pixdim 1 to 3.
        units: xyzt_units.
        slope: scl_slope.
        inter: scl_inter.
        offset: vox_offset.
        display: cal_min and cal_max.
        zipped: by gzip.
        magic: four bytes.
        code: of a datatype that numpy has not.
    """
    dtype = values.dtype
    shape = values.shape if code is None else values.shape[:3]
    header = bytearray(348)

    def put(letters, at, *content):
        struct.pack_into(order + letters, header, at, *content)

    put("i", 0, 348)
    put("8h", 40, len(shape), *shape, *[1] * (7 - len(shape)))
    put("h", 70, NIFTI_CODES[dtype.str[1:]] if code is None else code)
    put("h", 72, dtype.itemsize * 8 if code is None else 8 * values.shape[-1])
    put("8f", 76, qform[6] if qform else 1, *steps, 1, 1, 1, 1)
    put("fff", 108, offset, slope, inter)
    put("B", 123, units)
    put("ff", 124, display[1], display[0])
    put("hh", 252, qform_code if qform else 0, 0 if sform is None else sform_code)
    put("6f", 256, *(qform[:6] if qform else [0] * 6))
    put("12f", 280, *(np.zeros(12) if sform is None else np.asarray(sform, float).ravel()))
    header[344:348] = magic
    if code is None:
        voxels = values.astype(dtype.newbyteorder(order)).tobytes(order="F")
    else:
        voxels = np.moveaxis(values, -1, 0).tobytes(order="F")
    data = bytes(header).ljust(max(int(offset), 348), b"\0") + voxels
    return gzip.compress(data, 1) if zipped else data
