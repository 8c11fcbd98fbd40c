"""What a segmenter finds without being told where: it is prompted with a grid of points, or a text, and the surest masks stay.

SAM generates masks automatically with a grid (facebookresearch/segment-anything, segment_anything/automatic_mask_generator.py);
here one pass over the whole image does, and the IoU of masks stands in place of that of boxes.
"""

from collections.abc import Sequence

from medground.errors import RunError
from medground.geometry import Point, Size, mask_box, mask_iou
from medground.protocols import Segmenter
from medground.types import Image, Mask, SpatialPrompt

SMALLEST = 0.001
"""The share of the image that a candidate covers at least, and one pixel."""
LARGEST = 0.6
"""The share of the image that a candidate covers at most: what is larger is what the others lie on."""


def propose(
    segmenter: Segmenter,
    image: Image,
    prompts: Sequence[SpatialPrompt],
    *,
    k: int,
    overlap: float,
    least_score: float = 0.0,
) -> list[Mask]:
    """Return up to `k` masks of different things in an image, in reading order: by the top of their boxes, then the left.

    Args:
        segmenter: takes such prompts.
        image: H x W x 3 uint8 RGB.
        prompts: each proposes the instances of its mask, or the mask where it has none.
        k: the most masks; those that the segmenter is surest of are kept.
        overlap: of two masks with a larger IoU, the surer one is kept.
        least_score: a mask with a lower score is left out.

    Raises:
        SegmenterError: as the segmenter does.
        RunError: if it gives another number of masks than it was given prompts.
    """
    masks = segmenter.segment(image, prompts)
    if len(masks) != len(prompts):
        raise RunError(
            f"the segmenter returned a wrong number of masks: {len(masks)} for {len(prompts)} prompts",
            hint="run medground.testing.check_segmenter on it",
        )
    instances = [one for mask in masks for one in mask.instances or (mask,)]
    chosen = distinct([one for one in instances if one.score >= least_score], k=k, overlap=overlap)
    return sorted(chosen, key=lambda mask: (mask_box(mask.data).y1, mask_box(mask.data).x1))


def point_prompts(image: Image, side: int) -> list[SpatialPrompt]:
    """Return a prompt for every point of a `grid` over an image, H x W x 3."""
    return [SpatialPrompt(points=(point,)) for point in grid((image.shape[0], image.shape[1]), side)]


def grid(size: Size, side: int) -> list[Point]:
    """Return the middles of `side` x `side` equal parts of an image of `size` (H, W), row by row.

    >>> grid((4, 8), 2)
    [Point(x=2.0, y=1.0), Point(x=6.0, y=1.0), Point(x=2.0, y=3.0), Point(x=6.0, y=3.0)]
    """
    height, width = size
    steps = [(index + 0.5) / side for index in range(side)]
    return [Point(x * width, y * height) for y in steps for x in steps]


def distinct(masks: Sequence[Mask], *, k: int, overlap: float) -> list[Mask]:
    """Return the surest `k` masks of a fitting size, none with an IoU above `overlap` with a surer one, the surest first."""
    chosen: list[Mask] = []
    for mask in sorted(masks, key=lambda mask: -mask.score):
        if len(chosen) == k:
            break
        share, pixels = float(mask.data.mean()), int(mask.data.sum())
        if pixels == 0 or not SMALLEST <= share <= LARGEST:
            continue
        if all(float(mask_iou(mask.data, other.data)) <= overlap for other in chosen):
            chosen.append(mask)
    return chosen
