"""What an answer measures is in its JSON, below its overlay and on an evaluation's page: in mm where the spacing is known."""

import json

import numpy as np
import pytest

import medground
from medground.cli import main
from medground.evaluation.pictures import picture
from medground.evaluation.results_file import AnswerRecord, MaskRecord, SampleRecord, TargetRecord

pytest.importorskip("pydicom", reason="needs pydicom")

from series_files import affine_of, placed
from series_files import picture as slice_of


@pytest.fixture
def scan(tmp_path):
    rows = np.full((80, 100), -900)
    rows[20:50, 10:30] = 60
    slice_of(rows, **placed(affine_of(np.eye(3)), 0)).save_as(tmp_path / "scan.dcm", enforce_file_format=True)
    return tmp_path / "scan.dcm"


def run(arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code in (0, None)


def ground(source):
    return medground.load("infer/toy", "segmenter=threshold")(source, "Which bright region lies on the left?")


def test_a_scan_with_a_spacing_is_measured_in_mm(scan):
    figures = ground(scan).to_dict()["mask"]
    measures = figures["measures"]
    assert measures["area_mm2"] == pytest.approx(figures["area"] * 0.6 * 0.8)
    assert {"long_axis_mm", "short_axis_mm", "centroid_px"} <= measures.keys() and measures["axes"] == "face midpoints"


def test_a_picture_without_a_spacing_is_measured_in_pixels(scan):
    pixels = medground.read_image(scan)
    measured, unmeasured = ground(scan), ground(pixels)
    measures = unmeasured.to_dict()["mask"]["measures"]
    assert "long_axis_px" in measures and not [key for key in measures if "mm" in key]
    assert np.array_equal(measured.mask.data, unmeasured.mask.data)
    assert measured.overlay().height > unmeasured.overlay().height, "a line of measures stands below the picture"


def test_an_empty_mask_has_no_measures():
    from medground.pipeline.result import GroundingResult
    from medground.types import Completion, Grounding, Mask, Query, Region

    query = Query(image=np.zeros((40, 60, 3), np.uint8), question="?", spacing=(1.0, 1.0))
    region = Region(mask=Mask(data=np.zeros((40, 60), bool)))
    result = GroundingResult(
        query=query, completion=Completion(text="", frame=None), grounding=Grounding(regions=(region,)), fault=None
    )
    assert result.to_dict()["mask"]["measures"] is None
    assert (
        result.overlay().size
        == GroundingResult(
            query=Query(image=query.image, question="?"),
            completion=result.completion,
            grounding=result.grounding,
            fault=None,
        )
        .overlay()
        .size
    )


def test_the_command_line_says_what_is_measured(scan, tmp_path, capsys):
    arguments = ["ground", str(scan), "Which bright region lies on the left?", "--out", str(tmp_path / "out")]
    run(arguments)
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("measures"))
    assert "mm (axes between face midpoints), area" in line
    run([*arguments, "--json"])
    assert "long_axis_mm" in json.loads(capsys.readouterr().out)["mask"]["measures"]


@pytest.mark.parametrize("spacing", [None, (0.5, 0.25)])
def test_the_page_of_an_evaluation_says_what_answer_and_truth_measure(spacing):
    from medground.images.rle import encode_rle
    from medground.types import Mask, Query, Region, Sample, Target

    answer, truth = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    answer[10:20, 5:25], truth[10:30, 5:25] = True, True
    mask = MaskRecord(rle=encode_rle(answer), score=1.0)
    measured = AnswerRecord(
        fault=None,
        cause="",
        box=None,
        points=[],
        masks={"joint": mask},
        values={},
        undefined=[],
        excluded=[],
        details={},
    )
    record = SampleRecord(
        condition="answer", id="a", question="?", size=[40, 60], labels={}, cluster="", values={"iou": 0.5}, answers=[measured],
        target=TargetRecord(box=None, points=[], share=0.1, area=400),
    )  # fmt: skip
    query = Query(image=np.zeros((40, 60, 3), np.uint8), question="?")
    sample = Sample(query=query, target=Target(regions=(Region(mask=Mask(data=truth)),)), spacing=spacing)
    remark = picture(record, sample, "iou").remark
    if spacing is None:
        assert remark == ""
    else:
        assert remark == "answer 6.9 x 6.8 mm and truth 11.1 x 5.5 mm (axes between face midpoints)"
