"""TensorBoard reads back the logged numbers, also after an interruption."""

import pytest

pytest.importorskip("tensorboard", reason="needs tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import medground
from medground.errors import RecipeError


def read(folder):
    """Return tag -> [(step, value), ...]."""
    board = EventAccumulator(str(folder))
    board.Reload()
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def tracker(run, step, **arguments):
    built = medground.build("tracker", "tensorboard", **arguments)
    built.begin(run, step)
    return built


@pytest.mark.lane
def test_logged_numbers_are_read_back(tmp_path):
    built = tracker(tmp_path, 0)
    for step in (1, 2, 3):
        built.log(step, {"reward": step / 4, "reward/box/mean": 0.5, "loss": float("nan")})
    built.close()
    assert read(tmp_path / "tensorboard") == {
        "reward": [(1, 0.25), (2, 0.5), (3, 0.75)],
        "reward/box/mean": [(1, 0.5), (2, 0.5), (3, 0.5)],
    }


def test_repeated_steps_replace_lost_ones(tmp_path):
    lost = tracker(tmp_path, 0, folder="board")
    for step in (1, 2, 3, 4):
        lost.log(step, {"reward": 0.25})
    resumed = tracker(tmp_path, 2, folder="board")  # the lost one was never closed, as after a kill
    for step in (3, 4, 5):
        resumed.log(step, {"reward": 0.75})
    resumed.close()
    assert read(tmp_path / "board")["reward"] == [(1, 0.25), (2, 0.25), (3, 0.75), (4, 0.75), (5, 0.75)]
    lost.close()


def test_nothing_is_written_outside_the_run(tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    elsewhere.mkdir()
    (run / "link").symlink_to(elsewhere)
    for folder in (str(elsewhere), "../elsewhere", "link", "link/deeper"):
        with pytest.raises(RecipeError, match="outside the run"):
            tracker(run, 0, folder=folder)
    assert list(elsewhere.iterdir()) == []
    tracker(run, 0, folder="deep/board").close()
    assert list((run / "deep" / "board").iterdir())


def test_a_tracker_that_never_began_can_be_closed():
    medground.build("tracker", "tensorboard").close()
