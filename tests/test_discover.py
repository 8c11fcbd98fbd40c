"""Whoever looks for a component finds it, what it takes and what to paste, also beside plugins that are broken."""

import json
import os
import re
import shlex
from dataclasses import dataclass

import pytest

import medground
from medground.cli import main
from medground.cli.component_pages import page
from medground.recipe import find_problems, resolve
from medground.recipe.yaml_reader import parse
from medground.registry import bind, components, factory
from medground.registry.description import Description, describe, describe_all
from medground.registry.isolation import Problem

GOOD = '''
from medground import hookimpl
from medground.licences import Published, stated

class Glow:
    """Lights what is bright.

    More of it.

    Args:
        side: of the grid,
            px.
    """

    accepts = frozenset({"points", "box", "negative_points"})
    published = (Published("someone/glow", stated("CC BY-NC 4.0")), Published("someone/gleam", stated("MIT")))

    def __init__(self, *, side: int = 8, checkpoint: str | None = None) -> None:
        self.side = side

@hookimpl
def register_segmenters(register):
    register("glow", Glow)
'''


def cli(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


@pytest.fixture(scope="module")
def described() -> dict:
    return describe_all(components())


@pytest.mark.slow
def test_every_built_in_says_what_it_is_and_what_each_argument_means(described):
    silent = [
        f"{component.kind}.{component.name}.{argument.name}"
        for component, about in described.items()
        for argument in about.arguments
        if not argument.meaning
    ]
    assert silent == []
    pointers = [component.name for component, about in described.items() if about.summary.startswith(("See ", "As "))]
    assert all(about.summary for about in described.values()) and pointers == []


@pytest.mark.slow
def test_a_kind_is_given_as_the_list_spells_it_or_with_a_hyphen(capsys):
    underscore, hyphen = (cli(capsys, "plugins", "list", "--kind", f"prompt{mark}interface") for mark in "_-")
    assert underscore == hyphen and underscore[0] == 0
    assert all(line.startswith("prompt_interface\t") for line in underscore[1].splitlines())
    assert cli(capsys, "plugins", "list", "--kind", "prompt.interface")[0] == 2


@pytest.mark.slow
def test_a_process_of_its_own_says_what_this_one_would(described):
    for component, about in described.items():
        assert about.to_dict() == describe(factory(component.kind, component.name)).to_dict(), component


@pytest.mark.slow
def test_what_is_listed_is_what_the_component_states(capsys):
    code, out, _ = cli(capsys, "plugins", "list", "--json")
    rows = {(row["kind"], row["name"]): row for row in json.loads(out)}
    assert code == 0
    assert rows["segmenter", "medsam"]["prompts"] == ["box"]
    assert rows["segmenter", "medsam"]["licence"] == "Apache-2.0"
    assert rows["segmenter", "medsam2"]["licence"] == "CC BY-SA 4.0"
    assert rows["segmenter", "sammed2d"]["licence"] == "none stated"
    assert rows["segmenter", "ellipse"]["licence"] == ""
    assert "Qwen Research License (non-commercial)" in rows["reasoner", "qwen2_5_vl"]["licence"]
    assert rows["prompt_interface", "bbox_points"]["prompts"] == ["box", "points"]
    assert rows["reward", "bbox_iou"]["summary"].startswith("Intersection over union of the boxes")
    assert {row["problem"] for row in rows.values()} == {None}


@pytest.mark.slow
def test_on_a_terminal_each_kind_has_a_table_with_one_line_per_component(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    _, out, _ = cli(capsys, "plugins", "list", "--kind", "segmenter")
    out = re.sub(r"\x1b\[[0-9;]*m", "", out)
    header = next(line for line in out.splitlines() if "description" in line)
    assert header.split() == ["name", "description", "prompts", "licence", "of", "weights", "plugin"]
    (line,) = [line for line in out.splitlines() if " medsam2 " in line]
    assert "box, points, negative_points" in line and "CC BY-SA 4.0" in line and "medground_sam2" in line
    assert "…" in line, "the description is cut to one line"


@pytest.mark.slow
def test_broken_plugins_cost_their_own_rows(install, site, capsys):
    install(site, "medground-glow", {"segmenter.glow": "medground_glow"}, GOOD)
    install(site, "medground-sad", {"segmenter.sad": "medground_sad"}, "raise RuntimeError('no mood')")
    install(site, "medground-gone", {"segmenter.gone": "medground_gone"}, "import os; os._exit(7)")
    install(
        site,
        "medground-odd",
        {"segmenter.odd": "medground_odd"},
        GOOD.replace('"glow"', '"odd"').replace("(Pub", "3 or (Pub"),
    )
    code, out, _ = cli(capsys, "plugins", "list", "--kind", "segmenter", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert "fails with RuntimeError: no mood" in rows["sad"]["problem"] and "medground-sad" in rows["sad"]["hint"]
    assert "exit status 7" in rows["gone"]["problem"]
    assert rows["glow"]["prompts"] == ["box", "negative_points", "points"]
    assert rows["glow"]["licence"] == "CC BY-NC 4.0 (non-commercial), MIT"
    assert rows["odd"]["problem"] is None and rows["odd"]["licence"] == "", "what is malformed is left out"
    assert rows["box_fill"]["problem"] is None
    assert cli(capsys, "plugins", "list", "--strict")[0] == 4
    code, _, err = cli(capsys, "plugins", "show", "sad")
    assert code == 4 and "no mood" in err


def test_a_plugin_that_does_not_finish_importing_is_listed_so(install, site):
    install(site, "medground-slow", {"segmenter.slow": "medground_slow"}, "import threading; threading.Event().wait()")
    (slow,) = [component for component in components("segmenter") if component.name == "slow"]
    problem = describe_all([slow], seconds=0.5)[slow]
    assert isinstance(problem, Problem)
    assert "does not finish importing within 0.5 s" in problem.cause


def test_show_gives_defaults_meanings_terms_and_examples(install, site, capsys):
    install(site, "medground-glow", {"segmenter.glow": "medground_glow"}, GOOD)
    code, out, _ = cli(capsys, "plugins", "show", "glow")
    assert code == 0
    assert (
        "segmenter glow, of medground-glow 1.0 (module medground_glow)\nLights what is bright.\n\nMore of it.\n" in out
    )
    assert "takes: box, points, negative_points" in out
    assert "  someone/glow: CC BY-NC 4.0, non-commercial\n  someone/gleam: MIT\n" in out
    assert "  side (a whole number; default 8): of the grid, px.\n" in out
    assert "recipe:\n  segmenter:\n    name: glow\n    checkpoint: someone/glow\n    side: 8\n" in out
    assert 'medground.build("segmenter", "glow", checkpoint="someone/glow", side=8)' in out


def test_what_a_component_inherits_is_not_its_description():
    class Base:
        """Derive from it.

        Args:
            side: px.
        """

        def __init__(self, *, side: int | None = None) -> None: ...

    @dataclass
    class Mine(Base):
        side: int = 3

    assert [describe(Mine).summary, describe(Base).summary] == ["", "Derive from it."]
    assert [argument.meaning for argument in describe(Mine).arguments] == ["px."], "the meaning of an argument is"


def test_show_of_no_component_names_the_nearest(capsys):
    assert cli(capsys, "plugins", "show", "medsma")[::2] == (
        4, "error: there is no component 'medsma'\n hint: did you mean 'medsam'?\n",
    )  # fmt: skip


@pytest.mark.slow
def test_show_gives_every_component_of_a_name_or_those_of_a_kind(capsys, install, site):
    install(site, "medground-glow", {"segmenter.manifest": "medground_glow"}, GOOD.replace('"glow"', '"manifest"'))
    kinds = [page["kind"] for page in json.loads(cli(capsys, "plugins", "show", "manifest", "--json")[1])]
    assert kinds == ["reader", "segmenter"]
    _, out, _ = cli(capsys, "plugins", "show", "manifest", "--kind", "reader", "--json")
    (page,) = json.loads(out)
    assert {argument["name"] for argument in page["arguments"]} == {"question", "window"}, "the options of its read"


@pytest.mark.parametrize("component", components(), ids=lambda component: f"{component.kind}.{component.name}")
def test_the_example_of_every_built_in_can_be_pasted(component, described, monkeypatch):
    about = described[component]
    assert isinstance(about, Description)
    one = page(component, about)
    assert os.path.expanduser("~") not in one.text, "no path of this machine"
    if component.kind == "command":
        assert one.override == f"medground {component.name} --help"
        return
    base = {"reasoner": "toy", "prompt_interface": "bbox_points", "segmenter": "ellipse", "allow_untrained": True}
    assert find_problems(resolve({**base, **parse(one.recipe, "example")[0]})) == []
    assert find_problems(resolve(base, *shlex.split(one.override))) == []
    calls = []
    monkeypatch.setattr(medground, "build", lambda kind, name, **arguments: calls.append((kind, name, arguments)))
    monkeypatch.setattr(medground, "open_dataset", lambda path, *, reader: calls.append(("reader", reader, {})))
    exec(one.python, {})
    ((kind, name, arguments),) = calls
    assert (kind, name) == (component.kind, component.name)
    bind(kind, name, arguments)
