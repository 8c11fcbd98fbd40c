"""SAM-HQ: SAM with a token for fine outlines."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from medground.arguments import Count, NotNegative
from medground.devices import Device, Dtype, check_dtype, device_of, require_modules
from medground.licences import Published, stated
from medground.segmenters.embedding import EmbeddingSegmenter
from medground.segmenters.folders import Layout, load_folder
from medground.segmenters.weights import check_whole, find_weights
from medground.types import Image, SpatialPrompt
from medground_sam.contract import contract

if TYPE_CHECKING:
    import torch


class SamHQ(EmbeddingSegmenter):
    """SAM-HQ, ViT-B, L or H (Ke et al. 2023, arXiv:2306.01567), images and prompts as in SAM.

    Its mask is the sum of SAM's and of the high-quality token's, one mask per prompt unless `multimask` is True.

    Args:
        checkpoint: a folder of transformers with ``config.json`` and ``model.safetensors``, or a hub id in the local cache;
            None for the first of `published`. The authors' ``sam_hq_vit_*.pth`` are not read.
        multimask: True takes the best of SAM's three masks before the high-quality mask is added, False SAM's single one.
        device: ``auto`` (CUDA where torch can use it, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ...
        dtype: of the image encoder; prompts and masks are computed in float32.
        compile: True compiles the image encoder on first use.
        cache_mib: bound of the image embeddings kept, in MiB on the device (a ViT-B at 1024 px takes 16 per image).
        encode_batch: images per encoder call.
        decode_batch: prompts per decoder call, halved for a call that runs out of memory.
    """

    model: ClassVar[str] = "sam_hq"
    published: ClassVar[tuple[Published, ...]] = (
        Published("syscv-community/sam-hq-vit-base", stated("Apache-2.0", "a copy of lkeab/hq-sam; untried here")),
        Published("syscv-community/sam-hq-vit-large", stated("Apache-2.0", "a copy of lkeab/hq-sam; untried here")),
        Published("syscv-community/sam-hq-vit-huge", stated("Apache-2.0", "a copy of lkeab/hq-sam; untried here")),
    )
    layout: ClassVar[Layout] = Layout(
        model="SamHQModel",
        types=("sam_hq",),
        twins=("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding"),
    )

    def __init__(
        self,
        *,
        checkpoint: str | None = None,
        multimask: bool = False,
        device: Device = "auto",
        dtype: Dtype = "float32",
        compile: bool = False,
        cache_mib: NotNegative = 1024,
        encode_batch: Count = 1,
        decode_batch: Count = 32,
    ) -> None:
        row = replace(contract(self.model, "native"), multimask=multimask)
        super().__init__(
            locals(),
            preprocessing=repr(row),
            cache_mib=cache_mib,
            encode_batch=encode_batch,
            decode_batch=decode_batch,
        )
        require_modules("torch", "transformers", "safetensors")
        path = find_weights(checkpoint or self.published[0].id)
        check_whole(path)
        check_dtype(dtype)
        target = device_of(device)

        from medground_sam import codec, networks

        network = networks.HQNetwork(load_folder(path, self.layout))
        networks.freeze(network, device=target, dtype=dtype, compile=compile)
        self.codec = codec.Codec(network, row)

    def encode(self, images: Sequence[Image]) -> "list[torch.Tensor]":
        """As `EncodingSegmenter.encode`."""
        return self.codec.encode(images)

    def decode(
        self, images: Sequence[Image], embeddings: "Sequence[torch.Tensor]", items: Sequence[tuple[int, SpatialPrompt]]
    ) -> Iterator[tuple[NDArray[np.float32], float]]:
        """As `EncodingSegmenter.decode`: logits."""
        return self.codec.decode([(image.shape[0], image.shape[1]) for image in images], embeddings, items)
