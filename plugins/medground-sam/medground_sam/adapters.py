"""SAM-Med2D's adapters on top of a plain SAM encoder (Cheng et al. 2023, arXiv:2308.16184)."""

import torch
from torch import nn


class Adapter(nn.Module):
    """Channel gate, then a stride-2 convolution and its transpose, added to the input and normalised.

    Takes and returns ``[B, H, W, C]``: LayerNorm(x + S(g * x)) with g the gate of the mean over the grid. Submodule
    names are those of the published files.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.channel = nn.Sequential(
            nn.Linear(width, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, width, bias=False), nn.Sigmoid()
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width, kernel_size=4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[B, H, W, C]`` for ``[B, H, W, C]``."""
        grid = x.permute(0, 3, 1, 2)
        gate = self.channel(grid.mean(dim=(2, 3)))[:, :, None, None]
        return self.norm((grid + self.spatial(grid * gate)).permute(0, 2, 3, 1))


class _Add:
    """A forward hook of a block's MLP: its output plus the adapter's on the same input."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output + self.adapter(args[0])


def attach(block: nn.Module, width: int, hidden: int) -> None:
    """Give an encoder block (of either library) an adapter beside its MLP, under the published name ``Adapter``."""
    block.Adapter = Adapter(width, hidden)
    block.mlp.register_forward_hook(_Add(block.Adapter))
