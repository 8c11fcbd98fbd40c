"""A recipe's text as it may be shown to others: without the folders and files of this machine, which may name a person."""

import os
import re
from contextlib import suppress
from typing import Any

from omegaconf import OmegaConf

from medground.errors import RecipeError
from medground.recipe.hub import parse_hub_id
from medground.recipe.layers import leaves
from medground.recipe.yaml_reader import MISSING, parse


def without_paths(text: str) -> str:
    """Return a recipe's text, resolved or as written, with every local path replaced by ``???``, which says that it must be
    given.

    >>> print(without_paths("data:\\n  path: /home/doe/scans\\nreasoner: {checkpoint: Qwen/Qwen3-VL-4B-Instruct}"))
    data:
      path: ???
    reasoner: {checkpoint: Qwen/Qwen3-VL-4B-Instruct}
    """
    return "---\n".join(map(_document, re.split(r"(?m)^---\n", text)))


def _document(text: str) -> str:
    text = re.sub(r"(?m)^# .*$", lambda line: _comment(line[0]), text)
    try:
        data, _ = parse(text, "recipe")
    except RecipeError as error:  # a page about a run must not fail for it
        return f"# left out: {error.message}\n"
    paths = {value for key, value in _strings(data) if _is_local(key, value)}
    shown = text
    for path in sorted(paths, key=len, reverse=True):
        shown = shown.replace(path, MISSING)
    with suppress(RecipeError):
        if not any(_is_local(key, value) for key, value in _strings(parse(shown, "recipe")[0])):
            return shown
    return OmegaConf.to_yaml(OmegaConf.create(_hidden(data, paths)))  # paths with quotes, escapes or in braces


def _comment(line: str) -> str:
    """A comment: the name of a file, an override, or words of the author."""
    key, equals, value = line.removeprefix("# ").partition("=")
    local = _is_local(key, value.strip("\"' ")) if equals else _is_local("", key)
    return f"# {key}={MISSING}" if local and equals else f"# {MISSING}" if local else line


def _strings(data: Any) -> list[tuple[str, str]]:
    """Every text with its dotted key, those of lists by the list's."""
    texts = []
    for key, value in leaves(data):
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and item != MISSING:
                texts.append((".".join(map(str, key)), item))
            elif isinstance(item, dict):
                texts += _strings(item)
    return texts


def _is_local(key: str, value: str) -> bool:
    if key == "data.path":
        return parse_hub_id(value, key, kind="dataset") is None
    return len(value) < 4096 and (
        value.startswith(("/", "~", "./", "../")) or ("\0" not in value and os.path.exists(value))
    )


def _hidden(data: Any, paths: set[str]) -> Any:
    if isinstance(data, dict):
        return {key: _hidden(value, paths) for key, value in data.items()}
    if isinstance(data, list):
        return [_hidden(value, paths) for value in data]
    return MISSING if isinstance(data, str) and data in paths else data
