"""`benchmarks/answers.py`: what its models learn from, and that it trains, measures, resumes and reports."""

import runpy
from pathlib import Path

import pytest
from medground_toy.phantoms import samples

SCRIPT = str(Path(__file__).resolve().parents[1] / "benchmarks" / "answers.py")
ANSWERS = runpy.run_path(SCRIPT)


def drawn(family, count=40):
    return samples(count, 3, families=[family], size=(64, 64))


def test_the_share_is_that_of_absent_targets_and_no_present_one_is_lost():
    every = drawn("maybe")
    there = [sample.query.id for sample in every if sample.target.regions]
    chosen = ANSWERS["with_share"](every, 0.25)
    absent = [sample for sample in chosen if not sample.target.regions]
    assert [sample.query.id for sample in chosen if sample.target.regions] == there
    assert len(absent) == round(len(there) / 3)
    order = [sample.query.id for sample in every]
    assert [order.index(sample.query.id) for sample in chosen] == sorted(order.index(s.query.id) for s in chosen)


def test_the_one_box_model_learns_from_the_largest_spot():
    sample = next(sample for sample in drawn("several") if len(sample.target.regions) > 1)
    chosen = ANSWERS["largest"](sample)
    sizes = [region.mask.data.sum() for region in sample.target.regions]
    assert chosen.target.region is sample.target.regions[sizes.index(max(sizes))]
    assert chosen.query is sample.query


@pytest.mark.slow
def test_it_trains_measures_resumes_and_reports(tmp_path, capsys):
    pytest.importorskip("transformers", reason="needs transformers")
    sizes = ["--samples", "24", "--held", "12", "--maybe-steps", "1", "--several-steps", "1", "--draws", "2"]
    command = ["train", str(tmp_path), "--seed", "7", *sizes, "--grpo", "1"]
    ANSWERS["main"](command)
    answers = sorted(tmp_path.glob("seed-7/*/samples.jsonl"))
    assert [path.parent.name for path in answers] == [
        "negatives-answers", "one_box-answers", "present-answers", "rewards-answers", "sampled", "several-answers",
    ]  # fmt: skip
    written = {path: path.read_bytes() for path in answers}
    capsys.readouterr()
    ANSWERS["main"](["table", str(tmp_path)])
    table = capsys.readouterr().out
    assert table.count("| 7 (n ") == 3 and table.count("| 7 | 1 | ") == 1
    assert table.count("missed |") == 3, "nothing is reached in one step; one heading says missed"
    ANSWERS["main"](command)
    assert {path: path.read_bytes() for path in answers} == written
    ANSWERS["main"](["table", str(tmp_path)])
    assert capsys.readouterr().out.endswith(table)
