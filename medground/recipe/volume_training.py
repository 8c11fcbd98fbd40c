"""Can a recipe train on questions about volumes as it says: with ``volume.slice: ask``?"""

from collections.abc import Iterator

from medground.recipe.recipe import Recipe
from medground.recipe.schema import SliceRule
from medground.recipe.validation import Problem

SECOND = "second_exchange"
"""The label, among the terms of a completion that names a slice, of what the second exchange adds."""


def volume_training_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield what is wrong with how a recipe trains on volumes."""
    if any(key.startswith(("volume", "grpo", "validate", "rewards")) for key in recipe.missing):
        return
    volume, labels = recipe.config.volume, recipe.data.get("rewards", {})
    if volume.slice is not SliceRule.ask:
        return
    trains = "grpo" in recipe.data
    for label in volume.slice_rewards if trains else ():
        if label not in labels:
            what = f"volume.slice_rewards names no term of rewards: {label!r}"
            yield _problem(recipe, "volume.slice_rewards", what, f"name one of {', '.join(labels)}, or set it to []")
    if trains and SECOND in labels:
        what = f"rewards.{SECOND}: the label is that of what the second exchange adds"
        yield _problem(recipe, f"rewards.{SECOND}", what, "give the term another label")
    if trains and recipe.config.grpo.resample_constant:
        what = "grpo.resample_constant: questions about volumes are not drawn again"
        yield _problem(recipe, "grpo.resample_constant", what, "set grpo.resample_constant=0")
    if {"grpo", "sft"} & set(recipe.data) and recipe.config.validate.every:
        what = "validate.every: a run is not validated on volumes"
        yield _problem(
            recipe, "validate.every", what, "set validate.every=0, and measure with medground eval RUN --volumes"
        )


def _problem(recipe: Recipe, key: str, what: str, hint: str) -> Problem:
    return Problem(key, recipe.origin(key), what, hint)
