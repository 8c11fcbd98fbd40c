"""Does a segmenter keep the promises of `medground.protocols.VolumeSegmenter`?"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from medground.errors import SegmenterError, ViewError
from medground.geometry import Size, mask_dice
from medground.hookspecs import Factory
from medground.images.array_volume import array_volume
from medground.images.volume import Volume
from medground.protocols import VolumeSegmenter
from medground.protocols.volumes import SlicePrompts
from medground.segmenters.slices import Slices
from medground.testing import examples
from medground.testing.encodings import EncodingCalls
from medground.testing.findings import ConformanceReport, Findings, make, shown
from medground.types import Mask, SpatialPrompt

SIDES = (36, 44, 12)
"""Voxels of the example; the axes go to the back, the right and the head."""
AFFINE = np.array([[0.0, -2.0, 0.0, 40.0], [1.5, 0.0, 0.0, -30.0], [0.0, 0.0, 4.0, 5.0], [0.0, 0.0, 0.0, 1.0]])
PLANES = ("axial", "coronal")
RETURNED = 0.8
"""The least Dice of a mask on a key slice and what is returned there: it goes through the model's own resolution."""


def check_volume_segmenter(factory: Factory, /, *, quick: bool = False, **arguments: Any) -> ConformanceReport:
    """Check a segmenter made by ``factory(**arguments)`` on volumes: masks, independence of targets, stops, encodings.

    `check_segmenter` checks how it segments single images, if it does.

    Args:
        factory: makes the segmenter.
        quick: try one plane instead of two.
        arguments: of the factory.

    Returns:
        what was tried.

    Raises:
        ConformanceError: listing every promise broken.
    """
    findings = Findings(factory)
    segmenter = make(factory, arguments, findings)
    volume = example_volume()
    accepts = getattr(segmenter, "accepts", None)
    if not findings.expect(isinstance(accepts, frozenset), "accepts is a frozenset", shown(accepts)):
        return findings.conclude()
    checks: dict[str, Callable[[], None]] = {}
    for plane in PLANES[: 1 if quick else None]:
        checks[f"three targets on {plane} slices, together, alone, and none"] = partial(
            _check_targets, segmenter, volume, plane, findings
        )
    checks["a reach of two slices, and of none"] = partial(_check_reach, segmenter, volume, findings)
    checks["one encoding of every slice for any number of targets"] = partial(
        _check_encodings, segmenter, volume, findings
    )
    checks["targets without prompts, masks of another size, slices that are not there"] = partial(
        _check_refusals, segmenter, volume, findings
    )
    findings.run(checks)
    return findings.conclude()


def example_volume() -> Volume:
    """Return a bright ellipsoid on noise."""
    places = np.moveaxis(np.indices(SIDES), 0, -1)
    inside = (((places + 0.5) / SIDES - 0.5) / (0.3, 0.25, 0.4)) ** 2
    noise = np.random.default_rng(0).integers(0, 60, SIDES)
    return array_volume((noise + 150 * (inside.sum(axis=-1) <= 1)).astype(np.int16), AFFINE, id="example")


def _masks(volume: Volume, plane: str) -> list[SlicePrompts]:
    """Return the prompts of three targets, as masks: two on one key slice, one on two.

    The last mask is a view whose rows run backwards in memory, as slices of volumes are.
    """
    slices = Slices(volume, plane)
    whole = examples.target(slices.size).regions[0].mask
    assert whole is not None
    part = whole.data.copy()
    part[: slices.size[0] // 2] = False
    middle, other = slices.count // 2, slices.count // 2 + 3
    return [{middle: whole}, {middle: Mask(data=part)}, {middle: whole, other: Mask(data=part[::-1].copy()[::-1])}]


def _check_targets(segmenter: VolumeSegmenter, volume: Volume, plane: str, findings: Findings) -> None:
    prompts, slices = _masks(volume, plane), Slices(volume, plane)
    with findings.attempt("no targets give []"):
        none = segmenter.propagate(volume, [], plane=plane)
        findings.expect(none == [], "no targets give []", shown(none))
    with findings.attempt("masks on key slices are answered", plane):
        masks = segmenter.propagate(volume, prompts, plane=plane)
        if not _well_formed(masks, prompts, volume, findings):
            return
        for mask, mine in zip(masks, prompts, strict=True):
            for index, prompt in mine.items():
                assert isinstance(prompt, Mask)
                dice = float(mask_dice(slices.take(mask, index), prompt.data))
                promise = "a mask comes back on its key slice"
                findings.expect(dice >= RETURNED, promise, f"{plane} slice {index}: Dice {dice:.2f}")
        again = segmenter.propagate(volume, prompts, plane=plane)
        findings.expect(_same(masks, again), "the same prompts give the same masks every time", plane)
        alone = [segmenter.propagate(volume, [mine], plane=plane)[0] for mine in prompts]
        findings.expect(_same(masks, alone), "a target's mask depends on no other target", plane)
    spatial = examples.prompts(slices.size, segmenter.accepts)
    with findings.attempt("prompts of the kinds it accepts are answered", plane):
        keyed: list[SlicePrompts] = [{slices.count // 2: prompt} for prompt in spatial]
        _well_formed(segmenter.propagate(volume, keyed, plane=plane), keyed, volume, findings)


def _check_reach(segmenter: VolumeSegmenter, volume: Volume, findings: Findings) -> None:
    prompts, slices = _masks(volume, "axial"), Slices(volume, "axial")
    for count in (2, 0):
        promise = "no slice farther than reach from the key slices has a mask"
        with findings.attempt(promise):
            masks = segmenter.propagate(volume, prompts, plane="axial", reach=count * slices.step)
            for mask, mine in zip(masks, prompts, strict=True):
                filled = np.flatnonzero(np.moveaxis(mask, slices.axis, 0).any(axis=(1, 2)))
                outside = [int(index) for index in filled if not min(mine) - count <= index <= max(mine) + count]
                findings.expect(not outside, promise, f"slices {outside} for a reach of {count} slices")


def _check_encodings(segmenter: VolumeSegmenter, volume: Volume, findings: Findings) -> None:
    """Follow one target, then four that differ, on new slices, and count."""
    known: dict[int, Any] = {}
    counts: list[dict[str, int]] = []
    for count in (1, 4):
        fresh = array_volume(volume.array() + count, AFFINE)
        slices = Slices(fresh, "axial")
        boxes = examples.other_prompts(slices.size, frozenset({"box"}))[:count]
        takes_boxes = "box" in segmenter.accepts
        prompts: list[SlicePrompts] = [
            {slices.count // 2: box if takes_boxes else _filled(box, slices.size)} for box in boxes
        ]
        with findings.attempt("several targets are followed together"), EncodingCalls(known) as run:
            segmenter.propagate(fresh, prompts, plane="axial")
        counts.append(run.repeats())
    one, several = counts
    for name, number in several.items():
        findings.expect(
            number <= max(1, one.get(name, 0)),
            "a slice is encoded once, however many targets there are",
            f"{name} takes it {number} times for 4 targets, {one.get(name, 0)} for one",
        )


def _filled(prompt: SpatialPrompt, size: Size) -> Mask:
    """Return the box of a prompt as a mask."""
    assert prompt.box is not None
    x1, y1, x2, y2 = (int(value) for value in prompt.box)
    mask = np.zeros(size, bool)
    mask[y1:y2, x1:x2] = True
    return Mask(data=mask)


def _check_refusals(segmenter: VolumeSegmenter, volume: Volume, findings: Findings) -> None:
    slices = Slices(volume, "axial")
    good = _masks(volume, "axial")[0]
    (mask,) = good.values()
    cases: dict[str, tuple[SlicePrompts, str, type[Exception]]] = {
        "a target without prompts": ({}, "axial", SegmenterError),
        "a mask of another size": ({0: Mask(data=np.ones((2, 3), bool))}, "axial", SegmenterError),
        "a slice that is not there": ({slices.count: mask}, "axial", ViewError),
        "a slice below 0": ({-1: mask}, "axial", ViewError),
        "a plane that does not exist": (good, "diagonal", ViewError),
    }
    for what, (prompts, plane, expected) in cases.items():
        try:
            segmenter.propagate(volume, [good, prompts], plane=plane)
        except Exception as error:  # noqa: BLE001 the kind of error is what is checked
            wanted = isinstance(error, expected)
            findings.expect(wanted, f"{what} is a {expected.__name__}", f"it raises {type(error).__name__}: {error}")
        else:
            findings.expect(False, f"{what} is a {expected.__name__}", "it is answered")


def _well_formed(masks: Any, prompts: Sequence[SlicePrompts], volume: Volume, findings: Findings) -> bool:
    listed = isinstance(masks, list) and len(masks) == len(prompts)
    if not findings.expect(listed, "propagate gives a list with one mask per target", shown(masks)):
        return False
    return all(
        findings.expect(
            isinstance(mask, np.ndarray) and mask.shape == volume.shape and mask.dtype == np.bool_,
            "a mask is bool, [i, j, k] in the voxels of the volume",
            f"{shown(mask)} for a volume of {volume.shape}",
        )
        for mask in masks
    )


def _same(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
