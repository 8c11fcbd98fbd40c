"""Masks of single images as files: what the table of docs/volumes.md says, and nothing else, is written."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs pydicom")
pytest.importorskip("nibabel", reason="needs nibabel")
pytest.importorskip("highdicom", reason="needs highdicom")

import nibabel
from export_sources import SIDES, write_source
from mask_judges import checked
from pydicom import dcmread

from medground import Completion, Frame, Grounding, LabelledMask, Mask, Query, Region, write_masks
from medground.cli import main
from medground.cli.results import write_result
from medground.errors import InputError, ViewError
from medground.images.label_maps import PALETTE
from medground.images.read import open_image, read_mask
from medground.images.read_volume import read_volume
from medground.images.view import View
from medground.images.writing.write import SUFFIXES, check_format
from medground.pipeline.result import GroundingResult

PAGE = Path(__file__).parents[1] / "docs" / "volumes.md"
PICTURE = (SIDES[1], SIDES[0])
COLUMNS = ("png", "nifti", "nrrd", "seg", "rtstruct", "sc")


def table():
    """The rows of the export table: (source, format, cell)."""
    lines = PAGE.read_text(encoding="utf-8").split("| source | PNG |")[1].splitlines()[2:]
    for line in lines[: lines.index("")]:
        source, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        assert len(cells) == len(COLUMNS)
        yield from ((source, form, cell) for form, cell in zip(COLUMNS, cells, strict=True))


CELLS = list(table())
FILM = "a frame of a film without places"
VIEWS = {"a slice of NIfTI": View(plane="axial", slice=2), FILM: View(slice=3)}


def source_of(kind, folder):
    """(what write_masks takes, the view of it, the shape of a mask)."""
    path = write_source(kind, folder)
    if kind.startswith(("a series", "an enhanced", "a NIfTI")):
        return read_volume(path), View(), SIDES
    return path, VIEWS.get(kind, View()), PICTURE


def cli(*arguments):
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def block(size=PICTURE):
    mask = np.zeros(size, bool)
    mask[6:15, 8:20] = True
    mask[9:12, 10:14] = False
    return mask


def test_the_table_has_every_format_and_eleven_sources():
    assert len(CELLS) == 66 and set(COLUMNS) - {"png"} == set(SUFFIXES)
    assert {cell.split(",")[0] for _, _, cell in CELLS} == {"yes", "no", "with `--force`"}


@pytest.mark.parametrize(("kind", "form", "cell"), [row for row in CELLS if row[1] != "png"])
def test_a_cell_of_the_table_is_true(kind, form, cell, tmp_path):
    source, view, shape = source_of(kind, tmp_path / "in")
    mask = np.zeros(shape, bool)
    mask[3:9, 4:11] = True
    path = tmp_path / f"out{SUFFIXES[form]}"
    if cell.startswith("yes"):
        check_format(form, source, view=view)
        notes = write_masks(path, [LabelledMask(data=mask)], source, view=view)
        assert ["pixels count as 1" in cell, "without a place" in cell] == [
            any(words in note for note in notes) for words in ("count as 1", "does not say where it lies")
        ]
    else:
        with pytest.raises(InputError) as error:
            check_format(form, source, view=view)
        with pytest.raises(InputError, match=re.escape(error.value.message)):
            write_masks(path, [LabelledMask(data=mask)], source, view=view)
        assert error.value.hint and not path.exists()
        if cell == "no":
            with pytest.raises(InputError, match=re.escape(error.value.message)):
                write_masks(path, [LabelledMask(data=mask)], source, view=view, force=True)
            return
        write_masks(path, [LabelledMask(data=mask)], source, view=view, force=True)
    assert path.stat().st_size > 100
    if path.suffix == ".dcm":
        assert checked(path) == []


@pytest.mark.parametrize("kind", sorted({kind for kind, form, cell in CELLS if form == "png" and cell == "yes"}))
def test_ground_writes_every_format_that_the_table_allows(kind, tmp_path):
    path = write_source(kind, tmp_path / "in")
    view = VIEWS.get(kind, View())
    options = [] if view.plane is None else ["--plane", view.plane]
    options += [] if view.slice is None else ["--slice", view.slice]
    forms = [form for source, form, cell in CELLS if (source, cell[:3]) == (kind, "yes") and form != "png"]
    for form in forms:
        options += ["--write", form]
    assert cli("ground", path, "Which bright region?", "--out", tmp_path / "out", *options) == 0
    [result] = [json.loads(file.read_text()) for file in (tmp_path / "out").glob("*.json")]
    assert {"mask", "overlay", *("volume" if form == "nifti" else form for form in forms)} <= result["files"].keys()
    assert all((tmp_path / "out" / name).is_file() for name in result["files"].values())
    assert any("count as 1" in note for note in result["notes"]) == (
        kind in ("PNG, JPEG, TIFF", "ultrasound, endoscopy", FILM)
    )


def test_a_format_that_does_not_fit_is_refused_before_the_question_is_asked(tmp_path, capsys):
    path = write_source("ultrasound, endoscopy", tmp_path / "in")
    assert cli("ground", path, "Which bright region?", "--out", tmp_path / "out", "--write", "seg") == 3
    assert "write .sc.dcm" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert cli("ground", path, "Which?", "--out", tmp_path / "out", "--write", "seg", "--force") == 0


def test_an_answer_that_nothing_fits_leaves_a_note_and_no_dicom_file(tmp_path):
    path = write_source("a slice of CT, MR or PET", tmp_path / "in")
    loaded = open_image(path)
    query = Query(image=loaded.pixels, question="Is there a fracture?", id=loaded.id)
    completion = Completion(text="", frame=Frame("permille", query.size))
    answer = GroundingResult(query=query, completion=completion, grounding=Grounding(), fault=None)
    result = write_result(
        answer, tmp_path / "out", "x", untrained=[], image=loaded, source=path, view=View(), formats=("seg", "nifti")
    )
    assert result["notes"] == ["nothing was written: no mask has a voxel"]
    assert result["files"].keys() == {"mask", "volume", "overlay"}
    assert not np.asarray(nibabel.load(tmp_path / "out/x.mask.nii.gz").dataobj).any()
    assert not list((tmp_path / "out").glob("*.dcm")) and not list((tmp_path / "out").glob(".tmp*"))


def test_the_regions_of_an_answer_are_the_segments_with_their_labels(tmp_path):
    path = write_source("a slice of CT, MR or PET", tmp_path / "in")
    loaded, other = open_image(path), np.flip(block())
    query = Query(image=loaded.pixels, question="Which?", id=loaded.id)
    regions = (Region(mask=Mask(data=block()), label="liver"), Region(mask=Mask(data=other)))
    completion = Completion(text="", frame=Frame("permille", query.size))
    answer = GroundingResult(query=query, completion=completion, grounding=Grounding(regions=regions), fault=None)
    write_result(answer, tmp_path, "x", untrained=[], image=loaded, source=path, view=View(), formats=("seg",))
    for label, expected in (("liver", block()), ("region 2", other)):
        assert np.array_equal(read_mask(tmp_path / "x.mask.seg.dcm", image=path, segment=label), expected)


def test_a_secondary_capture_of_a_film_names_its_frame(tmp_path):
    path = write_source(FILM, tmp_path / "in")
    with pytest.raises(ViewError, match="holds 5 frames"):
        write_masks(tmp_path / "m.sc.dcm", [LabelledMask(data=block())], path)
    write_masks(tmp_path / "m.sc.dcm", [LabelledMask(data=block())], path, view=View(slice=3))
    dataset = dcmread(tmp_path / "m.sc.dcm")
    [source] = dataset.SourceImageSequence
    assert (source.ReferencedSOPInstanceUID, source.ReferencedFrameNumber) == (dcmread(path).SOPInstanceUID, 4)
    assert dataset.pixel_array[0, 0, 0] == 43, "the fourth frame"


def test_a_radiograph_with_a_frame_of_reference_and_no_position_has_a_segmentation(tmp_path):
    path = write_source("radiograph or mammogram", tmp_path / "in")
    dataset = dcmread(path)
    dataset.FrameOfReferenceUID = "1.2.3"
    dataset.save_as(path)
    write_masks(tmp_path / "m.seg.dcm", [LabelledMask(data=block())], path)
    assert checked(tmp_path / "m.seg.dcm") == []
    assert np.array_equal(read_mask(tmp_path / "m.seg.dcm", image=path), block())


def test_a_segmentation_of_one_frame_of_an_enhanced_file_names_it(tmp_path):
    path = write_source("an enhanced multi-frame file", tmp_path / "in")
    volume = read_volume(path)
    view = View(slice=2)
    write_masks(tmp_path / "m.seg.dcm", [LabelledMask(data=block())], path, view=view)
    assert checked(tmp_path / "m.seg.dcm") == []
    for frame in range(SIDES[2]):
        expected = block() if frame == 2 else np.zeros(PICTURE, bool)
        assert np.array_equal(read_mask(tmp_path / "m.seg.dcm", image=path, slice=frame), expected)
    write_masks(tmp_path / "m.nii", [LabelledMask(data=block())], path, view=view)
    k = next(k for k, one in enumerate(volume.origin.instances) if one.frame == 2)
    written = read_volume(tmp_path / "m.nii")
    assert np.allclose(written.to_mm((0, 0, 0)), volume.to_mm((0, 0, k)), atol=1e-4)
    assert np.allclose(written.to_mm((5, 7, 0)), volume.to_mm((5, 7, k)), atol=1e-4)


@pytest.mark.parametrize("kind", ["ultrasound, endoscopy", "endoscopy", "photograph (skin, fundus)"])
def test_a_secondary_capture_is_the_picture_with_the_rim_of_each_mask(kind, tmp_path):
    path = write_source(kind, tmp_path / "in")
    single = np.zeros(PICTURE, bool)
    single[0, :2] = True
    regions = [LabelledMask(data=block(), label="polyp"), LabelledMask(data=single)]
    assert write_masks(tmp_path / "m.sc.dcm", regions, path) == ()
    assert checked(tmp_path / "m.sc.dcm") == []
    dataset, before = dcmread(tmp_path / "m.sc.dcm"), open_image(path).pixels
    expected = before.copy()
    rim = block()
    for row, column in np.argwhere(block()):
        if block()[row - 1 : row + 2, column].all() and block()[row, column - 1 : column + 2].all():
            rim[row, column] = False
    expected[rim], expected[single] = PALETTE[0], PALETTE[1]
    assert np.array_equal(dataset.pixel_array, expected) and rim.sum() < block().sum()
    source = dcmread(path)
    assert dataset.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert dataset.StudyInstanceUID == source.StudyInstanceUID and dataset.BurnedInAnnotation == "YES"
    assert dataset.Modality == source.Modality and "polyp; region 2; not for diagnosis" in dataset.DerivationDescription


@pytest.mark.parametrize("suffix", [".nii", ".seg.nrrd"])
def test_a_mask_of_one_slice_lies_where_a_volume_of_that_slice_lies(suffix, tmp_path):
    path = write_source("a slice of CT, MR or PET", tmp_path / "in")
    write_masks(tmp_path / f"m{suffix}", [LabelledMask(data=block())], path)
    assert np.allclose(read_volume(tmp_path / f"m{suffix}").affine, read_volume([path]).affine, atol=1e-4)


@pytest.mark.parametrize("suffix", [".nii", ".seg.nrrd", ".seg.dcm"])
def test_a_slice_of_unknown_thickness_is_written_with_a_note(suffix, tmp_path):
    path = write_source("a slice of CT, MR or PET", tmp_path / "in")
    dataset = dcmread(path)
    del dataset.SliceThickness
    dataset.save_as(path)
    [note] = write_masks(tmp_path / f"m{suffix}", [LabelledMask(data=block())], path)
    assert note == "the source does not say how thick its slice is: 1 mm is assumed"
    assert write_masks(tmp_path / "m.sc.dcm", [LabelledMask(data=block())], path) == ()


def test_endoscopy_is_refused_as_ultrasound_is(tmp_path):
    path = write_source("endoscopy", tmp_path / "in")
    with pytest.raises(InputError, match="is ultrasound or endoscopy"):
        write_masks(tmp_path / "m.seg.dcm", [LabelledMask(data=block())], path)
    write_masks(tmp_path / "m.nii", [LabelledMask(data=block())], path)


def test_nifti_keeps_the_pixel_spacing_of_a_radiograph_and_counts_pixels_of_a_picture(tmp_path):
    for kind, spacing, unit in (("radiograph or mammogram", (0.3, 0.2), "mm"), ("PNG, JPEG, TIFF", (1, 1), "unknown")):
        path = write_source(kind, tmp_path / "in")
        write_masks(tmp_path / "m.nii", [LabelledMask(data=block())], path)
        image = nibabel.load(tmp_path / "m.nii")
        assert np.allclose(image.header.get_zooms()[:2], spacing) and image.header.get_xyzt_units()[0] == unit
        assert image.header["descrip"].item()
        assert np.array_equal(np.asarray(image.dataobj)[:, :, 0].T, block())
        view = {"plane": "axial", "slice": 0}
        assert np.array_equal(read_mask(tmp_path / "m.nii", **view), block()), "as the picture is shown"
