"""Discovery reads metadata and never fails; use imports one owner and says what is wrong with it."""

import inspect
import sys

import pytest

import medground
from medground import hookspecs
from medground.errors import PluginError, RecipeError
from medground.registry import KINDS, bind, build, components, factory, find
from medground.registry.errors import blame, lacking

PLUGIN = """
import medground

class Glow:
    def __init__(self, *, level: float = 0.5) -> None:
        if level > 1:
            raise ValueError("level lies in [0, 1]")
        self.level = level

@medground.hookimpl
def register_segmenters(register):
    register("glow", Glow)
"""


def problem(kind, name):
    with pytest.raises(PluginError) as caught:
        factory(kind, name)
    return str(caught.value)


def test_every_kind_has_a_hook_and_every_hook_a_kind():
    hooks = {name for name in vars(hookspecs) if name.startswith("register_")}
    assert set(KINDS.values()) == hooks


def test_listing_is_sorted_and_names_owners():
    found = components()
    assert found == sorted(found)
    assert len(found) >= 20
    box_fill = find("segmenter", "box_fill")
    assert (box_fill.module, box_fill.distribution) == ("medground_toy", "medground")
    assert box_fill.version == medground.__version__
    assert {component.kind for component in components("prompt-interface")} == {"prompt_interface"}


def test_a_stranger_is_found_bound_and_built(site, install):
    install(site, "medground-glow", {"segmenter.glow": "medground_glow"}, PLUGIN)
    assert find("segmenter", "glow").distribution == "medground-glow"
    assert "medground_glow" not in sys.modules
    assert bind("segmenter", "glow", {"level": 0.2}).arguments == {"level": 0.2}
    assert build("segmenter", "glow", level=0.2).level == 0.2
    assert medground.build("segmenter", "glow").level == 0.5


def test_one_installed_after_a_miss_is_found(site, install):
    assert "there is no segmenter 'glow'" in problem("segmenter", "glow")
    install(site, "medground-glow", {"segmenter.glow": "medground_glow"}, PLUGIN)
    assert inspect.isclass(factory("segmenter", "glow"))


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("segmenter", "box_fil", "did you mean 'box_fill'?"),
        ("reward", "box_fill", "'box_fill' is a segmenter"),
        ("segmentor", "box_fill", "did you mean 'segmenter'?"),
    ],
)
def test_unknown_words_get_the_nearest(kind, name, says):
    assert says in problem(kind, name)


def test_arguments_are_checked_against_the_signature(site, install):
    install(site, "medground-glow", {"segmenter.glow": "medground_glow"}, PLUGIN)
    with pytest.raises(RecipeError, match=r"no argument 'levl'.*did you mean 'level'"):
        bind("segmenter", "glow", {"levl": 1})
    with pytest.raises(RecipeError, match=r"level lies in \[0, 1\]"):
        build("segmenter", "glow", level=7)
    with pytest.raises(RecipeError, match=r"segmenter 'glow': level 'high' is not a number .write a number"):
        build("segmenter", "glow", level="high")


def test_a_library_that_says_which_package_it_lacks_is_believed(site, install):
    source = PLUGIN.replace(
        "self.level = level",
        "raise ImportError('Glow requires the Timm library\\nbut it was not found. You can: `pip install timm`.')",
    )
    install(site, "medground-glow", {"segmenter.glow": "medground_glow"}, source)
    with pytest.raises(PluginError, match=r"lacks a package: Glow requires the Timm library but it") as caught:
        build("segmenter", "glow")
    assert caught.value.hint == "pip install timm"


def test_a_required_argument_is_asked_for(site, install):
    source = PLUGIN.replace("level: float = 0.5", "level: float")
    install(site, "medground-glow", {"segmenter.glow": "medground_glow"}, source)
    with pytest.raises(RecipeError, match="level"):
        bind("segmenter", "glow", {})


@pytest.mark.parametrize("word", ["name", "weight"])
def test_recipe_words_are_refused_as_parameters(site, install, word):
    source = PLUGIN.replace("level: float = 0.5", f"level: float = 0.5, {word}: str = ''")
    install(site, "medground-glow", {"segmenter.glow": "medground_glow"}, source)
    assert f"has a parameter '{word}', which is a word of recipes" in problem("segmenter", "glow")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('register("glow", Glow)', 'register("glo", Glow)', "declares segmenter glow but registers glo "),
        ('register("glow", Glow)', "pass", "declares segmenter glow but registers nothing"),
        ('register("glow", Glow)', 'register("glow", Glow); register("more", Glow)', "registers glow, more"),
        ('register("glow", Glow)', 'register("glow", Glow); register("glow", Glow)', "'glow' is registered twice"),
        ('register("glow", Glow)', 'register("glow", 3)', "register takes a name and a callable"),
        ("def register_segmenters", "def register_segmentors", "register_segmentors"),
    ],
)
def test_what_is_registered_must_be_what_is_declared(site, install, old, new, says):
    install(site, "medground-glow", {"segmenter.glow": "medground_glow"}, PLUGIN.replace(old, new))
    assert says in problem("segmenter", "glow")
    assert "medground-glow 1.0" in problem("segmenter", "glow")


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (b"[medground]\nglow = medground_glow\n", "'glow' of medground-glow 1.0 is not named <kind>.<component>"),
        (b"[medground]\nsegmentor.glow = medground_glow\n", "is of a kind that medground"),
        (b"[medground]\nsegmenter.glow = medground glow!\n", "which is not the name of a module"),
        (b"[medground]\nsegmenter.glow = medground_glow:Glow\n", "which is not the name of a module"),
        (b"[medground]\nsegmenter.glow\n", "the entry points of medground-glow 1.0 cannot be read"),
        (b"[medground]\nsegmenter.gl\xff = m\n", "the entry points of medground-glow 1.0 cannot be read"),
    ],
)
def test_malformed_metadata_is_listed_and_costs_nobody_else(site, install, entries, says):
    install(site, "medground-glow", entries, PLUGIN)
    (broken,) = [component for component in components() if component.problem]
    assert says in broken.problem
    assert broken.distribution == "medground-glow"
    assert broken.hint
    assert factory("segmenter", "box_fill")


def test_a_name_with_two_owners_names_both(site, install):
    install(site, "medground-glow", {"segmenter.glow": "medground_glow"}, PLUGIN)
    install(site, "other-glow", {"segmenter.glow": "other_glow"}, PLUGIN, version="2.5")
    told = problem("segmenter", "glow")
    assert "segmenter 'glow' has 2 owners: medground-glow 1.0 (module medground_glow) and other-glow 2.5" in told
    assert "pip uninstall other-glow" in told
    assert [component.problem is None for component in components("segmenter") if component.name == "glow"] == [
        False
    ] * 2


def test_a_built_in_installed_twice_is_recognised(site, install):
    install(site, "medground-toy", {"segmenter.box_fill": "medground_toy"}, version="0.1.0")
    told = problem("segmenter", "box_fill")
    assert "segmenter 'box_fill' is installed twice, the same module from medground " in told
    assert "pip uninstall medground-toy, whose code ships inside medground" in told
    assert factory("segmenter", "ellipse"), "the other names of that module still work"


def test_one_entry_from_two_strangers_is_recognised(site, install):
    for package in ("medground-glow", "glow-fork"):
        install(site, package, {"segmenter.glow": "medground_glow"}, PLUGIN)
    assert "installed twice, the same module from glow-fork 1.0" in problem("segmenter", "glow")


@pytest.mark.parametrize(
    ("only", "modules"),
    [
        ("none", set()),
        ("toy", {"medground_toy"}),
        ("toy, medground_prompts", {"medground_toy", "medground_prompts"}),
        ("medground-glow", {"medground_glow"}),
        ("GLOW,rewards", {"medground_glow", "medground_rewards"}),
    ],
)
def test_the_environment_restricts_what_is_seen(site, install, monkeypatch, only, modules):
    install(site, "medground-glow", {"segmenter.glow": "medground_glow"}, PLUGIN)
    monkeypatch.setenv("MEDGROUND_PLUGINS", only)
    assert {component.module for component in components()} == modules


def test_what_the_environment_leaves_out_is_said_to_be(monkeypatch):
    monkeypatch.setenv("MEDGROUND_PLUGINS", "prompts")
    assert "MEDGROUND_PLUGINS=prompts leaves it out" in problem("segmenter", "box_fill")


def test_a_collision_is_settled_by_leaving_one_owner_out(site, install, monkeypatch):
    install(site, "medground-evil", {"segmenter.box_fill": "medground_evil"}, PLUGIN)
    assert "2 owners" in problem("segmenter", "box_fill")
    monkeypatch.setenv("MEDGROUND_PLUGINS", "medground")
    assert factory("segmenter", "box_fill").__module__.startswith("medground_toy")


@pytest.mark.parametrize(
    ("name", "missing", "remedy"),
    [
        ("medsam", "segment_anything", "pip install 'medground[sam-official]'"),
        ("medsam", "torch.nn", "pip install 'medground[sam]'"),
        ("sam2", "sam2", "pip install 'medground[sam2-official]'"),
        ("sam2", "tokenizers", "pip install 'medground[sam2]'"),
        ("box_fill", "open_clip", "pip install 'medground[clip]'"),
        ("box_fill", "numpy", "pip install --force-reinstall medground"),
    ],
)
def test_a_missing_library_is_traced_to_its_extra(name, missing, remedy):
    error = ModuleNotFoundError(f"No module named {missing!r}", name=missing)
    assert remedy in blame(find("segmenter", name), error).hint


def test_a_library_missing_in_the_constructor_is_a_plugin_error(site, install):
    source = PLUGIN.replace("        if level > 1:", "        import glow_backend\n        if level > 1:")
    needs = ['glow-backend>=2; extra == "glow"', 'pytest; extra == "test"']
    install(site, "medground-glow", {"segmenter.glow": "medground_glow"}, source, requires=needs)
    with pytest.raises(PluginError, match=r"needs the module 'glow_backend'.*pip install 'medground-glow\[glow\]'"):
        build("segmenter", "glow")
    assert lacking(find("segmenter", "glow")) == "medground-glow[glow]"


def test_what_a_plugin_prints_does_not_reach_stdout(site, install, capfd):
    source = "print('hello from import')\n" + PLUGIN
    install(site, "medground-glow", {"segmenter.glow": "medground_glow"}, source)
    build("segmenter", "glow")
    assert capfd.readouterr().out == ""


def test_the_time_limit_must_be_a_number(site, install, monkeypatch):
    install(site, "medground-glow", {"segmenter.glow": "medground_glow"}, PLUGIN)
    monkeypatch.setenv("MEDGROUND_PLUGIN_SECONDS", "soon")
    assert "MEDGROUND_PLUGIN_SECONDS is not a number: 'soon'" in problem("segmenter", "glow")
