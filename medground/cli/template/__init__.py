"""Write a plugin package, as ``medground plugins new`` does: templates with ``$name`` and other words to fill in."""

import re
from importlib import resources
from pathlib import Path
from string import Template

from medground.errors import MedgroundError, PluginError, RecipeError
from medground.hookspecs import CORE_COMMANDS
from medground.registry import components, kind_word

RECIPE = "Then, in any recipe:\n\n    "
USES = {
    "segmenter": RECIPE + "segmenter: {name}",
    "reward": RECIPE + "rewards:\n      {name}: 1.0",
    "prompt_interface": RECIPE + "prompt_interface: {name}",
    "reasoner": RECIPE + "reasoner: {name}",
    "engine": RECIPE + "engine: {name}",
    "rollout": RECIPE + "rollout: {name}",
    "tracker": RECIPE + "trackers: [{name}]",
    "reader": "Then, with a folder of its layout:\n\n    medground data build FOLDER --reader {name} --out DATASET",
    "command": "Then:\n\n    medground {name} FOLDER",
}
"""Kind -> how a component of it is used."""


def write(name: str, kind: str, out: Path | None) -> tuple[Path, list[str]]:
    """Write a plugin package offering component `name`; return its folder and the files in it.

    Raises:
        RecipeError: if the name cannot be one, or the folder holds something.
        PluginError: if a component of that name exists.
    """
    kind, short = kind_word(kind), name.removeprefix("medground-").removeprefix("medground_").replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", short):
        raise RecipeError(
            f"{name!r} cannot name a plugin", hint="lower-case letters, digits and - between, for example glow"
        )
    if kind == "command" and short in CORE_COMMANDS:
        raise PluginError(f"the command {short!r} is one of medground itself", hint="choose another name")
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
        "Class": "".join(word.capitalize() for word in short.split("_")),
        "use": USES[kind].format(name=short),
    }
    folder = out or Path(package)
    return folder, _fill(folder, words)


def _fill(folder: Path, words: dict[str, str]) -> list[str]:
    module, short = words["module"], words["name"]
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{module}/__init__.py": f"{words['kind']}.py",
        f"tests/test_{short}.py": f"test_{words['kind']}.py" if words["kind"] in ("reader", "command") else "test.py",
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
