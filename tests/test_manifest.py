"""One manifest has one meaning: for samples of a dataset, for `data build` and for the linter."""

import json

import numpy as np
import pytest
from medground_data.readers import read_source
from PIL import Image as Pillow

from medground.data.json_text import JsonLine
from medground.data.lint import lint
from medground.data.manifest import misfits, parse_record
from medground.data.open_dataset import open_dataset
from medground.data.source_samples import BadSample
from medground.errors import InputError
from medground.images.rle import encode_rle

SIZE = (20, 30)
LABELS = np.zeros(SIZE, np.uint8)
LABELS[4:14, 2:14] = 1
LABELS[2:18, 18:28] = 3
QUESTION = "Which bright region of the picture is meant?"


@pytest.fixture
def folder(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    Pillow.fromarray(noise).save(tmp_path / "image.png")
    Pillow.fromarray(LABELS).save(tmp_path / "labels.png")
    return tmp_path


def write(folder, **words):
    line = {"id": "a", "image": "image.png", "question": QUESTION, **words}
    (folder / "manifest.jsonl").write_text(json.dumps(line) + "\n")


def masks(folder):
    """The mask as a sample's, and as a source sample's."""
    [sample], [source] = open_dataset(folder), read_source(folder)
    return sample.target.mask, source.load_mask()


@pytest.mark.parametrize("value", [1, 3])
def test_mask_value_selects_one_label_everywhere(folder, value):
    write(folder, mask="labels.png", mask_value=value)
    for mask in masks(folder):
        assert np.array_equal(mask, value == LABELS)
    sample = open_dataset(folder)[0]
    rows, columns = np.nonzero(value == LABELS)
    assert sample.target.region.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert "mask_value" not in sample.labels
    assert lint(folder)[0] == []


def test_without_mask_value_every_label_is_foreground_and_the_linter_warns(folder):
    write(folder, mask="labels.png")
    for mask in masks(folder):
        assert np.array_equal(mask, LABELS > 0)
    assert [finding.code for finding in lint(folder)[0]] == ["many_valued_mask"]


def test_a_run_length_mask_is_read_everywhere(folder):
    write(folder, mask=encode_rle(LABELS == 3))
    for mask in masks(folder):
        assert np.array_equal(mask, LABELS == 3)
    assert lint(folder)[0] == []


def test_a_run_length_mask_of_another_size_is_refused_everywhere(folder):
    write(folder, mask=encode_rle(LABELS.T == 3))
    with pytest.raises(InputError, match=r"a.: the mask is 30 x 20 and its image 20 x 30"):
        open_dataset(folder)[0]
    assert [finding.code for finding in lint(folder)[0]] == ["transposed_mask"]


def test_bbox_means_bbox_2d_everywhere(folder):
    write(folder, mask="labels.png", mask_value=1, bbox=[2, 4, 14, 14])
    [sample], [source] = open_dataset(folder), read_source(folder)
    assert sample.target.region.box == source.box == (2, 4, 14, 14)
    assert "bbox" not in sample.labels
    assert lint(folder)[0] == []
    write(folder, mask="labels.png", mask_value=1, bbox=[2, 4, 12, 10])  # x, y, width, height
    assert [finding.code for finding in lint(folder)[0]] == ["box_mask_mismatch"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"mask": "labels.png", "mask_value": "1"}, "mask_value is not a whole number: '1'"),
        ({"mask": encode_rle(LABELS == 3), "mask_value": 1}, "mask_value selects a value of a label map"),
        ({"mask": "labels.png", "bbox": [0, 0, 1, 1], "bbox_2d": [0, 0, 2, 2]}, "bbox is not the box of bbox_2d"),
        ({"mask": 3}, "mask is no path and no run lengths: '3'"),
        ({"mask": "labels.png", "spacing": [1]}, "spacing is not 2 positive numbers: '[1]'"),
        ({"mask": "labels.png", "question": ["?"]}, "question is not text"),
    ],
)
def test_a_word_of_the_wrong_kind_is_refused_in_the_same_words_everywhere(folder, words, text):
    write(folder, **words)
    with pytest.raises(InputError, match="manifest line 1: ") as error:
        open_dataset(folder)
    [bad] = read_source(folder)
    [finding, *_] = lint(folder)[0]
    assert isinstance(bad, BadSample)
    for message in (error.value.message, bad.reason, finding.says):
        assert text in message


def test_further_words_are_labels_and_lists_are_not():
    words = {"image": "a.png", "patient": "p7", "age": 3, "contrast": True, "list": [1], "empty": "", "none": None}
    assert parse_record(JsonLine(1, words)).labels == {"patient": "p7", "age": "3", "contrast": "True"}


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("mask_values", "mask_value"),
        ("patient_id", "patient"),
        ("Spacing", "spacing"),
        ("box", "bbox"),
        ("masks", "mask"),
    ],
)
def test_a_word_that_is_nearly_one_of_a_manifest_is_no_label(folder, word, meant):
    write(folder, **{word: [0, 0, 9, 9] if word == "box" else "1"})
    with pytest.raises(InputError, match=f"{word} is no word of a manifest: write {meant}, or rename the label"):
        open_dataset(folder)


def test_other_words_are_labels(folder):
    write(folder, bbox_2d=[0, 0, 9, 9], site="left", scanner="a", image_id="7")
    assert {"site": "left", "scanner": "a", "image_id": "7"}.items() <= open_dataset(folder)[0].labels.items()


def test_a_line_that_is_no_object_or_no_json_is_its_only_flaw(folder):
    assert [flaw.text for flaw in parse_record(JsonLine(1, [1])).flaws] == ["not a JSON object"]
    assert [flaw.text for flaw in parse_record(JsonLine(1, {}, problem="not JSON")).flaws] == ["not JSON"]
    (folder / "manifest.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match="manifest line 1: not a JSON object") as error:
        open_dataset(folder)
    assert error.value.hint == "fix or remove the line"


def test_the_first_of_two_flaws_is_raised(folder):
    write(folder, mask="labels.png", mask_value="1", question=3)
    with pytest.raises(InputError, match="mask_value is not a whole number: '1'"):
        open_dataset(folder)
    assert [flaw.word for flaw in parse_record(JsonLine(1, {"image": "a", "split": 1, "plane": 2})).flaws] == [
        "split", "plane"]  # fmt: skip


def test_spacing_and_size_are_two_numbers_along_y_and_x():
    record = parse_record(JsonLine(1, {"image": "a.png", "spacing": [0.5, 2], "size": [20, 30]}))
    assert (record.spacing, record.size, record.flaws) == ((0.5, 2.0), (20, 30), ())
    for size in ([20, 30, 3], [20], 20, [20, 0], [20, 30.0]):
        record = parse_record(JsonLine(1, {"image": "a.png", "size": size}))
        assert record.size is None
        assert record.flaws[0].text.startswith("size is not [height, width] in whole pixels")


def test_bbox_2d_is_the_box_where_bbox_is_another():
    record = parse_record(JsonLine(1, {"image": "a.png", "bbox_2d": [1, 2, 3, 4], "bbox": [1, 2, 2, 2]}))
    assert record.box == (1, 2, 3, 4)
    assert [flaw.word for flaw in record.flaws] == ["bbox"]


@pytest.mark.parametrize(
    ("point", "inside"),
    [((0, 0), True), ((29.9, 19.9), True), ((30, 0), False), ((0, 20), False), ((-0.1, 0), False), ((0, -0.1), False)],
)
def test_a_point_lies_inside_from_0_to_below_the_side(point, inside):
    record = parse_record(JsonLine(1, {"image": "a.png", "point_2d": [list(point)]}))
    assert [flaw.code for flaw in misfits(record, SIZE)] == ([] if inside else ["point_out_of_frame"])


REGION = {"mask": "labels.png", "mask_value": 1, "bbox_2d": [1, 2, 9, 9], "point_2d": [[3, 4]], "label": "upper one"}


def test_regions_hold_the_words_of_a_target_each():
    record = parse_record(JsonLine(4, {"image": "a.png", "regions": [REGION, {"bbox": [0, 0, 3, 3]}]}))
    first, second = record.regions
    assert record.flaws == () and record.targets == record.regions
    assert (first.mask, first.mask_value, first.box, first.points, first.label) == (
        "labels.png", 1, (1, 2, 9, 9), ((3, 4),), "upper one")  # fmt: skip
    assert (second.mask, second.box, second.image, second.number) == (None, (0, 0, 3, 3), "a.png", 4)
    assert parse_record(JsonLine(1, {"image": "a.png", "regions": []})).targets == ()
    alone = parse_record(JsonLine(1, {"image": "a.png", "bbox_2d": [1, 2, 9, 9]}))
    assert alone.regions is None and alone.targets == (alone,)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"regions": {}}, "regions is not a list of objects"),
        ({"regions": [3]}, "regions is not a list of objects"),
        ({"regions": [REGION], "bbox_2d": [1, 2, 9, 9]}, "regions and bbox_2d are both stated"),
        ({"regions": [], "mask": "labels.png"}, "regions and mask are both stated"),
        ({"regions": [REGION, {"label": "x"}]}, "region 2: needs a mask or a bbox_2d"),
        ({"regions": [{**REGION, "maks": 1}]}, "region 1: maks is no word of a region"),
        ({"regions": [{**REGION, "bbox_2d": [1, 2]}]}, "region 1: bbox_2d is not 4 finite numbers"),
        ({"regions": [{**REGION, "bbox_2d": [9, 2, 1, 9]}]}, "region 1: its box [9.0, 2.0, 1.0, 9.0] has its corners"),
        ({"regions": [{"mask": {"size": [1, 1], "counts": [1]}, "mask_value": 1}]}, "region 1: mask_value selects"),
        ({"bbox_2d": [1, 2, 9, 9], "exhaustive": [""]}, "exhaustive is not a list of categories"),
    ],
)
def test_wrong_regions_are_refused_in_the_same_words_everywhere(folder, words, text):
    write(folder, **words)
    with pytest.raises(InputError, match="manifest line 1: ") as error:
        open_dataset(folder)
    [bad] = read_source(folder)
    says = [finding.says for finding in lint(folder)[0]]
    assert text in error.value.message and text in bad.reason and any(text in one for one in says)


def test_boxes_and_points_of_every_region_must_lie_in_the_image():
    regions = [{"bbox_2d": [0, 0, 5, 5]}, {"bbox_2d": [0, 0, 99, 5], "point_2d": [[99, 1]]}]
    record = parse_record(JsonLine(1, {"image": "a.png", "regions": regions}))
    assert [flaw.code for flaw in misfits(record, SIZE)] == ["box_out_of_frame", "point_out_of_frame"]


def test_a_label_of_old_that_has_the_name_of_a_new_word_stays_a_label():
    words = {
        "image": "a.png",
        "bbox_2d": [1, 2, 9, 9],
        "regions": 3,
        "exhaustive": "yes",
        "label": "x",
        "region": "chest",
    }
    record = parse_record(JsonLine(1, words))
    assert record.flaws == () and record.regions is None and record.exhaustive == () and record.label == ""
    assert record.labels == {"regions": "3", "exhaustive": "yes", "label": "x", "region": "chest"}
