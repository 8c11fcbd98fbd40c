"""A build of the root declares everything that the plugins declare, and the installed package works."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from hatchling.metadata.core import CoreMetadata, ProjectMetadata
from hatchling.plugin.manager import PluginManager
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = sorted(path for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").is_file())


ALONE = {"vllm", "trackers-wandb", "trackers-mlflow", "trackers-trackio"}
"""Extras of plugins that are tested in environments of their own, and are not in ``all``."""


def project(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


def package(folder: Path) -> str:
    return folder.name.replace("-", "_")


@pytest.fixture(scope="module")
def core() -> CoreMetadata:
    """The metadata that a build of the root gives."""
    return ProjectMetadata(str(ROOT), PluginManager()).core


def test_every_component_of_a_plugin_and_of_the_core_is_declared_once(core):
    declared = {"engine.local": "medground.training.builtin", "rollout.hf": "medground.training.builtin"}
    for folder in PLUGINS:
        components = project(folder)["entry-points"]["medground"]
        assert components, f"{folder.name} declares nothing"
        assert set(components.values()) == {package(folder)}, f"{folder.name} points outside its own package"
        assert not declared.keys() & components.keys(), f"{folder.name} declares a component of another plugin"
        declared |= components
    assert core.entry_points == {"medground": declared}


def test_requirements_of_a_plugin_are_an_extra_and_in_all(core):
    extras = core.optional_dependencies
    for folder in PLUGINS:
        short = folder.name.removeprefix("medground-")
        own = {dependency for dependency in project(folder)["dependencies"] if dependency != "medground"}
        wanted = {short: own}
        for name, more in project(folder).get("optional-dependencies", {}).items():
            wanted[f"{short}-{name}"] = own | set(more)
        for name, requirements in wanted.items():
            assert {Requirement(line) for line in extras.get(name, [])} == set(map(Requirement, requirements)), name
            in_all = set(map(Requirement, requirements)) <= set(map(Requirement, extras["all"]))
            assert in_all == (name not in ALONE or not requirements), name
    assert {"sam-official", "sam2-official", "dicom", "nifti", "nrrd", "test", "all"} <= extras.keys()
    assert not any(line.startswith(("vllm", "pytest", "wandb", "mlflow", "trackio")) for line in extras["all"])


def constraints(name: str) -> dict[str, str]:
    """Distribution -> version, of one file in constraints/."""
    lines = (ROOT / "constraints" / f"{name}.txt").read_text().splitlines()
    pinned = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(distribution): version for distribution, version in pinned}


def requirements(core: CoreMetadata, *extras: str) -> list[Requirement]:
    """Of the core, and of extras."""
    lines = [*core.dependencies, *(line for extra in extras for line in core.optional_dependencies[extra])]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("main", ("all", "test")),
        ("oldest", ("all", "test")),
        ("vllm", ("qwen",)),
        ("bridges", ()),
        ("trackers", ("trackers-tensorboard", "trackers-wandb", "trackers-mlflow", "trackers-trackio")),
    ],
)
def test_each_constraints_file_pins_every_requirement_inside_its_range(core, name, extras):
    pinned = constraints(name)
    for requirement in requirements(core, *extras):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"constraints/{name}.txt: {version} is not {requirement}"


def test_the_oldest_versions_are_the_lower_bounds(core):
    pinned = constraints("oldest")
    for requirement in requirements(core, "all"):
        bounds = [bound.version for bound in requirement.specifier if bound.operator in (">=", "==")]
        assert len(bounds) == 1, f"{requirement} has no lower bound"
        assert Version(pinned[canonicalize_name(requirement.name)]) == Version(bounds[0])


def test_only_the_vllm_constraints_name_a_build_of_torch():
    assert not [
        pin for name in ("main", "oldest", "trackers", "bridges") for pin in constraints(name).items() if "+" in pin[1]
    ]
    assert constraints("vllm")["torch"].endswith("+cpu")


def test_transitive_requirements_are_pinned_too(core):
    """Every requirement of an installed package has a version in the file."""
    pinned, waiting, seen = constraints("main"), requirements(core, "all"), set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, *sorted(requirement.extras)) in seen:
            continue
        seen.add((name, *sorted(requirement.extras)))
        assert name in pinned, f"constraints/main.txt has no {name}: run make constraints"
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed here
        for line in map(Requirement, lines):
            if any(
                line.marker is None or line.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)
            ):
                waiting.append(line)


def test_two_plugins_cannot_declare_the_same_component(tmp_path):
    for name in ("one", "two"):
        folder = tmp_path / "plugins" / f"medground-{name}"
        folder.mkdir(parents=True)
        table = f'[project]\nname = "medground-{name}"\ndependencies = []\n[project.entry-points.medground]\n'
        (folder / "pyproject.toml").write_text(f'{table}"reward.same" = "medground_{name}"\n')
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    with pytest.raises(ValueError, match=r"declared twice: reward\.same"):
        _ = ProjectMetadata(str(tmp_path), PluginManager()).core.entry_points


def test_every_plugin_is_under_the_import_contracts():
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contracts = {contract["name"]: contract for contract in lint["contracts"]}
    component_plugins = contracts["Component plugins import what a plugin may import"]["source_modules"]
    application_plugins = contracts["Application plugins import anything but the command line"]["source_modules"]
    packages = {package(folder) for folder in PLUGINS}
    assert set(lint["root_packages"]) == packages | {"medground"}
    assert set(contracts["Core never names a plugin"]["forbidden_modules"]) == packages
    assert set(contracts["Plugins never import one another"]["modules"]) == packages
    assert sorted([*component_plugins, *application_plugins]) == sorted(packages)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Build the sdist, and the wheel from that sdist, as pip does."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "-o", str(out), str(ROOT)], check=True, capture_output=True
    )
    return out


def recipes() -> set[str]:
    return {path.relative_to(ROOT / "recipes").as_posix() for path in (ROOT / "recipes").rglob("*.yaml")}


@pytest.mark.slow
def test_the_wheel_and_the_sdist_contain_recipes_and_plugins(built):
    wheel = set(zipfile.ZipFile(next(built.glob("*.whl"))).namelist())
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        sdist = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for name in recipes():
        assert f"medground/recipes/{name}" in wheel
        assert f"recipes/{name}" in sdist
    for folder in PLUGINS:
        assert f"{package(folder)}/__init__.py" in wheel
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    data = [name for name in tracked if re.search(r"(^|/)medground\w*/(?!.*\.py$)", name)]
    assert not tracked or len(data) >= 8, "templates, py.typed, tables and the weights of toy_sam"
    for name in data:
        assert re.sub(r"^plugins/[^/]+/", "", name) in wheel
        assert name in sdist
    assert not [name for name in wheel if "/tests/" in name], "the wheel carries tests"


def environment(folder: Path) -> Path:
    """A fresh virtual environment that sees this one's third-party packages but not its medground."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "third_party.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return folder / "bin" / "python"


def check_built_ins(python: Path, tmp_path: Path, where: Path, components: int) -> None:
    code = (
        "import json, medground, medground.registry as r, medground_toy, numpy as np;"
        "result = medground.load('infer/toy')(medground.Query(image=np.zeros((64, 80, 3), np.uint8), question='left?'));"
        "print(json.dumps([medground.__file__, medground_toy.__file__, len(r.components()), result.query.id]))"
    )
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    core, toy, count, _ = json.loads(done.stdout)
    assert Path(core).is_relative_to(where)
    assert Path(toy).is_relative_to(where)
    assert count == components
    for command in (
        ["medground_toy.phantoms", "--out", "phantoms", "-n", "1"],
        ["medground", "run", "phantoms/manifest.jsonl", "--out", "run"],
        ["medground", "data", "stats", "phantoms"],
        ["medground", "plugins", "new", "glow", "--kind", "segmenter"],
        ["medground", "recipe", "list"],
    ):
        done = subprocess.run([str(python), "-m", *command], capture_output=True, text=True, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(recipes())
    assert json.loads((tmp_path / "run" / "manifest.jsonl").read_text().splitlines()[0])["status"] == "ok"
    assert (tmp_path / "medground-glow" / "pyproject.toml").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("editable", [False, True], ids=["pip install .", "pip install -e ."])
def test_built_ins_work_in_wheel_and_editable_installs(editable, built, core, tmp_path):
    python = environment(tmp_path / "venv")
    source = ["-e", str(ROOT)] if editable else [str(next(built.glob("*.whl")))]
    install = ["install", "-q", "--no-deps", "--no-build-isolation", "--no-index", *source]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True, capture_output=True)
    check_built_ins(python, tmp_path, ROOT if editable else tmp_path, len(core.entry_points["medground"]))
