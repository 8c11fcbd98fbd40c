"""The meaning of a recipe: layers, components, weights, variants, typed settings, origins."""

import json
import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medground.errors import RecipeError
from medground.recipe import InvalidRecipe, find_problems, resolve
from medground.recipe.schema import GrpoConfig
from medground.runs.folder import write_recipe


def refusal(*arguments, **options):
    with pytest.raises(RecipeError) as caught:
        resolve(*arguments, **options)
    return str(caught.value)


# Layers.


def test_later_layers_win(write_recipes):
    write_recipes(
        a="seed: 1\nsampling: {seed: 1, temperature: 0.5}\n",
        b="seed: 2\nsampling: {seed: 2}\n",
        c="extends: [a, b.yaml]\nseed: 3\n",
    )
    recipe = resolve("c.yaml", "sampling.num_generations=4")
    assert recipe.data["seed"] == 3
    assert recipe.data["sampling"] == {
        "num_generations": 4, "temperature": 0.5, "max_completion_length": 2048, "seed": 2,
    }  # fmt: skip
    assert recipe.origins["seed"] == "c.yaml:2"
    assert recipe.origins["sampling.seed"] == "b.yaml:2"
    assert recipe.origins["sampling.temperature"] == "a.yaml:2"
    assert recipe.origins["sampling.num_generations"] == "command line"
    assert recipe.origins["sampling.max_completion_length"] == "default"


def test_extends_takes_files_beside_or_below_and_shipped_recipes(write_recipes):
    write_recipes(
        top="extends: [infer/toy, parts/one]\n", parts__one="extends: ../two\nseed: 1\n", two="allow_untrained: true\n"
    )
    recipe = resolve("top.yaml")
    assert recipe.origins["reasoner.name"] == "recipes/infer/toy.yaml:2"
    assert recipe.origins["allow_untrained"] == "two.yaml:1"
    assert recipe.origins["seed"] == "parts/one.yaml:2"


def test_another_name_drops_the_old_arguments_and_other_keys_merge(write_recipes):
    write_recipes(
        base="segmenter: {name: sam, checkpoint: a, options: {x: 1, y: 2}}\n",
        tuned="extends: base\nsegmenter: {checkpoint: b, options: {y: 3}}\n",
        same="extends: base\nsegmenter: {name: sam, checkpoint: b}\n",
        swapped="extends: base\nsegmenter: medsam\n",
        swapped_twice="extends: swapped\nsegmenter: sam\n",
    )
    assert resolve("tuned.yaml").component("segmenter") == ("sam", {"checkpoint": "b", "options": {"x": 1, "y": 3}})
    assert resolve("same.yaml").component("segmenter") == ("sam", {"checkpoint": "b", "options": {"x": 1, "y": 2}})
    assert resolve("swapped.yaml").component("segmenter") == ("medsam", {})
    assert resolve("swapped_twice.yaml").component("segmenter") == ("sam", {})
    assert resolve("swapped_twice.yaml").origins["segmenter.name"] == "swapped_twice.yaml:2"


@pytest.mark.parametrize("name", ["segmenter=medsam", "segmenter.name=medsam", "segmenter={name: medsam}"])
def test_the_order_of_overrides_does_not_matter(write_recipes, name):
    write_recipes(base="segmenter: {name: sam, checkpoint: a, size: 3}\n")
    one = resolve("base.yaml", "segmenter.checkpoint=b", name)
    two = resolve("base.yaml", name, "segmenter.checkpoint=b")
    assert one.data == two.data
    assert one.component("segmenter") == ("medsam", {"checkpoint": "b"})
    terms = ("rewards.x.gain=2", "rewards.x=mask_dice", "rewards.x.weight=3")
    assert resolve({}, *terms).terms == resolve({}, *reversed(terms)).terms == {"x": ("mask_dice", 3.0, {"gain": 2})}


def test_of_overrides_of_one_key_the_last_wins():
    assert resolve({}, "seed=1", "seed=2").data["seed"] == 2


def test_lists_are_replaced_and_null_removes(write_recipes):
    write_recipes(base="trackers: [tensorboard, {name: csv, flush: 3}]\nengine: local\ngrpo: {beta: 0.5}\n")
    recipe = resolve("base.yaml")
    assert recipe.trackers == [("tensorboard", {}), ("csv", {"flush": 3})]
    assert recipe.origins["trackers"] == "base.yaml:1"
    bare = resolve("base.yaml", "trackers=[]", "engine=null", "grpo=null")
    assert bare.trackers == [] and "engine" not in bare.data and "grpo" not in bare.data
    again = resolve("base.yaml", "grpo=null", "grpo.epsilon=0.1")
    assert again.data["grpo"]["beta"] == 0.0 and again.origins["grpo.beta"] == "default"


# Rewards.


def test_terms_have_labels_and_weights_and_null_removes_them(write_recipes):
    write_recipes(
        base="rewards:\n  bbox_iou: 1\n  overlap: mask_dice\n  gone: 2.0\n",
        top="extends: base\nrewards:\n  bbox_iou: 0\n  overlap: 0.5\n  gone: null\n  sharp: {gain: 3}\n",
    )
    assert resolve("base.yaml").terms == {
        "bbox_iou": ("bbox_iou", 1.0, {}), "overlap": ("mask_dice", 1.0, {}), "gone": ("gone", 2.0, {}),
    }  # fmt: skip
    recipe = resolve("top.yaml")
    assert recipe.terms == {
        "bbox_iou": ("bbox_iou", 0.0, {}), "overlap": ("mask_dice", 0.5, {}), "sharp": ("sharp", 1.0, {"gain": 3}),
    }  # fmt: skip
    assert "gone" not in recipe.data["rewards"]
    assert recipe.origins["rewards.overlap.name"] == "base.yaml:3"
    assert recipe.origins["rewards.overlap.weight"] == "top.yaml:4"
    assert recipe.origins["rewards.sharp.name"] == "top.yaml:6"
    assert recipe.origins["rewards.sharp.weight"] == "default"


def test_a_term_with_another_name_keeps_its_weight_and_drops_its_arguments(write_recipes):
    write_recipes(base="rewards:\n  overlap: {name: mask_dice, weight: 0.25, gain: 3}\n")
    assert resolve("base.yaml", "rewards.overlap=mask_iou").terms == {"overlap": ("mask_iou", 0.25, {})}
    assert resolve("base.yaml", "rewards.overlap.name=mask_iou").terms == {"overlap": ("mask_iou", 0.25, {})}
    assert resolve("base.yaml", "rewards.overlap=0").terms == {"overlap": ("mask_dice", 0.0, {"gain": 3})}


def test_a_weight_that_is_no_number_is_refused():
    for bad in ("'1'", "true", "null", "[1]"):
        assert "rewards.a.weight is not a number" in refusal({}, f"rewards.a.weight={bad}")
    assert "rewards.a must be a component's name or a mapping, got true" in refusal({}, "rewards.a=true")
    assert "rewards is not a section" in refusal({}, "rewards=[bbox_iou]")


# Variants.

SWEEP = """\
segmenter: {name: sam, checkpoint: a}
rewards: {one: 1, two: 2}
variants:
  plain: {}
  swapped: {segmenter: {name: medsam, size: 256}}
  dotted: {segmenter.size: 5, segmenter: medsam, rewards.one: null, rewards.two: 0}
  nested:
    rewards:
      two: null
"""


def test_variants_are_rows_of_overrides(write_recipes):
    write_recipes(
        sweep=SWEEP, more="extends: sweep\nvariants: {plain: null, dotted: {seed: 9}, added: {prompt: box}}\n"
    )
    recipe = resolve("sweep.yaml")
    assert list(recipe.variants) == ["plain", "swapped", "dotted", "nested"]
    assert recipe.variant("plain").data == recipe.data
    assert recipe.variant("swapped").component("segmenter") == ("medsam", {"size": 256})
    assert recipe.variant("dotted").component("segmenter") == ("medsam", {"size": 5})
    assert recipe.variant("dotted").terms == {"two": ("two", 0.0, {})}
    assert list(recipe.variant("nested").terms) == ["one"]
    assert recipe.variant("swapped").name == "sweep:swapped"
    assert recipe.variant("dotted").origins["segmenter.size"] == "sweep.yaml:6"
    assert recipe.variant("nested").origins["rewards.one.weight"] == "sweep.yaml:2"
    more = resolve("more.yaml")
    assert list(more.variants) == ["swapped", "dotted", "nested", "added"]
    assert more.variant("dotted").component("segmenter") == ("sam", {"checkpoint": "a"})


def test_the_command_line_wins_over_a_variant(write_recipes):
    write_recipes(sweep=SWEEP)
    recipe = resolve("sweep.yaml", "segmenter.size=7", "segmenter.checkpoint=z", variant="swapped")
    assert recipe.component("segmenter") == ("medsam", {"size": 7, "checkpoint": "z"})
    assert recipe.variants == {}


def test_an_invalid_variant_is_refused_with_its_line(write_recipes):
    write_recipes(bad="variants:\n  a: {sampling.sede: 1}\n  b: 3\n  c: {extends: x}\n")
    recipe = resolve("bad.yaml")
    assert "no variant 'd'" in refusal("bad.yaml", variant="d")
    assert refusal("bad.yaml", variant="a").startswith("bad.yaml:2: unknown key 'sede' in sampling")
    assert refusal("bad.yaml", variant="b").startswith("bad.yaml:3: variant 'b' is not a row")
    assert refusal("bad.yaml", variant="c").startswith("bad.yaml:4: 'extends' cannot be overridden")
    assert len(find_problems(recipe)) == 3


# Missing values, typed settings, refusals.


def test_a_missing_value_is_listed_and_stops_only_the_section_that_holds_it(write_recipes):
    write_recipes(a="segmenter: toy\ndata:\n  path: ???\n  split: train\nreasoner: {name: x, layers: [1, '???']}\n")
    recipe = resolve("a.yaml")
    assert recipe.missing == ["data.path", "reasoner.layers[1]"]
    assert recipe.component("segmenter") == ("toy", {})
    with pytest.raises(RecipeError, match=r"a.yaml:3: data.path must be given \(add data.path=VALUE\)"):
        _ = recipe.config.data
    with pytest.raises(RecipeError, match="must be given"):
        recipe.component("reasoner")
    assert resolve("a.yaml", "data.path=d").config.data.path == "d"


def test_a_later_layer_can_make_a_value_missing_again(write_recipes):
    write_recipes(a="data: {path: somewhere}\n", b="extends: a\ndata: {path: '???'}\n")
    assert resolve("b.yaml").missing == ["data.path"]


def test_a_section_that_a_recipe_lacks_holds_its_defaults():
    recipe = resolve("infer/toy")
    assert "grpo" not in recipe.data
    assert recipe.config.grpo == GrpoConfig()
    assert resolve({"grpo": {"beta": 0.5}}).config.grpo == GrpoConfig(beta=0.5)
    with pytest.raises(RecipeError, match="names no engine"):
        recipe.component("engine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("segmentor: toy\n", "a.yaml:1: unknown key 'segmentor' in a recipe (did you mean 'segmenter'?)"),
        ("seed: 1\ngrpo:\n  bta: 3\n", "a.yaml:3: unknown key 'bta' in grpo (did you mean 'beta'?)"),
        ("prompt: boxes\n", "a.yaml:1: prompt: 'boxes' is not one of its words (did you mean 'box'?)"),
        ("seed: one\n", "a.yaml:1: seed: 'one' is not a whole number (write a whole number)"),
        ("seed: true\n", "a.yaml:1: seed: true is not a whole number (write a whole number)"),
        ("seed: -1\n", "a.yaml:1: seed: -1 is not a whole number from 0 to 4294967295"),
        (
            "grpo: {max_steps: 0}\n",
            "a.yaml:1: grpo.max_steps: 0 is not a whole number from 1 (write a whole number from 1)",
        ),
        ("grpo: {epsilon: x}\n", "a.yaml:1: grpo.epsilon: 'x' is not a number (write a number)"),
        ("sft: {warmup_ratio: 7}\n", "a.yaml:1: sft.warmup_ratio: 7 is not a number from 0 to 1"),
        ("allow_untrained: 1\n", "a.yaml:1: allow_untrained: 1 is not true or false (write true or false)"),
        ("sampling: 3\n", "a.yaml:1: sampling: 3 is not a section of key: value lines"),
        ("segmenter: 3\n", "a.yaml:1: segmenter must be a component's name or a mapping, got 3"),
        ("segmenter: {size: 3}\n", "a.yaml:1: segmenter has no name (write segmenter: NAME"),
        ("segmenter: {name: [a]}\n", "a.yaml:1: segmenter.name is not a component's name: ['a']"),
        ("trackers: [{flush: 1}]\n", "a.yaml:1: trackers.0 has no name"),
        ("trackers: [null]\n", "a.yaml:1: trackers holds a null"),
        ("grpo.beta: 1\n", "a.yaml:1: the key 'grpo.beta' holds a dot (nest it"),
        ("- 1\n", "a.yaml:1: a recipe is key: value lines, not a list"),
        ("extends: {a: 1}\n", "a.yaml:1: extends takes a recipe or a list of recipes"),
        ("extends:\n  - infer/toi\n", "a.yaml:2: there is no recipe 'infer/toi' to extend (did you mean 'infer/toy'?)"),
        ("variants: [1]\n", "a.yaml:1: variants is not a section"),
        ("data: {path: ???}\n", "a.yaml:1: not YAML: expected the node content, but found '?' (inside {} and [] write"),
        ("a: [1\n", "a.yaml:2: not YAML: "),
    ],
)
def test_an_invalid_recipe_is_refused_with_file_and_line(write_recipes, text, message):
    write_recipes(a=text)
    assert refusal("a.yaml").startswith(message)


def test_all_unknown_keys_are_reported_together(write_recipes):
    write_recipes(a="segmentor: toy\nsampling: {sede: 1}\n")
    with pytest.raises(InvalidRecipe, match="1 more problem") as caught:
        resolve("a.yaml")
    assert [problem.where for problem in caught.value.problems] == ["a.yaml:1", "a.yaml:2"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("segmenter", "is not of the form key=value"),
        ("=x", "is not of the form key=value"),
        ("a..b=x", "is not a dotted key"),
        ("seed=[", "the override seed=…"),
        ("seed=.nan", "is not a finite number"),
        ("segmenter=${oc.env:HOME}", "holds an expression"),
        ("extends=infer/toy", "'extends' cannot be overridden"),
        ("variants.a.seed=1", "'variants' cannot be overridden"),
        ("sampling.seeed=1", "command line: unknown key 'seeed' in sampling (did you mean 'seed'?)"),
        ("segmenter=!!python/name:os.system x", "YAML tag"),
    ],
)
def test_an_invalid_override_is_refused(override, message):
    assert message in refusal("infer/toy", override)


def test_numbers_are_numbers_and_words_are_words(write_recipes):
    ids = "[007, 1_000, 0x1f, 1:30, 2020-01-01, on, no, 'null', ~, .5, -3, +2.]"
    write_recipes(a=f"reasoner:\n  name: x\n  rate: 1e-6\n  ids: {ids}\n")
    _, arguments = resolve("a.yaml").component("reasoner")
    assert arguments["rate"] == 1e-6
    assert arguments["ids"] == [
        "007", "1_000", "0x1f", "1:30", "2020-01-01", "on", "no", "null", None, 0.5, -3, 2.0,
    ]  # fmt: skip


# Sources.


def test_an_unreadable_source_is_refused_with_a_reason(write_recipes, tmp_path):
    assert "did you mean 'infer/toy'?" in refusal("infer/toi")
    assert refusal("none.yaml").startswith("none.yaml is not a file")
    (tmp_path / "folder").mkdir()
    assert "holds no recipe.yaml" in refusal("folder")
    assert "is not a file" in refusal("x" * 5000 + ".yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    assert "is not a file" in refusal("loop.yaml")
    assert "mapping is no recipe" in refusal({"seed": object()})
    assert refusal({"sampling": {"sede": 1}}).startswith("mapping: unknown key 'sede'")


def test_a_written_folder_reads_as_the_same_recipe(write_recipes, tmp_path):
    write_recipes(sweep="extends: infer/toy\n" + SWEEP)
    recipe = resolve("sweep.yaml", "data.path=???", "segmenter.options={a: 'yes', b: [1.0, null, '1e-6']}")
    write_recipe(recipe, tmp_path)
    again = resolve(tmp_path)
    assert again.data == recipe.data
    assert again.variants == recipe.variants
    assert again.digest() == recipe.digest()
    source = (tmp_path / "recipe.source.yaml").read_text()
    assert "# recipes/infer/toy.yaml" in source and SWEEP.strip() in source and "# data.path=???" in source


TRICKY = ["1e-6", "nan", "on", "007", "0x1f", "null", "~", "", " x ", "a: b", "# c", "- d", "1:30", "=", "y", "???x"]
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Cs"]), max_size=12)
NUMBERS = st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS | st.sampled_from(TRICKY)
KEYS = st.from_regex(r"[a-z_]{1,5}", fullmatch=True)
VALUES = st.recursive(SCALARS, lambda values: st.lists(values, max_size=3) | st.dictionaries(KEYS, values, max_size=3))


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(VALUES.filter(lambda value: "${" not in json.dumps(value)))
def test_a_dumped_recipe_reads_as_the_same_data(tmp_path_factory, value):
    recipe = resolve({"reasoner": {"name": "x", "value": value}})
    assert recipe.data["reasoner"] == {"name": "x", "value": value}
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(recipe.dump(), encoding="utf-8")
    assert resolve(path).data == recipe.data


def test_a_digest_depends_on_meaning_alone(write_recipes):
    write_recipes(
        a="seed: 1\nsegmenter: {name: sam, x: 1, y: 2}\n", b="segmenter:\n  y: 2\n  x: 1\n  name: sam\nseed: 2\n"
    )
    one, two = resolve("a.yaml"), resolve("b.yaml")
    assert one.digest("segmenter", "prompt") == two.digest("prompt", "segmenter")
    assert one.digest() != two.digest()
    assert one.digest("segmenter.x") != one.digest("segmenter.y")
    assert one.digest("segmenter", "reasoner") != one.digest("segmenter")


def test_a_recipe_can_be_pickled():
    recipe = resolve("infer/toy", "seed=3")
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_importing_the_command_loads_neither_omegaconf_nor_yaml():
    code = "import sys, medground, medground.cli.recipe; print([m for m in ('omegaconf', 'yaml') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
