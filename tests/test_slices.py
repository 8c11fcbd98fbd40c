"""Which slice of a volume is asked about: never chosen silently, and asked for in an exchange of its own."""

from dataclasses import replace

import numpy as np
import pytest
from medground_toy import volumes

import medground
from medground.errors import UsageError, ViewError
from medground.geometry import Box
from medground.images.montage import STRIP, montage
from medground.images.read_volume import read_volume
from medground.pipeline.cache import StageCache
from medground.pipeline.slices import WhichSlice, choose_slice, slice_query
from medground.recipe.schema import SliceRule
from medground.types import Completion, Fault, Region, Sampling, Target, image_of, text_of

pytest.importorskip("nibabel", reason="needs nibabel")
QUESTION = "Which bright round spot is it?"


@pytest.fixture(scope="module")
def phantom():
    return volumes.volume_phantom(0, shape=(64, 56, 30), spacing=(1.2, 1.2, 2.5), targets=1)


@pytest.fixture
def volume(phantom, tmp_path):
    volumes.write_nifti(phantom, tmp_path / "v.nii.gz")
    return read_volume(tmp_path / "v.nii.gz")


def read(shown, text):
    return WhichSlice(shown.regions).parse(Completion(text=text, frame=None), shown.image.shape[:2])


def test_a_montage_shows_slices_spread_evenly_each_where_its_box_says(volume):
    shown = montage(volume, "axial", window="40,400", tiles=9, side=64)
    assert shown.slices == (1, 5, 8, 11, 15, 18, 21, 25, 28) and (shown.rows, shown.columns, shown.count) == (3, 3, 30)
    assert shown.image.shape == (3 * (shown.tile[0]), 3 * shown.tile[1], 3)
    assert shown.tile == (56 + STRIP, 64), "64 x 56 pixels of one spacing"
    for index in (8, 15):
        x1, y1, x2, y2 = map(int, shown.box(index))
        own = volume.slice("axial", index, window="40,400").pixels
        assert np.abs(shown.image[y1:y2, x1:x2].astype(int) - own).max() <= 1, "64 px of 64: not resampled"
    assert montage(volume, "axial", tiles=100).slices == tuple(range(30))


def test_tiles_of_uneven_spacing_are_stretched_to_millimetres(volume):
    height, width = montage(volume, "coronal", side=100).tile
    assert (height - STRIP) / width == pytest.approx(30 * 2.5 / (64 * 1.2), abs=0.02)


def test_tiles_have_one_window(volume, phantom):
    shown = montage(volume, "axial", tiles=30, side=64)
    by_slice = [volume.slice("axial", index).pixels.max() for index in range(30)]
    assert min(by_slice) == 255, "a slice by itself is stretched to its own percentiles"
    tops = [
        np.percentile(shown.image[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)], 99)
        for box in map(shown.box, range(30))
    ]
    body = [top for index, top in enumerate(tops) if not phantom.labels[:, :, index].any()]
    assert max(body) < max(tops) - 20, "the body alone is darker than the spot"
    fixed = montage(volume, "axial", tiles=30, side=64, window="40,400")
    assert not np.array_equal(fixed.image, shown.image)


def test_a_slice_between_tiles_has_the_nearer_one(volume):
    shown = montage(volume, "axial", tiles=9, side=64)
    assert shown.box(6) == shown.box(5) == Box(64, STRIP, 128, STRIP + 56)
    assert shown.box(7) == shown.box(8) and shown.box(0) == shown.box(1)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ('<answer>{"slice": 12}</answer>', "12"),
        ("<think>It is low.</think>\n<answer> { 'slice' : 0 } </answer>", "0"),
        ('<think><answer>{"slice": 3}</answer></think><answer>{"slice": 29}</answer>', "29"),
    ],
)
def test_an_answer_names_a_slice(volume, text, number):
    grounding = read(montage(volume, "axial"), text)
    assert grounding.fault is None and grounding.region.label == number
    assert grounding.region.box == montage(volume, "axial").box(int(number))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("slice 12", Fault.NO_ANSWER),
        ('<think>never closed <answer>{"slice": 3}</answer>', Fault.NO_ANSWER),
        ('<answer>{"slice": 1}</answer><answer>{"slice": 2}</answer>', Fault.TWO_ANSWERS),
        ("<answer>12</answer>", Fault.BAD_JSON),
        ('<answer>{"slice": 1.5}</answer>', Fault.BAD_JSON),
        ('<answer>{"slice": 30}</answer>', Fault.BAD_CHOICE),
        ('<answer>{"slice": -1}</answer>', Fault.BAD_CHOICE),
    ],
)
def test_text_that_names_no_slice_is_a_fault(volume, text, fault):
    grounding = read(montage(volume, "axial"), text)
    assert grounding.fault is fault and not grounding.regions and grounding.answer_level == 0


def test_no_slice_shows_it_is_an_answer(volume):
    grounding = read(montage(volume, "axial"), '<answer>{"slice": null}</answer>')
    assert grounding.abstains and grounding.answer_level == 1


def test_the_ideal_answer_is_read_back(volume):
    shown = montage(volume, "axial")
    for target, label in (
        (Target(regions=(Region(box=Box(0, 0, 9, 9), label="17"),)), "17"),
        (Target(regions=()), None),
    ):
        grounding = read(shown, WhichSlice().answer(target, "Because."))
        assert grounding.fault is None and grounding.think == "Because."
        assert (grounding.region and grounding.region.label) == label


def test_the_question_states_what_is_shown(volume):
    query = slice_query(volume, QUESTION, "sagittal", tiles=4)
    [turn] = WhichSlice().render(query)
    assert image_of([turn]) is query.image
    text = text_of([turn])
    assert "4 of the 64 sagittal slices" in text and "8, 24, 40, 56." in text and QUESTION in text and "0 to 63" in text


def test_a_named_slice_and_rules_ask_nobody(volume, phantom):
    pipeline = medground.load("infer/toy", cache=StageCache())
    truth = phantom.labels > 0
    chosen = [
        choose_slice(pipeline, volume, QUESTION, rule, plane=plane, truth=truth)
        for rule, plane in (
            (7, None),
            (SliceRule.middle, "coronal"),
            (SliceRule.largest, "axial"),
            (SliceRule.largest, "sagittal"),
        )
    ]
    assert [(one.plane, one.index, one.rule) for one in chosen] == [
        ("axial", 7, "given"), ("coronal", 28, "middle"),
        ("axial", int(truth.sum((0, 1)).argmax()), "largest"), ("sagittal", int(truth.sum((1, 2)).argmax()), "largest"),
    ]  # fmt: skip
    assert pipeline.cache.misses["completions"] == 0 and all(one.completion is None for one in chosen)


def test_a_slice_that_is_not_there_or_no_rule_is_refused(volume):
    pipeline = medground.load("infer/toy")
    with pytest.raises(ViewError, match="no axial slice 30"):
        choose_slice(pipeline, volume, QUESTION, 30)
    with pytest.raises(UsageError, match="largest is of a data set"):
        choose_slice(pipeline, volume, QUESTION, SliceRule.largest)


@pytest.mark.slow
def test_the_reasoner_is_shown_a_montage_and_its_exchange_has_a_key_of_its_own(volume, phantom):
    cache = StageCache()
    pipeline = medground.load("infer/toy", cache=cache)
    choice = choose_slice(pipeline, volume, QUESTION, SliceRule.ask, window="soft_tissue")
    truth = np.flatnonzero(phantom.labels.any(axis=(0, 1)))
    assert choice.rule == "ask" and choice.fault is None and truth.min() <= choice.index <= truth.max()
    assert f'"slice": {choice.index}' in choice.completion.text and choice.query.question == QUESTION
    assert choice.query.image.shape == montage(volume, "axial").image.shape
    pipeline(replace(choice.query, image=volume.slice("axial", choice.index).pixels))
    assert cache.misses["completions"] == 2 and cache.hits["completions"] == 0
    pipeline(choice.query)
    assert cache.misses["completions"] == 3, "the same image and question, asked to be grounded, is another exchange"
    again = choose_slice(
        medground.load("infer/toy", cache=cache), volume, QUESTION, SliceRule.ask, window="soft_tissue"
    )
    assert again.index == choice.index and cache.hits["completions"] == 1 and cache.misses["completions"] == 3
    choose_slice(pipeline, volume, "Which dark round spot is it?", SliceRule.ask)
    choose_slice(pipeline, volume, QUESTION, SliceRule.ask, plane="coronal")
    assert cache.misses["completions"] == 5


@pytest.mark.slow
def test_both_exchanges_are_answered_by_one_reasoner(volume):
    class Counting:
        asked = 0

        def frame(self, size):
            return medground.Frame("pixel", size)

        def generate(self, batch, sampling):
            self.asked += len(batch)
            text = '<answer>{"slice": null}</answer>'
            return [[Completion(text=text, frame=None)] * sampling.num_generations for _ in batch]

    reasoner = Counting()
    pipeline = medground.load("infer/toy", reasoner=reasoner)
    choice = choose_slice(replace_sampling(pipeline), volume, QUESTION, SliceRule.ask)
    assert choice.index is None and choice.fault is None and choice.grounding.abstains and reasoner.asked == 1
    deferred = medground.load("infer/toy")
    choose_slice(deferred, volume, QUESTION, SliceRule.ask)
    assert "reasoner" in vars(deferred), "what the first exchange built answers the second"


def replace_sampling(pipeline):
    pipeline.sampling = Sampling(num_generations=4)
    return pipeline


def test_what_the_reasoner_wrote_wrongly_is_a_fault_without_a_slice(volume):
    pipeline = medground.load(
        {
            "reasoner": {"name": "scripted", "texts": ["I cannot tell."]},
            "prompt_interface": "bbox",
            "segmenter": "box_fill",
        }
    )
    choice = choose_slice(pipeline, volume, QUESTION, SliceRule.ask)
    assert choice.index is None and choice.fault is Fault.NO_ANSWER and choice.completion.text == "I cannot tell."
