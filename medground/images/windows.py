"""Windows: how measured values become grey.

A window maps the values from its lower to its upper end linearly to 0 to 255; values outside are black or white.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medground.errors import ViewError
from medground.types import Image

Numbers = NDArray[Any]
"""An array of numbers of any dtype."""

WINDOWS: Mapping[str, tuple[float, float]] = {
    "soft_tissue": (40, 400),
    "lung": (-600, 1500),
    "bone": (400, 1800),
    "brain": (40, 80),
}
"""Name -> (centre, width) in Hounsfield units, the values radiology departments commonly set."""
RULES = ("file", "percentiles", "full")
"""Windows without fixed numbers: the file's own; the 0.5th to 99.5th percentile; the smallest to the largest value."""
PERCENTILES = (0.5, 99.5)
_NUMBERS = re.compile(r"(-?\d+(?:\.\d+)?),(\d+(?:\.\d+)?)")


def window_numbers(window: str) -> tuple[float, float] | None:
    """Return (centre, width) of a window by name or by numbers, None for a rule or for anything else.

    >>> window_numbers("brain"), window_numbers("-600,1500"), window_numbers("full")
    ((40, 80), (-600.0, 1500.0), None)
    """
    if window in WINDOWS:
        return WINDOWS[window]
    match = _NUMBERS.fullmatch(window)
    return None if match is None else (float(match[1]), float(match[2]))


def apply_window(
    values: Numbers, window: str, counted: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.uint8], str]:
    """Return (H×W grey, a description) of H×W values through a name, numbers, ``percentiles`` or ``full``.

    `counted`, H×W, is False where a value counts in no percentile and no full range.
    """
    numbers = window_numbers(window)
    if numbers is None:
        measured = values if counted is None else values[counted]
        finite = measured[np.isfinite(measured)] if values.dtype.kind == "f" else measured
        ends = (0.0, 100.0) if window == "full" else PERCENTILES
        low, high = (float(end) for end in np.percentile(finite, ends)) if finite.size else (0.0, 0.0)
        return rescale(values, low, high), f"{window}: {low:g} to {high:g}"
    # LINEAR is not defined for a width below 1, which only measures that are no whole numbers need.
    function = "LINEAR" if numbers[1] >= 1 else "LINEAR_EXACT"
    return window_grey(values, *numbers, function), describe_window(window, *numbers)


def apply_range_window(
    values: Numbers, window: str | None, own: tuple[float, float] | None, name: str
) -> tuple[NDArray[np.uint8], str]:
    """Return (H×W grey, a description) of values whose file may name a range to show them by, but nothing more.

    Args:
        values: H×W.
        window: a name, numbers or a rule; None takes the file's own, else the percentiles.
        own: (low, high) that the file names.
        name: names the file in messages.

    Raises:
        ViewError: for ``file`` where the file names none.
    """
    if window in (None, "file") and own is not None:
        centre, width = (own[0] + own[1]) / 2, own[1] - own[0]
        return window_grey(values, centre, width, "LINEAR_EXACT"), describe_window("file", centre, width)
    if window == "file":
        raise ViewError(
            f"{name} names no window", hint="take lung, bone, brain, soft_tissue, percentiles or CENTRE,WIDTH"
        )
    return apply_window(values, window or "percentiles")


def describe_window(name: str, centre: float, width: float) -> str:
    """Return a window in words.

    >>> describe_window("lung", -600, 1500)
    'lung: centre -600, width 1500'
    """
    return f"{name if name in (*WINDOWS, 'file') else 'given'}: centre {centre:g}, width {width:g}"


def window_grey(values: Numbers, centre: float, width: float, function: str = "LINEAR") -> NDArray[np.uint8]:
    """Map values to H×W uint8 by one of DICOM's functions (PS3.3 C.11.2.1): LINEAR, LINEAR_EXACT or SIGMOID.

    >>> window_grey(np.array([[-160.0, 39.5, 239.0]]), 40, 400).tolist()
    [[0, 128, 255]]
    """
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return _grey(1 / (1 + np.exp(-4 * (values.astype(np.float64) - centre) / width)))
    # LINEAR counts whole values: a width of w holds w of them, the first of which is black and the last white.
    upper = centre + width / 2 - (function != "LINEAR_EXACT")
    return rescale(values, centre - width / 2, upper)


def rescale(values: Numbers, low: float, high: float) -> NDArray[np.uint8]:
    """Map values from `low` to `high` linearly to 0 to 255, H×W uint8; NaN is black; a step where low is high."""
    if not high > low:
        return np.where(values > low, np.uint8(255), np.uint8(0))
    scaled = values.astype(np.float64)
    scaled -= low
    scaled /= high - low
    return _grey(scaled)


def _grey(fraction: NDArray[np.float64]) -> NDArray[np.uint8]:
    np.nan_to_num(fraction, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
    np.clip(fraction, 0, 1, out=fraction)
    fraction *= 255
    return np.rint(fraction).astype(np.uint8)


def grey_to_rgb(grey: NDArray[np.uint8]) -> Image:
    """Return H×W grey as H×W×3."""
    return np.repeat(grey[..., None], 3, axis=2)
