"""Pictures of random shapes, drawn on the fly, with which `mini_sam` is trained beside real images.

Every picture has one shape that is meant, things behind it, often a ring round it and parts inside it, so that only the
prompt tells which outline is meant. All are drawn at once, as tensors.
"""

import functools

import torch
from torch.nn import functional as F


def drawings(masks: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a picture for every mask; about half of the masks are replaced by random shapes.

    Args:
        masks: ``[N, side, side]``, coverage of shapes, near the middle.
        side: pixels.

    Returns:
        Pictures ``[N, 3, side, side]`` in [0, 1], and the coverage ``[N, side, side]`` of their shapes.
    """
    count = len(masks)
    middle = torch.zeros(count, 2)
    random = (_blob(side, middle, _between(count, 0.14, 0.28)) < 1).float()
    shapes = torch.where(_chance(count, 0.5, 2), random, masks)
    pictures = _colours(count).expand(-1, -1, side, side).clone()
    ground = _waves(count, side, 5)
    for _ in range(2):
        cut = torch.randn(count, 1, 1) * 0.8 + 0.5
        pictures = _paint(pictures, (ground > cut) & _chance(count, 0.5, 2), _colours(count))
    for _ in range(4):
        thing = _blob(side, torch.rand(count, 2) - 0.5, _between(count, 0.05, 0.25)) < 1
        pictures = _paint(pictures, thing & _chance(count, 0.5, 2), _colours(count))
    ring = _scaled(shapes, _between(count, 1.25, 2.2), 0.04) > 0.5
    pictures = _paint(pictures, ring & _chance(count, 0.25, 2), _colours(count))

    covered = shapes[:, None]
    behind = (pictures * covered).sum((2, 3), keepdim=True) / covered.sum((2, 3), keepdim=True).clamp(min=1)
    colour = _colours(count)
    alike = (colour - behind).abs().mean(1, keepdim=True) < 0.08
    sign = torch.where(_chance(count, 0.5, 3), 1.0, -1.0)
    colour = torch.where(alike, (behind + 0.15 * sign).clamp(0, 1), colour)
    objects = colour.expand(-1, -1, side, side)
    core = _scaled(shapes, _between(count, 0.35, 0.85), 0.06) > 0.5
    objects = _paint(objects, core & _chance(count, 0.35, 2), _colours(count))
    for _ in range(2):
        spot = _blob(side, (torch.rand(count, 2) - 0.5) * 0.3, _between(count, 0.03, 0.12)) < 1
        objects = _paint(objects, spot & _chance(count, 0.4, 2), 0.6 * _colours(count) + 0.4 * colour)
    objects = (
        objects
        + _chance(count, 0.4, 3) * _between(count, 0.05, 0.3)[:, None, None, None] * (_waves(count, side, 4)[:, None])
    )
    soft = torch.where(_chance(count, 0.5, 2), _blurred(shapes, 0.7), _blurred(shapes, 2.5))
    rim = ((soft - 0.5).abs() < 0.45) & _chance(count, 0.25, 2)
    objects = _paint(objects, rim, _colours(count))
    pictures = pictures * (1 - soft[:, None]) + objects * soft[:, None]

    for cells in (12, 30, 70):
        grain = _waves(count, side, cells) * _between(count, 0.02, 0.12)[:, None, None]
        grain = torch.where(_chance(count, 0.5, 2), grain, grain * (shapes * 1.5 - 0.3))
        pictures = pictures + (grain * _chance(count, 0.4, 2))[:, None]
    speckle = 1 + _between(count, 0.1, 0.5)[:, None, None, None] * torch.randn(count, 1, side, side)
    pictures = torch.where(_chance(count, 0.3, 3), pictures * speckle, pictures)
    pictures = torch.where(_chance(count, 0.6, 3), _blurred(pictures, 0.9), pictures)
    return pictures.clamp(0, 1), shapes


def _between(count: int, low: float, high: float) -> torch.Tensor:
    return low + (high - low) * torch.rand(count)


def _chance(count: int, share: float, axes: int) -> torch.Tensor:
    """Return ``[N, 1, ...]`` with `axes` more axes, True with a probability."""
    return torch.rand(count, *[1] * axes) < share


def _colours(count: int) -> torch.Tensor:
    """Return ``[N, 3, 1, 1]``: greys, and colours for two of five."""
    return torch.where(_chance(count, 0.4, 3), torch.rand(count, 3, 1, 1), torch.rand(count, 1, 1, 1))


def _paint(pictures: torch.Tensor, where: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    return torch.where(where[:, None], colour, pictures)


def _waves(count: int, side: int, cells: int) -> torch.Tensor:
    """Return smooth noise ``[N, side, side]``: `cells` independent values along a side."""
    spread = _spread(cells, side)
    return spread @ torch.randn(count, cells, cells) @ spread.T


@functools.cache
def _spread(cells: int, side: int) -> torch.Tensor:
    """Return the weights ``[side, cells]`` of cubic interpolation from `cells` values to `side` pixels."""
    unit = torch.eye(cells)[None, None]
    return F.interpolate(unit, (side, cells), mode="bicubic", align_corners=False)[0, 0]


def _blob(side: int, middle: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Return ``[N, side, side]``, below 1 inside wobbly ellipses; pictures reach from -0.5 to 0.5."""
    count = len(middle)
    line = (torch.arange(side) + 0.5) / side - 0.5
    x, y = line[None, None] - middle[:, :1, None], line[None, :, None] - middle[:, 1:, None]
    angle, stretch = torch.rand(count, 1, 1) * torch.pi, torch.exp(torch.randn(count, 1, 1) * 0.35)
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    wobble = torch.tensor([0.05, 0.15, 0.3])[torch.randint(3, (count, 1, 1))]
    distance = ((u * stretch) ** 2 + (v / stretch) ** 2).sqrt() / radius[:, None, None]
    return distance + wobble * _waves(count, side, int(torch.randint(4, 9, ())))


def _scaled(shapes: torch.Tensor, factor: torch.Tensor, shift: float) -> torch.Tensor:
    """Return every shape scaled about its own middle and moved a little."""
    count, side = len(shapes), shapes.shape[-1]
    line = (torch.arange(side) + 0.5) / side * 2 - 1
    area = shapes.sum((1, 2)).clamp(min=1)
    middle = torch.stack([(shapes.sum(1) * line).sum(1), (shapes.sum(2) * line).sum(1)], 1) / area[:, None]
    offset = middle - (middle + (torch.rand(count, 2) - 0.5) * 2 * shift) / factor[:, None]
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / factor
    theta[:, :, 2] = offset
    grid = F.affine_grid(theta, [count, 1, side, side], align_corners=False)
    return F.grid_sample(shapes[:, None], grid, align_corners=False)[:, 0]


def _blurred(pictures: torch.Tensor, deviation: float) -> torch.Tensor:
    """Return pictures ``[..., side, side]`` under a Gaussian of so many pixels."""
    places = torch.arange(pictures.shape[-1])
    weights = torch.exp(-0.5 * ((places[:, None] - places) / deviation) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    return weights @ pictures @ weights.T
