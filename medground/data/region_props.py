"""Properties of a region, measured from its mask and the pixels in and around it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medground.geometry import Box, mask_box
from medground.types import Image

Bools = NDArray[np.bool_]
_CRUMB = 0.05
"""A component smaller than this fraction of the mask is a crumb and does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionProps:
    """Figures about one target; lengths are shares of the image's width and height."""

    x: float
    """Centroid, 0 at the left edge of the image, 1 at the right."""
    y: float
    """Centroid, 0 at the top, 1 at the bottom."""
    box: Box
    """Tight box in shares of width and height."""
    area: float
    """Share of the image."""
    elongation: float
    """Length over breadth by second moments; 1 for a disc or a square."""
    orientation: float
    """Of the long axis: 0 horizontal, 1 vertical."""
    fill: float
    """Area over that of the ellipse of equal moments: 1 for an ellipse, less the more ragged, concave or hollow."""
    hole_fraction: float
    """Enclosed holes as a share of mask and holes."""
    components: int
    """Components, crumbs aside."""
    concave: bool
    """True if the centroid lies outside the mask."""
    contrast: float
    """Mean grey inside less that around it, as a fraction of the range: above 0 is brighter than its surroundings."""


def region_props(image: Image, mask: Bools) -> RegionProps:
    """Measure a target: image H x W x 3 uint8, mask H x W bool, not empty."""
    height, width = mask.shape
    box = mask_box(mask)
    rows, columns = np.nonzero(mask)
    x, y = columns.mean() + 0.5, rows.mean() + 0.5
    covariance = np.cov(columns, rows) if rows.size > 1 else np.zeros((2, 2))
    # A pixel has an extent of its own: 1/12 px² of variance along each axis.
    small, large = np.linalg.eigvalsh(covariance + np.eye(2) / 12)
    angle = 0.5 * np.arctan2(2 * covariance[0, 1], covariance[0, 0] - covariance[1, 1])
    areas = np.bincount(ndimage.label(mask, np.ones((3, 3)))[0][rows, columns])
    holes = int(ndimage.binary_fill_holes(mask).sum()) - rows.size
    return RegionProps(
        x=float(x / width),
        y=float(y / height),
        box=Box(box.x1 / width, box.y1 / height, box.x2 / width, box.y2 / height),
        area=rows.size / mask.size,
        elongation=float(np.sqrt(large / small)),
        orientation=float(abs(angle) / (np.pi / 2)),
        fill=float(rows.size / (4 * np.pi * np.sqrt(large * small))),
        hole_fraction=holes / (holes + rows.size),
        components=int((areas >= _CRUMB * rows.size).sum()),
        concave=not mask[min(int(y), height - 1), min(int(x), width - 1)],
        contrast=_contrast(image, mask, box),
    )


def _contrast(image: Image, mask: Bools, box: Box) -> float:
    """The mean grey inside less that around: the box grown by a quarter, at least by 4 px, without the mask."""
    height, width = mask.shape
    reach_x, reach_y = max(4, round(box.width / 4)), max(4, round(box.height / 4))
    window = (
        slice(max(0, int(box.y1) - reach_y), min(height, int(box.y2) + reach_y)),
        slice(max(0, int(box.x1) - reach_x), min(width, int(box.x2) + reach_x)),
    )
    grey, inside = image[window].mean(axis=2), mask[window]
    if inside.all():
        return 0.0
    return float((grey[inside].mean() - grey[~inside].mean()) / 255)
