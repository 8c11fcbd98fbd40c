"""Sources of every layout become cases; what cannot be used is listed, and the rest is read."""

import json
import sys

import numpy as np
import pytest
from medground_data.readers import read_cases
from PIL import Image as Pillow

from medground.data.samples import read_samples
from medground.data.source_samples import BadSample, SourceSample
from medground.errors import InputError, PluginError, UsageError
from medground.images.pictures import read_image


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(array).save(path)


def picture(seed=0, size=(20, 30)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def square(x=5, y=6, size=(20, 30)):
    mask = np.zeros(size, np.uint8)
    mask[y : y + 4, x : x + 5] = 255
    return mask


def split_by_kind(found):
    found = list(found)
    return [each for each in found if isinstance(each, SourceSample)], [
        each for each in found if isinstance(each, BadSample)
    ]


def test_a_folder_pairs_by_stem_by_suffix_and_by_subfolder(tmp_path):
    for name in ("a", "b", "c", "d"):
        save(tmp_path / f"images/{name}.png", picture())
    save(tmp_path / "masks/a.png", square(1))
    save(tmp_path / "masks/b__left-lung.png", square(2))
    save(tmp_path / "masks/b__heart.png", square(3))
    save(tmp_path / "masks/polyp/c.png", square(4))
    cases, bad = split_by_kind(read_cases(tmp_path, category="thing", modality="CT"))
    assert [(case.id, case.labels["category"]) for case in cases] == [
        ("a", "thing"), ("b__heart", "heart"), ("b__left_lung", "left lung"), ("c__polyp", "polyp"),
    ]  # fmt: skip
    assert bad == [BadSample("d.png", "no mask has its name")]
    assert {case.labels["modality"] for case in cases} == {"CT"}
    assert [int(np.argmax(case.read_mask().any(axis=0))) for case in cases] == [1, 3, 2, 4]
    assert cases[1].image_key == cases[2].image_key != cases[0].image_key
    assert np.array_equal(cases[0].read_image(), picture())


def test_a_folder_may_hold_splits(tmp_path):
    for split in ("train", "test"):
        save(tmp_path / split / "images/a.png", picture())
        save(tmp_path / split / "masks/a.png", square())
    cases, _ = split_by_kind(read_cases(tmp_path, question="where?"))
    assert [(case.id, case.split, case.question) for case in cases] == [
        ("a", "train", "where?"),
        ("a-2", "test", "where?"),
    ]
    assert cases[0].group != cases[1].group


def lines(tmp_path, *found):
    save(tmp_path / "a.png", picture())
    save(tmp_path / "m.png", square())
    (tmp_path / "manifest.jsonl").write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in found)
    )
    return tmp_path


def test_a_manifest_gives_everything_it_says(tmp_path):
    line = {
        "id": "x/1", "image": "a.png", "mask": "m.png", "modality": "MRI", "category": "cord", "patient": "p7", "split": "val",
        "question": "what?", "think": "so", "bbox": [5, 6, 10, 10], "point_2d": [[7.5, 7.5], [8.5, 8.5]], "width": 30, "age": 3,
    }  # fmt: skip
    [case] = read_cases(lines(tmp_path, line))
    assert (case.id, case.group, case.split, case.question, case.think) == ("x_1", "p7", "val", "what?", "so")
    assert case.labels == {"modality": "MRI", "category": "cord", "patient": "p7", "age": "3"}
    assert case.box == (5, 6, 10, 10) and case.points == ((7.5, 7.5), (8.5, 8.5))
    assert case.where == "manifest.jsonl line 1"
    [again] = read_cases(tmp_path / "manifest.jsonl")
    assert np.array_equal(again.read_mask(), square() > 0)


def test_a_manifest_takes_run_lengths(tmp_path):
    [case] = read_cases(lines(tmp_path, {"image": "a.png", "mask": {"size": [2, 3], "counts": [1, 2, 3]}}))
    assert case.read_mask().tolist() == [[False, True, False], [True, False, False]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{]", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("3", "is not a JSON object"),
        ({"mask": "m.png"}, "names an image by 'None'"),
        ({"image": "a.png"}, "needs a mask"),
        ({"image": "../a.png", "mask": "m.png"}, "an image outside its folder"),
        ({"image": "/etc/passwd", "mask": "m.png"}, "an image outside its folder"),
        ({"image": "no.png", "mask": "m.png"}, "does not exist"),
        ({"image": "a\0.png", "mask": "m.png"}, "cannot be looked up"),
        ({"image": "a.png", "mask": "m.png", "bbox": [1, 2, 3]}, "bbox that is not 4 finite numbers"),
        ({"image": "a.png", "mask": "m.png", "point_2d": [[1, True]]}, "point_2d that is not 2 finite numbers"),
        ({"image": "a.png", "mask": "m.png", "point_2d": 3}, "point_2d that is not a list"),
        ({"image": "a.png", "mask": "m.png", "slice": "3"}, "slice that is not a whole number"),
        ({"image": "a.png", "mask": "m.png", "question": 3}, "question that is not text"),
    ],
)
def test_a_bad_line_is_listed_and_the_others_are_read(tmp_path, line, said):
    good = {"image": "a.png", "mask": "m.png"}
    cases, [bad] = split_by_kind(read_cases(lines(tmp_path, good, line, good)))
    assert [case.id for case in cases] == ["a", "a-2"]
    assert bad.where == "manifest.jsonl line 2" and said in bad.reason and str(tmp_path) not in bad.reason


def test_a_line_without_end_is_not_held_in_memory(tmp_path, monkeypatch):
    from medground_data.readers import manifest

    monkeypatch.setattr(manifest, "MAX_LINE", 1000)
    good = {"image": "a.png", "mask": "m.png"}
    cases, [bad] = split_by_kind(read_cases(lines(tmp_path, good, "x" * 5000, good)))
    assert len(cases) == 2 and bad == BadSample("manifest.jsonl line 2", "is longer than 1000 characters")


def test_links_out_of_the_folder_are_refused(tmp_path):
    save(tmp_path / "secret.png", picture())
    (tmp_path / "in").mkdir()
    lines(tmp_path / "in", {"image": "link.png", "mask": "m.png"})
    (tmp_path / "in/link.png").symlink_to(tmp_path / "secret.png")
    [bad] = read_cases(tmp_path / "in")
    assert "outside its folder" in bad.reason


def test_usage_errors_name_the_candidates(tmp_path):
    with pytest.raises(UsageError, match="no layout that is known") as none:
        read_cases(tmp_path)
    assert "folder" in none.value.hint and none.value.exit_code == 2
    with pytest.raises(UsageError, match="no reader 'foldr'") as near:
        read_cases(tmp_path, "foldr")
    assert near.value.hint == "did you mean 'folder'?"
    with pytest.raises(UsageError, match="no option 'categry'"):
        read_cases(tmp_path, "folder", categry="x")
    with pytest.raises(InputError, match="does not exist"):
        read_cases(tmp_path / "none")
    with pytest.raises(InputError, match="has no images/ beside masks/"):
        list(read_cases(tmp_path, "folder"))


def test_real_pairs(shared):
    cases, bad = split_by_kind(read_cases(shared / "data/pairs"))
    assert len(cases) == 218 and not bad and len({case.image_key for case in cases}) == 144
    assert len({case.id for case in cases}) == 218
    for case in cases[::40]:
        mask = case.read_mask()
        assert case.read_image().shape[:2] == mask.shape
        rows, columns = np.nonzero(mask)
        assert case.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert len(list(read_cases(shared / "data/pairs/busi"))) == 10


COCO = {
    "images": [{"id": 7, "file_name": "a.png", "width": 99, "height": 99}],
    "categories": [{"id": 2, "name": "liver", "supercategory": "organ"}],
}


def coco(tmp_path, *segmentations):
    save(tmp_path / "images/a.png", picture())
    annotations = [
        {"id": n, "image_id": 7, "category_id": 2, "segmentation": each} for n, each in enumerate(segmentations)
    ]
    (tmp_path / "all.json").write_text(json.dumps({**COCO, "annotations": annotations}))
    return tmp_path


def test_coco_polygons_and_both_run_lengths_say_the_same(tmp_path):
    polygon = [[5, 6, 10, 6, 10, 10, 5, 10]]
    runs = [5 * 20 + 6, 4, 16, 4, 16, 4, 16, 4, 16, 4, 20 * 20 + 10]
    runs[-1] = 600 - sum(runs[:-1])
    found = read_cases(
        coco(tmp_path, polygon, {"size": [20, 30], "counts": runs}, {"size": [20, 30], "counts": compressed(runs)})
    )
    cases, bad = split_by_kind(found)
    assert not bad
    for case in cases:
        assert np.array_equal(case.read_mask(), square() > 0)
        assert case.labels == {"category": "liver", "supercategory": "organ"}
    assert [case.id for case in cases] == ["a__0", "a__1", "a__2"]


def compressed(runs):
    """The compressed form, written from its description independently of the decoder."""
    text = ""
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            group = value & 31
            value >>= 5
            more = value != (-1 if group & 16 else 0)
            text += chr(48 + group + (32 if more else 0))
    return text


def test_polygons_fill_what_their_edges_hold(tmp_path):
    triangle_with_hole = [[0, 0, 20, 0, 0, 20], [2, 2, 4, 2, 4, 4, 2, 4]]
    [case] = read_cases(coco(tmp_path, triangle_with_hole))
    mask = case.read_mask()
    y, x = np.mgrid[:20, :30] + 0.5
    assert np.array_equal(mask, x + y < 20)  # parts are joined, so the second fills nothing new
    [beyond] = read_cases(coco(tmp_path, [[-5, -5, 1e6, -5, 1e6, 1e6, -5, 1e6]]))
    assert beyond.read_mask().all()


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ([], "has no segmentation"),
        (None, "has no segmentation"),
        ([[1, 2, 3]], "polygon that is not pairs"),
        ([[1, 2, 3, 4, 5, float("nan")]], "polygon that is not pairs"),
        ([[0, 0] * 100_001], "more than 100000 corners"),
    ],
)
def test_a_bad_annotation_is_listed(tmp_path, segmentation, said):
    cases, [bad] = split_by_kind(read_cases(coco(tmp_path, [[1, 1, 5, 1, 5, 5]], segmentation)))
    assert len(cases) == 1 and bad.where == "all.json annotation 2" and said in bad.reason


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [60_000, 60_000], "counts": [3_600_000_000]},
        {"size": [20, 30], "counts": [10**12]},
        {"size": [20, 30], "counts": "o" * 10_000_000},
        {"size": [20, 30], "counts": [-1, 601]},
        {"size": [2**40, 2**40], "counts": ""},
    ],
)
def test_run_length_bombs_are_refused_when_read(tmp_path, rle):
    [case] = read_cases(coco(tmp_path, rle))
    with pytest.raises(InputError, match="run"):
        case.read_mask()


def test_coco_of_no_use(tmp_path):
    (tmp_path / "x.json").write_text('{"images": 3, "annotations": [], "segmentation": 1}')
    with pytest.raises(InputError, match="needs a list of images"):
        list(read_cases(tmp_path / "x.json"))
    (tmp_path / "x.json").write_text('{"images": [], "annotations": [], "segmentation":')
    with pytest.raises(InputError, match=r"x\.json is not JSON"):
        list(read_cases(tmp_path / "x.json"))


def test_biomedparse_names(tmp_path):
    save(tmp_path / "train/covid_1_X-Ray_chest.png", picture())
    save(tmp_path / "train_mask/covid_1_X-Ray_chest_left+lung.png", square(1))
    save(tmp_path / "train_mask/covid_2_X-Ray_chest_lung.png", square(1))
    save(tmp_path / "test/images/b_9_CT_abdomen.png", picture())
    save(tmp_path / "test/masks/b_9_CT_abdomen_left_kidney_000.png", square(2))
    cases, bad = split_by_kind(read_cases(tmp_path, "biomedparse"))
    assert [(case.labels["modality"], case.labels["site"], case.labels["category"], case.split) for case in cases] == [
        ("X-Ray", "chest", "left lung", "train"), ("CT", "abdomen", "left kidney", "test"),
    ]  # fmt: skip
    assert bad == [BadSample("covid_2_X-Ray_chest_lung.png", "no image has the beginning of its name")]
    assert read_cases(tmp_path)  # train/ beside train_mask/ is recognised


def test_sam_med2d_tables_of_both_kinds(tmp_path):
    root = tmp_path / "data_demo"
    for name in ("images/amos_6", "masks/amos_6_liver_000", "masks/amos_6_inferior_vena_cava_001"):
        save(root / f"{name}.png", picture() if "images" in name else square())
    table = {"data_demo/images/amos_6.png": ["data_demo/masks/amos_6_liver_000.png", "data_demo/masks/none_000.png"]}
    (root / "image2label_train.json").write_text(json.dumps(table))
    back = {"data_demo/masks/amos_6_inferior_vena_cava_001.png": "data_demo/images/amos_6.png"}
    (root / "label2image_test.json").write_text(json.dumps(back))
    cases, [bad] = split_by_kind(read_cases(root, modality="CT"))
    assert [(case.labels, case.split) for case in cases] == [
        ({"category": "liver", "modality": "CT"}, "train"), ({"category": "inferior vena cava", "modality": "CT"}, "test"),
    ]  # fmt: skip
    assert bad.where == "image2label_train.json entry 2" and "does not exist" in bad.reason


def test_sa_med2d_20m_names(tmp_path):
    image, mask = "images/mr_t1--ATLAS--Case_07--x_0040.png", "masks/mr_t1--ATLAS--Case_07--x_0040--0001_000.png"
    save(tmp_path / image, picture())
    save(tmp_path / mask, square())
    (tmp_path / "SAMed2D_v1.json").write_text(json.dumps({image: {mask: {"bbox": []}}}))
    (tmp_path / "SAMed2D_v1_class_mapping_id.json").write_text(json.dumps({"ATLAS": {"liver": "1", "tumour": "2"}}))
    [case] = read_cases(tmp_path)
    assert case.labels == {"modality": "MRI", "dataset": "ATLAS", "volume": "ATLAS--Case_07", "category": "liver"}
    assert case.group == "ATLAS--Case_07" and case.read_mask().any()


def test_slake_questions_go_to_the_mask_they_ask_for(tmp_path):
    save(tmp_path / "imgs/xmlab1/source.jpg", picture())
    save(
        tmp_path / "imgs/xmlab1/mask.png", (square(1) > 0).astype(np.uint8) * 3 + (square(12) > 0).astype(np.uint8) * 5
    )
    (tmp_path / "mask.txt").write_text("3:Liver\n5:Spleen\n\nnonsense\n")
    about = {"img_name": "xmlab1/source.jpg", "modality": "CT", "location": "Abdomen"}
    lines = [
        {**about, "q_lang": "en", "question": "What is the largest organ in the picture?", "answer": "Liver"},
        {**about, "q_lang": "en", "question": "Is it healthy?", "answer": "Yes"},
        {**about, "q_lang": "zh", "question": "图中最大的器官是什么?", "answer": "Liver"},
        {**about, "img_name": "../../etc/passwd", "q_lang": "en", "question": "?", "answer": "Liver"},
        {"question": "?"},
    ]
    (tmp_path / "train.json").write_text(json.dumps(lines))
    cases, bad = split_by_kind(read_cases(tmp_path))
    assert [(case.labels["category"], case.question, case.labels["modality"]) for case in cases] == [
        ("Liver", "What is the largest organ in the picture?", "CT"), ("Spleen", None, "CT"),
    ]  # fmt: skip
    assert np.array_equal(cases[1].read_mask(), square(12) > 0) and cases[0].group == "xmlab1"
    assert [each.reason for each in bad] == ["names no image", "names an image outside its folder"]
    assert [
        case.question for case in read_cases(tmp_path, q_lang="zh", asked_only=True) if isinstance(case, SourceSample)
    ] == ["图中最大的器官是什么?"]


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [("pydicom", "x.dcm", "dicom"), ("nibabel", "x.nii", "nifti"), ("pyarrow", "train.parquet", "data")],
)
def test_a_missing_extra_says_its_name(tmp_path, monkeypatch, package, name, extra):
    (tmp_path / name).write_bytes(bytes(200))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PluginError, match=f"needs {package}") as error:
        read_samples(tmp_path / name) if extra == "data" else read_image(tmp_path / name, plane=None)
    assert error.value.hint == f"pip install 'medground[{extra}]'" and error.value.exit_code == 4
