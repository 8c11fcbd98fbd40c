"""Fourteen broken plugins are installed at once, and harm only a command that uses one of them.

No other command notices; `plugins doctor` names each with package, version, cause and remedy; using one stops with exit
code 4 and the cause, or, where it ends, crashes or stalls the interpreter, after a line that names it.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

SECONDS = 5
"""How long a plugin may take to import for doctor; the slow one takes 60."""


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
    fatal: int | None = None
    """The exit status of a process that imports it, where that ends the interpreter; negative for a signal."""


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
    "os_exit": Broken("import os\nos._exit(7)\n", "ends the interpreter (exit status 7)", fatal=7),
    "slow_import": Broken(
        "import time\ntime.sleep(60)\n", f"does not finish importing within {SECONDS} s", fatal=-signal.SIGKILL
    ),
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
        "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n",
        "crashes the interpreter (SIGSEGV)",
        fatal=-signal.SIGSEGV,
    ),
}


class Output(NamedTuple):
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


def environment(site: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))}


def run(site: Path, *command: str) -> Output:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment(site))
    assert "Traceback" not in done.stderr
    return Output(done.returncode, done.stdout, done.stderr)


def cli(site: Path, *arguments: str) -> Output:
    return run(site, "-m", "medground", *arguments)


@pytest.fixture(scope="module")
def listed(site) -> dict[str, dict]:
    output = cli(site, "plugins", "list", "--json")
    assert output.code == 0, output.err
    return {row["distribution"]: row for row in json.loads(output.out)}


@pytest.fixture(scope="module")
def examined(site) -> dict[str, list[dict]]:
    output = cli(site, "plugins", "doctor", "--seconds", str(SECONDS), "--json", "--strict")
    assert output.code == 4, output.err
    assert "medground-shadow" in output.err
    rows: dict[str, list[dict]] = {}
    for row in json.loads(output.out):
        rows.setdefault(row["package"], []).append(row)
    return rows


@pytest.fixture(scope="module")
def used(site, picture, tmp_path_factory) -> dict[str, dict]:
    """What `medground ground ... segmenter=NAME` does with each that does not end the interpreter, in one process."""
    out = tmp_path_factory.mktemp("out")
    names = {package: broken.name or package for package, broken in BROKEN.items() if broken.fatal is None}
    code = f"""
import contextlib, io, json
from medground.cli import main
output = {{}}
for package, name in {names!r}.items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(["ground", {str(picture)!r}, "What?", f"segmenter={{name}}", "--out", {str(out)!r}, "--json"])
        except SystemExit as left:
            output[package] = {{"code": left.code, "out": out.getvalue(), "err": err.getvalue()}}
print(json.dumps(output))
"""
    output = run(site, "-c", code)
    assert output.code == 0, output.err
    return json.loads(output.out)


def test_there_are_fourteen():
    assert len(BROKEN) == 14


def test_help_works_beside_all_of_them(site):
    output = cli(site, "--help")
    assert output.code == 0
    assert "plugins" in output.out


def test_built_ins_ground_beside_all_of_them(site, picture, tmp_path):
    output = cli(site, "ground", str(picture), "What is bright?", "--recipe", "infer/toy", "--out", str(tmp_path / "o"))
    assert output.code == 0, output.err
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


@pytest.mark.parametrize("package", [package for package, broken in BROKEN.items() if broken.fatal is None])
def test_using_one_exits_with_the_cause(package, used):
    broken, output = BROKEN[package], used[package]
    if broken.usable:
        assert output["code"] in (0, None), output["err"]
        assert json.loads(output["out"])["fault"] is None
    else:
        assert output["code"] == 4, output["err"]
        assert broken.cause in output["err"]
        assert broken.remedy in output["err"]


@pytest.mark.parametrize("package", [package for package, broken in BROKEN.items() if broken.fatal is not None])
def test_using_one_that_ends_or_stalls_the_interpreter_says_its_name_first(package, site, picture, tmp_path):
    command = ["ground", str(picture), "What?", f"segmenter={package}", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "medground", *command],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment(site),
    )  # fmt: skip
    assert process.stderr is not None
    with process.stderr as stderr:
        line = stderr.readline()
        assert line == f"importing plugin medground-{package.replace('_', '-')} 1.0 (module medground_{package})\n"
        if package == "slow_import":
            process.kill()
        assert process.wait() == BROKEN[package].fatal
        last = "error: code that this command runs ended the process before the command was done\n"
        assert stderr.read() == (last if package == "os_exit" else "")


def test_a_strict_list_exits_with_4_and_names_them(site):
    output = cli(site, "plugins", "list", "--strict")
    assert output.code == 4
    assert "medground-shadow" in output.err


@pytest.mark.parametrize("command", [["list", "--strict"], ["doctor"]], ids=" ".join)
def test_the_environment_leaves_them_out(command, site, monkeypatch):
    monkeypatch.setenv("MEDGROUND_PLUGINS", "medground-toy")
    output = cli(site, "plugins", *command)
    assert output.code == 0, output.err
    assert "medground_toy" in output.out
    assert "shadow" not in output.out
