"""SAM-HQ: SAM with a token for fine outlines."""

from dataclasses import replace
from typing import ClassVar

from medground.arguments import Count, NotNegative
from medground.devices import Device, Dtype
from medground.licences import Published, stated
from medground.segmenters.folders import Layout, load_folder
from medground_sam.contract import contract
from medground_sam.segmenters import CodecSegmenter


class SamHQ(CodecSegmenter):
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
        super().__init__(locals(), preprocessing=repr(row))
        path = self.locate(checkpoint, device=device, dtype=dtype, needs=("transformers",))

        from medground_sam import codec, networks

        network = networks.HQNetwork(load_folder(path, self.layout))
        networks.freeze(network, device=self.device, dtype=dtype, compile=compile)
        self.codec = codec.Codec(network, row)
