"""Fourteen broken plugins are installed at once, and cost nobody but whoever asks for one of them.

Nothing else on the command line notices; `plugins doctor` names each culprit with package, version, cause and remedy;
using one stops with exit code 4 and the cause.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

SECONDS = 5
"""How long a plugin may take to import here; the slow one takes 60."""


class Broken(NamedTuple):
    source: str | None
    """Its module; None leaves the entry point behind without one."""
    cause: str
    """What is said of it."""
    name: str = ""
    """Its component, where that is not its own name."""
    remedy: str = "pip uninstall"
    requires: tuple[str, ...] = ()
    usable: bool = False
    """True where it is a nuisance, but works."""


HOOK = """
import medground

class Fill:
    accepts = frozenset({"box", "points"})

    def __init__(self, *, level: float = 0.5) -> None:
        self.level = level

    def segment(self, image, prompts):
        return [medground.Mask(data=image.mean(axis=2) > 128, score=1.0) for _ in prompts]

@medground.hookimpl
def register_segmenters(register):
    register("NAME", Fill)
"""

BROKEN = {
    "missing_module": Broken("import a_library_nobody_has\n", "needs the module 'a_library_nobody_has'"),
    "syntax_error": Broken("def register_segmenters(register:\n", "SyntaxError"),
    "missing_extra": Broken(
        "import fancy_backend\n",
        "needs the module 'fancy_backend'",
        remedy="pip install 'medground-missing-extra[fast]'",
        requires=('fancy-backend>=2; extra == "fast"', 'pytest; extra == "test"'),
    ),
    "sys_exit": Broken("import sys\nsys.exit(3)\n", "calls sys.exit(3)"),
    "os_exit": Broken("import os\nos._exit(7)\n", "ends the interpreter (exit status 7)"),
    "slow_import": Broken("import time\ntime.sleep(60)\n", f"does not finish importing within {SECONDS} s"),
    "noisy": Broken("print('look at me')\n" + HOOK, "prints to stdout", remedy="harmless in use", usable=True),
    "wrong_signature": Broken(HOOK.replace("(register):", "(registry, extra):"), "registry"),
    "raising_hook": Broken(
        HOOK.replace("register(", "1 / 0; register(").replace("def 1 / 0; ", "def "), "ZeroDivision"
    ),
    "duplicate": Broken(HOOK, "segmenter 'twin' has 2 owners: medground-duplicate 1.0", name="twin"),
    "shadow": Broken(HOOK, "segmenter 'box_fill' has 2 owners: medground 0", name="box_fill"),
    "newer_api": Broken(
        "from medground.protocols import Oracle\n",
        "asks for something that medground",
        remedy="it wants medground>=99",
        requires=("medground>=99",),
    ),
    "stale": Broken(None, "is declared, but its module is gone"),
    "segfault": Broken(
        "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "crashes the interpreter (SIGSEGV)"
    ),
}


class Told(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def site(tmp_path_factory, install) -> Path:
    """All of them, in one folder; the fifteenth shares a name with the tenth."""
    folder = tmp_path_factory.mktemp("site")
    for package, broken in BROKEN.items():
        name = broken.name or package
        source = broken.source and broken.source.replace("NAME", name)
        entry = {f"segmenter.{name}": f"medground_{package}"}
        install(folder, f"medground-{package.replace('_', '-')}", entry, source, requires=broken.requires)
    install(folder, "the-other-twin", {"segmenter.twin": "the_other_twin"}, HOOK.replace("NAME", "twin"))
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    pixels = np.full((60, 80, 3), 30, np.uint8)
    pixels[20:40, 15:35] = 220
    path = tmp_path_factory.mktemp("images") / "scan.png"
    Image.fromarray(pixels).save(path)
    return path


def run(site: Path, *command: str) -> Told:
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "MEDGROUND_PLUGIN_SECONDS": str(SECONDS)}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)
    assert "Traceback" not in done.stderr
    return Told(done.returncode, done.stdout, done.stderr)


def cli(site: Path, *arguments: str) -> Told:
    return run(site, "-m", "medground", *arguments)


@pytest.fixture(scope="module")
def listed(site) -> dict[str, dict]:
    told = cli(site, "plugins", "list", "--json")
    assert told.code == 0, told.err
    return {row["distribution"]: row for row in json.loads(told.out)}


@pytest.fixture(scope="module")
def examined(site) -> dict[str, list[dict]]:
    told = cli(site, "plugins", "doctor", "--json", "--strict")
    assert told.code == 4, told.err
    assert "medground-shadow" in told.err
    rows: dict[str, list[dict]] = {}
    for row in json.loads(told.out):
        rows.setdefault(row["package"], []).append(row)
    return rows


@pytest.fixture(scope="module")
def used(site, picture, tmp_path_factory) -> dict[str, dict]:
    """What `medground ground ... segmenter=NAME` does for each of them, in one process that has to survive them all."""
    out = tmp_path_factory.mktemp("out")
    names = {package: broken.name or package for package, broken in BROKEN.items()}
    code = f"""
import contextlib, io, json
from medground.cli import main
told = {{}}
for package, name in {names!r}.items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(["ground", {str(picture)!r}, "What?", f"segmenter={{name}}", "--out", {str(out)!r}, "--json"])
        except SystemExit as left:
            told[package] = {{"code": left.code, "out": out.getvalue(), "err": err.getvalue()}}
print(json.dumps(told))
"""
    told = run(site, "-c", code)
    assert told.code == 0, told.err
    return json.loads(told.out)


def test_there_are_fourteen():
    assert len(BROKEN) == 14


def test_help_works_beside_all_of_them(site):
    told = cli(site, "--help")
    assert told.code == 0
    assert "plugins" in told.out


def test_built_ins_ground_beside_all_of_them(site, picture, tmp_path):
    told = cli(site, "ground", str(picture), "What is bright?", "--recipe", "infer/toy", "--out", str(tmp_path / "o"))
    assert told.code == 0, told.err
    assert (tmp_path / "o").is_dir()


@pytest.mark.parametrize("package", BROKEN)
def test_list_names_package_and_version(package, listed):
    row = listed[f"medground-{package.replace('_', '-')}"]
    assert row["version"] == "1.0"
    if package in ("duplicate", "shadow"):
        assert BROKEN[package].cause in row["problem"]
        assert BROKEN[package].remedy in row["hint"]


@pytest.mark.slow
@pytest.mark.parametrize("package", BROKEN)
def test_doctor_names_the_culprit_the_cause_and_a_remedy(package, examined):
    rows = examined[f"medground-{package.replace('_', '-')}"]
    assert all(row["status"] == "broken" and row["version"] == "1.0" for row in rows)
    (row,) = [row for row in rows if BROKEN[package].cause in row["cause"]]
    assert BROKEN[package].remedy in row["remedy"]


@pytest.mark.slow
def test_doctor_finds_nothing_wrong_with_the_built_ins(examined):
    assert {row["cause"] for row in examined["medground"] if row["status"] == "broken"} == {
        row["cause"] for row in examined["medground-shadow"]
    }


@pytest.mark.parametrize("package", BROKEN)
def test_using_one_exits_with_the_cause(package, used):
    broken, told = BROKEN[package], used[package]
    if broken.usable:
        assert told["code"] in (0, None), told["err"]
        assert json.loads(told["out"])["fault"] is None
    else:
        assert told["code"] == 4, told["err"]
        assert broken.cause in told["err"]
        assert broken.remedy in told["err"]


def test_a_strict_list_exits_with_4_and_names_them(site):
    told = cli(site, "plugins", "list", "--strict")
    assert told.code == 4
    assert "medground-shadow" in told.err


@pytest.mark.parametrize("command", [["list", "--strict"], ["doctor"]], ids=" ".join)
def test_the_environment_leaves_them_out(command, site, monkeypatch):
    monkeypatch.setenv("MEDGROUND_PLUGINS", "medground-toy")
    told = cli(site, "plugins", *command)
    assert told.code == 0, told.err
    assert "medground_toy" in told.out
    assert "shadow" not in told.out
