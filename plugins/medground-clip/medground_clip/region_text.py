"""The region/text term: does the predicted region look like the target's category?"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medground.arguments import Count
from medground.devices import Device, device_of, require_modules
from medground.errors import RecipeError
from medground.types import Fault, Image, RewardResult, Rollout

Vector = NDArray[np.float32]
Crop = tuple[int, int, int, int]
"""x1, y1, x2, y2 in whole pixels of the image."""


class RegionText:
    """Similarity of the image under the predicted box and the category's text: (1 + cos)/2, in [0, 1].

    cos is the cosine of the two open_clip embeddings. Abstains where the sample has no ``category`` label; an answer
    without a box inside the image earns 0. The predicted box is rounded outwards to whole pixels, cropped, and padded
    to the model's square. Nothing is loaded before the first rollout, and nothing is ever downloaded.

    Cosines lie in a narrow band. Observe this term (weight 0) or give it a small weight: it measures what a region looks like,
    not where the target is.

    Args:
        checkpoint: a folder with ``open_clip_config.json`` and its weights (and its tokenizer, where the text tower is
            a Hugging Face one), such a folder in the local hub cache as ``owner/name``, or a weights file, which needs
            `model`. Read with safetensors, or as tensors only.
        model: the open_clip architecture of a weights file, for example ``ViT-B-32``.
        template: the text to compare with; ``{}`` stands for the category.
        device: ``auto`` (CUDA where torch can use it, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ...
        batch_size: crops per forward pass.
        cache_size: region embeddings kept, by image content and region; the oldest unused go first.
    """

    needs_mask: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __init__(
        self,
        *,
        checkpoint: str | None = None,
        model: str | None = None,
        template: str = "a medical image of {}",
        device: Device = "auto",
        batch_size: Count = 64,
        cache_size: Count = 4096,
    ) -> None:
        if checkpoint is None:
            raise RecipeError("region_text needs a checkpoint", hint="give a folder or a weights file of open_clip")
        if "{}" not in template:
            raise RecipeError(
                f"template {template!r} does not name the category", hint="write {} where the category belongs"
            )
        if batch_size < 1 or cache_size < 1:
            raise RecipeError("batch_size and cache_size must be at least 1")
        require_modules("open_clip")  # fails now, not at the first rollout, and so does a wrong device
        if device not in ("auto", "cpu"):
            device_of(device)
        self.checkpoint, self.model, self.template, self.device = str(checkpoint), model, template, device
        self.batch_size, self.cache_size = batch_size, cache_size
        self._clear()

    def __repr__(self) -> str:
        return f"RegionText(checkpoint={self.checkpoint!r}, model={self.model!r}, template={self.template!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._clear()

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return the value for one rollout."""
        return self.batch([rollout])[0]

    def batch(self, rollouts: Sequence[Rollout]) -> list[RewardResult]:
        """Return one result per rollout, in order; hash each image once and embed each distinct region once."""
        results: list[RewardResult | None] = [None] * len(rollouts)
        pairs: dict[int, tuple[str, tuple[str, Crop]]] = {}
        images: dict[str, Image] = {}
        digests: dict[int, str] = {}
        for index, rollout in enumerate(rollouts):
            category = rollout.sample.labels.get("category")
            crop = _crop(rollout)
            if not category:
                results[index] = RewardResult(None, {"undefined": "the sample has no category"})
            elif isinstance(crop, RewardResult):
                results[index] = crop
            else:
                image = rollout.sample.query.image
                if id(image) not in digests:
                    digests[id(image)] = _digest(image)
                digest = digests[id(image)]
                images[digest] = image
                pairs[index] = (self.template.replace("{}", category), (digest, crop))
        if pairs:
            texts = self._text_vectors({text for text, _ in pairs.values()})
            regions = self._region_vectors([key for _, key in pairs.values()], images)
            for index, (text, key) in pairs.items():
                cosine = float(texts[text] @ regions[key])
                results[index] = RewardResult(min(max((1 + cosine) / 2, 0.0), 1.0), {"cosine": cosine})
        return [result for result in results if result is not None]

    def _clear(self) -> None:
        self._network: Any = None
        self._texts: OrderedDict[Any, Vector] = OrderedDict()
        self._regions: OrderedDict[Any, Vector] = OrderedDict()

    def _load(self) -> Any:
        if self._network is None:
            from medground_clip.network import Network

            self._network = Network(checkpoint=self.checkpoint, model=self.model, device=device_of(self.device))
        return self._network

    def _text_vectors(self, texts: set[str]) -> dict[str, Vector]:
        def embed(missing: list[str]) -> list[Vector]:
            return list(self._load().texts(missing))

        return _cached(self._texts, sorted(texts), embed, self.batch_size, self.cache_size)

    def _region_vectors(self, keys: list[tuple[str, Crop]], images: dict[str, Image]) -> dict[tuple[str, Crop], Vector]:
        def embed(missing: list[tuple[str, Crop]]) -> list[Vector]:
            crops = [images[digest][y1:y2, x1:x2] for digest, (x1, y1, x2, y2) in missing]
            return list(self._load().regions(crops))

        return _cached(self._regions, list(dict.fromkeys(keys)), embed, self.batch_size, self.cache_size)


def _cached(
    cache: OrderedDict[Any, Vector], keys: list[Any], embed: Any, batch_size: int, limit: int
) -> dict[Any, Any]:
    """Return the vector of every key, from the cache or computed in batches; the cache keeps the last `limit` used."""
    vectors = {key: cache[key] for key in keys if key in cache}
    for key in vectors:
        cache.move_to_end(key)
    missing = [key for key in keys if key not in vectors]
    for start in range(0, len(missing), batch_size):
        batch = missing[start : start + batch_size]
        vectors.update(zip(batch, embed(batch), strict=True))
    for key in missing:
        cache[key] = vectors[key]
    while len(cache) > limit:
        cache.popitem(last=False)
    return vectors


def _crop(rollout: Rollout) -> Crop | RewardResult:
    """Return the predicted box in whole pixels, inside the image; or the result where there is none."""
    if len(rollout.grounding.regions) > 1:
        return RewardResult(None, {"undefined": "the answer has several regions"})
    crop = _pixels(rollout)
    return RewardResult(0.0, {"fault": str(crop)}) if isinstance(crop, Fault) else crop


def _pixels(rollout: Rollout) -> Crop | Fault:
    region, fault = rollout.grounding.region, rollout.grounding.fault
    if region is None or region.box is None:
        return fault or Fault.MISSING_KEYS
    box = region.box
    if not all(map(math.isfinite, box)):
        return Fault.NONFINITE
    if not box.valid:
        return Fault.INVERTED_BOX if min(box.width, box.height) < 0 else Fault.DEGENERATE_BOX
    inside = box.clip(rollout.sample.query.size)
    if not inside.valid:
        return Fault.OUT_OF_FRAME
    return math.floor(inside.x1), math.floor(inside.y1), math.ceil(inside.x2), math.ceil(inside.y2)


def _digest(image: Image) -> str:
    content = hashlib.blake2b(np.ascontiguousarray(image), digest_size=16)
    content.update(str(image.shape).encode())
    return content.hexdigest()
