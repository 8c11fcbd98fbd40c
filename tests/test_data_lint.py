"""Fifty faults are put into a clean dataset, one per sample; the linter finds each and next to nothing else."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from medground_data.build import Options, build
from medground_data.command import data
from medground_data.question_sources import FromTemplates
from medground_data.readers import read_source
from medground_toy import phantoms
from PIL import Image as Pillow

from medground.data.lint import CODES, lint
from medground.errors import InputError
from medground.geometry import mask_box
from medground.images.pictures import png_bytes
from medground.images.read import read_image, read_mask
from medground.images.rle import encode_rle

SIZE = (128, 160)


class Scene:
    """A dataset being spoilt: its rows, and files of their own for the row at hand."""

    def __init__(self, folder):
        self.folder = folder
        self.rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
        self.torn = {}

    def mask(self, row):
        return read_mask(self.folder / row["mask"])

    def image(self, row):
        return read_image(self.folder / row["image"])

    def put(self, row, word, content):
        row[word] = f"{word}s/spoilt-{self.rows.index(row)}.png"
        (self.folder / row[word]).write_bytes(content)

    def put_mask(self, row, mask):
        self.put(row, "mask", png_bytes(np.ascontiguousarray(mask)))

    def put_image(self, row, image):
        self.put(row, "image", png_bytes(image))

    def write(self):
        texts = [self.torn.get(n, json.dumps(row)) for n, row in enumerate(self.rows)]
        (self.folder / "manifest.jsonl").write_text("".join(text + "\n" for text in texts))


def box_to(change):
    return lambda scene, row: row.update(bbox_2d=change(*row["bbox_2d"]))


def set_to(**words):
    return lambda scene, row: row.update(words)


def mask_to(change):
    return lambda scene, row: scene.put_mask(row, change(scene.mask(row)))


def partner(scene, row, **words):
    """Another row, before this one and unspoilt, changed to fit what the fault needs."""
    other = scene.rows[0]
    row.update({**{key: other[key] for key in words.pop("same")}, **words})
    return other


def off(x1, y1, x2, y2):
    return [x1 - 9 if x1 > 20 else x1 + 12, y1, x2 - 9 if x1 > 20 else x2 + 12, y2]


def swapped_points(scene, row):
    row["point_2d"] = [
        [row["bbox_2d"][0] - 6 if row["bbox_2d"][0] > 8 else row["bbox_2d"][2] + 6, y] for _, y in row["point_2d"]
    ]


def resized(scene, row):
    mask = Pillow.fromarray(scene.mask(row)).resize((64, 64))
    scene.put_mask(row, np.asarray(mask))


def truncated(word):
    def spoil(scene, row):
        scene.put(row, word, (scene.folder / row[word]).read_bytes()[:60])

    return spoil


def near_copy(scene, row):
    other = scene.rows[0]
    row.update({key: other[key] for key in ("bbox_2d", "point_2d", "mask", "category", "modality", "size")})
    row["split"] = "test" if other["split"] != "test" else "train"
    scene.put_image(row, np.clip(scene.image(other).astype(int) + 3, 0, 255).astype(np.uint8))


def exact_copy(scene, row):
    near_copy(scene, row)
    scene.put_image(row, scene.image(scene.rows[0]))


def patient(scene, row):
    other = scene.rows[0]
    other["patient"] = row["patient"] = "p7"
    row["split"] = "test" if other["split"] != "test" else "train"


def twin(**words):
    """The image and the mask of the first row again."""

    def spoil(scene, row):
        keys = ("image", "mask", "bbox_2d", "point_2d", "split", "category", "modality", "group", "size")
        row.update({**{key: scene.rows[0][key] for key in keys}, **words})
        if words.get("question") == "same":
            row["question"] = scene.rows[0]["question"]

    return spoil


def other_target(scene, row):
    """The question of the first row, asked of its image about another mask."""
    twin(question="same")(scene, row)
    mask = np.zeros(SIZE, bool)
    mask[5:30, 5:30] = True
    scene.put_mask(row, mask)
    row.update(bbox_2d=[5, 5, 30, 30], point_2d=[[10.5, 10.5], [20.5, 20.5]])


def absent(scene, row):
    """The target of the first row, which is there, is said to be absent."""
    twin(question="Is there any of it?")(scene, row)
    for word in ("mask", "bbox_2d", "point_2d"):
        row.pop(word)
    row["regions"] = []


def second_region(**words):
    """Two halves of a mask are two regions, and of the second something is wrong."""

    def spoil(scene, row):
        mask, halves = scene.mask(row), []
        middle = int(np.flatnonzero(mask.any(axis=1)).mean())
        for rows in (slice(None, middle), slice(middle, None)):
            half = np.zeros_like(mask)
            half[rows] = mask[rows]
            halves.append({"mask": encode_rle(half), "bbox_2d": list(mask_box(half))})
        for word in ("mask", "bbox_2d", "point_2d"):
            row.pop(word)
        row["regions"] = [halves[0], {**halves[1], **words}]

    return spoil


def exif(scene, row):
    """The stored picture is turned; read upright, it is as it was."""
    words = Pillow.Exif()
    words[0x0112] = 3
    upright = Pillow.open(scene.folder / row["image"])
    row["image"] = "images/turned.png"
    upright.rotate(180).save(scene.folder / row["image"], exif=words)


def many_values(scene, row):
    mask = scene.mask(row).astype(np.uint8)
    rows, columns = np.nonzero(mask)
    mask[rows[::2], columns[::2]] = 3
    scene.put(row, "mask", png_bytes(mask))


def sided(word):
    def spoil(scene, row):
        x1, _, x2, _ = row["bbox_2d"]
        if x1 < SIZE[1] / 2 < x2:  # bring the target to one side first
            mask = np.zeros(SIZE, bool)
            mask[40:60, 10:30] = True
            scene.put_mask(row, mask)
            row.update(bbox_2d=[10, 40, 30, 60], point_2d=[[15.5, 50.5], [25.5, 50.5]])
            x2 = 30
        row[word] = f"What catches the eye on the {'right' if x2 <= SIZE[1] / 2 else 'left'} side of the image?"

    return spoil


def torn(scene, row):
    scene.torn[scene.rows.index(row)] = json.dumps(row)[:40]


def drop(word):
    return lambda scene, row: row.pop(word)


FAULTS = [
    ("empty_mask", mask_to(lambda mask: np.zeros_like(mask))),
    ("full_mask", mask_to(lambda mask: np.ones_like(mask))),
    ("turned_mask", mask_to(lambda mask: mask[:, ::-1])),
    ("turned_mask", mask_to(lambda mask: mask[::-1])),
    ("turned_mask", mask_to(lambda mask: mask[::-1, ::-1])),
    ("transposed_mask", mask_to(lambda mask: mask.T)),
    ("size_mismatch", resized),
    ("many_valued_mask", many_values),
    ("missing_file", set_to(mask="masks/gone.png")),
    ("missing_file", set_to(image="images/gone.png")),
    ("unreadable_image", truncated("image")),
    ("unreadable_mask", truncated("mask")),
    ("outside_folder", set_to(image="../../etc/passwd")),
    ("blank_image", lambda scene, row: scene.put_image(row, np.full((*SIZE, 3), 7, np.uint8))),
    ("exif_orientation", exif),
    ("box_mask_mismatch", box_to(off)),
    ("box_mask_mismatch", box_to(lambda *box: [0, 0, SIZE[1], SIZE[0]])),
    ("inclusive_box", box_to(lambda x1, y1, x2, y2: [x1, y1, x2 - 1, y2 - 1])),
    ("inverted_box", box_to(lambda x1, y1, x2, y2: [x2, y1, x1, y2])),
    ("inverted_box", box_to(lambda x1, y1, x2, y2: [x2, y2, x1, y1])),
    ("degenerate_box", box_to(lambda x1, y1, x2, y2: [x1, y1, x1, y2])),
    ("box_out_of_frame", box_to(lambda x1, y1, x2, y2: [x1, y1, x2 + 200, y2])),
    ("box_out_of_frame", box_to(lambda x1, y1, x2, y2: [x1 - 50, y1 - 50, x2, y2])),
    ("other_frame", box_to(lambda x1, y1, x2, y2: [x1 / 0.160, y1 / 0.128, x2 / 0.160, y2 / 0.128])),
    ("other_frame", box_to(lambda x1, y1, x2, y2: [x1 * 5.25, y1 * 6.5625, x2 * 5.25, y2 * 6.5625])),
    ("bad_number", box_to(lambda *box: [float("nan"), *box[1:]])),
    ("bad_number", box_to(lambda *box: list(box[:3]))),
    ("bad_number", set_to(point_2d=[[float("inf"), 3], [4, 5]])),
    ("bad_number", set_to(bbox_2d="10, 20, 30, 40")),
    ("point_out_of_frame", set_to(point_2d=[[400, 20], [410, 30]])),
    ("point_outside_mask", swapped_points),
    ("equal_points", lambda scene, row: row.update(point_2d=[row["point_2d"][0]] * 2)),
    ("duplicate_id", lambda scene, row: row.update(id=scene.rows[0]["id"])),
    ("bad_split", set_to(split="trian")),
    ("no_split", drop("split")),
    ("unknown_modality", set_to(modality="CTT")),
    ("label_spelling", lambda scene, row: row.update(category=row["category"].upper())),
    ("missing_word", drop("image")),
    ("not_json", torn),
    ("empty_question", set_to(question="  ")),
    ("short_question", set_to(question="What?")),
    ("question_names_target", lambda scene, row: row.update(category="left kidney", question="Where is the kidney here?")),
    ("question_names_target", set_to(category="liver", question="Which hepatic region is meant?")),
    ("question_contradicts_box", sided("question")),
    ("think_contradicts_box", sided("think")),
    ("question_repeated", other_target),
    ("duplicate_sample", twin(question="same")),
    ("label_conflict", twin(category="something else")),
    ("duplicate_across_splits", exact_copy),
    ("near_duplicate_across_splits", near_copy),
    ("group_across_splits", patient),
    ("size_stated", set_to(size=[SIZE[1], SIZE[0]])),
    ("absent_target_marked", absent),
    ("box_mask_mismatch", second_region(bbox_2d=[0, 0, SIZE[1], SIZE[0]])),
    ("point_out_of_frame", second_region(point_2d=[[400, 20]])),
    ("missing_file", second_region(mask="masks/gone.png")),
    ("bad_word", second_region(mask_value="one")),
    ("bad_word", lambda scene, row: row.update(regions=[])),
    ("bad_word", lambda scene, row: row.update(exhaustive=["cyst", 3])),
    ("bad_word", set_to(mask_value="one")),
    ("bad_word", set_to(slice="one")),
    ("bad_word", set_to(question=3)),
    ("bad_word", set_to(bbox=[0, 0, 1, 1])),
]  # fmt: skip


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A built dataset of as many images as samples, so that a fault of one is no fault of another."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("made") / "clean"
    phantoms.write(source, phantoms.samples(110, seed=11, size=SIZE, per_image=1, families=("ct", "xray", "fundus")))
    build(read_source(source), out, Options(), FromTemplates(seed=1))
    return out


def copied(folder, to):
    for path in folder.rglob("*"):
        if path.is_file():
            target = to / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return to


def spoilt(clean, folder):
    """The dataset with every fault, each in a row of its own; and id -> code."""
    scene = Scene(copied(clean, folder))
    expected = {}
    for number, (code, spoil) in enumerate(FAULTS, start=1):
        row = scene.rows[number]
        spoil(scene, row)
        expected[number + 1] = code
    scene.write()
    return expected


def test_there_are_fifty_faults_of_many_kinds():
    assert len(FAULTS) >= 50
    assert len({code for code, _ in FAULTS}) >= 35
    assert {code for code, _ in FAULTS} == set(CODES)


@pytest.mark.slow
def test_every_seeded_fault_is_found_and_next_to_nothing_else(clean, tmp_path):
    expected = spoilt(clean, tmp_path)
    findings, count = lint(tmp_path)
    codes = {line: {one.code for one in findings if one.line == line} for line in range(1, count + 1)}
    missed = {line: (code, codes[line]) for line, code in expected.items() if code not in codes[line]}
    assert missed == {}
    false = [one for one in findings if one.line not in expected]
    assert len(false) <= 0.02 * (count - len(expected)), false


@pytest.mark.slow
def test_a_finding_names_the_region_that_it_is_about(clean, tmp_path):
    spoilt(clean, tmp_path)
    says = [one.says for one in lint(tmp_path)[0]]
    assert any(text.startswith("region 2: its box is") for text in says)
    assert any(text.startswith("region 2: mask_value is not a whole number") for text in says)


@pytest.mark.slow
def test_a_clean_dataset_has_no_findings(clean):
    assert lint(clean) == ([], 110)


@pytest.mark.slow
def test_phantoms_as_they_are_drawn_are_clean(tmp_path):
    phantoms.write(tmp_path, phantoms.samples(60, seed=2, size=(96, 96), per_image=3))
    findings, count = lint(tmp_path)
    assert len(findings) <= 0.02 * count, findings


@pytest.mark.slow
def test_each_finding_has_a_sentence_and_a_remedy(clean, tmp_path):
    spoilt(clean, tmp_path)
    done = CliRunner().invoke(data, ["lint", str(tmp_path), "--json"])
    report = json.loads(done.stdout)
    assert done.exit_code == 1
    assert report["errors"] >= 40
    for one in report["findings"]:
        assert one["says"]
        assert one["remedy"]
        assert one["severity"] in ("error", "warning")
        assert one["id"]
    output = CliRunner().invoke(data, ["lint", str(tmp_path)])
    assert "empty_mask" in output.stdout
    assert CliRunner().invoke(data, ["lint", str(clean)]).exit_code == 0


def test_what_is_no_dataset_is_said(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        lint(tmp_path)
    (tmp_path / "manifest.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no samples"):
        lint(tmp_path)


@pytest.mark.slow
def test_the_real_pairs_built_have_one_finding_and_it_is_true(shared, tmp_path):
    build(read_source(shared / "data" / "pairs"), tmp_path / "out", Options(), FromTemplates())
    findings, count = lint(tmp_path / "out")
    assert count == 218
    # One demonstration image of the source gives one mask as "lung" and as "COVID-19 infection".
    assert [one.code for one in findings] == ["label_conflict"]


def test_scans_are_checked_as_they_are_looked_at(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="needs nibabel")
    voxels = np.full((40, 40, 3), -900, np.int16)
    voxels[10:20, 8:30, 1] = 60
    for name, array in (("scan", voxels), ("mask", (voxels == 60).astype(np.int16))):
        nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / f"{name}.nii.gz")
    row = {"id": "a", "image": "scan.nii.gz", "mask": "mask.nii.gz", "plane": "axial", "slice": 1, "split": "train"}
    row |= {
        "question": "Which bright region of this picture stands out from its surroundings?",
        "bbox_2d": [10, 8, 20, 30],
    }
    rows = [row, {**row, "id": "b", "slice": 0}, {**row, "id": "c", "slice": "one"}]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    findings, _ = lint(tmp_path)
    codes = {name: [one.code for one in findings if one.id == name] for name in "abc"}
    assert codes == {"a": [], "b": ["blank_image", "empty_mask"], "c": ["bad_word"]}
