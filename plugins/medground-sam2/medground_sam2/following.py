"""Segmenters of clicks that follow targets through a volume too, with the memory of their video models.

torch is imported when something is segmented, never by importing this module.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from medground.errors import SegmenterError, SegmenterMemoryError
from medground.protocols import SlicePrompts
from medground.segmenters.batching import image_key, out_of_memory
from medground.segmenters.pixels import check_finite, to_size
from medground.segmenters.slices import Pixels, Slices, Step, StopRule, check_prompts, follow
from medground.types import Image, Mask, SpatialPrompt
from medground_sam2.clicks import ClickSegmenter, to_points

if TYPE_CHECKING:
    import torch

    from medground.images.volume import Volume
    from medground.progress import Count
    from medground_sam2.video import Features, Session, VideoNetwork


class FollowingSegmenter(ClickSegmenter):
    """A segmenter whose published weights hold the memory of a video model beside the model for single images.

    The memory is loaded when a volume is first segmented. Each target is followed by itself, each way in a session of its
    own that starts from all its prompts: a pass down does not see what the pass up found.
    """

    bicubic: ClassVar[bool] = True
    """True stretches slices by Pillow's bicubic filter in whole numbers, as Meta's loader of videos; False as `prepare`."""

    @abstractmethod
    def load_video(self) -> "VideoNetwork":
        """Return the network with memory.

        Raises:
            InputError: if the weights hold none.
        """

    @cached_property
    def video(self) -> "VideoNetwork":
        """The network with memory, loaded on first use."""
        return self.load_video()

    def propagate(
        self,
        volume: "Volume",
        prompts: Sequence[SlicePrompts],
        *,
        plane: str,
        window: str | None = None,
        reach: float | None = None,
        patience: int | None = 3,
        progress: "Count | None" = None,
    ) -> list[NDArray[np.bool_]]:
        """As `medground.protocols.VolumeSegmenter.propagate`.

        `cache_mib` bounds the features kept for slices that come twice: key slices, and those between the first key slices
        of two targets. `multimask` has no effect: the video model has a rule of its own.
        """
        import torch

        slices = Slices(volume, plane, window)
        check_prompts(prompts, slices, self.accepts, self.model)
        if not prompts:
            return []
        try:
            with torch.inference_mode():
                sessions = self._prompted(slices, prompts)
                stop = StopRule(reach=reach, patience=patience)
                return follow(slices, prompts, stop, lambda down: self._step(sessions, down), progress)
        except RuntimeError as error:
            kind = SegmenterMemoryError if out_of_memory(error) else SegmenterError
            raise kind(f"{self.model} failed: {(str(error).splitlines() or [''])[0]}") from error

    def _prompted(self, slices: Slices, prompts: Sequence[SlicePrompts]) -> "list[Session]":
        """Return a session per target with all its prompts."""
        sessions = [self.video.begin(slices.count) for _ in prompts]
        for index in sorted({index for mine in prompts for index in mine}):
            image = slices.image(index)
            features = self._encoded(image)
            for session, mine in zip(sessions, prompts, strict=True):
                if index in mine:
                    session.prompt(index, features, self._input(mine[index], image))
        return sessions

    def _input(self, prompt: SpatialPrompt | Mask, image: Image) -> "tuple[torch.Tensor, torch.Tensor] | torch.Tensor":
        import torch

        from medground_sam2.video import to_input

        if isinstance(prompt, Mask):
            return to_input(torch.from_numpy(np.ascontiguousarray(prompt.data)).to(self.device), self.image_size)
        points, labels = to_points([prompt], [(image.shape[0], image.shape[1])], self.image_size)
        return points.to(self.device), labels.to(self.device)

    def _step(self, sessions: "list[Session]", down: bool) -> Step:
        mine = [session.turned() for session in sessions] if down else sessions

        def step(index: int, image: Image, before: Mapping[int, Pixels | None]) -> dict[int, Pixels]:
            features: Callable[[], Features] = cache(lambda: self._encoded(image))
            size = image.shape[0], image.shape[1]
            return {number: self._cut(mine[number].logits(index, features, down=down), size) for number in before}

        return step

    def _cut(self, low: "torch.Tensor", size: tuple[int, int]) -> Pixels:
        check_finite(self.model, low)
        return np.asarray((to_size(low, size) > self.threshold).cpu().numpy())

    def _encoded(self, image: Image) -> "Features":
        """Return the features of a slice, encoded unless the cache holds them."""

        def encode(_: list[int]) -> "list[Features]":
            levels = self.video.encode(self.prepare_slice(image))
            check_finite(self.model, *levels)  # of numbers that are not, the model makes a target that is not there
            return [levels]

        features: Features = self.cache.fetch([image_key(image, f"{self.preprocessing} video")], encode)[0]
        return features

    def prepare_slice(self, image: Image) -> "torch.Tensor":
        """Return the model's input ``[3, S, S]`` for a slice, H×W×3 uint8."""
        if not self.bicubic:
            return self.prepare(image)
        import torch
        from PIL import Image as Pillow

        side = self.image_size
        stretched = np.asarray(Pillow.fromarray(image).resize((side, side), Pillow.Resampling.BICUBIC))
        pixels = torch.from_numpy(stretched / 255).float().permute(2, 0, 1)
        middle, spread = (torch.tensor(values).reshape(3, 1, 1) for values in (self.mean, self.std))
        return ((pixels - middle) / spread).to(self.device)
