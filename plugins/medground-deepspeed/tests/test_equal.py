"""Two ranks are one process: parameters, optimiser state and metrics after several steps, whatever the stage.

Invariants 21, 22 and the ranks of 15: three queries a step are shares of two and one, the last mini-batch is one rank's
alone, and clipping, the reference and old log-probabilities are in use.
"""

import pytest

pytest.importorskip("deepspeed", reason="needs deepspeed")

from safetensors.torch import load_file

import medground
from medground.checkpoint import Checkpoints
from medground.events import read_events

pytestmark = pytest.mark.slow
SHARDED = "engine.config.zero_optimization.stage3_param_persistence_threshold=0"
"""DeepSpeed leaves small parameters whole; all of ours are small."""
TIMES = ("step_time",)


def state(folder):
    newest = Checkpoints(folder / "checkpoints").newest(pytest.fail)
    return load_file(newest / "engine.safetensors")


def assert_equal(found, expected, tolerance=1e-6):
    ours, theirs = state(found), state(expected)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert (ours[name].double() - value.double()).abs().max() <= tolerance, name
    steps = list(zip(read_events(found), read_events(expected), strict=True))
    for our, their in steps:
        assert our.keys() == their.keys()
        for name in set(their) - set(TIMES):
            if isinstance(their[name], float):  # a norm of several is as exact relatively as a parameter absolutely
                assert our[name] == pytest.approx(their[name], abs=1e-5, rel=1e-5), name
            else:
                assert our[name] == their[name], name


CASES = [
    ("grpo", "qwen3_vl", 1), ("grpo", "qwen3_vl", 2), ("grpo", "qwen3_vl", 3), ("grpo", "qwen2_5_vl", 3),
    ("sft", "qwen3_vl", 1), ("sft", "qwen3_vl", 2), ("sft", "qwen2_5_vl", 3),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "architecture", "stage"), CASES)
def test_two_ranks_equal_one_process(kind, architecture, stage, recipe, ended, alone, tmp_path):
    given = {"kind": kind, "architecture": architecture}
    words = ("engine=deepspeed", "engine.processes=2", f"engine.stage={stage}", *([SHARDED] if stage == 3 else []))
    code, stdout, stderr = ended(recipe(**given), tmp_path / "run", *words)
    assert code == 0, stderr
    assert stdout == ""
    assert_equal(tmp_path / "run", alone(**given))
    assert "3 steps done" in stderr
    assert stderr.count("step 3 ") == 1, "only the first rank speaks"


@pytest.mark.parametrize("stage", [2, 3])
def test_an_adapter_alone_trains(stage, recipe, ended, alone, tmp_path):
    """LoRA with the vision tower frozen; the reference is the model without the adapter. The run is a recipe."""
    given = {"reasoner": {"lora_rank": 2, "train_vision": False}}
    words = ("engine=deepspeed", "engine.processes=2", f"engine.stage={stage}", *([SHARDED] if stage == 3 else []))
    code, _, stderr = ended(recipe(**given), tmp_path / "run", *words)
    assert code == 0, stderr
    assert all("lora" in name for name in state(tmp_path / "run"))
    assert_equal(tmp_path / "run", alone(**given))
    loaded = medground.load(tmp_path / "run").reasoner.model.state_dict()
    for name, value in state(tmp_path / "run").items():
        if name.startswith("parameter/"):
            assert (loaded[name.removeprefix("parameter/model.")] - value).abs().max() == 0, name


@pytest.mark.parametrize("stage", [2, 3])
def test_the_optimiser_may_live_on_the_host(stage, recipe, ended, alone, tmp_path):
    words = ("engine=deepspeed", "engine.processes=2", f"engine.stage={stage}", "engine.offload_optimizer=true")
    code, _, stderr = ended(recipe(), tmp_path / "run", *words)
    assert code == 0, stderr
    assert_equal(tmp_path / "run", alone())


def test_in_bfloat16_the_optimiser_works_in_float32(recipe, ended, alone, tmp_path):
    """Parameters of the last checkpoint are float32 masters; they moved by less than bfloat16 could show."""
    given = {"reasoner": {"dtype": "bfloat16"}, "learning_rate": 1e-5}
    code, _, stderr = ended(
        recipe(**given), tmp_path / "run", "engine=deepspeed", "engine.processes=2", "engine.stage=3"
    )
    assert code == 0, stderr
    ours, one = state(tmp_path / "run"), state(alone(**given))
    moved = 0.0
    for name in (name for name in one if name.startswith("parameter/")):
        assert ours[name].isfinite().all()
        assert (ours[name] - one[name]).abs().max() <= 6.1e-5, (
            "each of three steps moves it by the learning rate at most"
        )
        moved = max(moved, float((ours[name] - ours[name].bfloat16().float()).abs().max()))
    assert moved > 0


def test_checkpoints_hold_whole_weights(recipe, ended, tmp_path):
    """Under ZeRO 3 no rank holds them; the saved model is the trained one all the same."""
    words = ("engine=deepspeed", "engine.processes=2", "engine.stage=3", SHARDED)
    code, _, stderr = ended(recipe("sft", max_steps=1), tmp_path / "run", *words)
    assert code == 0, stderr
    loaded = dict(medground.load(tmp_path / "run").reasoner.model.named_parameters())
    saved = {name: value for name, value in state(tmp_path / "run").items() if name.startswith("parameter/")}
    assert saved
    for name, value in saved.items():
        assert (loaded[name.removeprefix("parameter/model.")] - value).abs().max() == 0, name
