"""`benchmarks/answers.py`: what its models learn from, and that it trains, measures, resumes and reports."""

import runpy
from pathlib import Path

import numpy as np
import pytest

ANSWERS = runpy.run_path(str(Path(__file__).resolve().parents[1] / "benchmarks" / "answers.py"))


@pytest.fixture(scope="module")
def questions():
    return ANSWERS["asked"](30, 3)


def test_the_question_about_either_tone_means_the_spots_of_both(questions):
    counts = set()
    for bright, dark, both in zip(questions[::3], questions[1::3], questions[2::3], strict=True):
        assert both.query.image is bright.query.image and "bright" in bright.query.question
        assert "bright" not in both.query.question and "dark" not in both.query.question
        spots = [region.mask.data for region in both.target.regions]
        firsts = [int(mask.argmax()) for mask in spots]
        assert firsts == sorted(firsts), "reading order"
        single = [region.mask.data for one in (bright, dark) for region in one.target.regions]
        assert np.array_equal(sum(spots, np.zeros(1)), sum(single, np.zeros(1)))
        counts.add(len(spots))
    assert counts == {0, 1, 2}
    assert len({one.query.id for one in questions}) == len(questions)


def test_the_share_is_that_of_absent_targets_and_no_present_one_is_lost(questions):
    there = [sample for sample in questions if sample.target.regions]
    chosen = ANSWERS["with_share"](questions, 0.25, (1, 2))
    assert [sample for sample in chosen if sample.target.regions] == there
    assert len(chosen) - len(there) == round(len(there) / 3)
    assert chosen == [sample for sample in questions if sample in chosen]


def test_half_of_the_questions_can_mean_two_spots(questions):
    two = [sample for sample in questions if len(sample.target.regions) == 2]
    chosen = ANSWERS["with_share"](questions, 0.5, (2,))
    assert [sample for sample in chosen if sample in two] == two and len(chosen) == 2 * len(two)


def test_the_one_box_model_learns_from_the_largest_spot(questions):
    sample = next(sample for sample in questions if len(sample.target.regions) > 1)
    chosen = ANSWERS["largest"](sample)
    sizes = [region.mask.data.sum() for region in sample.target.regions]
    assert chosen.target.region is sample.target.regions[sizes.index(max(sizes))]
    assert chosen.query is sample.query


@pytest.mark.slow
def test_it_trains_measures_resumes_and_reports(tmp_path, capsys):
    pytest.importorskip("transformers", reason="needs transformers")
    sizes = {"pictures": 20, "held": 12, "steps": 1, "more-steps": 1, "one-box-steps": 1, "draws": 2, "grpo": 1}
    command = ["train", str(tmp_path), "--seed", "7", *(f"--{name}={count}" for name, count in sizes.items())]
    command += ["--models", "negatives", "present", "several", "one_box", "sampled", "rewards"]
    ANSWERS["main"](command)
    evaluations = sorted(tmp_path.glob("seed-7/*/*/samples.jsonl"))
    assert [f"{path.parts[-3]}/{path.parts[-2]}" for path in evaluations] == [
        "negatives/answers", "one_box/answers", "present/answers", "rewards/answers", "several/answers", "several/sampled",
    ]  # fmt: skip
    written = {path: path.read_bytes() for path in evaluations}
    capsys.readouterr()
    ANSWERS["main"](["table", str(tmp_path)])
    table = capsys.readouterr().out
    rows = [line for line in table.splitlines() if line.startswith("| 7 |")]
    assert [row.endswith("| not reached |") for row in rows[:3]] == [True, True, False], "in one step"
    ANSWERS["main"](command)
    assert {path: path.read_bytes() for path in evaluations} == written
    ANSWERS["main"](["table", str(tmp_path)])
    assert capsys.readouterr().out.endswith(table)
