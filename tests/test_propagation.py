"""Following targets through a volume without weights: masks copied and interpolated, slices prompted one after the other."""

import numpy as np
import pytest

from medground.errors import RecipeError, SegmenterError, UsageError, ViewError
from medground.geometry import Box, Point, mask_dice
from medground.images.array_volume import array_volume
from medground.registry import build
from medground.segmenters.propagation import Copy, Interpolate, PerSlice, signed_distance, volume_segmenter
from medground.segmenters.slices import BLOCK, Slices, StopRule, follow
from medground.testing import ConformanceError, check_volume_segmenter
from medground.testing.volume_segmenter import example_volume
from medground.types import Mask, SpatialPrompt

AFFINE = np.array([[0, 0, 2.0, 0], [1.0, 0, 0, 0], [0, -3.0, 0, 0], [0, 0, 0, 1]])
"""i goes to the back, j down, k to the left: axial slices lie across j, 3 mm apart."""


def cone(count=20, side=40):
    """A volume [k, i, j] in other axes: discs of 3 to 12 px whose radius grows with j, and the discs by axial slice."""
    rows, columns = np.mgrid[:side, :side] + 0.5
    discs = [np.hypot(rows - 20, columns - 18) <= 3 + 9 * j / (count - 1) for j in range(count)]
    values = np.stack([disc.astype(np.int16) * 100 for disc in discs], axis=1)  # i, j, k: rows, slices, columns
    return array_volume(values, AFFINE), discs


def filled(mask, volume, plane="axial"):
    """The slices that have a pixel."""
    axis = volume.placement(plane, 0).axis
    return np.flatnonzero(np.moveaxis(mask, axis, 0).any(axis=(1, 2))).tolist()


def copy(*, boxes: bool = True):
    return Copy(build("segmenter", "box_fill") if boxes else None)


def interpolate(*, boxes: bool = True):
    return Interpolate(build("segmenter", "box_fill") if boxes else None)


def per_slice(*, by: str = "threshold"):
    return PerSlice(build("segmenter", by))


@pytest.mark.slow
@pytest.mark.parametrize("factory", [copy, interpolate, per_slice])
def test_the_ways_without_weights_conform(factory):
    check_volume_segmenter(factory)


def test_the_floors_need_no_segmenter_for_masks():
    check_volume_segmenter(copy, boxes=False)
    check_volume_segmenter(interpolate, boxes=False)


def test_copy_puts_the_nearest_key_mask_on_every_slice_within_reach():
    volume, discs = cone()
    prompts = [{4: Mask(data=discs[4]), 9: Mask(data=discs[9])}]
    (mask,) = Copy().propagate(volume, prompts, plane="axial", reach=7.0)
    assert filled(mask, volume) == list(range(2, 12)), "7 mm are two slices of 3 mm"
    slices = Slices(volume, "axial")
    for index in range(2, 12):
        assert np.array_equal(slices.take(mask, index), discs[4 if index <= 6 else 9])
    (whole,) = Copy().propagate(volume, prompts, plane="axial")
    assert filled(whole, volume) == list(range(20))


def test_interpolation_follows_a_cone_between_two_slices_and_stops_there():
    volume, discs = cone()
    prompts = [{3: Mask(data=discs[3]), 15: Mask(data=discs[15])}]
    (mask,) = Interpolate().propagate(volume, prompts, plane="axial")
    slices = Slices(volume, "axial")
    assert filled(mask, volume) == list(range(3, 16))
    dice = [mask_dice(slices.take(mask, index), discs[index]) for index in range(3, 16)]
    copied = Copy().propagate(volume, prompts, plane="axial", reach=0)[0]
    floor = [mask_dice(slices.take(copied, index), discs[index]) for index in range(3, 16)]
    assert min(dice) > 0.85 and np.mean(dice) > np.mean(floor) + 0.05


def test_interpolation_weighs_millimetres_not_pixels():
    assert signed_distance(np.array([[False, True, True, True]]), (5.0, 2.0)).tolist() == [[-2.0, 2.0, 4.0, 6.0]]
    assert signed_distance(np.array([[False], [True], [True]]), (5.0, 2.0)).tolist() == [[-5.0], [5.0], [10.0]]


def test_nothing_lies_between_a_mask_and_an_empty_one():
    volume, discs = cone()
    prompts = [{3: Mask(data=discs[3]), 9: Mask(data=np.zeros((40, 40), bool))}]
    (mask,) = Interpolate().propagate(volume, prompts, plane="axial")
    assert filled(mask, volume) == [3]


def test_slice_after_slice_is_prompted_with_the_box_before_it():
    seen = []

    class Boxes:
        """Fills the box, one pixel smaller each way, and notes it."""

        accepts = frozenset({"box"})

        def segment(self, image, prompts):
            seen.append([prompt.box for prompt in prompts])
            masks = [np.zeros(image.shape[:2], bool) for _ in prompts]
            for mask, (x1, y1, x2, y2) in zip(masks, seen[-1], strict=True):
                mask[int(y1) + 1 : int(y2) - 1, int(x1) + 1 : int(x2) - 1] = True
            return [Mask(data=mask) for mask in masks]

    volume, _ = cone()
    prompts = [{5: SpatialPrompt(box=Box(10, 10, 20, 22))}]
    (mask,) = PerSlice(Boxes()).propagate(volume, prompts, plane="axial", patience=2)
    assert seen[:4] == [[Box(10, 10, 20, 22)], [Box(11, 11, 19, 21)], [Box(12, 12, 18, 20)], [Box(13, 13, 17, 19)]]
    assert filled(mask, volume) == list(range(2, 9)), "until nothing is left, each way"
    assert seen[4:6] == [[Box(14, 14, 16, 18)]] * 2, "the last box there was, twice in vain"
    assert seen[6] == [Box(11, 11, 19, 21)] and len(seen) == 6 + 5, "down from the mask on the key slice"


@pytest.mark.parametrize(
    ("patience", "slices"), [(1, [0, 1, 2, 3]), (3, [0, 1, 2, 3, 6, 7]), (None, [0, 1, 2, 3, 6, 7, 12])]
)
def test_a_target_ends_after_as_many_slices_without_it_as_patience_says(patience, slices):
    class Present:
        """Sees something on some slices only, which are as bright as their number."""

        accepts = frozenset({"box"})

        def segment(self, image, prompts):
            there = int(image.max()) in (0, 1, 2, 3, 6, 7, 12)
            return [Mask(data=np.full(image.shape[:2], there)) for _ in prompts]

    values = np.broadcast_to(np.arange(20, dtype=np.int16), (8, 8, 20))
    volume = array_volume(values, np.diag([1.0, 1.0, 2.0, 1.0]))
    prompts = [{0: SpatialPrompt(box=Box(1, 1, 4, 4))}]
    (mask,) = PerSlice(Present()).propagate(volume, prompts, plane="axial", window="127.5,255", patience=patience)
    assert filled(mask, volume) == slices


def test_patience_does_not_count_between_key_slices():
    class Nothing:
        accepts = frozenset({"box"})

        def segment(self, image, prompts):
            return [Mask(data=np.zeros(image.shape[:2], bool)) for _ in prompts]

    volume, discs = cone()
    prompts = [{3: Mask(data=discs[3]), 15: Mask(data=discs[15])}]
    (mask,) = PerSlice(Nothing()).propagate(volume, prompts, plane="axial", patience=1)
    assert filled(mask, volume) == [3, 15]


def test_per_slice_segments_each_slice_once_for_three_targets():
    calls = []

    class Counted:
        accepts = frozenset({"box", "points"})

        def segment(self, image, prompts):
            calls.append(len(prompts))
            return build("segmenter", "box_fill").segment(image, prompts)

    volume, _ = cone()
    prompts = [{9: SpatialPrompt(box=Box(5 * n, 3, 5 * n + 8, 30))} for n in range(3)]
    masks = PerSlice(Counted()).propagate(volume, prompts, plane="axial")
    assert calls == [3] * 20 and all(filled(mask, volume) == list(range(20)) for mask in masks)


@pytest.mark.parametrize("way", [Copy, Interpolate, PerSlice])
def test_progress_is_told_of_every_slice_up_to_all_of_them(way):
    volume, discs = cone()
    counts = []
    prompts = [{5: Mask(data=discs[5]), 7: Mask(data=discs[7])}, {9: Mask(data=discs[9])}]
    follower = way(build("segmenter", "box_fill"))
    follower.propagate(volume, prompts, plane="axial", patience=None, progress=lambda *count: counts.append(count))
    total = counts[0][1]
    assert counts == [(done, total) for done in range(1, total + 1)] and total == (15 + 9 if way is PerSlice else 40)


def test_slices_that_come_twice_come_within_the_shortest_time():
    """The way down follows when the way up has met the first key slices of all targets: a small cache holds what is between."""
    visited = []

    def begin(down):
        def step(index, image, before):
            visited.append(index)
            return {number: np.ones(image.shape[:2], bool) for number in before}

        return step

    volume, discs = cone()
    prompts = [{5: Mask(data=discs[5])}, {8: Mask(data=discs[8])}, {7: Mask(data=discs[7]), 12: Mask(data=discs[12])}]
    masks = follow(Slices(volume, "axial"), prompts, StopRule(), begin)
    assert visited == [*range(5, 9), *range(7, -1, -1), *range(9, 20)]
    assert all(mask.all() for mask in masks)


def test_slices_are_read_at_most_a_block_at_once_and_upwards(monkeypatch):
    volume = example_volume()
    slices, order = Slices(volume, "sagittal"), []
    plane = type(volume.voxels).plane
    monkeypatch.setattr(
        type(volume.voxels), "plane", lambda self, axis, index: (order.append(index), plane(self, axis, index))[1]
    )
    up = [slices.image(index) for index in range(slices.count)]
    down = [slices.image(index) for index in reversed(range(slices.count))]
    assert all(np.array_equal(a, b) for a, b in zip(up, reversed(down), strict=True))
    assert slices.count == 44 and order[:44] == list(range(44))
    blocks = [order[start : start + BLOCK] for start in range(44, len(order), BLOCK)]
    assert all(block == sorted(block) for block in blocks) and len(order) < 2 * 44


def test_prompts_that_cannot_be_followed_are_refused_in_a_sentence():
    volume, discs = cone()
    text = [{3: SpatialPrompt(text="lung nodule")}]
    with pytest.raises(SegmenterError, match=r"PerSlice cannot read text of target 0 on slice 3 \(it takes box"):
        per_slice().propagate(volume, text, plane="axial")
    with pytest.raises(SegmenterError, match="Copy cannot read box of target 0"):
        Copy().propagate(volume, [{3: SpatialPrompt(box=Box(0, 0, 3, 3))}], plane="axial")
    with pytest.raises(SegmenterError, match="needs finite numbers"):
        per_slice().propagate(volume, [{3: SpatialPrompt(points=(Point(np.nan, 3),))}], plane="axial")
    with pytest.raises(ViewError, match="has no axial slice 20"):
        Copy().propagate(volume, [{20: Mask(data=discs[0])}], plane="axial")


@pytest.mark.parametrize(("rule", "words"), [({"reach": -1.0}, "reach is negative"), ({"patience": 0}, "below 1: 0")])
def test_a_stop_that_means_nothing_is_refused(rule, words):
    volume, discs = cone()
    with pytest.raises(UsageError, match=words):
        Copy().propagate(volume, [{3: Mask(data=discs[3])}], plane="axial", **rule)


class Words:
    """Takes words only."""

    accepts = frozenset({"text"})

    def segment(self, image, prompts):
        raise AssertionError("is never asked")


def test_the_word_for_a_way_chooses_the_segmenter():
    boxes = build("segmenter", "box_fill")
    assert repr(volume_segmenter("copy", boxes)) == f"Copy({boxes!r})"
    assert isinstance(volume_segmenter("per_slice", boxes), PerSlice)
    follower = Interpolate(boxes)
    assert volume_segmenter("model", follower) is follower
    with pytest.raises(RecipeError, match="segments single images only"):
        volume_segmenter("model", boxes)
    with pytest.raises(RecipeError, match="did you mean 'interpolate'"):
        volume_segmenter("interpolation", boxes)
    with pytest.raises(RecipeError, match="takes no boxes"):
        volume_segmenter("per_slice", Words())


class Wrong:
    """Answers with masks of one slice, mixes targets, goes on beyond its reach, encodes once per target."""

    accepts = frozenset({"box"})

    def __init__(self, *, flaw: str = "shape") -> None:
        self.flaw = flaw

    def __repr__(self):
        return f"Wrong({self.flaw!r})"

    def encode(self, image):
        return image.astype(float) * 2

    def propagate(self, volume, prompts, *, plane, window=None, reach=None, patience=3, progress=None):
        slices = Slices(volume, plane, window)
        if self.flaw == "refusals":
            return [np.zeros(volume.shape, bool) for _ in prompts]
        masks = Copy(build("segmenter", "box_fill")).propagate(
            volume, prompts, plane=plane, reach=None if self.flaw == "reach" else reach
        )
        if self.flaw == "shape":
            return [mask[0] for mask in masks]
        if self.flaw == "mixed":
            return [np.any(masks, axis=0) for _ in masks]
        if self.flaw == "encodings":
            for _ in prompts:
                self.encode(slices.image(0))
        return masks


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        ("shape", "a mask is bool, [i, j, k] in the voxels of the volume"),
        ("mixed", "a target's mask depends on no other target"),
        ("reach", "no slice farther than reach from the key slices has a mask: slices"),
        ("encodings", "a slice is encoded once, however many targets there are"),
        ("refusals", "a slice below 0 is a ViewError: it is answered"),
    ],
)
def test_the_kit_names_what_a_wrong_volume_segmenter_breaks(flaw, words):
    with pytest.raises(ConformanceError) as caught:
        check_volume_segmenter(Wrong, flaw=flaw)
    assert any(words in sentence for sentence in caught.value.broken), caught.value.broken
