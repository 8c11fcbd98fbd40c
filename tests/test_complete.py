"""Shell completion: commands, recipes and component names, without importing a plugin."""

import os
import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete

from medground.cli import medground
from medground.recipe import names


def completed(arguments: list[str], incomplete: str) -> list[str]:
    shell = ShellComplete(medground, {}, "medground", "_MEDGROUND_COMPLETE")
    return [item.value for item in shell.get_completions(arguments, incomplete)]


@pytest.mark.parametrize(
    "before",
    [["ground", "--recipe"], ["run", "--recipe"], ["doctor", "frames"], ["fetch"], ["train"], ["reward", "audit"]]
    + [["recipe", command] for command in ("check", "show", "diff")],
    ids=" ".join,
)
def test_recipes_complete_everywhere(before):
    assert completed(before, "infer/") == [name for name in names() if name.startswith("infer/")]


def test_a_recipe_may_be_a_file():
    shell = ShellComplete(medground, {}, "medground", "_MEDGROUND_COMPLETE")
    [item] = shell.get_completions(["recipe", "show"], "my")
    assert (item.type, item.value) == ("file", "my")


@pytest.mark.parametrize(
    ("before", "incomplete", "found"),
    [
        ([], "segm", ["segmenter="]),
        ([], "segmenter=box", ["segmenter=box_fill"]),
        (["seed=1"], "reasoner=scr", ["reasoner=scripted"]),
        (["segmenter", "="], "box", ["box_fill"]),  # as bash cuts it
        ([], "nothing=b", []),
    ],
)
def test_overrides_complete_to_components(before, incomplete, found):
    assert completed(["ground", "scan.png", "where?", *before], incomplete) == found


def test_a_shell_gets_its_answer():
    words = {"COMP_WORDS": "medground rec", "COMP_CWORD": "1", "_MEDGROUND_COMPLETE": "bash_complete"}
    command = [sys.executable, "-c", "from medground.cli import main; main()"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | words)
    assert done.stdout == "plain,recipe\n"
