"""The words a recipe may use: one table. A new setting is one line here, its default beside it."""

import math
from typing import Any, NamedTuple

from medground.errors import did_you_mean
from medground.recipe.yaml_reader import MAX_KEY, shown

COMPONENTS = ("reasoner", "prompt_interface", "segmenter", "engine", "rollout")
"""Top-level keys that hold one component, named as its kind; null means none."""
RECIPE_WORDS = ("extends", "variants")
"""Keys about the recipe itself, gone once it is resolved."""


class Choice(tuple[str, ...]):
    """A setting that takes one of a few words; the first is the default."""

    __slots__ = ()


class Number(NamedTuple):
    """A setting that is a number within bounds, whole where `least` is; a default of None takes null too."""

    default: float | None
    least: float
    most: float = math.inf


SEED = Number(0, 0, 2**32 - 1)
BELOW_ONE = 0.9999999
"""What Adam's decay rates may reach."""
SETTINGS: dict[str, Any] = {
    "prompt": Choice(("both", "box", "points")),  # which part of the spatial prompt the segmenter is given
    "allow_untrained": False,  # give a segmenter prompt kinds it was not trained for
    "seed": SEED,
    "sampling": {
        "num_generations": Number(1, 1),
        "temperature": Number(0.0, 0.0),
        "max_completion_length": Number(2048, 1),
        "seed": SEED,
    },
    "data": {
        "path": None,
        "split": None,
        "reader": None,
        "limit": Number(None, 1),
        "leave_out": None,  # {label: [values]} that training does not see; evaluation has its own
    },
    "grpo": {
        "num_generations": Number(16, 1),
        "temperature": Number(1.0, 0.0),
        "max_prompt_length": Number(2048, 1),
        "max_completion_length": Number(2048, 1),
        "train_batch_size": Number(128, 1),  # queries per step
        "mini_batch_size": Number(64, 1),  # queries per optimiser update
        "num_iterations": Number(1, 1),
        "num_train_epochs": Number(5, 1),
        "max_steps": Number(None, 1),
        "micro_batch_size": Number(None, 1),  # completions per forward pass; null: a whole group
        "loss": Choice(("grpo", "dr_grpo", "dapo", "gspo", "cispo")),
        "aggregation": Choice(("by_loss", "sequence_mean", "token_mean", "constant", "sequence_sum")),
        "scale_rewards": Choice(("group", "batch", "none")),
        "advantage_eps": Number(1e-4, 0.0),  # added to the standard deviation
        "beta": Number(0.0, 0.0),  # weight of the divergence from the starting policy
        "kl_estimator": Choice(("k3_ratio", "k3", "k1", "k2")),
        "epsilon": Number(None, 0.0),  # null: what the loss was published with
        "epsilon_high": Number(None, 0.0),
        "dual_clip": Number(None, 1.0),
        "correction": Choice(("none", "truncate", "mask")),  # what is done where the sampler is not quite the trainer
        "correction_cap": Number(2.0, 0.0),  # importance weights above are capped, or with `mask` their tokens dropped
        "correction_floor": Number(0.0, 0.0),  # with `mask`, tokens with weights below are dropped
        "mismatch_alarm": Number(
            0.05, 0.0
        ),  # mean |log-probability of the sampler - of the trainer| that is warned about
        "mask_truncated": False,
        "resample_constant": Number(0, 0),
        "learning_rate": Number(1e-6, 0.0),
        "schedule": Choice(("constant", "linear", "cosine")),
        "warmup_ratio": Number(0.0, 0.0, 1.0),
        "weight_decay": Number(0.01, 0.0),
        "adam_beta1": Number(0.9, 0.0, BELOW_ONE),
        "adam_beta2": Number(0.999, 0.0, BELOW_ONE),
        "max_grad_norm": Number(1.0, 0.0),
        "save_every": Number(10, 1),
    },
    "sft": {
        "train_batch_size": Number(16, 1),
        "micro_batch_size": Number(4, 1),  # samples per forward pass
        "num_train_epochs": Number(5, 1),
        "max_steps": Number(None, 1),
        "max_length": Number(2048, 1),
        "packing": False,
        "learning_rate": Number(5e-6, 0.0),
        "schedule": Choice(("cosine", "linear", "constant")),
        "warmup_ratio": Number(0.1, 0.0, 1.0),
        "weight_decay": Number(0.0, 0.0),
        "adam_beta1": Number(0.9, 0.0, BELOW_ONE),
        "adam_beta2": Number(0.999, 0.0, BELOW_ONE),
        "max_grad_norm": Number(1.0, 0.0),
        "save_every": Number(100, 1),
    },
    "validate": {
        "every": Number(0, 0),
        "split": "val",
        "metric": None,
        "limit": Number(None, 1),
        "before_training": False,
    },
    "evaluate": {
        "split": None,  # null: that of data
        "limit": None,
        "only": None,  # {label: [values]} that alone are measured
        "leave_out": None,  # {label: [values]} that are not
        "protocol": Choice(("corrected", "released")),  # released: also the published system's numbers and aggregation
        "arms": None,  # what is done to questions and answers on their way; null: nothing
        "seeds": None,  # sampling seeds, each draws num_generations more answers; null: the one of sampling
        "batch_size": 8,  # samples asked together
        "cluster": None,  # the label that says which samples belong together; null: patient, else volume, else image
        "n_boot": 2000,
        "level": 0.95,
        "seed": 0,  # of resampling and of arms that draw
        "published": None,  # tables of published numbers that the report shows beside its own
        "pictures": 6,  # in each gallery of the report: best, worst and drawn; 0: no image leaves the data
    },
    "sweep": {
        "seeds": None,  # of training and of sampling; null: the recipe's own, once
        "datasets": None,  # label: data.path, or a section of overrides, such as {evaluate: {split: test}}
        "baseline": None,  # the variant the others are tested against; null: the first
        "metrics": ["iou", "pdice", "dice_joint"],
        "by": None,  # a label, such as size, by which means are told too
    },
}
"""Plain top-level keys: a default, a `Choice`, a `Number`, or a section of such. A default of None takes any value."""
FILLED = ("prompt", "allow_untrained", "seed", "sampling")
"""Filled with defaults in every recipe; the others only where a recipe names them."""
TOP = (*RECIPE_WORDS, *COMPONENTS, "rewards", "trackers", *SETTINGS)


def default(setting: Any) -> Any:
    """What a setting is where no recipe says."""
    if isinstance(setting, dict):
        return {key: default(each) for key, each in setting.items()}
    return setting[0] if isinstance(setting, Choice | Number) else setting


def objection(setting: Any, value: Any) -> tuple[str, str] | None:
    """Why `value` does not suit a setting, as (what is wrong, what to do); None where it does.

    >>> objection(Choice(("both", "box")), "bxo")
    ("'bxo' is not one of its words", "did you mean 'box'?")
    >>> objection(0.2, 1)
    >>> objection(True, 1)
    ('1 is not true or false', 'write true or false')
    >>> objection(Number(16, 1), 0)
    ('0 is not a whole number from 1', 'write a whole number from 1')
    """
    if setting is None:
        return None
    if isinstance(setting, Number):
        return _out_of_bounds(setting, value)
    if isinstance(setting, Choice):
        if isinstance(value, str) and value in setting:
            return None
        return f"{shown(value)} is not one of its words", did_you_mean(str(value)[:MAX_KEY], setting)
    wanted = "true or false" if isinstance(setting, bool) else _WANTED[type(setting)]
    fits = isinstance(value, (int, float) if isinstance(setting, float) else type(setting))
    if fits and isinstance(value, bool) == isinstance(setting, bool):
        return None
    return f"{shown(value)} is not {wanted}", f"write {wanted}"


def _out_of_bounds(setting: Number, value: Any) -> tuple[str, str] | None:
    if value is None and setting.default is None:
        return None
    if wrong := objection(setting.least, value):
        return wrong
    if setting.least <= value <= setting.most:
        return None
    upper = "" if setting.most == math.inf else f" to {setting.most:.10g}"
    wanted = f"{_WANTED[type(setting.least)]} from {setting.least:g}{upper}"
    return f"{shown(value)} is not {wanted}", f"write {wanted}"


_WANTED = {
    int: "a whole number",
    float: "a number",
    str: "a word",
    dict: "a section of key: value lines",
    list: "a list",
}
