"""Find out which components exist and who owns them, and build one.

Discovery reads entry-point metadata only (group ``medground``, names ``<kind>.<component>``): nothing is imported, and
a broken plugin is listed with its problem. Use imports the owner of one name only and stops with the cause when
anything is wrong with it.

The environment variable `MEDGROUND_PLUGINS` restricts what is seen: ``none``, or a comma-separated list of
distributions or packages, with or without their ``medground-`` prefix.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from medground.arguments import Objection, in_words, objection
from medground.errors import MedgroundError, RecipeError, did_you_mean
from medground.hookspecs import KINDS, Factory
from medground.licences import Published
from medground.registry.discovery import GROUP, OWN, Component, components, find, kind_word
from medground.registry.errors import as_plugin_error
from medground.registry.loading import load_factories

__all__ = [
    "GROUP", "KINDS", "OWN", "Component", "bind", "build", "components", "factory", "find", "kind_word", "neighbours",
    "unsuitable",
]  # fmt: skip


def factory(kind: str, name: str) -> Factory:
    """Return the factory registered under a name; imports the owner of that name and nothing else.

    What is registered as a command is the `click.Command` itself.

    Raises:
        PluginError: if the name is unknown or has two owners, or its plugin cannot be imported or does not register
            exactly what it declares.
    """
    component = find(kind, name)
    return load_factories(component)[component.name]


def neighbours(kind: str, name: str) -> tuple[Published, ...]:
    """Return the published weights that the other components of a component's plugin declare; it may be given those, too.

    Raises:
        PluginError: as `factory`.
    """
    others = {label: other for label, other in load_factories(find(kind, name)).items() if label != name}
    return tuple(dict.fromkeys(entry for other in others.values() for entry in getattr(other, "published", ())))


def bind(kind: str, name: str, arguments: Mapping[str, Any]) -> inspect.BoundArguments:
    """Match arguments to a factory's signature without calling it: no weights are loaded.

    Raises:
        RecipeError: if an argument is unknown or a required one is missing.
        PluginError: as `factory`.
    """
    if kind_word(kind) == "command":
        raise RecipeError(f"a command is run, not built: {name}", hint=f"medground {name} --help")
    signature = inspect.signature(factory(kind, name))
    parameters = signature.parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        for word in arguments:
            if word not in signature.parameters:
                raise RecipeError(
                    f"{kind_word(kind)} {name!r} has no argument {word!r}",
                    hint=did_you_mean(word, signature.parameters),
                )
    try:
        return signature.bind(**arguments)
    except TypeError as error:
        open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        needed = {
            own.name: in_words(own.annotation)
            for own in parameters
            if own.default is own.empty and own.kind not in open_ended and own.name not in arguments
        }
        hint = ", ".join(f"{word}: {values}" if values else word for word, values in needed.items())
        raise RecipeError(f"{kind_word(kind)} {name!r}: {error}", hint=f"give {hint}") from error


def unsuitable(kind: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Objection]:
    """Return which arguments are of another type or word than the factory's annotations say, and why; see `arguments`.

    Raises:
        PluginError: as `factory`.
    """
    parameters = inspect.signature(factory(kind, name)).parameters
    known = {word: value for word, value in arguments.items() if word in parameters}
    objections = {
        word: objection(parameters[word].annotation, value)
        for word, value in known.items()
        if value is not parameters[word].default
    }
    return {word: wrong for word, wrong in objections.items() if wrong is not None}


def build(kind: str, name: str, /, **arguments: Any) -> Any:
    """Return a component, made with its arguments.

    >>> build("segmenter", "threshold", margin=2.0)
    Threshold(margin=2.0)

    Raises:
        RecipeError: if its arguments do not fit, by name, type or word.
        PluginError: as `factory`, or if a library it needs is missing.
    """
    bound = bind(kind, name, arguments)
    for word, wrong in unsuitable(kind, name, arguments).items():
        raise RecipeError(f"{kind_word(kind)} {name!r}: {word} {wrong.what}", hint=wrong.hint)
    try:
        return factory(kind, name)(*bound.args, **bound.kwargs)
    except ImportError as error:
        raise as_plugin_error(find(kind, name), error) from error
    except MedgroundError:
        raise
    except (TypeError, ValueError) as error:
        raise _unbuilt(kind, name, arguments, str(error)) from error
    except Exception as error:
        if find(kind, name).distribution == OWN:
            raise  # a bug of ours
        raise _unbuilt(kind, name, arguments, f"{type(error).__name__}: {error}") from error


def _unbuilt(kind: str, name: str, arguments: Mapping[str, Any], cause: str) -> RecipeError:
    """Return what a constructor that raises makes of the recipe: the component, its arguments, and the cause."""
    given = ", ".join(f"{word}={value!r}" for word, value in arguments.items()) or "no arguments"
    cause = cause.strip().splitlines()[0] if cause.strip() else "no cause is stated"
    return RecipeError(f"{kind_word(kind)} {name!r} cannot be built with {given}: {cause}")
