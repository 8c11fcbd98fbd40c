"""Pictures over all that PNG, TIFF and JPEG let vary, and what other libraries read from them.

The oracles are tifffile and imagecodecs (libpng and libjpeg-turbo). What a picture shows is computed here from their values, by
the formats' own texts: TIFF 6.0 for photometric interpretations, PNG (third edition) for samples and transparency, JPEG's Adobe
marker for inverted inks.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import raster_files
import tifffile
from PIL import Image as Pillow

from medground.errors import InputError
from medground.images.read import open_image, read_mask
from medground.images.view import View

TURNS = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: a.swapaxes(0, 1)[:, ::-1], 7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}  # fmt: skip
"""Orientation -> stored to upright (TIFF 6.0, page 36: row 0 and column 0 are the visual sides named there)."""


@dataclass(frozen=True, slots=True)
class RasterFile:
    """One file and how to tell whether it is read right."""

    name: str
    about: str
    """What of its format it uses."""
    data: bytes
    compare: Callable[[Path], str]
    """Returns an empty text if the file is read as the oracles read it, else what differs; raises `InputError`."""


def raster_files_of(kind: str, count: int, seed: int = 0) -> Iterator[RasterFile]:
    """Yield `count` files of a kind of picture: ``tiff``, ``png`` or ``jpeg``."""
    return files_by({"tiff": _tiff, "png": _png, "jpeg": _jpeg}[kind], count, [seed, *kind.encode()])


def files_by(make, count: int, seed: list[int]) -> Iterator[RasterFile]:
    """Yield `count` files of ``make(dice, number)``, which returns None for a combination that cannot be written."""
    dice = np.random.default_rng(seed)
    for number in range(count):
        while (file := make(dice, number)) is None:
            pass
        yield file


def outcome(file: RasterFile, folder: Path) -> str:
    """Return ``same``, ``refused``, or what differs."""
    path = folder / file.name
    path.write_bytes(file.data)
    try:
        difference = file.compare(path)
    except InputError as error:
        assert error.hint and "\n" not in error.message, file
        return "refused"
    finally:
        path.unlink()
    return f"{file.name} ({file.about}): {difference}" if difference else "same"


def pick(dice, *choices):
    return choices[dice.integers(len(choices))]


def numbers_of(dice, dtype, shape, bits=None):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        values = dice.normal(scale=100, size=shape).astype(dtype)
        if dice.random() < 0.2:
            values.flat[dice.integers(values.size)] = np.nan
        return values
    bits = bits or 8 * dtype.itemsize
    low, high = (0, 2**bits - 1) if dtype.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    spread = pick(dice, high - low, min(high - low, 5))
    start = int(dice.integers(low, high - spread + 1, dtype=np.int64 if high < 2**63 else np.uint64, endpoint=False))
    return (dice.integers(0, spread, shape, np.uint64, endpoint=True).astype(object) + start).astype(dtype)


def windowed(values):
    """Grey of more than 8 bits: the percentiles 0.5 and 99.5 of the finite values become 0 and 255."""
    wide = values.astype(np.float64)
    good = wide[np.isfinite(wide)]
    low, high = np.percentile(good, (0.5, 99.5)) if good.size else (0, 0)
    if not high > low:
        return np.where(wide > low, 255.0, 0.0)
    return np.nan_to_num(((wide - low) / (high - low)).clip(0, 1) * 255, nan=0.0)


def _on_black(colours, alpha):
    return colours.astype(float) * (alpha[..., None] / 255.0)


def grey3(grey):
    return np.repeat(np.asarray(grey, float)[..., None], 3, axis=2)


def image_difference(path, expected, tolerance=1, view=None):
    image = open_image(path, view or View())
    if image.pixels.shape != expected.shape:
        return f"the shape is {image.pixels.shape}, not {expected.shape}"
    worst = np.abs(image.pixels - expected).max()
    return f"the image differs by {worst:.3g}" if worst > tolerance else ""


def mask_difference(path, stored, dice, view=None):
    """Compare a label of a label map that holds few values."""
    value = int(dice.choice(np.unique(stored[np.isfinite(stored)])))
    view = view or View()
    try:
        mask = read_mask(path, plane=view.plane, slice=view.slice, values=(value,))
    except InputError:
        return ""
    wrong = "" if np.array_equal(mask, stored == value) else f"the label {value} is {mask.sum()} px"
    return wrong


# TIFF


def _tiff(dice, number):
    height, width = (int(side) for side in dice.integers(3, 40, 2))
    photometric = pick(dice, 0, 1, 1, 1, 2, 2, 3, 5)
    dtype, bits = pick(
        dice, ("u1", 8), ("u2", 16), ("i1", 8), ("i2", 16), ("u4", 32), ("i4", 32), ("f2", 16), ("f4", 32), ("f8", 64),
        ("u1", 8), ("u2", 16), ("f4", 32), ("u1", 1), ("u1", 2), ("u1", 4), ("u2", 12), ("u1", 8), ("u2", 16),
    )  # fmt: skip
    if photometric in (2, 5):
        dtype, bits = pick(dice, ("u1", 8), ("u2", 16))
    if photometric == 3:
        dtype, bits = "u1", int(pick(dice, 1, 2, 4, 8))
    extra = pick(dice, None, None, 0, 2) if photometric in (1, 2) and dtype == "u1" and bits == 8 else None
    channels = {2: 3, 5: 4}.get(photometric, 1) + (extra is not None)
    shape = (height, width) if channels == 1 else (height, width, channels)
    values, order, planes = numbers_of(dice, dtype, shape, bits), pick(dice, "<", ">"), int(pick(dice, 1, 1, 2))
    orientation = int(pick(dice, 1, 1, 1, *range(1, 9)))
    palette = dice.integers(0, 65536, 3 << bits) if photometric == 3 else None
    planes = planes if channels > 1 else 1
    tags = [(274, "H", [orientation])]
    compression = pick(dice, None, None, "lzw", "zlib", "packbits", "zstd", "jpeg")
    if compression == "jpeg" and (dtype, bits, extra) == ("u1", 8, None) and photometric in (1, 2):
        return _jpeg_tiff(dice, number, photometric == 2)
    compression = "lzw" if compression == "jpeg" else compression
    by_hand = bits < 8 or bits == 12 or compression is None or (photometric, channels) == (1, 2)
    about = f"photometric {photometric}, {dtype} of {bits} bits, {channels} channels, {order}, planes {planes}, "
    if by_hand:
        rows, fill = pick(dice, None, 1, 5, 1000), int(pick(dice, 1, 1, 1, 2))
        tags += [(320, "H", palette)] if palette is not None else []
        tags += [(338, "H", [extra])] if extra is not None else []
        data = raster_files.tiff(
            values, bits, photometric, order=order, fill=fill, rows_per_strip=rows, planes=planes, tags=tags
        )
        about += f"strips of {rows}, fill order {fill}, orientation {orientation}, extra {extra}"
    else:
        predictor = bool(dice.integers(2)) and compression in ("lzw", "zlib", "zstd") and photometric != 3
        options = {
            "photometric": {0: "miniswhite", 1: "minisblack", 2: "rgb", 3: "palette", 5: "separated"}[photometric],
            "byteorder": order, "compression": compression, "predictor": predictor or None, "metadata": None,
            "tile": pick(dice, None, (16, 16), (32, 16)), "bigtiff": bool(dice.integers(2)),
            "extratags": [(274, 3, 1, orientation, True)],
        }  # fmt: skip
        if channels > 1:
            options["planarconfig"] = {1: "contig", 2: "separate"}[planes]
        if extra is not None:
            options["extrasamples"] = [extra]
        if palette is not None:
            options["colormap"] = palette.reshape(3, -1).astype(np.uint16)
        stream = io.BytesIO()
        try:
            tifffile.imwrite(stream, np.moveaxis(values, -1, 0) if planes == 2 else values, **options)
        except (ValueError, NotImplementedError, KeyError, TypeError):
            return None  # a combination that tifffile does not write
        data = stream.getvalue()
        about += f"{compression}, predictor {predictor}, tile {options['tile']}, big {options['bigtiff']}"
    return RasterFile(
        f"{number}.tif", about, data,
        lambda path: _compare_tiff(path, values, bits, photometric, extra, planes, palette, dice),
    )  # fmt: skip


def _jpeg_tiff(dice, number, colour):
    height, width = (int(side) for side in dice.integers(8, 60, 2))
    y, x = np.mgrid[:height, :width]
    a, b, c = dice.uniform(6, 20, 3)
    values = np.rint(128 + 100 * np.stack([np.sin(x / a + y / b + k * c) for k in range(3)], axis=-1)).astype(np.uint8)
    values = values if colour else values[..., 0]
    options = {
        "photometric": pick(dice, "rgb", "ycbcr") if colour else "minisblack", "compression": "jpeg", "metadata": None,
        "tile": pick(dice, None, (16, 16), (32, 16)), "byteorder": pick(dice, "<", ">"),
    }  # fmt: skip
    if colour:
        options["planarconfig"] = pick(dice, "contig", "separate") if options["photometric"] == "rgb" else "contig"
        values = np.moveaxis(values, -1, 0) if options["planarconfig"] == "separate" else values
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **options)

    def compare(path):
        stored = tifffile.imread(path).astype(float)
        stored = np.moveaxis(stored, 0, -1) if options.get("planarconfig") == "separate" else stored
        return image_difference(path, stored if colour else grey3(stored), 3)

    return RasterFile(f"{number}.tif", f"JPEG, {options}", stream.getvalue(), compare)


def _compare_tiff(path, written, bits, photometric, extra, planes, palette, dice):
    with tifffile.TiffFile(path) as file:
        stored, page = file.asarray(), file.pages[0]
        orientation = int(page.tags[274].value)
    stored = np.moveaxis(stored, 0, -1) if planes == 2 else stored
    stored = stored.astype(np.uint8) if stored.dtype == bool else stored
    assert np.array_equal(stored, written, equal_nan=written.dtype.kind == "f"), "the writer and the oracle agree"
    most = 2**bits - 1
    if photometric in (0, 1) and stored.ndim == 2:
        if stored.dtype == np.uint8:
            shown = stored * (255.0 / most)
            shown = grey3(255 - shown if photometric == 0 else shown)
        else:
            shown = grey3(255 - windowed(stored) if photometric == 0 else windowed(stored))
    elif photometric == 3:
        shown = (palette.reshape(3, -1).T >> 8)[stored].astype(float)
    else:
        high = (stored >> (bits - 8)).astype(float)
        if photometric == 5:
            shown = (255 - high[..., :3]) * (255 - high[..., 3:]) / 255
        else:
            colours = grey3(high[..., 0]) if photometric == 1 else high[..., :3]
            shown = _on_black(colours, high[..., -1]) if extra == 2 else colours
    turn = TURNS[orientation]
    difference = image_difference(path, turn(shown), 1 if photometric != 5 else 2)
    if not difference and stored.ndim == 2 and photometric in (1, 3):
        difference = mask_difference(path, turn(stored), dice)
    return difference


# PNG


def _png(dice, number):
    height, width = (int(side) for side in dice.integers(1, 40, 2))
    colour = int(pick(dice, 0, 0, 2, 3, 4, 6))
    bits = int(pick(dice, *{0: (1, 2, 4, 8, 16), 3: (1, 2, 4, 8)}.get(colour, (8, 16))))
    channels = raster_files.PNG_CHANNELS[colour]
    shape = (height, width) if channels == 1 else (height, width, channels)
    values = numbers_of(dice, "u2" if bits == 16 else "u1", shape, bits)
    palette = dice.integers(0, 256, (2**bits, 3)) if colour == 3 else None
    transparent = None
    if dice.random() < 0.4 and colour in (0, 2, 3):
        some = values.reshape(-1, channels)[dice.integers(height * width)].astype(">u2").tobytes()
        transparent = dice.integers(0, 256, int(dice.integers(1, 2**bits, endpoint=True)), np.uint8).tobytes()
        transparent = transparent if colour == 3 else some
    interlaced, gamma = bool(dice.integers(2)), pick(dice, None, 45455, 100000)
    data = raster_files.png(
        values, bits, colour, palette=palette, transparent=transparent, interlaced=interlaced, gamma=gamma
    )
    about = f"colour type {colour} of {bits} bits, transparent {transparent is not None}, "
    about += f"interlaced {interlaced}, gamma {gamma}"
    return RasterFile(
        f"{number}.png", about, data, lambda path: _compare_png(path, values, bits, colour, palette, dice)
    )


def _compare_png(path, written, bits, colour, palette, dice):
    decoded = imagecodecs.png_decode(path.read_bytes())
    decoded = decoded[..., None] if decoded.ndim == 2 else decoded
    colours, alpha = (decoded[..., :-1], decoded[..., -1]) if decoded.shape[2] in (2, 4) else (decoded, None)
    if colour in (0, 4) and bits <= 8:
        assert np.array_equal(colours[..., 0], (written if colour == 0 else written[..., 0]) * (255 // (2**bits - 1)))
    if colour == 3:
        assert np.array_equal(colours, palette[written])
    if bits == 16 and decoded.shape[2] == 1:
        shown = grey3(windowed(decoded[..., 0]))
    else:
        eight = colours >> 8 if bits == 16 else colours
        shown = eight.astype(float) if eight.shape[2] == 3 else grey3(eight[..., 0])
        if alpha is not None:
            shown = _on_black(shown, alpha >> 8 if bits == 16 else alpha)
    difference = image_difference(path, shown)
    return difference or (mask_difference(path, written, dice) if written.ndim == 2 else "")


# JPEG


def _jpeg(dice, number):
    height, width = (int(side) for side in dice.integers(8, 60, 2))
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([128 + 120 * np.sin(x / a + y / b) for a, b in dice.uniform(5, 20, (4, 2))], axis=-1)
    mode = str(pick(dice, "L", "RGB", "RGB", "CMYK", "bare CMYK", "RGB as such", "12 bits"))
    values, quality = np.rint(smooth).astype(np.uint8), int(pick(dice, 50, 75, 95))
    orientation = int(pick(dice, 1, 1, *range(1, 9)))
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    if mode == "12 bits":
        data = imagecodecs.jpeg_encode((values[..., 0].astype(np.uint16) * 16), bitspersample=12)
        orientation = 1
    elif mode in ("RGB as such", "bare CMYK"):
        space = "RGB" if mode == "RGB as such" else "CMYK"
        content = np.ascontiguousarray(values[..., :3] if space == "RGB" else values)
        data = imagecodecs.jpeg8_encode(content, quality, colorspace=space, outcolorspace=space)
        orientation = 1
        if mode == "bare CMYK" and (at := data.find(b"\xff\xee")) > 0:  # without its Adobe marker
            data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    else:
        content = values[..., 0] if mode == "L" else values[..., : len(mode)]
        options = {"progressive": bool(dice.integers(2)), "optimize": bool(dice.integers(2)), "exif": exif}
        if mode == "RGB":
            options["subsampling"] = int(dice.integers(3))
        Pillow.fromarray(np.ascontiguousarray(content), mode).save(stream, "JPEG", quality=quality, **options)
        data = stream.getvalue()
    about = f"{mode}, quality {quality}, orientation {orientation}"
    return RasterFile(f"{number}.jpg", about, data, lambda path: _compare_jpeg(path, mode, orientation))


def _compare_jpeg(path, mode, orientation):
    if mode == "12 bits":
        return image_difference(path, grey3(imagecodecs.jpeg_decode(path.read_bytes()) >> 4))
    decoded = imagecodecs.jpeg8_decode(path.read_bytes(), **({"outcolorspace": "CMYK"} if "CMYK" in mode else {}))
    if "CMYK" in mode:  # Adobe stores 255 less the ink
        shown = decoded[..., :3].astype(float) * decoded[..., 3:] / 255
    else:
        shown = grey3(decoded) if decoded.ndim == 2 else decoded.astype(float)
    return image_difference(path, TURNS[orientation](shown), 3)
