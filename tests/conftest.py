"""Strangers' plugins, installed by hand: a dist-info folder and a module on the path."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from medground.registry import discovery, loading

Install = Callable[..., Path]


@pytest.fixture(scope="session")
def install() -> Install:
    """``install(site, package, entries, source)`` puts a distribution into a folder, as pip would."""

    def write(
        site: Path,
        package: str,
        entries: Mapping[str, str] | bytes,
        source: str | None = None,
        *,
        version: str = "1.0",
        requires: Iterable[str] = (),
    ) -> Path:
        info = site / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n{needs}")
        if not isinstance(entries, bytes):
            entries = b"[medground]\n" + "".join(f"{name} = {module}\n" for name, module in entries.items()).encode()
        (info / "entry_points.txt").write_bytes(entries)
        if source is not None:
            (site / f"{package.replace('-', '_')}.py").write_text(source)
        return site

    return write


@pytest.fixture
def site(tmp_path, monkeypatch) -> Iterator[Path]:
    """An empty folder on the path; what is found and imported from it is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(folder)):
            del sys.modules[name]
    discovery._scan.cache_clear()
    loading._offers.cache_clear()
