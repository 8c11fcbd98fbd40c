"""Two ranks give the parameters, optimizer state and metrics of one process, at every ZeRO stage.

The ranks get two and one of the three queries of a step, the last mini-batch belongs to one rank, and gradient clipping,
the reference and old log-probabilities are in use.
"""

import pytest

pytest.importorskip("deepspeed", reason="needs deepspeed")

from compared_runs import assert_equal, state

import medground
from medground.runs.folder import read_events, read_table

pytestmark = pytest.mark.slow
SHARDED = "engine.config.zero_optimization.stage3_param_persistence_threshold=0"
"""Make DeepSpeed shard parameters of any size; those of the tests are small."""
STAGES = [pytest.param(2, marks=pytest.mark.soak), 3]


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
    """Assert that the run loads as a recipe with the trained weights, which no rank holds under ZeRO 3."""
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
def test_a_run_of_two_ranks_equals_one_process(kind, architecture, stage, recipe, ended, alone, tmp_path):
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
def test_a_lora_run_of_two_ranks_equals_one_process(stage, recipe, ended, alone, tmp_path):
    """The vision tower is frozen, the reference is the model without the adapter, and the run loads as a recipe."""
    given = {"reasoner": {"lora_rank": 2, "train_vision": False}}
    words = ("engine=deepspeed", "engine.processes=2", f"engine.stage={stage}", *([SHARDED] if stage == 3 else []))
    code, _, stderr = ended(recipe(**given), tmp_path / "run", *words)
    assert code == 0, stderr
    assert all("lora" in name for name in state(tmp_path / "run"))
    assert_equal(tmp_path / "run", alone(**given))
    assert_saved_whole(tmp_path / "run")


@pytest.mark.parametrize("stage", STAGES)
def test_an_optimizer_on_the_host_gives_the_same_run(stage, recipe, ended, alone, tmp_path):
    words = ("engine=deepspeed", "engine.processes=2", f"engine.stage={stage}", "engine.offload_optimizer=true")
    code, _, stderr = ended(recipe(), tmp_path / "run", *words)
    assert code == 0, stderr
    assert_equal(tmp_path / "run", alone())


def test_the_optimizer_of_a_bfloat16_model_works_in_float32(recipe, ended, alone, tmp_path):
    """The checkpoint holds float32 parameters, which moved by less than bfloat16 can represent."""
    given = {"reasoner": {"dtype": "bfloat16"}, "learning_rate": 1e-5}
    code, _, stderr = ended(
        recipe(**given), tmp_path / "run", "engine=deepspeed", "engine.processes=2", "engine.stage=3"
    )
    assert code == 0, stderr
    ours, one = state(tmp_path / "run"), state(alone(**given))
    moved = 0.0
    for name in (name for name in one if name.startswith("parameter/")):
        assert ours[name].isfinite().all()
        apart = (ours[name] - one[name]).abs()
        # Two updates in each of three steps move a parameter by the learning rate at most, in either run. Only where the
        # gradient is rounding alone (a bias of keys) may the runs disagree about the direction.
        assert apart.max() <= 1.21e-4 and apart.mean() <= 1e-5, name
        moved = max(moved, float((ours[name] - ours[name].bfloat16().float()).abs().max()))
    assert moved > 0
