"""A prompt interface that asks several times per question cannot be trained through."""

import pytest
from medground_toy import phantoms

import medground
from medground.errors import RecipeError


@pytest.mark.parametrize("method", ["grpo", "sft"])
def test_training_through_tiles_is_refused_in_one_sentence(tmp_path, method):
    phantoms.write(tmp_path / "data", phantoms.samples(4, seed=1, size=(64, 64)))
    with pytest.raises(RecipeError) as refused:
        medground.train(
            {
                "reasoner": "toy_vlm",
                "prompt_interface": {"name": "tiled", "tile": 64, "overlap": 16},
                "data": {"path": str(tmp_path / "data"), "split": None},
                "rewards": {"format_seg": 1} if method == "grpo" else {},
                method: {"max_steps": 1},
            },
            out=tmp_path / "run",
        )
    assert refused.value.message == (
        "the prompt interface 'tiled' asks several times per question, and a policy is trained on one answer to each"
    )
    assert "prompt_interface=regions" in refused.value.hint
