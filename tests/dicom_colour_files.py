"""Generated DICOM files of colours: RGB, YBR, palettes, JPEG."""

import io
import random
from typing import Any

import numpy as np
from dicom_parts import NATIVE, Case, even, header, in_table, jpeg, set_pixels, words
from PIL import Image as Pillow
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)


def colour(dice: random.Random) -> Case:
    """RGB, YBR and palettes."""
    random_ = np.random.default_rng(dice.getrandbits(32))
    height, width = dice.randint(4, 15), 2 * dice.randint(2, 8)
    return dice.choice([_rgb, _ybr, _palette, _palette, _lossy, _jpeg_2000])(dice, random_, height, width)


def _base(
    dice: random.Random, syntax: str, interpretation: str, height: int, width: int, samples: int, bits: int
) -> Dataset:
    return header(
        syntax, SecondaryCaptureImageStorage, "OT", PhotometricInterpretation=interpretation, SamplesPerPixel=samples,
        Rows=height, Columns=width, BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=0,
        **({"PlanarConfiguration": dice.randrange(2)} if samples == 3 else {}),
    )  # fmt: skip


def _rgb(dice: random.Random, random_: Any, height: int, width: int) -> Case:
    syntax, bits = dice.choice([*NATIVE, RLELossless, JPEGLSLossless, JPEG2000Lossless]), dice.choice([8, 8, 16])
    if syntax in (JPEGLSLossless, JPEG2000Lossless):
        bits = 8
    if syntax == JPEG2000Lossless:
        height, width = height + 32, width + 32
    dataset = _base(dice, syntax, "RGB", height, width, 3, bits)
    frames = dice.choice([1, 1, 3])
    values = random_.integers(0, 1 << bits, (frames, height, width, 3))
    if syntax == JPEGLSLossless:
        values = np.repeat(np.sort(values, axis=2)[:, :1], values.shape[1], axis=1)  # noise overflows the encoder
    frame = dice.randrange(frames)
    if frames > 1:
        dataset.NumberOfFrames = frames
    if syntax in NATIVE:
        planes = values.transpose(0, 3, 1, 2) if dataset.PlanarConfiguration else values
        data, vr = words(planes, syntax, bits), "OB" if bits == 8 else "OW"
        if syntax == ImplicitVRLittleEndian:
            vr = "OW"
        set_pixels(dataset, data, vr)
    else:
        set_pixels(dataset, encapsulate([_colour_stream(each, syntax, bits) for each in values]), "OB", True)
    case = Case(
        f"{syntax.name}, RGB of {bits} bits, planar {dataset.PlanarConfiguration}, {frames} frames", dataset,
        frame if frames > 1 else None, shown=(values[frame] >> (bits - 8)).astype(np.float64), values=values[frame],
    )  # fmt: skip
    if syntax == RLELossless and bits == 16:
        case.differs["itk"] = "GDCM takes the bytes of RLE segments in another order than PS3.5 G.2"
    if dataset.PlanarConfiguration and syntax in (JPEGLSLossless, JPEG2000Lossless):
        case.differs["pydicom"] = "it takes PlanarConfiguration for the decoder's order; PS3.3 C.7.6.3.1.3 does not"
    return case


def _colour_stream(frame: Any, syntax: str, bits: int) -> bytes:
    scratch = _base(random.Random(0), ExplicitVRLittleEndian, "RGB", *frame.shape[:2], 3, bits)
    scratch.PlanarConfiguration = 0
    set_pixels(scratch, words(frame, ExplicitVRLittleEndian, bits), "OB" if bits == 8 else "OW")
    scratch.compress(syntax)
    return get_frame(scratch.PixelData, 0, number_of_frames=1)


def to_rgb(ybr: Any) -> Any:
    """PS3.3 C.7.6.3.1.2, YBR_FULL, turned round."""
    y, b, r = (ybr[..., channel].astype(np.float64) - (0, 128, 128)[channel] for channel in range(3))
    rgb = np.stack([y + 1.402 * r, y - 0.114 * 1.772 / 0.587 * b - 0.299 * 1.402 / 0.587 * r, y + 1.772 * b], axis=-1)
    return np.clip(rgb, 0, 255)


def _ybr(dice: random.Random, random_: Any, height: int, width: int) -> Case:
    halved = dice.random() < 0.5
    syntax = dice.choice([*NATIVE] if halved else [*NATIVE, RLELossless])
    frames = dice.choice([1, 1, 3])
    dataset = _base(dice, syntax, "YBR_FULL_422" if halved else "YBR_FULL", height, width, 3, 8)
    values = random_.integers(0, 256, (frames, height, width, 3))
    frame = dice.randrange(frames)
    if frames > 1:
        dataset.NumberOfFrames = frames
    if halved:
        dataset.PlanarConfiguration = 0
        values[:, :, 1::2, 1:] = values[:, :, ::2, 1:]
        pairs = values.reshape(-1, 2, 3)
        stream = np.stack([pairs[:, 0, 0], pairs[:, 1, 0], pairs[:, 0, 1], pairs[:, 0, 2]], axis=1)
        set_pixels(dataset, words(stream, syntax, 8), "OW" if syntax == ImplicitVRLittleEndian else "OB")
    elif syntax == RLELossless:
        set_pixels(dataset, encapsulate([_colour_stream(each, syntax, 8) for each in values]), "OB", True)
    else:
        planes = values.transpose(0, 3, 1, 2) if dataset.PlanarConfiguration else values
        set_pixels(dataset, words(planes, syntax, 8), "OW" if syntax == ImplicitVRLittleEndian else "OB")
    return Case(
        f"{syntax.name}, {dataset.PhotometricInterpretation}, planar {dataset.PlanarConfiguration}", dataset,
        frame if frames > 1 else None, shown=to_rgb(values[frame]), tolerance=0.51, values=to_rgb(values[frame]),
    )  # fmt: skip


def _palette(dice: random.Random, random_: Any, height: int, width: int) -> Case:
    syntax, allocated = dice.choice([*NATIVE, RLELossless]), dice.choice([8, 16])
    dataset = _base(dice, syntax, "PALETTE COLOR", height, width, 1, allocated)
    bits, count = dice.choice([8, 16]), dice.choice([3, 100, 255, 256])
    signed = allocated == 16 and dice.random() < 0.3
    dataset.PixelRepresentation = int(signed)
    first = dice.choice([0, 5, -20 if signed else 2])
    values = random_.integers(first - 3 if signed else 0, 250, (height, width))
    if syntax in NATIVE:
        set_pixels(
            dataset,
            words(values, syntax, allocated),
            "OW" if allocated == 16 or syntax == ImplicitVRLittleEndian else "OB",
        )
    else:
        scratch = header(
            ExplicitVRLittleEndian, SecondaryCaptureImageStorage, "OT", PhotometricInterpretation="MONOCHROME2",
            SamplesPerPixel=1, Rows=height, Columns=width, BitsAllocated=allocated, BitsStored=allocated,
            HighBit=allocated - 1, PixelRepresentation=int(signed),
        )  # fmt: skip
        set_pixels(scratch, words(values, ExplicitVRLittleEndian, allocated), "OW")
        scratch.compress(syntax)
        set_pixels(dataset, scratch.PixelData, "OB", True)
    segmented, wide = dice.random() < 0.3, dice.random() < 0.3
    channels = []
    for name in ("Red", "Green", "Blue"):
        dark = dice.random() < 0.3
        entries = random_.integers(0, 256 if dark else 1 << bits, count)
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "SS" if signed else "US", [count, first, bits])
        if segmented:
            codes, entries = _segments(entries, dice)
            keyword = f"Segmented{name}PaletteColorLookupTableData"
        else:
            codes, keyword = entries, f"{name}PaletteColorLookupTableData"
        if bits == 8 and not (wide and not segmented):
            codes = np.frombuffer(even(np.asarray(codes).astype(np.uint8).tobytes()), "<u2").astype(np.int64)
        dataset.add_new(keyword, "OW", words(codes, syntax, 16))
        channels.append(in_table(values, entries, first))
    shown = np.stack(channels, axis=-1) >> (bits - 8)
    case = Case(
        f"{syntax.name}, palette of {count} entries of {bits} bits from {first}"
        f"{', in segments' if segmented else ''}{', one to a word' if wide else ''}",
        dataset, shown=shown.astype(np.float64), values=np.stack(channels, axis=-1),
    )  # fmt: skip
    if segmented:
        case.tolerance = 1.5  # how a linear segment is rounded is not stated
    case.differs["itk"] = "GDCM returns the palette's entries by rules of its own"
    if segmented or syntax == ExplicitVRBigEndian or (bits == 8 and (wide or count % 2 or signed)):
        case.differs["pydicom"] = (
            "its palettes are little endian, of even length and short; it rounds segments otherwise"
        )
    return case


def _segments(entries: Any, dice: random.Random) -> tuple[list[int], Any]:
    """Discrete and linear segments (PS3.3 C.7.9.2) and the entries that they stand for."""
    codes: list[int] = []
    values: list[float] = []
    position = 0
    while position < len(entries):
        length = min(dice.randint(1, 60), len(entries) - position)
        if values and dice.random() < 0.5:
            start, end = values[-1], int(entries[position + length - 1])
            codes += [1, length, end]
            values += [round(start + (end - start) * step / length) for step in range(1, length + 1)]
        else:
            codes += [0, length, *map(int, entries[position : position + length])]
            values += map(int, entries[position : position + length])
        position += length
    return codes, np.array(values, np.int64)


def _lossy(dice: random.Random, random_: Any, height: int, width: int) -> Case:
    """JPEG: what the stream states of its colours controls the decoding, else the header does (PS3.5 8.2.1, notes 1, 2)."""
    width += 32
    smooth = np.stack(
        [np.broadcast_to(np.linspace(a, b, width), (height, width)) for a, b in ((200, 60), (40, 90), (20, 250))], -1
    )
    picture = Pillow.fromarray(np.rint(smooth).astype(np.uint8))
    how = dice.choice(["JFIF", "Adobe", "unmarked"])
    stream = jpeg(picture, subsampling=dice.choice([0, 1, 2]))
    assert stream[2:4] == b"\xff\xe0"
    length = int.from_bytes(stream[4:6], "big")
    if how != "JFIF":
        adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01" if how == "Adobe" else b""
        stream = stream[:2] + adobe + stream[4 + length :]
    tag = dice.choice(["YBR_FULL_422", "YBR_FULL", "RGB"])
    dataset = _base(dice, JPEGBaseline8Bit, tag, height, width, 3, 8)
    set_pixels(dataset, encapsulate([stream]), "OB", True)
    case = Case(f"JPEG, {how}, header {tag}, planar {dataset.PlanarConfiguration}", dataset)
    if how != "unmarked" or tag != "RGB":
        case.shown, case.tolerance = np.rint(smooth), 10
    return case


def _jpeg_2000(dice: random.Random, random_: Any, height: int, width: int) -> Case:
    """Whether components are a transform of RGB is stated by the stream, and the header must agree (PS3.5 8.2.4)."""
    values = random_.integers(0, 256, (height + 32, width + 32, 3)).astype(np.uint8)
    transformed, bare = dice.random() < 0.5, dice.random() < 0.5
    buffer = io.BytesIO()
    Pillow.fromarray(values).save(buffer, "JPEG2000", mct=int(transformed), irreversible=False, no_jp2=bare)
    tag = dice.choice(["RGB", "YBR_RCT", "YBR_ICT", "YBR_FULL"])
    dataset = _base(dice, JPEG2000Lossless, tag, *values.shape[:2], 3, 8)
    set_pixels(dataset, encapsulate([buffer.getvalue()]), "OB", True)
    case = Case(
        f"JPEG 2000, {'transformed' if transformed else 'as they are'}, {'bare' if bare else 'JP2'}, {tag}", dataset
    )
    if tag == "RGB" or (tag in ("YBR_RCT", "YBR_ICT") and transformed):
        case.shown = case.values = values.astype(np.float64)
    elif tag == "YBR_FULL" and not transformed:
        case.shown = case.values = to_rgb(values)
        case.tolerance = 0.51
    case.differs["pydicom"] = "it takes PlanarConfiguration for the decoder's order; PS3.3 C.7.6.3.1.3 does not"
    case.differs["itk"] = "GDCM leaves YBR as it is"
    return case
