"""SAM 2.1 and MedSAM2 (Ravi et al., arXiv:2408.00714; Ma et al., arXiv:2504.03600) as their authors run them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from medground.arguments import Count, NotNegative
from medground.devices import Device, Dtype
from medground.errors import RecipeError, did_you_mean
from medground.licences import Published, stated
from medground_sam2.following import FollowingSegmenter
from medground_sam2.layout import Unseen

if TYPE_CHECKING:
    from medground_sam2.video import VideoNetwork

Backend = Literal["transformers", "official"]
Protocol = Literal["native", "medreasoner"]
BACKENDS = ("transformers", "official")
PROTOCOLS = ("native", "medreasoner")


class Sam2(FollowingSegmenter):
    """SAM 2.1 (Hiera tiny, small, base plus, large) for single images, and for volumes as Meta's video predictor.

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
        super().__init__(locals(), preprocessing=f"sam2 {side}")
        self.image_size, self._dtype = side, dtype
        self.multimask = (True if released else self.native_multimask) if multimask is None else multimask
        self._unseen = Unseen(heads=None if heads is None else (heads,), windows=windows, global_blocks=global_blocks)
        self._path = self.locate(checkpoint, device=device, dtype=dtype, needs=("transformers",))

        from medground_sam2 import models

        self.network = models.build(
            self._path,
            self._unseen,
            backend=backend,
            image_size=self.image_size,
            device=self.device,
            dtype=dtype,
            compile=compile,
        )

    def load_video(self) -> "VideoNetwork":
        """As `FollowingSegmenter.load_video`; on transformers, whatever the backend."""
        from medground_sam2.models import load_video
        from medground_sam2.networks import TransformersNetwork
        from medground_sam2.video import VideoNetwork

        model = load_video(self._path, self._unseen, image_size=self.image_size)
        encoder = self.network.model.vision_encoder if isinstance(self.network, TransformersNetwork) else None
        return VideoNetwork(model, encoder, device=self.device, dtype=self._dtype)


class MedSam2(Sam2):
    """MedSAM2: SAM 2.1 tiny trained on at 512 px with medical images, boxes, masks and correction clicks.

    Native protocol: 512 px, one mask per prompt, replaced by the best of three where its stability is below 0.98.
    Protocol ``medreasoner``: 1024 px, best of three, as that system ran it. Arguments are those of `Sam2`.
    Its authors follow a lesion from the mask that a box gives on the key slice: give `propagate` that mask.
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
