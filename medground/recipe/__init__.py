"""Recipes: short YAML files that compose components. Data only; reading one never runs code.

The only package that knows OmegaConf and YAML. `resolve` returns a `Recipe` of plain data with typed settings; `check`
raises where its components cannot be used, without building them.
"""

from medground.recipe.check import check as check
from medground.recipe.check import find_problems as find_problems
from medground.recipe.check import incompatibility as incompatibility
from medground.recipe.check import untrained_kinds as untrained_kinds
from medground.recipe.checkpoints import checkpoints as checkpoints
from medground.recipe.checkpoints import require_checkpoints as require_checkpoints
from medground.recipe.config import ComponentConfig as ComponentConfig
from medground.recipe.config import Config as Config
from medground.recipe.config import TermConfig as TermConfig
from medground.recipe.layers import leaves as leaves
from medground.recipe.recipe import Recipe as Recipe
from medground.recipe.recipe import resolve as resolve
from medground.recipe.schema import COMPONENTS as COMPONENTS
from medground.recipe.sources import names as names
from medground.recipe.sources import usage_line as usage_line
from medground.recipe.validation import InvalidRecipe as InvalidRecipe
from medground.recipe.validation import Problem as Problem
from medground.recipe.yaml_reader import MISSING as MISSING

__all__ = [
    "COMPONENTS", "MISSING", "ComponentConfig", "Config", "InvalidRecipe", "Problem", "Recipe", "TermConfig", "check",
    "checkpoints", "find_problems", "incompatibility", "leaves", "names", "require_checkpoints", "resolve",
    "untrained_kinds", "usage_line",
]  # fmt: skip
