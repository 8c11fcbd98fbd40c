"""COCO run-length masks: ``{"size": [H, W], "counts": ...}``, counts a list or the compressed string.

Runs go down the columns and alternate background, foreground, starting with background. The compressed form writes
each run (from the third on, its difference to the run two before) as a signed number in groups of five bits, lowest
first, one character per group: 48 plus the group, plus 32 where more follow; bit 4 of the last group is the sign.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError
from medground.images.pictures import MAX_PIXELS


def decode_rle(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return the mask, H x W bool.

    >>> decode_rle({"size": [2, 3], "counts": [1, 2, 3]}).astype(int).tolist()
    [[0, 1, 0], [1, 0, 0]]
    >>> decode_rle({"size": [2, 3], "counts": "123"}).astype(int).tolist()
    [[0, 1, 0], [1, 0, 0]]

    Raises:
        InputError: if it is not a run-length mask, or claims more pixels than an image may have.
    """
    height, width = _size(rle.get("size"))
    counts = rle.get("counts")
    if isinstance(counts, str):
        runs = _runs(counts)
    elif isinstance(counts, list) and all(type(run) is int for run in counts):
        runs = counts
    else:
        raise InputError("a run-length mask needs counts: a list of integers or a string")
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise InputError(f"the runs of a {height} x {width} mask must be positive and add up to {height * width}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape((height, width), order="F")


def rle_area(rle: Mapping[str, Any]) -> int:
    """How many pixels a mask of `encode_rle` has, without drawing it.

    >>> rle_area({"size": [2, 3], "counts": "123"})
    2
    """
    return sum(_runs(rle["counts"])[1::2])


def encode_rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return a mask, H x W bool, with compressed counts; `decode_rle` gives it back.

    >>> encode_rle(np.array([[0, 1, 0], [1, 0, 0]], bool))
    {'size': [2, 3], 'counts': '123'}
    """
    flat = np.concatenate([[False], np.asarray(mask, bool).ravel(order="F")])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], edges, [flat.size - 1]]))
    return {"size": [int(side) for side in mask.shape], "counts": _text(runs.tolist())}


def _text(runs: list[int]) -> str:
    out = []
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            group, value = value & 31, value >> 5
            more = value != (-1 if group & 16 else 0)
            out.append(chr(48 + group + 32 * more))
    return "".join(out)


def _size(size: Any) -> tuple[int, int]:
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise InputError(f"a run-length mask needs size [H, W], not {str(size)[:60]}")
    height, width = size
    if height * width > MAX_PIXELS:
        raise InputError(f"a run-length mask claims {height} x {width} pixels", hint=f"the limit is {MAX_PIXELS}")
    return height, width


def _runs(text: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        # Runs are below 2^31, so seven groups hold every one; without the limit a long string is a huge integer.
        if not 0 <= group < 64 or shift > 30:
            raise InputError(f"a run-length mask has {character!r} where no such character can be")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise InputError("a run-length mask ends in the middle of a number")
    return runs
