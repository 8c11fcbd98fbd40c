"""What the worker does with stored images and answers, without a socket: slices, files of masks, comparison, listening."""

import base64
import gzip

import numpy as np
import pytest
from medground_serve.child import Answerer, Cancelled, WatchedPipeline
from medground_serve.comparison import comparison_recipe
from medground_serve.opened import Opened
from medground_toy.reasoners import RuleReasoner
from page_files import film, picture, series

from medground.errors import InputError, UsageError, ViewError
from medground.images.pictures import png_bytes
from medground.images.read_volume import read_volume
from medground.images.rle import decode_rle
from medground.images.view import View
from medground.pipeline.pipeline import Pipeline
from medground.recipe import resolve

JOB = {"image": "key", "plane": None, "slice": None, "window": None, "masks": "rle"}


@pytest.fixture
def nifti(tmp_path):
    """A zipped volume of 20 x 16 x 6 voxels, axes R, A and S, each of its own value."""
    nibabel = pytest.importorskip("nibabel", reason="needs nibabel")
    values = np.arange(20 * 16 * 6, dtype=np.int16).reshape(20, 16, 6)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 5.0, 1.0])), tmp_path / "image.nii.gz")
    return tmp_path / "image.nii.gz"


@pytest.fixture
def answerer():
    return Answerer(
        WatchedPipeline.from_recipe(resolve("infer/toy")),
        10_000_000,
        Pipeline.from_recipe(comparison_recipe("infer/toy", ["segmenter.tolerance=0.2"], "ellipse")),
    )


def test_of_a_volume_it_is_said_what_there_is_to_choose_and_the_middle_is_shown(answerer, nifti):
    result = answerer.answer({**JOB, "do": "open", "path": str(nifti)})
    assert result["planes"] == {"axial": 6, "coronal": 16, "sagittal": 20}
    assert (result["plane"], result["slice"], result["size"]) == ("axial", 3, [16, 20])
    assert result["formats"]["nifti"] is None and "no DICOM instances" in result["formats"]["seg"]


@pytest.mark.parametrize(("plane", "index"), [("axial", 5), ("axial", 0), ("coronal", 7), ("sagittal", 19)])
def test_slices_of_a_zipped_volume_are_those_of_the_reader(nifti, plane, index):
    opened, view = Opened(), View(plane=plane, slice=index, window="full")
    expected = read_volume(nifti).slice(plane, index, window="full")
    assert (opened.image(nifti, view).pixels == expected.pixels).all()


def test_a_volume_without_a_slice_is_refused(tmp_path):
    pytest.importorskip("pydicom", reason="needs pydicom")
    series(tmp_path / "series")
    with pytest.raises(ViewError, match="slices of a volume"):
        Opened().image(tmp_path / "series", View())


def test_a_film_has_frames_and_a_picture_has_nothing_to_choose(tmp_path):
    pytest.importorskip("pydicom", reason="needs pydicom")
    of_film, first = Opened().choices(film(tmp_path / "film.dcm"))
    of_picture, none = Opened().choices(picture(tmp_path / "scan.png"))
    assert (of_film["planes"], of_film["frames"], first) == (None, 4, View(slice=0))
    assert (of_picture["planes"], of_picture["frames"], none) == (None, None, View())


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_mask_is_written_on_the_voxels_of_its_slice(answerer, nifti, plane):
    nibabel = pytest.importorskip("nibabel", reason="needs nibabel")
    values = np.asarray(nibabel.load(nifti).dataobj)
    picture = read_volume(nifti).values(plane, 4)
    mask = picture > np.median(picture)
    masks = [{"png": base64.b64encode(png_bytes(mask)).decode(), "label": "spot"}]
    job = {**JOB, "do": "export", "path": str(nifti), "plane": plane, "slice": 4, "format": "nifti", "masks": masks}
    result = answerer.answer(job)
    written = nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(result["data"])))
    assert result["name"] == "mask.nii.gz"
    assert set(values[np.asarray(written.dataobj) > 0]) == set(picture[mask])


@pytest.mark.parametrize(
    ("png", "error"),
    [
        ("?", UsageError),
        ("aGVsbG8=", InputError),
        (base64.b64encode(png_bytes(np.ones((3, 4), bool))).decode(), UsageError),
    ],
)
def test_a_mask_that_is_none_of_its_slice_is_refused(answerer, nifti, png, error):
    masks = [{"png": png, "label": ""}]
    job = {**JOB, "do": "export", "path": str(nifti), "plane": "axial", "slice": 4, "format": "nifti", "masks": masks}
    with pytest.raises(error):
        answerer.answer(job)


def test_two_segmenters_are_given_the_same_prompt(answerer, tmp_path):
    prompt = {"box": [175, 72, 225, 120], "points": [], "labels": [], "text": ""}
    job = {**JOB, **prompt, "do": "segment", "path": str(picture(tmp_path / "scan.png")), "compare": True}
    result = answerer.answer(job)
    assert result["compared"]["segmenter"] == "ellipse"
    first, second = (decode_rle(one["mask"]["rle"]) for one in (result["regions"][0], result["compared"]["regions"][0]))
    dice = 2 * (first & second).sum() / (first.sum() + second.sum())
    assert (first != second).any() and result["compared"]["regions"][0]["dice"] == pytest.approx(dice)
    answerer.second = None
    with pytest.raises(UsageError, match="no second segmenter"):
        answerer.answer(job)


class Writing(RuleReasoner):
    """Says its answer in pieces of seven characters."""

    listen = None

    def generate(self, batch, sampling):
        answers = super().generate(batch, sampling)
        text = answers[0][0].text
        for start in range(0, len(text), 7):
            self.listen(text[start : start + 7])
        return answers


def test_what_a_reasoner_writes_is_heard_in_pieces_once_and_may_be_ended(tmp_path):
    pipeline = WatchedPipeline(
        Writing(), *(Pipeline.from_recipe(resolve("infer/toy")).components[kind] for kind in KINDS)
    )
    heard = []
    pipeline.watch = lambda stage, text: heard.append((stage, text))
    text = pipeline(picture(tmp_path / "scan.png"), "Which bright spot is new?").text
    written = [piece for stage, piece in heard if piece]
    assert len(written) > 3 and "".join(written) == text and heard[-1] == ("segmenting", "")

    def watch(stage, piece):
        if stage == "writing":
            raise Cancelled

    pipeline.watch = watch
    with pytest.raises(Cancelled):
        pipeline(picture(tmp_path / "scan.png"), "Which bright spot is new?")


KINDS = ("prompt_interface", "segmenter")
