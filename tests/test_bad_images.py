"""200 crafted files: each gives a correct array or one clear `InputError`, and nothing else, in bounded memory."""

import io
import random
import resource
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import PngImagePlugin

from medground.errors import InputError
from medground.images.pictures import MAX_PIXELS
from medground.images.read import read_image, read_mask

COUNT = 200


def picture(width=37, height=23):
    y, x = np.mgrid[:height, :width]
    return Pillow.fromarray(np.dstack([x * 6 % 256, y * 10 % 256, (x + y) * 4 % 256]).astype(np.uint8))


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claiming(width, height, depth=8, colour=0, rows=None):
    """A PNG that claims a size, with as many rows of zeros as its claim or as given."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    packer, line = zlib.compressobj(9), b"\0" * (width * {0: 1, 2: 3, 6: 4}[colour] * depth // 8 + 1)
    data = b"".join(packer.compress(line) for _ in range(height if rows is None else rows))
    data += packer.flush(zlib.Z_FINISH if rows is None else zlib.Z_SYNC_FLUSH)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bmp_claiming(width, height):
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(header), 0, 0, 54) + header + b"\0" * 300


def tiff(entries, data=b""):
    """A little-endian TIFF of one directory: (tag, type, count, value) entries."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", 0) + data


def tiff_claiming(width, height, compression=1, bits=8):
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, compression), (262, 3, 1, 1)]
    return tiff([*tags, (273, 4, 1, 120), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 64)], b"\0" * 300)


def rotated():
    exif = Pillow.Exif()
    exif[0x0112] = 6
    return exif


def texts():
    info = PngImagePlugin.PngInfo()
    for k in range(70):
        info.add_text(f"k{k}", "a" * 1_000_000, zip=True)
    return info


def frames(form):
    return encoded(picture(), form, save_all=True, append_images=[picture().rotate(90), picture().rotate(180)])


def crafted():
    """(name, bytes, size that must be read | None where it must be refused) of the hand-made part."""
    good = picture()
    grey, deep = good.convert("L"), Pillow.fromarray(np.arange(23 * 37, dtype=np.uint16).reshape(23, 37) * 70)
    alpha = good.copy()
    alpha.putalpha(grey)
    size = (23, 37)
    shared = {"PNG": "png", "JPEG": "jpg", "TIFF": "tif", "BMP": "bmp", "WEBP": "webp", "GIF": "gif", "PPM": "ppm"}
    for form, suffix in shared.items():
        whole = encoded(good, form)
        yield f"whole.{suffix}", whole, size
        yield f"header_only.{suffix}", whole[:8], None
        yield f"one_byte.{suffix}", whole[:1], None
        yield f"wrong_magic.{suffix}", b"XX" + whole[2:], None
        yield f"empty.{suffix}", b"", None
        yield f"named_png_but_{suffix}.png", whole, size
    for mode, suffix in (("1", "png"), ("P", "png"), ("LA", "png"), ("L", "jpg"), ("CMYK", "jpg"), ("CMYK", "tif")):
        yield f"mode_{mode}.{suffix}", encoded(good.convert(mode), {v: k for k, v in shared.items()}[suffix]), size
    yield "alpha.png", encoded(alpha, "PNG"), size
    yield "alpha.webp", encoded(alpha, "WEBP"), size
    yield "deep.png", encoded(deep, "PNG"), size
    yield "deep.tif", encoded(deep, "TIFF"), size
    yield "int32.tif", encoded(Pillow.fromarray(np.array(deep).astype(np.int32)), "TIFF"), size
    yield "float.tif", encoded(Pillow.fromarray(np.array(deep).astype(np.float32)), "TIFF"), size
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield f"{compression}.tif", encoded(good, "TIFF", compression=compression), size
    yield "rotated.jpg", encoded(good, "JPEG", exif=rotated()), size[::-1]
    yield "rotated.png", encoded(good, "PNG", exif=rotated()), size[::-1]
    yield "rotated.tif", encoded(good, "TIFF", exif=rotated()), size[::-1]
    yield "progressive.jpg", encoded(good, "JPEG", progressive=True), size
    yield "wide.png", encoded(Pillow.new("L", (60_000, 1)), "PNG"), (1, 60_000)
    yield "tall.png", encoded(Pillow.new("L", (1, 60_000)), "PNG"), (60_000, 1)
    for form in ("GIF", "PNG", "WEBP", "TIFF"):
        yield f"animated.{shared[form]}", frames(form), None
    # Bombs: small files that claim, or hold, more than anyone wants.
    yield "bomb_13000.png", claiming(13_000, 13_000, rows=1_000), None
    yield "bomb_13000_rgba.png", claiming(13_000, 13_000, colour=6, rows=40), None
    yield "bomb_2e9.png", claiming(2**31 - 1, 2**31 - 1, rows=0), None
    yield "bomb_60000x2000.png", claiming(60_000, 2_000, rows=40), None
    yield "over_the_limit.png", claiming(8_001, 8_000, rows=10), None
    yield "short_rows.png", claiming(4_000, 4_000, rows=3), None
    yield "bomb.bmp", bmp_claiming(30_000, 30_000), None
    yield "bomb.tif", tiff_claiming(40_000, 40_000), None
    yield "bomb.ppm", b"P6 30000 30000 255\n" + b"\0" * 100, None
    yield "bomb.gif", b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b";", None
    yield "texts.png", encoded(good, "PNG", pnginfo=texts()), None
    yield "icc.png", encoded(good, "PNG", icc_profile=b"x" * 500_000), size
    yield "icc_bomb.png", _with_chunk(encoded(good, "PNG"), b"iCCP", b"x\0\0" + zlib.compress(b"\0" * 80_000_000)), None
    # Headers that lie.
    yield "zero_size.png", claiming(0, 5, rows=0), None
    yield "bad_depth.png", claiming(5, 5, depth=7, rows=0), None
    yield "bad_crc.png", _flipped(encoded(good, "PNG"), 29), None
    yield "no_data.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 5, 8, 2, 0, 0, 0)), None
    yield "negative.bmp", bmp_claiming(-5, 5), None
    yield "unknown_compression.tif", tiff_claiming(10, 10, compression=4711), None
    yield "no_bits.tif", tiff_claiming(10, 10, bits=0), None
    yield "no_entries.tif", tiff([]), None
    yield "self_loop.tif", b"II*\0" + struct.pack("<IHI", 8, 0, 8), None
    yield "far_directory.tif", b"II*\0" + struct.pack("<I", 2**31), None
    yield "not_a_number.ppm", b"P6 ten ten 255\n", None
    yield "deep.ppm", b"P5 3 2 65535\n" + bytes(range(12)), (2, 3)
    # Other things that people name like pictures; DICOM and NIfTI have readers of their own.
    yield "words.png", b"this is not a picture\n" * 20, None
    yield "zeros.jpg", b"\0" * 4096, None
    yield "page.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", None
    yield "scan.dcm", b"\0" * 128 + b"DICM" + b"\0" * 200, None
    yield "scan.nii", struct.pack("<i", 348) + b"\0" * 400, None
    yield "paper.pdf", b"%PDF-1.7\n%%EOF\n", None
    yield "archive.png", b"PK\x03\x04" + b"\0" * 60, None
    yield "script.png", b"#!/bin/sh\nexit 0\n", None
    yield "vector.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", None
    yield "old.ico", encoded(good, "ICO"), None
    yield "old.tga", encoded(good, "TGA"), None


def _with_chunk(png, kind, data):
    return png[:33] + chunk(kind, data) + png[33:]


def _flipped(data, at):
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def mutated(count):
    """Damaged copies of good files: cut short, header bytes changed, bytes put in; None means either end is right."""
    dice = random.Random(7)
    forms = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM")
    for number in range(count):
        form = forms[number % len(forms)]
        data = bytearray(encoded(picture(), form))
        kind = ("cut", "flip", "insert")[number // len(forms) % 3]
        if kind == "cut":
            del data[dice.randrange(4, len(data)) :]
        elif kind == "flip":
            for _ in range(dice.randint(1, 32)):
                data[dice.randrange(min(len(data), 256))] ^= dice.randint(1, 255)
        else:
            at = dice.randrange(len(data))
            data[at:at] = dice.randbytes(dice.randint(1, 64))
        yield f"{kind}_{number}.{form.lower()}", bytes(data)


@pytest.fixture(scope="module")
def corpus():
    """(name, bytes, size or None) of the hand-made files, and (name, bytes) of the damaged ones."""
    encoded = list(crafted())
    return encoded, list(mutated(COUNT - len(encoded)))


def outcome(read, path):
    """The array, or the error after checking that it says what it should."""
    try:
        return read(path)
    except InputError as error:
        text = str(error)
        assert (
            ("dicom-" if path.suffix == ".dcm" else path.name) in text
            and str(path.parent) not in text
            and "\n" not in text
            and error.hint
        )
        return None


@pytest.mark.slow
def test_the_corpus_has_200_files(corpus):
    names = [name for piece in corpus for name, *_ in piece]
    assert len(set(names)) == len(names) == COUNT


@pytest.mark.slow
def test_hand_made_files_are_read_right_or_refused(tmp_path, corpus):
    for name, data, size in corpus[0]:
        (tmp_path / name).write_bytes(data)
        image, mask = (outcome(read, tmp_path / name) for read in (read_image, read_mask))
        if size is None:
            assert image is None and mask is None, f"{name} was read"
        else:
            assert image is not None, f"{name} was refused"
            assert image.shape == (*size, 3) and image.dtype == np.uint8, name
            assert mask is None or (mask.shape == size and mask.dtype == bool), name


def test_damaged_files_are_read_or_refused(tmp_path, corpus):
    read = 0
    for name, data in corpus[1]:
        (tmp_path / name).write_bytes(data)
        image = outcome(read_image, tmp_path / name)
        if image is not None:
            read += 1
            assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8, name
            assert image.shape[0] * image.shape[1] <= MAX_PIXELS, name
    assert 0 < read < len(corpus[1])


@pytest.mark.soak
def test_five_thousand_damaged_files(tmp_path):
    for name, data in mutated(5000):
        (tmp_path / name).write_bytes(data)
        outcome(read_image, tmp_path / name)
        (tmp_path / name).unlink()


def test_a_bomb_costs_nothing(tmp_path, corpus):
    """A few kilobytes that claim 13 000 x 13 000 pixels are refused from the header."""
    [bomb] = [data for name, data, _ in corpus[0] if name == "bomb_13000.png"]
    (tmp_path / "bomb.png").write_bytes(bomb)
    assert len(bomb) < 20_000
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    with pytest.raises(InputError, match=r"bomb\.png claims 13000 x 13000 pixels .*64 megapixels"):
        read_image(tmp_path / "bomb.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before < 20_000_000
