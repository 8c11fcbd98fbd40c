"""Batching for segmenter authors: prompts grouped for batched decoding, bounded memory, images encoded once.

NumPy and the standard library only. A predictor that already has ``set_image`` and ``predict`` becomes a segmenter
through `PredictorSegmenter`; an encoder and a decoder of your own become one through `segment_together`.
"""

import hashlib
import logging
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from medground.errors import SegmenterError, SegmenterMemoryError
from medground.types import Image, Mask, PromptKind, SpatialPrompt, unread_kinds

log = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")


def image_key(image: Image, preprocessing: str = "") -> str:
    """Return a key of an image by its content, and what is done to it before encoding: equal pixels give equal keys.

    >>> black = np.zeros((2, 3, 3), np.uint8)
    >>> image_key(black) == image_key(black.copy()), image_key(black) == image_key(black.reshape(3, 2, 3))
    (True, False)
    """
    digest = hashlib.blake2b(f"{preprocessing}|{image.shape}|{image.dtype}|".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def by_kind(prompts: Sequence[SpatialPrompt]) -> dict[tuple[bool, int, bool, int], list[int]]:
    """Return the positions of the prompts that can be decoded in one call.

    These have the same ``(has a box, number of points, has a text, number of exemplars)``.

    Prompts are grouped and never padded: in SAM and SAM 2 a padding point is one more attention token and changes the
    mask. Labels are data of the call, so clicks of either label share a group.

    >>> point = ((4.0, 5.0),)
    >>> by_kind([SpatialPrompt(box=(0, 0, 9, 9)), SpatialPrompt(points=point), SpatialPrompt(box=(1, 1, 3, 3))])
    {(True, 0, False, 0): [0, 2], (False, 1, False, 0): [1]}
    """
    groups: dict[tuple[bool, int, bool, int], list[int]] = {}
    for position, prompt in enumerate(prompts):
        key = (prompt.box is not None, len(prompt.points), "text" in prompt.kinds, len(prompt.exemplars))
        groups.setdefault(key, []).append(position)
    return groups


def refuse_unread(prompts: Iterable[SpatialPrompt], accepts: frozenset[PromptKind], model: str) -> None:
    """Stop where a prompt carries a kind that a model has no input for: left out, it would change the question.

    Raises:
        SegmenterError: naming the model.
    """
    for prompt in prompts:
        if unread := unread_kinds(prompt.kinds, accepts):
            raise SegmenterError(f"{model} cannot read {' and '.join(unread)}: {prompt}")


def out_of_memory(error: BaseException) -> bool:
    """Return True if an error says that memory ran out: Python's, or PyTorch's on any device."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    # PyTorch's CPU allocator raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def in_chunks(items: Sequence[Item], work: Callable[[list[Item]], Sequence[Result]], *, size: int) -> list[Result]:
    """Return what `work` gives for every item, called with at most `size` of them; half as many whenever memory runs out.

    Raises:
        SegmenterMemoryError: if memory runs out for a single item.
    """
    done: list[Result] = []
    while len(done) < len(items):
        chunk = list(items[len(done) : len(done) + size])
        try:
            results = work(chunk)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if len(chunk) == 1:
                raise SegmenterMemoryError(
                    f"the segmenter ran out of memory on a single item: {str(error).splitlines()[0:1]}",
                    hint="use a smaller model, another device, or dtype bfloat16",
                ) from error
            size = len(chunk) // 2
            log.warning("out of memory for %d items at once; going on with %d", len(chunk), size)
            _release()
            continue
        if len(results) != len(chunk):
            raise SegmenterError(f"asked for {len(chunk)} results, the segmenter gave {len(results)}")
        done.extend(results)
    return done


def _release() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def size_of(value: Any) -> int:
    """Return the bytes of the arrays or tensors in a value, however nested in tuples, lists and dictionaries.

    >>> size_of({"low": np.zeros(10, np.float32), "high": [np.zeros(5, np.float32)]})
    60
    """
    if isinstance(value, Mapping):
        return sum(size_of(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return sum(size_of(item) for item in value)
    return int(value.nbytes)


@dataclass(slots=True)
class CacheStats:
    """Counters of an `EmbeddingCache`."""

    hits: int = 0
    """Images that needed no encoding."""
    misses: int = 0
    """Images encoded."""
    evictions: int = 0
    """Embeddings dropped to stay within the bound."""
    bytes: int = 0
    """Held now."""

    @property
    def hit_rate(self) -> float:
        """hits / (hits + misses); 0 before the first image."""
        return self.hits / max(1, self.hits + self.misses)


class EmbeddingCache:
    """Image embeddings, least recently used first out, never more than `max_bytes` of them.

    A pickled copy starts empty: embeddings are cheap to make again and may live on a device.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.stats = CacheStats()
        self._embeddings: OrderedDict[str, Any] = OrderedDict()

    def fetch(self, keys: Sequence[str], encode: Callable[[list[int]], Sequence[Any]]) -> list[Any]:
        """Return the embedding of each key, in order; `encode` is called once, with the positions of those not held.

        A key that occurs twice is encoded once. Nothing held or missing is ever encoded when all are hits.
        """
        embeddings: dict[str, Any] = {}
        missing: dict[str, int] = {}
        for position, key in enumerate(keys):
            if key in self._embeddings:
                self._embeddings.move_to_end(key)
                embeddings[key] = self._embeddings[key]
            else:
                missing.setdefault(key, position)
        if missing:
            positions = list(missing.values())
            embeddings.update(zip(missing, encode(positions), strict=True))
            for key in missing:
                self._keep(key, embeddings[key])
        self.stats.misses += len(missing)
        self.stats.hits += len(keys) - len(missing)
        log.debug("embedding cache: %s, hit rate %.0f %%", asdict(self.stats), 100 * self.stats.hit_rate)
        return [embeddings[key] for key in keys]

    def _keep(self, key: str, embedding: Any) -> None:
        size = size_of(embedding)
        if size > self.max_bytes:
            return
        self._embeddings[key] = embedding
        self.stats.bytes += size
        while self.stats.bytes > self.max_bytes:
            _, dropped = self._embeddings.popitem(last=False)
            self.stats.bytes -= size_of(dropped)
            self.stats.evictions += 1

    def __len__(self) -> int:
        return len(self._embeddings)

    def __reduce__(self) -> tuple[type["EmbeddingCache"], tuple[int]]:
        return type(self), (self.max_bytes,)


def segment_together(
    images: Sequence[Image],
    prompts: Sequence[Sequence[SpatialPrompt]],
    *,
    cache: EmbeddingCache,
    preprocessing: str,
    encode: Callable[[list[Image]], Sequence[Any]],
    decode: Callable[[list[Image], list[Any], list[tuple[int, SpatialPrompt]]], Sequence[Result]],
    encode_batch: int,
    decode_batch: int,
) -> list[list[Result]]:
    """Return what `decode` gives for every prompt of every image: images encoded once, prompts of one kind decoded together.

    Images without prompts are not encoded. Images go through in blocks, so that no more embeddings are alive than the
    cache holds and one block needs.

    Args:
        images: as the segmenter got them.
        prompts: those of each image.
        cache: embeddings held between calls.
        preprocessing: what tells embeddings of one image apart, for example the input size.
        encode: embeddings of some images, in order.
        decode: answers for (index of its image, prompt) of one kind; it gets a block's images and embeddings.
        encode_batch: images per call of `encode`, halved for a call that runs out of memory.
        decode_batch: prompts per call of `decode`, halved likewise; also the images of a block.

    Raises:
        SegmenterError: if a prompt holds numbers that are not finite, or memory runs out.
    """
    for prompt in (prompt for mine in prompts for prompt in mine):
        pairs_and_boxes = [prompt.box or (), *prompt.points, *prompt.exemplars]
        if not np.isfinite([number for numbers in pairs_and_boxes for number in numbers]).all():
            raise SegmenterError(f"a prompt needs finite numbers, not {prompt}")
    prompted = [index for index, mine in enumerate(prompts) if mine]
    answers: list[list[Result]] = [[] for _ in prompts]
    for start in range(0, len(prompted), decode_batch):
        block = prompted[start : start + decode_batch]
        pixels = [images[index] for index in block]

        def encoded(some: list[int], pixels: list[Image] = pixels) -> Sequence[Any]:
            return encode([pixels[position] for position in some])

        embeddings = cache.fetch(
            [image_key(image, preprocessing) for image in pixels],
            lambda missing: in_chunks(missing, encoded, size=encode_batch),
        )
        items = [(position, prompt) for position, index in enumerate(block) for prompt in prompts[index]]
        results: dict[int, Result] = {}
        for same in by_kind([prompt for _, prompt in items]).values():

            def decoded(
                some: list[tuple[int, SpatialPrompt]], pixels: list[Image] = pixels, embeddings: list[Any] = embeddings
            ) -> Sequence[Result]:
                return decode(pixels, embeddings, some)

            results.update(
                zip(same, in_chunks([items[index] for index in same], decoded, size=decode_batch), strict=True)
            )
        for index, (position, _) in enumerate(items):
            answers[block[position]].append(results[index])
    return answers


class PredictorSegmenter:
    """A segmenter around any predictor with ``set_image`` and ``predict``, SAM style.

    Derive from it, say in `accepts` which prompts the model was trained for, and build the predictor in the
    constructor. The predictor is called once per prompt, ``predict(point_coords, point_labels, box,
    multimask_output)``, with float32 arrays ``[K, 2]``, ``[K]`` and ``[4]`` or None, and answers with masks
    ``[C, H, W]``, scores ``[C]`` and anything more; the mask with the best score is taken. An image is set only when it
    differs from the one set last.

    Args:
        predictor: the object to call.
    """

    accepts: ClassVar[frozenset[PromptKind]] = frozenset({"box", "points", "negative_points"})
    multimask: ClassVar[bool] = True
    """True: the predictor returns several masks, of which the best is taken."""

    def __init__(self, predictor: Any) -> None:
        self.predictor = predictor
        self._set: str | None = None

    def segment(self, image: Image, prompts: Sequence[SpatialPrompt]) -> list[Mask]:
        """As `medground.protocols.Segmenter.segment`."""
        if not prompts:
            return []
        refuse_unread(prompts, self.accepts, type(self.predictor).__name__)
        key = image_key(image)
        if key != self._set:
            self._set = None
            self.predictor.set_image(np.ascontiguousarray(image))
            self._set = key
        return [self._one(prompt, image.shape[:2]) for prompt in prompts]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.predictor).__name__})"

    def _one(self, prompt: SpatialPrompt, size: tuple[int, ...]) -> Mask:
        masks, scores, *_ = self.predictor.predict(
            point_coords=np.array(prompt.points, np.float32) if prompt.points else None,
            point_labels=np.array(prompt.labels, np.int32) if prompt.points else None,
            box=None if prompt.box is None else np.array(prompt.box, np.float32),
            multimask_output=self.multimask,
        )
        best = int(np.argmax(scores))
        data = np.asarray(masks[best]).astype(bool)
        if data.shape != size:
            raise SegmenterError(f"the predictor gave a mask of {data.shape} for an image of {size}")
        return Mask(data=data, score=float(scores[best]))
