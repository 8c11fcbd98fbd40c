"""Loss and every gradient equal TRL's, on the same weights, completions and rewards."""

import dataclasses
import importlib.util

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="needs trl, the oracle"),
    pytest.mark.filterwarnings("ignore"),  # those of trl and its dependencies
]

from medground.recipe import resolve  # noqa: E402
from medground.training.build import build  # noqa: E402
from medground.training.grpo.metrics import StepStats  # noqa: E402

SETTINGS = {
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},  # trl caps ratios at epsilon_high, we at 1 + epsilon_high
    "sapo": {"loss_type": "sapo"},
    "dapo with an entropy bonus": {"loss_type": "dapo", "epsilon_high": 0.28, "entropy_coef": 0.3},
}
OURS = {"dapo with an entropy bonus": {"loss": "dapo", "entropy_bonus": 0.3}}
BETA, LENGTH = 0.05, 6


def ours(trials, loss, old_shift):
    """Return loss and gradients of one update before its optimizer step, and the inputs for TRL."""
    made = build(resolve(trials(**OURS.get(loss, {"loss": loss}), beta=BETA, max_completion_length=LENGTH)))
    # trl scores over the whole vocabulary; we give no probability to tokens that are never sampled.
    made.reasoner.policy.forbidden = made.reasoner.policy.forbidden[:0]
    batch = made.method.rollouts.draw(1, 0, lambda: None)
    with torch.no_grad():  # away from the reference, so that the KL term has a gradient
        generator = torch.Generator().manual_seed(0)
        for master in made.engine.masters.values():
            master.add_(torch.randn(master.shape, generator=generator), alpha=0.01)
    trainer, old = made.method, {}
    made.engine.step = lambda rate: 1.0
    if old_shift:  # as for a later update on the batch: ratios away from 1
        (minibatch,) = batch.minibatches(trainer.config, trainer.objective)
        minibatch = trainer.with_ref_logps(batch, minibatch)
        micro_batches = [
            dataclasses.replace(
                micro, old_logps=micro.old_logps + old_shift * torch.randn(micro.old_logps.shape, generator=generator)
            )
            for micro in trainer.with_old_logps(batch, minibatch).micro_batches
        ]
        old = {(micro.group, 0): micro.old_logps for micro in micro_batches}
        stats = StepStats(updates=1)
        for micro, completions in trainer.forward_passes(
            batch, dataclasses.replace(minibatch, micro_batches=micro_batches)
        ):
            loss = trainer.micro_loss(micro, completions, stats, log=True) / minibatch.normalizer
            trainer.backward(loss)
            stats.loss += float(loss.detach())
    else:
        stats = trainer.update(batch, lambda number: 0.0, lambda: None)
    found = {name: each.grad.clone() for name, each in made.engine.live.items() if each.grad is not None}
    return made, batch, old, stats.loss, found


def padded(rows, fill, left=False):
    longest = max(len(row) for row in rows)
    pads = [row.new_full((longest - len(row),), fill) for row in rows]
    return torch.stack([torch.cat([pad, row] if left else [row, pad]) for row, pad in zip(rows, pads, strict=True)])


def trl_inputs(made, batch, old):
    groups = [
        made.reasoner.group(messages, [rollout.completion for rollout in group.rollouts])
        for messages, group in zip(batch.messages, batch.groups, strict=True)
    ]
    rows = [(group, index) for group in groups for index in range(len(group.ids))]
    prompts = [group.prompt.ids for group, _ in rows]
    ids = [group.ids[index][group.mask[index]] for group, index in rows]
    kinds = padded([group.prompt.per_token["mm_token_type_ids"] for group, _ in rows], 0, left=True)
    ends = padded([torch.ones_like(each) for each in ids], 0)
    inputs = {
        "prompt_ids": padded(prompts, 0, left=True),
        "prompt_mask": padded([torch.ones_like(each) for each in prompts], 0, left=True),
        "completion_ids": padded(ids, 0),
        "completion_mask": ends,
        "advantages": batch.advantages.flatten().float(),
        "pixel_values": torch.cat([group.prompt.image["pixel_values"] for group, _ in rows]),
        "image_grid_thw": torch.cat([group.prompt.image["image_grid_thw"] for group, _ in rows]),
        "num_images": [1] * len(rows),
        "mm_token_type_ids": torch.cat([kinds, torch.zeros_like(ends)], dim=1),
        "num_items_in_batch": ends.sum(),
    }
    with torch.no_grad(), made.reasoner.reference() as reference:
        inputs["ref_per_token_logps"] = flat([reference(group, 1.0)[0] for group in groups])
    if old:
        inputs["old_per_token_logps"] = flat([old[place, 0] for place in range(len(groups))])
    return inputs


def flat(parts):
    longest = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, longest - part.shape[1])) for part in parts])


def theirs(made, inputs, loss, folder, tmp_path):
    from datasets import Dataset
    from transformers import AutoModelForImageTextToText
    from trl import GRPOConfig, GRPOTrainer

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")
    model.load_state_dict(made.reasoner.model.state_dict())
    config = GRPOConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], beta=BETA, num_generations=3,
        per_device_train_batch_size=6, max_completion_length=LENGTH, temperature=1.0, **SETTINGS[loss],
    )  # fmt: skip
    row = {"prompt": [{"role": "user", "content": "x"}]}
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **others: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([row] * 6),
        processing_class=made.reasoner.processor,
    )
    trainer.model.eval()  # no accumulation, no dropout
    trainer.current_gradient_accumulation_steps = 1
    value = trainer._compute_loss(trainer.model, inputs)
    value.backward()
    gradients = {name: each.grad for name, each in trainer.model.named_parameters() if each.grad is not None}
    return float(value.detach()), gradients


@pytest.mark.parametrize("old_shift", [0.0, 0.3], ids=["on-policy", "off-policy"])
@pytest.mark.parametrize("loss", list(SETTINGS))
def test_loss_and_gradients_equal_those_of_trl(trials, tiny, tmp_path, loss, old_shift):
    made, batch, old, value, gradients = ours(trials, loss, old_shift)
    assert batch.advantages.abs().max() > 0.1
    expected, wanted = theirs(made, trl_inputs(made, batch, old), loss, tiny / "model", tmp_path)
    assert value == pytest.approx(expected, abs=1e-6)
    found = {name.removeprefix("model."): each for name, each in gradients.items()}
    assert set(found) == set(wanted)
    for name, gradient in wanted.items():
        scale = max(float(gradient.abs().max()), 1e-5)
        assert float((found[name] - gradient).abs().max()) / scale <= 1e-5, name
