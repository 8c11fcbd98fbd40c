"""SAM 2.1 and MedSAM2 as segmenters: how their authors prepare images, prompts and masks.

Image: divided by 255, stretched to a square by an antialiased bilinear filter on floats, normalised by ImageNet's mean
and standard deviation, RGB. Prompts: divided by width and height, times the input size; the corners of a box are two
points labelled 2 and 3 before the clicks. Masks: logits are upsampled bilinearly to the image and cut at 0.
(Ravi et al., arXiv:2408.00714; Ma et al., arXiv:2504.03600.)
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from medground.arguments import Count, NotNegative
from medground.devices import Device, Dtype, check_dtype, device_of, require_modules
from medground.errors import RecipeError, SegmenterError, did_you_mean
from medground.geometry import Size
from medground.licences import Published, stated
from medground.segmenters.embedding import EmbeddingSegmenter
from medground.segmenters.weights import check_whole, find_weights
from medground.types import Image, SpatialPrompt
from medground_sam2.layout import Unseen

if TYPE_CHECKING:
    import torch

    from medground_sam2.models import Features

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
Backend = Literal["transformers", "official"]
Protocol = Literal["native", "medreasoner"]
BACKENDS = ("transformers", "official")
PROTOCOLS = ("native", "medreasoner")


class Sam2(EmbeddingSegmenter):
    """SAM 2.1 (Hiera tiny, small, base plus, large) for single images.

    Native protocol: 1024 px; three masks and the best predicted IoU for an ambiguous prompt, which is a single click
    without a box, as in the released configuration; one mask otherwise, replaced by the best of three where its
    stability is below 0.98. Protocol ``medreasoner``: 1024 px, best of three for every prompt.

    Args:
        checkpoint: a published ``.pt`` file, a safetensors file or folder of transformers, or a hub id
            ``owner/name[/file][@revision]`` that `medground fetch` has put in the local cache; None is the first of
            `published`.
        backend: ``transformers``, or ``official`` for the package sam2 (extra ``[sam2-official]``).
        protocol: ``native`` or ``medreasoner``.
        image_size: side of the model's square input in pixels, a multiple of 32; None takes the protocol's.
        multimask: True takes the best of three masks for every prompt, False one mask; None is the protocol's rule.
        device: ``auto`` (CUDA where torch can use it, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ..., independent of
            anything else in the run.
        dtype: ``float32``, ``bfloat16`` or ``float16``, in which the image encoder computes, by autocast as Meta runs
            it; prompts and masks are computed in float32.
        compile: True compiles the image encoder on first use.
        cache_mib: bound of the image embeddings kept, in MiB on the device; in float32 an image takes 16 at 1024 px
            and 4 at 512 px.
        encode_batch: images per encoder call, halved for a call that runs out of memory.
        decode_batch: prompts per decoder call, halved likewise.
        heads: attention heads of the first encoder stage. This and the next two are not in the tensors; they are
            known for the published sizes and needed for others only.
        windows: attention window of each encoder stage, in tokens.
        global_blocks: encoder blocks that attend to the whole image.
    """

    model: ClassVar[str] = "sam2"
    published: ClassVar[tuple[Published, ...]] = (
        Published("facebook/sam2.1-hiera-large", stated("Apache-2.0")),
        Published("facebook/sam2.1-hiera-base-plus", stated("Apache-2.0")),
        Published(
            "facebook/sam2.1-hiera-small",
            stated("Apache-2.0"),
            {"sam2.1_hiera_small.pt": "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"},
        ),
        Published(
            "facebook/sam2.1-hiera-tiny",
            stated("Apache-2.0"),
            {"sam2.1_hiera_tiny.pt": "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"},
        ),
    )
    """The authors' weights; the first are what a recipe that names no checkpoint means."""
    native_size: ClassVar[int] = 1024
    native_multimask: ClassVar[bool | None] = None
    """None: three masks for a single click without a box, one otherwise."""

    def __init__(
        self,
        *,
        checkpoint: str | None = None,
        backend: Backend = "transformers",
        protocol: Protocol = "native",
        image_size: Count | None = None,
        multimask: bool | None = None,
        device: Device = "auto",
        dtype: Dtype = "float32",
        compile: bool = False,
        cache_mib: NotNegative = 1024,
        encode_batch: Count = 1,
        decode_batch: Count = 32,
        heads: Count | None = None,
        windows: Sequence[int] | None = None,
        global_blocks: Sequence[int] | None = None,
    ) -> None:
        for word, known, what in ((backend, BACKENDS, "backend"), (protocol, PROTOCOLS, "protocol")):
            if word not in known:
                raise RecipeError(f"{self.model} has no {what} {word!r}", hint=did_you_mean(word, known))
        released = protocol == "medreasoner"
        side = image_size or (1024 if released else self.native_size)
        super().__init__(
            locals(),
            preprocessing=f"sam2 {side}",
            cache_mib=cache_mib,
            encode_batch=encode_batch,
            decode_batch=decode_batch,
        )
        self.image_size = side
        self.multimask = (True if released else self.native_multimask) if multimask is None else multimask

        require_modules("torch", "transformers", "safetensors")
        path = find_weights(checkpoint or self.published[0].id)
        check_whole(path)
        check_dtype(dtype)
        self.device = device_of(device)

        from medground_sam2 import models

        self.network = models.build(
            path,
            Unseen(heads=None if heads is None else (heads,), windows=windows, global_blocks=global_blocks),
            backend=backend,
            image_size=self.image_size,
            device=self.device,
            dtype=dtype,
            compile=compile,
        )

    def encode(self, images: Sequence[Image]) -> "list[Features]":
        """As `EmbeddingSegmenter.encode`."""
        import torch

        pixels = torch.stack([prepare(image, self.image_size, self.device) for image in images])
        levels = self.network.encode(pixels)
        # Copies, so that dropping one image of a batch frees its memory.
        return [[level[row : row + 1].clone() for level in levels] for row in range(len(images))]

    def decode(
        self, images: Sequence[Image], embeddings: "Sequence[Features]", items: Sequence[tuple[int, SpatialPrompt]]
    ) -> Iterator[tuple[NDArray[np.float32], float]]:
        """As `EmbeddingSegmenter.decode`: the best mask of each prompt as logits, upsampled to its image."""
        import torch
        import torch.nn.functional as F

        owners = [index for index, _ in items]
        rows = owners[:1] if len(set(owners)) == 1 else owners
        features = [torch.cat(level).float() for level in zip(*(embeddings[row] for row in rows), strict=True)]
        sizes = [(images[index].shape[0], images[index].shape[1]) for index in owners]
        points, labels = to_points([prompt for _, prompt in items], sizes, self.image_size)
        logits, scores = self.network.decode(
            features, points.to(self.device), labels.to(self.device), multimask=self._three(items[0][1])
        )
        best = scores.argmax(dim=1)
        row = torch.arange(len(items), device=best.device)
        logits, scores = logits[row, best], scores[row, best]
        if not bool(torch.isfinite(scores).all() and torch.isfinite(logits).all()):
            raise SegmenterError(f"{self.model} gave numbers that are not finite", hint="try dtype float32")
        for one, size, score in zip(logits, sizes, scores.tolist(), strict=True):
            full = F.interpolate(one[None, None], size, mode="bilinear", align_corners=False)[0, 0]
            yield full.cpu().numpy(), score

    def _three(self, prompt: SpatialPrompt) -> bool:
        """Return True if prompts of this kind get three masks to choose from."""
        return prompt.box is None and len(prompt.points) == 1 if self.multimask is None else self.multimask


class MedSam2(Sam2):
    """MedSAM2: SAM 2.1 tiny trained on at 512 px with medical images, boxes, masks and correction clicks.

    Native protocol: 512 px, one mask per prompt, replaced by the best of three where its stability is below 0.98.
    Protocol ``medreasoner``: 1024 px, best of three, as that system ran it. Arguments are those of `Sam2`.
    """

    model: ClassVar[str] = "medsam2"
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            "wanglab/MedSAM2/MedSAM2_latest.pt",
            stated(
                "CC BY-SA 4.0",
                "attribution and share-alike: what is derived from these weights must carry the same licence",
            ),
        ),
    )
    native_size: ClassVar[int] = 512
    native_multimask: ClassVar[bool | None] = False


def prepare(image: Image, size: int, device: str) -> "torch.Tensor":
    """Convert an H x W x 3 uint8 RGB image to the model's input: [3, size, size] float32, normalised.

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
    """Convert prompts of one kind to points [N, K, 2] in pixels of the model's input, and their labels [N, K]."""
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
