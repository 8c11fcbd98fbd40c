"""SAM checkpoints: the two naming layouts, and the sizes of the network read from the tensors themselves.

The original layout (``image_encoder.blocks...``) is the reference; names of the transformers layout
(``vision_encoder.layers...``) are translated through one table, in either direction.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medground.errors import InputError
from medground.segmenters.weights import holdings

if TYPE_CHECKING:
    import torch

_MLP = (("layers.0.", "proj_in."), ("layers.1.", "layers.0."), ("layers.2.", "proj_out."))
_TABLE = [
    # (original, transformers): the first row that a name starts with is applied; # stands for a number.
    ("image_encoder.blocks.#.norm#.", "vision_encoder.layers.#.layer_norm#."),
    ("image_encoder.blocks.#.", "vision_encoder.layers.#."),
    ("image_encoder.patch_embed.proj.", "vision_encoder.patch_embed.projection."),
    ("image_encoder.neck.0.", "vision_encoder.neck.conv1."),
    ("image_encoder.neck.1.", "vision_encoder.neck.layer_norm1."),
    ("image_encoder.neck.2.", "vision_encoder.neck.conv2."),
    ("image_encoder.neck.3.", "vision_encoder.neck.layer_norm2."),
    ("image_encoder.", "vision_encoder."),
    ("prompt_encoder.point_embeddings.", "prompt_encoder.point_embed."),
    ("prompt_encoder.mask_downscaling.0.", "prompt_encoder.mask_embed.conv1."),
    ("prompt_encoder.mask_downscaling.1.", "prompt_encoder.mask_embed.layer_norm1."),
    ("prompt_encoder.mask_downscaling.3.", "prompt_encoder.mask_embed.conv2."),
    ("prompt_encoder.mask_downscaling.4.", "prompt_encoder.mask_embed.layer_norm2."),
    ("prompt_encoder.mask_downscaling.6.", "prompt_encoder.mask_embed.conv3."),
    ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding"),
    ("mask_decoder.transformer.layers.#.norm#.", "mask_decoder.transformer.layers.#.layer_norm#."),
    ("mask_decoder.transformer.norm_final_attn.", "mask_decoder.transformer.layer_norm_final_attn."),
    ("mask_decoder.output_upscaling.0.", "mask_decoder.upscale_conv1."),
    ("mask_decoder.output_upscaling.1.", "mask_decoder.upscale_layer_norm."),
    ("mask_decoder.output_upscaling.3.", "mask_decoder.upscale_conv2."),
    *(
        (f"mask_decoder.output_hypernetworks_mlps.#.{a}", f"mask_decoder.output_hypernetworks_mlps.#.{b}")
        for a, b in _MLP
    ),
    *((f"mask_decoder.iou_prediction_head.{a}", f"mask_decoder.iou_prediction_head.{b}") for a, b in _MLP),
]
TIED = "prompt_encoder.shared_embedding.positional_embedding"
"""A second name of the positional matrix in the transformers layout; files hold it or leave it out."""


def _rule(source: str, target: str) -> tuple[re.Pattern[str], str]:
    pattern = re.escape(source).replace(r"\#", r"(\d+)")
    numbers = iter(range(1, 10))
    return re.compile(f"^{pattern}"), re.sub("#", lambda _: rf"\g<{next(numbers)}>", target)


_TO_TRANSFORMERS = [_rule(original, other) for original, other in _TABLE]
_TO_ORIGINAL = [_rule(other, original) for original, other in _TABLE]


def _translate(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, target in rules:
        if pattern.match(name):
            return pattern.sub(target, name)
    return name


def to_transformers(name: str) -> str:
    """Return a parameter's name in transformers' SamModel.

    >>> to_transformers("image_encoder.blocks.3.norm2.weight")
    'vision_encoder.layers.3.layer_norm2.weight'
    """
    return _translate(name, _TO_TRANSFORMERS)


def to_original(name: str) -> str:
    """Return a parameter's name in the published files.

    >>> to_original("mask_decoder.iou_prediction_head.proj_out.bias")
    'mask_decoder.iou_prediction_head.layers.2.bias'
    """
    return _translate(name, _TO_ORIGINAL)


def in_transformers_layout(names: Iterable[str]) -> bool:
    """Return True if names follow transformers' SamModel rather than the published files."""
    return any(name.startswith("vision_encoder.") for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A SAM network's sizes."""

    image: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp: int
    window: int
    """Side of the attention windows in patches; 0 when every block is global."""
    global_blocks: tuple[int, ...]
    prompt: int
    mask_channels: int
    masks: int
    """Masks per ambiguous prompt: 3."""
    decoder_depth: int
    decoder_mlp: int
    decoder_downsample: int
    iou_hidden: int
    adapters: tuple[int, ...] = ()
    """Encoder blocks with a SAM-Med2D adapter."""
    adapter_hidden: int = 0

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image // self.patch


ROOTS = ("image_encoder", "vision_encoder")
"""How names of either layout begin."""
DECODER_HEADS = 8
"""Attention heads of the mask decoder in every published SAM; no tensor shows it."""


def sizes_of(weights: "Mapping[str, torch.Tensor]", source: str) -> Sizes:
    """Return the sizes of the network whose weights these are, in either layout.

    Raises:
        InputError: if a tensor that shows a size is missing or two contradict one another; `source` names the file.
    """
    named = to_original if in_transformers_layout(weights) else str
    shapes = {named(name): tuple(tensor.shape) for name, tensor in weights.items()}
    try:
        return _read(shapes)
    except (KeyError, IndexError, ValueError, ArithmeticError) as error:
        what = (
            f"lacks {error.args[0]}" if isinstance(error, KeyError) else f"has tensors of unexpected shapes ({error})"
        )
        raise InputError(
            f"{source} is no SAM checkpoint: it {what}; it holds {holdings(weights)}",
            hint="the segmenters sam, medsam and sammed2d take the published files",
        ) from error


def _read(shapes: dict[str, tuple[int, ...]]) -> Sizes:
    _, grid, _, width = shapes["image_encoder.pos_embed"]
    patch = shapes["image_encoder.patch_embed.proj.weight"][2]
    depth = _count(shapes, r"image_encoder\.blocks\.(\d{1,4})\.norm1\.weight")
    if depth == 0:
        raise KeyError("image_encoder.blocks.0.norm1.weight")
    tables = [shapes[f"image_encoder.blocks.{block}.attn.rel_pos_h"] for block in range(depth)]
    sides = [(rows + 1) // 2 for rows, _ in tables]
    windows = {side for side in sides if side != grid}
    if len(windows) > 1:
        raise KeyError(f"one window size for all blocks (it has {sorted(windows)})")
    adapters = tuple(block for block in range(depth) if f"image_encoder.blocks.{block}.Adapter.norm.weight" in shapes)
    hidden = shapes[f"image_encoder.blocks.{adapters[0]}.Adapter.channel.0.weight"][0] if adapters else 0
    prompt = shapes["prompt_encoder.no_mask_embed.weight"][1]
    cross = shapes["mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight"][0]
    if width % tables[0][1] or not cross or cross % DECODER_HEADS or prompt % cross or grid * patch == 0:
        raise ValueError(f"width {width}, prompt {prompt}, cross attention {cross}, {grid} patches of {patch} px")
    return Sizes(
        image=grid * patch,
        patch=patch,
        width=width,
        depth=depth,
        heads=width // tables[0][1],
        mlp=shapes["image_encoder.blocks.0.mlp.lin1.weight"][0],
        window=windows.pop() if windows else 0,
        global_blocks=tuple(block for block, side in enumerate(sides) if side == grid),
        prompt=prompt,
        mask_channels=shapes["prompt_encoder.mask_downscaling.3.weight"][0],
        masks=shapes["mask_decoder.mask_tokens.weight"][0] - 1,
        decoder_depth=_count(shapes, r"mask_decoder\.transformer\.layers\.(\d{1,4})\.norm1\.weight"),
        decoder_mlp=shapes["mask_decoder.transformer.layers.0.mlp.lin1.weight"][0],
        decoder_downsample=prompt // cross,
        iou_hidden=shapes["mask_decoder.iou_prediction_head.layers.0.weight"][0],
        adapters=adapters,
        adapter_hidden=hidden,
    )


def _count(shapes: dict[str, tuple[int, ...]], pattern: str) -> int:
    numbers = {int(match[1]) for name in shapes if (match := re.fullmatch(pattern, name))}
    if numbers != set(range(len(numbers))):
        raise ValueError(f"{pattern} is there {len(numbers)} times, but not from 0 on")
    return len(numbers)
