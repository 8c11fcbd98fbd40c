"""The words a recipe may use: one table. A new setting is one line here, its default beside it."""

from typing import Any

from medground.errors import nearest
from medground.recipe.read import MAX_KEY, shown

COMPONENTS = ("reasoner", "prompt_interface", "segmenter", "engine", "rollout")
"""Top-level keys that hold one component, named as its kind; null means none."""
RECIPE_WORDS = ("extends", "variants")
"""Keys about the recipe itself, gone once it is resolved."""


class Choice(tuple[str, ...]):
    """A setting that takes one of a few words; the first is the default."""

    __slots__ = ()


SETTINGS: dict[str, Any] = {
    "prompt": Choice(("both", "box", "points")),  # which part of the spatial prompt the segmenter is given
    "allow_untrained": False,  # give a segmenter prompt kinds it was not trained for
    "seed": 0,
    "sampling": {"num_generations": 1, "temperature": 0.0, "max_completion_length": 2048, "seed": 0},
    "data": {
        "path": None,
        "split": None,
        "reader": None,
        "limit": None,
        "leave_out": None,  # {label: [values]} that training does not see; evaluation has its own
    },
    "grpo": {
        "num_generations": 16,
        "temperature": 1.0,
        "max_prompt_length": 2048,
        "max_completion_length": 2048,
        "train_batch_size": 128,  # queries per step
        "mini_batch_size": 64,  # queries per optimiser update
        "num_iterations": 1,
        "num_train_epochs": 5,
        "max_steps": None,
        "micro_batch_size": None,  # completions per forward pass; null: a whole group
        "loss": Choice(("grpo", "dr_grpo", "dapo", "gspo", "cispo")),
        "aggregation": Choice(("by_loss", "sequence_mean", "token_mean", "constant", "sequence_sum")),
        "scale_rewards": Choice(("group", "batch", "none")),
        "advantage_eps": 1e-4,  # added to the standard deviation
        "beta": 0.0,  # weight of the divergence from the starting policy
        "kl_estimator": Choice(("k3_ratio", "k3", "k1", "k2")),
        "epsilon": None,  # null: what the loss was published with
        "epsilon_high": None,
        "dual_clip": None,
        "correction": Choice(("none", "truncate", "mask")),  # what is done where the sampler is not quite the trainer
        "correction_cap": 2.0,  # importance weights above are capped, or with `mask` their tokens dropped
        "correction_floor": 0.0,  # with `mask`, tokens with weights below are dropped
        "mismatch_alarm": 0.05,  # mean |log-probability of the sampler - of the trainer| that is warned about
        "mask_truncated": False,
        "resample_constant": 0,
        "learning_rate": 1e-6,
        "schedule": Choice(("constant", "linear", "cosine")),
        "warmup_ratio": 0.0,
        "weight_decay": 0.01,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "max_grad_norm": 1.0,
        "save_every": 10,
    },
    "sft": {
        "train_batch_size": 16,
        "micro_batch_size": 4,  # samples per forward pass
        "num_train_epochs": 5,
        "max_steps": None,
        "max_length": 2048,
        "packing": False,
        "learning_rate": 5e-6,
        "schedule": Choice(("cosine", "linear", "constant")),
        "warmup_ratio": 0.1,
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "max_grad_norm": 1.0,
        "save_every": 100,
    },
    "validate": {"every": 0, "split": "val", "metric": None, "limit": None, "before_training": False},
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
"""Plain top-level keys: a default, a `Choice`, or a section of such. A default of None takes any value."""
FILLED = ("prompt", "allow_untrained", "seed", "sampling")
"""Filled with defaults in every recipe; the others only where a recipe names them."""
TOP = (*RECIPE_WORDS, *COMPONENTS, "rewards", "trackers", *SETTINGS)


def default(setting: Any) -> Any:
    """What a setting is where no recipe says."""
    if isinstance(setting, dict):
        return {key: default(each) for key, each in setting.items()}
    return setting[0] if isinstance(setting, Choice) else setting


def objection(setting: Any, value: Any) -> tuple[str, str] | None:
    """Why `value` does not suit a setting, as (what is wrong, what to do); None where it does.

    >>> objection(Choice(("both", "box")), "bxo")
    ("'bxo' is not one of its words", "did you mean 'box'?")
    >>> objection(0.2, 1)
    >>> objection(True, 1)
    ('1 is not true or false', 'write true or false')
    """
    if setting is None:
        return None
    if isinstance(setting, Choice):
        if isinstance(value, str) and value in setting:
            return None
        return f"{shown(value)} is not one of its words", nearest(str(value)[:MAX_KEY], setting)
    wanted = "true or false" if isinstance(setting, bool) else _WANTED[type(setting)]
    fits = isinstance(value, (int, float) if isinstance(setting, float) else type(setting))
    if fits and isinstance(value, bool) == isinstance(setting, bool):
        return None
    return f"{shown(value)} is not {wanted}", f"write {wanted}"


_WANTED = {
    int: "a whole number",
    float: "a number",
    str: "a word",
    dict: "a section of key: value lines",
    list: "a list",
}
