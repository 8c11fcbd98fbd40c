"""``medground plugins new``: the package it writes passes its own tests and works by name in a recipe."""

import ast
import dataclasses
import importlib
import json
import os
import re
import site
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import medground
from medground import hookspecs, testing
from medground.cli import main
from medground.cli.plugins import plugins
from medground.errors import MedgroundError

KINDS = [kind.replace("_", "-") for kind in hookspecs.KINDS]
GUIDE = Path(__file__).parents[1] / "docs" / "plugin-authors.md"
USE = {
    "segmenter": ["infer/toy", "segmenter=my_segmenter"],
    "prompt-interface": ["infer/toy", "prompt_interface=my_prompt_interface"],
    "reasoner": ["infer/toy", "reasoner=my_reasoner"],
}


def new(*arguments: str):
    return CliRunner().invoke(plugins, ["new", *map(str, arguments)], catch_exceptions=True)


def test_it_writes_a_whole_package(tmp_path):
    done = new("glow", "--kind", "segmenter", "--out", tmp_path / "glow", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["folder"] == str(tmp_path / "glow")
    written = sorted(str(path.relative_to(tmp_path / "glow")) for path in (tmp_path / "glow").rglob("*.*"))
    assert written == ["README.md", "medground_glow/__init__.py", "pyproject.toml", "tests/test_glow.py"]
    assert '"segmenter.glow" = "medground_glow"' in (tmp_path / "glow" / "pyproject.toml").read_text()
    assert "pip install -e" in done.stderr


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("Glow!", 2, "cannot name a plugin"),
        ("../glow", 2, "cannot name a plugin"),
        ("box-fill", 4, "there is a segmenter 'box_fill' already, in medground"),
    ],
)
def test_it_refuses_a_name_that_cannot_work(name, code, says, tmp_path):
    error = new(name, "--kind", "segmenter", "--out", tmp_path / "out").exception
    assert isinstance(error, MedgroundError)
    assert error.exit_code == code
    assert says in str(error)
    assert not (tmp_path / "out").exists()


def test_it_overwrites_nothing(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    error = new("glow", "--kind", "reward", "--out", tmp_path).exception
    assert isinstance(error, MedgroundError)
    assert "not an empty folder" in str(error)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def source_of_scans(folder: Path) -> Path:
    """Write what the reader of the template reads."""
    for name in ("scans", "labels"):
        (folder / "source" / name).mkdir(parents=True)
        Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(folder / "source" / name / "a.png")
    return folder / "source"


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_component_of_every_kind_passes_its_conformance_check(kind, tmp_path, site):
    if kind == "engine":
        pytest.importorskip("torch", reason="needs torch")
    assert new("fresh", "--kind", kind, "--out", tmp_path / "fresh").exit_code == 0
    (tmp_path / "fresh" / "medground_fresh").rename(site / "medground_fresh")
    module = importlib.import_module("medground_fresh")
    word = kind.replace("-", "_")
    given = [module.fresh if kind == "command" else module.Fresh]
    if kind == "reader":
        given.append(source_of_scans(tmp_path))
    whole, quick = (getattr(testing, f"check_{word}")(*given, quick=quick).checks for quick in (False, True))
    assert 0 < len(quick) <= len(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_imports_only_what_the_guide_allows_its_kind(kind, tmp_path):
    assert new("fresh", "--kind", kind, "--out", tmp_path / "fresh").exit_code == 0
    rows = re.findall(r"^\| (every kind|`\w+`) \| (.*) \|$", GUIDE.read_text(), re.MULTILINE)
    words = [words for owner, words in rows if owner in ("every kind", f"`{kind}`")]
    allowed = {f"medground.{word}" for word in re.findall(r"`([\w.]+)`", " ".join(words))} - {"medground.medground"}
    tree = ast.parse((tmp_path / "fresh" / "medground_fresh" / "__init__.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    own = {name for name in imported if name.startswith("medground")} - {"medground"}
    assert [name for name in own if not any(f"{name}.".startswith(f"{one}.") for one in allowed)] == []


def test_the_guide_shows_every_field_that_an_author_meets():
    rows = dict(re.findall(r"^\| `(\w+)`(?:, [^|]*)? \| (.*) \|$", GUIDE.read_text(), re.MULTILINE))
    met = (
        "SpatialPrompt",
        "Mask",
        "Region",
        "Grounding",
        "Rollout",
        "Sample",
        "Query",
        "Target",
        "Completion",
        "RewardResult",
    )
    for name in met:
        named = set(re.findall(r"`(\w+)`", rows[name]))
        fields = {field.name for field in dataclasses.fields(getattr(medground, name))}
        assert fields <= named, name


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["region_growing"], 0, "segmenter 'region_growing' keeps its promises in"),
        (["bbox_iou", "threshold=0.5", "--quick"], 0, "reward 'bbox_iou' keeps its promises in"),
        (["nobody"], 2, "no component is called 'nobody'"),
        (["toy", "--kind", "segmenter"], 4, "toy"),
        (["bbox_iou", "treshold=1"], 2, "has no argument 'treshold'"),
        (["folder"], 2, "a reader is checked on a source"),
        (["ellipse", "--source", "."], 2, "a segmenter has no source"),
    ],
)
def test_an_installed_component_is_checked_by_name(words, code, says, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["plugins", "check", *words])
    told = capsys.readouterr()
    assert (ended.value.code or 0) == code, told.err
    assert says in told.err and told.out == ""


def test_what_is_checked_stands_in_a_line_each_and_a_quick_check_has_fewer(capsys):
    lines = {}
    for flag in ([], ["--quick"]):
        with pytest.raises(SystemExit) as ended:
            main(["plugins", "check", "threshold", "--json", *flag])
        told = capsys.readouterr()
        assert not ended.value.code
        checks = json.loads(told.out)["checks"]
        assert [f"checking Threshold: {what}" for what in checks] == told.err.splitlines()[:-1]
        lines[bool(flag)] = len(checks)
    assert lines[True] < lines[False]


def test_a_component_that_breaks_promises_ends_with_1_and_says_which(site, install, capsys):
    source = """
import medground

class Careless:
    accepts = frozenset({"box"})
    def segment(self, image, prompts):
        return None

@medground.hookimpl
def register_segmenters(register):
    register("careless", Careless)
"""
    install(site, "medground-careless", {"segmenter.careless": "medground_careless"}, source)
    with pytest.raises(SystemExit) as ended:
        main(["plugins", "check", "careless", "--quick", "--json"])
    told = capsys.readouterr()
    assert ended.value.code == 1
    broken = json.loads(told.out)["broken"]
    assert any(sentence.startswith("no prompts give []") for sentence in broken)
    assert all(f"broken: {sentence}" in told.err for sentence in broken)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> tuple[Path, Path]:
    """A virtual environment that sees this one, with one new package of each kind installed by pip."""
    folder = tmp_path_factory.mktemp("new")
    for kind in KINDS:
        assert new(f"my-{kind}", "--kind", kind, "--out", folder / kind).exit_code == 0
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    library = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout.strip()
    seen = [path for path in sys.path if Path(path).is_dir() and path not in site.PREFIXES]
    Path(library, "seen.pth").write_text("\n".join(seen) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--no-index", *(word for kind in KINDS for word in ("-e", str(folder / kind)))],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder, python


@pytest.mark.slow
def test_their_own_tests_pass_untouched(installed):
    folder, python = installed
    done = subprocess.run(
        [
            python,
            "-m",
            "pytest",
            "-v",
            "-W",
            "error",
            "-p",
            "no:cacheprovider",
            *(str(folder / kind) for kind in KINDS),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert f"{2 * len(KINDS)} passed" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", USE)
def test_it_works_by_name_in_a_recipe(kind, installed):
    _, python = installed
    code = f"""
import numpy as np, medground
graph = medground.load(*{USE[kind]!r})
image = np.full((60, 80, 3), 30, np.uint8)
image[20:40, 15:35] = 220
found = graph(medground.Query(image=image, question="Which bright region is on the left?"))
print(found.fault, found.mask.data.sum())
"""
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fault, area = done.stdout.split()
    assert fault == "None"
    assert int(area) > 0


@pytest.mark.slow
def test_a_new_reward_works_by_name_in_a_rubric(installed):
    folder, python = installed
    recipe = folder / "mine.yaml"
    recipe.write_text(
        "# medground recipe check mine.yaml\nextends: infer/toy\nrewards: {my_reward: {weight: 0.5, power: 2}}\n"
    )
    code = f"import medground; print(medground.rubric({str(recipe)!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "my_reward" in done.stdout


@pytest.mark.slow
def test_a_new_reader_and_a_new_command_work_on_the_command_line(installed):
    folder, python = installed
    for name in ("scans", "labels"):
        (folder / "source" / name).mkdir(parents=True)
        pixels = np.zeros((40, 40), np.uint8)
        pixels[10:30, 10:30] = 255
        Image.fromarray(pixels).save(folder / "source" / name / "a.png")
    medground = [python, "-m", "medground"]
    build = [*medground, "data", "build", folder / "source", "--out", folder / "dataset", "--json"]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == 1
    done = subprocess.run([*medground, "my_command", folder / "source"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
    done = subprocess.run([*medground, "my_command", folder / "nowhere"], capture_output=True, text=True)
    assert done.returncode == 3
    assert "nowhere is not a folder" in done.stderr


def test_a_new_command_cannot_take_the_name_of_a_core_command(tmp_path):
    error = new("train", "--kind", "command", "--out", tmp_path / "out").exception
    assert isinstance(error, MedgroundError)
    assert "the command 'train' is one of medground itself" in str(error)
