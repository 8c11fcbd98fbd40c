"""Versions that do not fit together: `doctor` finds them by building something tiny, and says what to do."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from medground.registry import components

SOURCE = """
import medground

@medground.hookimpl
def register_segmenters(register):
    register("glow", lambda: None)

@medground.hookimpl
def self_check():
    CHECK
"""
FAULTS = {
    "raises": ("raise ValueError('too new')", "does not work with numpy {numpy}: ValueError: too new"),
    "exits": ("import os; os._exit(3)", "ends the interpreter (exit status 3) when it checks itself"),
    "calls_exit": ("raise SystemExit(2)", "does not work with numpy {numpy}: SystemExit: 2"),
    "misses": ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
}


def doctor(site, only, *command):
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "MEDGROUND_PLUGINS": only}
    return subprocess.run(
        [sys.executable, "-m", "medground", *command, "--json", "--strict"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_check_that_fails_is_a_broken_plugin(fault, install, tmp_path):
    check, cause = FAULTS[fault]
    source = SOURCE.replace("CHECK", check)
    install(
        tmp_path, "medground-glow", {"segmenter.glow": "medground_glow"}, source, requires=["medground", "numpy>=1"]
    )
    done = doctor(tmp_path, "medground-glow", "plugins", "doctor")
    assert done.returncode == 4, done.stderr
    (row,) = json.loads(done.stdout)
    import numpy

    assert row["status"] == "broken"
    assert cause.format(numpy=numpy.__version__) in row["cause"]
    assert "medground-glow" in row["remedy"]
    assert "pip " in row["remedy"]


@pytest.mark.parametrize("check", ["pass", "print('much')", "import os; os.write(1, b'more')"])
def test_a_check_may_print(check, install, tmp_path):
    install(
        tmp_path, "medground-glow", {"segmenter.glow": "medground_glow"}, SOURCE.replace("CHECK", check)
    )  # fmt: skip
    done = doctor(tmp_path, "medground-glow", "plugins", "doctor")
    assert done.returncode == 0, done.stdout
    assert [row["status"] for row in json.loads(done.stdout)] == ["ok"]


@pytest.mark.slow
@pytest.mark.parametrize("command", [["doctor"], ["plugins", "doctor"]], ids=" ".join)
def test_libraries_that_do_not_fit_together_are_found(command, tmp_path):
    """A peft that lacks what adapters need, in front of the installed one: everything imports, and LoRA does not work."""
    pytest.importorskip("peft", reason="needs peft")
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "__init__.py").write_text("class LoraConfig:\n    pass\n", encoding="utf-8")
    done = doctor(tmp_path, "medground_qwen", *command)
    assert done.returncode == 4, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    (row,) = answer["plugins"] if command == ["doctor"] else answer
    assert (row["module"], row["status"]) == ("medground_qwen", "broken")
    assert row["cause"].startswith("does not work with ")
    assert all(f"{name} " in row["cause"] for name in ("torch", "transformers", "peft", "safetensors"))
    assert row["remedy"] == "pip install --upgrade 'medground[qwen]'"


def test_every_plugin_that_ships_checks_itself():
    modules = {component.module for component in components() if component.distribution == "medground"} - {
        "medground.training.builtin"
    }
    assert len(modules) >= 11
    for name in modules:
        assert hasattr(importlib.import_module(name).self_check, "medground_impl"), name
