"""What components say of themselves: their docstring, arguments with meanings, prompt kinds, terms of their weights.

`describe_all` asks plugins in processes of their own, as ``medground plugins list`` needs it: one that crashes, ends or stalls
the interpreter costs its own row. `describe` asks a factory that is loaded already.
"""

import inspect
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medground.arguments import in_words
from medground.children import start_python
from medground.hookspecs import Factory
from medground.licences import Published, Terms
from medground.registry.discovery import OWN, Component, components, uninstall_hint
from medground.registry.errors import as_plugin_error
from medground.registry.isolation import Problem, ending, finish
from medground.registry.loading import load_factories

SECONDS = 10.0
"""How long a plugin may take to import before it is listed without a description."""
OWN_SECONDS = 120.0
"""How long all built-ins together may take: only an import that hangs does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument of a component."""

    name: str
    required: bool
    default: Any
    """As a recipe writes it; None where it is required, and where it is null."""
    type: str
    """What it may be, in words; "" for anything."""
    meaning: str
    """From the docstring; "" where that says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a component says of itself."""

    summary: str
    """One line."""
    details: str
    """The rest of the docstring, without its arguments and examples."""
    prompts: tuple[str, ...]
    """The prompt kinds that a segmenter accepts or a prompt interface provides, sorted."""
    published: tuple[Published, ...]
    """The published weights it loads; the first are its default where it has one."""
    arguments: tuple[Argument, ...]
    """Of a reader, the options of its `read`."""

    @property
    def licence(self) -> str:
        """The licences of its weights, one after another; "" where it has no weights of its own."""
        return ", ".join(dict.fromkeys(_brief(entry.terms) for entry in self.published))

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "licence": self.licence}


def _brief(terms: Terms) -> str:
    return (terms.licence or "none stated") + (" (non-commercial)" if terms.commercial is False else "")


def describe(factory: Factory) -> Description:
    """Return what a factory says of itself, or a `click.Command`."""
    if not callable(getattr(factory, "get_short_help_str", None)):
        summary, _, details = _without_sections(_docstrings(factory)[0]).partition("\n")
        arguments = tuple(_arguments(_options(factory) if hasattr(factory, "recognises") else factory))
    else:
        summary, _, details = inspect.cleandoc(getattr(factory, "help", "") or "").partition("\n")
        arguments = ()
    kinds = getattr(factory, "accepts", getattr(factory, "provides", ()))
    published = getattr(factory, "published", ())
    return Description(
        summary=_plain(summary),
        details=_plain(details.strip()),
        prompts=tuple(sorted(kinds)) if isinstance(kinds, frozenset) else (),
        published=published if _are_published(published) else (),
        arguments=arguments,
    )


def _are_published(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(entry, Published) for entry in value)


def meanings(docstring: str) -> dict[str, str]:
    """Return the entries of the section ``Args:`` of a docstring, each on one line.

    >>> meanings("Cut.\\n\\nArgs:\\n    side: of the image,\\n        px.\\n    margin: a share.\\n\\nMore: text.")
    {'side': 'of the image, px.', 'margin': 'a share.'}
    """
    section = re.search(r"^Args:\n((?: {4}.*(?:\n|$)|\n(?= {4}))*)", docstring, re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section[1], re.MULTILINE) if section else []
    return {name: _plain(re.sub(r"\s*\n\s*", " ", text)) for name, text in entries}


def _docstring(owner: Any) -> str:
    """Return what the author of a class or function wrote; nothing is inherited, nor made by `dataclass`."""
    text = vars(owner).get("__doc__") if isinstance(owner, type) else getattr(owner, "__doc__", None)
    generated = f"{getattr(owner, '__name__', '')}("
    return inspect.cleandoc(text) if isinstance(text, str) and not text.startswith(generated) else ""


def _docstrings(factory: Factory) -> list[str]:
    """Return the factory's own docstring, then those its arguments may be described in.

    They are of the function a partial calls, of base classes, and of what "Arguments are those of `Name`" points to.
    """
    function = factory.func if isinstance(factory, partial) else factory
    texts = [_docstring(owner) for owner in (inspect.getmro(function) if isinstance(function, type) else [function])]
    if isinstance(factory, partial) and "__doc__" in vars(factory):
        texts.insert(0, inspect.cleandoc(vars(factory)["__doc__"]))
    module = vars(sys.modules.get(function.__module__, inspect))
    names = [name for text in texts for name in re.findall(r"Arguments (?:are those of|as for) `(\w+)`", text)]
    return [*texts, *(_docstring(module.get(name)) for name in names)]


def _options(reader: Any) -> Factory:
    """Return the `read` of a reader as far as its options go: without the reader itself and the path."""
    return partial(reader.read, None, None)


def _arguments(factory: Factory) -> Iterator[Argument]:
    known: dict[str, str] = {}
    for docstring in _docstrings(factory):
        known = meanings(docstring) | known
    for name, parameter in inspect.signature(factory).parameters.items():
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            required = parameter.default is parameter.empty
            default = None if required else parameter.default
            plain = default if isinstance(default, (bool, int, float, str, type(None))) else json.loads(_json(default))
            yield Argument(
                name=name,
                required=required,
                default=plain,
                type=in_words(parameter.annotation),
                meaning=known.get(name, ""),
            )


def _json(value: Any) -> str:
    return json.dumps(value, default=str)


def _without_sections(docstring: str) -> str:
    """Return a docstring as far as its first section or example."""
    return re.split(r"^(?:Args|Returns|Yields|Raises|Attributes):$|^>>> ", docstring, maxsplit=1, flags=re.MULTILINE)[0]


def _plain(text: str) -> str:
    """Return a text of a docstring without its marks for code."""
    return text.replace("``", "`").replace("`medground.", "`")


def describe_all(wanted: Sequence[Component], seconds: float = SECONDS) -> dict[Component, "Description | Problem"]:
    """Describe components, in a process for all built-ins and one for every other module; none is imported here.

    Args:
        wanted: those to describe; one whose metadata shows a problem keeps that.
        seconds: for importing, each module that is not built in.

    Returns:
        Component -> its description, or why there is none.
    """
    groups: dict[str, list[Component]] = {}
    for component in wanted:
        if component.problem is None:
            groups.setdefault("" if component.distribution == OWN else component.module, []).append(component)
    described: dict[Component, Description | Problem] = {
        component: Problem(cause=component.problem, remedy=component.hint) for component in wanted if component.problem
    }
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for answers in pool.map(lambda group: _describe_group(group, seconds), groups.values()):
            described |= answers
    return described


def _describe_group(group: list[Component], seconds: float) -> dict[Component, "Description | Problem"]:
    remedy = uninstall_hint(group[0].distribution)
    with tempfile.TemporaryDirectory(prefix="medground-", ignore_cleanup_errors=True) as folder:
        path = Path(folder, "answer.json")
        names = [f"{component.kind}.{component.name}" for component in group]
        code = "from medground.registry.description import answer; answer()"
        if group[0].distribution == OWN:
            seconds = OWN_SECONDS
        status = finish(start_python(code, str(path), *names), seconds)
        if not path.exists():
            cause = (
                f"does not finish importing within {seconds:g} s"
                if status is None
                else f"{ending(status)} when it is imported"
            )
            if status is None:
                remedy = f"medground plugins doctor --seconds {4 * seconds:g} if it is only slow; else {remedy}"
            return dict.fromkeys(group, Problem(cause=cause, remedy=remedy))
        answers = json.loads(path.read_text(encoding="utf-8"))
    return {component: _parsed(answers[name]) for component, name in zip(group, names, strict=True)}


def answer() -> None:
    """Describe components in this process, the child, and write the descriptions to a file."""
    path, *names = sys.argv[1:]
    declared = {f"{component.kind}.{component.name}": component for component in components()}
    answers: dict[str, dict[str, Any]] = {}
    for name in names:
        component = declared[name]
        try:
            answers[name] = asdict(describe(load_factories(component)[component.name]))
        except (Exception, SystemExit) as error:  # noqa: BLE001 whatever a plugin's code raises belongs to its row
            failure = as_plugin_error(component, error)
            cause = failure.message.removeprefix(f"plugin {component.owner} ")
            answers[name] = {"cause": cause, "remedy": failure.hint}
    partly = Path(path).with_suffix(".part")
    partly.write_text(_json(answers), encoding="utf-8")
    partly.replace(path)


def _parsed(data: dict[str, Any]) -> "Description | Problem":
    if "cause" in data:
        return Problem(**data)
    published = [Published(**{**entry, "terms": Terms(**entry["terms"])}) for entry in data.pop("published")]
    arguments = [Argument(**entry) for entry in data.pop("arguments")]
    data["prompts"] = tuple(data["prompts"])
    return Description(**data, published=tuple(published), arguments=tuple(arguments))
