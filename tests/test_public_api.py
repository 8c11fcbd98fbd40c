"""What `import medground` offers: its names, what a pipeline takes and what its results show."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image as Pillow

import medground
from medground.errors import InputError, RecipeError, UsageError

NAMES = """
load Pipeline build rubric train evaluate sweep export read_image read_volume write_masks
open_dataset from_trl from_verl to_trl to_verl
hookimpl Query Sample Target Region Grounding Completion Sampling SpatialPrompt Mask
LabelledMask Volume Rollout RewardResult Fault
Frame Box Point
Reasoner TrainableReasoner PromptInterface Segmenter VolumeSegmenter Reward Engine RolloutSource Tracker
MedgroundError RunError RecipeError InputError ViewError UsageError PluginError Interrupted SegmenterError
SegmenterMemoryError
"""


class Whole:
    """A segmenter that takes the whole image."""

    accepts = frozenset({"box", "points"})

    def segment(self, image, prompts):
        return [medground.Mask(data=np.ones(image.shape[:2], bool), score=0.5) for _ in prompts]


@pytest.fixture(scope="module")
def pipeline():
    return medground.load("infer/toy", "segmenter=ellipse")


@pytest.fixture
def grey():
    image = np.full((40, 60), 90, np.uint8)
    image[10:25, 5:20] = 220
    return image


def test_the_package_offers_exactly_its_names():
    assert dir(medground) == sorted(NAMES.split())
    assert medground.__all__ == dir(medground)


@pytest.mark.parametrize("name", sorted(NAMES.split()))
def test_every_name_has_a_docstring_with_an_example(name):
    assert ">>>" in getattr(medground, name).__doc__


def test_a_name_that_is_not_offered_is_refused():
    with pytest.raises(AttributeError, match="module 'medground' has no attribute 'segment'"):
        medground.segment  # noqa: B018


@pytest.mark.slow
def test_a_type_checker_sees_every_name(tmp_path):
    file = tmp_path / "names.py"
    lines = [f"medground.{name}" for name in dir(medground)]
    file.write_text("\n".join(["import medground", *lines, "reveal_type(medground.load)", "medground.lod", ""]))
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", "--config-file=", str(file)],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    problems = [line for line in checked.stdout.splitlines() if ": error:" in line]
    assert len(problems) == 1 and 'has no attribute "lod"' in problems[0], checked.stdout
    assert "-> medground.pipeline.pipeline.Pipeline" in checked.stdout


@pytest.mark.slow
def test_the_rubric_of_a_recipe_loads_no_torch():
    code = "import sys, medground\nassert medground.rubric('train/soft').labels\nprint('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_a_file_an_array_a_picture_and_a_query_give_one_answer(pipeline, grey, tmp_path):
    path = tmp_path / "scan.png"
    Pillow.fromarray(grey).save(path)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    question = "Which bright region lies on the left?"
    results = [
        pipeline(path, question),
        pipeline(str(path), question),
        pipeline(grey, question),
        pipeline(rgb, question),
        pipeline(Pillow.open(path), question),
        pipeline(medground.Query(image=rgb, question=question)),
    ]
    assert {result.text for result in results} == {results[0].text}
    assert all(np.array_equal(result.mask.data, results[0].mask.data) for result in results)
    assert [result.query.id for result in results[:2]] == ["scan", "scan"]


def test_a_picture_in_memory_is_turned_upright_as_its_file_would_be(pipeline, grey, tmp_path):
    path, exif = tmp_path / "turned.png", Pillow.Exif()
    exif[0x0112] = 6
    Pillow.fromarray(grey).save(path, exif=exif)
    from_file, from_memory = pipeline(path, "Where?"), pipeline(Pillow.open(path), "Where?")
    assert from_file.query.size == from_memory.query.size == (60, 40)
    assert np.array_equal(from_file.query.image, from_memory.query.image)


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (np.zeros((4, 4), np.float32), r"the image array is float32 of shape \(4, 4\), not uint8"),
        (np.zeros((4, 4), np.int16), "the image array is int16"),
        (np.zeros((4, 4, 4), np.uint8), r"of shape \(4, 4, 4\), not uint8 of shape \(H, W\) or \(H, W, 3\)"),
        (np.zeros((0, 4), np.uint8), r"of shape \(0, 4\)"),
        (Pillow.new("I;16", (4, 4)), "PIL mode 'I;16', which is neither grey nor RGB"),
        (Pillow.new("RGBA", (4, 4)), "PIL mode 'RGBA'"),
        ([[0, 1]], "the image is a list"),
    ],
)
def test_an_image_whose_pixels_are_no_grey_or_rgb_bytes_is_refused(pipeline, image, problem):
    with pytest.raises(InputError, match=problem):
        pipeline(image, "Where?")


def test_a_question_is_given_once(pipeline, grey):
    with pytest.raises(UsageError, match="the question is missing"):
        pipeline(grey)
    with pytest.raises(UsageError, match="the question is given twice"):
        pipeline(medground.Query(image=np.zeros((4, 4, 3), np.uint8), question="Where?"), "Where?")


def test_a_view_is_for_files_of_scans(pipeline, grey, tmp_path):
    with pytest.raises(UsageError, match="plane, slice and window are given for a ndarray"):
        pipeline(grey, "Where?", window="lung")
    Pillow.fromarray(grey).save(tmp_path / "a.png")
    with pytest.raises(medground.ViewError, match="which has no window to choose"):
        pipeline(tmp_path / "a.png", "Where?", window="lung")


def test_a_slice_of_a_scan_is_named_in_the_call(pipeline, shared):
    path = next(shared.glob("data/**/*.nii.gz"))
    result = pipeline(path, "Which dark region lies on the left?", plane="axial", slice=3)
    assert np.array_equal(result.query.image, medground.read_image(path, plane="axial", slice=3))
    with pytest.raises(medground.ViewError):
        pipeline(path, "Which dark region lies on the left?")


def test_an_object_takes_the_place_of_a_component(grey):
    segmenter = Whole()
    pipeline = medground.load("infer/toy", segmenter=segmenter)
    assert pipeline.segmenter is segmenter
    assert pipeline(grey, "Where?").mask.data.all()
    assert repr(pipeline) == "Pipeline(reasoner=toy, prompt_interface=bbox_points, segmenter=Whole)"


def test_an_object_replaces_a_component_that_cannot_be_used(grey):
    recipe = {
        "reasoner": "toy",
        "prompt_interface": "bbox_points",
        "segmenter": {"name": "nobody", "checkpoint": "???"},
    }
    assert medground.load(recipe, segmenter=Whole())(grey, "Where?").mask.data.all()


def test_a_pipeline_is_made_of_objects_alone(grey):
    reasoner, interface = medground.build("reasoner", "toy"), medground.build("prompt_interface", "bbox_points")
    pipeline = medground.Pipeline(reasoner, interface, medground.build("segmenter", "box_fill"), prompt="box")
    result, by_recipe = (
        pipeline(grey, "Where?"),
        medground.load("infer/toy", "segmenter=box_fill", "prompt=box")(grey, "Where?"),
    )
    assert np.array_equal(result.mask.data, by_recipe.mask.data)
    assert result.text == by_recipe.text


def test_a_segmenter_object_is_not_given_what_it_was_not_trained_for(grey):
    box_fill = medground.build("segmenter", "box_fill")
    for make in (
        lambda **words: medground.load("infer/toy", *words, segmenter=box_fill),
        lambda **words: medground.Pipeline(None, medground.build("prompt_interface", "bbox_points"), box_fill, **words),
    ):
        with pytest.raises(RecipeError, match="the segmenter BoxFill was not trained for points"):
            make()
    assert medground.load("infer/toy", "allow_untrained=true", segmenter=box_fill).untrained == ["points"]


def test_a_pipeline_without_a_part_names_what_is_missing(grey):
    reader = medground.Pipeline(prompt_interface=medground.build("prompt_interface", "bbox"))
    with pytest.raises(RecipeError, match=r"the pipeline has no reasoner \(set reasoner=NAME in the recipe, or pass"):
        reader(grey, "Where?")


def test_a_result_is_flat_and_shows_itself(pipeline, grey):
    result = pipeline(grey, "Which bright region lies on the left?")
    (region,) = result.regions
    assert region.box.valid and region.mask is result.mask
    assert result.text.startswith("<think>") and result.reasoning in result.text
    assert result.fault is None
    assert repr(result) == f"GroundingResult(1 region, mask of {result.mask.data.sum()} px, no fault)"
    drawn = np.asarray(Pillow.open(io.BytesIO(result._repr_png_())))
    assert np.array_equal(drawn, np.asarray(result.overlay()))
    assert json.loads(json.dumps(result.to_dict()))["box"] == list(region.box)


def test_types_are_shown_in_one_short_line_and_as_a_picture():
    query = medground.Query(image=np.zeros((480, 640, 3), np.uint8), question="Why? " * 100, id="scan")
    mask = medground.Mask(data=np.eye(300, dtype=bool), score=0.5)
    completion = medground.Completion(text="x" * 1000, frame=None)
    rollout = medground.Rollout(
        sample=medground.Sample(query=query, target=medground.Target(regions=(medground.Region(mask=mask),))),
        completion=completion,
        grounding=medground.Grounding(regions=(medground.Region(mask=mask),)),
    )
    for value in (query, mask, completion, rollout, rollout.sample.target):
        assert len(repr(value)) < 220 and "\n" not in repr(value)
    assert Pillow.open(io.BytesIO(query._repr_png_())).size == (640, 480)
    assert np.array_equal(np.asarray(Pillow.open(io.BytesIO(mask._repr_png_()))) > 0, mask.data)
