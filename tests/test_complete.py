"""Shell completion: commands, recipes and component names, without importing a plugin."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

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


PAGE = Path(__file__).resolve().parents[1] / "docs" / "command-line.md"


def documented(language: str) -> str:
    """The line of the page that sets up a shell."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if "_MEDGROUND_COMPLETE" in block]
    return block


@pytest.fixture
def on_path(monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.slow
def test_bash_completes_after_the_line_of_the_page(on_path):
    press_tab = (
        "COMP_WORDS=(medground recipe show infer/); COMP_CWORD=3; COMP_LINE='medground recipe show infer/'\n"
        "_medground_completion medground 2>/dev/null; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    script = f"{documented('sh')}\ncomplete -p medground\n{press_tab}"
    done = subprocess.run(["bash", "--norc", "-euc", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    registered, *words = done.stdout.splitlines()
    assert "_medground_completion" in registered
    assert words == [name for name in names() if name.startswith("infer/")]


@pytest.mark.parametrize(
    ("shell", "words"), [("zsh", ["#compdef medground", "compdef"]), ("fish", ["complete", "medground"])]
)
def test_the_script_of_the_other_shells_is_written_as_the_page_says(shell, words, on_path, tmp_path):
    home = tmp_path / "home"
    (home / ".config" / "fish" / "completions").mkdir(parents=True)
    environment = os.environ | {"HOME": str(home)}
    done = subprocess.run(
        ["bash", "--norc", "-euc", documented(shell)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    (script,) = [path for path in home.rglob("*medground*") if path.is_file()]
    assert all(word in script.read_text() for word in words)
    if shutil.which(shell):
        assert subprocess.run([shell, "-n", str(script)]).returncode == 0


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_get_their_answer(shell):
    words = {"COMP_WORDS": "medground rec", "COMP_CWORD": "rec" if shell == "fish" else "1"}
    command = [sys.executable, "-c", "from medground.cli import main; main()"]
    environment = os.environ | words | {"_MEDGROUND_COMPLETE": f"{shell}_complete"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "recipe" in done.stdout
