"""The published SAM 2 layout: which tensors there are, what they are called, and what can be read from their shapes.

Everything works on the *original* names, those of ``sam2.1_hiera_*.pt`` and ``MedSAM2_latest.pt``; tensors of a
transformers folder are renamed to them first. Nothing here needs torch.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medground.errors import InputError, RecipeError
from medground.segmenters.weight_files import AGAIN
from medground.segmenters.weights import holdings

log = logging.getLogger(__name__)

ROOTS = ("image_encoder", "vision_encoder")
"""How names of either layout begin."""
MOST = 4096
"""Of any number in the configuration that is used: heads, windows, blocks."""
TRUNK = "image_encoder.trunk."
POINTS = "sam_prompt_encoder.point_embeddings."
TWINS = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")
"""transformers' two names of the table of positions; files hold it under one of them or under both."""
_VIDEO = (
    "memory_attention.",
    "memory_encoder.",
    "maskmem_",
    "mask_downsample.",
    "no_mem_pos_enc",
    "no_obj_",
    "obj_ptr_",
)
VIDEO_TRANSFORMERS = (
    "memory_",
    "mask_downsample.",
    "object_pointer_proj",
    "temporal_positional_encoding_projection_layer",
    "no_memory_positional_encoding",
    "no_object_pointer",
    "occlusion_spatial_embedding_parameter",
)
"""How names of tensors begin in a folder of transformers that are for video only."""

# transformers' name -> original name, applied in this order.
_RENAMES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Of videos only.
        (r"^memory_temporal_positional_encoding$", "maskmem_tpos_enc"),
        (r"^no_memory_positional_encoding$", "no_mem_pos_enc"),
        (r"^no_object_pointer$", "no_obj_ptr"),
        (r"^occlusion_spatial_embedding_parameter$", "no_obj_embed_spatial"),
        (r"^object_pointer_proj\.layers\.0\.", "obj_ptr_proj.layers.1."),
        (r"^object_pointer_proj\.proj_in\.", "obj_ptr_proj.layers.0."),
        (r"^object_pointer_proj\.proj_out\.", "obj_ptr_proj.layers.2."),
        (r"^temporal_positional_encoding_projection_layer\.", "obj_ptr_tpos_proj."),
        (r"^memory_attention\.layer_norm\.", "memory_attention.norm."),
        (r"^memory_encoder\.feature_projection\.", "memory_encoder.pix_feat_proj."),
        (r"^memory_encoder\.projection\.", "memory_encoder.out_proj."),
        (r"\.memory_fuser\.(layers\.\d+)\.depthwise_conv\.", r".fuser.\1.dwconv."),
        (r"\.memory_fuser\.(layers\.\d+)\.layer_norm\.", r".fuser.\1.norm."),
        (r"\.memory_fuser\.(layers\.\d+)\.pointwise_conv(\d)\.", r".fuser.\1.pwconv\2."),
        (r"\.memory_fuser\.(layers\.\d+)\.scale$", r".fuser.\1.gamma"),
        *((rf"\.mask_downsampler\.layers\.{n}\.conv\.", f".mask_downsampler.encoder.{3 * n}.") for n in range(4)),
        *(
            (rf"\.mask_downsampler\.layers\.{n}\.layer_norm\.", f".mask_downsampler.encoder.{3 * n + 1}.")
            for n in range(4)
        ),
        (r"\.mask_downsampler\.final_conv\.", ".mask_downsampler.encoder.12."),
        # Of single images too.
        (r"^no_memory_embedding$", "no_mem_embed"),
        (
            r"^(shared_image_embedding|prompt_encoder\.shared_embedding)\.positional_embedding$",
            "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        ),
        (r"^vision_encoder\.neck\.convs\.(\d+)\.", r"image_encoder.neck.convs.\1.conv."),
        (r"^vision_encoder\.backbone\.", TRUNK),
        (r"^prompt_encoder\.", "sam_prompt_encoder."),
        (r"^mask_decoder\.", "sam_mask_decoder."),
        (r"\.patch_embed\.projection\.", ".patch_embed.proj."),
        (r"\.layer_norm(\d|_final_attn)\.(weight|bias)$", r".norm\1.\2"),
        (r"\.mask_embed\.conv1\.", ".mask_downscaling.0."),
        (r"\.mask_embed\.norm1\.", ".mask_downscaling.1."),
        (r"\.mask_embed\.conv2\.", ".mask_downscaling.3."),
        (r"\.mask_embed\.norm2\.", ".mask_downscaling.4."),
        (r"\.mask_embed\.conv3\.", ".mask_downscaling.6."),
        (r"\.upscale_conv1\.", ".output_upscaling.0."),
        (r"\.upscale_layer_norm\.", ".output_upscaling.1."),
        (r"\.upscale_conv2\.", ".output_upscaling.3."),
        (r"\.o_proj\.", ".out_proj."),
        # Perceptrons: two layers in the transformer blocks, three in the heads of the mask decoder.
        (r"\.mlp\.proj_in\.", ".mlp.layers.0."),
        (r"\.mlp\.proj_out\.", ".mlp.layers.1."),
        (r"(output_hypernetworks_mlps\.\d+|_head)\.layers\.0\.", r"\1.layers.1."),
        (r"(output_hypernetworks_mlps\.\d+|_head)\.proj_in\.", r"\1.layers.0."),
        (r"(output_hypernetworks_mlps\.\d+|_head)\.proj_out\.", r"\1.layers.2."),
    )
]


def original_name(name: str) -> str:
    """Return the name in the published files of the tensor that transformers' Sam2VideoModel or Sam2Model calls `name`.

    The one tensor without a single original is ``prompt_encoder.point_embed.weight``: its rows are four tensors
    ``sam_prompt_encoder.point_embeddings.N.weight``.

    >>> original_name("vision_encoder.backbone.blocks.3.mlp.proj_out.bias")
    'image_encoder.trunk.blocks.3.mlp.layers.1.bias'
    >>> original_name("mask_decoder.transformer.layers.0.self_attn.o_proj.weight")
    'sam_mask_decoder.transformer.layers.0.self_attn.out_proj.weight'
    >>> original_name("memory_encoder.projection.bias")
    'memory_encoder.out_proj.bias'
    """
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name


def is_transformers(names: Iterable[str]) -> bool:
    """Return True if these are the names of a transformers model rather than of an original file."""
    return any(name.startswith("vision_encoder.") for name in names)


def without_video(names: Iterable[str]) -> list[str]:
    """Return the names that matter for single images; memory, object pointers and their embeddings are for video only."""
    names = list(names)
    video = VIDEO_TRANSFORMERS if is_transformers(names) else _VIDEO
    return [name for name in names if not name.startswith(video)]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The sizes of one SAM 2 image model."""

    stages: tuple[int, ...]
    """Blocks per stage of the Hiera encoder."""
    widths: tuple[int, ...]
    """Channels per stage."""
    heads: tuple[int, ...]
    """Attention heads per stage."""
    windows: tuple[int, ...]
    """Attention window per stage, in tokens."""
    global_blocks: tuple[int, ...]
    """Blocks that attend to the whole image."""
    background: tuple[int, int]
    """Size of the coarse position table, (H, W)."""
    hidden: int
    """Channels of the neck, the prompts and the decoder."""
    mask_channels: int
    decoder_layers: int
    decoder_mlp: int
    decoder_heads: int
    decoder_downsample: int
    masks: int
    """Masks the decoder offers for an ambiguous prompt."""
    iou_hidden: int

    @property
    def levels(self) -> int:
        """Stages; each but the first halves the resolution."""
        return len(self.stages)


# What tensors cannot say, by (width of the first stage, blocks per stage): heads of the first stage, windows, globals.
_PUBLISHED: dict[tuple[int, tuple[int, ...]], tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    (96, (1, 2, 7, 2)): (1, (8, 4, 14, 7), (5, 7, 9)),  # tiny, MedSAM2
    (96, (1, 2, 11, 2)): (1, (8, 4, 14, 7), (7, 10, 13)),  # small
    (112, (2, 3, 16, 3)): (2, (8, 4, 14, 7), (12, 16, 20)),  # base plus
    (144, (2, 6, 36, 4)): (2, (8, 4, 16, 8), (23, 33, 43)),  # large
}


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """What the shapes of the tensors do not show; None where it is not known."""

    heads: Sequence[int] | None = None
    """Attention heads per stage, or of the first stage alone; they double with every stage then."""
    windows: Sequence[int] | None = None
    global_blocks: Sequence[int] | None = None
    decoder_heads: int | None = None

    @classmethod
    def of_config(cls, config: Any, path: Path) -> "Unseen":
        """Take it from the ``config.json`` of a transformers folder.

        Raises:
            InputError: if that is no configuration of a SAM 2 model.
        """
        try:
            trunk = config.get("vision_config", {}).get("backbone_config", {})
            unseen = cls(
                heads=trunk.get("num_attention_heads_per_stage"),
                windows=trunk.get("window_size_per_stage"),
                global_blocks=trunk.get("global_attention_blocks"),
                decoder_heads=config.get("mask_decoder_config", {}).get("num_attention_heads"),
            )
            blocks = [block + 1 for block in unseen.global_blocks or ()]
            numbers = [*(unseen.heads or ()), *(unseen.windows or ()), *blocks, unseen.decoder_heads or 1]
        except (AttributeError, TypeError) as error:
            raise InputError(f"{path} is not the configuration of a model: {error}", hint=AGAIN) from error
        if len(numbers) > MOST or not all(type(number) is int and 1 <= number <= MOST for number in numbers):
            raise InputError(f"{path} is not the configuration of a SAM 2 model: {str(numbers)[:80]}", hint=AGAIN)
        return unseen

    def over(self, other: "Unseen") -> "Unseen":
        """Return this, completed by `other`."""
        return Unseen(
            **{name: mine if (mine := getattr(self, name)) is not None else getattr(other, name) for name in _UNSEEN}
        )


_UNSEEN = tuple(Unseen.__dataclass_fields__)


def architecture(shapes: Mapping[str, Sequence[int]], unseen: Unseen, source: str) -> Architecture:
    """Read the sizes from the shapes of a checkpoint with original names.

    The shapes do not show heads, windows and global blocks. Where `unseen` does not give them they are those of
    the published model with the same width and depth; for any other model SAM 2's usual windows, one head, and one
    global block at the end of the third stage are assumed, and a warning is logged.

    Raises:
        InputError: if these are not the tensors of a SAM 2 model.
    """
    try:
        return _read(shapes, unseen, source)
    except (KeyError, IndexError, ValueError, ArithmeticError) as error:
        hint = "give a published file or folder of SAM 2"
        if "image_encoder.patch_embed.proj.weight" in shapes:
            hint = "this is a checkpoint of the first SAM: use the segmenter sam, medsam or sammed2d"
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else f"unexpected shapes ({error})"
        raise InputError(
            f"the weights in {source} are not a SAM 2 model: {what}; the file holds {holdings(shapes)}", hint=hint
        ) from None


def _read(shapes: Mapping[str, Sequence[int]], unseen: Unseen, source: str) -> Architecture:
    blocks = {name.split(".")[3] for name in shapes if name.startswith(f"{TRUNK}blocks.")}
    depth = max(1, len(blocks))
    if missing := {str(block) for block in range(depth)} - blocks:
        raise KeyError(f"{TRUNK}blocks.{min(missing)}.attn.proj.weight")
    starts = [i for i in range(depth) if i == 0 or f"{TRUNK}blocks.{i}.proj.weight" in shapes]
    stages = tuple(end - start for start, end in zip(starts, [*starts[1:], depth], strict=True))
    widths = tuple(shapes[f"{TRUNK}blocks.{start}.attn.proj.weight"][0] for start in starts)
    window = shapes[f"{TRUNK}pos_embed_window"][-1]
    background = shapes[f"{TRUNK}pos_embed"]
    hidden = shapes["image_encoder.neck.convs.0.conv.weight"][0]
    decoder = "sam_mask_decoder."
    layers = {name.split(".")[3] for name in shapes if name.startswith(f"{decoder}transformer.layers.")}
    if not (window and min(widths) and shapes[f"{decoder}mask_tokens.weight"][0]):
        raise ValueError(f"window {window}, widths {list(widths)}")
    heads, windows, global_blocks = _usual(stages, widths, window, unseen, source)
    cross = shapes[f"{decoder}transformer.final_attn_token_to_image.q_proj.weight"][0]
    decoder_heads = unseen.decoder_heads or 8
    if not cross or hidden % cross or cross % decoder_heads or hidden % decoder_heads:
        raise ValueError(f"{hidden} channels, {cross} of cross attention, {decoder_heads} heads in the decoder")
    return Architecture(
        stages=stages,
        widths=widths,
        heads=heads,
        windows=windows,
        global_blocks=global_blocks,
        background=(background[-2], background[-1]),
        hidden=hidden,
        mask_channels=shapes["sam_prompt_encoder.mask_downscaling.3.weight"][0],
        decoder_layers=len(layers),
        decoder_mlp=shapes[f"{decoder}transformer.layers.0.mlp.layers.0.weight"][0],
        decoder_heads=decoder_heads,
        decoder_downsample=hidden // cross,
        masks=shapes[f"{decoder}mask_tokens.weight"][0] - 1,
        iou_hidden=shapes[f"{decoder}iou_prediction_head.layers.0.weight"][0],
    )


def _usual(
    stages: tuple[int, ...], widths: tuple[int, ...], window: int, unseen: Unseen, source: str
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return heads, windows and global blocks: as given, else as published, else assumed, with a warning."""
    published = _PUBLISHED.get((widths[0], stages))
    first, windows, global_blocks = published or (1, (window, 4, 14, 7), _last_of_third(stages))
    if published is None and None in (unseen.heads, unseen.windows, unseen.global_blocks):
        log.warning(
            "%s is none of the published SAM 2 sizes; assumed, where not given: heads %d, windows %s, global_blocks %s",
            source,
            first,
            list(windows),
            list(global_blocks),
        )
    heads = tuple(unseen.heads or (first,))
    if len(heads) == 1:
        heads = tuple(heads[0] * 2**stage for stage in range(len(stages)))
    windows = tuple(unseen.windows or windows)
    global_blocks = tuple(global_blocks if unseen.global_blocks is None else unseen.global_blocks)
    if len(heads) != len(stages) or len(windows) != len(stages):
        raise RecipeError(
            f"heads {list(heads)} and windows {list(windows)} need one number per stage, and {source} has {len(stages)}"
        )
    if windows[0] != window:
        raise RecipeError(f"windows starts with {windows[0]}, but the position table in {source} is {window} wide")
    if any(width % head for width, head in zip(widths, heads, strict=True)):
        raise RecipeError(f"heads {list(heads)} do not divide the widths {list(widths)} in {source}")
    return heads, windows, global_blocks


def _last_of_third(stages: tuple[int, ...]) -> tuple[int, ...]:
    # Never the first block of a stage: that one pools, and cannot attend globally.
    return (sum(stages[:3]) - 1,) if len(stages) >= 3 and stages[2] > 1 else ()
