"""The components: what a recipe names and which arguments it may give. torch is imported by their constructors."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from medground.arguments import Count, NotNegative
from medground.devices import Device, Dtype, check_dtype, device_of, require_modules
from medground.errors import RecipeError, did_you_mean
from medground.segmenters.batching import CacheStats
from medground.segmenters.weights import check_whole, find_weights, read_weights
from medground.types import Image, Mask, PromptKind, SpatialPrompt
from medground_sam.contract import contract

Backend = Literal["transformers", "official"]
Protocol = Literal["native", "medreasoner"]
BACKENDS = ("transformers", "official")


class Sam:
    """SAM, ViT-B, L or H (Kirillov et al. 2023, arXiv:2304.02643), as its predictor runs it.

    Args:
        checkpoint: ``sam_vit_*.pth``, a folder with ``model.safetensors``, or a hub id in the local cache; None for the
            hub id the authors published.
        backend: ``transformers``, or ``official`` for the segment-anything package (extra ``[sam-official]``).
        protocol: ``native`` as the authors run it, ``medreasoner`` as the released evaluation does (here the same).
        device: ``auto`` (CUDA where torch can use it, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ...
        dtype: of the image encoder; prompts and masks are computed in float32.
        compile: whether torch compiles the image encoder on first use.
        cache_mib: bound of the image embeddings kept, in MiB on the device (a ViT at 1024 px takes 4 per image).
        encode_batch: images per encoder call.
        decode_batch: prompts per decoder call, halved for a call that runs out of memory.
    """

    accepts: ClassVar[frozenset[PromptKind]] = frozenset({"box", "points", "negative_points"})
    model: ClassVar[str] = "sam"
    published: ClassVar[str] = "facebook/sam-vit-base"

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
        self._arguments = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        if backend not in BACKENDS:
            raise RecipeError(f"{self.model} has no backend {backend!r}", hint=did_you_mean(backend, BACKENDS))
        row = contract(self.model, protocol)
        require_modules("torch", "transformers", "safetensors")
        path = find_weights(checkpoint or self.published)
        check_whole(path)
        check_dtype(dtype)
        there = device_of(device)

        from medground_sam import engine, layout, networks

        weights = read_weights(path)
        network = networks.build(
            layout.sizes_of(weights, path.name),
            weights,
            path.name,
            backend=backend,
            device=there,
            dtype=dtype,
            compile=compile,
        )
        self._engine = engine.Engine(
            network,
            row,
            cache_bytes=int(cache_mib * 2**20),
            encode_batch=encode_batch,
            decode_batch=decode_batch,
        )

    @property
    def stats(self) -> CacheStats:
        """Hits and misses of the embedding cache: misses are images encoded."""
        return self._engine.cache.stats

    def segment(self, image: Image, prompts: Sequence[SpatialPrompt]) -> list[Mask]:
        """As `medground.protocols.Segmenter.segment`."""
        return self.segment_batch([image], [prompts])[0]

    def segment_batch(self, images: Sequence[Image], prompts: Sequence[Sequence[SpatialPrompt]]) -> list[list[Mask]]:
        """As `medground.protocols.BatchSegmenter.segment_batch`."""
        threshold = self._engine.contract.threshold
        return self._engine.run(images, prompts, lambda values, score: Mask(data=values > threshold, score=score))

    def logits(self, image: Image, prompts: Sequence[SpatialPrompt]) -> list[tuple[NDArray[np.float32], float]]:
        """What `segment` thresholds, H x W float32 at the image's size, and the score, per prompt.

        Logits, threshold 0; probabilities, threshold 0.5, for MedSAM in its native protocol.
        """
        return self._engine.run([image], [prompts], lambda values, score: (values, score))[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self._arguments.items())})"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self._arguments)


def _rebuild(component: type[Sam], arguments: dict[str, object]) -> Sam:
    return component(**arguments)


class MedSam(Sam):
    """MedSAM (Ma et al. 2024, Nature Communications 15:654): one box, per-image min-max, one mask.

    Arguments are those of `Sam`; ``medsam_vit_b.pth`` loads as published. ``protocol: medreasoner`` runs it as the
    released evaluation does: SAM's own preprocessing, the best of three masks; that evaluation feeds it points as well,
    which it was not trained for.
    """

    accepts: ClassVar[frozenset[PromptKind]] = frozenset({"box"})
    model: ClassVar[str] = "medsam"
    published: ClassVar[str] = "wanglab/medsam-vit-base"


class SamMed2D(Sam):
    """SAM-Med2D (Cheng et al. 2023, arXiv:2308.16184): 256 px, nearest resize, BGR, adapters, best of three masks.

    Arguments are those of `Sam`; ``sam-med2d_b.pth`` loads as published, with or without adapters and its wrapper.
    ``protocol: medreasoner`` feeds RGB, as the released evaluation does.
    """

    model: ClassVar[str] = "sammed2d"
    published: ClassVar[str] = "schengal1/SAM-Med2D_model/sam-med2d_b.pth"


class ToySam(Sam):
    """A small SAM that comes with the package, trained on drawn phantoms only: for demonstrations and tests.

    Arguments are those of `Sam`. It follows boxes and points; it has never seen a medical image.
    """

    published: ClassVar[str] = str(Path(__file__).with_name("toy_sam.safetensors"))

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
        arguments = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        super().__init__(checkpoint=self.published, **arguments)
        self._arguments = arguments
