"""The components: what a recipe names and which arguments it may give. torch is imported by their constructors."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from medground.arguments import Count, NotNegative
from medground.devices import Device, Dtype
from medground.errors import RecipeError, did_you_mean
from medground.licences import Published, stated
from medground.segmenters.embedding import EmbeddingSegmenter
from medground.segmenters.weights import read_weights
from medground.types import Image, PromptKind, SpatialPrompt
from medground_sam.contract import contract

if TYPE_CHECKING:
    import torch

    from medground_sam.codec import Codec

Backend = Literal["transformers", "official"]
Protocol = Literal["native", "medreasoner"]
BACKENDS = ("transformers", "official")


class CodecSegmenter(EmbeddingSegmenter):
    """A segmenter behind a `medground_sam.codec.Codec`, which its constructor sets."""

    codec: "Codec"

    def encode(self, images: Sequence[Image]) -> "list[torch.Tensor]":
        """As `EmbeddingSegmenter.encode`."""
        return self.codec.encode(images)

    def decode(
        self, images: Sequence[Image], embeddings: "Sequence[torch.Tensor]", items: Sequence[tuple[int, SpatialPrompt]]
    ) -> Iterator[tuple[NDArray[np.float32], float]]:
        """As `EmbeddingSegmenter.decode`: logits, threshold 0; probabilities, threshold 0.5, for MedSAM natively."""
        return self.codec.decode([(image.shape[0], image.shape[1]) for image in images], embeddings, items)


class Sam(CodecSegmenter):
    """SAM, ViT-B, L or H (Kirillov et al. 2023, arXiv:2304.02643), as its predictor runs it.

    Args:
        checkpoint: ``sam_vit_*.pth``, a folder with ``model.safetensors``, or a hub id in the local cache; None for the
            hub id the authors published.
        backend: ``transformers``, or ``official`` for the segment-anything package (extra ``[sam-official]``).
        protocol: ``native`` as the authors run it, ``medreasoner`` as the released evaluation does (here the same).
        device: ``auto`` (CUDA where torch can use it, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ...
        dtype: of the image encoder; prompts and masks are computed in float32.
        compile: True compiles the image encoder on first use.
        cache_mib: bound of the image embeddings kept, in MiB on the device (a ViT at 1024 px takes 4 per image).
        encode_batch: images per encoder call.
        decode_batch: prompts per decoder call, halved for a call that runs out of memory.
    """

    model: ClassVar[str] = "sam"
    published: ClassVar[tuple[Published, ...]] = (
        Published("facebook/sam-vit-base", stated("Apache-2.0")),
        Published("facebook/sam-vit-large", stated("Apache-2.0")),
        Published("facebook/sam-vit-huge", stated("Apache-2.0")),
    )

    def __init__(
        self,
        *,
        checkpoint: str | None = None,
        backend: Backend = "transformers",
        protocol: Protocol = "native",
        device: Device = "auto",
        dtype: Dtype = "float32",
        compile: bool = False,
        cache_mib: NotNegative = 512,
        encode_batch: Count = 1,
        decode_batch: Count = 32,
    ) -> None:
        row = contract(self.model, protocol)
        super().__init__(locals(), preprocessing=repr(row))
        self.threshold = row.threshold
        if backend not in BACKENDS:
            raise RecipeError(f"{self.model} has no backend {backend!r}", hint=did_you_mean(backend, BACKENDS))
        path = self.locate(checkpoint, device=device, dtype=dtype, needs=("transformers",))

        from medground_sam import codec, layout, networks

        weights = read_weights(path, layout.ROOTS)
        network = networks.build(
            layout.sizes_of(weights, path.name),
            weights,
            path.name,
            backend=backend,
            device=self.device,
            dtype=dtype,
            compile=compile,
        )
        self.codec = codec.Codec(network, row)


class MedSam(Sam):
    """MedSAM (Ma et al. 2024, Nature Communications 15:654): one box, per-image min-max, one mask.

    Arguments are those of `Sam`; ``medsam_vit_b.pth`` loads as published. ``protocol: medreasoner`` runs it as the
    released evaluation does: SAM's own preprocessing, the best of three masks; that evaluation feeds it points as well,
    which it was not trained for.
    """

    accepts: ClassVar[frozenset[PromptKind]] = frozenset({"box"})
    model: ClassVar[str] = "medsam"
    published: ClassVar[tuple[Published, ...]] = (Published("wanglab/medsam-vit-base", stated("Apache-2.0")),)


class SamMed2D(Sam):
    """SAM-Med2D (Cheng et al. 2023, arXiv:2308.16184): 256 px, nearest resize, BGR, adapters, best of three masks.

    Arguments are those of `Sam`; ``sam-med2d_b.pth`` loads as published, with or without adapters and its wrapper.
    ``protocol: medreasoner`` feeds RGB, as the released evaluation does.
    """

    model: ClassVar[str] = "sammed2d"
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            "schengal1/SAM-Med2D_model/sam-med2d_b.pth",
            stated(
                None,
                "a third party's copy of the authors' file; their code is Apache-2.0, no licence is stated for the weights",
            ),
        ),
    )


class ToySam(Sam):
    """A small SAM that comes with the package, trained on drawn phantoms only: for demonstrations and tests.

    Arguments are those of `Sam`. It follows boxes and points; it has never seen a medical image.
    """

    published: ClassVar[tuple[Published, ...]] = (
        Published(str(Path(__file__).with_name("toy_sam.safetensors")), stated("Apache-2.0")),
    )

    def __init__(
        self,
        *,
        backend: Backend = "transformers",
        device: Device = "auto",
        dtype: Dtype = "float32",
        compile: bool = False,
        cache_mib: NotNegative = 64,
        encode_batch: Count = 8,
        decode_batch: Count = 32,
    ) -> None:
        super().__init__(
            checkpoint=self.published[0].id,
            backend=backend,
            device=device,
            dtype=dtype,
            compile=compile,
            cache_mib=cache_mib,
            encode_batch=encode_batch,
            decode_batch=decode_batch,
        )
