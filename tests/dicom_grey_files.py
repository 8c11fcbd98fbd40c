"""Generated grey DICOM files: depth and coding, then the transformations of PS3.3 C.11 in their order."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jpeg_ls
import numpy as np
from dicom_parts import (
    HOUNSFIELD,
    NATIVE,
    Case,
    between,
    by_formula,
    header,
    in_table,
    jpeg,
    nested,
    set_pixels,
    table,
    words,
)
from PIL import Image as Pillow
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)


@dataclass
class Pixels:
    """Stored values and how they lie."""

    values: Any
    """N×H×W."""
    allocated: int
    stored: int
    signed: bool
    syntax: str
    words: str = ""
    exact: bool = True


def draw_pixels(dice: random.Random) -> tuple[Pixels, Dataset]:
    """Grey values of any depth, in any coding."""
    syntax = dice.choice([*NATIVE, *NATIVE, RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGBaseline8Bit])
    allocated = dice.choice([8, 16, 16, 16] if syntax not in NATIVE else [8, 16, 16, 16, 32])
    if syntax in NATIVE and dice.random() < 0.07:
        allocated = 1
    if syntax == JPEGBaseline8Bit:
        allocated = 8
    stored = 1 if allocated == 1 else dice.randint(2 if allocated == 8 else 5, allocated)
    if dice.random() < 0.5 or syntax == JPEGBaseline8Bit:
        stored = allocated
    signed = allocated > 1 and syntax != JPEGBaseline8Bit and dice.random() < 0.5
    frames, height, width = dice.choice([1, 1, 1, 2, 3, 5]), dice.randint(5, 17), dice.randint(5, 17)
    if syntax == JPEG2000Lossless:
        height, width = height + 32, width + 32  # the encoder needs as much
    random_ = np.random.default_rng(dice.getrandbits(32))
    low, high = (-(1 << stored - 1), 1 << stored - 1) if signed else (0, 1 << stored)
    if dice.random() < 0.6:
        low, high = max(low, -1200), min(high, 3000)
    values = random_.integers(low, high, (frames, height, width))
    if syntax == JPEGLSLossless:
        values = np.repeat(np.sort(values, axis=2)[:, :1], values.shape[1], axis=1)  # noise overflows the encoder
    if syntax == JPEGBaseline8Bit:
        values = np.broadcast_to(np.linspace(20, 220, width).astype(int), (frames, height, width)).copy()
    dataset = header(
        syntax, CTImageStorage, "CT", PhotometricInterpretation="MONOCHROME2", SamplesPerPixel=1, Rows=height,
        Columns=width, BitsAllocated=allocated, BitsStored=stored, HighBit=stored - 1, PixelRepresentation=int(signed),
    )  # fmt: skip
    if frames > 1 or dice.random() < 0.2:
        dataset.NumberOfFrames = frames
    pixels = Pixels(values, allocated, stored, signed, syntax)
    _code(dataset, pixels, dice, random_)
    return pixels, dataset


def _code(dataset: Dataset, pixels: Pixels, dice: random.Random, random_: Any) -> None:
    values, syntax = pixels.values, pixels.syntax
    mask = (1 << pixels.stored) - 1
    if syntax in NATIVE:
        raw = values
        if pixels.allocated > max(1, pixels.stored) and dice.random() < 0.3:
            # PS3.5 8.1.1: what the unused bits hold is not defined.
            raw = (values & mask) | (random_.integers(0, 1 << 30, values.shape) << pixels.stored)
            pixels.words = "bits not stored hold anything"
        vr = "OB" if pixels.allocated <= 8 and syntax != ImplicitVRLittleEndian and dice.random() < 0.7 else "OW"
        data = words(raw, syntax, pixels.allocated)
        if vr == "OW" and pixels.allocated <= 8 and syntax == ExplicitVRBigEndian:
            data = np.frombuffer(data, "<u2").astype(">u2").tobytes()  # PS3.5 A.3: OW is swapped
        set_pixels(dataset, data, vr)
        return
    streams = [_encoded(frame, pixels, dice) for frame in values]
    if syntax == JPEGBaseline8Bit:
        pixels.exact = False
    parts = 1 if syntax == RLELossless else dice.choice([1, 1, 2])
    set_pixels(dataset, encapsulate(streams, fragments_per_frame=parts, has_bot=dice.random() < 0.5), "OB", True)


def _encoded(frame: Any, pixels: Pixels, dice: random.Random) -> bytes:
    height, width = frame.shape
    if pixels.syntax == JPEGBaseline8Bit:
        return jpeg(Pillow.fromarray(frame.astype(np.uint8)))
    kind, precision, signed = dice.randrange(3), pixels.stored, pixels.signed
    if pixels.syntax == RLELossless:
        precision = pixels.allocated
    if kind and pixels.syntax != RLELossless and pixels.allocated == 16 and pixels.stored > 8:
        # A stream may be wider than what is stored, and hold a negative value with its sign or without.
        precision = 16
        pixels.words = "a wider stream, signs extended" if kind == 1 else "a wider stream, signs cut"
    if pixels.syntax == JPEGLSLossless:
        bits = frame & ((1 << (pixels.stored if kind != 1 else precision)) - 1)
        container = 1 if precision <= 8 else 2
        return bytes(jpeg_ls.encode_buffer(bits.astype(f"<u{container}").tobytes(), height, width, 1, precision))
    if pixels.syntax == JPEG2000Lossless and signed and kind == 2:
        frame, signed = frame & ((1 << pixels.stored) - 1), False
    scratch = header(
        ExplicitVRLittleEndian, CTImageStorage, "CT", PhotometricInterpretation="MONOCHROME2", SamplesPerPixel=1,
        Rows=height, Columns=width, BitsAllocated=pixels.allocated, BitsStored=precision, HighBit=precision - 1,
        PixelRepresentation=int(signed),
    )  # fmt: skip
    set_pixels(scratch, words(frame, ExplicitVRLittleEndian, pixels.allocated), "OW")
    scratch.compress(pixels.syntax)
    return get_frame(scratch.PixelData, 0, number_of_frames=1)


def grey(dice: random.Random) -> Case:
    """Depth and coding, then the transformations of PS3.3 C.11 in their order."""
    pixels, dataset = draw_pixels(dice)
    frames = len(pixels.values)
    frame = dice.randrange(frames)
    stored = pixels.values[frame]
    kind = [dataset.file_meta.TransferSyntaxUID.name, f"{pixels.stored} of {pixels.allocated} bits", pixels.words]
    per_frame, shared = [Dataset() for _ in range(frames)], Dataset()
    case = Case("", dataset, frame if frames > 1 else None, values=stored.astype(np.float64))
    if pixels.allocated == 1:
        case.differs["itk"] = "GDCM makes 255 of 1"
        case.differs["pydicom"] = "it does not swap words of bits; PS3.5 8.1.1 does"
    if pixels.allocated == 32:
        case.differs["itk"] = "GDCM swaps and masks 32-bit words by halves; PS3.5 8.1.1 and D do not"
    if "signs cut" in pixels.words:
        case.differs["pydicom"] = "it extends the sign at the stream's width; PS3.5 8.1.1 puts it at BitsStored"
        case.differs["itk"] = "GDCM takes the stream's unsigned values"
    measured, modality = _modality(dice, case, pixels, frame, per_frame, shared)
    case.values = measured
    counted = _padding(dice, case, pixels, frame, stored)
    voi = _values_of_interest(dice, case, pixels, frame, per_frame, shared, measured)
    if frames > 1 and (any(len(each) for each in per_frame) or len(shared)):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
        dataset.PerFrameFunctionalGroupsSequence = Sequence(per_frame)
        dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    case.shown = _asked(dice, case, pixels, measured, counted, voi, modality)
    if dice.random() < 0.25:
        dataset.PhotometricInterpretation = "MONOCHROME1"
        case.shown = 255 - case.shown
        kind.append("MONOCHROME1")
        case.differs["itk"] = "GDCM turns stored values of MONOCHROME1 round; PS3.3 C.7.6.3.1.2 turns the display"
    if dice.random() < 0.3:
        dataset.PresentationLUTShape = "INVERSE" if dataset.PhotometricInterpretation == "MONOCHROME1" else "IDENTITY"
    if not pixels.exact:
        slope = max(1.0, float(np.abs(np.diff(np.unique(case.shown))).max(initial=1)))
        case.tolerance, case.values = 4.5 * slope, None
    case.kind = ", ".join(filter(None, [*kind, case.kind]))
    return case


def _modality(
    dice: random.Random, case: Case, pixels: Pixels, frame: int, per_frame: list[Dataset], shared: Dataset
) -> tuple[Any, str]:
    stored, choice = pixels.values[frame], dice.choice(["none", "top", "top", "shared", "frame", "table"])
    if choice == "table" and 1 < pixels.stored <= 16:
        bits, count = dice.choice([8, 16]), dice.choice([1, 7, 256, 1000])
        first = dice.choice([0, 3, int(stored.min())])
        entries = np.random.default_rng(dice.getrandbits(32)).integers(0, 1 << bits, count)
        case.dataset.ModalityLUTSequence = Sequence(
            [table(entries, first, bits, pixels.syntax, dice, pixels.signed, ModalityLUTType="US")]
        )
        case.kind += " modality table"
        case.differs["itk"] = "GDCM does not apply a modality lookup table; PS3.3 C.11.1 does"
        case.differs["pydicom"] = "its reader takes neither packed entries nor words of big endian"
        return in_table(stored, entries, first), "none"
    if choice in ("none", "table"):
        return stored, "none"
    pairs = [(dice.choice([1, 2, 0.5, 1.25, -1]), dice.choice([0, -1024, 7, -3.5])) for _ in pixels.values]
    if choice != "frame" or len(pairs) == 1:
        pairs = [pairs[0]] * len(pairs)
    holders: list[Any] = [case.dataset]
    if choice != "top" and len(pairs) > 1:
        case.dataset.RescaleSlope, case.dataset.RescaleIntercept = 77, 5  # less near than a functional group
        holders = []
        for group in [shared] if choice == "shared" else per_frame:
            group.PixelValueTransformationSequence = nested()
            holders.append(group.PixelValueTransformationSequence[0])
        case.differs["pydicom"] = "its rescale reads the top level only; PS3.3 C.7.6.16.2.9 puts it in the groups"
        case.differs["itk"] = "GDCM takes one rescale for all frames of a file"
    for holder, (slope, intercept) in zip(holders, pairs, strict=False):
        holder.RescaleSlope, holder.RescaleIntercept = slope, intercept
        holder.RescaleType = dice.choice(["HU", "US", ""])
        if not holder.RescaleType:
            del holder.RescaleType
    slope, intercept = pairs[frame]
    case.kind += f" rescale {choice}"
    stated = holders[min(frame, len(holders) - 1)].get("RescaleType") or ("HU" if pixels.allocated == 16 else "")
    return stored * float(slope) + intercept, stated


def _padding(dice: random.Random, case: Case, pixels: Pixels, frame: int, stored: Any) -> Any:
    if dice.random() < 0.6 or pixels.allocated not in (8, 16) or not pixels.exact:
        return np.ones(stored.shape, bool)
    low = int(dice.choice(np.unique(stored).tolist()))
    high = low
    unsigned = dice.random() < 0.3  # with US where a pixel is signed, as some scanners write
    vr, cut = ("US", 0xFFFF) if unsigned or not pixels.signed else ("SS", -1)
    case.dataset.add_new("PixelPaddingValue", vr, low & cut)
    if dice.random() < 0.4:
        high = min(low + dice.choice([1, 9, 200]), int(stored.max()))
        case.dataset.add_new("PixelPaddingRangeLimit", vr, high & cut)
    case.kind += " padding"
    return (stored < low) | (stored > high)


def _values_of_interest(
    dice: random.Random,
    case: Case,
    pixels: Pixels,
    frame: int,
    per_frame: list[Dataset],
    shared: Dataset,
    measured: Any,
) -> Callable[[], Any] | None:
    choice = dice.choice(["none", "window", "window", "several", "shared", "frame", "table", "table in group"])
    many = len(per_frame) > 1
    if choice == "none":
        return None
    if "table" in choice:
        if (np.rint(measured) != measured).any():
            return None
        bits, count = dice.choice([8, 10, 12, 16]), dice.choice([2, 256, 4096])
        negative = bool(np.min(measured) < 0)
        first = int(dice.choice([max(-30000, min(30000, int(np.min(measured)))), 0, 10]))
        entries = np.sort(np.random.default_rng(dice.getrandbits(32)).integers(0, 1 << bits, count))
        lut = table(entries, first, bits, pixels.syntax, dice, negative and pixels.syntax != ImplicitVRLittleEndian)
        if choice == "table in group" and many:
            shared.FrameVOILUTSequence = nested(VOILUTSequence=Sequence([lut]))
            case.dataset.WindowCenter, case.dataset.WindowWidth = 3, 5
        else:
            case.dataset.VOILUTSequence = Sequence([lut])
        case.kind += f" VOI {choice}"
        return lambda: in_table(measured, entries, first) * 255 / ((1 << bits) - 1)
    function = dice.choice(["", "", "LINEAR", "LINEAR_EXACT", "SIGMOID"])
    windows = [(dice.choice([0, 40.5, 500, -20]), dice.choice([1, 2, 80, 400, 2500.5])) for _ in per_frame]
    holders: list[Any] = [case.dataset]
    if choice in ("shared", "frame") and many:
        case.dataset.WindowCenter, case.dataset.WindowWidth, case.dataset.VOILUTFunction = 3, 5, "SIGMOID"
        groups = [shared] if choice == "shared" else per_frame
        for group in groups:
            group.FrameVOILUTSequence = nested()
        holders = [group.FrameVOILUTSequence[0] for group in groups]
    own = windows[frame] if choice == "frame" and many else windows[0]
    for holder, (centre, width) in zip(holders, windows, strict=False):
        several = choice == "several"
        holder.WindowCenter, holder.WindowWidth = ([centre, 9], [width, 9]) if several else (centre, width)
        if function:
            holder.VOILUTFunction = function
    case.kind += f" window {choice} {function}"
    return lambda: by_formula(measured, *own, function or "LINEAR")


def _asked(
    dice: random.Random, case: Case, pixels: Pixels, measured: Any, counted: Any, voi: Callable[[], Any] | None,
    modality: str,
) -> Any:  # fmt: skip
    """Choose the window that is asked for, and return what it must show."""
    choice = dice.choice(["own", "own", "own", "numbers", "percentiles", "full", "named"])
    case.window = {"own": dice.choice([None, "file"]) if voi else None, "numbers": "31.5,700"}.get(choice, choice)
    if choice == "named" and modality != "HU":
        choice = case.window = "percentiles"
    if choice == "named":
        case.window = dice.choice(sorted(HOUNSFIELD))
        return by_formula(measured, *HOUNSFIELD[case.window], "LINEAR")
    if choice == "numbers":
        return by_formula(measured, 31.5, 700, "LINEAR")
    if choice == "own" and voi:
        return voi()
    if (
        choice == "own"
        and pixels.stored == 8
        and not pixels.signed
        and np.array_equal(measured, pixels.values[0] if case.frame is None else pixels.values[case.frame])
        and "ModalityLUTSequence" not in case.dataset
    ):
        return measured.astype(np.float64)
    inside = np.asarray(measured, np.float64)[counted]
    ends = (0, 100) if choice == "full" else (0.5, 99.5)
    return between(measured, *(np.percentile(inside, ends) if inside.size else (0, 0)))
