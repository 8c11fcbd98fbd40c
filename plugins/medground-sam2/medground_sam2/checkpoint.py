"""The tensors of a SAM 2 checkpoint, whatever its layout, and the sizes of its model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from medground.segmenters.weight_files import read_json
from medground.segmenters.weights import read_weights
from medground_sam2.layout import (
    POINTS,
    ROOTS,
    TWINS,
    Architecture,
    Unseen,
    architecture,
    is_transformers,
    original_name,
    without_video,
)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The tensors of one file or folder that a model has."""

    source: str
    tensors: dict[str, torch.Tensor]
    """By the names they have in the file."""
    unseen: Unseen
    """What its config.json adds, if it has one."""

    @property
    def original(self) -> dict[str, torch.Tensor]:
        """Return the tensors by their original names."""
        return to_original(self.tensors) if is_transformers(self.tensors) else self.tensors

    def architecture(self, unseen: Unseen) -> Architecture:
        """Return its sizes; `unseen` outranks the folder's config.json."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.original.items()}
        return architecture(shapes, unseen.over(self.unseen), self.source)


def open_checkpoint(path: Path, *, video: bool = False) -> Checkpoint:
    """Read a published .pt file, a safetensors file, or a transformers folder.

    Args:
        path: of it.
        video: True keeps the tensors for video; False drops them.

    Raises:
        InputError: if it cannot be read.
    """
    tensors = read_weights(path, ROOTS)
    if not video:
        tensors = {name: tensors[name] for name in without_video(tensors)}
    stored = [name for name in TWINS if name in tensors]
    if len(stored) == 1:  # transformers may store the two copies of one table once
        tensors |= dict.fromkeys(TWINS, tensors[stored[0]])
    unseen = Unseen()
    config = path / "config.json" if path.is_dir() else path.with_name("config.json")
    if is_transformers(tensors) and config.is_file():
        unseen = Unseen.of_config(read_json(config), config)
    return Checkpoint(source=path.name, tensors=tensors, unseen=unseen)


def to_original(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the same tensors under original names: the table of point embeddings becomes four."""
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name == "prompt_encoder.point_embed.weight":
            renamed |= {f"{POINTS}{row}.weight": tensor[row : row + 1] for row in range(len(tensor))}
        else:
            renamed[original_name(name)] = tensor
    return renamed
