"""Imports go down only, and first contact loads nothing heavy."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    "torch",
    "transformers",
    "omegaconf",
    "yaml",
    "rich",
    "PIL",
    "scipy",
    "jinja2",
    "segment_anything",
    "sam2",
    "open_clip",
}


TELL = """
import json, sys
print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)
"""


def loaded_after(code: str) -> set[str]:
    """Top-level packages in memory after `code` ran in a fresh process."""
    done = subprocess.run([sys.executable, "-c", f"{code}\n{TELL}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_the_contracts_are_kept():
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert f"Contracts: {len(contracts)} kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import medground",
        "from medground.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass",
        "from medground.cli import main\ntry:\n    main(['plugins', 'list', '--json'])\nexcept SystemExit:\n    pass",
        "import medground.registry\nassert len(medground.registry.components()) > 20",
    ],
    ids=["import medground", "medground --help", "medground plugins list", "components()"],
)
@pytest.mark.lane
def test_first_contact_loads_no_plugin_and_nothing_heavy(code):
    loaded = loaded_after(code)
    assert "medground" in loaded
    assert loaded & HEAVY == set()
    assert {name for name in loaded if name.startswith("medground_")} == set()


def test_using_a_built_in_loads_its_own_module_only():
    loaded = loaded_after("import medground\nmedground.build('segmenter', 'box_fill')")
    assert {name for name in loaded if name.startswith("medground_")} == {"medground_toy"}
    assert loaded & {"torch", "transformers", "omegaconf"} == set()


@pytest.mark.lane
def test_no_plugin_loads_a_model_library_when_it_is_imported():
    """Every factory of every built-in is fetched; only constructors may import what is big."""
    code = "from medground.registry import components, factory\nfor c in components(): factory(c.kind, c.name)"
    assert loaded_after(code) & {"torch", "transformers", "segment_anything", "sam2", "open_clip"} == set()
