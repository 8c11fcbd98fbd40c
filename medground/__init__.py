"""medground: reasoning grounding in medical images.

A reasoner reads a vague question about an image and answers with regions, each a box and key points; a segmenter turns
them into masks; reward terms train the reasoner. Research software, not a medical device.

Importing this package loads no plugin, no model library and no recipe machinery: a name arrives when it is first used.
The names stand in ``__init__.pyi``.
"""

__version__ = "0.1.0"


def _sources() -> dict[str, str]:
    """Return the module that every public name comes from, as the stub beside this file says."""
    import ast
    from pathlib import Path

    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


_SOURCES = _sources()
__all__ = sorted(_SOURCES)


def __getattr__(name: str) -> object:
    import importlib

    if name not in _SOURCES:
        raise AttributeError(f"module 'medground' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_SOURCES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
