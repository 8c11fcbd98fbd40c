"""The base of segmenters that encode an image once and decode prompts against its embedding, as SAM and SAM 2 do.

torch is imported when something is segmented, never by importing this module.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from medground.devices import check_dtype, device_of, require_modules
from medground.errors import RecipeError, SegmenterError
from medground.licences import Published
from medground.segmenters.batching import CacheStats, EmbeddingCache, refuse_unread, segment_together
from medground.segmenters.weights import check_whole, find_weights
from medground.types import SPATIAL_KINDS, Image, Mask, PromptKind, SpatialPrompt

Answer = TypeVar("Answer")
Result = TypeVar("Result")


class EncodingSegmenter(ABC, Generic[Answer]):
    """A segmenter of an encoder, whose embeddings are kept, and a decoder of prompts, which gives an `Answer` per prompt.

    A subclass calls this constructor with its ``locals()``, and implements `encode`, `decode` and `to_mask`; they run
    without gradients.

    Args:
        arguments: the variables of the subclass's constructor; those of its parameters are its repr, and what a pickled
            copy is built with. ``cache_mib`` among them bounds the embeddings kept, in MiB, 256 where there is none;
            ``encode_batch`` are the images per call of `encode`, 1; ``decode_batch`` the prompts per call of `decode`, 32.
            Both are halved for a call that runs out of memory.
        preprocessing: names what is done to an image before it is encoded; part of the key of its embedding.
    """

    accepts: ClassVar[frozenset[PromptKind]]
    model: ClassVar[str]
    """Names it in errors."""
    published: ClassVar[tuple[Published, ...]] = ()
    """The authors' weights, where they are known; a recipe that names no checkpoint means the first."""

    def __init__(self, arguments: Mapping[str, Any], *, preprocessing: str) -> None:
        self._arguments = {name: arguments[name] for name in inspect.signature(type(self)).parameters}
        self.preprocessing = preprocessing
        self.cache = EmbeddingCache(int(arguments.get("cache_mib", 256) * 2**20))
        self.encode_batch, self.decode_batch = arguments.get("encode_batch", 1), arguments.get("decode_batch", 32)

    def locate(self, checkpoint: str | None, *, device: str, dtype: str = "float32", needs: Sequence[str] = ()) -> Path:
        """Return where the weights lie, and set `device`, after everything is checked that needs no loading.

        Args:
            checkpoint: a file, a folder, or a hub id in the local cache; None is the first of `published`.
            device: the word of a recipe.
            dtype: likewise.
            needs: libraries beside torch and safetensors that must be installed.

        Raises:
            ModuleNotFoundError: if a library is not installed.
            InputError: if there are no such weights, or a file is not whole.
            RecipeError: if there is no such device or dtype, or no checkpoint is named and none is published.
        """
        require_modules("torch", "safetensors", *needs)
        if checkpoint is None and not self.published:
            raise RecipeError(f"{self.model} has no published weights", hint="set segmenter.checkpoint=FILE")
        path = find_weights(checkpoint or self.published[0].id)
        check_whole(path)
        check_dtype(dtype)
        self.device = device_of(device)
        return path

    @abstractmethod
    def encode(self, images: Sequence[Image]) -> Sequence[Any]:
        """Return the embedding of every image.

        Raises:
            SegmenterError: if it is no H x W x 3 uint8 image.
        """

    @abstractmethod
    def decode(
        self, images: Sequence[Image], embeddings: Sequence[Any], items: Sequence[tuple[int, SpatialPrompt]]
    ) -> Iterable[Answer]:
        """Yield the answer to every prompt.

        Args:
            images: some images.
            embeddings: theirs.
            items: prompts of one kind, each with the index of its image.
        """

    @abstractmethod
    def to_mask(self, answer: Answer) -> Mask:
        """Return an answer as a mask."""

    @property
    def stats(self) -> CacheStats:
        """Hits and misses of the embedding cache: misses are images encoded."""
        return self.cache.stats

    def segment(self, image: Image, prompts: Sequence[SpatialPrompt]) -> list[Mask]:
        """As `medground.protocols.Segmenter.segment`."""
        return self.segment_batch([image], [prompts])[0]

    def segment_batch(self, images: Sequence[Image], prompts: Sequence[Sequence[SpatialPrompt]]) -> list[list[Mask]]:
        """As `medground.protocols.BatchSegmenter.segment_batch`.

        Every image is encoded once, and not at all if the cache holds it; prompts of one kind are decoded together,
        whatever image they belong to.
        """
        return self.run(images, prompts, self.to_mask)

    def run(
        self,
        images: Sequence[Image],
        prompts: Sequence[Sequence[SpatialPrompt]],
        finish: Callable[[Answer], Result],
    ) -> list[list[Result]]:
        """Return ``finish(answer)`` of every prompt of every image.

        Raises:
            SegmenterError: if the model fails, or cannot read a prompt.
        """
        import torch

        refuse_unread((prompt for mine in prompts for prompt in mine), self.accepts, self.model)

        def decode(
            block: Sequence[Image], embeddings: Sequence[Any], items: Sequence[tuple[int, SpatialPrompt]]
        ) -> list[Result]:
            return [finish(answer) for answer in self.decode(block, embeddings, items)]

        try:
            with torch.inference_mode():
                return segment_together(
                    images,
                    prompts,
                    cache=self.cache,
                    preprocessing=self.preprocessing,
                    encode=self.encode,
                    decode=decode,
                    encode_batch=self.encode_batch,
                    decode_batch=self.decode_batch,
                )
        except RuntimeError as error:
            raise SegmenterError(f"{self.model} failed: {(str(error).splitlines() or [''])[0]}") from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._arguments.items())})"

    def __reduce__(self) -> tuple[Callable[[], "EncodingSegmenter[Answer]"], tuple[()]]:
        return partial(type(self), **self._arguments), ()


Map = tuple[NDArray[np.float32], float]
"""A map, H x W at the size of its image, and a score."""


class EmbeddingSegmenter(EncodingSegmenter[Map]):
    """An `EncodingSegmenter` whose `decode` yields a map and a score; the mask is where the map is above `threshold`."""

    accepts: ClassVar[frozenset[PromptKind]] = SPATIAL_KINDS
    threshold: float = 0.0
    """A pixel is foreground above this value of what `decode` gives."""

    def to_mask(self, answer: Map) -> Mask:
        """As `EncodingSegmenter.to_mask`."""
        values, score = answer
        return Mask(data=values > self.threshold, score=score)

    def logits(self, image: Image, prompts: Sequence[SpatialPrompt]) -> list[Map]:
        """Return what `segment` cuts at `threshold`, H x W float32 at the image's size, and the score, per prompt."""
        return self.run([image], [prompts], lambda answer: answer)[0]
