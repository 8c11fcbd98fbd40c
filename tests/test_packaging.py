"""One wheel, many plugin folders: the root tables mirror the plugins', and what is installed works."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = sorted(path for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").is_file())


def project(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


def package(folder: Path) -> str:
    return folder.name.replace("-", "_")


def test_there_are_plugins():
    assert len(PLUGINS) >= 6


def test_the_root_mirrors_every_entry_point():
    of_plugins = {}
    for folder in PLUGINS:
        declared = project(folder)["entry-points"]["medground"]
        assert set(declared.values()) == {package(folder)}, f"{folder.name} points outside its own package"
        assert not of_plugins.keys() & declared.keys(), f"{folder.name} declares a component of another plugin"
        of_plugins |= declared
    mirrored = project(ROOT)["entry-points"]["medground"]
    own = {name: module for name, module in mirrored.items() if module == "medground.training.builtin"}
    assert set(own) == {"engine.local", "rollout.hf"}
    assert mirrored == of_plugins | own


def test_every_heavy_plugin_is_an_extra():
    extras = project(ROOT)["optional-dependencies"]
    everything = Requirement(extras["all"][0]).extras
    for folder in PLUGINS:
        short = folder.name.removeprefix("medground-")
        mirrored = {short: {dependency for dependency in project(folder)["dependencies"] if dependency != "medground"}}
        for name, optional in project(folder).get("optional-dependencies", {}).items():
            mirrored[f"{short}-{name}"] = {f"medground[{short}]", *optional}
        for name, wanted in mirrored.items():
            assert wanted == set(extras.get(name, [])), f"the extra [{name}] differs from {folder.name}'s dependencies"
            assert not wanted or name in everything or name == "vllm"


def constraints(name: str) -> dict[str, str]:
    """Distribution -> version, of one file in constraints/."""
    lines = (ROOT / "constraints" / f"{name}.txt").read_text().splitlines()
    pinned = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(distribution): version for distribution, version in pinned}


def requirements(extra: str = "") -> Iterator[Requirement]:
    """Of the core, or of an extra and the extras that it names."""
    lines = project(ROOT)["optional-dependencies"][extra] if extra else project(ROOT)["dependencies"]
    for requirement in map(Requirement, lines):
        if requirement.name == "medground":
            for other in requirement.extras:
                yield from requirements(other)
        else:
            yield requirement


@pytest.mark.parametrize(
    ("name", "extras"), [("main", ("all", "test")), ("oldest", ("all", "test")), ("vllm", ("qwen",))]
)
def test_a_constraints_file_pins_all_that_is_asked_for_inside_its_range(name, extras):
    pinned = constraints(name)
    for requirement in [each for extra in ("", *extras) for each in requirements(extra)]:
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"constraints/{name}.txt: {version} is not {requirement}"


def test_the_oldest_versions_are_the_lower_bounds():
    pinned = constraints("oldest")
    for requirement in [*requirements(), *requirements("all")]:
        bounds = [bound.version for bound in requirement.specifier if bound.operator in (">=", "==")]
        assert len(bounds) == 1, f"{requirement} has no lower bound"
        assert Version(pinned[canonicalize_name(requirement.name)]) == Version(bounds[0])


def test_only_vllm_asks_for_a_build_of_torch():
    assert not [pin for name in ("main", "oldest") for pin in constraints(name).items() if "+" in pin[1]]
    assert constraints("vllm")["torch"].endswith("+cpu")


def test_what_the_requirements_require_is_pinned_too():
    """The constraints are complete: whatever an installed package asks for has a version in the file."""
    pinned, waiting, seen = constraints("main"), [*requirements("all"), *requirements()], set()
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


def test_every_plugin_travels_and_is_linted():
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    build, lint = root["tool"]["hatch"]["build"], root["tool"]["importlinter"]
    for folder in PLUGINS:
        inside = f"plugins/{folder.name}"
        assert f"{inside}/{package(folder)}" in build["targets"]["wheel"]["only-include"]
        assert build["targets"]["wheel"]["sources"][inside] == ""
        assert inside in build["dev-mode-dirs"]
        assert package(folder) in lint["root_packages"]
        for contract in lint["contracts"][1:]:
            listed = (
                [*contract.get("forbidden_modules", []), *contract.get("modules", []), *contract["source_modules"]]
                if (contract["type"] == "forbidden")
                else contract["modules"]
            )
            assert package(folder) in listed, f"{package(folder)} is not under the contract {contract['name']!r}"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The sdist, and the wheel built from that sdist: what a newcomer's pip does."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "-o", str(out), str(ROOT)], check=True, capture_output=True
    )
    return out


def recipes() -> set[str]:
    return {path.relative_to(ROOT / "recipes").as_posix() for path in (ROOT / "recipes").rglob("*.yaml")}


@pytest.mark.slow
def test_the_wheel_and_the_sdist_carry_recipes_and_plugins(built):
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


def check_built_ins(python: Path, tmp_path: Path, where: Path) -> None:
    code = (
        "import json, medground, medground.registry as r, medground_toy, numpy as np;"
        "found = medground.load('infer/toy')(medground.Query(image=np.zeros((64, 80, 3), np.uint8), question='left?'));"
        "print(json.dumps([medground.__file__, medground_toy.__file__, len(r.components()), found.query.id]))"
    )
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    core, toy, count, _ = json.loads(done.stdout)
    assert Path(core).is_relative_to(where)
    assert Path(toy).is_relative_to(where)
    assert count == len(project(ROOT)["entry-points"]["medground"])
    for command in (
        ["medground_toy.phantoms", "--out", "phantoms", "-n", "1"],
        ["medground", "run", "phantoms/manifest.jsonl", "--out", "run"],
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
def test_both_installs_give_working_built_ins(editable, built, tmp_path):
    python = environment(tmp_path / "venv")
    source = ["-e", str(ROOT)] if editable else [str(next(built.glob("*.whl")))]
    install = ["install", "-q", "--no-deps", "--no-build-isolation", "--no-index", *source]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True, capture_output=True)
    check_built_ins(python, tmp_path, ROOT if editable else tmp_path)
