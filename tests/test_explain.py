"""`recipe show --explain KEY` says what a key means, takes and defaults to, and where its value comes from."""

import json

import pytest

from medground.cli import main
from medground.errors import RecipeError
from medground.recipe import resolve
from medground.recipe.explain import explain
from medground.recipe.schema import GRID, KINDS, SECTIONS, TOP
from medground.recipe.structured import defaults, to_plain
from medground.registry import components


@pytest.fixture(scope="module")
def recipe():
    return resolve("train/toy", "seed=7", "rewards.bbox_iou.mode=soft", "trackers=tensorboard")


@pytest.mark.parametrize("top", TOP)
def test_every_key_at_the_top_has_a_meaning(top, recipe):
    explanation = explain(recipe, top)
    assert explanation.meaning[0].isupper() and explanation.type


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_has_a_meaning_and_the_default_of_its_schema(section, recipe):
    values = to_plain(defaults(SECTIONS[section]))
    assert explain(recipe, section).allowed == tuple(values)
    for key, default in values.items():
        explanation = explain(recipe, f"{section}.{key}")
        assert explanation.meaning and explanation.type, key
        assert explanation.default == default, key


@pytest.mark.parametrize(
    ("key", "type_", "default", "value", "origin"),
    [
        ("grpo.loss", "grpo or dr_grpo or dapo or gspo or cispo or sapo", "grpo", "grpo", "default"),
        ("grpo.learning_rate", "a number from 0", 1e-6, 2e-4, "recipes/train/toy.yaml:24"),
        ("grpo.epsilon", "a number from 0, or null", None, None, "default"),
        ("seed", "a whole number from 0 to 4294967295", 0, 7, "command line"),
        ("sampling.max_completion_length", "a whole number from 1", 2048, 32, "recipes/train/toy.yaml:12"),
        ("evaluate.n_boot", "a whole number from 2", 2000, None, ""),
        ("rewards.bbox_iou.weight", "a number", 1.0, 1, "recipes/train/toy.yaml:16"),
        ("rewards.bbox_iou.mode", "soft or hard or base or base_fixed", "hard", "soft", "command line"),
        ("prompt_interface.instructions", "true or false", True, False, "recipes/train/toy.yaml:7"),
        ("trackers.0.folder", "a word", "tensorboard", None, ""),
        ("reasoner.device", "a word for a device", "auto", None, ""),
        ("data.leave_out.modality", "a section of label: [value, value] lines, or null", None, None, ""),
    ],
)
def test_type_default_value_and_origin(key, type_, default, value, origin, recipe):
    explanation = explain(recipe, key)
    assert (explanation.type, explanation.default) == (type_, default)
    assert (explanation.value, explanation.origin) == (value, origin)


def test_a_component_may_be_any_that_is_installed(recipe):
    for key, kind in KINDS.items():
        grid = (GRID,) if key == "proposer" else ()
        assert explain(recipe, key).allowed == (*grid, *(component.name for component in components(kind)))
    assert explain(recipe, "rewards.mine").allowed == tuple(component.name for component in components("reward"))


def test_what_a_recipe_is_made_of_is_named():
    sweep = resolve("sweep/ood")
    assert explain(sweep, "extends").value == ["recipes/train/soft.yaml"]
    assert "untrained" in explain(sweep, "variants").value


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("segmentre", "did you mean 'segmenter'?"),
        ("grpo.bta", "did you mean 'beta'?"),
        ("reasoner.devcie", "did you mean 'device'?"),
        ("engine.stage", "add engine=NAME"),
    ],
)
def test_a_key_that_no_recipe_has_is_refused_with_the_nearest(key, hint, recipe):
    with pytest.raises(RecipeError) as error:
        explain(recipe, key)
    assert error.value.hint == hint


def test_the_command_prints_it_for_people_and_as_json(capsys):
    with pytest.raises(SystemExit):
        main(["recipe", "show", "infer/toy", "prompt=box", "--explain", "prompt"])
    assert capsys.readouterr().out == (
        "prompt\n  The kinds of prompt that are made of a region for the segmenter; a word stands for a list of one.\n"
        "  takes    a list of box, points, text, exemplars\n  default  [box, points]\n  here     [box], from command line\n"
    )
    with pytest.raises(SystemExit):
        main(["recipe", "show", "infer/toy", "--explain", "segmenter", "--json"])
    assert json.loads(capsys.readouterr().out)["origin"].startswith("recipes/infer/toy.yaml:")
