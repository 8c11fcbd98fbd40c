"""Discovery reads metadata and never fails; use imports one owner and says what is wrong with it."""

import inspect
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

import medground
import medground.cli
from medground import hookspecs
from medground.errors import PluginError, RecipeError
from medground.hookspecs import CORE_COMMANDS, KINDS, hook_name
from medground.registry import bind, build, components, factory, find
from medground.registry.errors import as_plugin_error, missing_extra

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
    assert {hook_name(kind) for kind in KINDS} == hooks


def test_listing_is_sorted_and_names_owners():
    result = components()
    assert result == sorted(result)
    assert len(result) >= 20
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
        (b"[medground]\nsegmenter.glow = medground glow!\n", "which is not a module name"),
        (b"[medground]\nsegmenter.glow = medground_glow:Glow\n", "which is not a module name"),
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
    sentence = problem("segmenter", "glow")
    assert "segmenter 'glow' has 2 owners: medground-glow 1.0 (module medground_glow) and other-glow 2.5" in sentence
    assert "pip uninstall other-glow" in sentence
    assert [component.problem is None for component in components("segmenter") if component.name == "glow"] == [
        False
    ] * 2


def test_a_built_in_installed_twice_is_recognised(site, install):
    install(site, "medground-toy", {"segmenter.box_fill": "medground_toy"}, version="0.1.0")
    sentence = problem("segmenter", "box_fill")
    assert "segmenter 'box_fill' is installed twice, the same module from medground " in sentence
    assert "pip uninstall medground-toy, whose code ships inside medground" in sentence
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
        ("sam3_tracker", "torchvision", "pip install 'medground[sam2-more]'"),
        ("sam2", "sam2", "pip install 'medground[sam2-official]'"),
        ("sam2", "tokenizers", "pip install 'medground[sam2]'"),
        ("box_fill", "open_clip", "pip install 'medground[clip]'"),
        ("box_fill", "numpy", "pip install --force-reinstall medground"),
    ],
)
def test_a_missing_library_is_traced_to_its_extra(name, missing, remedy):
    error = ModuleNotFoundError(f"No module named {missing!r}", name=missing)
    assert remedy in as_plugin_error(find("segmenter", name), error).hint


def test_a_library_missing_in_the_constructor_is_a_plugin_error(site, install):
    source = PLUGIN.replace("        if level > 1:", "        import glow_backend\n        if level > 1:")
    needs = ['glow-backend>=2; extra == "glow"', 'pytest; extra == "test"']
    install(site, "medground-glow", {"segmenter.glow": "medground_glow"}, source, requires=needs)
    with pytest.raises(PluginError, match=r"needs the module 'glow_backend'.*pip install 'medground-glow\[glow\]'"):
        build("segmenter", "glow")
    assert missing_extra(find("segmenter", "glow")) == "medground-glow[glow]"


def test_what_a_plugin_prints_does_not_reach_stdout(site, install, capfd):
    source = "print('hello from import')\n" + PLUGIN
    install(site, "medground-glow", {"segmenter.glow": "medground_glow"}, source)
    build("segmenter", "glow")
    assert capfd.readouterr().out == ""


def test_a_line_names_a_plugin_of_others_before_it_is_imported(site, install, caplog):
    install(site, "medground-glow", {"segmenter.glow": "medground_glow"}, "raise ValueError('boom')\n")
    build("segmenter", "box_fill")
    assert not caplog.messages, "built-ins are imported without a line"
    assert "fails with ValueError: boom" in problem("segmenter", "glow")
    assert caplog.messages == ["importing plugin medground-glow 1.0 (module medground_glow)"]


def test_a_plugin_is_imported_and_named_once(site, install, caplog):
    install(site, "medground-glow", {"segmenter.glow": "medground_glow"}, PLUGIN)
    assert [build("segmenter", "glow").level for _ in range(3)] == [0.5] * 3
    assert len(caplog.messages) == 1


def test_one_broken_plugin_does_not_spoil_the_next(site, install):
    for name, hook in (("glow", "register_segmentors"), ("gleam", "register_segmenters")):
        source = PLUGIN.replace("glow", name).replace("register_segmenters", hook)
        install(site, f"medground-{name}", {f"segmenter.{name}": f"medground_{name}"}, source)
    assert "register_segmentors" in problem("segmenter", "glow")
    assert build("segmenter", "gleam").level == 0.5
    assert "register_segmentors" in problem("segmenter", "glow"), "the second answer is the first"


COMMAND = """
import click
import medground

@click.command()
@click.argument("name")
def greet(name):
    click.echo(f"hello {name}")

@medground.hookimpl
def register_commands(register):
    register("greet", greet)
"""


def test_a_plugin_adds_a_command_that_help_lists_without_importing_it(site, install):
    install(site, "medground-greet", {"command.greet": "medground_greet"}, COMMAND, summary="Says hello.")
    shown = CliRunner().invoke(medground.cli.medground, ["--help"]).output
    assert re.search(r"^  greet +Says hello\.$", shown, re.M)
    assert "medground_greet" not in sys.modules
    assert CliRunner().invoke(medground.cli.medground, ["greet", "you"]).stdout == "hello you\n"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("{}['key']", "error: plugin medground-greet 1.0 (module medground_greet) fails with KeyError: 'key'"),
        ("import a_library_nobody_has", "needs the module 'a_library_nobody_has', which is not installed"),
    ],
)
def test_a_command_that_fails_blames_its_plugin(site, install, capsys, body, says):
    source = COMMAND.replace('click.echo(f"hello {name}")', body)
    install(site, "medground-greet", {"command.greet": "medground_greet"}, source)
    with pytest.raises(SystemExit) as ended:
        medground.cli.main(["greet", "you"])
    assert ended.value.code == 4
    assert says in capsys.readouterr().err


def test_the_commands_of_medground_itself_are_the_reserved_names():
    assert set(medground.cli.COMMANDS) == CORE_COMMANDS


def test_a_plugin_cannot_take_the_name_of_a_core_command(site, install):
    install(site, "medground-coach", {"command.train": "medground_coach"}, COMMAND)
    says = "entry point 'command.train' of medground-coach 1.0 has the name of a command of medground itself"
    assert says in problem("command", "train")
    shown = CliRunner().invoke(medground.cli.medground, ["train", "--help"]).output
    assert "Train the reasoner of RECIPE" in shown


def test_a_command_with_two_owners_is_refused_and_not_listed(site, install):
    for package in ("medground-greet", "other-greet"):
        install(site, package, {"command.greet": package.replace("-", "_")}, COMMAND)
    assert "greet" not in CliRunner().invoke(medground.cli.medground, ["--help"]).output
    error = CliRunner().invoke(medground.cli.medground, ["greet"]).exception
    assert isinstance(error, PluginError)
    assert "command 'greet' has 2 owners: medground-greet 1.0" in str(error)


def test_a_command_is_a_click_command_and_is_not_built(site, install):
    install(site, "medground-greet", {"command.greet": "medground_greet"}, COMMAND)
    with pytest.raises(RecipeError, match="a command is run, not built: greet"):
        build("command", "greet")
    install(
        site, "medground-wave", {"command.wave": "medground_wave"}, COMMAND.replace('("greet", greet)', '("wave", len)')
    )
    assert "command 'wave' is no click command: <built-in function len>" in problem("command", "wave")


def test_the_command_of_a_built_in_has_the_summary_of_its_own_package(site, install):
    alone = CliRunner().invoke(medground.cli.medground, ["--help"]).output
    install(site, "medground-greet", {"command.greet": "medground_greet"}, COMMAND, summary="Says hello.")
    beside = CliRunner().invoke(medground.cli.medground, ["--help"]).output
    line = re.search(r"^  data +Make a dataset of images and masks.*$", alone, re.M)
    assert line and line[0] in beside
    assert set(beside.splitlines()) - set(alone.splitlines()) == {"  greet    Says hello."}


def test_metadata_that_cannot_be_read_hides_no_other_command(site, install):
    install(site, "aaa-broken", b"[medground]\ncommand.gl\xff = m\n")
    install(site, "medground-greet", {"command.greet": "medground_greet"}, COMMAND, summary="Says hello.")
    assert "  greet    Says hello." in CliRunner().invoke(medground.cli.medground, ["--help"]).output


def test_help_does_not_load_what_reads_metadata():
    code = "from medground.cli import medground\nmedground(['--help'], standalone_mode=False)\nimport sys\n"
    code += "assert not {'importlib.metadata', 'pluggy', 'medground_data'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "  data " in done.stdout
