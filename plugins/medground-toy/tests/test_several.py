"""Families whose questions mean no target, one, several or many: exact, apart, and answered by the toy reasoners."""

import json

import numpy as np
import pytest
from medground_toy import phantoms
from medground_toy.phantoms import SEVERAL, phantom, samples
from medground_toy.questions import EVERY
from medground_toy.reasoners import OracleReasoner, RuleReasoner

import medground
from medground.data.lint import lint
from medground.data.open_dataset import open_dataset
from medground.errors import InputError
from medground.geometry import box_iou, in_mask, mask_box
from medground.types import Mask, Query, Region, Sample, Sampling, Target

SIZE = (96, 96)
LIST = 'Question: {}\nAnswer: <answer>[{{"bbox": [x1, y1, x2, y2]}}, ...]</answer>, or <answer>[]</answer>'


def counts(family, n=60):
    return [len(sample.target.regions) for sample in samples(n, 2, families=[family], size=SIZE)]


@pytest.mark.slow
def test_families_have_none_or_one_one_to_four_and_none_to_many():
    assert set(counts("maybe")) == {0, 1} and 0.3 < np.mean(counts("maybe")) < 0.7
    assert set(counts("several")) == {1, 2, 3, 4}
    many = counts("cells")
    assert 0 in many and max(many) > 40
    tones = [[len(sample.target.regions) for sample in phantom("cells", seed, size=SIZE).samples] for seed in range(12)]
    assert all(purple > 10 for purple, _ in tones) and any(brown for _, brown in tones)
    assert any(not brown for _, brown in tones)


@pytest.mark.parametrize("family", SEVERAL)
def test_targets_are_exact_and_apart(family):
    drawn = phantom(family, 5, size=(90, 130))
    regions = [region for sample in drawn.samples for region in sample.target.regions]
    assert len(regions) == len(drawn.regions)
    cover = np.zeros((90, 130), int)
    for region, structure in zip(regions, drawn.regions, strict=True):
        assert np.array_equal(region.mask.data, structure.whole) and region.box == mask_box(region.mask.data)
        assert in_mask(region.points, region.mask.data).all()
        cover += region.mask.data
    assert cover.max() <= 1
    for sample in drawn.samples:
        count = len(sample.target.regions)
        assert sample.labels["targets"] == ("none", "one", "several")[min(count, 2)]
        assert sample.query.image.shape == (90, 130, 3)


@pytest.mark.parametrize("family", SEVERAL)
def test_everything_follows_from_the_seed(family):
    first, again, other = (phantom(family, seed, size=SIZE) for seed in (1, 1, 2))
    assert np.array_equal(first.image, again.image) and not np.array_equal(first.image, other.image)
    for mine, theirs in zip(first.samples, again.samples, strict=True):
        assert mine.query.question == theirs.query.question
        assert [region.box for region in mine.target.regions] == [region.box for region in theirs.target.regions]


def test_a_lesion_has_a_core_here_too():
    whole, core = (phantom("several", 3, size=SIZE, convention=name) for name in ("whole", "core"))
    for outer, inner in zip(whole.samples, core.samples, strict=True):
        for big, small in zip(outer.target.regions, inner.target.regions, strict=True):
            assert (small.mask.data <= big.mask.data).all() and small.mask.data.sum() < big.mask.data.sum()


def test_questions_are_the_same_whatever_the_answer_and_never_name_it():
    for category, texts in EVERY.items():
        assert len(set(texts)) == len(texts) >= 6 and all(text.endswith("?") for text in texts)
        assert not any(word in text.lower().split() for text in texts for word in category.split()[-1:])
    asked = {0: set(), 1: set()}
    for sample in samples(200, 0, families=["maybe"], size=(24, 24)):
        asked[len(sample.target.regions)].add(sample.query.question)
    assert asked[0] == asked[1]


@pytest.mark.slow
@pytest.mark.parametrize("family", SEVERAL)
def test_written_phantoms_read_as_they_were_drawn(family, tmp_path):
    drawn = samples(6, 4, families=[family], size=SIZE)
    phantoms.write(tmp_path, drawn)
    for read, sample in zip(open_dataset(tmp_path), drawn, strict=True):
        assert len(read.target.regions) == len(sample.target.regions)
        for mine, theirs in zip(read.target.regions, sample.target.regions, strict=True):
            assert mine.box == theirs.box and mine.points == theirs.points
            assert np.array_equal(mine.mask.data, theirs.mask.data)
    findings, _ = lint(tmp_path)
    assert findings == []


def test_a_trace_says_how_many(tmp_path):
    arguments = ["-n", "12", "--size", "64", "--families", "maybe,several", "--traces", "--out", str(tmp_path)]
    assert phantoms.main(arguments) == 0
    for line in map(json.loads, (tmp_path / "manifest.jsonl").read_text().splitlines()):
        count = len(line["regions"])
        assert line["think"].split()[0] == (line["category"].split()[0] if count == 1 else str(count or "no"))


def talk(sample, prompt=LIST):
    text = {"type": "text", "text": prompt.format(sample.query.question)}
    return [{"role": "user", "content": [{"type": "image", "image": sample.query.image}, text]}]


def boxes(text):
    return [answer["bbox"] for answer in json.loads(text.partition("<answer>")[2].partition("</answer>")[0])]


@pytest.mark.slow
def test_the_rule_reasoner_writes_a_list_where_the_prompt_shows_one():
    hits = answers = targets = 0
    for sample in samples(30, 1, families=["several"], size=SIZE):
        written = boxes(RuleReasoner().generate([talk(sample)], Sampling(temperature=0))[0][0].text)
        true = [region.box for region in sample.target.regions]
        hits += sum(max(float(box_iou(box, other)) for other in true) >= 0.5 for box in written)
        answers, targets = answers + len(written), targets + len(true)
    assert 2 * hits / (answers + targets) > 0.85
    empty = [sample for sample in samples(30, 1, families=["maybe"], size=(64, 64)) if not sample.target.regions]
    none = [not boxes(RuleReasoner().generate([talk(one)], Sampling(temperature=0))[0][0].text) for one in empty]
    assert np.mean(none) >= 0.9
    think = RuleReasoner().generate([talk(empty[0], f"<think></think> {LIST}")], Sampling(temperature=0))[0][0].text
    assert think == "<think>Nothing in the picture fits the question.</think><answer>[]</answer>"


def test_a_drawn_list_of_the_rule_reasoner_varies_and_repeats():
    sample = samples(1, 1, families=["several"], size=SIZE)[0]
    texts = [c.text for c in RuleReasoner().generate([talk(sample)], Sampling(num_generations=4, seed=3))[0]]
    assert len(set(texts)) > 1
    assert texts == [c.text for c in RuleReasoner().generate([talk(sample)], Sampling(num_generations=4, seed=3))[0]]


@pytest.mark.parametrize("words", [{}, {"frame": "permille"}, {"frame": "unit", "order": "yx"}])
def test_the_oracle_writes_the_ideal_answer(words):
    interface = medground.build("prompt_interface", "bbox_points")
    drawn = samples(8, 1, families=["plain", "ct"], size=SIZE)
    oracle = OracleReasoner(drawn, interface, **words)
    answers = oracle.generate([interface.render(sample.query) for sample in drawn], Sampling(num_generations=2))
    for sample, group in zip(drawn, answers, strict=True):
        assert len(group) == 2 and group[0].text == group[1].text
        box = interface.parse(group[0], SIZE).region.box
        assert float(box_iou(box, sample.target.region.box)) > 0.9


def test_the_oracle_refuses_what_it_does_not_know():
    interface = medground.build("prompt_interface", "bbox_points")
    one, other = samples(2, 1, families=["plain"], size=SIZE)
    with pytest.raises(InputError, match="knows no sample"):
        OracleReasoner([one], interface).generate([interface.render(other.query)], Sampling())


def test_a_target_may_be_empty_or_several_in_a_sample():
    query = Query(image=np.zeros((4, 4, 3), np.uint8), question="Which?", id="a")
    masks = [np.eye(4, dtype=bool), np.eye(4, dtype=bool)[::-1]]
    several = Target(regions=tuple(Region(box=mask_box(m), mask=Mask(data=m)) for m in masks))
    assert np.array_equal(Sample(query=query, target=several).target.mask, masks[0] | masks[1])
    assert Target(regions=()).region is None and Target(regions=()).mask is None
