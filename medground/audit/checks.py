"""The judgements of an audit. Each check reads the evidence and names what it finds; sound rubrics leave all silent."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from medground.audit.evidence import ASKED, SMALLER, Evidence, pay, top
from medground.audit.probes import CURVES, WRONG_PROBES, errors
from medground.audit.scenes import CURVED, LARGE, LONG, REFERENCE, TINY, Scene
from medground.geometry import box_iou, disc_iou
from medground.rubric import Score, Term

FLAT = 0.02
"""A term still in full at a larger relative error than this has a plateau before perfect."""
FORMAT = 0.25
"""The most of the maximum that a well-formed answer in the wrong place may earn."""
EXACT, RASTER = 0.02, 0.25
"""How far a term may differ between sizes of one scene, as a share of its pay: geometry, and masks of whole pixels."""

WORDS = {"nan": "NaN", "infinite": "an infinity", "released": "what was NaN or infinite as released"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect, by name."""

    check: str
    """Which promise is broken."""
    subject: str
    """The term or probe that breaks it; ``rubric`` where it is all of it."""
    says: str
    """One sentence with the figures in it."""
    figures: dict[str, Any] = field(default_factory=dict)


def judge(evidence: Evidence) -> list[Finding]:
    """All findings, in the order of the checks."""
    return [finding for check in CHECKS for finding in check(evidence)]


def numbers(evidence: Evidence) -> Iterator[Finding]:
    """Every term answers every probe with a finite number, or abstains."""
    for term in evidence.terms:
        failed = [
            (asked, failure)
            for asked, score in evidence.everything()
            if (failure := score.terms[term.label].failure) is not None
        ]
        if failed:
            asked, failure = failed[0]
            what = WORDS.get(failure.kind)
            how = f"gives {what}" if what else f"fails ({failure.cause})"
            yield Finding(
                "not a finite number" if what else "fails",
                term.label,
                f"{term.label} {how} on {len(failed)} of the answers asked, first on {asked}.",
                {"count": len(failed), "kind": failure.kind, "first": asked},
            )


def dead(evidence: Evidence) -> Iterator[Finding]:
    """No term says the same to everything."""
    for term in evidence.terms:
        said = {score.terms[term.label].value for _, score in evidence.everything()}
        if len(said) == 1:
            (value,) = said
            what = "never says anything" if value is None else f"is {value:g} whatever the answer"
            yield Finding("dead term", term.label, f"{term.label} {what}.", {"value": value})


def flipped(evidence: Evidence) -> Iterator[Finding]:
    """No term pays a far wrong answer more than a perfect one."""
    for term in evidence.terms:
        if _flipped(evidence, term):
            right, wrong = (pay(evidence.probes[REFERENCE.name][name], term.label) for name in ("perfect", "far wrong"))
            yield Finding(
                "sign flipped",
                term.label,
                f"{term.label} pays {right:.4g} for a perfect answer and {wrong:.4g} for one that is far wrong.",
                {"perfect": right, "far_wrong": wrong},
            )


def _flipped(evidence: Evidence, term: Term) -> bool:
    for scene in ASKED:
        right, wrong = (pay(evidence.probes[scene.name][name], term.label) for name in ("perfect", "far wrong"))
        if right is None or wrong is None or wrong <= right + 1e-6:
            return False
    return True


def full_marks(evidence: Evidence) -> Iterator[Finding]:
    """A perfect answer earns the maximum."""
    maximum, total = evidence.maximum, evidence.perfect.total
    if maximum is None or total is None:
        return
    for scene in (REFERENCE, LARGE, LONG):
        score = evidence.probes[scene.name]["perfect"]
        if score.total is not None and score.total < maximum - 1e-6:
            short = _short(evidence, score, None)
            yield Finding(
                "not full marks",
                "rubric",
                f"A perfect answer earns {score.total:.4g} of {maximum:g}; short: {', '.join(short)}.",
                {"perfect": score.total, "maximum": maximum, "terms": short},
            )
            return


def small_targets(evidence: Evidence) -> Iterator[Finding]:
    """A perfect answer about a small target earns what one about a large target earns."""
    large, small = evidence.perfect, evidence.probes[TINY.name]["perfect"]
    if large.total is None or small.total is None or small.total >= large.total - 1e-6:
        return
    short = _short(evidence, small, large)
    yield Finding(
        "small target capped",
        "rubric",
        f"A perfect answer about a target of {TINY.sides[0]:g} px earns {small.total:.4f} at most, about a large one "
        f"{large.total:.4f}; short: {', '.join(short)}.",
        {"small": small.total, "large": large.total, "terms": short},
    )


def _short(evidence: Evidence, score: Score, other: Score | None) -> list[str]:
    """The terms that pay less than their maximum, or than they pay in another score."""
    found = []
    for term in evidence.terms:
        value = pay(score, term.label)
        goal = top(term) if other is None else pay(other, term.label)
        if value is not None and goal is not None and value < goal - 1e-6:
            found.append(term.label)
    return found


def monotone(evidence: Evidence) -> Iterator[Finding]:
    """No term pays more for a larger error."""
    for term in evidence.terms:
        if _flipped(evidence, term):
            continue
        slack = (0.02 if term.needs_mask else 1e-6) * abs(term.weight)
        worst: tuple[float, str, float] | None = None
        for scene in CURVED:
            for name, curve in CURVES.items():
                values = evidence.along(scene, name, term.label) or []
                for index in range(1, len(values)):
                    rise = values[index] - min(values[:index])
                    if rise > slack and (worst is None or rise > worst[0]):
                        worst = rise, name, float(errors(curve)[index])
        if worst:
            rise, name, error = worst
            yield Finding(
                "not monotone",
                term.label,
                f"{term.label} pays {rise:.3g} more at a larger error: {name} by {error:.2f} of the target's sides.",
                {"rise": rise, "curve": name, "error": error},
            )


def plateau(evidence: Evidence) -> Iterator[Finding]:
    """No term pays in full before the answer is perfect."""
    for term in evidence.terms:
        if _flipped(evidence, term):
            continue
        widest: tuple[float, str, float] | None = None
        for scene in CURVED:
            for name in CURVES:
                end = _flat_until(evidence, scene, name, term)
                if end > FLAT:
                    overlap = _overlap(scene, name, end)
                    if widest is None or overlap < widest[0]:
                        widest = overlap, name, end
        if widest:
            overlap, name, end = widest
            measure = "box IoU" if CURVES[name].part == "box" else "disc IoU"
            yield Finding(
                "plateau",
                term.label,
                f"{term.label} pays in full down to a {measure} of {overlap:.2f}: {name} by {end:.2f}.",
                {"overlap": overlap, "measure": measure, "curve": name, "error": end},
            )


def _flat_until(evidence: Evidence, scene: Scene, name: str, term: Term) -> float:
    """The largest error on a curve at which a term that depends on it still pays as for a perfect answer."""
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
        (score,) = evidence.stage.score(scene, [evidence.stage.write(curve.at(scene, middle))])
        value = pay(score, term.label)
        low, high = (middle, high) if value is not None and value >= values[0] - 1e-6 else (low, middle)
    return low


def _overlap(scene: Scene, name: str, error: float) -> float:
    curve = CURVES[name]
    answer = curve.at(scene, error)
    if curve.part == "box":
        return float(box_iou(answer.box, scene.truth.box))
    return float(disc_iou(answer.points, scene.truth.points))


def absolute_pixels(evidence: Evidence) -> Iterator[Finding]:
    """The same relative error earns the same on a small target as on a large one."""
    for term in evidence.terms:
        limit = (RASTER if term.needs_mask else EXACT) * abs(term.weight)
        widest: tuple[float, str, str] | None = None
        for scene in SMALLER:
            for name in CURVES if scene.name in evidence.curves else ():
                one, other = (evidence.along(where, name, term.label) for where in (LARGE, scene))
                gap = max((abs(a - b) for a, b in zip(one or (), other or (), strict=False)), default=0.0)
                if gap > limit and (widest is None or gap > widest[0]):
                    widest = gap, name, scene.name
        if widest:
            gap, name, where = widest
            yield Finding(
                "absolute pixels",
                term.label,
                f"{term.label} differs by up to {gap:.3g} between a large and a {where} target at the same relative "
                f"error ({name}): something in it counts pixels.",
                {"gap": gap, "curve": name, "scene": where},
            )


def inside_out(evidence: Evidence) -> Iterator[Finding]:
    """An inside-out box earns no more than no box."""
    found = evidence.probes[REFERENCE.name]
    paid, without = found["inside-out box"].total, found["no box"].total
    scale = evidence.maximum or evidence.perfect.total
    if paid is None or without is None or not scale or paid - without <= 0.01 * scale:
        return
    yield Finding(
        "inside-out box paid",
        "rubric",
        f"An inside-out box with the right points earns {paid:.4f} of {scale:g}; without a box it would be "
        f"{without:.4f}.",
        {"paid": paid, "without": without, "maximum": scale},
    )


def wrong_answers(evidence: Evidence) -> Iterator[Finding]:
    """No wrong answer earns more than an honest one, and no term prefers a wrong answer to a perfect one."""
    for probe in WRONG_PROBES:
        for scene in ASKED:
            total, median = evidence.probes[scene.name][probe].total, evidence.median(scene)
            if total is not None and median is not None and total > median + 1e-9:
                yield Finding(
                    "wrong answer above the honest median",
                    probe,
                    f"{probe.capitalize()} earns {total:.4f}; the honest median is {median:.4f}.",
                    {"paid": total, "honest_median": median},
                )
                break
    median = evidence.median(LARGE)
    if evidence.best and median is not None and evidence.best[1] > median + 1e-9:
        yield Finding(
            "wrong answer above the honest median",
            "random search",
            f"A wrong answer found by search earns {evidence.best[1]:.4f}; the honest median is {median:.4f}.",
            {"paid": evidence.best[1], "honest_median": median, "text": evidence.best[0]},
        )
    yield from _preferred(evidence)


def _preferred(evidence: Evidence) -> Iterator[Finding]:
    for term in evidence.terms:
        if _flipped(evidence, term):
            continue
        for probe in (*WRONG_PROBES, "coincident points"):
            found = evidence.probes[REFERENCE.name]
            wrong, right = pay(found[probe], term.label), pay(found["perfect"], term.label)
            if wrong is not None and right is not None and wrong > right + 1e-6:
                yield Finding(
                    "wrong answer preferred",
                    f"{term.label}: {probe}",
                    f"{term.label} pays {wrong:.4g} for {probe} and {right:.4g} for a perfect answer.",
                    {"paid": wrong, "perfect": right},
                )


def coincident(evidence: Evidence) -> Iterator[Finding]:
    """Points that coincide earn no more than honest points, by any term that looks at points."""
    for term in evidence.terms:
        paid = pay(evidence.probes[REFERENCE.name]["coincident points"], term.label)
        median = evidence.median(REFERENCE, term.label)
        if paid is None or median is None or paid <= median + 1e-9 or not evidence.looks_at(term.label, "points"):
            continue
        yield Finding(
            "coincident points paid",
            term.label,
            f"{term.label} pays {paid:.4g} for two points in one place; its honest median is {median:.4g}.",
            {"paid": paid, "honest_median": median},
        )


def format_share(evidence: Evidence) -> Iterator[Finding]:
    """At most a quarter of the maximum is paid to a well-formed answer in the wrong place."""
    total, maximum = evidence.probes[REFERENCE.name]["far wrong"].total, evidence.maximum
    if len(evidence.terms) < 2 or total is None or not maximum or total <= FORMAT * maximum + 1e-9:
        return
    score = evidence.probes[REFERENCE.name]["far wrong"]
    form = sum(
        pay(score, term.label) or 0.0
        for term in evidence.terms
        if not evidence.looks_at(term.label, "box") and not evidence.looks_at(term.label, "points")
    )
    yield Finding(
        "format share",
        "rubric",
        f"A well-formed answer that is far wrong earns {total:.4f} of {maximum:g} ({total / maximum:.0%}): {form:g} by "
        f"terms that never look at the place, {total - form:.4f} by floors of the others.",
        {"paid": total, "format": form, "floors": total - form, "maximum": maximum},
    )


def quotes(evidence: Evidence) -> Iterator[Finding]:
    """An answer in the quotes the prompt shows earns what the same answer in JSON earns."""
    found = evidence.probes[REFERENCE.name]
    shown, json = found["single quotes"].total, found["perfect"].total
    if evidence.stage.single_quoted and shown is not None and json is not None and shown < json - 1e-6:
        yield Finding(
            "quote style",
            "rubric",
            f"A perfect answer in the single quotes the prompt shows earns {shown:.4g}, in double quotes {json:.4g}.",
            {"shown": shown, "json": json},
        )


CHECKS: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    full_marks,
    small_targets,
    dead,
    flipped,
    monotone,
    plateau,
    absolute_pixels,
    inside_out,
    wrong_answers,
    coincident,
    format_share,
    quotes,
    numbers,
)
"""In the order in which a card lists them."""
