"""Questions about volumes: two exchanges, and targets followed from the slice of the answer."""

import json

import numpy as np
import pytest
from medground_toy import volumes

import medground
from medground.errors import RecipeError, SegmenterError, SegmenterMemoryError, UsageError
from medground.evaluation.volumes import volume_metrics
from medground.images.read_volume import read_volume
from medground.pipeline.slices import SliceChoice
from medground.pipeline.volumes import ground_volume, slice_distance, slice_rule
from medground.recipe.schema import Propagation, SliceRule, VolumeConfig
from medground.types import Fault, Mask

pytest.importorskip("nibabel", reason="needs nibabel")
QUESTION = "Which bright round spot is it?"


@pytest.fixture(scope="module")
def phantom():
    return volumes.volume_phantom(0, shape=(64, 56, 30), spacing=(1.2, 1.2, 2.5), targets=1)


@pytest.fixture
def volume(phantom, tmp_path):
    volumes.write_nifti(phantom, tmp_path / "v.nii.gz")
    return read_volume(tmp_path / "v.nii.gz")


def config(slice, propagation="per_slice", **more):
    named = {"index": slice} if isinstance(slice, int) else {"slice": SliceRule(slice)}
    return VolumeConfig(**named, propagation=Propagation(propagation), **more)


def boxed(x1, y1, x2, y2):
    """A pipeline whose reasoner answers with one box, which the segmenter fills."""
    text = f'<answer>{{"bbox": [{x1}, {y1}, {x2}, {y2}]}}</answer>'
    return medground.load(
        {"reasoner": {"name": "scripted", "texts": [text]}, "prompt_interface": {"name": "bbox", "think": False},
         "segmenter": "box_fill", "prompt": "box"}
    )  # fmt: skip


@pytest.mark.slow
def test_a_recipe_asks_for_the_slice_then_about_it_and_follows_the_target(volume, phantom):
    result = ground_volume(medground.load("infer/toy_volume"), volume, QUESTION, window="soft_tissue")
    assert result.fault is None and result.choice.rule == "ask" and result.propagation == "per_slice"
    metrics = volume_metrics(result.mask, phantom.labels > 0, volume.spacing)
    assert metrics["dice"] > 0.6
    assert slice_distance(volume, result.choice, phantom.labels > 0)["slice_off_mm"] == 0
    assert "slice" in result.choice.completion.text and "bbox" in result.answer.completion.text
    on_slice = volume.placement("axial", result.choice.index)
    assert np.array_equal(on_slice.picture(result.mask[:, :, result.choice.index]), result.answer.mask.data)


@pytest.mark.slow
def test_json_holds_both_exchanges_and_the_measures(volume):
    result = ground_volume(medground.load("infer/toy_volume"), volume, QUESTION, window="soft_tissue")
    stated = json.loads(json.dumps(result.to_dict()))
    assert stated["slice"]["text"] == result.choice.completion.text
    assert stated["answer"]["text"] == result.answer.completion.text
    [region] = stated["regions"]
    assert region["voxels"] == result.mask.sum() and region["measures"]["axes"] == "face midpoints"
    assert region["measures"]["volume_ml"] == pytest.approx(result.mask.sum() * 1.2 * 1.2 * 2.5 / 1000, rel=1e-4)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_key_slice_of_any_plane_is_copied_within_reach(volume, plane):
    result = ground_volume(boxed(10, 6, 20, 12), volume, QUESTION, config=config(12, "copy", plane=plane, reach=5.0))
    axis = volume.placement(plane, 0).axis
    slices = np.flatnonzero(result.mask.any(axis=tuple(other for other in range(3) if other != axis)))
    within = int(5.0 / volume.spacing[axis])
    assert slices.tolist() == list(range(12 - within, 12 + within + 1))
    for index in slices:
        picture = volume.placement(plane, index).picture(np.take(result.mask, index, axis))
        assert picture.sum() == 60 and picture[6:12, 10:20].all()


def test_no_slice_is_chosen_silently(volume):
    assert medground.load("infer/toy").as_recipe.config.volume.slice is None
    with pytest.raises(UsageError, match="no slice is named"):
        ground_volume(boxed(1, 1, 9, 9), volume, QUESTION, config=VolumeConfig(propagation=Propagation.copy))
    with pytest.raises(UsageError, match="named twice"):
        slice_rule(VolumeConfig(slice=SliceRule.ask, index=0))
    assert slice_rule(VolumeConfig(index=0)) == 0 and slice_rule(VolumeConfig(slice=SliceRule.ask)) == "ask"


def test_a_segmenter_of_single_images_does_not_follow_by_itself(volume):
    with pytest.raises(RecipeError, match="single images only"):
        ground_volume(boxed(1, 1, 9, 9), volume, QUESTION, config=config(3, "model"))


def test_nothing_fits_is_an_answer_in_either_exchange(volume):
    def saying(text, interface):
        return medground.load(
            {
                "reasoner": {"name": "scripted", "texts": [text]},
                "prompt_interface": interface,
                "segmenter": "box_fill",
                "prompt": "box",
            }
        )

    none = ground_volume(saying('<answer>{"slice": null}</answer>', "bbox"), volume, QUESTION, config=config("ask"))
    assert none.fault is None and none.answer is None and none.mask.sum() == 0 and none.choice.index is None
    assert slice_distance(volume, none.choice, np.ones(volume.shape, bool)) is None
    second = ground_volume(
        saying("<think>no</think><answer>[]</answer>", "regions"), volume, QUESTION, config=config(4)
    )
    assert second.fault is None and second.answer.grounding.abstains and second.masks == () and second.mask.sum() == 0


def test_a_failing_exchange_is_a_fault_without_a_mask(volume):
    pipeline = medground.load(
        {"reasoner": {"name": "scripted", "texts": ["hm"]}, "prompt_interface": "bbox", "segmenter": "box_fill"}
    )
    first = ground_volume(pipeline, volume, QUESTION, config=config("ask"))
    assert first.fault is Fault.NO_ANSWER and first.mask is None and first.answer is None
    second = ground_volume(pipeline, volume, QUESTION, config=config(3))
    assert second.fault is Fault.NO_ANSWER and second.mask is None and second.answer.text == "hm"


@pytest.mark.parametrize(
    ("error", "fault"),
    [(SegmenterError("it broke"), Fault.SEGMENTER), (SegmenterMemoryError("80 GB"), Fault.OUT_OF_MEMORY)],
)
def test_a_segmenter_that_fails_on_the_way_is_a_fault_with_its_cause(volume, error, fault):
    class Breaking:
        accepts = frozenset({"box"})

        def segment(self, image, prompts):
            return [Mask(data=np.ones(image.shape[:2], bool)) for _ in prompts]

        def propagate(self, volume, prompts, **options):
            raise error

    pipeline = medground.Pipeline(
        boxed(1, 1, 9, 9).reasoner, boxed(1, 1, 9, 9).prompt_interface, Breaking(), prompt="box"
    )
    result = ground_volume(pipeline, volume, QUESTION, config=config(3, "model"))
    assert result.fault is fault and str(error) in result.cause and result.mask is None
    assert result.answer.fault is None, "the answer on the slice stands"


def test_the_error_of_a_slice_is_counted_in_millimetres(volume, phantom):
    truth = np.zeros(volume.shape, bool)
    truth[10:20, 10:20, 8:12], truth[30, 30, 20] = True, True
    truth[10, 10, 9] = False

    def distance(plane, index):
        return slice_distance(volume, SliceChoice(plane=plane, index=index, rule="given"), truth)

    assert distance("axial", 8) == {"slice_error_mm": 0.0, "slice_off_mm": 0.0}
    assert distance("axial", 14) == {"slice_error_mm": 15.0, "slice_off_mm": 7.5}
    assert distance("axial", 20) == {"slice_error_mm": 30.0, "slice_off_mm": 0.0}
    assert distance("sagittal", 5)["slice_off_mm"] == pytest.approx(6.0)
