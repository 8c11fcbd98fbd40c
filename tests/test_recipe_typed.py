"""Typed sections of a recipe: dataclasses with defaults, enums and bounds; values are refused, not converted."""

import dataclasses
from enum import StrEnum

import pytest

from medground.errors import RecipeError
from medground.recipe import resolve
from medground.recipe.objects import describe
from medground.recipe.schema import SECTIONS, GeneralConfig, GrpoConfig, GrpoLoss, SftConfig
from medground.types import ChosenKind, TextSource

SCHEMAS = [GeneralConfig, *SECTIONS.values()]


def refusal(*overrides):
    with pytest.raises(RecipeError) as caught:
        resolve({}, *overrides)
    return str(caught.value)


def test_settings_have_the_types_of_their_fields():
    config = resolve({}, "prompt=box", "grpo.loss=dapo", "grpo.learning_rate=1", "evaluate.seeds=[1,2]").config
    assert config.prompt == [ChosenKind.box] and config.prompt[0] is ChosenKind.box
    assert config.text_from is TextSource.label
    assert config.grpo.loss is GrpoLoss.dapo and config.grpo.loss == "dapo"
    assert isinstance(config.grpo.learning_rate, float)
    assert config.evaluate.seeds == [1, 2] and type(config.evaluate.seeds) is list
    assert type(config.sampling.seed) is int and config.allow_untrained is False


def test_a_section_is_a_frozen_dataclass():
    config = resolve({"sft": {"packing": True}}).config
    assert config.sft == SftConfig(packing=True)
    assert config.sft is config.sft
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.sft.packing = False


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.__name__)
def test_every_default_is_accepted_as_a_value(schema):
    """Each default has the type of its field, suits its bounds, and is written in YAML as its word."""
    (section,) = [key for key, value in SECTIONS.items() if value is schema] or [None]
    values = dataclasses.asdict(schema())
    recipe = resolve(values if section is None else {section: values})
    assert (recipe.data if section is None else recipe.data[section]).items() >= values.items()


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.__name__)
def test_members_of_enums_are_named_as_recipes_write_them(schema):
    for field in dataclasses.fields(schema):
        if isinstance(field.default, StrEnum):
            assert all(member.name == member.value for member in type(field.default))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed='3'", "seed: '3' is not a whole number"),
        ("seed=3.0", "seed: 3.0 is not a whole number"),
        ("grpo.beta='3'", "grpo.beta: '3' is not a number"),
        ("grpo.beta=true", "grpo.beta: true is not a number"),
        ("sft.packing=yes", "sft.packing: 'yes' is not true or false"),
        ("sft.packing=1", "sft.packing: 1 is not true or false"),
        ("data.path=2024", "data.path: 2024 is not a word (put it in quotes)"),
        ("data.split=true", "data.split: true is not a word (put it in quotes)"),
        ("evaluate.seeds=['3']", "evaluate.seeds: ['3'] is not a list of whole numbers"),
        ("evaluate.seeds=3", "evaluate.seeds: 3 is not a list of whole numbers"),
        ("evaluate.conditions=answer", "evaluate.conditions: 'answer' is not a list of words"),
        ("sweep.metrics=[1]", "sweep.metrics: [1] is not a list of words"),
        ("data.leave_out={modality: ct}", "data.leave_out: {'modality': 'ct'} is not a section of label: [value"),
        ("grpo.loss=GrpoLoss.dapo", "grpo.loss: 'GrpoLoss.dapo' is not one of its words"),
        ("grpo.loss=1", "grpo.loss: 1 is not one of its words"),
        ("grpo.beta=null", "grpo.beta: null is not a number"),
        ("evaluate.batch_size=0", "evaluate.batch_size: 0 is not a whole number from 1"),
        ("evaluate.level=1", "evaluate.level: 1 is not a number from 1e-07 to 0.9999999"),
        ("grpo.adam_beta2=1", "grpo.adam_beta2: 1 is not a number from 0 to 0.9999999"),
        ("data={path: {a: 1}}", "data.path: {'a': 1} is not a word"),
    ],
)
def test_a_value_of_another_kind_is_refused_and_not_converted(override, message):
    assert refusal(override).startswith(f"command line: {message}")


def test_null_is_a_value_where_none_has_a_meaning():
    recipe = resolve({"data": {"limit": 3}, "grpo": {"epsilon": 0.1}}, "data.limit=null", "grpo.epsilon=null")
    assert recipe.config.data.limit is None and recipe.config.grpo.epsilon is None


def test_only_the_missing_section_stops():
    recipe = resolve({"seed": "???", "sweep": "???", "data": {"path": "???"}}, "prompt=box")
    assert recipe.config.prompt == ["box"] and recipe.config.sampling.seed == 0
    for section, key in (("seed", "seed"), ("sweep", "sweep"), ("data", "data.path")):
        with pytest.raises(RecipeError, match=f"{key} must be given"):
            getattr(recipe.config, section)


def test_a_whole_number_for_a_number_means_the_same():
    assert resolve({}, "grpo.beta=1").digest() == resolve({}, "grpo.beta=1.0").digest()


def test_a_resolved_recipe_is_not_read_again(write_recipes, tmp_path):
    write_recipes(a="seed: 1\nvariants: {v: {seed: 2}}\n")
    recipe = resolve("a.yaml", "grpo.beta=0.5")
    (tmp_path / "a.yaml").unlink()
    assert resolve(recipe) is recipe
    more = resolve(recipe, "sampling.seed=4")
    assert (more.config.seed, more.config.grpo, more.config.sampling.seed) == (1, GrpoConfig(beta=0.5), 4)
    variant = resolve(recipe, variant="v")
    assert resolve(variant, "sampling.seed=4").config.seed == 2


def test_objects_stay_beside_the_data():
    marker = object()
    recipe = resolve({"variants": {"v": {"seed": 2}}}, values={"segmenter": marker})
    for other in (recipe.variant("v"), resolve(recipe, "seed=3"), recipe.with_absolute_paths()):
        assert other.objects == {"segmenter": marker}
        assert other.data["segmenter"] == {"name": "object", "object": describe("segmenter", marker).sha256}
        assert resolve(other.data).missing_objects == ["segmenter"]


def test_components_lists_every_component_with_its_key():
    recipe = resolve({"segmenter": "toy", "rewards": {"a": "iou", "b": {"gain": 2}}, "trackers": ["csv"]})
    listed = [(key, kind, component.name, component.arguments) for key, kind, component in recipe.components()]
    assert listed == [
        ("segmenter", "segmenter", "toy", {}),
        ("rewards.a", "reward", "iou", {}),
        ("rewards.b", "reward", "b", {"gain": 2}),
        ("trackers.0", "tracker", "csv", {}),
    ]
