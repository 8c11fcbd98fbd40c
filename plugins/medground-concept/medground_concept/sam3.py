"""SAM 3 and SAM3-LiteText as segmenters of concepts."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from medground.arguments import Count, NotNegative
from medground.devices import Device, Dtype
from medground.licences import Published, stated
from medground.segmenters.embedding import EncodingSegmenter
from medground.segmenters.folders import Layout, load_folder, load_tokenizer
from medground.segmenters.pixels import SquareInput, check_finite, joined
from medground.types import Image, Mask, PromptKind, SpatialPrompt

if TYPE_CHECKING:
    import torch

    from medground_concept.detector import Levels

MOST_TOKENS = 32
"""Of a text, with its first and last."""
EXAMPLES_ALONE = "visual"
"""The text of a prompt of exemplars without one, as the model was trained."""


class Sam3(SquareInput, EncodingSegmenter[Mask]):
    """SAM 3 (Carion et al. 2025, arXiv:2511.16719) for single images: a concept in words, exemplars, or both.

    Image: 1008 px, stretched in whole numbers, mean and deviation 0.5. It answers with every instance of the concept whose
    score, times the presence of the concept, is above `least_score`: `Mask.instances`, `Mask.presence`, and `Mask.data`,
    their union. The score of a mask is the one of its best instance, and 1 - presence where there is none.

    MedSAM3 and Medical-SAM3 are checkpoints of it: give their folder in the layout of transformers as `checkpoint`.

    Args:
        checkpoint: a folder with ``config.json``, ``model.safetensors`` and a tokenizer, of SAM 3 as published or of its
            part for concepts alone, or a hub id ``owner/name[@revision]`` that `medground fetch` has put in the local cache;
            None is the first of `published`.
        least_score: what an instance's score must exceed.
        device: ``auto`` (CUDA where torch can use it, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ...
        dtype: ``float32``, ``bfloat16`` or ``float16``, in which the image encoder computes, by autocast; everything after
            it computes in float32.
        compile: True compiles the image encoder on first use.
        cache_mib: bound of the image embeddings kept, in MiB on the device; in float32 an image takes 107.
        encode_batch: images per encoder call, halved for a call that runs out of memory.
        decode_batch: prompts per decoder call, halved likewise.
    """

    accepts: ClassVar[frozenset[PromptKind]] = frozenset({"text", "exemplars"})
    model: ClassVar[str] = "sam3"
    mean: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)
    std: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)
    published: ClassVar[tuple[Published, ...]] = (
        Published("facebook/sam3", stated("SAM License", "ask for access on the hub first; untried here")),
    )
    layout: ClassVar[Layout] = Layout(
        model="Sam3Model",
        types=("sam3", "sam3_video"),
        section="detector_config",
        renames=((r"^detector_model\.", ""),),
        others=("tracker_model.", "tracker_neck."),
    )

    def __init__(
        self,
        *,
        checkpoint: str | None = None,
        least_score: NotNegative = 0.3,
        device: Device = "auto",
        dtype: Dtype = "float32",
        compile: bool = False,
        cache_mib: NotNegative = 1024,
        encode_batch: Count = 1,
        decode_batch: Count = 4,
    ) -> None:
        super().__init__(locals(), preprocessing=self.model)
        self.least_score = least_score
        path = self.locate(checkpoint, device=device, dtype=dtype, needs=("transformers", "torchvision"))

        from medground_concept.detector import Detector
        from medground_concept.texts import Tokens

        tokenizer, model = load_tokenizer(path), load_folder(path, self.layout)
        tokens = Tokens(tokenizer, MOST_TOKENS, model.vocab_size, self.device, padding="max_length")
        self.network = Detector(model, tokens, device=self.device, dtype=dtype, compile=compile)
        self.image_size = self.network.model.config.vision_config.image_size

    def features(self, pixels: "torch.Tensor") -> "Levels":
        """As `SquareInput.features`."""
        return self.network.encode(pixels)

    def decode(
        self, images: Sequence[Image], embeddings: "Sequence[Levels]", items: Sequence[tuple[int, SpatialPrompt]]
    ) -> Iterator[Mask]:
        """As `EncodingSegmenter.decode`."""
        from medground_concept.detector import to_boxes

        sizes = [(images[index].shape[0], images[index].shape[1]) for index, _ in items]
        boxes = to_boxes([prompt.exemplars for _, prompt in items], sizes)
        texts = [" ".join(prompt.text.split()) or EXAMPLES_ALONE for _, prompt in items]
        levels = joined(embeddings, [index for index, _ in items])
        answer = self.network.decode(levels, texts, None if boxes is None else boxes.to(self.device))
        check_finite(self.model, answer.masks, answer.scores, answer.presence)
        for row, size in enumerate(sizes):
            yield answer.mask(row, size, self.least_score)

    def to_mask(self, answer: Mask) -> Mask:
        """As `EncodingSegmenter.to_mask`."""
        return answer


class Sam3LiteText(Sam3):
    """SAM3-LiteText (Zeng et al. 2026, arXiv:2602.12173): SAM 3 with a small text encoder. Arguments are those of `Sam3`."""

    model: ClassVar[str] = "sam3_lite_text"
    published: ClassVar[tuple[Published, ...]] = tuple(
        Published(
            f"vil-uob/sam3-litetext-{size}",
            stated(
                None, "distilled from SAM 3, whose SAM License may apply; its authors' code is Apache-2.0; untried here"
            ),
        )
        for size in ("s0", "s1", "l")
    )
    layout: ClassVar[Layout] = Layout(model="Sam3LiteTextModel", types=("sam3_lite_text",))
