"""Every recipe in the tree loads, checks, and says on its first line how it is run."""

import re
from pathlib import Path

import pytest

from medground.recipe import find_problems, names, resolve, usage_line
from medground.recipe.sources import shipped

FOLDER = Path(__file__).resolve().parents[1] / "recipes"
FILES = sorted(FOLDER.rglob("*.y*ml"))
FEWEST = 46
"""Raised as recipes arrive, so that a glob that shrinks is noticed."""


def test_every_file_is_a_shipped_recipe():
    assert len(FILES) >= FEWEST
    assert shipped().samefile(FOLDER)
    assert names() == [path.relative_to(FOLDER).with_suffix("").as_posix() for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_every_shipped_recipe_resolves_and_checks(path):
    recipe = resolve(path.relative_to(FOLDER).with_suffix("").as_posix())
    assert find_problems(recipe) == []
    assert resolve(path).data == recipe.data
    for variant in recipe.variants:
        assert recipe.variant(variant).data


@pytest.mark.parametrize("name", names())
def test_the_first_line_is_the_command_that_runs_the_recipe(name):
    assert re.match(rf"medground (ground|volume|run|train|eval|sweep|reward) .*{re.escape(name)}\b", usage_line(name))


@pytest.mark.parametrize("name", names())
def test_the_first_line_gives_every_missing_value(name):
    line, recipe = usage_line(name), resolve(name)
    runs = [recipe.variant(variant) for variant in recipe.variants] if "sweep" in line else [recipe]
    assert {key for run in runs for key in run.missing if f" {key}=" not in line} == set()
    assert "--out" in line or not line.startswith("medground train")
