"""Recipes: short YAML files that compose components. Data only; reading one never runs code.

The only package that knows OmegaConf and YAML. `resolve` gives a `Recipe` of plain data.
"""

from medground.recipe.read import MISSING as MISSING
from medground.recipe.resolved import Recipe as Recipe
from medground.recipe.resolved import resolve as resolve
from medground.recipe.sources import names as names
from medground.recipe.structure import InvalidRecipe as InvalidRecipe
from medground.recipe.structure import Problem as Problem

__all__ = ["MISSING", "InvalidRecipe", "Problem", "Recipe", "names", "resolve"]
