"""Lookup tables of DICOM: modality, values of interest, palettes (PS3.3 C.11.1.1, C.11.2.1.1, C.7.6.3.1.5)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError
from medground.images.windows import Numbers

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_COLOURS = ("Red", "Green", "Blue")


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Entries for the input values `first`, `first` + 1, ...; values outside take the entry that is next to them."""

    first: int
    bits: int
    """Of an entry, as the descriptor's third value says."""
    entries: NDArray[np.int64]

    def look_up(self, values: Numbers) -> NDArray[np.int64]:
        """Return the entries of whole numbers, in their shape."""
        return self.entries[np.clip(values.astype(np.int64) - self.first, 0, len(self.entries) - 1)]


def read_table(item: "Dataset", little: bool, signed: bool, name: str) -> Table:
    """Return the table of an item of ModalityLUTSequence or VOILUTSequence.

    Args:
        item: with LUTDescriptor and LUTData.
        little: True if the file's words are little endian.
        signed: True if input values may be negative, so that the first one is a signed number whatever its VR.
        name: names the file in messages.

    Raises:
        InputError: if descriptor and data disagree.
    """
    count, first, bits = _descriptor(item.LUTDescriptor, signed)
    return Table(first, bits, _entries(_words(item["LUTData"], little), count, bits, name))


def read_palette(dataset: "Dataset", little: bool, name: str) -> tuple[Table, Table, Table]:
    """Return the tables of red, green and blue; segments are expanded.

    Raises:
        InputError: if descriptors and data disagree, or a segment points to others.
    """
    signed = int(dataset.PixelRepresentation) == 1
    described = [_descriptor(dataset[f"{c}PaletteColorLookupTableDescriptor"].value, signed) for c in _COLOURS]
    if len(set(described)) > 1 or described[0][2] not in (8, 16):
        raise _unfit(name)
    count, first, bits = described[0]
    tables = []
    for colour in _COLOURS:
        if f"{colour}PaletteColorLookupTableData" in dataset:
            entries = _entries(_words(dataset[f"{colour}PaletteColorLookupTableData"], little), count, bits, name)
        else:
            codes = _words(dataset[f"Segmented{colour}PaletteColorLookupTableData"], little)
            entries = _expanded(_packed(codes) if bits == 8 else codes, count, name)
        tables.append(Table(first, bits, entries))
    return tables[0], tables[1], tables[2]


def _descriptor(values: Any, signed: bool) -> tuple[int, int, int]:
    """(number of entries, first input value, bits of an entry)."""
    count, first, bits = (int(value) for value in values)
    if signed and first >= 1 << 15:
        first -= 1 << 16  # written as US
    return count & 0xFFFF or 1 << 16, first, bits


def _words(element: Any, little: bool) -> NDArray[np.int64]:
    """The 16-bit words of an element of VR OW, US or SS."""
    if isinstance(element.value, bytes):
        data = element.value[: len(element.value) // 2 * 2]
        return np.frombuffer(data, "<u2" if little else ">u2").astype(np.int64)
    return np.atleast_1d(np.asarray(element.value, np.int64)) & 0xFFFF


def _packed(words: NDArray[np.int64]) -> NDArray[np.int64]:
    """The bytes of words, the lower one first: so entries of 8 bits are stored."""
    return words.astype("<u2").view(np.uint8).astype(np.int64)


def _entries(words: NDArray[np.int64], count: int, bits: int, name: str) -> NDArray[np.int64]:
    """Entries of 8 bits come two to a word, or, as the standard's note says, one."""
    if bits == 8 and len(words) != count:
        words = _packed(words)[: count if len(words) == (count + 1) // 2 else 0]
    if not 8 <= bits <= 16 or len(words) != count or (words >> bits).any():
        raise _unfit(name)
    return words


def _expanded(codes: NDArray[np.int64], count: int, name: str) -> NDArray[np.int64]:
    """Entries of discrete and linear segments (PS3.3 C.7.9.2)."""
    entries: list[int] = []
    position = 0
    while len(entries) < count and position + 2 < len(codes):
        kind, length = int(codes[position]), int(codes[position + 1])
        position += 2
        if kind == 0:
            entries.extend(codes[position : position + length].tolist())
            position += length
        elif kind == 1 and entries and length:
            steps = np.linspace(entries[-1], int(codes[position]), length + 1)[1:]
            entries.extend(np.rint(steps).astype(int).tolist())
            position += 1
        else:
            raise _unfit(name)
    if len(entries) != count:
        raise _unfit(name)
    return np.array(entries, np.int64)


def _unfit(name: str) -> InputError:
    return InputError(f"{name} holds a lookup table that is not as its descriptor says", hint="export it again, as RGB")
