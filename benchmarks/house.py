"""Count what makes the code long or hard to read; run it on two checkouts to compare them.

    python benchmarks/house.py [CHECKOUT]

Statements are ``ast.stmt`` nodes without docstrings, and every line of a template. Subscripts with a constant string and
calls of ``.get("...")`` show where plain dictionaries stand in for types; files that read other people's formats are
counted apart.
"""

import ast
import sys
from collections import Counter
from pathlib import Path

FOREIGN = (
    "recipe/yaml_reader.py", "recipe/layers.py", "recipe/structured.py", "recipe/validation.py", "runs/hub.py",
    "data/umrg/", "data/manifest.py", "data/inputs.py", "data/lint/records.py",
    "evaluation/predictions.py", "evaluation/scoring.py", "images/rle.py", "registry/discovery.py", "cli/run.py",
)  # fmt: skip
"""Files of core that read recipes, tables, manifests or metadata which others wrote."""
MOST_LINES = 400


def counts(path: Path) -> Counter[str]:
    """Return the counts of one Python file."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    result = Counter(lines=text.count("\n"))
    for node in ast.walk(tree):
        result["statements"] += isinstance(node, ast.stmt) and not is_docstring(node)
        match node:
            case ast.Subscript(slice=ast.Constant(value=str())):
                result["subscripts"] += 1
            case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str()), *_]):
                result["gets"] += 1
            case ast.Name(id="Any" | "object" | "cast" as word):
                result[word] += 1
    return result


def is_docstring(node: ast.stmt) -> bool:
    """Return True for an expression that is a string: a docstring or an attribute's description."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def main(root: Path) -> None:
    """Print the counts by folder, then those of core."""
    folders: dict[str, Counter[str]] = {}
    core, foreign, long = Counter[str](), Counter[str](), []
    for package in (root / "medground", *sorted(root.glob("plugins/*/medground_*"))):
        for path in sorted(package.rglob("*.py")):
            inside = path.relative_to(package)
            own = package.name == "medground"
            folder = f"medground/{inside.parts[0]}" if own and len(inside.parts) > 1 else package.name
            found = counts(path)
            folders.setdefault(folder, Counter()).update(found)
            if found["lines"] > MOST_LINES:
                long.append(f"{path.relative_to(root)} {found['lines']}")
            if own:
                (foreign if inside.as_posix().startswith(FOREIGN) else core).update(found)
        for pattern in ("*.tmpl", "*.html", "*.j2"):
            for path in package.rglob(pattern):
                folders.setdefault(package.name, Counter())["statements"] += path.read_text().count("\n")
    for folder, found in sorted(folders.items()):
        print(f"{folder:<28} {found['statements']:>6} statements {found['lines']:>6} lines")
    total = sum(
        (Counter(statements=found["statements"], lines=found["lines"]) for found in folders.values()), Counter()
    )
    print(f"{'all':<28} {total['statements']:>6} statements {total['lines']:>6} lines")
    names = ("subscripts", "gets", "Any", "object", "cast")
    print("core without foreign files  ", ", ".join(f"{core[name]} {name}" for name in names))
    print("core's foreign files        ", ", ".join(f"{foreign[name]} {name}" for name in names))
    print(f"files over {MOST_LINES} lines:", ", ".join(long) or "none")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
