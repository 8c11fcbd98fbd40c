"""`mini_sam`: a small segmenter that comes with the package and was trained on real images of permissive licence."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from medground.arguments import Count, NotNegative
from medground.devices import Device
from medground.licences import Published, stated
from medground.segmenters.embedding import EmbeddingSegmenter
from medground.segmenters.weights import check_keys, frozen, read_weights
from medground.types import Image, SpatialPrompt
from medground_sam.contract import as_rgb

if TYPE_CHECKING:
    import torch


class MiniSam(EmbeddingSegmenter):
    """A small segmenter that comes with the package: it corrects the ellipse of a box, or the disc of points.

    Its encoder makes a pyramid of the image, once for all prompts; its network looks at a small cut of that pyramid and
    runs once per prompt. Trained on real images of permissive licence and on drawings; docs/mini_sam.md lists them, what it
    has never seen, and how good it is.

    Args:
        box_error: by which share of a side an edge of a box is off at most, as far as is known: 0 for boxes drawn by hand.
        device: ``auto`` (CUDA where torch can use it, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ...
        cache_mib: bound of the pyramids kept, in MiB (an image of 1 megapixel takes 4).
        encode_batch: images per encoder call.
        decode_batch: prompts per network call, halved for a call that runs out of memory.
    """

    model: ClassVar[str] = "mini_sam"
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            str(Path(__file__).with_name("mini_sam.safetensors")),
            stated(
                "Apache-2.0",
                "trained on images under CC0, CC BY 4.0, MIT, Apache-2.0 and DbCL 1.0; docs/mini_sam.md names them",
            ),
        ),
    )

    def __init__(
        self,
        *,
        box_error: NotNegative = 0.1,
        device: Device = "auto",
        cache_mib: NotNegative = 64,
        encode_batch: Count = 8,
        decode_batch: Count = 32,
    ) -> None:
        super().__init__(locals(), preprocessing="pyramid")
        self.box_error = box_error
        self.load(self.locate(None, device=device), self.device)

    def load(self, path: Path, device: str) -> None:
        """Replace the weights by those of a file that `medground_sam.train_mini` wrote."""
        import torch

        from medground_sam.mini_network import Correction

        weights = {name: tensor.float() for name, tensor in read_weights(path).items()}
        with torch.device("meta"):
            network = Correction()
        check_keys({name: tensor.shape for name, tensor in network.state_dict().items()}, weights, path.name)
        network.load_state_dict(weights, assign=True)
        self.network, self.device = frozen(network, device=device, dtype="float32"), device

    def encode(self, images: Sequence[Image]) -> "list[tuple[torch.Tensor, ...]]":
        """As `EmbeddingSegmenter.encode`: levels ``[3, h, w]`` uint8, each half as large as the one before."""
        from medground_sam.mini_cuts import pyramid

        return [pyramid(as_rgb(image), self.device) for image in images]

    def decode(
        self,
        images: Sequence[Image],
        embeddings: "Sequence[tuple[torch.Tensor, ...]]",
        items: Sequence[tuple[int, SpatialPrompt]],
    ) -> Iterator[tuple[NDArray[np.float32], float]]:
        """As `EmbeddingSegmenter.decode`: logits, threshold 0; the score is the Dice they expect of the mask."""
        from medground_sam.mini_cuts import corrected, expand, prepare

        sizes = [images[index].shape[:2] for index, _ in items]
        prompts = [prompt for _, prompt in items]
        priors, taken = prepare([embeddings[index] for index, _ in items], sizes, prompts, self.box_error)
        box_error = None if prompts[0].box is None else self.box_error
        logits = corrected(self.network(taken), priors, box_error=box_error)
        for row, size in enumerate(sizes):
            values = expand(logits[row], priors, row, size)
            chance = values.sigmoid()
            mask = values > 0
            score = 2 * chance[mask].sum() / (mask.sum() + chance.sum()).clamp(min=1e-6)
            yield values.cpu().numpy(), float(score)
