"""What travels: regions of an answer and of the truth, their masks and the union of these, and what a segmenter is given."""

import numpy as np
import pytest

from medground.frames import Frame
from medground.geometry import Box, Point
from medground.types import Completion, Grounding, Mask, Query, Region, Rollout, Sample, SpatialPrompt, Target

BOX, POINTS = Box(1, 1, 3, 3), (Point(1.5, 1.5), Point(2.5, 2.5))


def mask(column: int, score: float = 1.0) -> Mask:
    data = np.zeros((2, 4), bool)
    data[:, column] = True
    return Mask(data=data, score=score)


def test_a_region_gives_the_chosen_parts_as_a_prompt():
    region = Region(box=BOX, points=POINTS, labels=(1, 0), label="lung", confidence=0.5)
    assert region.prompt() == SpatialPrompt(box=BOX, points=POINTS, labels=(1, 0))
    assert region.prompt("box") == SpatialPrompt(box=BOX)
    assert region.prompt("points") == SpatialPrompt(points=POINTS, labels=(1, 0))


def test_a_region_without_the_chosen_part_gives_no_prompt():
    assert Region(box=BOX).prompt("points") is None
    assert Region(points=POINTS).prompt("box") is None
    assert Region(label="lung").prompt() is None


@pytest.mark.parametrize("holder", [Region, SpatialPrompt])
def test_points_are_foreground_unless_labelled_and_every_point_has_one_label(holder):
    assert holder(points=POINTS).labels == (1, 1)
    for labels in ((1,), (1, 2)):
        with pytest.raises(ValueError, match="2 points need as many labels of 0 or 1"):
            holder(points=POINTS, labels=labels)


@pytest.mark.parametrize("holder", [Grounding, Target])
def test_the_region_is_there_only_where_there_is_exactly_one(holder):
    one = Region(box=BOX)
    assert holder(regions=(one,)).region is one
    assert holder(regions=()).region is None
    assert holder(regions=(one, one)).region is None


def test_the_mask_of_an_answer_is_the_union_of_its_regions_masks_and_each_region_keeps_its_own():
    answer = Grounding(regions=(Region(box=BOX), Region(points=POINTS))).with_masks([mask(0, 0.9), mask(2, 0.4)])
    sample = Sample(query=Query(image=np.zeros((2, 4, 3), np.uint8), question="?"), target=Target(regions=()))
    rollout = Rollout(sample=sample, completion=Completion(text="", frame=None), grounding=answer)
    assert rollout.mask.data.tolist() == [[True, False, True, False]] * 2
    assert rollout.mask.score == 0.4
    assert [region.mask.data.sum() for region in answer.regions] == [2, 2]
    assert answer.with_masks([]).mask is None


def test_the_mask_of_one_region_is_its_own_mask():
    own = mask(1)
    assert Grounding(regions=(Region(box=BOX, mask=own),)).mask is own
    assert Target(regions=(Region(box=BOX, mask=own),)).mask is own.data


@pytest.mark.parametrize("regions", [(), (Region(box=BOX),), (Region(mask=mask(0)), Region(box=BOX))])
def test_there_is_no_union_where_a_mask_is_missing(regions):
    assert Grounding(regions=regions).mask is None
    assert Target(regions=regions).mask is None


def test_masks_and_regions_pair_up():
    with pytest.raises(ValueError, match="zip"):
        Grounding(regions=(Region(box=BOX),)).with_masks([mask(0), mask(1)])


def test_a_frame_is_read_back_from_what_it_writes():
    frame = Frame("permille", (480, 640), "yx")
    assert frame.to_dict() == {"kind": "permille", "size": [480, 640], "order": "yx"}
    assert Frame.from_dict(frame.to_dict()) == frame
