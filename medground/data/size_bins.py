"""How large a target is in its image, and the four sizes that reports tell apart."""

from medground.types import Sample

SIZES = ((0.01, "under 1 %"), (0.05, "1 to 5 %"), (0.20, "5 to 20 %"), (float("inf"), "over 20 %"))
"""(share of the image below which a target has the name, name)."""


def share_of(sample: Sample) -> float:
    """The share of the image that the true mask covers, else the true box."""
    height, width = sample.query.size
    target = sample.target
    area = target.box.area if target.mask is None else float(target.mask.sum())
    return area / (height * width)


def size_name(share: float) -> str:
    """The name of a target size.

    >>> size_name(0.03)
    '1 to 5 %'
    """
    return next(name for limit, name in SIZES if share < limit)
