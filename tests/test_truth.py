"""What the truth of a sample is does not depend on who reads it, in what frame a file lies, or how a split arises."""

import json
import shutil

import numpy as np
import pytest
from medground_data.command import data as data_command
from medground_data.readers import read_source
from PIL import Image as Pillow

import medground
from medground.cli import main
from medground.data.json_text import MAX_LINE, parse_json, read_json, read_json_lines
from medground.data.lint import lint
from medground.data.open_dataset import open_dataset
from medground.data.source_samples import BadSample
from medground.data.splits import complete_splits
from medground.errors import InputError
from medground.images.rle import encode_rle
from medground.runs.shareable import without_paths

QUESTION = "Which bright region of the picture is meant?"


def write(folder, *lines):
    """A manifest in a folder with a picture a.png of 20 x 30 and a mask m.png."""
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    mask = np.zeros((20, 30), np.uint8)
    mask[4:14, 2:14] = 255
    Pillow.fromarray(noise).save(folder / "a.png")
    Pillow.fromarray(mask).save(folder / "m.png")
    words = [{"image": "a.png", "mask": "m.png", "question": QUESTION, **line} for line in lines]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in words))
    return folder


# JSON lines


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('\ufeff{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ('{"a": "x\u2028y\u0085z"}\n{"a": 2}', [{"a": "x\u2028y\u0085z"}, {"a": 2}]),
        ('{"a": 1}\r\n\r\n{"a": 2}\r\n', [{"a": 1}, {"a": 2}]),
        ('{"a": "\\ud83d\\ude00"}\n', [{"a": "\U0001f600"}]),
    ],
)
def test_every_line_of_valid_json_lines_is_read(tmp_path, text, values):
    (tmp_path / "x.jsonl").write_bytes(text.encode())
    assert [line.value for line in read_json_lines(tmp_path / "x.jsonl")] == values


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"a": "\\ud83d"}', "not Unicode: it holds half of a surrogate pair"),
        (b'{"a": 1, "b": 2, "a": 3}', "not clear: it states 'a' twice"),
        ('{"a": "é"}'.encode("latin-1"), "not UTF-8"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not JSON"),
        (b'"' + b"x" * MAX_LINE + b'"', f"longer than {MAX_LINE} bytes"),
    ],
)
def test_a_line_that_could_be_read_in_two_ways_is_refused_and_the_next_is_read(tmp_path, line, problem):
    (tmp_path / "x.jsonl").write_bytes(line + b'\n{"b": 1}\n')
    first, second = read_json_lines(tmp_path / "x.jsonl")
    assert (first.problem, second.value, second.number) == (problem, {"b": 1}, 2)


def test_an_archive_and_other_encodings_are_named(tmp_path):
    folder = write(tmp_path / "in", {"id": "a"})
    shutil.make_archive(str(tmp_path / "pics"), "zip", folder)
    for read in (lambda path: list(read_json_lines(path)), open_dataset, lint, read_source):
        with pytest.raises(InputError, match=r"pics\.zip is a zip archive"):
            read(tmp_path / "pics.zip")
    (tmp_path / "x.jsonl").write_text('{"a": 1}', encoding="utf-16")
    with pytest.raises(InputError, match="is UTF-16 text"):
        list(read_json_lines(tmp_path / "x.jsonl"))


def test_a_line_has_at_most_ten_million_bytes_with_its_end(tmp_path):
    longest = b'"' + b"x" * 9_999_997 + b'"\n'
    (tmp_path / "x.jsonl").write_bytes(longest + b'"x' + longest[1:] + b"3\n")
    lines = list(read_json_lines(tmp_path / "x.jsonl"))
    assert [(line.number, line.problem) for line in lines] == [
        (1, ""), (2, "longer than 10000000 bytes"), (3, "")]  # fmt: skip
    assert (len(lines[0].value), lines[2].value) == (9_999_997, 3)


def test_the_last_line_of_a_file_that_is_being_written_is_not_read(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'1\n2\n{"a": 3')
    assert [line.value for line in read_json_lines(tmp_path / "x.jsonl", own=True)] == [1, 2]
    assert [line.problem for line in read_json_lines(tmp_path / "x.jsonl")] == ["", "", "not JSON"]


def test_a_json_file_of_more_than_512_mb_is_refused_with_its_size(tmp_path):
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(600_499_999)  # takes no room on disk
    with pytest.raises(InputError, match=r"x\.json takes 600 MB"):
        read_json(tmp_path / "x.json")


def test_a_byte_order_mark_is_no_content():
    assert parse_json(b"\xef\xbb\xbf[1]") == [1]


# Ids


def test_the_id_0_stays_0_and_a_number_is_its_digits(tmp_path):
    folder = write(tmp_path, {"id": 0}, {"id": "1"}, {"id": 2})
    assert open_dataset(folder).ids == ["0", "1", "2"]
    assert [sample.id for sample in read_source(folder)] == ["0", "1", "2"]
    write(tmp_path, {"id": 3}, {"id": "3"})
    with pytest.raises(InputError, match="two samples are called '3'"):
        open_dataset(folder)


@pytest.mark.parametrize("word", ["id", "patient", "study", "volume", "group"])
@pytest.mark.parametrize("value", [1.0, True, [1], {"a": 1}])
def test_a_name_is_a_text_or_a_whole_number(tmp_path, word, value):
    folder = write(tmp_path, {"id": "a", word: value})
    with pytest.raises(InputError, match=f"{word} is no text and no whole number"):
        open_dataset(folder)
    [bad] = read_source(folder)
    assert isinstance(bad, BadSample)
    assert "bad_word" in {finding.code for finding in lint(folder)[0]}


def answer(box):
    x1, y1, x2, y2 = box
    points = f'"points_1": [{x1}, {y1}], "points_2": [{x2}, {y2}]'
    return f'<think>x</think><answer>{{"bbox": [{x1}, {y1}, {x2}, {y2}], {points}}}</answer>'


def predictions(path, *pairs):
    lines = [{"id": name, "prediction": answer(box), "frame": "pixel"} for name, box in pairs]
    path.write_text("\ufeff" + "".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_predictions_meet_samples_by_id_in_any_order_and_spelling(tmp_path):
    folder = write(
        tmp_path, {"id": 0, "mask": None, "bbox": [2, 4, 14, 14]}, {"id": 1, "mask": None, "bbox": [5, 5, 9, 9]}
    )
    recipe = {"prompt_interface": "bbox_points", "data": {"path": str(folder)}, "evaluate": {"n_boot": 20}}
    saved = predictions(tmp_path / "p.jsonl", ("1", (5, 5, 9, 9)), (0, (2, 4, 14, 14)))
    assert medground.evaluate(recipe, predictions=saved).mean("iou") == 1
    saved = predictions(tmp_path / "p.jsonl", (1.0, (5, 5, 9, 9)), (0, (2, 4, 14, 14)))
    with pytest.raises(InputError, match="id is no text and no whole number"):
        medground.evaluate(recipe, predictions=saved)
    saved = predictions(tmp_path / "p.jsonl", (None, (5, 5, 9, 9)), (0, (2, 4, 14, 14)))
    with pytest.raises(InputError, match="names some of its samples and not others"):
        medground.evaluate(recipe, predictions=saved)


def test_predictions_of_samples_that_are_not_measured_are_counted(tmp_path, caplog):
    folder = write(tmp_path, {"id": "a", "mask": None, "bbox": [2, 4, 14, 14]})
    recipe = {"prompt_interface": "bbox_points", "data": {"path": str(folder)}, "evaluate": {"n_boot": 20}}
    saved = predictions(tmp_path / "p.jsonl", ("a", (2, 4, 14, 14)), ("b", (2, 4, 14, 14)), ("c", (2, 4, 14, 14)))
    assert medground.evaluate(recipe, predictions=saved).mean("iou") == 1
    assert "p.jsonl answers 2 samples that are not measured, the first: b" in caplog.messages


# Groups and splits


def splits(folder):
    return {entry.id: entry.split for entry in open_dataset(folder).entries}


@pytest.mark.parametrize("word", ["patient", "study", "volume", "group"])
def test_a_made_split_keeps_together_what_belongs_together(tmp_path, word):
    for number in range(60):
        Pillow.new("RGB", (9, 9), (4 * number, 0, 0)).save(tmp_path / f"{number}.png")
    lines = [
        {"id": f"{number}", "image": f"{number}.png", "mask": None, "bbox": [1, 1, 5, 5], word: f"case {number // 3}"}
        for number in range(60)
    ]
    by_id = splits(write(tmp_path, *lines))
    assert all(len({by_id[str(3 * group + part)] for part in range(3)}) == 1 for group in range(20))
    assert len(set(by_id.values())) > 1, "and not all in one"
    assert "group_across_splits" not in {finding.code for finding in lint(tmp_path)[0]}


def test_what_is_joined_through_others_is_joined():
    owners = [
        {"patient": "p", "image": "1"},
        {"patient": "p", "volume": "v", "image": "2"},
        {"volume": "v", "image": "3"},
    ]
    owners += [{"image": "4"}, {"image": "4", "study": "s"}, {"study": "s", "image": "5"}]
    first, second = set(complete_splits([None] * 6, owners)[:3]), set(complete_splits([None] * 6, owners)[3:])
    assert len(first) == len(second) == 1
    assert complete_splits([None, None, "test", "val", None, None], owners) == ["test"] * 3 + ["val"] * 3
    with pytest.raises(InputError, match="sample 2 names no split, and what belongs with it is in test and train"):
        complete_splits(["train", None, "test", "val", "val", "val"], owners)


def test_a_stated_split_that_parts_a_study_is_found(tmp_path):
    folder = write(tmp_path, {"id": "a", "study": 7, "split": "train"}, {"id": "b", "study": 7, "split": "test"})
    [says] = [finding.says for finding in lint(folder)[0] if finding.code == "group_across_splits"]
    assert says == "its study '7' is in 'train' too (a)"


def test_slices_of_one_volume_stay_together_in_the_shared_case(shared):
    by_id = splits(shared / "cases" / "imaging" / "volume_split")
    assert len(by_id) == 24
    assert all(
        len({split for name, split in by_id.items() if name.startswith(volume)}) == 1 for volume in ("v0_", "v1_")
    )


def test_files_of_one_dicom_patient_stay_together(tmp_path):
    pydicom = pytest.importorskip("pydicom", reason="needs pydicom")
    lines = []
    for number in range(16):
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = f"1.2.{number + 1}"
        dataset.PatientID, dataset.Modality = f"patient {number // 8}", "MR"
        dataset.Rows = dataset.Columns = 32
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 7, 0, 1
        dataset.PhotometricInterpretation, dataset.PixelData = "MONOCHROME2", bytes([number]) * 1024
        dataset.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
        lines.append({"id": f"{number}", "image": f"{number}.dcm", "mask": None, "bbox": [1, 1, 9, 9]})
    by_id = splits(write(tmp_path, *lines))
    assert all(len({by_id[str(8 * patient + part)] for part in range(8)}) == 1 for patient in range(2))


# Impossible truth


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ({"bbox": [14, 14, 2, 4]}, "inverted_box"),
        ({"bbox": [2, 4, 2, 14]}, "degenerate_box"),
        ({"bbox": [2, 4, 31, 14]}, "box_out_of_frame"),
        ({"bbox": [2, 4, 14, 14], "size": [40, 60]}, "size_stated"),
        ({"bbox": [2, 4, 14, 14], "point_2d": [[30, 3]]}, "point_out_of_frame"),
        ({"bbox": [2, 4, 14, 14], "spacing": [0, -1]}, "bad_number"),
        ({"bbox": [2, 4, 14, 14], "size": [20.5, 30]}, "bad_number"),
        ({"bbox": [10**400, 4, 14, 14]}, "bad_number"),
        ({"bbox": [20, 14, 30, 20], "mask": "m.png"}, "box_mask_mismatch"),
        ({"mask": encode_rle(np.zeros((20, 30), bool))}, "empty_mask"),
    ],
)
def test_impossible_truth_is_refused_by_every_reader(tmp_path, words, code):
    folder = write(tmp_path, {"id": "a", "mask": None, **words})
    with pytest.raises(InputError):
        open_dataset(folder)[0]
    assert code in {finding.code for finding in lint(folder)[0]}
    if code != "box_mask_mismatch":
        write(tmp_path, {"id": "a", **words})
    with pytest.raises(InputError):
        build(folder, tmp_path / "out")


def build(source, out, *options):
    from click.testing import CliRunner

    result = CliRunner().invoke(data_command, ["build", str(source), "--out", str(out), *options])
    if result.exception:
        raise result.exception
    return json.loads((out / "build.json").read_text())


# What a build says and does


def test_a_build_says_what_the_linter_finds_in_the_source(tmp_path):
    folder = write(
        tmp_path / "in", {"id": "a", "modality": "CTT", "mask": "l.png", "bbox": [2, 4, 13, 13]}, {"id": "b"}
    )
    labels = np.zeros((20, 30), np.uint8)
    labels[4:14, 2:8], labels[4:14, 8:14] = 1, 2
    Pillow.fromarray(labels).save(folder / "l.png")
    summary = build(folder, tmp_path / "out")
    assert summary["findings"] == {"inclusive_box": 1, "many_valued_mask": 1, "unknown_modality": 1}
    findings = [json.loads(line) for line in (tmp_path / "out/findings.jsonl").read_text().splitlines()]
    assert {finding["where"] for finding in findings} == {"manifest.jsonl line 1"}
    Pillow.new("RGB", (30, 20)).save(folder / "a.png")
    with pytest.raises(SystemExit) as left:
        main(["data", "build", str(folder), "--out", str(tmp_path / "none")])
    assert left.value.code == 3


def test_the_second_of_two_builds_of_one_folder_is_refused(tmp_path, capsys):
    from filelock import FileLock

    folder = write(tmp_path / "in", {"id": "a"})
    command = ["data", "build", str(folder), "--out", str(tmp_path / "out")]
    with FileLock(tmp_path / "out.building.lock"), pytest.raises(SystemExit) as left:
        main(command)
    assert left.value.code == 1
    assert "is being built by another process" in capsys.readouterr().err
    assert not (tmp_path / "out.building").exists()
    with pytest.raises(SystemExit) as left:
        main(command)
    assert not left.value.code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


# Names of people

CANARY = "KANARIENVOGEL"


@pytest.mark.parametrize("format", ["umrg", "coco"])
@pytest.mark.parametrize("word", ["patient", "study", "volume"])
def test_an_export_holds_a_pseudonym_in_place_of_a_name(tmp_path, format, word):
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    from medground.data.export import export

    folder = write(tmp_path / CANARY, *({"id": str(number), word: CANARY, "split": "train"} for number in range(2)))
    export(folder, tmp_path / "out", format)
    assert all(CANARY.encode() not in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    if format == "umrg":
        groups = {entry.labels["group"] for entry in open_dataset(tmp_path / "out").entries}
    else:
        groups = {sample.labels["group"] for sample in read_source(tmp_path / "out")}
    assert len(groups) == 1


def test_reports_show_a_recipe_without_local_paths(tmp_path):
    folder = write(tmp_path / CANARY, {"id": "a"})
    recipe = {"prompt_interface": "bbox_points", "data": {"path": str(folder)}, "evaluate": {"n_boot": 20}}
    saved = predictions(tmp_path / "p.jsonl", ("a", (2, 4, 14, 14)))
    medground.evaluate(recipe, predictions=saved, out=tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert CANARY not in page and "path: ???" in page


@pytest.mark.parametrize(
    "text",
    [
        "data:\n  path: /home/KANARIENVOGEL/scans\n",
        "data: {path: KANARIENVOGEL}\n",
        "# /home/KANARIENVOGEL/mine.yaml\nseed: 1\n---\n# command line\n# data.path=KANARIENVOGEL\n",
        'data:\n  path: "\\x4bANARIENVOGEL/a b"\n',
        "reasoner:\n  name: toy\n  checkpoint: ~/KANARIENVOGEL\ntrackers:\n- {name: x, folder: ../KANARIENVOGEL}\n",
    ],
)
def test_no_local_path_is_left_in_a_recipe_that_is_shown(text):
    shown = without_paths(text)
    assert "ANARIENVOGEL" not in shown and "???" in shown


def test_hub_ids_stay_in_a_recipe_that_is_shown():
    text = "data:\n  path: owner/set\nreasoner:\n  checkpoint: Qwen/Qwen3-VL-4B-Instruct\n"
    assert without_paths(text) == text
