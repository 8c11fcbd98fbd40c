"""Models of transformers that are called as Sam2Model is: the point and box model in SAM 3, and EdgeTAM."""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from medground.arguments import Count, NotNegative
from medground.devices import Device, Dtype
from medground.errors import InputError
from medground.licences import Published, stated
from medground.segmenters.folders import Layout, load_folder
from medground_sam2.following import FollowingSegmenter
from medground_sam2.layout import TWINS, VIDEO_TRANSFORMERS

if TYPE_CHECKING:
    from medground_sam2.video import VideoNetwork


class FolderSegmenter(FollowingSegmenter):
    """A model that transformers loads from a folder with ``config.json`` and ``model.safetensors``.

    Args:
        checkpoint: the folder, or a hub id ``owner/name[@revision]`` that `medground fetch` has put in the local cache; None
            is the first of `published`.
        multimask: True takes the best of three masks for every prompt, False one mask; None three for a single click
            without a box, one otherwise.
        device: ``auto`` (CUDA where torch can use it, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ...
        dtype: ``float32``, ``bfloat16`` or ``float16``, in which the image encoder computes, by autocast; prompts and
            masks are computed in float32.
        compile: True compiles the image encoder on first use.
        cache_mib: bound of the image embeddings kept, in MiB on the device.
        encode_batch: images per encoder call, halved for a call that runs out of memory.
        decode_batch: prompts per decoder call, halved likewise.
    """

    layout: ClassVar[Layout]
    video_layout: ClassVar[Layout]
    """Of the same folder, with the tensors for video."""
    modules: ClassVar[tuple[str, ...]]
    """Libraries it needs beside torch, transformers and safetensors."""

    def __init__(
        self,
        *,
        checkpoint: str | None = None,
        multimask: bool | None = None,
        device: Device = "auto",
        dtype: Dtype = "float32",
        compile: bool = False,
        cache_mib: NotNegative = 1024,
        encode_batch: Count = 1,
        decode_batch: Count = 32,
    ) -> None:
        super().__init__(locals(), preprocessing=self.model)
        self.multimask, self._dtype = multimask, dtype
        self._path = path = self.locate(checkpoint, device=device, dtype=dtype, needs=("transformers", *self.modules))

        from medground_sam2.networks import TransformersNetwork

        network = TransformersNetwork(load_folder(path, self.layout), device=self.device, dtype=dtype, compile=compile)
        self.image_size = network.model.config.prompt_encoder_config.image_size
        grids = [list(sides) for sides in network.model.backbone_feature_sizes]
        patch = network.model.config.prompt_encoder_config.patch_size
        if grids != [[self.image_size * times // patch] * 2 for times in (4, 2, 1)]:
            raise InputError(f"{path.name} has features of {grids} for an input of {self.image_size} px")
        self.network = network

    def load_video(self) -> "VideoNetwork":
        """As `FollowingSegmenter.load_video`."""
        from medground_sam2.video import VideoNetwork

        model = load_folder(self._path, self.video_layout)
        return VideoNetwork(model, self.network.model.vision_encoder, device=self.device, dtype=self._dtype)


class Sam3Tracker(FolderSegmenter):
    """The point and box model in SAM 3 (Carion et al. 2025, arXiv:2511.16719) for single images, called as SAM 2 is.

    Image: 1008 px, stretched in whole numbers, mean and deviation 0.5. Arguments are those of `FolderSegmenter`. It takes
    the folder of SAM 3 as published, where `sam3` reads the part for concepts, or its own part alone.
    """

    model: ClassVar[str] = "sam3_tracker"
    published: ClassVar[tuple[Published, ...]] = (
        Published("facebook/sam3", stated("SAM License", "ask for access on the hub first; untried here")),
    )
    video_layout: ClassVar[Layout] = Layout(
        model="Sam3TrackerVideoModel",
        types=("sam3_tracker", "sam3_tracker_video", "sam3_video"),
        section="tracker_config",
        renames=(
            (r"^(tracker_model\.)+", ""),
            (r"^detector_model\.vision_encoder\.backbone\.", "vision_encoder.backbone."),
            (r"^tracker_neck\.", "vision_encoder.neck."),
        ),
        others=("detector_model.",),
        twins=TWINS,
    )
    layout: ClassVar[Layout] = replace(
        video_layout, model="Sam3TrackerModel", others=(*video_layout.others, *VIDEO_TRANSFORMERS)
    )
    modules: ClassVar[tuple[str, ...]] = ("torchvision",)
    mean: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)
    std: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)
    whole_numbers: ClassVar[bool] = True
    bicubic: ClassVar[bool] = False


class EdgeTam(FolderSegmenter):
    """EdgeTAM (Zhou et al. 2025, arXiv:2501.07256) for single images: SAM 2's decoder behind a RepViT for small devices.

    Image: 1024 px, as SAM 2. Arguments are those of `FolderSegmenter`.
    """

    model: ClassVar[str] = "edgetam"
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            "yonigozlan/EdgeTAM-hf",
            stated("Apache-2.0", "a copy of facebook/EdgeTAM for transformers; untried here"),
        ),
    )
    video_layout: ClassVar[Layout] = Layout(model="EdgeTamVideoModel", types=("edgetam", "edgetam_video"), twins=TWINS)
    layout: ClassVar[Layout] = replace(
        video_layout, model="EdgeTamModel", others=("spatial_perceiver", *VIDEO_TRANSFORMERS)
    )
    modules: ClassVar[tuple[str, ...]] = ("timm", "torchvision")
