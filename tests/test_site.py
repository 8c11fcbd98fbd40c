"""The site of the documents builds without a warning, loads nothing from elsewhere, and its notebooks run."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import medground
from medground import testing

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
LOADED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?(?:https?:)?//", re.IGNORECASE)


def test_every_public_name_has_a_place_in_the_reference():
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    documented = re.findall(r"^::: (\S+)$", pages, re.MULTILINE)
    assert sorted(documented) == sorted(
        [f"medground.{name}" for name in dir(medground)] + [f"medground.testing.{name}" for name in testing.__all__]
    )


def test_every_page_and_notebook_is_in_the_navigation():
    navigation = (ROOT / "zensical.toml").read_text()
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f'"{page}"' not in navigation] == []
    listed = (ROOT / "docs" / "notebooks.md").read_text()
    assert NOTEBOOKS and [path.name for path in NOTEBOOKS if f"(notebooks/{path.name})" not in listed] == []


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    settings = (ROOT / "zensical.toml").read_text()
    assert 'paths = ["."]' in settings
    (tmp_path / "zensical.toml").write_text(settings.replace('paths = ["."]', f'paths = ["{ROOT}"]'))
    command = [str(Path(sys.executable).parent / "zensical"), "build", "--strict"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 25
    assert [page.name for page in pages if LOADED.search(page.read_text())] == []
    reference = (tmp_path / "site" / "api" / "grounding.html").read_text()
    assert 'id="medground.load"' in reference and "A reasoner, a prompt interface and a segmenter" in reference


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and all(cell.execution_count for cell in cells)
