"""Samples about one image are drawn, sampled and trained together, and nothing but the cost depends on it."""

import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from medground.data.dataset import GivenSample
from medground.data.manifest_dataset import read_manifest
from medground.errors import RecipeError
from medground.training.schedule import rank_shares, sample_indices
from medground.training.sharing import shared_words
from medground.types import Query, Region, Sample, Target

IMAGES = [0, 1, 0, 2, 1, 0, 3, 2, 1, 4, 4]
"""Of eleven samples: three, three, two, one and two are about one image."""


def order(start, count, *, seed=0, images=IMAGES):
    return sample_indices(start, count, samples=len(images), batch=3, seed=seed, images=images)


def runs(drawn):
    """Return the images of consecutive samples, each run once."""
    numbers = [IMAGES[index] for index in drawn]
    return [number for index, number in enumerate(numbers) if index == 0 or numbers[index - 1] != number]


def test_samples_of_an_image_follow_one_another_in_every_epoch():
    epochs = [order(9 * epoch, 9) for epoch in range(6)]
    for epoch in epochs:
        assert len(set(epoch)) == 9
        assert len(runs(epoch)) == len(set(runs(epoch))), "an image comes once in an epoch"
    assert len({tuple(runs(epoch)) for epoch in epochs}) > 3, "images are permuted"
    of_first = {tuple(index for index in epoch if IMAGES[index] == 0) for epoch in epochs}
    assert len(of_first) > 2, "and so are the samples of each"


def test_a_continued_run_draws_what_the_whole_run_draws():
    whole = order(0, 40, seed=5)
    assert [order(start, 1, seed=5)[0] for start in range(40)] == whole
    assert order(7, 20, seed=5) == whole[7:27]
    assert order(0, 9, seed=6) != whole[:9]


def test_samples_with_an_image_alone_are_drawn_as_without_grouping():
    alone = list(range(11))
    assert order(0, 27, images=alone) == sample_indices(0, 27, samples=11, batch=3, seed=0)
    for ranks in (1, 2, 3, 8):
        assert rank_shares(alone, ranks) == [alone[rank::ranks] for rank in range(ranks)]


def test_all_of_an_images_samples_are_one_ranks():
    for ranks in (1, 2, 3, 8):
        shares = rank_shares(IMAGES, ranks)
        assert sorted(position for share in shares for position in share) == list(range(11))
        owners = {}
        for rank, share in enumerate(shares):
            for position in share:
                assert owners.setdefault(IMAGES[position], rank) == rank
    assert max(map(len, rank_shares(IMAGES, 2))) - min(map(len, rank_shares(IMAGES, 2))) <= 1


def test_samples_are_about_one_image_where_their_pixels_are_equal():
    def entry(pixels):
        query = Query(image=np.asarray(pixels, np.uint8), question=f"{id(pixels)}?", id="s")
        return GivenSample(Sample(query=query, target=Target(regions=(Region(box=(0, 0, 1, 1)),))))

    black, white = np.zeros((2, 3, 3)), np.full((2, 3, 3), 255)
    assert entry(black).image_key == entry(black.copy()).image_key
    assert entry(black).image_key not in {entry(white).image_key, entry(black.reshape(3, 2, 3)).image_key}


@pytest.fixture
def data(tiny, tmp_path):
    """A manifest with three questions about one phantom, two about another and one about a third, mixed."""
    lines = [json.loads(line) for line in (tiny / "data" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = list({line["image"]: line for line in lines}.values())
    chosen = [
        (0, "Where is it?"),
        (1, "Where?"),
        (0, "What is left?"),
        (2, "Which?"),
        (1, "What is bright?"),
        (0, "Where?"),
    ]
    folder = tmp_path / "data"
    shutil.copytree(tiny / "data", folder)
    text = "\n".join(
        json.dumps({**lines[image], "question": question, "id": f"{image}-{number}"})
        for number, (image, question) in enumerate(chosen)
    )
    (folder / "manifest.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_lines_of_a_manifest_are_about_one_image_by_file_slice_and_window(data):
    keys = [entry.image_key for entry in read_manifest(data).entries]
    assert [keys.index(key) for key in keys] == [0, 1, 0, 3, 1, 0]
    entry = read_manifest(data).entries[0]
    sliced = dataclasses.replace(entry, record=dataclasses.replace(entry.record, slice=3))
    windowed = dataclasses.replace(entry, record=dataclasses.replace(entry.record, window="lung"))
    assert len({entry.image_key, sliced.image_key, windowed.image_key}) == 3


@pytest.fixture
def recipe(trials, data):
    """``recipe(**settings)``: six samples of three images in one batch."""

    def resolved(group_by_image=True, **settings):
        from medground.recipe import resolve

        given = {"train_batch_size": 6, "mini_batch_size": 6, **settings}
        return resolve(trials(**given) | {"data": {"path": str(data), "group_by_image": group_by_image}})

    return resolved


def never():
    """Never stop."""


def seen_images(made):
    """Return the list that the number of images is appended to at every pass of a vision tower, the reference's too."""
    images = []
    frozen = made.reasoner._frozen
    for model in [made.reasoner.model, *([] if frozen is None else [frozen.model])]:
        model.model.visual.register_forward_pre_hook(
            lambda _, given, named: images.append(len(named["grid_thw"] if "grid_thw" in named else given[1])),
            with_kwargs=True,
        )
    return images


def update(made, batch, images):
    """Return the gradients of an update, its sums, and how many images were encoded for it."""
    import torch

    advantages = torch.linspace(-1, 1, batch.advantages.numel()).double().reshape(batch.advantages.shape)
    batch = dataclasses.replace(batch, advantages=advantages, constant=batch.constant & False, images=images)
    made.engine.step = lambda rate: 1.0  # leaves the gradients to be seen
    encoded = seen_images(made)
    stats = made.method.update(batch, lambda update: 1e-3, never)
    named = made.reasoner.model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}, stats, sum(encoded)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "passes"), [({}, 1), ({"micro_batch_size": 1, "beta": 0.02, "num_iterations": 2}, 4)]
)
def test_an_update_encodes_an_image_once_and_has_the_gradient_of_questions_alone(recipe, settings, passes):
    """Also the passes of the reference and of the old policy encode it once."""
    pytest.importorskip("torch", reason="needs torch")
    from medground.training.build import build

    iterations = settings.get("num_iterations", 1)
    made = [build(recipe(**settings)) for _ in range(2)]
    batch = made[0].method.rollouts.draw(1, 0, never)
    assert len(set(batch.images)) == 3
    tree, shared, images = update(made[0], batch, batch.images)
    apart, alone, all_images = update(made[1], batch, list(range(6)))
    assert (images, all_images) == (3 * passes, 6 * passes)
    assert (shared.images, shared.prompts) == (3 * iterations, 6 * iterations)
    assert (alone.images, alone.prompts) == (6 * iterations, 6 * iterations)
    assert shared.tokens_computed < shared.tokens_per_question < shared.tokens_per_completion
    assert shared.tokens_per_question == alone.tokens_per_question == alone.tokens_computed
    assert shared.tokens_per_completion == alone.tokens_per_completion
    assert tree.keys() == apart.keys()
    norm = sum(float(gradient.norm()) ** 2 for gradient in apart.values()) ** 0.5
    gap = sum(float((tree[name] - gradient).norm()) ** 2 for name, gradient in apart.items()) ** 0.5
    assert norm > 1e-3 and gap <= 1e-5 * norm


@pytest.mark.slow
def test_ranks_in_lockstep_compute_the_image_of_every_question(recipe):
    """They would wait for one another's passes over images for ever."""
    pytest.importorskip("torch", reason="needs torch")
    from medground.training.build import build

    made = build(recipe())
    batch = made.method.rollouts.draw(1, 0, never)
    made.engine.lockstep = True
    _, stats, images = update(made, batch, batch.images)
    assert len(set(batch.images)) == 3
    assert images == stats.images == 6


def test_sampling_encodes_an_image_once(recipe):
    pytest.importorskip("torch", reason="needs torch")
    from medground.training.build import build

    made = build(recipe())
    images = seen_images(made)
    batch = made.method.rollouts.draw(1, 0, never)
    assert sum(images) == 3
    assert len(set(batch.images)) == 3


def test_ranks_own_whole_images_and_results_are_those_of_one_process(recipe):
    pytest.importorskip("torch", reason="needs torch")
    from test_grpo_step import Ranks, Writer

    from medground.pipeline.pipeline import Pipeline
    from medground.pipeline.rollouts import RolloutPipeline
    from medground.rewards.rubric import rubric
    from medground.training.grpo.rollouts import Rollouts
    from medground.training.plan import training_samples

    settings = recipe()
    samples, images = training_samples(settings), [0, 1, 0, 2, 1, 0]

    def draws(count):
        group = Ranks(count)

        def draw(rank):
            pipeline = RolloutPipeline(Pipeline.from_recipe(settings), rubric(settings))
            engine = group.engine(rank)
            return Rollouts(pipeline, samples, settings.config.grpo, 5, Writer(), engine, images).draw(2, 6, never)

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(draw, range(count)))

    (alone,) = draws(1)
    for rank, batch in enumerate(draws(2)):
        assert batch.images == alone.images
        texts = [[one.completion.text for one in group.rollouts] for group in batch.groups]
        assert texts == [[one.completion.text for one in group.rollouts] for group in alone.groups]
        owned = {index for index, messages in enumerate(batch.messages) if messages is not None}
        assert owned == set(rank_shares(alone.images, 2)[rank])
        assert [group.sample.query.image.shape != (1, 1, 3) for group in batch.groups] == [n in owned for n in range(6)]


def test_groups_of_one_image_are_neighbours_in_a_mini_batch():
    pytest.importorskip("torch", reason="needs torch")
    from test_grpo_step import batch_of, cut, rollout

    members = [rollout(2), rollout(3)]
    batch = batch_of(members, members, members, members, images=[7, 8, 7, 8])
    (whole,) = cut(batch, mini_batch_size=4, micro_batch_size=1)
    assert [micro.group for micro in whole.micro_batches] == [0, 0, 2, 2, 1, 1, 3, 3]
    halves = cut(batch, mini_batch_size=2)
    assert [[micro.group for micro in half.micro_batches] for half in halves] == [[0, 1], [2, 3]]


def test_supervised_training_is_told_that_it_computes_samples_alone(trials, data):
    from medground.training.plan import plan_training

    with pytest.raises(RecipeError, match=r"data\.group_by_image"):
        plan_training(trials("sft") | {"data": {"path": str(data), "group_by_image": True}})


def step_of(computed, per_question, per_completion, prompts, images, **more):
    return {
        "tokens_trained/computed": computed,
        "tokens_trained/image_per_question": per_question,
        "tokens_trained/prompt_per_completion": per_completion,
        "prompts_trained": prompts,
        "images_trained": images,
        **more,
    }


@pytest.mark.parametrize(
    ("step", "sentences"),
    [
        ({}, []),
        (step_of(100, 100, 400, 2, 2), ["computed once for all its completions: 4.00 times"]),
        (step_of(400, 400, 400, 8, 8), ["nothing: every completion"]),
        (step_of(400, 400, 404, 2, 2), ["gains little: they are short"]),
        (step_of(50, 100, 400, 4, 1, images_drawn=1), ["4.00 times", "its questions, 4 on average: 2.00 times"]),
        (
            step_of(100, 100, 400, 2, 2, images_drawn=2),
            ["4.00 times", "Grouping by image gains nothing: no two questions"],
        ),
        (step_of(99, 100, 400, 4, 2, images_drawn=2), ["4.00 times", "Grouping by image gains little"]),
    ],
)
def test_what_sharing_saved_is_said_and_that_it_saved_nothing(step, sentences):
    saved = shared_words([step, step])
    assert len(saved) == len(sentences)
    for sentence, part in zip(saved, sentences, strict=True):
        assert part in sentence


@pytest.mark.slow
def test_a_dry_run_says_what_the_tree_saves(recipe):
    pytest.importorskip("torch", reason="needs torch")
    from medground.training.plan import plan_training
    from medground.training.probe import probe

    # With letters' rewards every group has a signal or none; beta keeps all of them in the update.
    _, tree = probe(plan_training(recipe(beta=0.02)), steps=1).shared
    assert "An image is computed once for its questions, 2 on average" in tree
    assert len(probe(plan_training(recipe(group_by_image=False, beta=0.02)), steps=1).shared) == 1
