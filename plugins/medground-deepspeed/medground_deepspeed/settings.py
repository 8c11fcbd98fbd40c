"""DeepSpeed's configuration for a run; nothing in it changes what is computed."""

from collections.abc import Mapping
from typing import Any


def settings(
    *, stage: int, bf16: bool, clip: float, offload: bool, ranks: int, own: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return DeepSpeed's configuration, with the user's own values over it.

    >>> settings(stage=2, bf16=False, clip=1.0, offload=False, ranks=2)["zero_optimization"]["stage"]
    2
    >>> settings(stage=2, bf16=False, clip=1.0, offload=False, ranks=2, own={"zero_optimization": {"stage": 1}}
    ... )["zero_optimization"]["overlap_comm"]
    False
    """
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": False}
    if offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    config = {
        # One "sample" is one forward pass; how many there are in a step is the trainer's business.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": ranks,
        "managed_gradient_accumulation": False,
        "gradient_clipping": max(0.0, clip),
        "bf16": {"enabled": bf16},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }
    return _merged(config, own or {})


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        mappings = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if mappings else value
    return merged
