"""`recipe check` without building anything, and the other recipe commands."""

import json

import pytest
from PIL import Image

from medground.cli import main
from medground.errors import PluginError
from medground.recipe import InvalidRecipe, check, find_problems, names, resolve

THIRD_PARTY = '''
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
def third_party(tmp_path, monkeypatch):
    """A third-party distribution on the path."""
    folder = tmp_path / "site"
    info = folder / "third_party-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third_party\nVersion: 1.0\n")
    module = f"stranger_{abs(hash(tmp_path))}"  # the registry caches a module by its name
    lines = [f"{name} = {module}" for name in ("segmenter.box_only", "reward.fixed", "reward.other")]
    (info / "entry_points.txt").write_text("\n".join(["[medground]", *lines]))
    (folder / f"{module}.py").write_text(THIRD_PARTY)
    monkeypatch.syspath_prepend(str(folder))


def test_check_binds_arguments_without_building(third_party, write_recipes):
    write_recipes(
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
    problems = {problem.key: (problem.where, problem.hint) for problem in find_problems(resolve("bad.yaml"))}
    assert problems["segmenter.sise"] == ("bad.yaml:1", "did you mean 'size'?")
    assert problems["rewards.fixed.vaule"] == ("bad.yaml:3", "did you mean 'value'?")
    assert problems["rewards.shadow.pwoer"][0] == problems["rewards.shadow.vlaue"][0] == "bad.yaml:4"
    assert problems["reasoner.name"][0] == "bad.yaml:5"
    assert problems["segmenter.name"] == ("bad.yaml:7", "did you mean 'box_only'?")
    with pytest.raises(PluginError, match=r"bad.yaml:5: there is no reasoner 'toi'"):
        check(resolve("bad.yaml"))
    with pytest.raises(InvalidRecipe, match="has no argument 'vlue'"):
        check(resolve({"rewards": {"fixed": {"vlue": 1}}}))


def test_a_value_of_another_type_is_reported_with_its_line(third_party, write_recipes):
    write_recipes(
        bad="""\
segmenter:
  name: box_only
  checkpoint: 7
  size: large
rewards:
  fixed: {value: null}
""",
        open="segmenter: {name: box_only, checkpoint: a, size: '???'}\n",
    )
    problems = {item.key: (item.where, item.message, item.hint) for item in find_problems(resolve("bad.yaml"))}
    assert problems == {
        "segmenter.checkpoint": ("bad.yaml:3", "segmenter.checkpoint: 7 is not a word", "write a word"),
        "segmenter.size": ("bad.yaml:4", "segmenter.size: 'large' is not a whole number", "write a whole number"),
        "rewards.fixed.value": ("bad.yaml:6", "rewards.fixed.value: null is not a number", "write a number"),
    }
    with pytest.raises(InvalidRecipe, match=r"bad.yaml:3: .* 2 more problems"):
        check(resolve("bad.yaml"))
    assert find_problems(resolve("open.yaml")) == []  # a missing value has no type yet


def test_a_broken_plugin_is_reported_once(write_recipes, third_party, tmp_path):
    (module,) = (tmp_path / "site").glob("*.py")
    module.write_text("import nothing_of_this_name\n")
    write_recipes(a="rewards:\n  fixed: 1\n  other: 1\n")
    (problem,) = find_problems(resolve("a.yaml"))
    assert problem.where == "a.yaml:2" and "nothing_of_this_name" in problem.message


def test_a_required_argument_that_is_missing_is_a_problem(third_party):
    (problem,) = find_problems(resolve({"segmenter": "box_only"}))
    assert problem.key == "segmenter.name" and "checkpoint" in problem.message


@pytest.mark.parametrize(
    ("interface", "prompt", "segmenter", "message"),
    [
        ("bbox_points", ["box", "points"], "region_growing", None),
        ("bbox_points", ["points", "box"], "box_fill", "was not trained for points"),
        ("bbox_points", "box", "box_fill", None),
        ("bbox_points", ["box"], "box_fill", None),
        ("bbox_points", "points", "box_fill", "was not trained for points"),
        ("bbox", ["box", "points"], "box_fill", None),
        ("points", ["box", "points"], "box_fill", "was not trained for points"),
        ("bbox", "points", "region_growing", "never gives"),
        ("points", "box", "region_growing", "never gives"),
        ("points", "exemplars", "tones", "never gives"),
        ("bbox", "exemplars", "tones", None),
        ("bbox", ["box", "text"], "tones", "never gives: a text"),
        ("regions", ["box", "text"], "tones", "never gives: a text"),
        ({"name": "regions", "label": True}, ["box", "text"], "tones", None),
        ({"name": "regions", "label": True}, ["box", "text"], "box_fill", "cannot read text"),
        ("bbox", "exemplars", "box_fill", "cannot read exemplars"),
        ("bbox", "box", "clipseg", "cannot read box"),
        ("points", "points", "sam3", "cannot read points"),
        ("bbox", ["box", "exemplars"], "sam3", "cannot read box"),
    ],
)
def test_prompt_kinds_a_segmenter_was_not_trained_for_are_refused(interface, prompt, segmenter, message):
    words = {"prompt_interface": interface, "prompt": prompt, "segmenter": segmenter}
    problems = find_problems(resolve(words))
    if message is None:
        assert problems == []
        return
    (problem,) = problems
    assert message in problem.message
    allowed = find_problems(resolve({**words, "allow_untrained": True}))
    assert bool(allowed) == ("not trained" not in message) == ("allow_untrained" not in problem.hint)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ({"prompt_interface": "bbox", "prompt": ["box", "text"], "segmenter": "tones"}, "set text_from: question, or"),
        (
            {"prompt_interface": "points", "prompt": "text", "segmenter": "tones", "text_from": "label"},
            "text_from: question",
        ),
        (
            {"prompt_interface": "points", "segmenter": "tones"},
            "set prompt: text and text_from: question, or allow_untr",
        ),
        ({"prompt_interface": "bbox", "prompt": "exemplars", "segmenter": "ellipse"}, "set prompt: box"),
        ({"prompt_interface": "bbox_points", "segmenter": "box_fill"}, "set prompt: box, or allow_untrained: true"),
    ],
)
def test_the_remedy_is_what_would_work(words, hint):
    (problem,) = find_problems(resolve(words))
    assert hint in problem.hint


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("[bxo]", "'bxo' is not one of its words"),
        ("[]", "[] holds none of its words"),
        ("bxo", "'bxo' is not"),
        ("both", "known: box, points, text, exemplars; several stand in a list, such as [box, points]"),
    ],
)
def test_a_prompt_is_one_of_the_kinds_or_a_list_of_them(capsys, prompt, message):
    code, _, err = run(capsys, "check", "infer/toy", f"prompt={prompt}")
    assert code == 2 and message in err


# The command line.


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(["recipe", *arguments])
    out, err = capsys.readouterr()
    return caught.value.code, out, err


def test_list_names_every_shipped_recipe_with_its_command(capsys):
    code, out, _ = run(capsys, "list", "--json")
    rows = json.loads(out)
    assert code == 0 and [row["name"] for row in rows] == names()
    code, out, _ = run(capsys, "list")
    (line,) = (line for line in out.splitlines() if line.startswith("infer/toy "))
    assert line.endswith("  medground ground IMAGE QUESTION --recipe infer/toy")


def test_check_prints_problems_and_exits_2(capsys, write_recipes):
    write_recipes(a="extends: infer/toy\ndata: {path: '???'}\nvariants: {box: {segmenter: box_fill}}\n")
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


def test_show_prints_a_recipe_with_origins(capsys, write_recipes, tmp_path):
    write_recipes(
        a="extends: infer/toy\nreasoner: {name: toy, note: 'a: b', words: ['on', x]}\nvariants: {v: {seed: 3}}\n"
    )
    code, out, _ = run(capsys, "show", "a.yaml", "sampling.seed=4")
    assert code == 0
    words = [line.split() for line in out.splitlines()]
    assert ["seed:", "4", "#", "command", "line"] in words
    assert ["words:", '["on",', "x]", "#", "a.yaml:2"] in words
    (tmp_path / "shown.yaml").write_text(out)
    shown = resolve("shown.yaml")
    assert shown.data == resolve("a.yaml", "sampling.seed=4").data
    assert shown.variants == {"v": {"seed": 3}}
    assert "#" not in run(capsys, "show", "a.yaml", "--no-origins")[1]
    whole = json.loads(run(capsys, "show", "a.yaml", "--variant", "v", "--json")[1])
    assert whole["data"]["seed"] == 3 and whole["origins"]["seed"] == "a.yaml:3" and whole["missing"] == []


def test_show_graph_prints_the_stages(capsys):
    code, out, _ = run(capsys, "show", "infer/toy", "--graph")
    assert code == 0 and "region_growing" in out


def test_diff_compares_meaning(capsys, write_recipes):
    write_recipes(a="extends: infer/toy\nsegmenter: region_growing\n", b="extends: infer/toy\nseed: 2\nengine: local\n")
    code, out, err = run(capsys, "diff", "infer/toy", "a.yaml")
    assert (code, out) == (0, "") and "mean the same" in err
    code, out, _ = run(capsys, "diff", "a.yaml", "b.yaml")
    assert out.splitlines() == ["- seed: 0  # default", "+ seed: 2  # b.yaml:2", "+ engine.name: local  # b.yaml:3"]
    code, out, _ = run(capsys, "diff", "a.yaml", "b.yaml", "--json")
    assert json.loads(out) == {"a": {"seed": 0}, "b": {"seed": 2, "engine.name": "local"}}


def test_an_unknown_recipe_exits_2_with_one_sentence(capsys):
    code, out, err = run(capsys, "show", "infer/toi")
    assert (code, out) == (2, "") and err.startswith("error: there is no recipe 'infer/toi'\n hint: did you mean")


def test_untrained_prompt_kinds_that_are_allowed_are_stated(capsys, tmp_path):
    allowed = ["segmenter=box_fill", "allow_untrained=true"]
    with pytest.raises(SystemExit) as left:
        main(["recipe", "check", "infer/toy", *allowed])
    assert left.value.code in (0, None)
    assert "note: its segmenter is given points, which it was not trained for" in capsys.readouterr().err
    Image.new("RGB", (60, 50), "grey").save(tmp_path / "grey.png")
    with pytest.raises(SystemExit):
        main(["ground", str(tmp_path / "grey.png"), "where?", *allowed, "--out", str(tmp_path / "out"), "--json"])
    assert '"untrained_prompts": ["points"]' in capsys.readouterr().out


RAISING = '''
import medground


class Strict:
    """A segmenter whose constructor judges its arguments."""

    accepts = frozenset({"box"})

    def __init__(self, *, quantile: float = 0.5, margin: int = 0) -> None:
        if not 0 <= quantile <= 1:
            raise ValueError(f"quantile lies in [0, 1], not {quantile}")
        if margin < 0:
            raise KeyError("no such margin")

    def segment(self, image, prompts):
        return []


@medground.hookimpl
def register_segmenters(register):
    register("strict", Strict)
'''


@pytest.mark.parametrize(
    ("argument", "cause"),
    [
        ("quantile=3", "quantile lies in [0, 1], not 3"),
        ("margin=-1", "KeyError: 'no such margin'"),
    ],
)
def test_a_constructor_that_raises_is_a_problem_of_the_recipe(argument, cause, site, install, write_recipes, capsys):
    install(site, "medground-strict", {"segmenter.strict": "medground_strict"}, RAISING)
    write_recipes(mine="extends: infer/toy\nsegmenter: strict\nprompt: box\n")
    word, _, value = argument.partition("=")
    for command in (["recipe", "check", "mine.yaml"], ["ground", "scan.png", "Where?", "--recipe", "mine.yaml"]):
        Image.new("RGB", (8, 8)).save("scan.png")
        with pytest.raises(SystemExit) as ended:
            main([*command, f"segmenter.{argument}"])
        told = capsys.readouterr().err
        assert ended.value.code == 2, told
        assert f"segmenter 'strict' cannot be built with {word}={value}: {cause}" in told
    with pytest.raises(SystemExit) as ended:
        main(["recipe", "check", "mine.yaml", f"segmenter.{argument}", "--json"])
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert (problem["key"], problem["hint"]) == (f"segmenter.{word}", f"set segmenter.{word}=VALUE")


def test_a_constructor_of_a_variant_is_tried_too(site, install, write_recipes, capsys):
    install(site, "medground-strict", {"segmenter.strict": "medground_strict"}, RAISING)
    write_recipes(
        mine="extends: infer/toy\nprompt: box\nsegmenter: strict\nvariants: {odd: {segmenter: {quantile: 7}}}\n"
    )
    with pytest.raises(SystemExit) as ended:
        main(["recipe", "check", "mine.yaml"])
    assert ended.value.code == 2
    assert "quantile lies in [0, 1], not 7" in capsys.readouterr().err


def test_components_with_weights_are_not_built(third_party, write_recipes, capsys):
    write_recipes(good="segmenter: {name: box_only, checkpoint: here}\nprompt: box\nprompt_interface: bbox_points\n")
    with pytest.raises(SystemExit) as ended:
        main(["recipe", "check", "good.yaml"])
    assert not ended.value.code, capsys.readouterr().err
