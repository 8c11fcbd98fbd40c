"""The columns of the published table, and its numbers, which are inclusive pixel indices.

    prompt        list of {role, content}; the question is the first one's content
    images        list of one image: {bytes, path}
    masks         list of images of 0 and 255, one; empty where there is no mask
    data_source   "umrg"
    reward_model  {ground_truth: JSON text of {"bbox_2d": [x1, y1, x2, y2], "point_2d": [[x, y], [x, y]]}, style}
    extra_info    {id, supercategory, category, ...}

The published ``bbox_2d`` names the first and the last column and row of the mask, ``point_2d`` the column and row of a
pixel. Here a box is half-open and a point is a pixel's centre, so one is added to x2 and y2 and a half to points, and both
are taken back on writing.

A row of ours that does not mean exactly one target holds in ``ground_truth`` a list of such objects, empty where the target
is absent, and in ``masks`` one image for each of them, or none. Published rows hold no such list: the components of their
one mask are one target.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medground.data.manifest import finite_numbers
from medground.errors import InputError, PluginError
from medground.geometry import Box, Point, Size
from medground.types import Region, Target

NEEDED = ("prompt", "images", "reward_model")
NAMED = ("supercategory", "category", "modality")
"""Labels with a field of their own in ``extra_info``; the others travel in its ``labels``, as JSON."""
FEATURES: dict[str, Any] = {
    "prompt": [{"role": {"dtype": "string", "_type": "Value"}, "content": {"dtype": "string", "_type": "Value"}}],
    "images": [{"_type": "Image"}],
    "masks": [{"_type": "Image"}],
    "data_source": {"dtype": "string", "_type": "Value"},
    "reward_model": {name: {"dtype": "string", "_type": "Value"} for name in ("ground_truth", "style")},
    "extra_info": {
        "id": {"dtype": "string", "_type": "Value"},
        **{name: {"dtype": "string", "_type": "Value"} for name in NAMED},
        "index": {"dtype": "int64", "_type": "Value"},
        "labels": {"dtype": "string", "_type": "Value"},
    },
}
"""What `datasets` reads from the file's own metadata to decode the images."""


def arrow() -> tuple[Any, Any]:
    """Return (pyarrow, pyarrow.parquet).

    Raises:
        PluginError: where it is not installed.
    """
    try:
        import pyarrow  # type: ignore[import-untyped, import-not-found, unused-ignore]
        from pyarrow import parquet
    except ImportError as error:
        raise PluginError("reading and writing parquet needs pyarrow", hint="pip install 'medground[data]'") from error
    return pyarrow, parquet


def published(target: Target) -> dict[str, Any] | list[dict[str, Any]]:
    """Return a target's numbers as the table holds them: an object for one region, else a list of them.

    >>> from medground.types import Region
    >>> published(Target(regions=(Region(box=Box(2, 3, 10, 11), points=(Point(4.5, 5.5),)),)))
    {'bbox_2d': [2, 3, 9, 10], 'point_2d': [[4, 5]]}
    >>> published(Target(regions=()))
    []

    Raises:
        InputError: if a region has no box: the table has no form for that.
    """
    regions = [_published(region) for region in target.regions]
    return regions[0] if len(regions) == 1 else regions


def _published(region: Region) -> dict[str, Any]:
    if region.box is None:
        raise InputError("a row of the published table holds boxes, and a region has none")
    x1, y1, x2, y2 = region.box
    label = {"label": region.label} if region.label else {}
    return {
        "bbox_2d": [math.floor(x1), math.floor(y1), math.ceil(x2) - 1, math.ceil(y2) - 1],
        "point_2d": [[math.floor(x), math.floor(y)] for x, y in region.points],
        **label,
    }


@dataclass(frozen=True, slots=True)
class Truth:
    """What a row states."""

    regions: tuple[Region, ...]
    """In pixels, half-open; () where the target is absent."""
    published: Mapping[str, Any] | None
    """The numbers of the one region as they stand; None where the row states a list."""


def truth(text: Any, size: Size) -> Truth:
    """Return what a ``ground_truth`` text states.

    Args:
        text: JSON.
        size: (H, W) of the row's own image.

    Raises:
        InputError: if it is no such text, or its numbers do not lie in the image.
    """
    try:
        stated = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError) as error:
        raise InputError("its ground truth is not JSON") from error
    if isinstance(stated, list) and all(isinstance(one, dict) for one in stated):
        return Truth(tuple(_region(one, size) for one in stated), None)
    if not isinstance(stated, dict):
        raise InputError("its ground truth is not a JSON object or a list of them")
    points = stated.get("point_2d", [])
    return Truth((_region(stated, size),), {"bbox_2d": stated.get("bbox_2d"), "point_2d": points})


def _region(stated: Mapping[str, Any], size: Size) -> Region:
    x1, y1, x2, y2 = _numbers(stated.get("bbox_2d"), 4, "bbox_2d")
    points = stated.get("point_2d", [])
    if not isinstance(points, list):
        raise InputError("its point_2d is not a list of points")
    pixels = [_numbers(point, 2, "point_2d") for point in points]
    height, width = size
    if not (0 <= x1 <= x2 < width and 0 <= y1 <= y2 < height):
        raise InputError(f"its box {[x1, y1, x2, y2]} does not lie in its image of {width} x {height}")
    for x, y in pixels:
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(f"its point ({x:g}, {y:g}) does not lie in its image of {width} x {height}")
    label = stated.get("label", "")
    if not isinstance(label, str):
        raise InputError("its label is no text")
    return Region(
        box=Box(x1, y1, x2 + 1, y2 + 1), points=tuple(Point(x + 0.5, y + 0.5) for x, y in pixels), label=label
    )


def _numbers(values: Any, count: int, word: str) -> tuple[float, ...]:
    numbers = finite_numbers(values, count)
    if numbers is None:
        raise InputError(f"its {word} is not {count} finite numbers")
    return numbers
