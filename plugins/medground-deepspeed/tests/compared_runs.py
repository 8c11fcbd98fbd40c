"""Comparisons of two run folders: parameters, optimizer state and metrics."""

import math

import pytest

from medground.runs.checkpoint import Checkpoints
from medground.runs.folder import read_events

torch = pytest.importorskip("torch", reason="needs torch")
safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors")

TIMES = ("step_time",)
COUNTS = (
    "images_trained",
    "prompts_trained",
    "num_tokens",
    "tokens_trained/computed",
    "tokens_trained/image_per_question",
)
"""What is computed: ranks in lockstep compute a prompt in every micro-batch, one process once per group."""
STEP = 1e-4
"""The learning rate of the runs compared, which is how far AdamW moves a parameter in one step."""


def state(folder):
    newest = Checkpoints(folder / "checkpoints").newest()
    return safetensors.load_file(newest / "engine.safetensors")


def assert_equal(run, expected):
    """Assert that parameters agree to a hundredth of a step (root mean square) and moments to 1e-4 of their norm.

    AdamW makes rounding as large as its step where gradients cancel: no bound on a single parameter holds everywhere.
    """
    ours, theirs = state(run), state(expected)
    assert ours.keys() == theirs.keys()
    kinds = {name.partition("/")[0] for name in theirs}
    assert "parameter" in kinds
    for kind in kinds:
        names = [name for name in theirs if name.startswith(f"{kind}/")]
        our = torch.cat([ours[name].double().flatten() for name in names])
        their = torch.cat([theirs[name].double().flatten() for name in names])
        scale = 1e-2 * STEP * math.sqrt(len(their)) if kind == "parameter" else 1e-4 * float(their.norm())
        assert float((our - their).norm()) <= scale, kind
    steps = list(zip(read_events(run), read_events(expected), strict=True))
    for our, their in steps:
        assert our.keys() == their.keys()
        for name in set(their) - set(TIMES):
            if name in COUNTS:
                assert our[name] >= their[name], name
            elif isinstance(their[name], float):
                assert our[name] == pytest.approx(their[name], abs=1e-5, rel=1e-5), name
            else:
                assert our[name] == their[name], name
