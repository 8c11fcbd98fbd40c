"""The package that ``medground plugins new`` writes: text with ``$name`` and the like to fill in."""

import re
from importlib import resources
from pathlib import Path
from string import Template

from medground.errors import MedgroundError, PluginError, RecipeError
from medground.registry import components, kind_word

LINES = {
    "segmenter": "segmenter: {name}",
    "reward": "rewards:\n      {name}: 1.0",
    "prompt_interface": "prompt_interface: {name}",
    "reasoner": "reasoner: {name}",
}
"""Kind -> the lines of a recipe that use a component of it."""


def write(name: str, kind: str, out: Path | None) -> tuple[Path, list[str]]:
    """Write a plugin package offering component `name`; return its folder and the files in it.

    Raises:
        RecipeError: if the name cannot be one, or the folder holds something.
        PluginError: if a component of that name exists.
    """
    kind, short = kind_word(kind), name.removeprefix("medground-").removeprefix("medground_").replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", short):
        raise RecipeError(
            f"{name!r} cannot name a plugin", hint="lower-case letters, digits and - between, such as glow"
        )
    for taken in components(kind):
        if taken.name == short:
            raise PluginError(f"there is a {kind} {short!r} already, in {taken.owner}", hint="choose another name")
    package = "medground-" + short.replace("_", "-")
    words = {
        "name": short,
        "kind": kind,
        "words": kind.replace("_", " "),
        "package": package,
        "module": f"medground_{short}",
        "Class": "".join(part.capitalize() for part in short.split("_")),
        "line": LINES[kind].format(name=short),
    }
    folder = out or Path(package)
    return folder, _fill(folder, words)


def _fill(folder: Path, words: dict[str, str]) -> list[str]:
    module, short = words["module"], words["name"]
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{module}/__init__.py": f"{words['kind']}.py",
        f"tests/test_{short}.py": "test.py",
    }
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecipeError(f"{folder} exists and is not an empty folder", hint="choose another with --out")
    try:
        for target, source in files.items():
            text = (resources.files(__name__) / f"{source}.tmpl").read_text(encoding="utf-8")
            path = folder / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(text).substitute(words), encoding="utf-8")
    except OSError as error:
        raise MedgroundError(f"cannot write the plugin to {folder}: {error.strerror}") from error
    return list(files)
