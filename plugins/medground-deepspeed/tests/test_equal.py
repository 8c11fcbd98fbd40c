"""Two ranks are one process: parameters, optimiser state and metrics after several steps, whatever the stage.

Invariants 21, 22 and the ranks of 15: three queries a step are shares of two and one, the last mini-batch is one rank's
alone, and clipping, the reference and old log-probabilities are in use.
"""

import math

import pytest

pytest.importorskip("deepspeed", reason="needs deepspeed")

import torch
from safetensors.torch import load_file

import medground
from medground.runs.checkpoint import Checkpoints
from medground.runs.folder import read_events, read_table

pytestmark = pytest.mark.slow
SHARDED = "engine.config.zero_optimization.stage3_param_persistence_threshold=0"
"""DeepSpeed leaves small parameters whole; all of ours are small."""
TIMES = ("step_time",)
STEP = 1e-4
"""The learning rate of the runs compared, which is how far AdamW moves a parameter in one step."""

STAGES = [pytest.param(2, marks=pytest.mark.soak), 3]


def state(folder):
    newest = Checkpoints(folder / "checkpoints").newest(pytest.fail)
    return load_file(newest / "engine.safetensors")


def assert_equal(found, expected):
    """Parameters are within a hundredth of one step, as root mean square, and moments within 1e-4 of their norm.

    AdamW makes rounding as large as its step where gradients cancel: no bound on a single parameter holds everywhere.
    """
    ours, theirs = state(found), state(expected)
    assert ours.keys() == theirs.keys()
    kinds = {name.partition("/")[0] for name in theirs}
    assert "parameter" in kinds
    for kind in kinds:
        names = [name for name in theirs if name.startswith(f"{kind}/")]
        our = torch.cat([ours[name].double().flatten() for name in names])
        their = torch.cat([theirs[name].double().flatten() for name in names])
        scale = 1e-2 * STEP * math.sqrt(len(their)) if kind == "parameter" else 1e-4 * float(their.norm())
        assert float((our - their).norm()) <= scale, kind
    steps = list(zip(read_events(found), read_events(expected), strict=True))
    for our, their in steps:
        assert our.keys() == their.keys()
        for name in set(their) - set(TIMES):
            if isinstance(their[name], float):
                assert our[name] == pytest.approx(their[name], abs=1e-5, rel=1e-5), name
            else:
                assert our[name] == their[name], name


def assert_same_validations(found, expected):
    ours, theirs = read_events(found, "validate"), read_events(expected, "validate")
    assert [_timeless(line) for line in ours] == [_timeless(line) for line in theirs]
    for line in theirs:
        answers = [read_table(folder, line["step"], "validation") for folder in (found, expected)]
        assert [[row["name"], row["completion"]] for row in answers[0]] == [
            [row["name"], row["completion"]] for row in answers[1]
        ]
        assert len(answers[0]) == 3


def _timeless(line):
    return {name: value for name, value in line.items() if name not in ("validate_time", "time")}


def assert_saved_whole(folder):
    """The run is a recipe whose model is the trained one; under ZeRO 3 no rank holds it."""
    loaded = medground.load(folder).reasoner.model.state_dict()
    trained = {name: value for name, value in state(folder).items() if name.startswith("parameter/")}
    assert trained
    for name, value in trained.items():
        assert (loaded[name.removeprefix("parameter/model.")] - value).abs().max() == 0, name


SOAK = pytest.mark.soak
CASES = [
    ("grpo", "qwen3_vl", 1), ("grpo", "qwen3_vl", 2), ("grpo", "qwen3_vl", 3),
    ("sft", "qwen2_5_vl", 2), ("sft", "qwen2_5_vl", 3),
    *(pytest.param(*case, marks=SOAK) for case in (("grpo", "qwen2_5_vl", 3), ("sft", "qwen3_vl", 1))),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "architecture", "stage"), CASES)
def test_two_ranks_equal_one_process(kind, architecture, stage, recipe, ended, alone, tmp_path):
    given = {"kind": kind, "architecture": architecture}
    if kind == "sft":  # three samples to validate on are shares of two and one
        given["validate"] = {"every": 2, "before_training": True}
    words = ("engine=deepspeed", "engine.processes=2", f"engine.stage={stage}", *([SHARDED] if stage == 3 else []))
    code, stdout, stderr = ended(recipe(**given), tmp_path / "run", *words)
    assert code == 0, stderr
    assert stdout == ""
    assert_equal(tmp_path / "run", alone(**given))
    assert_same_validations(tmp_path / "run", alone(**given))
    assert_saved_whole(tmp_path / "run")
    assert stderr.count("3 steps done") == 1, "only the first rank speaks"


@pytest.mark.parametrize("stage", STAGES)
def test_an_adapter_alone_trains(stage, recipe, ended, alone, tmp_path):
    """LoRA with the vision tower frozen; the reference is the model without the adapter. The run is a recipe."""
    given = {"reasoner": {"lora_rank": 2, "train_vision": False}}
    words = ("engine=deepspeed", "engine.processes=2", f"engine.stage={stage}", *([SHARDED] if stage == 3 else []))
    code, _, stderr = ended(recipe(**given), tmp_path / "run", *words)
    assert code == 0, stderr
    assert all("lora" in name for name in state(tmp_path / "run"))
    assert_equal(tmp_path / "run", alone(**given))
    assert_saved_whole(tmp_path / "run")


@pytest.mark.parametrize("stage", STAGES)
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
