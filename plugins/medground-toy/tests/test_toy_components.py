"""The toy reasoners and segmenters pass the conformance kit and do what their names say."""

import json

import medground_toy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from medground_toy.phantoms import FAMILIES, phantom
from medground_toy.reasoners import RuleReasoner, ScriptedReasoner
from medground_toy.regions import depth, fill_holes, key_points, label, otsu, rounded, smooth
from medground_toy.segmenters import BoxFill, Ellipse, RegionGrowing, Threshold
from scipy import ndimage

from medground.errors import SegmenterError
from medground.geometry import Box, box_iou, in_box, in_mask, mask_box, mask_dice
from medground.testing import check_reasoner, check_segmenter
from medground.types import Region, Sampling, SpatialPrompt

PROMPT = """Find it.
Question: {}
1. Read the question: it may say small, lower or right without meaning it.
Write <think></think> and <answer></answer>.
<think> so </think><answer>{{'bbox': [x1, y1, x2, y2], 'points_1': [x1, y1], 'points_2': [x2, y2]}}</answer>"""


def scene():
    """Return an image with a bright ellipse on the left and a dark one on the right, and their masks."""
    y, x = np.mgrid[:200, :240] + 0.5
    bright, dark = np.hypot((y - 70) / 1.5, x - 60) < 22, np.hypot(y - 140, (x - 180) / 1.3) < 25
    image = np.full((200, 240, 3), 110, np.uint8)
    image[bright], image[dark] = 210, 15
    noise = np.random.default_rng(0).integers(-9, 10, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), bright, dark


def talk(image, text):
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


def answer(text):
    return json.loads(text.partition("<answer>")[2].partition("</answer>")[0].replace("'", '"'))


@pytest.mark.parametrize("factory", [BoxFill, Ellipse, Threshold, RegionGrowing])
@pytest.mark.lane
def test_segmenters_pass_the_conformance_kit(factory):
    check_segmenter(factory)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{}, {"frame": "permille"}, {"frame": "unit", "order": "yx"}])
def test_the_rule_reasoner_passes_the_conformance_kit(arguments):
    check_reasoner(RuleReasoner, **arguments)


def test_the_scripted_reasoner_passes_the_conformance_kit():
    check_reasoner(ScriptedReasoner, texts=["one", "two"])


def test_the_hooks_register_the_declared_components():
    offered = {}
    medground_toy.register_reasoners(offered.__setitem__)
    medground_toy.register_segmenters(offered.__setitem__)
    assert sorted(offered) == ["box_fill", "ellipse", "region_growing", "scripted", "threshold", "tones", "toy"]


def test_the_rule_reasoner_follows_the_question():
    image, bright, dark = scene()
    for question, mask in (("Which bright thing is on the left?", bright), ("What dark spot is it?", dark)):
        [[said]] = RuleReasoner().generate([talk(image, PROMPT.format(question))], Sampling(temperature=0))
        found = answer(said.text)
        assert box_iou(found["bbox"], mask_box(mask)) > 0.8
        assert in_mask([found["points_1"], found["points_2"]], mask).all()
        assert said.text.startswith("<think>")


@pytest.mark.parametrize(
    ("example", "quote", "shape"),
    [
        ("<answer>{'bbox': [x1, y1, x2, y2]}</answer>", "'", {"bbox": (4,)}),
        ('<answer>{"points_1": [x, y], "points_2": [x, y]}</answer>', '"', {"points_1": (2,), "points_2": (2,)}),
        (
            '<answer>{"bbox_2d": [a, b, c, d], "point_2d": [[x, y], [x, y]]}</answer>',
            '"',
            {"bbox_2d": (4,), "point_2d": (2, 2)},
        ),
        ("no example", '"', {"bbox": (4,), "points_1": (2,), "points_2": (2,)}),
    ],
)
def test_the_rule_reasoner_answers_with_the_keys_and_quotes_it_is_shown(example, quote, shape):
    [[said]] = RuleReasoner().generate([talk(scene()[0], f"Question: Where?\n{example}")], Sampling(temperature=0))
    assert {key: np.shape(value) for key, value in answer(said.text).items()} == shape
    assert f"{{{quote}{next(iter(shape))}{quote}: " in said.text
    assert "<think>" not in said.text


@pytest.mark.parametrize("kind", ["pixel", "permille", "unit"])
@pytest.mark.parametrize("order", ["xy", "yx"])
def test_the_rule_reasoner_writes_in_the_frame_it_declares(kind, order):
    image, bright, _ = scene()
    reasoner = RuleReasoner(frame=kind, order=order)
    [[said]] = reasoner.generate([talk(image, PROMPT.format("Which bright one?"))], Sampling(temperature=0))
    box = said.frame.to_pixels(answer(said.text)["bbox"], image.shape[:2])
    assert said.frame.kind == kind and said.frame.order == order
    assert box_iou(box, mask_box(bright)) > 0.8


def test_sampling_varies_and_stays_inside_the_image():
    image, *_ = scene()
    reasoner, messages = RuleReasoner(), talk(image, PROMPT.format("Which one?"))
    [group] = reasoner.generate([messages], Sampling(num_generations=8, seed=1))
    assert len({completion.text for completion in group}) > 4
    for completion in group:
        x1, y1, x2, y2 = answer(completion.text)["bbox"]
        assert 0 <= x1 < x2 <= 240 and 0 <= y1 < y2 <= 200
        assert in_box(answer(completion.text)["points_1"], [x1 - 1, y1 - 1, x2 + 1, y2 + 1])
    other = reasoner.generate([messages], Sampling(num_generations=8, seed=2))[0]
    assert [c.text for c in group] != [c.text for c in other]


def test_a_blank_image_still_gets_an_answer():
    [[said]] = RuleReasoner().generate([talk(np.zeros((9, 7, 3), np.uint8), "Where?")], Sampling(temperature=0))
    assert Box(*answer(said.text)["bbox"]).valid


def test_the_scripted_reasoner_returns_its_texts_in_turn():
    said = ScriptedReasoner(texts=["a", "b"]).generate([talk(scene()[0], "?")], Sampling(num_generations=3))
    assert [completion.text for completion in said[0]] == ["a", "b", "a"]
    for wrong in ("a", []):
        with pytest.raises(ValueError, match="list of at least one"):
            ScriptedReasoner(texts=wrong)


def test_box_fill_and_ellipse_draw_exactly_their_shape():
    image = np.zeros((40, 60, 3), np.uint8)
    [box] = BoxFill().segment(image, [SpatialPrompt(box=Box(10, 5, 30, 25))])
    assert box.data.sum() == 400 and mask_box(box.data) == (10, 5, 30, 25)
    [ellipse] = Ellipse().segment(image, [SpatialPrompt(box=Box(10, 5, 30, 25), points=((50.0, 30.0),))])
    assert ellipse.data.sum() == pytest.approx(np.pi * 100, rel=0.02) and mask_box(ellipse.data) == (10, 5, 30, 25)
    [disc] = Ellipse().segment(image, [SpatialPrompt(points=((20.0, 20.0), (40.0, 20.0)))])
    assert mask_box(disc.data) == (20, 10, 40, 30)
    with pytest.raises(SegmenterError, match="needs a box, and the prompt has points only"):
        BoxFill().segment(image, [SpatialPrompt(points=((1.0, 1.0),))])


@pytest.mark.parametrize("factory", [Threshold, RegionGrowing])
@pytest.mark.parametrize("part", ["box", "points"])
def test_threshold_and_region_growing_segment_the_shape(factory, part):
    image, *masks = scene()
    for mask in masks:
        prompt = Region(box=mask_box(mask), points=key_points(mask)).prompt(part)
        [found] = factory().segment(image, [prompt])
        assert mask_dice(found.data, mask) > 0.9


def test_region_growing_avoids_negative_points():
    image = np.full((60, 120, 3), 200, np.uint8)
    image[:5] = image[-5:] = 0
    left, right = (30.0, 30.0), (90.0, 30.0)
    [alone] = RegionGrowing().segment(image, [SpatialPrompt(points=(left,))])
    [kept] = RegionGrowing().segment(image, [SpatialPrompt(points=(left, right), labels=(1, 0))])
    assert alone.data[30, 90] and kept.data[30, 30] and not kept.data[30, 90]


@pytest.mark.slow
def test_region_growing_beats_the_ellipse_on_phantoms():
    gains = {RegionGrowing: [], Threshold: []}
    for family in FAMILIES:
        for sample in phantom(family, 5, size=(160, 160)).samples:
            prompt = SpatialPrompt(box=sample.target.region.box)
            [floor] = Ellipse().segment(sample.query.image, [prompt])
            for factory, gain in gains.items():
                [found] = factory().segment(sample.query.image, [prompt])
                gain.append(mask_dice(found.data, sample.target.mask) - mask_dice(floor.data, sample.target.mask))
    assert all(np.mean(gain) > 0.02 for gain in gains.values()), gains


@settings(deadline=None, max_examples=60)
@given(arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24))))
def test_labels_and_holes_equal_those_of_scipy_and_a_rounded_mask_the_smoothed(mask):
    ours, count = label(mask)
    theirs, expected = ndimage.label(mask)
    assert count == expected and np.array_equal(ours, theirs)
    assert np.array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))
    assert np.array_equal(rounded(mask), smooth(mask.astype(np.float32), 1) > 0.5)


def test_a_winding_path_is_one_component():
    mask = np.zeros((81, 60), bool)
    mask[::2] = True
    mask[1::4, -1] = mask[3::4, 0] = True
    assert label(mask)[1] == 1


def test_depth_is_close_to_the_distance_to_the_edge():
    y, x = np.mgrid[:150, :170]
    mask = np.hypot(y - 80, x - 90) < 50
    true = ndimage.distance_transform_edt(mask)
    assert np.abs(depth(mask) - true).max() <= 0.12 * true.max()


@settings(deadline=None, max_examples=60)
@given(arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24))).filter(np.any))
def test_key_points_lie_in_the_mask(mask):
    first, second = key_points(mask)
    assert in_mask([first, second], mask).all()
    assert (first != second) == (mask.sum() > 1)


def test_otsu_splits_two_heaps():
    cut, explained = otsu(np.concatenate([np.full(300, 10.0), np.full(100, 50.0)]))
    assert 10 < cut < 50 and explained == pytest.approx(1.0)
    assert otsu(np.full(9, 4.0))[1] == 0.0


def test_smoothing_keeps_a_plane_and_the_mean():
    plane = np.tile(np.arange(20, dtype=np.float32), (15, 1))
    assert np.allclose(smooth(plane, 2)[:, 4:-4], plane[:, 4:-4], atol=1e-4)
