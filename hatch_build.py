"""Hooks of the build: add what plugins/*/pyproject.toml declare to the tables of the root pyproject.toml."""

import re
import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

CORE = "medground"


def plugin_projects(root: str) -> dict[str, dict[str, Any]]:
    """Return folder -> [project] table of every plugin; folders are relative to the root of the tree."""
    files = sorted(Path(root, "plugins").glob("*/pyproject.toml"))
    return {f"plugins/{file.parent.name}": tomllib.loads(file.read_text("utf-8"))["project"] for file in files}


def absolute_readme(root: str, source: str) -> str:
    """Return README.md with the addresses of its links and pictures, as a package index needs them."""
    text = Path(root, "README.md").read_text("utf-8")
    text = re.sub(r"!\[([^]]*)\]\((?!https?:)", rf"![\1]({source}/raw/main/", text)
    text = re.sub(r'<img src="(?!https?:)', rf'<img src="{source}/raw/main/', text)
    return re.sub(r"(?<!!)\[([^]]*)\]\((?!https?:|#)", rf"[\1]({source}/blob/main/", text)


class PluginMetadata(MetadataHookInterface):
    """Adds the plugins' entry points, an extra for the dependencies of each, the extra ``all``, and the README.

    Its table in pyproject.toml holds the core's own `entry-points` and `optional-dependencies`, and `not-in-all`: the
    extras that ``all`` leaves out. An extra ``x`` of a plugin ``medground-y`` becomes ``y-x``.
    """

    def update(self, metadata: dict[str, Any]) -> None:
        """Set them; see `MetadataHookInterface`.

        Raises:
            ValueError: if two plugins declare the same component or extra.
        """
        components, extras = dict(self.config["entry-points"]), dict(self.config["optional-dependencies"])
        for project in plugin_projects(self.root).values():
            _add(components, project["entry-points"][CORE])
            short = project["name"].removeprefix(f"{CORE}-")
            if required := [dependency for dependency in project["dependencies"] if dependency != CORE]:
                _add(extras, {short: required})
            for extra, more in project.get("optional-dependencies", {}).items():
                _add(extras, {f"{short}-{extra}": [f"{CORE}[{short}]", *more] if required else more})
        chosen = sorted(extras.keys() - set(self.config["not-in-all"]))
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": absolute_readme(self.root, metadata["urls"]["Source"]),
        }
        metadata["entry-points"] = {CORE: components}
        metadata["optional-dependencies"] = extras | {"all": [f"{CORE}[{','.join(chosen)}]"]}


class PluginFiles(BuildHookInterface[BuilderConfig]):
    """Adds the plugins' packages to the wheel, and their folders to the path of an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Complete the table of the wheel; see `BuildHookInterface`."""
        folders, table = plugin_projects(self.root), self.build_config.target_config
        table["dev-mode-dirs"] = [".", *folders]
        table["sources"] |= dict.fromkeys(folders, "")
        table["only-include"] += [
            f"{folder}/{project['name'].replace('-', '_')}" for folder, project in folders.items()
        ]


def _add(table: dict[str, Any], more: dict[str, Any]) -> None:
    if twice := table.keys() & more.keys():
        raise ValueError(f"declared twice: {', '.join(sorted(twice))}")
    table.update(more)
