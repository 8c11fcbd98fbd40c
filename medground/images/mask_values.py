"""The target of a mask by what its values show. What cannot be known is refused.

Without a stated value or threshold, a mask of whole numbers is read by the first of these rules that applies:

1. One value beside 0, or one value alone, is the target.
2. Black and white with soft edges, from resizing or lossy compression, is cut at half of the full scale. Edges are soft where
   every grey pixel lies between black and white pixels near by, and no grey fills an area.
3. Anything else is a label map, and every label is target. It is refused if it has no 0, a negative value, or a greatest value
   that often marks what is to be ignored: 255, 65535, or one far above the others. So it is if its edges are soft:
   several values fill no area, and lie between those of their neighbours.

Fractions, NaN and pictures of many greys are refused.
"""

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError
from medground.images.windows import Numbers

_DECLARE = (
    'state "mask_value" for one label or "mask_threshold" for all from a value up, or save the target as 0 and 255'
)
_POLE = 1 / 16
"""Share of the full scale within which a grey counts as black or as white."""
_LOSSY_POLE = 1 / 4
_FEW = 16
"""Fewer greys than this may be labels, and must lie within `_NEAR` of black and white."""
_NOISY = 3
"""So many blacks and so many whites are the noise of a lossy compression."""
_NEAR, _FAR = 4, 32
"""Pixels, of the edges of few and of many greys."""
_SPREAD = 8
"""Grey pixels per white pixel, beyond which a picture has slopes rather than edges."""
_BLENDED = 0.95
"""Share of the pixels of values without areas that lie between their neighbours where edges are soft."""
_LABELS = 3
"""From so many labels on, they must fill areas."""
_MANY_LABELS = 8
"""More labels than this must fill half of their areas if neighbours differ by small steps, as the greys of a picture do."""
_IGNORED = (255, 65535)
_GREYISH = 24
"""Steps of 255 by which the channels of a grey, or of a shade, may differ by compression."""
_ROUNDING = 0.05
"""The largest rounding error of a label that a scale slope explains."""


def target_pixels(
    values: Numbers,
    name: str,
    *,
    wanted: tuple[int, ...] | None = None,
    threshold: float | None = None,
    full: int | None = None,
    lossy: bool = False,
    present: Numbers | None = None,
) -> NDArray[np.bool_]:
    """Return where H×W values are the target, by the rules of this module.

    Args:
        values: finite numbers, H×W.
        name: names the mask in messages.
        wanted: the labels that are meant; None applies the rules.
        threshold: the least value that is meant.
        full: the value of white; None for a map that shows none.
        lossy: True if the values went through lossy compression.
        present: the distinct values of the volume that `values` is a slice of.

    Raises:
        InputError: if the target cannot be known.
    """
    if threshold is not None:
        above: NDArray[np.bool_] = finite(values, name) >= threshold
        return above
    labels = whole_numbers(values, name)
    if wanted is not None:
        return np.isin(labels, wanted)
    inside = np.unique(labels)
    if lossy and full is not None:
        return _cut_lossy(labels, full, name)
    if full is not None and len(inside) > 2 and _soft(labels, inside, full):
        return labels * 2.0 >= full
    distinct = inside if present is None else present
    if np.count_nonzero(distinct) > 1:
        _check_labels(distinct, name)
        if len(inside) > _LABELS:
            _check_areas(labels, inside, name)
        _check_edges(labels, name)
    return np.not_equal(labels, 0)


def brightness(colours: Numbers, name: str) -> NDArray[np.uint8]:
    """Return the brightness of a mask in colours, H×W: that of grey ones, and 0 to 255 where one colour lies on black.

    Args:
        colours: H×W×3, 0 to 255.
        name: names the mask in messages.

    Raises:
        InputError: if it shows several colours.
    """
    colours = colours.astype(np.int16)
    brightest = colours.max(axis=2)
    step = _GREYISH if brightest.max() > _GREYISH * 4 else 0.5  # dark colours may be labels
    if (brightest - colours.min(axis=2)).max() <= step:
        return np.asarray(brightest, np.uint8)
    # Of one colour, every pixel is a shade; its brightest pixel is the full one.
    colour = colours.reshape(-1, 3)[brightest.argmax()] / brightest.max()
    if np.abs(colours - brightest[..., None] * colour).max() > step:
        raise InputError(f"the mask {name} shows several colours", hint="save the one you mean as 0 and 255")
    return np.asarray(np.rint(brightest * (255.0 / brightest.max())), np.uint8)


def finite(values: Numbers, name: str) -> Numbers:
    """Return `values`.

    Raises:
        InputError: if any is NaN or infinite.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"the mask {name} holds NaN or infinite values", hint="save its target as 0 and 1")
    return values


def whole_numbers(values: Numbers, name: str, slope: float = 0.0) -> Numbers:
    """Return labels as integers.

    Args:
        values: labels that may be off by rounding.
        name: names the mask in messages.
        slope: the step between stored values, which explains an error of its size; at most `_ROUNDING` is accepted.

    Raises:
        InputError: for NaN, and for fractions, which may be probabilities.
    """
    if values.dtype.kind != "f":
        return values.astype(np.uint8) if values.dtype == np.bool_ else values
    labels = np.rint(finite(values, name))
    tolerance = min(abs(slope), _ROUNDING) + 4 * np.finfo(np.float32).eps * np.abs(values)
    wrong = np.abs(values - labels) > tolerance
    if wrong.any():
        raise InputError(f"the mask {name} holds fractions, for example {values[wrong][0]:g}", hint=_DECLARE)
    return labels.astype(np.int64)


def _cut_lossy(values: Numbers, full: int, name: str) -> NDArray[np.bool_]:
    """Cut what was black and white before a lossy compression."""
    low, high = values <= full * _LOSSY_POLE, values >= full * (1 - _LOSSY_POLE)
    if not (low | high).all() and not _between(~(low | high), low, high, _FAR):
        raise InputError(
            f"the mask {name} is lossy and not black and white", hint="save its target as a PNG of 0 and 255"
        )
    return values * 2.0 >= full


def _soft(values: Numbers, distinct: Numbers, full: int) -> bool:
    """Return True if the mask is black and white with soft edges."""
    low, high = values <= full * _POLE, values >= full * (1 - _POLE)
    greys, filled = ~(low | high), _filled(values)
    blacks, whites = int((distinct <= full * _POLE).sum()), int((distinct >= full * (1 - _POLE)).sum())
    count = len(distinct) - blacks - whites
    if count >= _FEW or min(blacks, whites) >= _NOISY:
        return (greys & filled).sum() <= high.sum() / 100 and _between(greys, low, high, _FAR)
    levels = [len(np.unique(values[filled & pole])) for pole in (low, high)]
    return (
        (count > 0 or min(blacks, whites) > 1)
        and max(levels) <= 1
        and not (greys & filled).any()
        and _between(greys, low, high, _NEAR)
    )


def _between(greys: NDArray[np.bool_], low: NDArray[np.bool_], high: NDArray[np.bool_], reach: int) -> bool:
    """Return True if every grey pixel has black and white within `reach`, and the greys are few."""
    from scipy import ndimage

    near = [ndimage.maximum_filter(pole, 2 * reach + 1) for pole in (low, high)]
    return bool(greys.sum() <= _SPREAD * high.sum() and (near[0] & near[1])[greys].all())


def _filled(values: Numbers) -> NDArray[np.bool_]:
    """Where a pixel has the value of its eight neighbours."""
    from scipy import ndimage

    same: NDArray[np.bool_] = ndimage.maximum_filter(values, 3) == ndimage.minimum_filter(values, 3)
    return same


def _check_labels(distinct: Numbers, name: str) -> None:
    """Refuse several labels of which some cannot be a target."""
    shown = ", ".join(f"{value:g}" for value in distinct[:6]) + (", ..." if len(distinct) > 6 else "")
    least, second, greatest = distinct[0], distinct[-2], distinct[-1]
    if least < 0:
        raise InputError(f"the mask {name} holds the negative label {least:g}: {shown}", hint=_DECLARE)
    if least > 0:
        raise InputError(f"the mask {name} has no 0 for the background: {shown}", hint=_DECLARE)
    if greatest in _IGNORED or (greatest >= 100 and second <= greatest / 4):
        raise InputError(
            f"the mask {name} holds {shown}, and {greatest:g} may mark what is to be ignored", hint=_DECLARE
        )


def _check_edges(labels: Numbers, name: str) -> None:
    """Refuse labels with soft edges, which resizing makes: none of the values between two labels is one."""
    from scipy import ndimage

    thin = ~np.isin(labels, labels[_filled(labels)])
    values = len(np.unique(labels[thin]))
    if values < 2:
        return
    between = (ndimage.minimum_filter(labels, 3) < labels) & (labels < ndimage.maximum_filter(labels, 3))
    if between[thin].mean() >= _BLENDED:
        raise InputError(f"the mask {name} has soft edges, of {values} values that may be no labels", hint=_DECLARE)


def _check_areas(labels: Numbers, distinct: Numbers, name: str) -> None:
    """Refuse the greys of a picture or of probabilities."""
    ranks = np.searchsorted(distinct, labels)
    steps = np.concatenate([np.abs(np.diff(ranks, axis=axis)).ravel() for axis in (0, 1)])
    small = (steps > 0) & (steps <= max(1, len(distinct) // 16))
    slopes = len(distinct) > _MANY_LABELS and small.sum() * 2 > (steps > 0).sum()
    if _filled(labels)[labels != 0].mean() < (0.5 if slopes else 0.05):
        raise InputError(f"the mask {name} holds {len(distinct)} greys and is no label map", hint=_DECLARE)
