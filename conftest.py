"""Fixtures of all tests, and a block on connections to other machines."""

import gc
import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
OFFLINE = ROOT / "tests" / "offline"

# Child processes inherit the block through PYTHONPATH; this process imports it here.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")]))
os.environ["HF_HUB_OFFLINE"] = "1"
# Each test process is one of several: thread pools that wait for one another make them ten times slower.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
sys.path.insert(0, str(OFFLINE))
import sitecustomize  # noqa: E402, F401

# Modules that need a framework that only `make test-bridges` installs.
BRIDGES = {
    "verifiers": ["medground/bridges/verifiers.py", "tests/one_request.py"],
    "lm_eval": ["medground/bridges/lm_eval.py"],
}
collect_ignore = [path for name, paths in BRIDGES.items() if importlib.util.find_spec(name) is None for path in paths]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name a test that takes over a minute when it ends: a run that is stopped prints no durations."""
    if report.duration > 60 and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\n{report.nodeid} ({report.when}): {report.duration:.0f} s", file=sys.__stderr__, flush=True)


def pytest_collection_finish() -> None:
    """Leave what the imports of all tests made out of every later garbage collection: a million objects that stay."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real images and reference outputs beside the checkout, or skip the test."""
    folder = Path(os.environ.get("MEDGROUND_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("needs the shared folder of real images and reference outputs (MEDGROUND_SHARED)")
    return folder
