"""Shared by all tests: nothing leaves the machine, and paths are those of the checkout."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
OFFLINE = ROOT / "tests" / "offline"

# Children inherit the block through PYTHONPATH; this process takes it now.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")]))
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(OFFLINE))
import sitecustomize  # noqa: E402, F401


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and reference outputs, beside the checkout; tests that need it skip without it."""
    folder = Path(os.environ.get("MEDGROUND_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("needs the shared folder of real images and reference outputs (MEDGROUND_SHARED)")
    return folder
