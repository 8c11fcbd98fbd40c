"""Hostile recipes: nothing runs, nothing leaks, and each is refused in one sentence with file and line."""

import json
import os
import re
import runpy
from pathlib import Path

import pytest

from medground.cli import main
from medground.errors import RecipeError
from medground.recipe import resolve, sources, yaml_reader

CORPUS = runpy.run_path(str(Path(__file__).with_name("hostile_recipes.py")))
SECRET = "s3cr3t-9f8e7d6c"
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    return CORPUS["write"](folder, folder / "canary", SECRET)


@pytest.fixture
def outputs(monkeypatch, capsys):
    """Run ``medground recipe ...`` with secrets in the environment; (exit code, everything printed)."""
    for name in CORPUS["SECRETS"]:
        monkeypatch.setenv(name, SECRET)

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(["recipe", *map(str, arguments)])
        return caught.value.code, "".join(capsys.readouterr())

    return run


def test_the_corpus_holds_at_least_thirty_recipes(corpus):
    assert len(corpus) >= 30 and len(CORPUS["GADGETS"]) >= 20 and len(CORPUS["SECRETS"]) >= 6


@pytest.mark.slow
def test_every_command_refuses_every_hostile_recipe(corpus, outputs):
    for path in corpus:
        runs = {
            "check": outputs("check", path),
            "check --json": outputs("check", path, "--json"),
            "show": outputs("show", path),
            "diff": outputs("diff", "infer/toy", path),
        }
        for command, (code, printed) in runs.items():
            assert code == 2, (path.stem, command, code, printed)
            assert SECRET not in printed, (path.stem, command)
            assert not UNPRINTABLE.search(printed), (path.stem, command)
            assert len(printed) < 10_000, (path.stem, command)
            assert re.search(r"\.yaml:\d+\b", printed), (path.stem, command, printed)
        assert not list(path.parents[1].glob("canary*")), path.stem
        report = json.loads(runs["check --json"][1])
        assert not report["ok"] and report["problems"]


def test_a_path_outside_the_folder_is_refused_whether_or_not_it_exists(corpus, tmp_path):
    """A recipe cannot find out which files exist."""
    recipe = tmp_path / "a.yaml"
    messages = set()
    for target in ("../hostile-none", "/etc/passwd", "/none/such", "../" * 20 + "etc/hostname"):
        recipe.write_text(f"extends: {target}\n")
        with pytest.raises(RecipeError) as caught:
            resolve(recipe)
        messages.add(caught.value.message.replace(repr(target), "X"))
    assert len(messages) == 1


def test_an_alias_bomb_is_refused_at_the_line_that_passes_the_limit():
    """Nine lines would stand for forty million values; the fifth list is the first to stand for too many."""
    with pytest.raises(
        RecipeError, match=f"x.yaml:6: the recipe stands for more than {yaml_reader.MAX_NODES:,} values"
    ):
        yaml_reader.parse(CORPUS["_bomb"](9, 7), "x.yaml")


def test_only_the_start_of_a_large_file_is_read(tmp_path):
    path = tmp_path / "big.yaml"
    path.touch()
    os.truncate(path, 1 << 36)  # sparse: reading all of it would need 64 GB
    with pytest.raises(RecipeError, match=r"big.yaml:1: the recipe is larger"):
        resolve(path)


def test_a_pipe_or_a_folder_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in ("pipe.yaml", "folder.yaml"):
        with pytest.raises(RecipeError, match=r"is not a file|holds no recipe.yaml"):
            (tmp_path / "folder.yaml").mkdir(exist_ok=True)
            resolve(tmp_path / name)


def test_the_limits_hold_for_all_files_of_a_recipe_together(tmp_path):
    for index in range(40):
        (tmp_path / f"r{index}.yaml").write_text(f"extends: r{index + 1}\n")
    with pytest.raises(RecipeError, match=f"more than {sources.MAX_FILES} files"):
        resolve(tmp_path / "r0.yaml")
    many = "trackers: [" + "a," * 2500 + "]\n"
    (tmp_path / "one.yaml").write_text(many)
    (tmp_path / "two.yaml").write_text("extends: [one, three]\n" + many)
    (tmp_path / "three.yaml").write_text(many)
    with pytest.raises(RecipeError, match="3,000 values"):
        resolve(tmp_path / "two.yaml")
