"""What a recipe means: layers, swaps, weights, variants, origins, checks."""

import json
import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medground import registry
from medground.cli import main
from medground.errors import PluginError, RecipeError
from medground.recipe import InvalidRecipe, check, find_problems, names, resolve
from medground.recipe.sections import SETTINGS, default

STRANGER = '''
import medground


class BoxOnly:
    """Trained for boxes alone."""

    accepts = frozenset({"box"})

    def __init__(self, *, checkpoint: str, size: int = 256) -> None:
        raise RuntimeError("checking a recipe must not construct anything")


class Fixed:
    def __init__(self, *, value: float = 0.5, power: float = 1.0) -> None:
        raise RuntimeError("checking a recipe must not construct anything")


@medground.hookimpl
def register_segmenters(register):
    register("box_only", BoxOnly)


@medground.hookimpl
def register_rewards(register):
    register("fixed", Fixed)
    register("other", Fixed)
'''


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A distribution of somebody else's, on the path."""
    folder = tmp_path / "site"
    info = folder / "stranger-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    lines = [f"{name} = stranger_parts" for name in ("segmenter.box_only", "reward.fixed", "reward.other")]
    (info / "entry_points.txt").write_text("\n".join(["[medground]", *lines]))
    (folder / "stranger_parts.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(str(folder))
    yield
    sys.modules.pop("stranger_parts", None)
    registry._offers.cache_clear()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder, and a way to write recipes into it."""
    monkeypatch.chdir(tmp_path)

    def write(**files):
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    return write


def refusal(*arguments, **options):
    with pytest.raises(RecipeError) as caught:
        resolve(*arguments, **options)
    return str(caught.value)


# Layers.


def test_later_bases_then_the_file_then_the_command_line(here):
    here(
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


def test_extends_finds_neighbours_folders_below_and_shipped_recipes(here):
    here(
        top="extends: [infer/toy, parts/one]\n", parts__one="extends: ../two\nseed: 1\n", two="allow_untrained: true\n"
    )
    recipe = resolve("top.yaml")
    assert recipe.origins["reasoner.name"] == "recipes/infer/toy.yaml:2"
    assert recipe.origins["allow_untrained"] == "two.yaml:1"
    assert recipe.origins["seed"] == "parts/one.yaml:2"


def test_swap_replaces_and_tune_merges(here):
    here(
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
def test_overrides_mean_the_same_in_any_order(here, name):
    here(base="segmenter: {name: sam, checkpoint: a, size: 3}\n")
    one = resolve("base.yaml", "segmenter.checkpoint=b", name)
    two = resolve("base.yaml", name, "segmenter.checkpoint=b")
    assert one.data == two.data
    assert one.component("segmenter") == ("medsam", {"checkpoint": "b"})
    terms = ("rewards.x.gain=2", "rewards.x=mask_dice", "rewards.x.weight=3")
    assert resolve({}, *terms).terms == resolve({}, *reversed(terms)).terms == {"x": ("mask_dice", 3.0, {"gain": 2})}


def test_the_last_of_equal_overrides_holds():
    assert resolve({}, "seed=1", "seed=2").data["seed"] == 2


def test_lists_are_replaced_and_null_takes_away(here):
    here(base="trackers: [tensorboard, {name: csv, flush: 3}]\nengine: local\ngrpo: {beta: 0.5}\n")
    recipe = resolve("base.yaml")
    assert recipe.trackers == [("tensorboard", {}), ("csv", {"flush": 3})]
    assert recipe.origins["trackers"] == "base.yaml:1"
    bare = resolve("base.yaml", "trackers=[]", "engine=null", "grpo=null")
    assert bare.trackers == [] and "engine" not in bare.data and "grpo" not in bare.data
    again = resolve("base.yaml", "grpo=null", "grpo.epsilon=0.1")
    assert again.data["grpo"]["beta"] == 0.0 and again.origins["grpo.beta"] == "default"


# Rewards.


def test_weights_zero_null_and_labels(here):
    here(
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
    assert recipe.origins["rewards.sharp.name"] == "default"


def test_a_term_swapped_keeps_its_weight_and_drops_its_arguments(here):
    here(base="rewards:\n  overlap: {name: mask_dice, weight: 0.25, gain: 3}\n")
    assert resolve("base.yaml", "rewards.overlap=mask_iou").terms == {"overlap": ("mask_iou", 0.25, {})}
    assert resolve("base.yaml", "rewards.overlap.name=mask_iou").terms == {"overlap": ("mask_iou", 0.25, {})}
    assert resolve("base.yaml", "rewards.overlap=0").terms == {"overlap": ("mask_dice", 0.0, {"gain": 3})}


def test_a_weight_is_a_number():
    for bad in ("'1'", "true", "null", "[1]"):
        assert "rewards.a.weight is" in refusal({}, f"rewards.a.weight={bad}")
    assert "names no component" in refusal({}, "rewards.a=true")
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


def test_variants_are_rows_of_overrides(here):
    here(sweep=SWEEP, more="extends: sweep\nvariants: {plain: null, dotted: {seed: 9}, added: {prompt: box}}\n")
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


def test_the_command_line_wins_over_a_variant(here):
    here(sweep=SWEEP)
    recipe = resolve("sweep.yaml", "segmenter.size=7", "segmenter.checkpoint=z", variant="swapped")
    assert recipe.component("segmenter") == ("medsam", {"size": 7, "checkpoint": "z"})
    assert recipe.variants == {}


def test_wrong_variants_are_named(here):
    here(bad="variants:\n  a: {sampling.sede: 1}\n  b: 3\n  c: {extends: x}\n")
    recipe = resolve("bad.yaml")
    assert "no variant 'd'" in refusal("bad.yaml", variant="d")
    assert refusal("bad.yaml", variant="a").startswith("bad.yaml:2: unknown key 'sede' in sampling")
    assert refusal("bad.yaml", variant="b").startswith("bad.yaml:3: variant 'b' is not a row")
    assert refusal("bad.yaml", variant="c").startswith("bad.yaml:4: 'extends' cannot be overridden")
    assert len(find_problems(recipe)) == 3


# What must be given, and what may be said.


def test_missing_values_are_listed_and_stop_only_those_who_need_them(here):
    here(a="segmenter: toy\ndata:\n  path: ???\n  split: train\nreasoner: {name: x, layers: [1, '???']}\n")
    recipe = resolve("a.yaml")
    assert recipe.missing == ["data.path", "reasoner.layers[1]"]
    assert recipe.component("segmenter") == ("toy", {})
    with pytest.raises(RecipeError, match=r"a.yaml:3: data.path must be given \(add data.path=VALUE\)"):
        recipe.settings("data")
    with pytest.raises(RecipeError, match="must be given"):
        recipe.component("reasoner")
    assert resolve("a.yaml", "data.path=d").settings("data")["path"] == "d"


def test_a_later_layer_may_ask_again(here):
    here(a="data: {path: somewhere}\n", b="extends: a\ndata: {path: '???'}\n")
    assert resolve("b.yaml").missing == ["data.path"]


def test_settings_give_defaults_where_a_recipe_is_silent():
    recipe = resolve("infer/toy")
    assert "grpo" not in recipe.data
    assert recipe.settings("grpo") == default(SETTINGS["grpo"])
    assert resolve({"grpo": {"beta": 0.5}}).settings("grpo") == {**default(SETTINGS["grpo"]), "beta": 0.5}
    with pytest.raises(RecipeError, match="names no engine"):
        recipe.component("engine")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("segmentor: toy\n", "a.yaml:1: unknown key 'segmentor' in a recipe (did you mean 'segmenter'?)"),
        ("seed: 1\ngrpo:\n  bta: 3\n", "a.yaml:3: unknown key 'bta' in grpo (did you mean 'beta'?)"),
        ("prompt: boxes\n", "a.yaml:1: prompt: 'boxes' is not one of its words (did you mean 'box'?)"),
        ("seed: one\n", "a.yaml:1: seed: 'one' is not a whole number (write a whole number)"),
        ("seed: true\n", "a.yaml:1: seed: True is not a whole number (write a whole number)"),
        ("allow_untrained: 1\n", "a.yaml:1: allow_untrained: 1 is not true or false (write true or false)"),
        ("sampling: 3\n", "a.yaml:1: sampling: 3 is not a section of key: value lines"),
        ("segmenter: 3\n", "a.yaml:1: segmenter is 3, which names no component"),
        ("segmenter: {size: 3}\n", "a.yaml:1: segmenter has no name (write segmenter: NAME"),
        ("segmenter: {name: [a]}\n", "a.yaml:1: segmenter has the name ['a'], which is none"),
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
def test_what_a_recipe_may_not_say(here, text, says):
    here(a=text)
    assert refusal("a.yaml").startswith(says)


def test_all_unknown_keys_are_told_at_once(here):
    here(a="segmentor: toy\nsampling: {sede: 1}\n")
    with pytest.raises(InvalidRecipe, match="1 more problem") as caught:
        resolve("a.yaml")
    assert [problem.where for problem in caught.value.problems] == ["a.yaml:1", "a.yaml:2"]


@pytest.mark.parametrize(
    ("override", "says"),
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
def test_what_an_override_may_not_say(override, says):
    assert says in refusal("infer/toy", override)


def test_numbers_are_numbers_and_words_are_words(here):
    ids = "[007, 1_000, 0x1f, 1:30, 2020-01-01, on, no, 'null', ~, .5, -3, +2.]"
    here(a=f"reasoner:\n  name: x\n  rate: 1e-6\n  ids: {ids}\n")
    _, arguments = resolve("a.yaml").component("reasoner")
    assert arguments["rate"] == 1e-6
    assert arguments["ids"] == [
        "007", "1_000", "0x1f", "1:30", "2020-01-01", "on", "no", "null", None, 0.5, -3, 2.0,
    ]  # fmt: skip


# Sources.


def test_unknown_sources_are_explained(here, tmp_path):
    assert "did you mean 'infer/toy'?" in refusal("infer/toi")
    assert refusal("none.yaml").startswith("none.yaml is not a file")
    (tmp_path / "folder").mkdir()
    assert "holds no recipe.yaml" in refusal("folder")
    assert "is not a file" in refusal("x" * 5000 + ".yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    assert "is not a file" in refusal("loop.yaml")
    assert "mapping is no recipe" in refusal({"seed": object()})
    assert refusal({"sampling": {"sede": 1}}).startswith("mapping: unknown key 'sede'")


def test_a_folder_written_is_the_same_recipe(here, tmp_path):
    here(sweep="extends: infer/toy\n" + SWEEP)
    recipe = resolve("sweep.yaml", "data.path=???", "segmenter.options={a: 'yes', b: [1.0, null, '1e-6']}")
    recipe.write(tmp_path)
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
VALUES = st.recursive(SCALARS, lambda each: st.lists(each, max_size=3) | st.dictionaries(KEYS, each, max_size=3))


@settings(max_examples=50)
@given(VALUES.filter(lambda value: "${" not in json.dumps(value)))
def test_what_is_dumped_reads_the_same(tmp_path_factory, value):
    recipe = resolve({"reasoner": {"name": "x", "value": value}})
    assert recipe.data["reasoner"] == {"name": "x", "value": value}
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(recipe.dump(), encoding="utf-8")
    assert resolve(path).data == recipe.data


def test_digests_follow_meaning_only(here):
    here(a="seed: 1\nsegmenter: {name: sam, x: 1, y: 2}\n", b="segmenter:\n  y: 2\n  x: 1\n  name: sam\nseed: 2\n")
    one, two = resolve("a.yaml"), resolve("b.yaml")
    assert one.digest("segmenter", "prompt") == two.digest("prompt", "segmenter")
    assert one.digest() != two.digest()
    assert one.digest("segmenter.x") != one.digest("segmenter.y")
    assert one.digest("segmenter", "reasoner") != one.digest("segmenter")


def test_a_recipe_travels_between_processes():
    recipe = resolve("infer/toy", "seed=3")
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_recipe_machinery_is_imported_on_use_only():
    code = "import sys, medground, medground.cli.recipe; print([m for m in ('omegaconf', 'yaml') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# Checks.


def test_check_binds_without_building(stranger, here):
    here(
        good="""\
segmenter: {name: box_only, checkpoint: '???'}
prompt: box
prompt_interface: bbox_points
rewards: {fixed: 1}
""",
        bad="""\
segmenter: {name: box_only, sise: 3}
rewards:
  fixed: {weight: 1, vaule: 2}
  shadow: {name: other, pwoer: 1, vlaue: 2}
reasoner: toi
variants:
  worse: {segmenter: box_onyl}
""",
    )
    assert find_problems(resolve("good.yaml")) == []
    check(resolve("good.yaml"))
    (problem,) = find_problems(resolve("good.yaml"), strict_missing=True)
    assert (problem.key, problem.where) == ("segmenter.checkpoint", "good.yaml:1")
    told = {problem.key: (problem.where, problem.hint) for problem in find_problems(resolve("bad.yaml"))}
    assert told["segmenter.sise"] == ("bad.yaml:1", "did you mean 'size'?")
    assert told["rewards.fixed.vaule"] == ("bad.yaml:3", "did you mean 'value'?")
    assert told["rewards.shadow.pwoer"][0] == told["rewards.shadow.vlaue"][0] == "bad.yaml:4"
    assert told["reasoner.name"][0] == "bad.yaml:5"
    assert told["segmenter.name"] == ("bad.yaml:7", "did you mean 'box_only'?")
    with pytest.raises(PluginError, match=r"bad.yaml:5: there is no reasoner 'toi'"):
        check(resolve("bad.yaml"))
    with pytest.raises(InvalidRecipe, match="has no argument 'vlue'"):
        check(resolve({"rewards": {"fixed": {"vlue": 1}}}))


def test_a_required_argument_is_asked_for(stranger):
    (problem,) = find_problems(resolve({"segmenter": "box_only"}))
    assert problem.key == "segmenter.name" and "checkpoint" in problem.message


@pytest.mark.parametrize(
    ("interface", "prompt", "segmenter", "says"),
    [
        ("bbox_points", "both", "region_growing", None),
        ("bbox_points", "both", "box_fill", "was not trained for points"),
        ("bbox_points", "box", "box_fill", None),
        ("bbox_points", "points", "box_fill", "was not trained for points"),
        ("bbox", "both", "box_fill", None),
        ("points", "both", "box_fill", "was not trained for points"),
        ("bbox", "points", "region_growing", "never gives points"),
        ("points", "box", "region_growing", "never gives box"),
    ],
)
def test_prompt_kinds_a_segmenter_was_not_trained_for_are_refused(interface, prompt, segmenter, says):
    words = {"prompt_interface": interface, "prompt": prompt, "segmenter": segmenter}
    problems = find_problems(resolve(words))
    if says is None:
        assert problems == []
        return
    (problem,) = problems
    assert says in problem.message.replace("what prompt_interface 'bbox' never", "never").replace(
        "never gives", f"never gives {prompt}"
    )
    allowed = find_problems(resolve({**words, "allow_untrained": True}))
    assert bool(allowed) == ("never" in says)


# The command line.


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(["recipe", *arguments])
    out, err = capsys.readouterr()
    return caught.value.code, out, err


def test_list(capsys):
    code, out, _ = run(capsys, "list", "--json")
    listed = json.loads(out)
    assert code == 0 and [each["name"] for each in listed] == names()
    code, out, _ = run(capsys, "list")
    assert "infer/toy  medground ground IMAGE QUESTION --recipe infer/toy" in out


def test_check_says_what_is_wrong_and_exits_2(capsys, here):
    here(a="extends: infer/toy\ndata: {path: '???'}\nvariants: {box: {segmenter: box_fill}}\n")
    assert run(capsys, "check", "infer/toy")[0] == 0
    code, out, err = run(capsys, "check", "a.yaml")
    assert (code, out) == (2, "") and "a.yaml:3: segmenter 'box_fill' was not trained for points" in err
    assert "still to be given: data.path" in err
    code, out, _ = run(capsys, "check", "a.yaml", "prompt=box", "--json")
    assert code == 0 and json.loads(out) == {"ok": True, "problems": [], "missing": ["data.path"]}
    assert run(capsys, "check", "a.yaml", "prompt=box", "--strict")[0] == 2
    assert run(capsys, "check", "a.yaml", "--variant", "box")[0] == 2
    code, out, _ = run(capsys, "check", "a.yaml", "sede=1", "--json")
    (problem,) = json.loads(out)["problems"]
    assert code == 2 and (problem["key"], problem["where"]) == ("sede", "command line")
    assert (problem["message"], problem["hint"]) == ("unknown key 'sede' in a recipe", "did you mean 'seed'?")


def test_show_is_the_recipe_with_origins(capsys, here, tmp_path):
    here(a="extends: infer/toy\nreasoner: {name: toy, note: 'a: b', words: ['on', x]}\nvariants: {v: {seed: 3}}\n")
    code, out, _ = run(capsys, "show", "a.yaml", "sampling.seed=4")
    assert code == 0
    told = [line.split() for line in out.splitlines()]
    assert ["seed:", "4", "#", "command", "line"] in told
    assert ["words:", '["on",', '"x"]', "#", "a.yaml:2"] in told
    (tmp_path / "shown.yaml").write_text(out)
    shown = resolve("shown.yaml")
    assert shown.data == resolve("a.yaml", "sampling.seed=4").data
    assert shown.variants == {"v": {"seed": 3}}
    assert "#" not in run(capsys, "show", "a.yaml", "--no-origins")[1]
    whole = json.loads(run(capsys, "show", "a.yaml", "--variant", "v", "--json")[1])
    assert whole["data"]["seed"] == 3 and whole["origins"]["seed"] == "a.yaml:3" and whole["missing"] == []


def test_show_graph_is_the_stages(capsys):
    code, out, _ = run(capsys, "show", "infer/toy", "--graph")
    assert code == 0 and "region_growing" in out


def test_diff_is_by_meaning(capsys, here):
    here(a="extends: infer/toy\nsegmenter: region_growing\n", b="extends: infer/toy\nseed: 2\nengine: local\n")
    code, out, err = run(capsys, "diff", "infer/toy", "a.yaml")
    assert (code, out) == (0, "") and "mean the same" in err
    code, out, _ = run(capsys, "diff", "a.yaml", "b.yaml")
    assert out.splitlines() == ["- seed: 0  # default", "+ seed: 2  # b.yaml:2", "+ engine.name: local  # b.yaml:3"]
    code, out, _ = run(capsys, "diff", "a.yaml", "b.yaml", "--json")
    assert json.loads(out) == {"a": {"seed": 0}, "b": {"seed": 2, "engine.name": "local"}}


def test_wrong_recipes_exit_2_with_one_sentence(capsys):
    code, out, err = run(capsys, "show", "infer/toi")
    assert (code, out) == (2, "") and err.startswith("error: there is no recipe 'infer/toi'\n hint: did you mean")
