"""The recipe of an exported run: how its folder is asked, with nothing in it of the machine it was trained on."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from medground.recipe import Recipe
from medground.recipe.yaml_reader import MISSING

HERE = "./"
"""The folder of the recipe, wherever it is."""
_ASKED = (
    "reasoner", "prompt_interface", "proposer", "proposals", "segmenter", "prompt", "text_from", "allow_untrained",
    "sampling", "seed",
)  # fmt: skip
"""Keys of a recipe that decide an answer; the others are about training and measuring."""
_OF_THE_ADAPTER = ("adapter", "lora_rank", "lora_alpha")
"""Arguments that a reasoner without an adapter has no use for."""
_FIRST_LINE = "# medground ground IMAGE QUESTION --recipe THIS_FOLDER"


def exported_recipe(recipe: Recipe, argument: str) -> dict[str, Any]:
    """Return what of a run's recipe decides an answer, with the reasoner in the recipe's own folder.

    Every other path of this machine becomes ``???``, which says that the user must give it.

    Args:
        recipe: of the run's result.
        argument: of the reasoner's factory, takes the folder: ``adapter`` leaves the other weights where they were.
    """
    values = {key: _without_paths(recipe.data[key]) for key in _ASKED if key in recipe.data}
    gone = () if argument == "adapter" else ("revision", *_OF_THE_ADAPTER)
    reasoner = {key: value for key, value in values["reasoner"].items() if key not in gone}
    return {**values, "reasoner": {**reasoner, argument: HERE}}


def must_be_given(values: Mapping[str, Any], above: str = "") -> list[str]:
    """Return the dotted keys of an exported recipe that the user must give.

    >>> must_be_given({"segmenter": {"name": "sam", "checkpoint": "???"}, "prompt": ["box"]})
    ['segmenter.checkpoint']
    """
    keys = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            keys += must_be_given(value, f"{above}{key}.")
        elif value == MISSING:
            keys.append(f"{above}{key}")
    return keys


def recipe_text(values: Mapping[str, Any]) -> str:
    """Return an exported recipe as YAML, with the command that runs it in its first line."""
    return f"{_FIRST_LINE}\n{OmegaConf.to_yaml(OmegaConf.create(dict(values)))}"


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    # The recipe of a run holds absolute paths of all that was there when it began.
    return MISSING if isinstance(value, str) and value.startswith(("/", "~", "./", "../")) else value
