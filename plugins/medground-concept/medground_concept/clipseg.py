"""CLIPSeg as a segmenter of concepts."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medground.arguments import Count, NotNegative
from medground.devices import Device
from medground.errors import RecipeError
from medground.licences import Published, stated
from medground.segmenters.embedding import EmbeddingSegmenter
from medground.segmenters.folders import Layout, load_folder, load_tokenizer
from medground.segmenters.pixels import SquareInput, check_finite, joined, to_size
from medground.segmenters.weights import frozen
from medground.types import Image, PromptKind, SpatialPrompt

if TYPE_CHECKING:
    import torch


class ClipSeg(SquareInput, EmbeddingSegmenter):
    """CLIPSeg (Lueddecke and Ecker 2022, arXiv:2112.10003): one mask of all that a text names.

    Image: stretched to `image_size` in whole numbers, ImageNet's mean and deviation. Masks: logits are upsampled bilinearly
    to the image and cut at 0. It judges neither presence nor instances, and estimates no IoU: the score of a mask is the
    largest probability in its map.

    Args:
        checkpoint: a folder with ``config.json``, ``model.safetensors`` and a tokenizer, or a hub id
            ``owner/name[@revision]`` that `medground fetch` has put in the local cache; None is the first of `published`.
        image_size: side of the model's square input in pixels, a multiple of its patches.
        device: ``auto`` (CUDA where torch can use it, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ...
        cache_mib: bound of the image embeddings kept, in MiB on the device; at 352 px an image takes 4.
        encode_batch: images per encoder call, halved for a call that runs out of memory.
        decode_batch: prompts per decoder call, halved likewise.
    """

    accepts: ClassVar[frozenset[PromptKind]] = frozenset({"text"})
    model: ClassVar[str] = "clipseg"
    published: ClassVar[tuple[Published, ...]] = (
        Published("CIDAS/clipseg-rd64-refined", stated("Apache-2.0", "untried here")),
    )
    layout: ClassVar[Layout] = Layout(
        model="CLIPSegForImageSegmentation",
        types=("clipseg",),
        # Numbers from 0 on, which older versions of transformers stored.
        others=("clip.text_model.embeddings.position_ids", "clip.vision_model.embeddings.position_ids"),
    )

    def __init__(
        self,
        *,
        checkpoint: str | None = None,
        image_size: Count = 352,
        device: Device = "auto",
        cache_mib: NotNegative = 256,
        encode_batch: Count = 1,
        decode_batch: Count = 32,
    ) -> None:
        super().__init__(locals(), preprocessing=f"{self.model} {image_size}")
        self.image_size = image_size
        path = self.locate(checkpoint, device=device, needs=("transformers",))

        from medground_concept.texts import Tokens

        tokenizer = load_tokenizer(path)
        self.network: Any = frozen(load_folder(path, self.layout), device=self.device, dtype="float32")
        settings = self.network.config
        if image_size % settings.vision_config.patch_size:
            raise RecipeError(f"image_size {image_size} is not a multiple of {settings.vision_config.patch_size}")
        words = settings.text_config
        self.tokens = Tokens(tokenizer, words.max_position_embeddings, words.vocab_size, self.device, padding="longest")

    def features(self, pixels: "torch.Tensor") -> "list[torch.Tensor]":
        """As `SquareInput.features`: the activations ``[M, tokens, width]`` of the layers that the decoder reads."""
        output = self.network.clip.get_image_features(
            pixel_values=pixels, interpolate_pos_encoding=True, output_hidden_states=True
        )
        return [output.hidden_states[layer + 1] for layer in self.network.extract_layers]

    def decode(
        self,
        images: Sequence[Image],
        embeddings: "Sequence[list[torch.Tensor]]",
        items: Sequence[tuple[int, SpatialPrompt]],
    ) -> Iterator[tuple[NDArray[np.float32], float]]:
        """As `EncodingSegmenter.decode`: logits, and the largest probability."""
        layers = joined(embeddings, [index for index, _ in items])
        ids, mask = self.tokens([" ".join(prompt.text.split()) for _, prompt in items])
        words = self.network.get_conditional_embeddings(batch_size=len(items), input_ids=ids, attention_mask=mask)
        logits = self.network.decoder(layers, words).logits
        check_finite(self.model, logits)
        for (index, _), one in zip(items, logits, strict=True):
            yield to_size(one, images[index].shape[:2]).cpu().numpy(), float(one.max().sigmoid())
