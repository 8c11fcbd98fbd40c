"""Cuts of pictures for the network of `mini_sam`, and its maps back at the size of the picture."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from medground.geometry import Size
from medground.types import Image, SpatialPrompt
from medground_sam.mini_network import (
    SIDE,
    Priors,
    box_priors,
    cut_grid,
    inputs,
    point_priors,
    prior_logits,
    tight_boxes,
)

BOX_STRENGTH = 0.5
"""How much of a correction counts for a box, at most; chosen on `medground_sam.train_mini.LEFT_OUT`."""
TRUST, TRUST_LOST, TRUST_WIDTH = 0.75, 5 / 3, 0.2
"""A correction counts from this IoU of the corrected mask's box and the given one, less so much per share of box error."""
OUTSIDE = -5.0
"""The logit of pixels outside a cut: that of the prior far away."""


def pyramid(image: Image, device: str) -> tuple[torch.Tensor, ...]:
    """Return an H x W x 3 uint8 image as levels ``[3, h, w]`` uint8, halved down to `SIDE` pixels on the longer side."""
    levels = [torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).to(device)]
    while max(levels[-1].shape[1:]) > SIDE:
        smaller = F.avg_pool2d(levels[-1].float()[None], 2, ceil_mode=True, count_include_pad=False)[0]
        levels.append(smaller.round().to(torch.uint8))
    return tuple(levels)


def prepare(
    pyramids: Sequence[tuple[torch.Tensor, ...]],
    sizes: Sequence[Size],
    prompts: Sequence[SpatialPrompt],
    box_error: float,
) -> tuple[Priors, torch.Tensor]:
    """Return the priors of prompts of one kind and what the network takes, as `inputs`; a pyramid and a size per prompt."""
    device = pyramids[0][0].device
    points = torch.tensor([prompt.points for prompt in prompts], dtype=torch.float32).reshape(len(prompts), -1, 2)
    labels = torch.tensor([prompt.labels for prompt in prompts]).reshape(len(prompts), -1)
    points, labels = points.to(device), labels.to(device)
    boxes = [prompt.box for prompt in prompts if prompt.box is not None]
    if boxes:
        priors = box_priors(torch.tensor(boxes, dtype=torch.float32, device=device))
    else:
        extent = torch.tensor([math.sqrt(height * width) for height, width in sizes], device=device)
        priors = point_priors(points, labels == 1, extent)
    places = priors.to_picture(cut_grid(2 * SIDE).to(device))
    reach = (priors.radii * priors.margin[:, None]).tolist()
    cuts = [_cut(levels, one, *half) for levels, one, half in zip(pyramids, places, reach, strict=True)]
    boxed = torch.full((len(prompts),), bool(boxes), device=device)
    error = torch.where(boxed, box_error, 0.0)
    return priors, inputs(torch.stack(cuts), priors, boxed=boxed, points=points, labels=labels, box_error=error)


def _cut(levels: tuple[torch.Tensor, ...], places: torch.Tensor, *reach: float) -> torch.Tensor:
    """Return a cut ``[3, SIDE, SIDE]`` in [0, 1] at places ``[2 SIDE, 2 SIDE, 2]`` of the picture; its edge is repeated."""
    step = math.sqrt(reach[0] * reach[1]) / SIDE
    level = min(max(0, math.ceil(math.log2(step) - 0.5)) if step > 0 else 0, len(levels) - 1)
    places = places / 2**level
    height, width = levels[level].shape[1:]
    low, high = places.amin((0, 1)).floor().long() - 1, places.amax((0, 1)).ceil().long() + 2
    left, right = _span(int(low[0]), int(high[0]), width)
    top, bottom = _span(int(low[1]), int(high[1]), height)
    window = levels[level][:, top:bottom, left:right].float() / 255
    offset = torch.tensor([left, top], device=places.device)
    extent = torch.tensor([right - left, bottom - top], device=places.device)
    grid = (places - offset) / extent * 2 - 1
    fine = F.grid_sample(window[None], grid[None], padding_mode="border", align_corners=False)
    return F.avg_pool2d(fine, 2)[0]


def _span(low: int, high: int, length: int) -> tuple[int, int]:
    """Return the part of ``[low, high)`` in a line, at least one pixel of it."""
    start = min(max(low, 0), length - 1)
    return start, max(start + 1, min(high, length))


def corrected(correction: torch.Tensor, priors: Priors, *, box_error: float | None) -> torch.Tensor:
    """Return the logits ``[P, SIDE, SIDE]`` of the priors with what counts of the corrections.

    A correction of points counts in full. One of a box counts by half, and less where the mask that it makes would fill
    another box than the given one: a network that follows something inside the target, or beside it, is not followed.

    Args:
        correction: what the network gives, ``[P, SIDE, SIDE]``.
        priors: theirs.
        box_error: by which share of a side an edge of the boxes may be off; None for points.
    """
    prior = prior_logits(priors.margin)
    if box_error is None:
        return prior + correction
    agreement = _agreement(prior + correction > 0, priors)
    trust = ((agreement - (TRUST - TRUST_LOST * box_error)) / TRUST_WIDTH).clamp(0, 1)
    return prior + BOX_STRENGTH * trust[:, None, None] * correction


def _agreement(masks: torch.Tensor, priors: Priors) -> torch.Tensor:
    """Return the IoU ``[P]`` of the boxes of masks in cuts ``[P, SIDE, SIDE]`` and those that their priors fill."""
    boxes = tight_boxes(masks) / SIDE * 2 - 1
    reach = 1 / priors.margin[:, None]
    overlap = torch.minimum(boxes[:, 2:], reach) - torch.maximum(boxes[:, :2], -reach)
    common = overlap.clamp(min=0).prod(1)
    return common / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + (2 * reach[:, 0]) ** 2 - common)


def expand(logits: torch.Tensor, priors: Priors, row: int, size: Size) -> torch.Tensor:
    """Return the map ``[SIDE, SIDE]`` of one cut at the size of its picture, `OUTSIDE` where the cut does not reach."""
    height, width = size
    values = torch.full(size, OUTSIDE, device=logits.device)
    reach = priors.radii[row] * priors.margin[row]
    low, high = (priors.centre[row] - reach).tolist(), (priors.centre[row] + reach).tolist()
    (left, right), (top, bottom) = (
        (max(0, math.ceil(low[axis] - 0.5)), min(length, math.floor(high[axis] - 0.5) + 1))
        for axis, length in ((0, width), (1, height))
    )
    if left < right and top < bottom:
        x = (torch.arange(left, right, device=logits.device) + 0.5 - priors.centre[row, 0]) / reach[0]
        y = (torch.arange(top, bottom, device=logits.device) + 0.5 - priors.centre[row, 1]) / reach[1]
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
        values[top:bottom, left:right] = F.grid_sample(
            logits[None, None], grid, padding_mode="border", align_corners=False
        )[0, 0]
    return values
