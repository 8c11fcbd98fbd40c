"""Readers of every layout read usable samples and list the others."""

import json
import sys

import click
import numpy as np
import pytest
from medground_data.command import data
from medground_data.readers import find_reader, read_source
from PIL import Image as Pillow

from medground.data.open_dataset import open_dataset
from medground.data.source_samples import BadSample, SourceSample
from medground.errors import InputError, PluginError, UsageError
from medground.images.read import read_image
from medground.registry import components, discovery, factory, loading
from medground.testing import ConformanceError, check_command, check_reader


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(array).save(path)


def picture(seed=0, size=(20, 30)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def square(x=5, y=6, size=(20, 30)):
    mask = np.zeros(size, np.uint8)
    mask[y : y + 4, x : x + 5] = 255
    return mask


def split_by_kind(results):
    results = list(results)
    return [entry for entry in results if isinstance(entry, SourceSample)], [
        entry for entry in results if isinstance(entry, BadSample)
    ]


def test_a_folder_pairs_by_stem_by_suffix_and_by_subfolder(tmp_path):
    for name in ("a", "b", "c", "d"):
        save(tmp_path / f"images/{name}.png", picture())
    save(tmp_path / "masks/a.png", square(1))
    save(tmp_path / "masks/b__left-lung.png", square(2))
    save(tmp_path / "masks/b__heart.png", square(3))
    save(tmp_path / "masks/polyp/c.png", square(4))
    cases, bad = split_by_kind(read_source(tmp_path, category="thing", modality="CT"))
    assert [(case.id, case.labels["category"]) for case in cases] == [
        ("a", "thing"), ("b__heart", "heart"), ("b__left_lung", "left lung"), ("c__polyp", "polyp"),
    ]  # fmt: skip
    assert bad == [BadSample("d.png", "no mask has its name")]
    assert {case.labels["modality"] for case in cases} == {"CT"}
    assert [int(np.argmax(case.load_mask().any(axis=0))) for case in cases] == [1, 3, 2, 4]
    assert cases[1].image_key == cases[2].image_key != cases[0].image_key
    assert np.array_equal(cases[0].load_image().pixels, picture())


def test_a_folder_can_contain_splits(tmp_path):
    for split in ("train", "test"):
        save(tmp_path / split / "images/a.png", picture())
        save(tmp_path / split / "masks/a.png", square())
    cases, _ = split_by_kind(read_source(tmp_path, question="where?"))
    assert [(case.id, case.split, case.question) for case in cases] == [
        ("a", "train", "where?"),
        ("a-2", "test", "where?"),
    ]
    assert cases[0].group != cases[1].group


def lines(tmp_path, *results):
    save(tmp_path / "a.png", picture())
    save(tmp_path / "m.png", square())
    (tmp_path / "manifest.jsonl").write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in results)
    )
    return tmp_path


def test_every_field_of_a_manifest_is_read(tmp_path):
    line = {
        "id": "x/1", "image": "a.png", "mask": "m.png", "modality": "MRI", "category": "cord", "patient": "p7", "split": "val",
        "question": "what?", "think": "so", "bbox": [5, 6, 10, 10], "point_2d": [[7.5, 7.5], [8.5, 8.5]], "width": 30, "age": 3,
    }  # fmt: skip
    [case] = read_source(lines(tmp_path, line))
    assert (case.id, case.group, case.split, case.question, case.think) == ("x_1", "a.png", "val", "what?", "so")
    assert case.labels == {"modality": "MRI", "category": "cord", "patient": "p7", "age": "3"}
    assert case.box == (5, 6, 10, 10) and case.points == ((7.5, 7.5), (8.5, 8.5))
    assert case.where == "manifest.jsonl line 1"
    [again] = read_source(tmp_path / "manifest.jsonl")
    assert np.array_equal(again.load_mask(), square() > 0)


def test_a_manifest_takes_run_lengths(tmp_path):
    [case] = read_source(lines(tmp_path, {"image": "a.png", "mask": {"size": [2, 3], "counts": [1, 2, 3]}}))
    assert case.load_mask().tolist() == [[False, True, False], [True, False, False]]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{]", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("3", "not a JSON object"),
        ({"mask": "m.png"}, "image is not a path: None"),
        ({"image": "a.png"}, "needs a mask"),
        ({"image": "../a.png", "mask": "m.png"}, "an image outside its folder"),
        ({"image": "/etc/passwd", "mask": "m.png"}, "an image outside its folder"),
        ({"image": "no.png", "mask": "m.png"}, "does not exist"),
        ({"image": "a\0.png", "mask": "m.png"}, "cannot be looked up"),
        ({"image": "a.png", "mask": "m.png", "bbox": [1, 2, 3]}, "bbox is not 4 finite numbers"),
        (
            {"image": "a.png", "mask": "m.png", "point_2d": [[1, True]]},
            "point_2d is not a list of pairs of finite numbers",
        ),
        ({"image": "a.png", "mask": "m.png", "point_2d": 3}, "point_2d is not a list of pairs of finite numbers"),
        ({"image": "a.png", "mask": "m.png", "slice": "3"}, "slice is not a whole number"),
        ({"image": "a.png", "mask": "m.png", "question": 3}, "question is not text"),
    ],
)
def test_a_bad_line_is_listed_and_the_others_are_read(tmp_path, line, reason):
    good = {"image": "a.png", "mask": "m.png"}
    cases, [bad] = split_by_kind(read_source(lines(tmp_path, good, line, good)))
    assert [case.id for case in cases] == ["a", "a-2"]
    assert bad.where == "manifest.jsonl line 2" and reason in bad.reason and str(tmp_path) not in bad.reason


def test_an_overlong_line_is_not_read_into_memory(tmp_path, monkeypatch):
    from medground.data import json_text

    monkeypatch.setattr(json_text, "MAX_LINE", 1000)
    good = {"image": "a.png", "mask": "m.png"}
    cases, [bad] = split_by_kind(read_source(lines(tmp_path, good, "x" * 5000, good)))
    assert len(cases) == 2 and bad == BadSample("manifest.jsonl line 2", "longer than 1000 bytes")


def test_links_out_of_the_folder_are_refused(tmp_path):
    save(tmp_path / "secret.png", picture())
    (tmp_path / "in").mkdir()
    lines(tmp_path / "in", {"image": "link.png", "mask": "m.png"})
    (tmp_path / "in/link.png").symlink_to(tmp_path / "secret.png")
    [bad] = read_source(tmp_path / "in")
    assert "outside its folder" in bad.reason


def test_usage_errors_name_the_candidates(tmp_path):
    with pytest.raises(UsageError, match="no layout that is known") as none:
        read_source(tmp_path)
    assert "folder" in none.value.hint and none.value.exit_code == 2
    with pytest.raises(UsageError, match="no reader 'foldr'") as near:
        read_source(tmp_path, "foldr")
    assert near.value.hint == "did you mean 'folder'?"
    with pytest.raises(UsageError, match="no option 'categry'"):
        read_source(tmp_path, "folder", categry="x")
    with pytest.raises(InputError, match="does not exist"):
        read_source(tmp_path / "none")
    with pytest.raises(InputError, match="has no images/ beside masks/"):
        list(read_source(tmp_path, "folder"))


def test_folders_of_real_images_and_masks_are_read(shared):
    cases, bad = split_by_kind(read_source(shared / "data/pairs"))
    assert len(cases) == 218 and not bad and len({case.image_key for case in cases}) == 144
    assert len({case.id for case in cases}) == 218
    for case in cases[::40]:
        mask = case.load_mask()
        assert case.load_image().pixels.shape[:2] == mask.shape
        rows, columns = np.nonzero(mask)
        assert case.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert len(list(read_source(shared / "data/pairs/busi"))) == 10


COCO = {
    "images": [{"id": 7, "file_name": "a.png", "width": 30, "height": 20}],
    "categories": [{"id": 2, "name": "liver", "supercategory": "organ"}],
}


def coco(tmp_path, *segmentations):
    save(tmp_path / "images/a.png", picture())
    annotations = [
        {"id": n, "image_id": 7, "category_id": 2, "segmentation": entry} for n, entry in enumerate(segmentations)
    ]
    (tmp_path / "all.json").write_text(json.dumps({**COCO, "annotations": annotations}))
    return tmp_path


def test_coco_polygons_and_both_run_lengths_give_the_same_mask(tmp_path):
    polygon = [[5, 6, 10, 6, 10, 10, 5, 10]]
    runs = [5 * 20 + 6, 4, 16, 4, 16, 4, 16, 4, 16, 4, 20 * 20 + 10]
    runs[-1] = 600 - sum(runs[:-1])
    results = read_source(
        coco(tmp_path, polygon, {"size": [20, 30], "counts": runs}, {"size": [20, 30], "counts": compressed(runs)})
    )
    cases, bad = split_by_kind(results)
    assert not bad
    for case in cases:
        assert np.array_equal(case.load_mask(), square() > 0)
        assert case.labels == {"category": "liver", "supercategory": "organ"}
    assert [case.id for case in cases] == ["a__0", "a__1", "a__2"]


def compressed(runs):
    """Return the compressed run lengths of a mask, by an encoder that shares no code with the decoder."""
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


def test_polygons_contain_pixels_whose_centres_lie_inside(tmp_path):
    triangle_with_hole = [[0, 0, 20, 0, 0, 20], [2, 2, 4, 2, 4, 4, 2, 4]]
    [case] = read_source(coco(tmp_path, triangle_with_hole))
    mask = case.load_mask()
    y, x = np.mgrid[:20, :30] + 0.5
    assert np.array_equal(mask, x + y < 20)  # parts are joined, so the second fills nothing new
    [beyond] = read_source(coco(tmp_path, [[-5, -5, 1e6, -5, 1e6, 1e6, -5, 1e6]]))
    assert beyond.load_mask().all()


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([], "has no segmentation"),
        (None, "has no segmentation"),
        ([[1, 2, 3]], "polygon that is not pairs"),
        ([[1, 2, 3, 4, 5, float("nan")]], "polygon that is not pairs"),
        ([[0, 0] * 100_001], "more than 100000 corners"),
    ],
)
def test_a_bad_annotation_is_listed(tmp_path, segmentation, reason):
    cases, [bad] = split_by_kind(read_source(coco(tmp_path, [[1, 1, 5, 1, 5, 5]], segmentation)))
    assert len(cases) == 1 and bad.where == "all.json annotation 2" and reason in bad.reason


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
    [case] = read_source(coco(tmp_path, rle))
    with pytest.raises(InputError, match="run"):
        case.load_mask()


def test_unusable_coco_files_are_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"images": 3, "annotations": [], "segmentation": 1}')
    with pytest.raises(InputError, match="needs a list of images"):
        list(read_source(tmp_path / "x.json"))
    (tmp_path / "x.json").write_text('{"images": [], "annotations": [], "segmentation":')
    with pytest.raises(InputError, match=r"x\.json is not JSON"):
        list(read_source(tmp_path / "x.json"))


def test_biomedparse_file_names_give_category_and_modality(tmp_path):
    save(tmp_path / "train/covid_1_X-Ray_chest.png", picture())
    save(tmp_path / "train_mask/covid_1_X-Ray_chest_left+lung.png", square(1))
    save(tmp_path / "train_mask/covid_2_X-Ray_chest_lung.png", square(1))
    save(tmp_path / "test/images/b_9_CT_abdomen.png", picture())
    save(tmp_path / "test/masks/b_9_CT_abdomen_left_kidney_000.png", square(2))
    cases, bad = split_by_kind(read_source(tmp_path, "biomedparse"))
    assert [(case.labels["modality"], case.labels["site"], case.labels["category"], case.split) for case in cases] == [
        ("X-Ray", "chest", "left lung", "train"), ("CT", "abdomen", "left kidney", "test"),
    ]  # fmt: skip
    assert bad == [BadSample("covid_2_X-Ray_chest_lung.png", "no image has the beginning of its name")]
    assert read_source(tmp_path)  # train/ beside train_mask/ is recognised


def test_both_kinds_of_sam_med2d_tables_are_read(tmp_path):
    root = tmp_path / "data_demo"
    for name in ("images/amos_6", "masks/amos_6_liver_000", "masks/amos_6_inferior_vena_cava_001"):
        save(root / f"{name}.png", picture() if "images" in name else square())
    table = {"data_demo/images/amos_6.png": ["data_demo/masks/amos_6_liver_000.png", "data_demo/masks/none_000.png"]}
    (root / "image2label_train.json").write_text(json.dumps(table))
    back = {"data_demo/masks/amos_6_inferior_vena_cava_001.png": "data_demo/images/amos_6.png"}
    (root / "label2image_test.json").write_text(json.dumps(back))
    cases, [bad] = split_by_kind(read_source(root, modality="CT"))
    assert [(case.labels, case.split) for case in cases] == [
        ({"category": "liver", "modality": "CT"}, "train"), ({"category": "inferior vena cava", "modality": "CT"}, "test"),
    ]  # fmt: skip
    assert bad.where == "image2label_train.json entry 2" and "does not exist" in bad.reason


def test_sa_med2d_20m_file_names_give_category_and_modality(tmp_path):
    image, mask = "images/mr_t1--ATLAS--Case_07--x_0040.png", "masks/mr_t1--ATLAS--Case_07--x_0040--0001_000.png"
    save(tmp_path / image, picture())
    save(tmp_path / mask, square())
    (tmp_path / "SAMed2D_v1.json").write_text(json.dumps({image: {mask: {"bbox": []}}}))
    (tmp_path / "SAMed2D_v1_class_mapping_id.json").write_text(json.dumps({"ATLAS": {"liver": "1", "tumour": "2"}}))
    [case] = read_source(tmp_path)
    assert case.labels == {"modality": "MRI", "dataset": "ATLAS", "volume": "ATLAS--Case_07", "category": "liver"}
    assert case.load_mask().any()


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
    cases, bad = split_by_kind(read_source(tmp_path))
    assert [(case.labels["category"], case.question, case.labels["modality"]) for case in cases] == [
        ("Liver", "What is the largest organ in the picture?", "CT"), ("Spleen", None, "CT"),
    ]  # fmt: skip
    assert np.array_equal(cases[1].load_mask(), square(12) > 0) and cases[0].group == "xmlab1"
    assert [entry.reason for entry in bad] == ["names no image", "names an image outside its folder"]
    assert [
        case.question for case in read_source(tmp_path, q_lang="zh", asked_only=True) if isinstance(case, SourceSample)
    ] == ["图中最大的器官是什么?"]


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [("pydicom", "x.dcm", "dicom"), ("nibabel", "x.nii", "nifti"), ("pyarrow", "train.parquet", "data")],
)
def test_an_error_names_the_missing_extra(tmp_path, monkeypatch, package, name, extra):
    (tmp_path / name).write_bytes(bytes(200))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PluginError, match=f"needs {package}") as error:
        open_dataset(tmp_path / name) if extra == "data" else read_image(tmp_path / name, plane=None)
    assert error.value.hint == f"pip install 'medground[{extra}]'" and error.value.exit_code == 4


THEIRS = """
from dataclasses import replace
import medground
from medground_data.readers.folder import FolderReader

class FlatReader:
    description = "scans/ and labels/"

    def recognises(self, root):
        return (root / "scans").is_dir()

    def read(self, root, *, masks="labels"):
        yield from FolderReader().read(root, images="scans", masks=masks)

@medground.hookimpl
def register_readers(register):
    register("flat", FlatReader)
"""


@pytest.fixture
def add_reader(tmp_path, monkeypatch):
    """``add_reader(name, source)`` installs a distribution that declares one reader; it is forgotten afterwards."""

    def install(name: str, source: str) -> None:
        info = tmp_path / "site" / f"medground_{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: medground-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[medground]\nreader.{name} = medground_{name}\n")
        (tmp_path / "site" / f"medground_{name}.py").write_text(source)
        discovery._scan.cache_clear()

    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield install
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
    for cached in (discovery._scan, loading._load, loading._manager):
        cached.cache_clear()


def test_a_reader_of_another_plugin_is_recognised_and_read(tmp_path, add_reader):
    add_reader("flat", THEIRS)
    save(tmp_path / "in/scans/a.png", picture())
    save(tmp_path / "in/labels/a.png", square(1))
    assert find_reader(tmp_path / "in") == "flat"
    [sample] = read_source(tmp_path / "in", masks="labels")
    assert sample.load_mask().sum() == 20
    with pytest.raises(UsageError, match="the reader flat has no option 'mask'"):
        read_source(tmp_path / "in", mask="labels")


def test_a_broken_reader_is_left_out_of_recognition_with_a_warning(tmp_path, add_reader, caplog):
    add_reader("flat", "import a_library_nobody_has\n")
    save(tmp_path / "in/images/a.png", picture())
    save(tmp_path / "in/masks/a.png", square(1))
    assert find_reader(tmp_path / "in") == "folder"
    assert any("the reader flat is left out: plugin medground-flat 1.0" in line for line in caplog.messages)
    with pytest.raises(PluginError, match="needs the module 'a_library_nobody_has'"):
        read_source(tmp_path / "in", "flat")


BUILT_IN = sorted(component.name for component in components("reader"))


def test_there_are_nine_readers():
    assert len(BUILT_IN) == 9


def test_the_readers_of_folders_and_manifests_keep_their_promises(tmp_path):
    save(tmp_path / "images/a.png", picture())
    save(tmp_path / "masks/a.png", square(1))
    check_reader(factory("reader", "folder"), tmp_path)
    (tmp_path / "manifest.jsonl").write_text(json.dumps({"image": "images/a.png", "mask": "masks/a.png"}) + "\n")
    check_reader(factory("reader", "manifest"), tmp_path)


def test_a_wrong_reader_is_told_each_promise_it_breaks(tmp_path):
    class Wrong:
        description = ""
        calls = 0

        def recognises(self, root):
            return "yes"

        def read(self, root, window):
            self.calls += 1
            return [BadSample(f"row {self.calls}", "bad"), 3]

    with pytest.raises(ConformanceError) as caught:
        check_reader(Wrong, tmp_path, window="lung")
    sentences = " ".join(caught.value.broken)
    for promise in (
        "its description is a text", "recognises is True for its own layout", "every option is keyword-only: window",
        "read yields SourceSample or BadSample: 3", "gives the same samples every time", "yields a usable sample",
    ):  # fmt: skip
        assert promise in sentences
    assert len(caught.value.broken) == 6


def test_the_command_keeps_its_promises():
    check_command(data)


def test_a_wrong_command_is_told_each_promise_it_breaks():
    with pytest.raises(ConformanceError) as caught:
        check_command(click.Command("train", callback=lambda: None))
    assert [sentence.partition(":")[0] for sentence in caught.value.broken] == [
        "its name is not one of medground itself",
        "every command has a help text",
    ]
