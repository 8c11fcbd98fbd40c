"""Every command and snippet in the documents runs, in order, in its own folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SECONDS = 600
"""After which a snippet hangs."""
FENCE = re.compile(r"^(<!-- norun -->\n)?```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def snippets(document: Path) -> list[tuple[str, str, str]]:
    """Return (language, mark, text) of every fenced block; the mark is a comment before it."""
    return [(match[2], match[1] or "", match[3]) for match in FENCE.finditer(document.read_text())]


def named_file(text: str) -> tuple[str, str] | None:
    """Return name and text of a block that starts with ``# file: NAME``."""
    first, _, rest = text.partition("\n")
    return (first.removeprefix("# file:").strip(), rest) if first.startswith("# file:") else None


def test_the_documents_contain_snippets():
    assert len(DOCUMENTS) >= 6
    assert sum(len(snippets(document)) for document in DOCUMENTS) >= 25


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_snippet_runs(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # a page's modules are in its working directory
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    subprocess.run(
        [sys.executable, "-m", "medground_toy.phantoms", "--out", "phantoms", "-n", "4", "--seed", "1"], check=True
    )
    namespace: dict = {"__name__": "__main__"}
    for language, mark, text in snippets(document):
        # `<!-- norun -->` marks snippets that cannot run here: set-up commands, output, and weights that need a download.
        if mark or language not in ("sh", "python", "yaml", "toml"):
            continue
        file = named_file(text)
        if file:
            path = tmp_path / file[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file[1])
        elif language == "sh":
            # Into a file: what a snippet starts in the background would hold a pipe open, and be waited for.
            with (tmp_path / "output.txt").open("w+", encoding="utf-8") as output:
                command = ["bash", "-euo", "pipefail", "-c", text]
                done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=SECONDS)
                output.seek(0)
                assert done.returncode == 0, f"{document.name}: {text}\n{output.read()}"
        elif language == "python":
            exec(compile(text, f"{document.name} snippet", "exec"), namespace)
