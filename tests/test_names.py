"""Names of variables are nouns: names that say nothing about the value are banned."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BANNED = {"found", "each", "told", "said", "made", "kept", "asked", "place", "held", "dealt"}


def banned_names(source: str) -> list[tuple[int, str]]:
    """Return (line, name) of every variable and parameter in `source` with a banned name; fields of classes are free."""
    tree, lines = ast.parse(source), []
    bodies = [statement for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for statement in node.body]
    fields = {id(statement.target) for statement in bodies if isinstance(statement, ast.AnnAssign)}
    for node in ast.walk(tree):
        if id(node) in fields:
            continue
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                lines.append((node.lineno, name))
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                lines.append((node.lineno, name))
            case ast.alias(asname=str(name)):
                lines.append((node.lineno, name))
    return sorted((line, name) for line, name in lines if name in BANNED)


def test_no_variable_has_a_banned_name():
    packages = [ROOT / "medground", *ROOT.glob("plugins/*/medground_*")]
    files = sorted(file for package in packages for file in package.rglob("*.py"))
    offenders = [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for file in files
        for line, name in banned_names(file.read_text(encoding="utf-8"))
    ]
    assert len(files) > 100
    assert not offenders, "\n".join(offenders)


def test_every_kind_of_variable_is_checked():
    source = """
class Record:
    asked: str


def f(found, *each, told=1, **said):
    made: int = 0
    kept, (asked, *place) = [], (1, 2)
    for held in []:
        pass
    [dealt for dealt in []]
    with open("x") as found:
        pass
    if (each := 1):
        pass
    try:
        pass
    except OSError as told:
        pass
    match made:
        case {"a": said}:
            pass
    f(found=1).found  # neither a keyword of a call nor an attribute is a variable
"""
    assert [name for _, name in banned_names(source)] == [
        "each", "found", "said", "told", "made", "asked", "kept", "place", "held", "dealt", "found", "each", "told", "said",
    ]  # fmt: skip
