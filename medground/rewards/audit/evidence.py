"""All scores an audit collects before it judges: probes, curves, honest answers, and the best-paid wrong one."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from medground.errors import RecipeError
from medground.protocols import PromptInterface
from medground.rewards.audit.games import Games, play
from medground.rewards.audit.probes import CURVES, best_wrong, follow, honest, probes
from medground.rewards.audit.scenes import CURVED, LARGE, LONG, MEDIUM, REFERENCE, SMALL, TINY, Scene, Scorer
from medground.rewards.rubric import Rubric, Score
from medground.rewards.term import Term

ASKED = (REFERENCE, LARGE)
"""Scenes on which every single probe is scored."""
MASKED = {REFERENCE.name: 0.25, LARGE.name: 0.5, LONG.name: 0.5}
"""How much smaller a scene is where masks are needed."""
SMALLER = (MEDIUM, SMALL)
"""The large scene at smaller sizes; one of them is followed."""


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """One defect, by name."""

    check: str
    """Which promise is broken."""
    subject: str
    """The term or probe that breaks it; ``rubric`` where it is all of it."""
    says: str
    """One sentence with the figures in it."""
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """The scores a rubric gave."""

    scorer: Scorer
    probes: dict[str, dict[str, Score]]
    """Scene -> probe -> score."""
    honest: dict[str, list[Score]]
    """Scene -> scores of honest answers."""
    curves: dict[str, dict[str, list[Score]]]
    """Scene -> curve -> scores along it, perfect first."""
    best: tuple[str, float] | None
    """The highest-paid wrong answer found: (text, total)."""
    games: Games | None = None
    """Scores of answers of none and several regions; None where the interface cannot say them."""

    @property
    def rubric(self) -> Rubric:
        """The rubric under audit, without the terms it only observes."""
        return self.scorer.rubric

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms that count: observed ones are not judged."""
        return self.rubric.terms

    @property
    def maximum(self) -> float | None:
        """The most the weights and ranges promise; None where a term does not say its range.

        A term that abstains on a perfect answer about a target promises nothing there.
        """
        scores = self.perfect.terms
        tops = [top(term) for term in self.terms if scores[term.label].value is not None or scores[term.label].failure]
        return sum(tops) if tops and all(math.isfinite(value) for value in tops) else None

    @property
    def perfect(self) -> Score:
        """The score of a perfect answer on the reference scene."""
        return self.probes[REFERENCE.name]["perfect"]

    def median(self, scene: Scene, label: str | None = None) -> float | None:
        """Return the honest median of a scene: of the total, or of what one term pays."""
        scores = self.honest[scene.name]
        paid = [score.total if label is None else pay(score, label) for score in scores]
        known = [value for value in paid if value is not None]
        return median(known) if known else None

    def everything(self) -> Iterator[tuple[str, Score]]:
        """Yield every score with the name of its answer."""
        for scene, by_probe in self.probes.items():
            for probe, score in by_probe.items():
                yield f"{probe} ({scene})", score
        for scene, scores in self.honest.items():
            yield from ((f"an honest answer ({scene})", score) for score in scores)
        for scene, by_curve in self.curves.items():
            for curve, scores in by_curve.items():
                yield from ((f"{curve} ({scene})", score) for score in scores)
        if self.games is not None:
            yield from self.games.everything()

    def along(self, scene: Scene, curve: str, label: str) -> list[float] | None:
        """Return what a term pays along a curve; None where it does not always answer."""
        return paid(self.curves[scene.name][curve], label)

    def looks_at(self, label: str, part: str) -> bool:
        """Return True if what a term pays depends on the box, or on the points."""
        for scene in CURVED:
            for name, curve in CURVES.items():
                values = self.along(scene, name, label) if curve.part == part else None
                if values and max(values) - min(values) > 0.02:
                    return True
        return False


def top(term: Term) -> float:
    """Return the most a term can add, by its weight and range; infinite where it does not say."""
    low, high = getattr(term.reward, "range", (-math.inf, math.inf))
    return max(term.weight * low, term.weight * high)


def pay(score: Score, label: str) -> float | None:
    """Return what a term adds to one score; None where it abstained or failed."""
    term = score.terms[label]
    return None if term.value is None else term.weighted


def paid(scores: Iterable[Score], label: str) -> list[float] | None:
    """Return what a term adds to each score; None unless it always answers."""
    values = [pay(score, label) for score in scores]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def prefers_wrong(evidence: Evidence, term: Term) -> bool:
    """Return True if a term pays a far wrong answer more than a perfect one, on every scene."""
    for scene in ASKED:
        right, wrong = (pay(evidence.probes[scene.name][name], term.label) for name in ("perfect", "far wrong"))
        if right is None or wrong is None or wrong <= right + 1e-6:
            return False
    return True


def collect(rubric: Rubric, interface: PromptInterface, seed: int) -> Evidence:
    """Ask a rubric everything; the same seed asks the same.

    Raises:
        RecipeError: if answers say no place, but choose among candidates.
    """
    if hasattr(interface, "among"):
        raise RecipeError(
            "answers that choose among candidates hold no place that could be ever further off",
            hint="audit the terms with another interface: prompt_interface=bbox proposer=null",
        )
    scorer = Scorer(Rubric(term for term in rubric.terms if term.weight != 0), interface)
    # Masks cost by the pixel: what needs them is asked on smaller copies of the larger scenes.
    scenes = [scene.shrunk(MASKED[scene.name]) if scorer.rubric.needs_mask else scene for scene in ASKED]
    curved = [scene.shrunk(MASKED[scene.name]) if scorer.rubric.needs_mask else scene for scene in CURVED]
    single = {scene.name: _ask(scorer, scene, probes(scorer, scene)) for scene in scenes}
    for scene in (TINY, SMALL, LONG):
        single[scene.name] = _ask(scorer, scene, {"perfect": scorer.write(scene.truth)})
    # Rasterised masks of the smallest scene are too coarse to compare.
    smaller = MEDIUM if scorer.rubric.needs_mask else SMALL
    followed = {scene.name: scene for scene in (*curved, smaller)}
    return Evidence(
        scorer=scorer,
        probes=single,
        honest={scene.name: honest(scorer, scene, seed) for scene in scenes},
        curves={
            name: {curve: follow(scorer, scene, CURVES[curve]) for curve in CURVES} for name, scene in followed.items()
        },
        games=play(scorer.rubric, interface, seed),
        best=best_wrong(scorer, next(scene for scene in scenes if scene.name == LARGE.name), seed),
    )


def _ask(scorer: Scorer, scene: Scene, texts: dict[str, str]) -> dict[str, Score]:
    return dict(zip(texts, scorer.score(scene, list(texts.values())), strict=True))
