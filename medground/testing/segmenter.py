"""Does a segmenter keep the promises of `medground.protocols.Segmenter`?"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from medground.errors import SegmenterError
from medground.hookspecs import Factory
from medground.protocols import BatchSegmenter, Segmenter
from medground.testing import examples
from medground.testing.encodings import EncodingCalls
from medground.testing.findings import ConformanceReport, Findings, check_kinds, make, shown
from medground.types import Image, Mask, SpatialPrompt

HOSTILE_SIZE = (37, 53)
TOLERANCE = 0.001
"""Share of pixels (and size of score) that may change with the batch: a library may sum floats in another order."""


def check_segmenter(factory: Factory, /, *, quick: bool = False, **arguments: Any) -> ConformanceReport:
    """Check a segmenter made by ``factory(**arguments)`` on odd images, prompts of every kind, and nonsense.

    How often it encodes is counted, as far as `medground.testing.encodings` sees it.

    Args:
        factory: makes the segmenter.
        quick: try one image instead of four, and no batches.
        arguments: of the factory.

    Returns:
        what was tried.

    Raises:
        ConformanceError: listing every promise broken.
    """
    findings = Findings(factory)
    segmenter = make(factory, arguments, findings)
    accepts = check_kinds(factory if isinstance(factory, type) else segmenter, "accepts", findings)
    checks: dict[str, Callable[[], None]] = {
        "one encoding of every new image, none without prompts": partial(_check_encodings, segmenter, accepts, findings)
    }
    for what, image in list(examples.images().items())[: 1 if quick else None]:
        prompts = examples.prompts(_size(image), accepts)
        words = f"{what}, {len(prompts)} prompts together, alone, backwards, and none"
        checks[words] = partial(_check_image, segmenter, what, image, prompts, findings)
    for what, prompt in examples.hostile_prompts(HOSTILE_SIZE).items():
        checks[what] = partial(_check_hostile, segmenter, what, prompt, findings)
    for what, prompt in examples.wordy_prompts().items() if "text" in accepts else ():
        checks[what] = partial(_check_wordy, segmenter, what, prompt, findings)
    if hasattr(segmenter, "segment_batch") and not quick:
        checks["three images in a batch, one of them without prompts"] = partial(
            _check_batch, segmenter, accepts, findings
        )
    findings.run(checks)
    return findings.conclude()


def _check_encodings(segmenter: Segmenter, accepts: frozenset[str], findings: Findings) -> None:
    """Segment new pictures in one array, with one prompt, one prompt, several and none, and count."""
    size = (64, 48)
    buffer, prompts = examples.image(size), examples.other_prompts(size, accepts)
    runs: list[EncodingCalls] = []
    known: dict[int, Any] = {}
    for number, count in enumerate((1, 1, len(prompts), 0)):
        buffer[:] = examples.image(size, seed=10 + number)
        with (
            findings.attempt("prompts of the kinds it accepts are answered", f"{count} prompts"),
            EncodingCalls(known) as run,
        ):
            segmenter.segment(buffer, prompts[:count])
        runs.append(run)
    first, second, several, none = (run.repeats(*(other for other in runs[:3] if other is not run)) for run in runs)
    for name, count in several.items():
        alone = max(1, first.get(name, 0), second.get(name, 0))
        findings.expect(
            count <= alone,
            "an image is encoded once, however many prompts there are",
            f"{name} takes it {count} times for {len(prompts)} prompts, {alone} for one",
        )
    encoders = [name for name in none if name in second]
    findings.expect(not encoders, "no prompts give [] without encoding", f"{''.join(encoders[:1])} takes the image")
    if first:
        findings.expect(
            second or several,
            "another image is encoded anew, also in the same array",
            f"{next(iter(first))} takes the first one alone",
        )


def _check_image(
    segmenter: Segmenter, what: str, image: Image, prompts: Sequence[SpatialPrompt], findings: Findings
) -> None:
    before = image.copy()
    with findings.attempt("no prompts give []", what):
        none = segmenter.segment(image, [])
        findings.expect(none == [], "no prompts give []", f"{what} gives {shown(none)}")
    with findings.attempt("prompts of the kinds it accepts are answered", what):
        masks = segmenter.segment(image, prompts)
        findings.expect(np.array_equal(image, before), "segment leaves the image as it is", what)
        if not _well_formed(masks, prompts, image, what, findings):
            return
        again = segmenter.segment(image, prompts)
        findings.expect(_same(masks, again, 0.0), "the same prompts give the same masks every time", what)
        backwards = segmenter.segment(image, list(reversed(prompts)))
        findings.expect(
            _same(masks, list(reversed(backwards)), TOLERANCE), "masks do not depend on the order of the prompts", what
        )
        for number, prompt in enumerate(prompts):
            alone = segmenter.segment(image, [prompt])
            findings.expect(
                _same(masks[number : number + 1], alone, TOLERANCE),
                "a mask does not depend on the prompts beside its own",
                f"{' and '.join(sorted(prompt.kinds))} on a {what}",
            )


def _check_hostile(segmenter: Segmenter, what: str, prompt: SpatialPrompt, findings: Findings) -> None:
    image = examples.image(HOSTILE_SIZE)
    with findings.attempt("any prompt gives a mask or a SegmenterError", what):
        try:
            masks = segmenter.segment(image, [prompt])
        except SegmenterError:
            return
        _well_formed(masks, [prompt], image, what, findings)


def _check_wordy(segmenter: Segmenter, what: str, prompt: SpatialPrompt, findings: Findings) -> None:
    image = examples.image(HOSTILE_SIZE)
    with findings.attempt("any text gives a mask, an empty one where nothing of the kind is there", what):
        _well_formed(segmenter.segment(image, [prompt]), [prompt], image, what, findings)


def _check_batch(segmenter: BatchSegmenter, accepts: frozenset[str], findings: Findings) -> None:
    images = [examples.image((37, 53)), examples.image((64, 48), seed=1), examples.image((37, 53), seed=2)]
    prompts: list[list[SpatialPrompt]] = [examples.prompts(_size(image), accepts) for image in images]
    prompts[1] = []
    promise = "segment_batch gives what segment gives for each image"
    with findings.attempt(promise):
        together = segmenter.segment_batch(images, prompts)
        if not findings.expect(
            len(together) == len(images), promise, f"{len(together)} lists for {len(images)} images"
        ):
            return
        for number, (image, image_prompts, masks) in enumerate(zip(images, prompts, together, strict=True)):
            if _well_formed(masks, image_prompts, image, "segment_batch", findings):
                alone = segmenter.segment(image, image_prompts)
                findings.expect(_same(masks, alone, TOLERANCE), promise, f"image {number} differs")
        none = segmenter.segment_batch([], [])
        findings.expect(none == [], promise, f"no images give {shown(none)}")


def _well_formed(masks: Any, prompts: Sequence[SpatialPrompt], image: Image, what: str, findings: Findings) -> bool:
    listed = isinstance(masks, list) and len(masks) == len(prompts)
    if not findings.expect(listed, "segment gives a list with one mask per prompt", f"{what} gives {shown(masks)}"):
        return False
    return all([_well_formed_mask(mask, image, what, findings) for mask in masks])


def _well_formed_mask(mask: Any, image: Image, what: str, findings: Findings) -> bool:
    if not findings.expect(isinstance(mask, Mask), "segment gives medground.Mask", shown(mask)):
        return False
    shaped = isinstance(mask.data, np.ndarray) and mask.data.shape == _size(image) and mask.data.dtype == np.bool_
    wanted = f"{shown(mask.data)} for a {_size(image)} image ({what})"
    good = findings.expect(shaped, "a mask is bool at the size of its image", wanted)
    finite = isinstance(mask.score, float) and np.isfinite(mask.score)
    good &= findings.expect(finite, "a mask's score is a finite float", f"{mask.score!r} ({what})")
    share = mask.presence is None or (isinstance(mask.presence, float) and 0 <= mask.presence <= 1)
    good &= findings.expect(share, "a mask's presence is a float in [0, 1], or None", f"{mask.presence!r} ({what})")
    tuple_ = isinstance(mask.instances, tuple)
    good &= findings.expect(tuple_, "a mask's instances are a tuple", f"{shown(mask.instances)} ({what})")
    if not good or not mask.instances:
        return good
    if not all([_well_formed_mask(one, image, f"an instance, {what}", findings) for one in mask.instances]):
        return False
    joined = np.array_equal(np.any([one.data for one in mask.instances], axis=0), mask.data)
    return findings.expect(joined, "a mask is the union of its instances", what)


def _same(first: Sequence[Mask], second: Sequence[Mask], tolerance: float) -> bool:
    return len(first) == len(second) and all(
        a.data.shape == b.data.shape
        and float(np.mean(a.data != b.data)) <= tolerance
        and abs(a.score - b.score) <= tolerance
        and (a.presence is None) == (b.presence is None)
        and abs((a.presence or 0) - (b.presence or 0)) <= tolerance
        and _same(a.instances, b.instances, tolerance)
        for a, b in zip(first, second, strict=True)
    )


def _size(image: Image) -> tuple[int, int]:
    return image.shape[0], image.shape[1]
