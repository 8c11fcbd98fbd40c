"""What a key of a recipe means: its type, default, allowed values, and where its value in a recipe comes from."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from medground import protocols, registry
from medground.errors import RecipeError, did_you_mean
from medground.recipe.recipe import Recipe
from medground.recipe.schema import COMPONENTS, GENERAL, GRID, KINDS, RECIPE_WORDS, SECTIONS, TOP, GeneralConfig
from medground.recipe.structured import defaults, meanings, to_plain, wanted
from medground.recipe.yaml_reader import quoted
from medground.registry.description import describe

_PROTOCOLS: Mapping[str, type] = {
    "reasoner": protocols.Reasoner,
    "prompt_interface": protocols.PromptInterface,
    "segmenter": protocols.Segmenter,
    "engine": protocols.Engine,
    "rollout": protocols.RolloutSource,
    "reward": protocols.Reward,
    "tracker": protocols.Tracker,
}
"""Kind -> what its components do."""
_WORDS = {
    "extends": ("The recipe, or the recipes, whose values this one takes where it gives none of its own.", "a name"),
    "variants": (
        "Named rows of overrides: --variant applies one, a sweep does them all.",
        "a section of name: row lines",
    ),
}
_PROPOSER = (
    f"A segmenter that proposes the candidates an answer chooses from; {GRID}: the recipe's own segmenter. "
    "It is prompted with a grid of points, see proposals; another that reads text, with the question."
)
_WEIGHT = "How much the term counts in the sum; 0 observes it."


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What there is to know of one key."""

    key: str
    """Dotted."""
    meaning: str
    type: str
    """What may be written, in words."""
    default: Any
    """Where no recipe gives a value; None too where there is none."""
    value: Any
    """In the recipe."""
    origin: str
    """``file:line``, ``command line`` or ``default``; "" where the recipe has no such value."""
    allowed: tuple[str, ...] = ()
    """The words that may be written: installed components, or the keys of a section."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def explain(recipe: Recipe, key: str) -> Explanation:
    """Explain a dotted key, which the recipe need not give: ``grpo.beta``, ``segmenter``, ``rewards.bbox_iou.weight``.

    Raises:
        RecipeError: if no recipe may have such a key.
        PluginError: if it is an argument of a component that is missing or broken.

    >>> from medground.recipe import resolve
    >>> explain(resolve("infer/toy", "seed=7"), "seed").origin
    'command line'
    """
    top, *rest = key.split(".")
    if top not in TOP:
        raise RecipeError(f"no recipe has the key {quoted(key)}", hint=did_you_mean(top, TOP))
    if top in RECIPE_WORDS:
        meaning, type_ = _WORDS[top]
        value = list(recipe.variants) if top == "variants" else [label for label, _ in recipe.source.texts[:-1]]
        return _explained(recipe, top, meaning, type_, value=value or None, origin=recipe.name if value else "")
    if top in COMPONENTS:
        return _of_component(recipe, KINDS[top], top, rest)
    if top in ("rewards", "trackers"):
        return _of_several(recipe, top, rest)
    if top in GENERAL:
        return _of_field(recipe, GeneralConfig, (), key.split("."))
    return _of_field(recipe, SECTIONS[top], (top,), rest) if rest else _of_section(recipe, top)


def _of_section(recipe: Recipe, section: str) -> Explanation:
    schema = SECTIONS[section]
    text = inspect.cleandoc(schema.__doc__ or "").partition(": ")[2]
    meaning = text[:1].upper() + text[1:]
    return _explained(recipe, section, meaning, "a section of key: value lines", allowed=tuple(meanings(schema)))


def _of_field(recipe: Recipe, schema: type, section: tuple[str, ...], rest: list[str]) -> Explanation:
    """Explain a setting; of what lies inside one, for example a label of ``data.leave_out``, the setting."""
    known = meanings(schema)
    if rest[0] not in known:
        dotted = ".".join((*section, rest[0]))
        raise RecipeError(f"no recipe has the key {quoted(dotted)}", hint=did_you_mean(rest[0], known))
    default = to_plain(defaults(schema))[rest[0]]
    return _explained(
        recipe, ".".join((*section, *rest)), known[rest[0]].replace("``", "`"), wanted(schema, rest[0]), default=default
    )


def _of_several(recipe: Recipe, top: str, rest: list[str]) -> Explanation:
    kind = top.removesuffix("s")
    names = tuple(component.name for component in registry.components(kind))
    if not rest:
        what, type_ = {
            "rewards": ("The terms of the rubric, by label; weighted and summed.", "a section of label: weight lines"),
            "trackers": ("What writes the numbers of a run elsewhere, too.", "a list of components"),
        }[top]
        return _explained(recipe, top, f"{what} {_purpose(kind)}", type_, allowed=names)
    key = f"{top}.{rest[0]}"
    if kind == "reward" and rest[1:] == ["weight"]:
        return _explained(recipe, ".".join((top, *rest)), _WEIGHT, "a number", default=1.0)
    return _of_component(recipe, kind, key, rest[1:])


def _of_component(recipe: Recipe, kind: str, key: str, rest: list[str]) -> Explanation:
    names = tuple(component.name for component in registry.components(kind))
    if rest in ([], ["name"]):
        type_ = "a component's name, or {name: ..., argument: value}"
        if kind == "reward":
            type_ = f"a weight, or {type_}; null removes the term"
        meaning = _PROPOSER if key == "proposer" else _purpose(kind)
        allowed = (GRID, *names) if key == "proposer" else names
        return _explained(recipe, ".".join((key, *rest)), meaning, type_, allowed=allowed)
    component = next((named for at, _, named in recipe.components() if at == key), None)
    if component is None or recipe.is_object(key):
        raise RecipeError(f"the recipe {recipe.name!r} names no component as {key}", hint=f"add {key}=NAME")
    arguments = {one.name: one for one in describe(registry.factory(kind, component.name)).arguments}
    if rest[0] not in arguments:
        what = f"{kind} {component.name!r} has no argument {rest[0]!r}"
        raise RecipeError(what, hint=did_you_mean(rest[0], arguments))
    argument = arguments[rest[0]]
    meaning = argument.meaning[:1].upper() + argument.meaning[1:]
    return _explained(
        recipe,
        ".".join((key, *rest)),
        meaning or "Its plugin does not say.",
        argument.type or "any value",
        default=argument.default,
    )


def _purpose(kind: str) -> str:
    return inspect.cleandoc(_PROTOCOLS[kind].__doc__ or "").partition("\n")[0]


def _explained(
    recipe: Recipe, key: str, meaning: str, type_: str, *,
    default: Any = None, value: Any = None, origin: str = "", allowed: tuple[str, ...] = (),
) -> Explanation:  # fmt: skip
    data: Any = recipe.data
    for word in key.split("."):
        if isinstance(data, list):
            data = dict(enumerate(data)).get(int(word)) if word.isdecimal() else None
        else:
            data = data.get(word) if isinstance(data, dict) else None
    known = data is not None or key in recipe.origins
    return Explanation(
        key=key,
        meaning=meaning,
        type=type_,
        default=default,
        value=data if known else value,
        origin=recipe.origin(key) if known else origin,
        allowed=allowed,
    )
