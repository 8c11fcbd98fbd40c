"""Questions about every target of a category: several, one or none, and only where the source marks every instance."""

import json
from collections import Counter

import numpy as np
import pytest
from click.testing import CliRunner
from medground_data.build import build
from medground_data.command import data
from medground_data.drafts import Options
from medground_data.question_sources import FromTemplates
from medground_data.readers import read_source
from medground_toy import phantoms
from PIL import Image as Pillow

from medground.data.export import export
from medground.data.lint import lint
from medground.data.open_dataset import open_dataset
from medground.data.source_samples import BadSample, SourceRegion, SourceSample
from medground.data.stats import measure, summary
from medground.errors import InputError
from medground.geometry import mask_box
from medground.images.loaded import LoadedImage
from medground.images.pictures import png_bytes
from medground.images.rle import encode_rle

ASK = FromTemplates(keep=True)
EVERY = Options(targets="every", exhaustive=("all",), near_duplicates=False)


def square(x, y, side=6):
    mask = np.zeros((60, 60), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def picture(number):
    return np.random.default_rng(number).integers(0, 255, (60, 60, 3)).astype(np.uint8)


def marked(number, category, mask=None, **words):
    """A target of image `number`."""
    image = picture(number)
    mask = square(10, 10) if mask is None else mask
    labels = {"category": category, "modality": "CT"} if category else {"modality": "CT"}
    given = {
        "id": f"{number}-{category}-{mask_box(mask).x1:g}",
        "where": f"{category} of {number}",
        "labels": labels,
        **words,
    }
    return SourceSample(
        load_image=lambda: LoadedImage(id="x", kind="picture", pixels=image), load_mask=lambda: mask,
        image_key=str(number), group=str(number), **given,
    )  # fmt: skip


def lines(folder, name="manifest.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def built(folder, samples, **words):
    options = {"targets": "every", "exhaustive": ("all",), "near_duplicates": False, **words}
    build(samples, folder, Options(**options), ASK)
    return {(row["category"], len(row["regions"])): row for row in lines(folder)}


def three_images():
    """Two nodules and a cyst; one nodule; one cyst."""
    return [
        marked(1, "nodule"), marked(1, "nodule", square(30, 30)), marked(1, "cyst", square(45, 5)),
        marked(2, "nodule"), marked(3, "cyst"),
    ]  # fmt: skip


def test_every_target_of_a_category_is_one_question(tmp_path):
    build(three_images(), tmp_path / "out", EVERY, ASK)
    read = {sample.query.id: sample for sample in open_dataset(tmp_path / "out")}
    assert Counter((sample.labels["category"], len(sample.target.regions)) for sample in read.values()) == {
        ("nodule", 2): 1, ("nodule", 1): 1, ("cyst", 1): 2,
    }  # fmt: skip
    (two,) = (sample for sample in read.values() if len(sample.target.regions) == 2)
    for region, mask in zip(two.target.regions, (square(10, 10), square(30, 30)), strict=True):
        assert np.array_equal(region.mask.data, mask) and region.box == mask_box(mask) and len(region.points) == 2
    assert np.array_equal(two.target.mask, square(10, 10) | square(30, 30))
    assert "nodule" in two.query.question and two.labels["asked_by"] == "template"
    assert lint(tmp_path / "out")[0] == []


def test_both_kinds_of_question_can_be_asked(tmp_path):
    build(three_images(), tmp_path / "out", Options(targets="both", exhaustive=("nodule",), near_duplicates=False), ASK)
    rows = lines(tmp_path / "out")
    assert Counter(("regions" in row, row["category"]) for row in rows) == {
        (False, "nodule"): 3, (False, "cyst"): 2, (True, "nodule"): 2,
    }  # fmt: skip


def test_components_of_a_mask_are_apart_only_where_that_is_asked_for(tmp_path):
    samples = [marked(1, "nodule", square(10, 10) | square(30, 30))]
    assert set(built(tmp_path / "whole", samples)) == {("nodule", 1)}
    assert set(built(tmp_path / "apart", samples, components="each")) == {("nodule", 2)}


def test_a_target_too_small_by_itself_is_among_every_one(tmp_path):
    rows = built(tmp_path / "out", [marked(1, "nodule"), marked(1, "nodule", square(30, 30, 2))], min_area=16)
    assert set(rows) == {("nodule", 2)}
    small = [marked(1, "nodule", square(30, 30, 2)), marked(2, "nodule")]
    build(small, tmp_path / "one", Options(near_duplicates=False), ASK)
    assert [row["image"] for row in lines(tmp_path / "one")] == [lines(tmp_path / "one")[0]["image"]]


def test_a_mask_that_two_lines_name_is_one_target(tmp_path):
    assert set(built(tmp_path / "out", [marked(1, "nodule"), marked(1, "nodule", id="again")])) == {("nodule", 1)}


def refuse():
    raise InputError("it is damaged")


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ([BadSample("line 9", "is not JSON")], "an entry that could not be used"),
        ([BadSample("line 9", "has no mask", category="nodule")], "an entry that could not be used"),
        (
            [marked(1, "nodule", square(30, 30), regions=(SourceRegion(load_mask=refuse),))],
            "an entry that could not be used",
        ),
        ([marked(1, "lung nodule", square(30, 30))], "lung nodule is marked apart from nodule"),
        ([marked(1, "nodule", square(30, 30), crowd=True)], "several nodule as one"),
        ([marked(1, "nodule", square(30, 30), regions=(), question="Where?")], "is marked apart"),
    ],
)
def test_where_another_may_be_unmarked_nothing_is_asked(tmp_path, others, why):
    samples = [marked(1, "nodule"), *others, marked(2, "polyp")]
    options = Options(targets="every", exhaustive=("nodule", "polyp"), near_duplicates=False)
    if why.startswith("an entry") and not getattr(others[0], "category", "x"):
        with pytest.raises(InputError, match="not one sample"):
            build(samples, tmp_path / "out", options, ASK)
        return
    build(samples, tmp_path / "out", options, ASK)
    assert ("nodule", 1) not in {(row["category"], len(row["regions"])) for row in lines(tmp_path / "out")}
    assert any(why in row["reason"] for row in lines(tmp_path / "out", "rejected.jsonl"))


def test_an_entry_about_another_image_or_category_is_no_obstacle(tmp_path):
    bad = [BadSample("line 8", "is not JSON", image_key="7"), BadSample("line 9", "has no mask", category="cyst")]
    assert ("nodule", 1) in built(tmp_path / "out", [marked(1, "nodule"), *bad])


def test_absent_targets_are_of_categories_seen_elsewhere_and_asked_in_the_same_words(tmp_path):
    samples = [marked(n, "nodule" if n % 2 else "cyst") for n in range(20)]
    summary_of = build(samples, tmp_path / "out", Options(**{**options(), "negatives": 0.25}), ASK)
    rows = lines(tmp_path / "out")
    assert summary_of["targets"] == {"one": 20, "none": 7}
    by_image = {row["image"]: row["category"] for row in rows if row["regions"]}
    for row in rows:
        if not row["regions"]:
            assert {row["category"], by_image[row["image"]]} == {"nodule", "cyst"}
            assert "mask" not in row and row["modality"] == "CT"
    forms = {row["question"].replace(row["category"], "X") for row in rows if row["regions"]}
    assert {row["question"].replace(row["category"], "X") for row in rows if not row["regions"]} <= forms
    assert lint(tmp_path / "out")[0] == []
    again = build(samples, tmp_path / "again", Options(**{**options(), "negatives": 0.25}), ASK)
    other = build(samples, tmp_path / "other", Options(**{**options(), "negatives": 0.25, "seed": 1}), ASK)
    assert summary_of["digest"] == again["digest"] != other["digest"]


def options():
    return {"targets": "every", "exhaustive": ("nodule", "cyst"), "near_duplicates": False}


def test_of_no_category_more_is_absent_than_present(tmp_path):
    samples = [marked(n, "nodule") for n in range(9)] + [marked(9, "cyst")]
    build(samples, tmp_path / "out", Options(**{**options(), "negatives": 0.8}), ASK)
    counts = Counter((row["category"], bool(row["regions"])) for row in lines(tmp_path / "out"))
    assert counts == {("nodule", True): 9, ("cyst", True): 1, ("cyst", False): 1, ("nodule", False): 1}


@pytest.mark.parametrize(
    ("category", "labels"),
    [
        ("lung nodule", {"modality": "CT"}),  # a nodule is marked there
        ("nodules", {"modality": "CT"}),
        ("", {"modality": "CT"}),  # what it is, nobody says
        ("cyst", {"category": "cyst", "modality": "MRI"}),  # nobody looks for nodules there
        ("cyst", {"category": "cyst", "modality": "CT", "dataset": "other"}),
    ],
)
def test_nothing_is_absent_that_may_be_there(tmp_path, category, labels):
    labels = labels if "category" in labels or not category else {**labels, "category": category}
    samples = [marked(1, "nodule"), marked(2, "nodule"), marked(3, category, labels=labels)]
    with pytest.raises(InputError, match="no target can be said to be absent"):
        build(samples, tmp_path / "out", Options(**{**options(), "negatives": 0.5}), ASK)


def test_an_organ_may_lack_the_lesion_that_is_named_after_it(tmp_path):
    samples = [marked(1, "kidney"), marked(1, "kidney tumor", square(30, 30)), marked(2, "kidney")]
    rows = built(tmp_path / "out", samples, negatives=0.3)
    assert ("kidney tumor", 0) in rows


def test_only_declared_categories_are_asked_about(tmp_path):
    with pytest.raises(InputError, match="does not say of which categories") as error:
        build(three_images(), tmp_path / "out", Options(targets="every"), ASK)
    assert "--exhaustive" in error.value.hint
    rows = built(tmp_path / "one", three_images(), exhaustive=("cyst",), negatives=0.3)
    assert {category for category, _ in rows} == {"cyst"}
    by_line = [
        marked(1, "nodule", exhaustive=("nodule",)),
        marked(2, "nodule"),
        marked(3, "cyst", exhaustive=("nodule",)),
    ]
    rows = built(tmp_path / "lines", by_line, exhaustive=(), negatives=0.5)
    assert set(rows) == {("nodule", 1), ("nodule", 0)}
    assert len(lines(tmp_path / "lines")) == 2


@pytest.mark.parametrize("words", [{"negatives": 0.2}, {"negatives": 1.0, "targets": "every"}, {"targets": "two"},
                                   {"targets": "every", "components": "largest"}])  # fmt: skip
def test_options_that_do_not_go_together_are_refused(words):
    with pytest.raises(ValueError):
        Options(**words)


def test_splits_keep_an_image_together(tmp_path):
    samples = [
        marked(n, c, square(5 + 20 * (c == "cyst"), 9)) for n in range(20) for c in ("nodule", "cyst")[: 1 + n % 2]
    ]
    build(samples, tmp_path / "out", Options(**{**options(), "targets": "both", "negatives": 0.2}), ASK)
    splits = {}
    for row in lines(tmp_path / "out"):
        assert splits.setdefault(row["image"], row["split"]) == row["split"]
    assert set(splits.values()) == {"train", "val", "test"}


def test_the_words_of_a_manifest_say_it_all(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    values = np.zeros((60, 60), np.uint8)
    values[square(10, 10)], values[square(30, 30)] = 1, 2
    (folder / "map.png").write_bytes(png_bytes(values))
    for number in (1, 2):
        Pillow.fromarray(picture(number)).save(folder / f"{number}.png")
    rows = [
        {"id": "two", "image": "1.png", "question": "Where are they?", "category": "nodule", "split": "train",
         "regions": [{"mask": "map.png", "mask_value": 1, "label": "upper"}, {"mask": encode_rle(square(30, 30))}]},
        {"id": "none", "image": "2.png", "question": "Where are they?", "category": "nodule", "split": "test", "regions": []},
        {"id": "unasked", "image": "2.png", "category": "cyst", "split": "test", "exhaustive": ["cyst"],
         "regions": [{"mask": "map.png", "mask_value": 2}]},
    ]  # fmt: skip
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows[:2])))
    direct = open_dataset(folder, split="train")[0]
    assert [region.label for region in direct.target.regions] == ["upper", ""]
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build(read_source(folder), tmp_path / "out", Options(near_duplicates=False), ASK)
    read = {sample.query.id: sample for sample in open_dataset(tmp_path / "out")}
    assert [region.box for region in read["two"].target.regions] == [mask_box(square(10, 10)), mask_box(square(30, 30))]
    assert read["two"].target.regions[0].label == "upper" and read["two"].query.question == "Where are they?"
    assert read["none"].target.regions == () and read["none"].labels["asked_by"] == "source"
    assert "cyst" in read["unasked"].query.question and len(read["unasked"].target.regions) == 1
    assert {row["id"]: row["split"] for row in lines(tmp_path / "out")} == {
        "two": "train",
        "none": "test",
        "unasked": "test",
    }


def coco(folder, **words):
    folder.mkdir()
    for number in (1, 2, 3):
        Pillow.fromarray(picture(number)).save(folder / f"{number}.png")
    annotations = [
        {"id": n, "image_id": image, "category_id": category, "iscrowd": 0, "segmentation": encode_rle(mask)}
        for n, (image, category, mask) in enumerate(
            [(1, 1, square(10, 10)), (1, 1, square(30, 30)), (2, 2, square(10, 10))], start=1
        )
    ]
    images = [
        {"id": n, "file_name": f"{n}.png", "height": 60, "width": 60, **words.get(f"image{n}", {})} for n in (1, 2, 3)
    ]
    categories = [{"id": 1, "name": "nodule"}, {"id": 2, "name": "cyst"}]
    table = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "all.json").write_text(json.dumps(table))
    return folder


def test_instances_of_a_coco_file_stay_apart_and_its_bare_images_are_negatives(tmp_path):
    samples = list(read_source(coco(tmp_path / "coco"), modality="CT"))
    assert [sample.regions for sample in samples] == [None, None, None, ()]
    rows = built(tmp_path / "out", samples, negatives=0.5)
    assert {("nodule", 2), ("nodule", 0), ("cyst", 1), ("cyst", 0)} == set(rows)
    bare = built(tmp_path / "bare", [*samples[:2], samples[3]], negatives=0.5)[("nodule", 0)]
    assert np.array_equal(np.asarray(Pillow.open(tmp_path / "bare" / bare["image"])), picture(3))
    build(samples, tmp_path / "one", Options(near_duplicates=False), ASK)
    assert len(lines(tmp_path / "one")) == 3 and lines(tmp_path / "one", "rejected.jsonl") == []


def test_categories_that_lvis_calls_negative_are_exhaustive(tmp_path):
    words = {
        "image1": {"neg_category_ids": [], "not_exhaustive_category_ids": [1]},
        "image2": {"neg_category_ids": [1]},
        "image3": {"neg_category_ids": [2, 1]},
    }
    samples = list(read_source(coco(tmp_path / "coco", **words), modality="CT"))
    assert [sample.exhaustive for sample in samples] == [(), (), ("nodule", "cyst"), ("cyst", "nodule")]
    build(samples, tmp_path / "out", Options(targets="both", negatives=0.5, near_duplicates=False), ASK)
    apart = {(row["category"], len(row["regions"])) for row in lines(tmp_path / "out") if "regions" in row}
    assert apart == {("cyst", 1), ("cyst", 0)}, "of nodules not every one is marked where they are"


def test_a_dataset_with_absent_and_several_targets_is_described_and_exported(tmp_path):
    build(three_images(), tmp_path / "out", Options(**{**options(), "negatives": 0.3}), ASK)
    dataset = open_dataset(tmp_path / "out")
    figures = measure(dataset)
    counted = summary(figures)
    assert {name: counts["all"] for name, counts in counted["counts"]["targets"].items()} == {
        "one": 3, "several": 1, "none": 2,
    }  # fmt: skip
    for row in figures:
        assert (row.area is None) == (row.targets == "none") and (row.box_fill is None) == (row.targets != "one")
    two = next(row for row in figures if row.targets == "several")
    assert two.regions == 2 and two.area == pytest.approx(72 / 3600) and two.dice_filled_box == 1.0
    assert export(tmp_path / "out", tmp_path / "coco", "coco")
    entries = {"annotations": 0, "absent": 0}
    for file in (tmp_path / "coco").glob("*.json"):
        table = json.loads(file.read_text())
        entries["annotations"] += len(table["annotations"])
        for image in table["images"]:
            entries["absent"] += len(image.get("absent", []))
            assert {one["category_id"] for one in image.get("absent", [])} == set(image.get("neg_category_ids", []))
    assert entries == {"annotations": 5, "absent": 2}


@pytest.mark.parametrize("format", ["umrg", "coco"])
def test_targets_keep_their_names_in_exports(tmp_path, format):
    folder = tmp_path / "source"
    folder.mkdir()
    Pillow.fromarray(picture(1)).save(folder / "1.png")
    upper, lower = ({"mask": encode_rle(square(at, at))} for at in (10, 30))
    rows = [
        {"id": "two", "image": "1.png", "question": "Where are they?", "regions": [{**upper, "label": "upper"}, lower]},
        {"id": "one", "image": "1.png", "question": "Where is it?", "regions": [{**lower, "label": "lower"}]},
    ]
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build(read_source(folder), tmp_path / "out", Options(near_duplicates=False), ASK)
    export(tmp_path / "out", tmp_path / "export", format)
    read = {sample.id: [region.label for region in sample.regions] for sample in read_source(tmp_path / "export")}
    assert read == {"two": ["upper", ""], "one": ["lower"]}


def test_an_export_whose_absent_targets_are_no_list_is_refused(tmp_path):
    build(three_images(), tmp_path / "out", Options(**{**options(), "negatives": 0.3}), ASK)
    export(tmp_path / "out", tmp_path / "coco", "coco")
    for file in (tmp_path / "coco").glob("*.json"):
        table = json.loads(file.read_text())
        table["images"] = [{**image, "absent": 5} for image in table["images"]]
        file.write_text(json.dumps(table))
    refused = [one for one in read_source(tmp_path / "coco") if isinstance(one, BadSample)]
    assert refused and all("needs a list of absent" in one.reason for one in refused)


@pytest.mark.slow
def test_the_command_asks_about_every_one(tmp_path):
    phantoms.write(tmp_path / "source", phantoms.samples(12, 1, families=["plain"], size=(64, 64)))
    run = CliRunner()
    arguments = [
        "build",
        str(tmp_path / "source"),
        "--out",
        str(tmp_path / "out"),
        "--targets",
        "every",
        "--exhaustive",
        "all",
    ]
    result = run.invoke(data, arguments)
    assert result.exit_code == 0 and "targets of a question: 6 several" in result.stderr
    assert run.invoke(data, ["stats", str(tmp_path / "out"), "--html", str(tmp_path / "x.html")]).exit_code == 0
    assert "several" in (tmp_path / "x.html").read_text()
