"""`hf_vlm` samples and trains tiny models of three other architectures, one of them a hybrid."""

import json

import pytest
from qwen_inputs import conversation, scored

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

import other_families  # noqa: E402
from medground_qwen.trainable import is_vision  # noqa: E402

import medground  # noqa: E402
from medground.errors import RecipeError  # noqa: E402
from medground.runs.folder import read_events  # noqa: E402
from medground.types import Sampling  # noqa: E402

BATCH = [conversation("Where?", 48, 64), conversation("Which of them is on the left?", 64, 40, seed=1)]
SAMPLED = Sampling(num_generations=3, temperature=1.0, max_completion_length=8)


@pytest.fixture(scope="module", params=["internvl", "gemma3", "qwen3_5"])
def folder(request, tmp_path_factory):
    made = tmp_path_factory.mktemp(request.param)
    other_families.write(request.param, made)
    return made


@pytest.fixture
def reasoner(folder):
    from medground_qwen.factories import hf_vlm

    return hf_vlm(checkpoint=str(folder), dtype="float32", device="cpu", train_vision=True)


@pytest.mark.lane
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")  # torch 2.10 beside numpy 2
def test_sampled_log_probabilities_equal_those_of_the_update(reasoner):
    """Prompts of unequal length and cropped images are in one batch; a new forward pass gives the stored values."""
    for messages, group in zip(BATCH, reasoner.generate(BATCH, SAMPLED, [1, 50]), strict=True):
        assert all(
            completion.frame == reasoner.frame(messages[0]["content"][0]["image"].shape[:2]) for completion in group
        )
        found = scored(reasoner, messages, group)
        for row, completion in zip(found, group, strict=True):
            said = torch.from_numpy(completion.logprobs)
            torch.testing.assert_close(row[: len(said)].detach(), said, atol=1e-4, rtol=0)


def test_image_tokens_are_never_sampled(reasoner):
    tokenizer = reasoner.processor.tokenizer
    special = set(tokenizer.all_special_ids) - {tokenizer.eos_token_id}
    assert special <= set(reasoner.tokens.forbidden.tolist())


def test_rows_of_different_queries_equal_each_alone(reasoner):
    """Different queries are computed together, and every parameter, the vision tower's too, has a gradient."""
    targets = [[5, 9, 30], [7]]
    together, _ = reasoner.policy(reasoner.rows(BATCH, targets))
    for row, (messages, ids) in enumerate(zip(BATCH, targets, strict=True)):
        alone, _ = reasoner.policy(reasoner.group(messages, [ids]))
        torch.testing.assert_close(together[row, : len(ids)], alone[0], atol=1e-5, rtol=0)
    together.sum().backward()
    assert all(parameter.grad is not None for parameter in reasoner.model.parameters())
    with pytest.raises(RecipeError, match="cannot keep packed samples apart"):
        reasoner.rows(BATCH, targets, packed=True)


@pytest.mark.slow
def test_grpo_trains_it_in_micro_batches(folder, tmp_path):
    from medground_toy import phantoms

    phantoms.write(tmp_path / "data", phantoms.samples(4, seed=0, size=(48, 48)))
    (tmp_path / "template.txt").write_text("{Question}", encoding="utf-8")
    recipe = {
        "reasoner": {"name": "hf_vlm", "checkpoint": str(folder), "dtype": "float32", "device": "cpu"},
        "prompt_interface": {"name": "bbox", "template": str(tmp_path / "template.txt")},
        "data": {"path": str(tmp_path / "data")},
        "rewards": {"bbox_iou": 1},
        "grpo": {
            "num_generations": 2, "train_batch_size": 2, "mini_batch_size": 2, "micro_batch_size": 1,
            "max_completion_length": 4, "max_steps": 1, "learning_rate": 1e-3, "beta": 0.1,
        },
    }  # fmt: skip
    done = medground.train(json.loads(json.dumps(recipe)), out=tmp_path / "run")
    (step,) = read_events(done.folder)
    assert (done.skipped, step["step"]) == (0, 1)
    loaded = medground.load(tmp_path / "run").reasoner.model.state_dict()
    start = medground.load(recipe).reasoner.model.state_dict()
    moved = {name for name in start if not torch.equal(start[name], loaded[name])}
    assert any("language_model" in name for name in moved)
    assert not any(is_vision(name) for name in moved)
    assert step["images_trained"] == 2, "each image once, whatever the micro-batches"
