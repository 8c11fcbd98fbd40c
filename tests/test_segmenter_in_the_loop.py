"""A real segmenter as the mask source of a training step: once per image, outside autograd, unchanged, expendable."""

import hashlib

import numpy as np
import pytest

from medground.errors import SegmenterMemoryError
from medground.pipeline.pipeline import Pipeline
from medground.pipeline.rollouts import RolloutPipeline
from medground.recipe import resolve
from medground.rewards.rubric import rubric, usable_groups
from medground.types import Fault, Sampling

torch = pytest.importorskip("torch", reason="needs torch")
phantoms = pytest.importorskip("medground_toy.phantoms")

RECIPE = {
    "reasoner": "toy",
    "prompt_interface": "bbox_points",
    "segmenter": {"name": "toy_sam", "device": "cpu"},
    "rewards": {"mask_dice": 2.0, "bbox_iou": 1.0},
}
GROUP = Sampling(num_generations=6, temperature=1.0)


@pytest.fixture
def graph():
    recipe = resolve(RECIPE)
    return RolloutPipeline(Pipeline.from_recipe(recipe), rubric(recipe))


@pytest.fixture(scope="module")
def samples():
    return phantoms.samples(3, seed=5)


def modules(segmenter) -> list[torch.nn.Module]:
    """Every torch module a segmenter holds, however it holds it."""
    seen, found, queue = set(), [], [segmenter]
    while queue:
        thing = queue.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.nn.Module):
            found.append(thing)
        elif hasattr(thing, "__dict__") and type(thing).__module__.startswith("medground"):
            queue += vars(thing).values()
    return found


def digest(segmenter) -> str:
    state = hashlib.sha256()
    for module in modules(segmenter):
        for name, value in sorted(module.state_dict().items()):
            state.update(name.encode() + value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


@pytest.mark.slow
def test_each_image_is_encoded_once_for_its_group_and_once_for_all_steps(graph, samples):
    segmenter = graph.pipeline.segmenter
    encodes = []
    encoder = next(module for module in modules(segmenter) if type(module).__name__ == "SamVisionEncoder")
    encoder.register_forward_hook(lambda module, given, out: encodes.append(given))
    images = {sample.query.image.tobytes() for sample in samples}
    first = graph(samples, GROUP)
    assert sum(len(group.rollouts) for group in first) == 18
    assert len(encodes) <= len(images)
    seen = len(encodes)
    graph(samples, Sampling(num_generations=6, temperature=1.0, seed=1))
    assert len(encodes) == seen, "the next step finds the embeddings in the cache"
    assert segmenter.stats.hits > 0


@pytest.mark.slow
def test_masks_are_made_outside_autograd_and_leave_the_weights_alone(graph, samples):
    segmenter = graph.pipeline.segmenter
    before = digest(segmenter)
    policy = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD([*policy.parameters()], lr=0.1)
    for step in range(3):
        groups = graph(samples, Sampling(num_generations=2, temperature=1.0, seed=step))
        assert all(
            isinstance(rollout.mask.data, np.ndarray) for group in groups for rollout in group.rollouts if rollout.mask
        )
        total = sum(score.total for group in groups for score in group.scores)
        (policy(torch.ones(4)).sum() * total).backward()
        optimizer.step()
    assert not any(parameter.requires_grad for module in modules(segmenter) for parameter in module.parameters())
    assert all(parameter.grad is None for module in modules(segmenter) for parameter in module.parameters())
    assert digest(segmenter) == before


@pytest.mark.slow
def test_a_segmenter_out_of_memory_costs_its_samples_and_nothing_else(graph, samples, monkeypatch):
    segmenter = graph.pipeline.segmenter
    victim = samples[0].query.image
    real = segmenter.segment_batch

    def starving(images, prompts):
        if any(image is victim for image in images):
            raise SegmenterMemoryError("no room for one image", hint="use a smaller model")
        return real(images, prompts)

    monkeypatch.setattr(segmenter, "segment_batch", starving)  # what `segment` goes through too
    other = next(sample for sample in samples if sample.query.image is not victim)
    starved, fine = graph([samples[0], other], GROUP)
    assert {rollout.fault for rollout in starved.rollouts if rollout.grounding.region} == {Fault.OUT_OF_MEMORY}
    assert all("no room for one image" in rollout.cause for rollout in starved.rollouts if rollout.fault)
    assert usable_groups([starved.scores, fine.scores]) == [False, True]
