"""Checks on the shape of what is paid: full at perfect, falling with the error, the same at every size."""

from collections.abc import Iterator, Sequence
from operator import itemgetter

from medground.geometry import box_iou, disc_iou
from medground.rewards.audit.evidence import SMALLER, AuditFinding, Evidence, pay, prefers_wrong, top
from medground.rewards.audit.probes import CURVES, errors
from medground.rewards.audit.scenes import CURVED, LARGE, LONG, REFERENCE, TINY, Scene
from medground.rewards.rubric import Score
from medground.rewards.term import Term

FLAT = 0.02
"""A term still in full at a larger relative error than this has a plateau before perfect."""
EXACT, RASTER = 0.02, 0.25
"""How far a term may differ between sizes of one scene, as a share of its pay: geometry, and masks of whole pixels."""


def dead(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that no term says the same to everything."""
    for term in evidence.terms:
        values = {score.terms[term.label].value for _, score in evidence.everything()}
        if len(values) == 1:
            (value,) = values
            what = "never says anything" if value is None else f"is {value:g} whatever the answer"
            yield AuditFinding("dead term", term.label, f"{term.label} {what}.", {"value": value})


def flipped(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that no term pays a far wrong answer more than a perfect one."""
    for term in evidence.terms:
        if prefers_wrong(evidence, term):
            right, wrong = (pay(evidence.probes[REFERENCE.name][name], term.label) for name in ("perfect", "far wrong"))
            yield AuditFinding(
                "sign flipped",
                term.label,
                f"{term.label} pays {right:.4g} for a perfect answer and {wrong:.4g} for one that is far wrong.",
                {"perfect": right, "far_wrong": wrong},
            )


def full_marks(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that a perfect answer earns the maximum."""
    maximum, total = evidence.maximum, evidence.perfect.total
    if maximum is None or total is None:
        return
    for scene in (REFERENCE, LARGE, LONG):
        score = evidence.probes[scene.name]["perfect"]
        if score.total is not None and score.total < maximum - 1e-6:
            short = _short(evidence, score, None)
            yield AuditFinding(
                "not full marks",
                "rubric",
                f"A perfect answer earns {score.total:.4g} of {maximum:g}; short: {', '.join(short)}.",
                {"perfect": score.total, "maximum": maximum, "terms": short},
            )
            return


def small_targets(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that a perfect answer about a small target earns what one about a large target earns."""
    large, small = evidence.perfect, evidence.probes[TINY.name]["perfect"]
    if large.total is None or small.total is None or small.total >= large.total - 1e-6:
        return
    short = _short(evidence, small, large)
    yield AuditFinding(
        "small target capped",
        "rubric",
        f"A perfect answer about a target of {TINY.sides[0]:g} px earns {small.total:.4f} at most, about a large one "
        f"{large.total:.4f}; short: {', '.join(short)}.",
        {"small": small.total, "large": large.total, "terms": short},
    )


def _short(evidence: Evidence, score: Score, other: Score | None) -> list[str]:
    """Return the terms that pay less than their maximum, or than they pay in another score."""
    labels = []
    for term in evidence.terms:
        value = pay(score, term.label)
        goal = top(term) if other is None else pay(other, term.label)
        if value is not None and goal is not None and value < goal - 1e-6:
            labels.append(term.label)
    return labels


def monotone(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that no term pays more for a larger error."""
    for term in evidence.terms:
        if prefers_wrong(evidence, term):
            continue
        slack = (0.02 if term.needs_mask else 1e-6) * abs(term.weight)
        curves = [(name, evidence.along(scene, name, term.label) or []) for scene in CURVED for name in CURVES]
        rise, index, name = max(((*_rise(values), name) for name, values in curves), key=itemgetter(0))
        if rise > slack:
            error = float(errors(CURVES[name])[index])
            yield AuditFinding(
                "not monotone",
                term.label,
                f"{term.label} pays {rise:.3g} more at a larger error: {name} by {error:.2f} of the target's sides.",
                {"rise": rise, "curve": name, "error": error},
            )


def plateau(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that no term pays in full before the answer is perfect."""
    for term in evidence.terms:
        if prefers_wrong(evidence, term):
            continue
        ends = [(scene, name, _flat_until(evidence, scene, name, term)) for scene in CURVED for name in CURVES]
        plateaus = [(_overlap(scene, name, end), name, end) for scene, name, end in ends if end > FLAT]
        if plateaus:
            overlap, name, end = min(plateaus, key=itemgetter(0))
            measure = "box IoU" if CURVES[name].part == "box" else "disc IoU"
            yield AuditFinding(
                "plateau",
                term.label,
                f"{term.label} pays in full down to a {measure} of {overlap:.2f}: {name} by {end:.2f}.",
                {"overlap": overlap, "measure": measure, "curve": name, "error": end},
            )


def blind(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that the rubric as a whole falls along every curve of a part it looks at: some term sees each way of being wrong.

    Turned points are let off: all diameters of a disc are one answer to a rubric that asks for discs.
    """
    looked = {part for part in ("box", "points") for t in evidence.terms if evidence.looks_at(t.label, part)}
    for name, curve in CURVES.items():
        if len(evidence.terms) < 2 or curve.part not in looked or name == "points turned":
            continue
        totals = [[score.total for score in evidence.curves[scene.name][name]] for scene in CURVED]
        known = [[total for total in line if total is not None] for line in totals]
        if all(line and max(line) - min(line) < 1e-6 for line in known):
            yield AuditFinding(
                "blind",
                name,
                f"The total stays at {known[0][0]:.4g} however large the error: {name}.",
                {"total": known[0][0], "curve": name},
            )


def _flat_until(evidence: Evidence, scene: Scene, name: str, term: Term) -> float:
    """Return the largest error on a curve at which a term that depends on it still pays as for a perfect answer."""
    values = evidence.along(scene, name, term.label)
    if not values or values[0] - min(values) < 0.05 * abs(term.weight):
        return 0.0
    below = next(index for index, value in enumerate(values) if value < values[0] - 1e-6)
    steps, curve = errors(CURVES[name]), CURVES[name]
    low, high = float(steps[below - 1]), float(steps[below])
    if high <= FLAT:
        return 0.0
    for _ in range(12):
        middle = (low + high) / 2
        (score,) = evidence.scorer.score(scene, [evidence.scorer.write(curve.at(scene, middle))])
        value = pay(score, term.label)
        low, high = (middle, high) if value is not None and value >= values[0] - 1e-6 else (low, middle)
    return low


def _overlap(scene: Scene, name: str, error: float) -> float:
    curve = CURVES[name]
    answer = curve.at(scene, error)
    if curve.part == "box":
        return float(box_iou(answer.box, scene.truth.box))
    return float(disc_iou(answer.points, scene.truth.points))


def absolute_pixels(evidence: Evidence) -> Iterator[AuditFinding]:
    """Check that the same relative error earns the same on a small target as on a large one."""
    for term in evidence.terms:
        limit = (RASTER if term.needs_mask else EXACT) * abs(term.weight)
        gaps = [
            (_gap(evidence.along(LARGE, name, term.label), evidence.along(scene, name, term.label)), name, scene.name)
            for scene in SMALLER
            for name in CURVES
            if scene.name in evidence.curves
        ]
        gap, name, where = max(gaps, key=itemgetter(0), default=(0.0, "", ""))
        if gap > limit:
            yield AuditFinding(
                "absolute pixels",
                term.label,
                f"{term.label} differs by up to {gap:.3g} between a large and a {where} target at the same relative "
                f"error ({name}): something in it counts pixels.",
                {"gap": gap, "curve": name, "scene": where},
            )


def _rise(values: Sequence[float]) -> tuple[float, int]:
    """Return the largest rise along a curve above what came before it, and where; 0 where it never rises."""
    rises = [(value - min(values[:index]), index) for index, value in enumerate(values) if index > 0]
    return max(rises, key=itemgetter(0), default=(0.0, 0))


def _gap(one: Sequence[float] | None, other: Sequence[float] | None) -> float:
    """Return the largest difference along two curves; 0 where one of them is not known."""
    return max((abs(a - b) for a, b in zip(one or (), other or (), strict=False)), default=0.0)
