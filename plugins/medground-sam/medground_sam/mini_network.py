"""The network of `mini_sam`: it corrects the ellipse of a box, or the disc of points, by what the picture shows there.

A prompt gives a prior: the ellipse inscribed in its box, or a disc round its points. The picture is cut round the
prior, stretched so that the prior is a circle, and shrunk to `SIDE` pixels. The network sees that cut, the prompt and
the prior, and gives a map that is added to the prior's logits.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

SIDE = 64
"""Pixels a side of what the network sees."""
CHANNELS = 8
"""Red, green, blue, box, positive points, negative points, prior, and how far off the box may be."""
WORST_BOX = 0.2
"""The share of a side by which an edge of a box may be off, at most, in training."""
BOX_MARGIN, POINT_MARGIN = 1.5, 2.0
"""A cut is so many times as large as the prior: of a box, and of points."""
_WIDTHS = (24, 48, 80, 112)


@dataclass(frozen=True, slots=True)
class Priors:
    """Ellipses of P prompts, in pixels of their pictures."""

    centre: torch.Tensor
    """``[P, 2]``, x and y."""
    radii: torch.Tensor
    """``[P, 2]``, along x and y."""
    margin: torch.Tensor
    """``[P]``: half a cut is `radii` times this."""

    def to_picture(self, grid: torch.Tensor) -> torch.Tensor:
        """Return pixels ``[P, h, w, 2]`` of the pictures for places ``[h, w, 2]`` of a cut that reaches from -1 to 1."""
        reach = self.radii * self.margin[:, None]
        return grid[None] * reach[:, None, None] + self.centre[:, None, None]

    def to_cut(self, points: torch.Tensor) -> torch.Tensor:
        """Return places ``[P, K, 2]`` of the cuts, which reach from -1 to 1, for pixels ``[P, K, 2]`` of the pictures."""
        return (points - self.centre[:, None]) / (self.radii * self.margin[:, None])[:, None]


def box_priors(boxes: torch.Tensor) -> Priors:
    """Return the ellipses in boxes ``[P, 4]``; a side counts as at least 2 pixels."""
    low, high = boxes[:, :2], boxes[:, 2:]
    return Priors((low + high) / 2, ((high - low) / 2).clamp(min=1), torch.full_like(boxes[:, 0], BOX_MARGIN))


def point_priors(points: torch.Tensor, positive: torch.Tensor, extent: torch.Tensor) -> Priors:
    """Return discs round points ``[P, K, 2]``, of which those ``positive[P, K]`` count, in pictures of a mean side.

    The radius is 3/4 of the largest distance and 3 % of the side; 10 % of the side where there is one point. Where no
    point is positive all count.
    """
    chosen = torch.where(positive.any(1, keepdim=True), positive, True)
    weights = chosen.float()[..., None]
    centre = (points * weights).sum(1) / weights.sum(1)
    pairs = torch.cdist(points, points) * (chosen[:, :, None] & chosen[:, None])
    several = chosen.sum(1) > 1
    radius = 0.75 * pairs.flatten(1).amax(1) + torch.where(several, 0.03, 0.1) * extent
    return Priors(centre, radius[:, None].expand(-1, 2).clamp(min=1), torch.full_like(radius, POINT_MARGIN))


def cut_grid(side: int = SIDE) -> torch.Tensor:
    """Return the centres ``[side, side, 2]`` of the pixels of a cut that reaches from -1 to 1, x first."""
    line = (torch.arange(side) + 0.5) / side * 2 - 1
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)


def prior_logits(margin: torch.Tensor) -> torch.Tensor:
    """Return the logits ``[P, SIDE, SIDE]`` of the prior in a cut: 0 on the ellipse, 5 well inside, -5 outside."""
    radius: torch.Tensor = cut_grid().pow(2).sum(-1).sqrt().to(margin.device)
    return ((radius[None] * margin[:, None, None] - 1) * -6).clamp(-5, 5)


def tight_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Return the boxes ``[P, 4]`` of masks ``[P, h, w]``, half-open; the whole picture for a mask without a pixel."""
    edges = []
    for axis in (1, 2):
        line = masks.amax(axis) > 0
        first = line.float().argmax(1)
        edges.append((first, line.shape[1] - line.flip(1).float().argmax(1)))
    return torch.stack([edges[0][0], edges[1][0], edges[0][1], edges[1][1]], 1).float()


def inputs(
    pixels: torch.Tensor,
    priors: Priors,
    *,
    boxed: torch.Tensor,
    points: torch.Tensor,
    labels: torch.Tensor,
    box_error: torch.Tensor,
) -> torch.Tensor:
    """Return what the network takes, ``[P, CHANNELS, SIDE, SIDE]``.

    Args:
        pixels: cuts ``[P, 3, SIDE, SIDE]`` of the pictures; each is brought to mean 0 and deviation 1 here.
        priors: theirs.
        boxed: ``[P]``, True where the prior comes from a box.
        points: ``[P, K, 2]`` in pixels of the pictures; K may be 0.
        labels: ``[P, K]``: 1 positive, 0 negative, -1 no point.
        box_error: ``[P]``, the share of a side by which an edge of the box may be off.
    """
    values = pixels - pixels.mean((1, 2, 3), keepdim=True)
    values = values / (values.std((1, 2, 3), keepdim=True) + 1e-3)
    grid = cut_grid().to(pixels.device)
    inside = grid.abs().amax(-1)[None] * priors.margin[:, None, None] < 1
    box = (inside & boxed[:, None, None]).float()
    places = priors.to_cut(points)
    distance = (grid[None, None] - places[:, :, None, None]).pow(2).sum(-1) * (SIDE / 2) ** 2
    marks = torch.exp(-distance / 8)
    heat = [(marks * (labels == kind)[..., None, None]).sum(1).clamp(max=1) for kind in (1, 0)]
    prior = prior_logits(priors.margin) / 3
    error = (box_error / WORST_BOX)[:, None, None].expand_as(prior)
    return torch.cat([values, torch.stack([box, *heat, prior, error], 1)], 1)


class _Block(nn.Module):
    """Two convolutions beside a short cut."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(8, after)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(8, after)
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.skip(x) + self.second_norm(self.second(inner)))


class Correction(nn.Module):
    """A U-Net on 32, 16, 8 and 4 pixels a side; its last layer starts at 0, so that a fresh one corrects nothing."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = _WIDTHS
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(CHANNELS * 4, a, 3, padding=1, bias=False),
            nn.GroupNorm(8, a),
            nn.ReLU(),
        )
        self.down = nn.ModuleList([_Block(a, a), _Block(a, b), _Block(b, c), nn.Sequential(_Block(c, d), _Block(d, d))])
        self.up = nn.ModuleList([_Block(d + c, c), _Block(c + b, b), _Block(b + a, a)])
        self.last = nn.Conv2d(a, 4, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the correction ``[P, SIDE, SIDE]`` of the prior's logits, for `inputs`."""
        levels = [self.down[0](self.stem(x))]
        for block in self.down[1:]:
            levels.append(block(F.max_pool2d(levels[-1], 2)))
        y = levels.pop()
        for block in self.up:
            y = block(torch.cat([F.interpolate(y, scale_factor=2, mode="nearest"), levels.pop()], 1))
        return F.pixel_shuffle(self.last(y), 2)[:, 0]
