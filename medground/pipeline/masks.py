"""The mask stage: every image is handed to the segmenter once, with all prompts about it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from medground.errors import RunError, SegmenterMemoryError
from medground.pipeline.cache import StageCache
from medground.protocols import BatchSegmenter, Segmenter
from medground.segmenters.batching import image_key
from medground.types import Fault, Grounding, Image, Mask, Rollout, SpatialPrompt, union

log = logging.getLogger(__name__)
Answers = Sequence[tuple[Image, Sequence[SpatialPrompt | None]]]
"""Images, each with the prompts of one answer about it."""


@dataclass(frozen=True, slots=True)
class Segmented:
    """The masks of one answer, or why the segmenter gave none."""

    masks: tuple[Mask | None, ...] = ()
    """One per prompt, in order; None where nothing was to be prompted, or the segmenter failed."""
    fault: Fault | None = None
    cause: str = ""

    @property
    def mask(self) -> Mask | None:
        """The union of the masks; None unless every prompt has one."""
        return union(self.masks)

    def of(self, grounding: Grounding) -> "Segmented":
        """Return it as the outcome of an answer: a region that gave no prompt is a fault, where nothing else is wrong."""
        missing = [number for number, mask in enumerate(self.masks, start=1) if mask is None]
        if self.fault is not None or grounding.fault is not None or not missing:
            return self
        cause = f"region {missing[0]} lacks what the recipe prompts the segmenter with"
        return replace(self, fault=Fault.NO_PROMPT, cause=cause)

    def put_into(self, rollout: Rollout) -> Rollout:
        """Return a rollout with these masks, and their fault if it has none."""
        outcome = self.of(rollout.grounding)
        return replace(
            rollout,
            grounding=rollout.grounding.with_masks(self.masks),
            fault=rollout.fault or outcome.fault,
            cause=rollout.cause or outcome.cause,
        )


def segment(
    segmenter: Callable[[], Segmenter], answers: Answers, cache: StageCache | None, feeds: str
) -> list[Segmented]:
    """Return one outcome per answer, with one mask per prompt.

    Args:
        segmenter: gives it; called only where something is not in the cache.
        answers: what is to be segmented.
        cache: where masks are kept, if at all.
        feeds: stands for the segmenter in the cache.
    """
    outcomes: list[list[Segmented]] = [[Segmented((None,))] * len(prompts) for _, prompts in answers]
    waiting: dict[str, list[tuple[int, int, SpatialPrompt]]] = {}
    images: dict[str, Image] = {}
    for answer, (image, prompts) in enumerate(answers):
        present = [(index, prompt) for index, prompt in enumerate(prompts) if prompt is not None]
        key = image_key(image) if present else ""
        for index, prompt in present:
            stored = cache.mask(feeds, key, prompt) if cache else None
            if stored is not None:
                outcomes[answer][index] = Segmented((stored,))
            else:
                images[key] = image
                waiting.setdefault(key, []).append((answer, index, prompt))
    jobs = {key: [prompt for _, _, prompt in entries] for key, entries in waiting.items()}
    for key, results in (_segment_all(segmenter(), images, jobs) if jobs else {}).items():
        for (answer, index, prompt), outcome in zip(waiting[key], results, strict=True):
            outcomes[answer][index] = outcome
            if cache and outcome.mask is not None:
                cache.put_mask(feeds, key, prompt, outcome.mask)
    return [_joined(parts) for parts in outcomes]


def check_counts(who: str, given: Sequence[int], wanted: Sequence[int]) -> None:
    """Stop where a component gives another number of answers than it was asked for.

    Raises:
        RunError: naming the component.
    """
    if list(given) != list(wanted):
        raise RunError(
            f"the {who} returned a wrong number of answers: {list(given)} for {list(wanted)}",
            hint=f"run medground.testing.check_{who} on it",
        )


def _segment_all(
    segmenter: Segmenter, images: Mapping[str, Image], prompts: Mapping[str, list[SpatialPrompt]]
) -> dict[str, list[Segmented]]:
    keys = list(images)
    if len(keys) > 1 and isinstance(segmenter, BatchSegmenter):
        try:
            masks = segmenter.segment_batch([images[key] for key in keys], [prompts[key] for key in keys])
        except Exception as error:  # noqa: BLE001  one image may be to blame: only its samples are to carry the fault
            log.warning("a batch of %d images failed, each is segmented alone: %s", len(keys), error)
        else:
            check_counts("segmenter", [len(group) for group in masks], [len(prompts[key]) for key in keys])
            return {key: [Segmented((mask,)) for mask in group] for key, group in zip(keys, masks, strict=True)}
    return {key: _segment_one(segmenter, images[key], prompts[key]) for key in keys}


def _segment_one(segmenter: Segmenter, image: Image, prompts: list[SpatialPrompt]) -> list[Segmented]:
    """Return the outcome of every prompt about one image; those of a call that fails are halved until one is to blame."""
    try:
        masks = segmenter.segment(image, prompts)
    except Exception as error:  # noqa: BLE001  a third-party segmenter may raise anything; counted, with its cause
        if len(prompts) == 1:
            return [_failed(segmenter, error)]
        log.info("%d prompts about an image failed together, half of them are tried: %s", len(prompts), error)
        half = len(prompts) // 2
        return _segment_one(segmenter, image, prompts[:half]) + _segment_one(segmenter, image, prompts[half:])
    check_counts("segmenter", [len(masks)], [len(prompts)])
    return [Segmented((mask,)) for mask in masks]


def _failed(segmenter: Segmenter, error: Exception) -> Segmented:
    if isinstance(error, MemoryError | SegmenterMemoryError):
        return Segmented((None,), Fault.OUT_OF_MEMORY, f"out of memory: {error}")
    return Segmented((None,), Fault.SEGMENTER, f"{type(segmenter).__name__} failed: {type(error).__name__}: {error}")


def _joined(parts: Sequence[Segmented]) -> Segmented:
    """Join the outcomes of one answer's prompts; the first fault is the answer's."""
    failed = next((part for part in parts if part.fault is not None), Segmented())
    return Segmented(tuple(mask for part in parts for mask in part.masks), failed.fault, failed.cause)
