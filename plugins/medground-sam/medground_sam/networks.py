"""The same network on two libraries, behind one pair of calls: encode images, decode prompts.

`Network.encode` takes pixels ``[B, 3, S, S]`` to embeddings ``[B, C, h, w]``. `Network.decode` takes embeddings of M
images, the image index of each of P prompts, and the prompts, all of one kind, in input pixels: points ``[P, K, 2]``
with labels ``[P, K]``, boxes ``[P, 4]``, or both; it gives low-resolution logits ``[P, C, 4h, 4w]`` and predicted IoU
``[P, C]``, three masks or one. The image encoder runs in the chosen dtype; prompts and masks always in float32, where
coordinates would lose their decimals otherwise.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn

from medground.devices import dtype_of
from medground.errors import PluginError
from medground.segmenters.weight_files import refusing
from medground.segmenters.weights import check_keys, frozen
from medground_sam.adapters import attach
from medground_sam.contract import MEAN, STD
from medground_sam.layout import DECODER_HEADS, TIED, Sizes, in_transformers_layout, to_original, to_transformers

Prompts = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]
"""Points ``[P, K, 2]``, their labels ``[P, K]``, boxes ``[P, 4]``; None where the kind lacks them."""


class Network(Protocol):
    """A SAM on some library."""

    encoder: nn.Module
    module: nn.Module
    side: int
    """Of its square input, in pixels."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return embeddings ``[B, C, h, w]`` of ``[B, 3, S, S]``."""
        ...

    def decode(
        self, embeddings: torch.Tensor, image_of: torch.Tensor, prompts: Prompts, multimask: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and predicted IoU of prompts of one kind."""
        ...


class TransformersNetwork:
    """SAM as transformers' SamModel."""

    def __init__(self, sizes: Sizes) -> None:
        self.side = sizes.image
        self.module = sam_model(sizes)
        self.encoder = self.module.vision_encoder

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """As `Network.encode`."""
        return self.encoder(pixels).last_hidden_state

    def decode(
        self, embeddings: torch.Tensor, image_of: torch.Tensor, prompts: Prompts, multimask: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Network.decode`, in one call whatever the number of images: each prompt brings its image's embedding."""
        logits, iou = self.module.mask_decoder(
            image_embeddings=embeddings[image_of].float(),
            multimask_output=multimask,
            **embed_prompts(self.module, prompts, len(image_of)),
        )
        return logits[:, 0], iou[:, 0]

    def load(self, weights: Mapping[str, torch.Tensor], source: str) -> None:
        """Copy weights of either layout, strictly."""
        names = {name: to_original(name) for name in self.module.state_dict() if name != TIED}
        _load(self.module, names, weights, source)
        self.module.tie_weights()


class HQNetwork:
    """SAM-HQ as transformers' SamHQModel; features of the first global block of its encoder follow those of the last."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.encoder = module.vision_encoder
        self.side = module.config.vision_config.image_size
        self._channels = module.config.vision_config.output_channels

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """As `Network.encode`: the last features ``[B, C, h, w]``, then the early ones ``[B, W, h, w]``, as one tensor."""
        output = self.encoder(pixels)
        return torch.cat([output.last_hidden_state, output.intermediate_embeddings[0].permute(0, 3, 1, 2)], dim=1)

    def decode(
        self, embeddings: torch.Tensor, image_of: torch.Tensor, prompts: Prompts, multimask: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `TransformersNetwork.decode`; SAM's mask and the one of the high-quality token are added."""
        own = embeddings[image_of].float()
        logits, iou = self.module.mask_decoder(
            image_embeddings=own[:, : self._channels],
            intermediate_embeddings=[own[:, self._channels :].permute(0, 2, 3, 1)],
            multimask_output=multimask,
            hq_token_only=False,
            **embed_prompts(self.module, prompts, len(image_of)),
        )
        return logits[:, 0], iou[:, 0]


def embed_prompts(module: Any, prompts: Prompts, count: int) -> dict[str, torch.Tensor]:
    """Return what the mask decoders of transformers take for `count` prompts, each a batch of its own."""
    points, labels, boxes = prompts
    sparse, dense = module.prompt_encoder(
        input_points=None if points is None else points[:, None],
        input_labels=None if labels is None else labels[:, None],
        input_boxes=None if boxes is None else boxes[:, None],
        input_masks=None,
    )
    grid = module.get_image_wide_positional_embeddings()
    return {
        "image_positional_embeddings": grid.expand(count, -1, -1, -1),
        "sparse_prompt_embeddings": sparse,
        "dense_prompt_embeddings": dense,
    }


class OfficialNetwork:
    """SAM as the segment-anything package's own modules."""

    def __init__(self, sizes: Sizes) -> None:
        self.side = sizes.image
        self.module = official_model(sizes)
        self.encoder = self.module.image_encoder

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """As `Network.encode`."""
        return self.encoder(pixels)

    def decode(
        self, embeddings: torch.Tensor, image_of: torch.Tensor, prompts: Prompts, multimask: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Network.decode`, one call per image: the package's decoder takes one embedding at a time."""
        outputs: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for image in image_of.unique().tolist():
            rows = image_of == image
            points, labels, boxes = (None if array is None else array[rows] for array in prompts)
            sparse, dense = self.module.prompt_encoder(
                points=None if points is None else (points, labels), boxes=boxes, masks=None
            )
            logits, iou = self.module.mask_decoder(
                image_embeddings=embeddings[image][None].float(),
                image_pe=self.module.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=multimask,
            )
            outputs.update(zip(rows.nonzero()[:, 0].tolist(), zip(logits, iou, strict=True), strict=True))
        ordered = [outputs[prompt] for prompt in range(len(image_of))]
        return torch.stack([logits for logits, _ in ordered]), torch.stack([iou for _, iou in ordered])

    def load(self, weights: Mapping[str, torch.Tensor], source: str) -> None:
        """Copy weights of either layout, strictly."""
        _load(self.module, {name: name for name in self.module.state_dict()}, weights, source)
        # Buffers of a preprocessing that is not used here, and that no file holds.
        self.module.pixel_mean, self.module.pixel_std = torch.from_numpy(MEAN), torch.from_numpy(STD)


def _load(module: nn.Module, original: Mapping[str, str], weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Fill `module` from weights of either layout; `original` maps its parameter names to the published ones."""
    theirs = to_transformers if in_transformers_layout(weights) else str
    shapes = module.state_dict()
    given = {name: tensor for name, tensor in weights.items() if name != TIED}
    check_keys({theirs(known): shapes[name].shape for name, known in original.items()}, given, source)
    # Copies: a tensor mapped from a file lies where the file has it, and sums of floats depend on the alignment.
    state = {name: given[theirs(known)].clone() for name, known in original.items()}
    module.load_state_dict(state, strict=False, assign=True)


def build(
    sizes: Sizes,
    weights: Mapping[str, torch.Tensor],
    source: str,
    *,
    backend: str,
    device: str,
    dtype: str,
    compile: bool,
) -> Network:
    """Return a frozen network of the given sizes with the given weights; `source` names their file in errors.

    Raises:
        InputError: if the weights do not fit.
        PluginError: if the backend's package is missing.
    """
    with refusing(f"the weights in {source} make no SAM"):
        with torch.device("meta"):  # no memory and no random numbers for weights that are about to be replaced
            network = TransformersNetwork(sizes) if backend == "transformers" else OfficialNetwork(sizes)
        network.load(weights, source)
    freeze(network, device=device, dtype=dtype, compile=compile)
    return network


def freeze(network: Network, *, device: str, dtype: str, compile: bool) -> None:
    """Put a network on a device, its image encoder in a dtype and compiled on first use if asked, and freeze it."""
    frozen(network.module, device=device, dtype="float32")
    network.encoder.to(dtype_of(dtype))
    if compile:
        network.encoder = torch.compile(network.encoder)


def sam_model(sizes: Sizes) -> nn.Module:
    """Return transformers' SamModel of the given sizes, with fresh weights.

    The image encoder of a fresh one has an initial scale of 1e-10: load weights before use.
    """
    from transformers import SamConfig, SamModel

    config = SamConfig(
        vision_config={
            "hidden_size": sizes.width,
            "output_channels": sizes.prompt,
            "num_hidden_layers": sizes.depth,
            "num_attention_heads": sizes.heads,
            "image_size": sizes.image,
            "patch_size": sizes.patch,
            "mlp_dim": sizes.mlp,
            "window_size": sizes.window,
            "global_attn_indexes": list(sizes.global_blocks),
            "num_pos_feats": sizes.prompt // 2,
        },
        prompt_encoder_config={
            "hidden_size": sizes.prompt,
            "image_size": sizes.image,
            "patch_size": sizes.patch,
            "mask_input_channels": sizes.mask_channels,
        },
        mask_decoder_config={
            "hidden_size": sizes.prompt,
            "mlp_dim": sizes.decoder_mlp,
            "num_hidden_layers": sizes.decoder_depth,
            "num_attention_heads": DECODER_HEADS,
            "attention_downsample_rate": sizes.decoder_downsample,
            "num_multimask_outputs": sizes.masks,
            "iou_head_hidden_dim": sizes.iou_hidden,
            # The original decoder's norms keep PyTorch's default; transformers' own default is 1e-6.
            "layer_norm_eps": 1e-5,
        },
    )
    model = SamModel(config)
    for block in sizes.adapters:
        attach(model.vision_encoder.layers[block], sizes.width, sizes.adapter_hidden)
    return model


def official_model(sizes: Sizes) -> nn.Module:
    """Return segment-anything's Sam of the given sizes, with fresh weights.

    Raises:
        PluginError: if the package is not installed.
    """
    try:
        from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
    except ImportError as error:
        raise PluginError(
            f"backend: official needs the segment-anything package ({error})",
            hint="pip install 'medground[sam-official]', or use backend: transformers",
        ) from error
    model = Sam(
        image_encoder=ImageEncoderViT(
            img_size=sizes.image,
            patch_size=sizes.patch,
            embed_dim=sizes.width,
            depth=sizes.depth,
            num_heads=sizes.heads,
            mlp_ratio=sizes.mlp / sizes.width,
            out_chans=sizes.prompt,
            norm_layer=_Norm,
            use_rel_pos=True,
            window_size=sizes.window,
            global_attn_indexes=sizes.global_blocks,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=sizes.prompt,
            image_embedding_size=(sizes.grid, sizes.grid),
            input_image_size=(sizes.image, sizes.image),
            mask_in_chans=sizes.mask_channels,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=sizes.prompt,
            transformer=TwoWayTransformer(
                depth=sizes.decoder_depth,
                embedding_dim=sizes.prompt,
                num_heads=DECODER_HEADS,
                mlp_dim=sizes.decoder_mlp,
                attention_downsample_rate=sizes.decoder_downsample,
            ),
            num_multimask_outputs=sizes.masks,
            iou_head_depth=3,
            iou_head_hidden_dim=sizes.iou_hidden,
        ),
    )
    for block in sizes.adapters:
        attach(model.image_encoder.blocks[block], sizes.width, sizes.adapter_hidden)
    return model


class _Norm(nn.LayerNorm):
    """The encoder's layer norm, as the package's own builder makes it."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)
