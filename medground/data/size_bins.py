"""The size of a target in its image, and the four bins of reports."""

from medground.types import Sample, boxes_of

SIZES = ((0.01, "under 1 %"), (0.05, "1 to 5 %"), (0.20, "5 to 20 %"), (float("inf"), "over 20 %"))
"""(fraction of the image below which a target has the name, name)."""
ABSENT = "absent"
"""Stands for the size where there is no target."""


def area_fraction(sample: Sample) -> float:
    """Return the fraction of the image that the true mask covers, else the true boxes."""
    height, width = sample.query.size
    target, mask = sample.target, sample.target.mask
    boxes = boxes_of(target.regions)
    area = sum(box.area for box in boxes) if mask is None else float(mask.sum())
    return area / (height * width)


def size_name(fraction: float | None) -> str:
    """Return the name of a target size; None stands for no target.

    >>> size_name(0.03), size_name(None)
    ('1 to 5 %', 'absent')
    """
    if fraction is None:
        return ABSENT
    return next(name for limit, name in SIZES if fraction < limit)
