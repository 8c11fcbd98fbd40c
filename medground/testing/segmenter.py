"""Does a segmenter keep the promises of `medground.protocols.Segmenter`?"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from medground.errors import SegmenterError
from medground.hookspecs import Factory
from medground.testing import examples
from medground.testing.findings import Findings, check_kinds, make
from medground.types import Image, Mask, SpatialPrompt

TOLERANCE = 0.001
"""Share of pixels (and size of score) that may change with the batch: a library may sum floats in another order."""


def check_segmenter(factory: Factory, /, **arguments: Any) -> None:
    """Check a segmenter made by ``factory(**arguments)`` on odd images, prompts of every kind, and nonsense.

    Raises:
        ConformanceError: listing every promise broken.
    """
    findings = Findings(factory)
    segmenter = make(factory, arguments, findings)
    accepts = check_kinds(factory if isinstance(factory, type) else segmenter, "accepts", findings)
    for what, image in examples.images().items():
        _check_image(segmenter, what, image, examples.prompts(_size(image), accepts), findings)
    _check_hostile(segmenter, findings)
    if hasattr(segmenter, "segment_batch"):
        _check_batch(segmenter, accepts, findings)
    findings.conclude()


def _check_image(segmenter: Any, what: str, image: Image, prompts: Sequence[SpatialPrompt], findings: Findings) -> None:
    before = image.copy()
    with findings.attempt(f"segment with no prompts on a {what}"):
        none = segmenter.segment(image, [])
        findings.expect(none == [], f"no prompts must give [], not {none!r}")
    if not prompts:
        return
    with findings.attempt(f"segment with prompts it accepts on a {what}"):
        masks = segmenter.segment(image, prompts)
        findings.expect(np.array_equal(image, before), f"segment changes the image it is given ({what})")
        if not _well_formed(masks, prompts, image, what, findings):
            return
        again = segmenter.segment(image, prompts)
        findings.expect(_same(masks, again, 0.0), f"the same prompts give other masks the second time ({what})")
        backwards = segmenter.segment(image, list(reversed(prompts)))
        findings.expect(
            _same(masks, list(reversed(backwards)), TOLERANCE), f"masks depend on the order of the prompts ({what})"
        )
        for number, prompt in enumerate(prompts):
            alone = segmenter.segment(image, [prompt])
            findings.expect(
                _same(masks[number : number + 1], alone, TOLERANCE),
                f"the mask of a prompt depends on the prompts beside it ({what}, {sorted(prompt.kinds)})",
            )


def _check_hostile(segmenter: Any, findings: Findings) -> None:
    image = examples.image((37, 53))
    for what, prompt in examples.hostile_prompts((37, 53)).items():
        with findings.attempt(f"segment with {what} (a mask or a SegmenterError is expected)"):
            try:
                masks = segmenter.segment(image, [prompt])
            except SegmenterError:
                continue
            _well_formed(masks, [prompt], image, what, findings)


def _check_batch(segmenter: Any, accepts: frozenset[str], findings: Findings) -> None:
    images = [examples.image((37, 53)), examples.image((64, 48), seed=1), examples.image((37, 53), seed=2)]
    prompts: list[list[SpatialPrompt]] = [examples.prompts(_size(image), accepts) for image in images]
    prompts[1] = []
    with findings.attempt("segment_batch"):
        together = segmenter.segment_batch(images, prompts)
        if not findings.expect(
            len(together) == len(images), f"segment_batch gives {len(together)} lists for {len(images)} images"
        ):
            return
        for image, asked, masks in zip(images, prompts, together, strict=True):
            if _well_formed(masks, asked, image, "segment_batch", findings):
                findings.expect(
                    _same(masks, segmenter.segment(image, asked), TOLERANCE),
                    "segment_batch gives other masks than segment",
                )
        findings.expect(segmenter.segment_batch([], []) == [], "segment_batch of nothing must give []")


def _well_formed(masks: Any, prompts: Sequence[SpatialPrompt], image: Image, what: str, findings: Findings) -> bool:
    found = len(findings.broken)
    if not isinstance(masks, list) or len(masks) != len(prompts):
        findings.expect(
            False, f"{len(prompts)} prompts must give a list of as many masks, not {_shown(masks)} ({what})"
        )
        return False
    for mask in masks:
        if not findings.expect(isinstance(mask, Mask), f"segment must give medground.Mask, not {_shown(mask)}"):
            continue
        good = isinstance(mask.data, np.ndarray) and mask.data.shape == _size(image) and mask.data.dtype == np.bool_
        findings.expect(good, f"a mask must be {_size(image)} bool, not {_shown(mask.data)} ({what})")
        finite = isinstance(mask.score, float) and np.isfinite(mask.score)
        findings.expect(finite, f"a mask's score must be a finite float, not {mask.score!r} ({what})")
    return len(findings.broken) == found


def _same(first: Sequence[Mask], second: Sequence[Mask], tolerance: float) -> bool:
    return len(first) == len(second) and all(
        a.data.shape == b.data.shape
        and float(np.mean(a.data != b.data)) <= tolerance
        and abs(a.score - b.score) <= tolerance
        for a, b in zip(first, second, strict=True)
    )


def _size(image: Image) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype}"
    return f"{len(value)} in a {type(value).__name__}" if hasattr(value, "__len__") else repr(value)
