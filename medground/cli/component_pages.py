"""What ``medground plugins list`` and ``plugins show`` say of a component."""

import json
import shlex
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medground.cli.recipe import inline
from medground.errors import PluginError, did_you_mean
from medground.registry import OWN, Component, components, factory
from medground.registry.description import Argument, Description
from medground.registry.isolation import Problem
from medground.types import SPATIAL_KINDS

COLUMNS = ["kind", "name", "description", "prompts", "licence of weights", "plugin", "problem", "remedy"]
WIDTH = 120
_ORDER = ("box", "points", "negative_points", "text", "exemplars")
"""Of prompt kinds, as people read them."""


@dataclass(frozen=True, slots=True)
class Row:
    """One component in ``plugins list``."""

    component: Component
    description: Description | None
    problem: Problem | None

    @classmethod
    def of(cls, component: Component, answer: Description | Problem) -> "Row":
        """Return the row of a component that was described, or could not be."""
        problem = answer if isinstance(answer, Problem) else None
        return cls(component, None if isinstance(answer, Problem) else answer, problem)

    @property
    def cells(self) -> list[str]:
        """The texts of `COLUMNS`."""
        component, about, problem = self.component, self.description, self.problem
        own = component.distribution == OWN
        return [
            component.kind,
            component.name,
            about.summary if about else "",
            _listed(about.prompts) if about else "",
            about.licence if about else "",
            component.package if own else f"{component.distribution} {component.version}",
            problem.cause if problem else "",
            (problem.remedy or "") if problem else "",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        about, problem = self.description, self.problem
        return {
            **asdict(self.component),
            "problem": problem and problem.cause,
            "hint": problem and problem.remedy,
            "summary": about and about.summary,
            "prompts": about and list(about.prompts),
            "licence": about and about.licence,
        }


def find_named(name: str, kind: str | None) -> list[Component]:
    """Return the components of a name, of one kind if given.

    Raises:
        PluginError: if there is none.
    """
    known = components(kind)
    named = [component for component in known if component.name == name]
    if not named:
        what = "component" if kind is None else kind
        raise PluginError(f"there is no {what} {name!r}", hint=did_you_mean(name, {one.name for one in known}))
    return named


@dataclass(frozen=True, slots=True)
class Page:
    """What ``plugins show`` says of a component."""

    component: Component
    description: Description
    recipe: str
    """Lines of a recipe that use it; "" for a command."""
    override: str
    """How a command line names it; of a command, how it is run."""
    python: str
    """The same in Python; "" for a command."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        example = {"recipe": self.recipe, "override": self.override, "python": self.python}
        return {**asdict(self.component), **self.description.to_dict(), "example": example}

    @property
    def text(self) -> str:
        """For people."""
        component, about = self.component, self.description
        blocks = [f"{component.kind} {component.name}, of {component.owner}\n{_wrapped(about.summary)}"]
        if about.details:
            blocks += [_wrapped(paragraph) for paragraph in about.details.split("\n\n")]
        if about.prompts:
            verb = "takes" if component.kind == "segmenter" else "gives"
            blocks.append(f"{verb}: {_listed(about.prompts)}")
        if about.published:
            lines = [_wrapped(f"{_place(entry.id)}: {entry.terms}", "  ", "    ") for entry in about.published]
            blocks.append("\n".join(["weights:", *lines]))
        if about.arguments:
            title = "options, given by -o KEY=VALUE:" if component.kind == "reader" else "arguments:"
            blocks.append("\n".join([title, *map(_argument, about.arguments)]))
        for title, example in (("recipe", self.recipe), ("command line", self.override), ("Python", self.python)):
            if example:
                blocks.append(f"{title}:\n{textwrap.indent(example, '  ')}")
        return "\n\n".join(blocks)


def page(component: Component, about: Description) -> Page:
    """Return what there is to say of a component."""
    kind, name = component.kind, component.name
    arguments = _example_arguments(about)
    given = "".join(f", {word}={_literal(value)}" for word, value in arguments.items())
    python = f'import medground\n\nmedground.build("{kind}", "{name}"{given})'
    match kind:
        case "command":
            return Page(component, about, "", f"medground {name} --help", "")
        case "reader":
            recipe, override = (
                f"data:\n  path: FOLDER\n  reader: {inline(name)}",
                f"data.path=FOLDER data.reader={name}",
            )
            python = f'import medground\n\nmedground.open_dataset("FOLDER", reader="{name}")'
        case "reward":
            recipe = _lines({"rewards": {name: {"weight": 1.0, **arguments}}})
            override = f"rewards.{name}=1"
        case "tracker":
            recipe = f"trackers:\n  - {inline({'name': name, **arguments})}"
            override = f"trackers=[{name}]"
        case _:
            beside = _needed_beside(kind, name, about)
            recipe = _lines({kind: {"name": name, **arguments}} | beside)
            words = [f"{kind}={name}", *(shlex.quote(f"{kind}.{word}={inline(v)}") for word, v in arguments.items())]
            override = " ".join([*words, *(f"{key}={value}" for key, value in beside.items())])
    return Page(component, about, recipe, override, python)


def _needed_beside(kind: str, name: str, about: Description) -> dict[str, str]:
    """Return what a recipe must say beside a component's name: candidates to choose among, or the prompts it reads."""
    if kind == "prompt_interface" and hasattr(factory(kind, name), "among"):
        return {"proposer": "grid"}
    if kind != "segmenter" or not about.prompts or SPATIAL_KINDS.intersection(about.prompts):
        return {}
    return {"prompt": "text", "text_from": "question"} if "text" in about.prompts else {"prompt": "exemplars"}


def _example_arguments(about: Description) -> dict[str, Any]:
    """Return the arguments of an example: its weights, what must be given, and the first that has a default."""
    arguments: dict[str, Any] = {}
    hub_ids = [entry.id for entry in about.published if not Path(entry.id).is_absolute()]
    for argument in about.arguments:
        if argument.name == "checkpoint" and (hub_ids or not about.published):
            arguments["checkpoint"] = hub_ids[0] if hub_ids else "FOLDER"
        elif argument.required:
            word, others, _ = argument.type.partition(" or ")
            arguments[argument.name] = word if others and word.isidentifier() else argument.name.upper()
    plain = [argument for argument in about.arguments if argument.default not in (None, "")]
    return arguments | {argument.name: argument.default for argument in plain[:1]}


def _literal(value: Any) -> str:
    """Return plain data as Python source, with the double quotes of this project."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _lines(data: Mapping[str, Any], indent: str = "") -> str:
    """Return nested plain data as YAML, a line per value."""
    return "\n".join(
        f"{indent}{inline(key)}:\n{_lines(value, indent + '  ')}"
        if isinstance(value, Mapping)
        else f"{indent}{inline(key)}: {inline(value)}"
        for key, value in data.items()
    )


def _argument(argument: Argument) -> str:
    default = "must be given" if argument.required else f"default {inline(argument.default)}"
    head = f"{argument.name} ({'; '.join(filter(None, [argument.type, default]))})"
    return _wrapped(f"{head}: {argument.meaning}" if argument.meaning else head, "  ", "      ")


def _place(published: str) -> str:
    return "comes with the package" if Path(published).is_absolute() else published


def _listed(kinds: tuple[str, ...]) -> str:
    return ", ".join(sorted(kinds, key=lambda kind: (_ORDER.index(kind) if kind in _ORDER else len(_ORDER), kind)))


def _wrapped(text: str, first: str = "", rest: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
