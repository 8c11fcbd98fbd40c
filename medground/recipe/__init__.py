"""Recipes: short YAML files that compose components. Data only; reading one never runs code.

The only package that knows OmegaConf and YAML. `resolve` returns a `Recipe` of plain data with typed settings; `check`
raises where its components cannot be used, without building them.
"""

from medground.recipe.check import check, find_problems, incompatibility, untrained_kinds
from medground.recipe.checkpoints import checkpoints, require_checkpoints
from medground.recipe.config import ComponentConfig, Config, TermConfig
from medground.recipe.layers import leaves
from medground.recipe.recipe import Recipe, resolve
from medground.recipe.schema import COMPONENTS
from medground.recipe.sources import names, usage_line
from medground.recipe.validation import InvalidRecipe, Problem
from medground.recipe.yaml_reader import MISSING

__all__ = [
    "COMPONENTS", "MISSING", "ComponentConfig", "Config", "InvalidRecipe", "Problem", "Recipe", "TermConfig", "check",
    "checkpoints", "find_problems", "incompatibility", "leaves", "names", "require_checkpoints", "resolve",
    "untrained_kinds", "usage_line",
]  # fmt: skip
