"""Learning rates, data order and seeds follow from the seed and the step alone."""

import itertools
import math
from collections import Counter

import pytest

from medground.errors import RecipeError
from medground.recipe.schema import LearningRateSchedule, TrainingConfig
from medground.training.schedule import epoch_length, learning_rate, sample_indices, sampling_seed, training_horizon


def rates(updates, **settings):
    config = TrainingConfig(learning_rate=8.0, **settings)
    return [learning_rate(update, updates, config) for update in range(updates)]


def test_rates_by_hand():
    assert rates(4, schedule=LearningRateSchedule.constant, warmup_ratio=0.0) == [8, 8, 8, 8]
    assert rates(4, schedule=LearningRateSchedule.linear, warmup_ratio=0.0) == [8, 6, 4, 2]
    assert rates(6, schedule=LearningRateSchedule.linear, warmup_ratio=1 / 3) == pytest.approx([4, 8, 8, 6, 4, 2])
    cosine = [8.0, 4 * (1 + math.cos(math.pi / 4)), 4.0, 4 * (1 - math.cos(math.pi / 4))]
    assert rates(4, schedule=LearningRateSchedule.cosine, warmup_ratio=0.0) == pytest.approx(cosine)
    # A warm-up of 0.3 x 5 = 1.5 updates takes two of them.
    assert rates(5, schedule=LearningRateSchedule.cosine, warmup_ratio=0.3) == pytest.approx([4, 8, 8, 6, 2])
    assert rates(3, warmup_ratio=1.0) == pytest.approx([8 / 3, 16 / 3, 8])


def test_a_rate_beyond_the_last_update_is_finite():
    config = TrainingConfig(learning_rate=8.0, schedule=LearningRateSchedule.linear, warmup_ratio=1.0)
    assert learning_rate(2, 2, config) == 8.0
    config = TrainingConfig(learning_rate=8.0, schedule=LearningRateSchedule.linear, warmup_ratio=0.5)
    assert learning_rate(2, 2, config) == 0.0


def epochs(count, seed=0, samples=11, batch=3):
    """The indices of some epochs, each of 9 samples."""
    drawn = sample_indices(0, 9 * count, samples=samples, batch=batch, seed=seed)
    return [drawn[start : start + 9] for start in range(0, len(drawn), 9)]


def test_every_epoch_has_an_order_of_its_own():
    drawn = epochs(6)
    assert all(len(set(epoch)) == 9 and set(epoch) <= set(range(11)) for epoch in drawn)
    assert all(one != other for one, other in itertools.combinations(drawn, 2))
    assert len({frozenset(range(11)) - set(epoch) for epoch in drawn}) > 1, "what is left out changes, too"


def test_the_order_follows_from_the_seed():
    assert epochs(2, seed=3) == epochs(2, seed=3)
    assert all(one != other for one, other in zip(epochs(3, seed=0), epochs(3, seed=1), strict=True))


def test_the_order_does_not_depend_on_where_drawing_starts():
    whole = sample_indices(0, 40, samples=11, batch=3, seed=5)
    assert [sample_indices(start, 1, samples=11, batch=3, seed=5)[0] for start in range(40)] == whole
    assert sample_indices(7, 20, samples=11, batch=3, seed=5) == whole[7:27]
    assert sample_indices(7, 0, samples=11, batch=3, seed=5) == []


def test_an_epoch_holds_whole_batches():
    assert [epoch_length(samples, 4) for samples in (4, 5, 7, 8)] == [4, 4, 4, 8]
    assert [epoch_length(samples, 3) for samples in (8, 9, 10)] == [6, 9, 9]
    for samples, says in ((3, "train_batch_size to 3 or less"), (0, "check data.path")):
        with pytest.raises(RecipeError, match="train_batch_size is 4") as caught:
            epoch_length(samples, 4)
        assert says in caught.value.hint
    assert training_horizon(11, TrainingConfig(train_batch_size=4, num_train_epochs=3)) == (8, 6)
    assert training_horizon(11, TrainingConfig(train_batch_size=4, num_train_epochs=3, max_steps=5)) == (8, 5)
    assert training_horizon(11, TrainingConfig(train_batch_size=4, num_train_epochs=3, max_steps=0)) == (8, 0)


def test_a_sampling_seed_differs_by_run_step_sample_and_attempt():
    base = (7, 3, "sample-1", 0)
    others = [(8, 3, "sample-1", 0), (7, 4, "sample-1", 0), (7, 3, "sample-2", 0), (7, 3, "sample-1", 1)]
    assert len({sampling_seed(*each) for each in (base, *others)}) == 5
    assert sampling_seed(*base) == sampling_seed(7, 3, "sample-1")
    assert sampling_seed(7, 3, "1") != sampling_seed(7, 31, ""), "words do not run together"
    assert sampling_seed(0, 0, "\udcff") >= 0, "an id of odd bytes has one, too"
    bits = Counter(sampling_seed(0, step, "s").bit_length() for step in range(400))
    assert max(bits) == 48 and sum(count for length, count in bits.items() if length < 40) < 10
