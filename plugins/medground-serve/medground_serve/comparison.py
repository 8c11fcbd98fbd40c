"""A second segmenter beside the recipe's: given the same prompts, and how far its masks agree."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from medground.geometry import mask_dice
from medground.pipeline.pipeline import Pipeline
from medground.pipeline.result import GroundingResult
from medground.recipe import Recipe, resolve
from medground.types import Mask


def comparison_recipe(recipe: str, overrides: Sequence[str], segmenter: str) -> Recipe:
    """Return a recipe with another segmenter; what the overrides say of the first one does not count."""
    others = [word for word in overrides if not word.startswith(("segmenter=", "segmenter."))]
    return resolve(recipe, *others, f"segmenter={segmenter}")


def compared(second: Pipeline, answer: GroundingResult, *, run_lengths: bool) -> dict[str, Any]:
    """Return what a second segmenter draws from the prompts of an answer, JSON-ready.

    ``regions`` has a ``mask`` as those of the answer, and ``dice``: the Dice coefficient of both masks, 1 where both are
    empty, None where one is missing.
    """
    (outcome,) = second.masks([(answer.query.image, list(answer.prompts))])
    other = replace(
        answer, grounding=answer.grounding.with_masks(outcome.masks), fault=outcome.fault, cause=outcome.cause
    )
    regions = other.to_dict(run_lengths=run_lengths)["regions"]
    return {
        "segmenter": second.name("segmenter"), "fault": outcome.fault, "cause": outcome.cause,
        "regions": [
            {"mask": figures["mask"], "dice": _dice(first.mask, own.mask)}
            for figures, first, own in zip(regions, answer.regions, other.regions, strict=True)
        ],
    }  # fmt: skip


def _dice(first: Mask | None, second: Mask | None) -> float | None:
    if first is None or second is None:
        return None
    return float(mask_dice(first.data, second.data))
