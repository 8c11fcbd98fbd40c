"""SAM 2.1 and MedSAM2 as segmenters: how their authors prepare images, prompts and masks.

Image: divided by 255, stretched to a square by an antialiased bilinear filter on floats, normalised by ImageNet's mean
and standard deviation, RGB. Prompts: divided by width and height, times the input size; the corners of a box are two
points labelled 2 and 3 before the clicks. Masks: logits are upsampled bilinearly to the image and cut at 0.
(Ravi et al., arXiv:2408.00714; Ma et al., arXiv:2504.03600.)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medground.errors import PluginError, RecipeError, SegmenterError, nearest
from medground.geometry import Size
from medground.segmenting import EmbeddingCache, by_kind, image_key, in_chunks
from medground.types import Image, Mask, PromptKind, SpatialPrompt

if TYPE_CHECKING:
    import torch

    from medground_sam2.models import Features

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
BACKENDS = ("transformers", "official")
PROTOCOLS = ("native", "medreasoner")


class SAM2:
    """SAM 2.1 (Hiera tiny, small, base plus, large) for single images.

    Native protocol: 1024 px; three masks and the best predicted IoU for an ambiguous prompt, which is a single click
    without a box, as in the released configuration; one mask otherwise, replaced by the best of three where its
    stability is below 0.98. Protocol ``medreasoner``: 1024 px, best of three for every prompt.

    Args:
        checkpoint: a published ``.pt`` file, a safetensors file or folder of transformers, or a hub id
            ``owner/name[/file][@revision]`` that `medground fetch` has put in the local cache.
        backend: ``transformers``, or ``official`` for the package sam2 (extra ``[sam2]``).
        protocol: ``native`` or ``medreasoner``.
        image_size: side of the model's square input in pixels, a multiple of 32; None takes the protocol's.
        multimask: True takes the best of three masks for every prompt, False a single mask; None is the protocol's rule.
        device: such as ``cpu`` or ``cuda:1``, independent of anything else in the run.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        compile: run the image encoder through torch.compile.
        chunk: prompts decoded at once; halved when memory runs out.
        encode_chunk: images encoded at once; halved when memory runs out.
        cache_bytes: bound of the embeddings kept; one image takes 16 MiB at 1024 px and 4 MiB at 512 px in float32.
        heads: attention heads of the first encoder stage. This and the next two are not in the tensors; they are
            known for the published sizes and needed for others only.
        windows: attention window of each encoder stage, in tokens.
        global_blocks: encoder blocks that attend to the whole image.
    """

    accepts: ClassVar[frozenset[PromptKind]] = frozenset({"box", "points", "negative_points"})
    native_size: ClassVar[int] = 1024
    native_multimask: ClassVar[bool | None] = None
    """None: three masks for a single click without a box, one otherwise."""

    def __init__(
        self,
        *,
        checkpoint: str = "facebook/sam2.1-hiera-large",
        backend: str = "transformers",
        protocol: str = "native",
        image_size: int | None = None,
        multimask: bool | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        compile: bool = False,
        chunk: int = 32,
        encode_chunk: int = 4,
        cache_bytes: int = 1 << 30,
        heads: int | None = None,
        windows: Sequence[int] | None = None,
        global_blocks: Sequence[int] | None = None,
    ) -> None:
        for word, known, what in ((backend, BACKENDS, "backend"), (protocol, PROTOCOLS, "protocol")):
            if word not in known:
                raise RecipeError(f"SAM 2 segmenters have no {what} {word!r}", hint=nearest(word, known))
        self.checkpoint, self.backend, self.protocol = checkpoint, backend, protocol
        self.image_size = image_size or (1024 if protocol == "medreasoner" else self.native_size)
        if self.image_size <= 0 or self.image_size % 32:
            raise RecipeError(f"image_size {self.image_size} is not a multiple of 32")
        policy = True if protocol == "medreasoner" else self.native_multimask
        self.multimask = policy if multimask is None else multimask
        self.device, self.dtype, self.chunk, self.encode_chunk = device, dtype, chunk, encode_chunk
        self.cache = EmbeddingCache(cache_bytes)
        self.engine = self._build(compile, heads, windows, global_blocks)
        # An embedding is a matter of the image and of how it is prepared; everything else is fixed for this object.
        self._preprocessing = f"{backend}/{self.image_size}/{dtype}"

    def _build(
        self, compile: bool, heads: int | None, windows: Sequence[int] | None, global_blocks: Sequence[int] | None
    ) -> Any:
        try:
            from medground_sam2 import models
        except ImportError as error:
            raise PluginError(
                f"the SAM 2 segmenters need {error.name}, which is missing or broken: {error}",
                hint="pip install 'medground[sam2]'",
            ) from error
        from medground.weights import find_weights
        from medground_sam2.layout import Unseen

        checkpoint = models.open_checkpoint(find_weights(self.checkpoint))
        said = Unseen(heads=None if heads is None else (heads,), windows=windows, global_blocks=global_blocks)
        sizes = checkpoint.architecture(said)
        if self.image_size // 4 % sizes.windows[0]:
            raise RecipeError(f"image_size {self.image_size} is not a multiple of {4 * sizes.windows[0]}")
        engine = models.TransformersEngine if self.backend == "transformers" else models.OfficialEngine
        return engine(
            checkpoint, sizes, image_size=self.image_size, device=self.device, dtype=self.dtype, compile=compile
        )

    def segment(self, image: Image, prompts: Sequence[SpatialPrompt]) -> list[Mask]:
        """As `medground.protocols.Segmenter.segment`."""
        return self.segment_batch([image], [prompts])[0]

    def segment_batch(self, images: Sequence[Image], prompts: Sequence[Sequence[SpatialPrompt]]) -> list[list[Mask]]:
        """As `medground.protocols.BatchSegmenter.segment_batch`.

        Every image is encoded once, and not at all if the cache holds it; prompts of one kind are decoded together,
        whatever image they belong to.
        """
        answers = self._answer(images, prompts)
        return [[Mask(data=data > 0, score=score) for data, score in answer] for answer in answers]

    def logits(self, image: Image, prompts: Sequence[SpatialPrompt]) -> list[NDArray[np.float32]]:
        """H x W float32 per prompt: the chosen mask's logits at the image's size; above 0 is the mask."""
        return [data for data, _ in self._answer([image], [prompts])[0]]

    def _answer(
        self, images: Sequence[Image], prompts: Sequence[Sequence[SpatialPrompt]]
    ) -> list[list[tuple[NDArray[Any], float]]]:
        import torch

        asked = [position for position, of_image in enumerate(prompts) if of_image]
        jobs = [(position, prompt) for position in asked for prompt in prompts[position]]
        found: list[tuple[NDArray[Any], float] | None] = [None] * len(jobs)
        with torch.inference_mode():
            embeddings = dict(zip(asked, self._embeddings([images[position] for position in asked]), strict=True))
            for group in by_kind([prompt for _, prompt in jobs]).values():
                part = [jobs[position] for position in group]
                answers = in_chunks(part, lambda jobs: self._decode(jobs, embeddings, images), size=self.chunk)
                for position, answer in zip(group, answers, strict=True):
                    found[position] = answer
        remaining = iter(found)
        return [[next(remaining) for _ in of_image] for of_image in prompts]  # type: ignore[misc]

    def _embeddings(self, images: Sequence[Image]) -> "list[Features]":
        keys = [image_key(image, self._preprocessing) for image in images]

        def encode(positions: list[int]) -> "list[Features]":
            return in_chunks(positions, lambda some: self._encode([images[p] for p in some]), size=self.encode_chunk)

        return self.cache.fetch(keys, encode)

    def _encode(self, images: Sequence[Image]) -> "list[Features]":
        import torch

        pixels = torch.stack([prepare(image, self.image_size, self.device) for image in images])
        levels = self.engine.encode(pixels)
        # Copies, so that dropping one image of a batch frees its memory.
        return [[level[row : row + 1].clone() for level in levels] for row in range(len(images))]

    def _decode(
        self, jobs: Sequence[tuple[int, SpatialPrompt]], embeddings: "dict[int, Features]", images: Sequence[Image]
    ) -> list[tuple[NDArray[Any], float]]:
        """Logits at full size and predicted IoU of prompts of one kind."""
        import torch
        import torch.nn.functional as F

        owners = [position for position, _ in jobs]
        rows = owners[:1] if len(set(owners)) == 1 else owners
        features = [torch.cat(level) for level in zip(*(embeddings[row] for row in rows), strict=True)]
        prompts = [prompt for _, prompt in jobs]
        sizes = [images[position].shape[:2] for position in owners]
        points, labels = to_points(prompts, sizes, self.image_size)
        logits, scores = self.engine.decode(
            features, points.to(self.device), labels.to(self.device), multimask=self._three(prompts[0])
        )
        best = scores.argmax(dim=1, keepdim=True)
        scores = scores.gather(1, best).squeeze(1)
        logits = logits.gather(1, best[..., None, None].expand(-1, 1, *logits.shape[2:]))
        if not bool(torch.isfinite(scores).all() and torch.isfinite(logits).all()):
            raise SegmenterError(f"{self!r} gave numbers that are not finite", hint="try dtype float32")
        return [
            (F.interpolate(one[None], size, mode="bilinear", align_corners=False)[0, 0].cpu().numpy(), score)
            for one, size, score in zip(logits, sizes, scores.tolist(), strict=True)
        ]

    def _three(self, prompt: SpatialPrompt) -> bool:
        """Whether prompts of this kind get three masks to choose from."""
        return prompt.box is None and len(prompt.points) == 1 if self.multimask is None else self.multimask

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(checkpoint={self.checkpoint!r}, backend={self.backend!r}, "
            f"protocol={self.protocol!r}, image_size={self.image_size}, multimask={self.multimask}, "
            f"device={self.device!r}, dtype={self.dtype!r})"
        )


class MedSAM2(SAM2):
    """MedSAM2: SAM 2.1 tiny trained on at 512 px with medical images, boxes, masks and correction clicks.

    Native protocol: 512 px, one mask per prompt, replaced by the best of three where its stability is below 0.98.
    Protocol ``medreasoner``: 1024 px, best of three, as that system ran it. Arguments are those of `SAM2`.
    """

    native_size: ClassVar[int] = 512
    native_multimask: ClassVar[bool | None] = False

    def __init__(self, *, checkpoint: str = "wanglab/MedSAM2/MedSAM2_latest.pt", **others: Any) -> None:
        super().__init__(checkpoint=checkpoint, **others)


def prepare(image: Image, size: int, device: str) -> "torch.Tensor":
    """An H x W x 3 uint8 RGB image as the model sees it: [3, size, size] float32, normalised.

    Raises:
        SegmenterError: if it is no such image.
    """
    import torch
    import torch.nn.functional as F

    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise SegmenterError(f"a segmenter takes H x W x 3 uint8 images, not {image.shape} {image.dtype}")
    pixels = torch.tensor(image, device=device).permute(2, 0, 1).float().div(255)
    square = F.interpolate(pixels[None], (size, size), mode="bilinear", align_corners=False, antialias=True)[0]
    mean, std = (torch.tensor(values, device=device).reshape(3, 1, 1) for values in (MEAN, STD))
    return (square - mean) / std


def to_points(
    prompts: Sequence[SpatialPrompt], sizes: Sequence[Size], image_size: int
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Prompts of one kind as points [N, K, 2] in pixels of the model's input, and their labels [N, K]."""
    import torch

    points = torch.tensor([[*_corners(prompt), *prompt.points] for prompt in prompts], dtype=torch.float32)
    labels = [[*((2, 3) if prompt.box is not None else ()), *prompt.labels] for prompt in prompts]
    extent = torch.tensor([(width, height) for height, width in sizes], dtype=torch.float32)
    return points / extent[:, None] * image_size, torch.tensor(labels, dtype=torch.int32)


def _corners(prompt: SpatialPrompt) -> list[tuple[float, float]]:
    if prompt.box is None:
        return []
    x1, y1, x2, y2 = prompt.box
    return [(x1, y1), (x2, y2)]
