"""What of a volume or a film is looked at, and how measured values become grey.

A window is what a radiologist means by it: values from its lower to its upper end are spread over 0 to 255, what lies
outside is black or white.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medground.errors import ViewError, did_you_mean
from medground.types import Image

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[str, ...] = get_args(Plane)
WINDOWS: Mapping[str, tuple[float, float]] = {
    "soft_tissue": (40, 400),
    "lung": (-600, 1500),
    "bone": (400, 1800),
    "brain": (40, 80),
}
"""Name -> (centre, width) in Hounsfield units, the values radiology departments commonly set."""
RULES = ("file", "percentiles", "full")
"""Windows that are no fixed numbers: what the file says; the 0.5th to 99.5th percentile; the smallest to the largest value."""
PERCENTILES = (0.5, 99.5)
_NUMBERS = re.compile(r"(-?\d+(?:\.\d+)?),(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What of a volume or a film is shown, and how its values become grey. Pictures have no view.

    Raises:
        ViewError: for a plane or a window that does not exist, or a negative slice.
    """

    plane: str | None = None
    """``axial``, ``coronal`` or ``sagittal``; of a volume."""
    slice: int | None = None
    """The voxel index across the plane, or the frame of a film; from 0."""
    window: str | None = None
    """A name of `WINDOWS`, a rule of `RULES`, or ``CENTRE,WIDTH``; None takes the file's own where it has one, else the
    percentiles."""

    def __post_init__(self) -> None:
        if self.plane is not None and self.plane not in PLANES:
            raise ViewError(f"there is no plane {self.plane!r}", hint=did_you_mean(self.plane, PLANES))
        if self.slice is not None and self.slice < 0:
            raise ViewError(f"slice {self.slice} is negative", hint="slices count from 0")
        if self.window is not None and self.window not in (*WINDOWS, *RULES):
            if _NUMBERS.fullmatch(self.window) is None:
                hint = f"{did_you_mean(self.window, [*WINDOWS, *RULES])}; or CENTRE,WIDTH such as 40,400"
                raise ViewError(f"there is no window {self.window!r}", hint=hint)
            if numbers(self.window)[1] <= 0:
                raise ViewError(f"the window {self.window} has no width", hint="give CENTRE,WIDTH such as 40,400")

    def refuse_on(self, name: str, kind: str, *words: str) -> None:
        """Raise where one of `words` (plane, slice, window) is set although `kind` of image has no such thing.

        Raises:
            ViewError: so that nothing a user names is ignored.
        """
        for word in words:
            if getattr(self, word) is not None:
                raise ViewError(f"{name} is {kind}, which has no {word} to choose", hint=f"leave the {word} out")


PLAIN = View()
"""Nothing chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An image as it was shown."""

    image: Image
    about: Mapping[str, Any]
    """For results: JSON-ready; empty for pictures. Holds no free text of the file."""
    spacing: tuple[float, float] | None = None
    """(row, column) in mm."""


def numbers(window: str) -> tuple[float, float]:
    """(centre, width) of a window by name or by numbers, no rule.

    >>> numbers("brain"), numbers("-600,1500")
    ((40, 80), (-600.0, 1500.0))
    """
    if window in WINDOWS:
        return WINDOWS[window]
    found = _NUMBERS.fullmatch(window)
    assert found is not None
    return float(found[1]), float(found[2])


def through(values: NDArray[Any], window: str) -> tuple[NDArray[np.uint8], str]:
    """H×W values through a window that is a name, numbers, ``percentiles`` or ``full``: (H×W grey, what was done)."""
    if window in ("percentiles", "full"):
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        ends = (0.0, 100.0) if window == "full" else PERCENTILES
        low, high = (float(each) for each in np.percentile(finite, ends)) if finite.size else (0.0, 0.0)
        return spread(values, low, high), f"{window}: {low:g} to {high:g}"
    centre, width = numbers(window)
    return windowed(values, centre, width), told(window, centre, width)


def told(name: str, centre: float, width: float) -> str:
    """A window in words.

    >>> told("lung", -600, 1500)
    'lung: centre -600, width 1500'
    """
    return f"{name if name in (*WINDOWS, 'file') else 'given'}: centre {centre:g}, width {width:g}"


def windowed(values: NDArray[Any], centre: float, width: float, function: str = "LINEAR") -> NDArray[np.uint8]:
    """Values through a window, H×W uint8, by DICOM's functions (PS3.3 C.11.2.1): LINEAR, LINEAR_EXACT or SIGMOID.

    >>> windowed(np.array([[-160.0, 39.5, 239.0]]), 40, 400).tolist()
    [[0, 128, 255]]
    """
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return _grey(1 / (1 + np.exp(-4 * (values.astype(np.float64) - centre) / width)))
    if function == "LINEAR_EXACT":
        return spread(values, centre - width / 2, centre + width / 2)
    # LINEAR counts whole values: a width of w holds w of them, the first of which is black and the last white.
    return spread(values, centre - width / 2, centre + width / 2 - 1)


def spread(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Values from `low` to `high` over 0 to 255, H×W uint8; NaN is black; a step where there is no range."""
    if not high > low:
        return np.where(values > low, np.uint8(255), np.uint8(0))
    scaled = values.astype(np.float64)
    scaled -= low
    scaled /= high - low
    return _grey(scaled)


def _grey(share: NDArray[np.float64]) -> NDArray[np.uint8]:
    np.nan_to_num(share, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
    np.clip(share, 0, 1, out=share)
    share *= 255
    return np.rint(share).astype(np.uint8)


def rgb(grey: NDArray[np.uint8]) -> Image:
    """H×W grey as H×W×3."""
    return np.repeat(grey[..., None], 3, axis=2)
