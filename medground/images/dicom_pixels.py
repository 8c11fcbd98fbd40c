"""Pixels of a DICOM data set as they are stored: decoded, counted and checked against the header, colours as RGB."""

from io import BytesIO
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Pillow

from medground.errors import InputError, PluginError
from medground.images.codestream import FrameHeader, frame_header
from medground.images.dicom_tables import read_palette
from medground.images.windows import Numbers
from medground.types import Image

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.uid import UID

_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
LOSSY_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
"""Transfer syntaxes."""
_RLE = "1.2.840.10008.1.2.5"
_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")
"""The first bytes of JPEG, JPEG-LS and JPEG 2000."""


def import_pydicom() -> ModuleType:
    """Import pydicom.

    Raises:
        PluginError: where it is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise PluginError("reading DICOM needs pydicom", hint="pip install 'medground[dicom]'") from error
    return pydicom


def pixel_element(dataset: "Dataset", name: str) -> str:
    """Return the keyword of the element that holds the pixels.

    Raises:
        InputError: if there is none.
    """
    for keyword in _ELEMENTS:
        if keyword in dataset:
            return keyword
    raise InputError(f"{name} holds no pixels", hint="export it again, with its image")


def little_endian(dataset: "Dataset") -> bool:
    """Return True if the file's words are little endian."""
    return bool(dataset.file_meta.TransferSyntaxUID.is_little_endian)


def functional_group(dataset: "Dataset", frame: int, sequence: str, *keywords: str) -> "Dataset":
    """Return what speaks of one frame: its own functional group, else the shared one, else the data set itself.

    Args:
        dataset: of a file with or without functional groups.
        frame: from 0.
        sequence: the functional group.
        keywords: a group that holds none of these is passed over.
    """
    for groups, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(groups) or []
        for item in (items[index].get(sequence) or [])[:1] if index < len(items) else []:
            if any(item.get(keyword) is not None for keyword in keywords):
                group: Dataset = item
                return group
    return dataset


def stored_values(dataset: "Dataset", frame: int, name: str) -> Numbers:
    """Return the stored values of one frame: H×W whole numbers or floats, or H×W×3 RGB.

    Raises:
        InputError: if header and pixels disagree, or the colours cannot be known.
        PluginError: without the decoder of its compression.
    """
    syntax, element = dataset.file_meta.TransferSyntaxUID, pixel_element(dataset, name)
    floating = element != "PixelData"
    if not floating and int(dataset.get("HighBit", dataset.BitsStored - 1)) != dataset.BitsStored - 1:
        # PS3.5 8.1.1: "High Bit shall be one less than Bits Stored".
        raise InputError(f"{name} stores its bits in an order of old that is not read", hint="export it again")
    options: dict[str, Any] = {}
    if not syntax.is_encapsulated:
        _check_length(dataset, element, name)
        if dataset.BitsAllocated == 1 and dataset.SamplesPerPixel == 1:
            return _bits(dataset, frame)
    else:
        _check_decoder(syntax, 8, name)
        stream = _frame_header(dataset, frame, name)
        _check_decoder(syntax, stream.bits if stream else 8, name)
        if syntax in LOSSY_JPEG and int(dataset.SamplesPerPixel) == 3:
            return _jpeg_colours(dataset, frame, name)
        if syntax != _RLE:
            options["planar_configuration"] = 0  # of no meaning in a code stream, PS3.3 C.7.6.3.1.3
    values, decoded = _decoder(syntax, name).as_array(dataset, index=frame, **options)
    if values.shape[:2] != (dataset.Rows, dataset.Columns):
        raise InputError(f"{name} holds another size of picture than its header says", hint="export it again")
    if values.ndim == 3 and decoded["photometric_interpretation"] != "RGB":
        raise _unknown_colours(name)
    return values if floating else _within_bits(values, dataset, name)


def colours(dataset: "Dataset", stored: Numbers, name: str) -> tuple[Image, str]:
    """Return (H×W×3 uint8 RGB, in words where it comes from); more than 8 bits keep the high ones.

    Raises:
        InputError: if they cannot be known.
    """
    if str(dataset.PhotometricInterpretation) == "PALETTE COLOR" and stored.ndim == 2:
        tables = read_palette(dataset, little_endian(dataset), name)
        channels = [table.look_up(stored) >> (table.bits - 8) for table in tables]
        return np.stack(channels, axis=2).astype(np.uint8), "colours of the palette"
    if stored.ndim != 3 or stored.dtype.kind != "u" or int(dataset.BitsStored) < 8:
        raise _unknown_colours(name)
    return np.ascontiguousarray(stored >> int(dataset.BitsStored) - 8).astype(np.uint8), "colours as stored"


def _decoder(syntax: "UID", name: str) -> Any:
    try:
        return import_pydicom().pixels.get_decoder(syntax)
    except NotImplementedError:
        raise InputError(f"{name} is compressed in a way that is not read", hint="export it uncompressed") from None


def _check_decoder(syntax: "UID", bits: int, name: str) -> None:
    plugins = _decoder(syntax, name).available_plugins
    if not plugins or (bits > 8 and plugins == ("pillow",)):
        raise PluginError(
            f"{name} is compressed as {syntax.name}{f' of {bits} bits' if plugins else ''}, for which no decoder is "
            "installed",
            hint="pip install 'medground[dicom]', for JPEG lossless or of 12 bits pylibjpeg-libjpeg too, or export it "
            "uncompressed",
        )


def _check_length(dataset: "Dataset", element: str, name: str) -> None:
    """Uncompressed pixels must fill the frames that the header states, and no more."""
    bits = dataset.Rows * dataset.Columns * int(dataset.SamplesPerPixel) * int(dataset.BitsAllocated)
    if str(dataset.PhotometricInterpretation) == "YBR_FULL_422":
        if dataset.Columns % 2 or dataset.PlanarConfiguration:
            raise _unknown_colours(name)
        bits = bits // 3 * 2
    data, frames = dataset[element].value, number_of_frames(dataset)
    expected = -(-bits * frames // 8)
    # Some writers fill up with zeros, but never as much as a frame.
    if not expected <= len(data) < expected + max(2, expected // frames) or any(data[expected + expected % 2 :]):
        raise InputError(
            f"{name} holds {len(data)} bytes of pixels where its header states {expected}", hint="export it again"
        )


def _bits(dataset: "Dataset", frame: int) -> Numbers:
    """One frame of bits, which may begin within a byte."""
    count = dataset.Rows * dataset.Columns
    data = np.frombuffer(dataset.PixelData, np.uint8)
    if not little_endian(dataset) and dataset["PixelData"].VR == "OW":
        data = data[: len(data) // 2 * 2].reshape(-1, 2)[:, ::-1].reshape(-1)
    first = frame * count
    bits = np.unpackbits(data[first // 8 : -(-(first + count) // 8)], bitorder="little")
    return bits[first % 8 :][:count].reshape(dataset.Rows, dataset.Columns)


def number_of_frames(dataset: "Dataset") -> int:
    """Return how many frames the header states; 1 where it states none."""
    return int(dataset.get("NumberOfFrames") or 1)


def _frame_header(dataset: "Dataset", frame: int, name: str) -> FrameHeader | None:
    """What a compressed frame says of itself: as many frames as the header states, of its size and sign.

    So no decoder allocates what a bomb claims.
    """
    encaps, frames = import_pydicom().encaps, number_of_frames(dataset)
    buffer, position = BytesIO(dataset.PixelData), 0
    offsets = encaps.parse_basic_offsets(buffer)
    starts: list[int] = []
    for fragment in encaps.generate_fragments(buffer):
        if not starts or dataset.file_meta.TransferSyntaxUID == _RLE or fragment.startswith(_STARTS):
            starts.append(position)
        position += 8 + len(fragment)
    if len(starts) != frames or offsets not in ([], starts):
        raise InputError(f"{name} holds {len(starts)} compressed frames in place of {frames}", hint="export it again")
    stream = frame_header(encaps.get_frame(dataset.PixelData, frame, number_of_frames=frames))
    if stream is not None and stream.size != (dataset.Rows, dataset.Columns):
        raise InputError(
            f"{name} holds a compressed picture of {stream.size[1]} x {stream.size[0]} pixels under a header that says "
            f"{dataset.Columns} x {dataset.Rows}",
            hint="export it again",
        )
    if stream is not None and stream.signed and not dataset.PixelRepresentation:
        raise InputError(f"{name} holds compressed signed values and says they are unsigned", hint="export it again")
    interpretation = str(dataset.PhotometricInterpretation)
    transforms = (None, interpretation in ("YBR_RCT", "YBR_ICT"))
    # PS3.5 8.2.4. RGB is let pass: many writers leave it, and the decoder returns RGB all the same.
    if stream is not None and interpretation.startswith("YBR") and stream.transformed not in transforms:
        raise _unknown_colours(name)
    return stream


def _jpeg_colours(dataset: "Dataset", frame: int, name: str) -> Image:
    """RGB of a lossy JPEG frame.

    A JPEG stream states its colour space only by a JFIF or Adobe segment or by components named R, G, B; what it states
    controls the decoding, else the header does (PS3.5 8.2.1, notes 1 and 2). An unmarked stream under the header RGB is
    most often YCbCr all the same, so it is refused.
    """
    tag = str(dataset.PhotometricInterpretation)
    data = import_pydicom().encaps.get_frame(dataset.PixelData, frame, number_of_frames=number_of_frames(dataset))
    with Pillow.open(BytesIO(data), formats=("JPEG",)) as picture:
        named = bytes(component[0] for component in picture.layer)  # type: ignore[attr-defined]
        adobe = picture.info.get("adobe_transform")
        ybr, rgb = "jfif" in picture.info or adobe == 1, adobe == 0 or named == b"RGB"
        unstated = not ybr and not rgb and tag == "RGB"
        if len(named) != 3 or tag not in ("RGB", "YBR_FULL", "YBR_FULL_422") or unstated or (ybr and rgb):
            raise _unknown_colours(name)
        return np.asarray(picture.convert("RGB"))


def _within_bits(values: Numbers, dataset: "Dataset", name: str) -> Numbers:
    """Values of BitsStored bits, signed as the header says: a decoder may return them in a wider unsigned form."""
    surplus = 8 * values.dtype.itemsize - int(dataset.BitsStored)
    inside: Numbers = values << surplus >> surplus
    if ((inside != values) & (values >> int(dataset.BitsStored) != 0)).any():
        raise InputError(f"{name} holds values of more bits than its header says", hint="export it again")
    return inside


def _unknown_colours(name: str) -> InputError:
    return InputError(f"{name} is coloured in a way that cannot be known", hint="export it uncompressed, as RGB")
