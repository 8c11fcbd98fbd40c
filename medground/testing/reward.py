"""Does a reward term keep the promises of `medground.protocols.Reward`?"""

import contextlib
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from medground.errors import RunError
from medground.frames import pixels
from medground.geometry import Box, Point
from medground.hookspecs import Factory
from medground.protocols import Reward
from medground.testing import examples
from medground.testing.findings import ConformanceReport, Findings, make, shown
from medground.types import (
    Completion,
    Fault,
    Grounding,
    Mask,
    Region,
    RewardResult,
    Rollout,
    Sample,
    Target,
)

SIZE = (37, 53)
UNMASKED = ("no mask", "a truth without a mask and no mask")
"""Usable answers that no segmenter has seen: a term that needs the mask may call that a `RunError`."""


QUICK = (
    "the perfect answer",
    "an answer elsewhere",
    "points alone",
    "an empty mask",
    "no mask",
    "nothing, for no_answer",
)
"""The rollouts of a quick check."""


def check_reward(factory: Factory, /, *, quick: bool = False, **arguments: Any) -> ConformanceReport:
    """Check a term made by ``factory(**arguments)`` on good, poor, faulty and half-missing rollouts.

    Args:
        factory: makes the term.
        quick: try six rollouts, and no batch.
        arguments: of the factory.

    Returns:
        what was tried.

    Raises:
        ConformanceError: listing every promise broken.
    """
    findings = Findings(factory)
    term = make(factory, arguments, findings)
    needs_mask = getattr(term, "needs_mask", None)
    findings.expect(isinstance(needs_mask, bool), "needs_mask is True or False", shown(needs_mask))
    limits = _limits(term, findings)
    with findings.attempt("it can be pickled, as worker processes do"):
        pickle.loads(pickle.dumps(term))
    rollouts = {what: rollout for what, rollout in example_rollouts().items() if not quick or what in QUICK}
    results: dict[str, RewardResult] = {}

    def score(what: str) -> None:
        with findings.attempt("every rollout can be scored", what), _wiring(needs_mask is True and what in UNMASKED):
            _check_one(term, what, rollouts[what], limits, results, findings)

    checks: dict[str, Callable[[], None]] = {f"{what}, twice": partial(score, what) for what in rollouts}
    if needs_mask is False:
        checks["all of them without their masks"] = partial(_check_mask_unread, term, rollouts, results, findings)
    if hasattr(term, "batch") and not quick:
        checks["all of them in a batch, and none"] = partial(_check_batch, term, rollouts, results, findings)
    findings.run(checks)
    return findings.conclude()


def example_rollouts() -> dict[str, Rollout]:
    """Return the rollouts of one sample, by what they hold: the perfect answer, poor ones, every fault, everything missing."""
    (truth,) = examples.target(SIZE).regions
    sample = Sample(query=examples.query(SIZE), target=examples.target(SIZE), labels={"modality": "CT"})
    assert truth.mask is not None
    far = (Point(1.5, 1.5), Point(4.5, 2.5))
    groundings = {
        "the perfect answer": _answer(truth.box, truth.points),
        "the points the other way round": _answer(truth.box, truth.points[::-1]),
        "an answer elsewhere": _answer(Box(0, 0, 6, 4), far),
        "a box alone": _answer(truth.box, ()),
        "points alone": _answer(None, truth.points),
        "one point alone": _answer(None, truth.points[:1]),
        "three points": _answer(truth.box, (*truth.points, far[0])),
        "coincident points": replace(_answer(truth.box, truth.points[:1] * 2), fault=Fault.POINTS_EQUAL),
        "a box without area": replace(_answer(Box(5, 5, 5, 5), truth.points), fault=Fault.DEGENERATE_BOX),
        "an inverted box": replace(_answer(Box(40, 30, 10, 8), truth.points), fault=Fault.INVERTED_BOX),
        "an answer far outside": replace(_answer(Box(-900, -900, 9000, 9000), far), fault=Fault.OUT_OF_FRAME),
        "an answer without thoughts": replace(_answer(truth.box, truth.points), think=None, think_level=None),
    }
    masks = {"perfect": truth.mask.data, "empty": np.zeros(SIZE, bool), "full": np.ones(SIZE, bool)}
    rollouts = {}
    for what, grounding in groundings.items():
        shape = "perfect" if what == "the perfect answer" else "full"
        rollouts[what] = _rollout(sample, grounding, Mask(data=masks[shape], score=0.5))
    rollouts["an empty mask"] = _rollout(sample, groundings["the perfect answer"], Mask(data=masks["empty"], score=0.0))
    rollouts["no mask"] = _rollout(sample, groundings["the perfect answer"], None)
    unmasked = replace(sample, target=Target(regions=(replace(truth, mask=None),)))
    rollouts["a truth without a mask"] = replace(rollouts["the perfect answer"], sample=unmasked)
    rollouts["a truth without a mask and no mask"] = replace(rollouts["no mask"], sample=unmasked)
    for fault in Fault:
        nothing = Grounding(fault=fault, think="", think_level=0.0, answer_level=0.0)
        rollout = _rollout(sample, nothing, None, text="")
        rollouts[f"nothing, for {fault}"] = rollout if fault.of_model else replace(rollout, fault=fault, cause="a test")
    return rollouts


def _wiring(forgiven: bool) -> contextlib.AbstractContextManager[None]:
    return contextlib.suppress(RunError) if forgiven else contextlib.nullcontext()


def _answer(box: Box | None, points: tuple[Point, ...]) -> Grounding:
    raw = {"bbox": None if box is None else list(box), "points": [list(point) for point in points]}
    return Grounding(
        regions=(Region(box=box, points=points),),
        think="It is brighter.",
        think_level=1.0,
        answer_level=1.0,
        raw=raw,
    )


def _rollout(sample: Sample, grounding: Grounding, mask: Mask | None, text: str | None = None) -> Rollout:
    written = f"<think>{grounding.think}</think><answer>{grounding.raw}</answer>" if text is None else text
    masked = grounding.with_masks([mask] * len(grounding.regions))
    return Rollout(sample=sample, completion=Completion(text=written, frame=pixels(SIZE)), grounding=masked)


def _limits(term: Any, findings: Findings) -> tuple[float, float]:
    value: Any = getattr(term, "range", None)
    good = isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, int | float) for v in value)
    low, high = value if good else (0.0, 0.0)
    if not findings.expect(low < high, "range is (smallest, largest)", shown(value)):
        return -math.inf, math.inf
    return float(low), float(high)


def _check_one(
    term: Reward,
    what: str,
    rollout: Rollout,
    limits: tuple[float, float],
    results: dict[str, RewardResult],
    findings: Findings,
) -> None:
    before = np.zeros(0, bool) if rollout.mask is None else rollout.mask.data.copy()
    result = term(rollout)
    if not _well_formed(result, what, limits, findings):
        return
    results[what] = result
    again = term(rollout)
    findings.expect(
        _value(again) == result.value,
        "the same rollout scores the same every time",
        f"{what} scores {result.value}, then {_value(again)}",
    )
    if rollout.mask is not None:
        findings.expect(
            np.array_equal(rollout.mask.data, before), "scoring leaves the rollout as it is", f"the mask of {what}"
        )


def _well_formed(result: Any, what: str, limits: tuple[float, float], findings: Findings) -> bool:
    if not findings.expect(
        isinstance(result, RewardResult), "a term gives a RewardResult", f"{shown(result)} for {what}"
    ):
        return False
    value = result.value
    findings.expect(
        isinstance(result.details, Mapping) and all(isinstance(key, str) for key in result.details),
        "details are a mapping with string keys",
        shown(result.details),
    )
    if value is None:
        return True
    if not findings.expect(
        isinstance(value, float | int) and math.isfinite(value),
        "a value is a finite float or None",
        f"{what} scores {value!r}",
    ):
        return False
    return findings.expect(
        limits[0] <= value <= limits[1],
        "a value lies in the range declared",
        f"{what} scores {value}, outside {limits}",
    )


def _check_mask_unread(
    term: Reward, rollouts: Mapping[str, Rollout], results: Mapping[str, RewardResult], findings: Findings
) -> None:
    for what, result in results.items():
        with findings.attempt("every rollout can be scored", f"{what} without its mask"):
            bare = _value(term(replace(rollouts[what], grounding=rollouts[what].grounding.with_masks([]))))
            findings.expect(
                bare == result.value,
                "a term with needs_mask = False does not read the mask",
                f"{what} scores {result.value} with it and {bare} without",
            )


def _check_batch(
    term: Any, rollouts: Mapping[str, Rollout], results: Mapping[str, RewardResult], findings: Findings
) -> None:
    names = list(results)
    promise = "batch gives what calling gives for each rollout"
    with findings.attempt(promise):
        together = term.batch([rollouts[name] for name in reversed(names)])
        if not findings.expect(
            len(together) == len(names), promise, f"{len(together)} results for {len(names)} rollouts"
        ):
            return
        for name, result in zip(reversed(names), together, strict=True):
            findings.expect(
                _close(_value(result), results[name].value),
                promise,
                f"{name} scores {_value(result)} in a batch, {results[name].value} alone",
            )
        none = term.batch([])
        findings.expect(none == [], promise, f"no rollouts give {shown(none)}")


def _close(first: Any, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return math.isclose(first, second, rel_tol=1e-4, abs_tol=1e-5)


def _value(result: Any) -> Any:
    return getattr(result, "value", result)
