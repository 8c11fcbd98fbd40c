"""Strangers' plugins, installed by hand: a dist-info folder and a module on the path."""

import copy
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

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
        summary: str = "",
    ) -> Path:
        info = site / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        fields = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\nSummary: {summary}\n"
        (info / "METADATA").write_text(fields + needs)
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
    loading._load.cache_clear()
    loading._manager.cache_clear()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A folder with ``model`` (a tiny Qwen3-VL), ``data`` (phantoms of 64 px) and ``template.txt`` (a short prompt)."""
    pytest.importorskip("torch", reason="needs torch")
    pytest.importorskip("transformers", reason="needs transformers")
    from medground_qwen import tiny
    from medground_toy import phantoms

    folder = tmp_path_factory.mktemp("tiny")
    words = tiny.tokenizer()
    tiny.save(
        folder / "model",
        tiny.model("qwen3_vl", words, patch=8, hidden=64, layers=2),
        tiny.processor("qwen3_vl", words, patch=8, max_side=64),
    )
    phantoms.write(folder / "data", phantoms.samples(8, seed=0, size=(64, 64)))
    (folder / "template.txt").write_text("{Question}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trials(tiny, install, tmp_path_factory) -> Iterator[Callable[..., dict[str, Any]]]:
    """``trials(kind, **settings)``: a small training recipe, with the components of ``alien/medground_trials``."""
    site = tmp_path_factory.mktemp("trials")
    source = Path(__file__).with_name("alien") / "medground_trials.py"
    names = ("reward.letters", "reward.token", "reasoner.trial_vlm")
    install(site, "medground-trials", dict.fromkeys(names, "medground_trials"), source.read_text(encoding="utf-8"))
    grpo = {"num_generations": 3, "train_batch_size": 2, "mini_batch_size": 2, "max_completion_length": 6}
    every = {"learning_rate": 1e-3, "save_every": 1000, "max_steps": 4}
    small = {"grpo": grpo | every, "sft": {"train_batch_size": 2, "warmup_ratio": 0.0} | every}
    base = {
        "reasoner": {"name": "trial_vlm", "checkpoint": str(tiny / "model"), "train_vision": True},
        "prompt_interface": {"name": "bbox", "template": str(tiny / "template.txt")},
        "data": {"path": str(tiny / "data")},
    }

    def recipe(kind: str = "grpo", rewards: Any = "letters", reasoner: Any = (), **settings: Any) -> dict[str, Any]:
        built = copy.deepcopy({**base, kind: {**small[kind], **settings}})
        built["reasoner"].update(reasoner)
        if kind == "grpo":
            built["rewards"] = {"letters": 1} if rewards == "letters" else rewards
        return built

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        importlib.import_module("medground_trials")
        yield recipe
    del sys.modules["medground_trials"]
    discovery._scan.cache_clear()
    loading._load.cache_clear()
    loading._manager.cache_clear()


@pytest.fixture
def write_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Change to an empty folder; ``write_recipes(a="seed: 1", sub__b="seed: 2")`` writes a.yaml and sub/b.yaml there."""
    monkeypatch.chdir(tmp_path)

    def write(**files: str) -> None:
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    return write
