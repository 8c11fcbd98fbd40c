"""The published parquet table: written, opened by `datasets`, read back; bad rows listed, good ones kept."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
from medground_data.readers import read_source  # noqa: E402
from medground_toy import phantoms  # noqa: E402
from pyarrow import parquet  # noqa: E402

from medground.cli import main  # noqa: E402
from medground.data.open_dataset import open_dataset  # noqa: E402
from medground.data.source_samples import BadSample  # noqa: E402
from medground.data.umrg import read_umrg, write_umrg  # noqa: E402
from medground.data.umrg.locate import is_umrg  # noqa: E402
from medground.errors import InputError, UsageError  # noqa: E402
from medground.geometry import Box, Point, mask_box  # noqa: E402
from medground.types import Mask, Query, Region, Sample, Target  # noqa: E402


def alike(mine, theirs):
    assert mine.query.id == theirs.query.id and mine.query.question == theirs.query.question
    assert np.array_equal(mine.query.image, theirs.query.image)
    assert np.array_equal(mine.target.mask, theirs.target.mask)
    assert (
        mine.target.region.box == theirs.target.region.box and mine.target.region.points == theirs.target.region.points
    )
    assert dict(mine.labels) == dict(theirs.labels) and mine.spacing == theirs.spacing


@st.composite
def samples(draw):
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    dice = np.random.default_rng(draw(st.integers(0, 2**31)))
    mask = dice.random((height, width)) < draw(st.sampled_from((0.02, 0.5, 1.0)))
    mask[dice.integers(height), dice.integers(width)] = True
    rows, columns = np.nonzero(mask)
    picked = dice.integers(len(rows), size=draw(st.integers(0, 2)))
    text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
    labels = draw(
        st.dictionaries(st.sampled_from(("category", "supercategory", "modality", "think", "hospital")), text)
    )
    return Sample(
        query=Query(
            image=dice.integers(0, 256, (height, width, 3)).astype(np.uint8),
            id=draw(text),
            question=draw(text.filter(str.strip)),
        ),
        target=Target(
            regions=(
                Region(
                    box=mask_box(mask),
                    points=tuple(Point(columns[k] + 0.5, rows[k] + 0.5) for k in picked),
                    mask=Mask(data=mask),
                ),
            )
        ),
        labels=labels,
        spacing=draw(st.none() | st.just((0.5, 0.25))),
    )


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(sample=samples())
def test_a_sample_comes_back_as_it_was(tmp_path_factory, sample):
    path = tmp_path_factory.mktemp("umrg") / "train.parquet"
    assert write_umrg(path, [sample]) == 1
    table = read_umrg(path)
    assert not table.bad
    alike(table[0], sample)
    x1, y1, x2, y2 = table[0].target.published["bbox_2d"]
    assert sample.target.mask[y1 : y2 + 1, x1 : x2 + 1].sum() == sample.target.mask.sum(), (
        "published: inclusive indices"
    )


@pytest.fixture
def folder(tmp_path):
    result = phantoms.samples(12, seed=1, size=(64, 48))
    write_umrg(tmp_path / "train.parquet", result[:9])
    write_umrg(tmp_path / "test.parquet", result[9:])
    return tmp_path


def test_targets_of_several_regions_and_of_none_come_back_apart(tmp_path):
    masks = [np.pad(np.ones((5, 4), bool), ((top, 15 - top), (left, 16 - left))) for top, left in ((2, 3), (9, 9))]
    regions = tuple(Region(box=mask_box(m), points=(Point(4.5, 5.5),), mask=Mask(data=m)) for m in masks)
    targets = {"two": regions, "none": (), "one": regions[:1], "boxes": tuple(replace(r, mask=None) for r in regions)}
    image = np.arange(1200).reshape(20, 20, 3).astype(np.uint8)
    drawn = [
        Sample(query=Query(image=image, question="Where?", id=n), target=Target(regions=r)) for n, r in targets.items()
    ]
    assert write_umrg(tmp_path / "train.parquet", drawn) == 4
    for sample, regions in zip(read_umrg(tmp_path), targets.values(), strict=True):
        truth = sample.target
        assert [(r.box, r.points) for r in truth.regions] == [(r.box, r.points) for r in regions]
        assert (truth.published is None) == (len(regions) != 1)
        for read, written in zip(truth.regions, regions, strict=True):
            assert (read.mask is None) == (written.mask is None)
            assert read.mask is None or np.array_equal(read.mask.data, written.mask.data)


def test_masks_and_boxes_of_a_row_must_be_as_many(tmp_path):
    two = json.dumps([{"bbox_2d": [0, 0, 3, 3]}, {"bbox_2d": [4, 4, 7, 7]}])
    row = {**GOOD, "reward_model": {"ground_truth": two, "style": "rule"}}
    [bad] = read_umrg(table(tmp_path / "train.parquet", GOOD, row)).bad
    assert bad.reason == "it holds 1 masks, and its ground truth 2 boxes"


def test_datasets_opens_it_with_decoded_images(folder, tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    files = {split: str(folder / f"{split}.parquet") for split in ("train", "test")}
    result = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in result.items()} == {"train": 9, "test": 3}
    row, sample = result["train"][0], phantoms.samples(12, seed=1, size=(64, 48))[0]
    assert isinstance(row["images"][0], Pillow.Image) and row["images"][0].size == (48, 64)
    assert np.array_equal(np.asarray(row["images"][0]), sample.query.image)
    mask = np.asarray(row["masks"][0])
    assert set(np.unique(mask)) == {0, 255} and np.array_equal(mask > 0, sample.target.mask)
    truth = json.loads(row["reward_model"]["ground_truth"])
    rows, columns = np.nonzero(sample.target.mask)
    assert truth["bbox_2d"] == [columns.min(), rows.min(), columns.max(), rows.max()]
    assert row["prompt"][0]["content"] == sample.query.question and row["data_source"] == "umrg"
    assert row["extra_info"]["id"] == sample.query.id


@pytest.mark.lane
def test_samples_are_read_through_the_same_door(folder):
    assert len(open_dataset(folder, split="train")) == 9 and len(open_dataset(folder, reader="umrg")) == 12
    assert len(open_dataset(folder / "test.parquet", limit=2)) == 2
    alike(open_dataset(folder, split="test")[2], phantoms.samples(12, seed=1, size=(64, 48))[11])
    assert open_dataset(folder)[2:4][1].query.id == open_dataset(folder)[3].query.id
    with pytest.raises(UsageError, match="no reader 'umgr'") as error:
        open_dataset(folder, reader="umgr")
    assert error.value.hint == "did you mean 'umrg'?"
    with pytest.raises(InputError, match="no split 'val'"):
        open_dataset(folder, split="val")


def test_cases_of_a_table(folder):
    cases = list(read_source(folder, split="test"))
    assert [case.split for case in cases] == ["test"] * 3
    for case in cases:
        (region,) = case.regions
        assert mask_box(case.load_mask()) == region.box and region.label
        assert case.load_image().pixels.shape == (64, 48, 3)


def test_variants_and_parts_by_name(tmp_path):
    result = phantoms.samples(4, seed=1, size=(32, 32))
    for variant, count in (("U_MRG_14k", 3), ("U_MRG_6k", 1)):
        write_umrg(tmp_path / variant / "train.parquet", result[:count])
    write_umrg(tmp_path / "parts/data/train-00000-of-00002.parquet", result[:3])
    write_umrg(tmp_path / "parts/data/train-00001-of-00002.parquet", result[3:])
    assert len(read_umrg(tmp_path, split="14k/train")) == 3
    assert len(read_umrg(tmp_path, split="6k/train")) == len(read_umrg(tmp_path / "U_MRG_6k")) == 1
    assert len(read_umrg(tmp_path, split="U_MRG_14k/train")) == 3
    assert len(read_umrg(tmp_path / "parts", split="train")) == 4
    assert is_umrg(tmp_path) and is_umrg(tmp_path / "parts/data") and not is_umrg(tmp_path.parent / "none")
    for requests, reason in (
        ("train", "holds the variants 14k and 6k"),
        ("9k/train", "no variant '9k'"),
        ("14k/test", "no split 'test'"),
    ):
        with pytest.raises((UsageError, InputError), match=reason):
            read_umrg(tmp_path, split=requests)


def test_a_hub_id_is_read_from_the_cache_only(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    name = "datasets--someone--U_MRG_14k"
    commit = "0" * 40
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="neither here nor in the local hub cache") as error:
        open_dataset("someone/U_MRG_14k")
    assert "medground fetch" in error.value.hint and "licence" in error.value.hint
    write_umrg(
        tmp_path / name / "snapshots" / commit / "data/train-00000-of-00001.parquet", phantoms.samples(2, seed=1)
    )
    (tmp_path / name / "refs").mkdir()
    (tmp_path / name / "refs/main").write_text(commit)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert len(open_dataset("someone/U_MRG_14k", split="train")) == 2


def png(array):
    buffer = io.BytesIO()
    Pillow.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


IMAGE, MASK = np.full((20, 30, 3), 9, np.uint8), np.zeros((20, 30), np.uint8)
MASK[6:10, 5:10] = 255
GOOD = {
    "prompt": [{"role": "user", "content": "where?"}],
    "images": [{"bytes": png(IMAGE), "path": None}],
    "masks": [{"bytes": png(MASK), "path": None}],
    "data_source": "umrg",
    "reward_model": {"ground_truth": '{"bbox_2d": [5, 6, 9, 9], "point_2d": [[6, 7], [8, 8]]}', "style": "rule"},
    "extra_info": {"id": "covid_1583_X-Ray_chest_left_lung_000.png", "supercategory": "lung", "category": "left lung"},
}


def table(path, *rows):
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def truth(**numbers):
    return {
        "reward_model": {
            "ground_truth": json.dumps({"bbox_2d": [5, 6, 9, 9], "point_2d": [], **numbers}),
            "style": "rule",
        }
    }


def test_a_row_as_published(tmp_path):
    sample = read_umrg(table(tmp_path / "train.parquet", GOOD))[0]
    assert sample.target.region.box == Box(5, 6, 10, 10) == mask_box(sample.target.mask)
    assert sample.target.region.points == ((6.5, 7.5), (8.5, 8.5)) and sample.query.size == (20, 30)
    assert sample.target.published == {"bbox_2d": [5, 6, 9, 9], "point_2d": [[6, 7], [8, 8]]}
    assert sample.labels == {"supercategory": "lung", "category": "left lung", "modality": "X-ray"}


BAD = {
    "no question": ({"prompt": []}, "holds no question"),
    "blank question": ({"prompt": [{"role": "user", "content": " "}]}, "holds no question"),
    "no image": ({"images": []}, "holds 0 images"),
    "two images": ({"images": GOOD["images"] * 2}, "holds 2 images"),
    "image by path": ({"images": [{"bytes": None, "path": "/etc/passwd"}]}, "not inside the table"),
    "page": ({"images": [{"bytes": b"<html>no</html>", "path": None}]}, "not an image of a format"),
    "cut image": ({"images": [{"bytes": png(IMAGE)[:-20], "path": None}]}, "damaged or incomplete"),
    "mask of another size": ({"masks": [{"bytes": png(MASK[1:]), "path": None}]}, r"its mask is \(19, 30\)"),
    "not JSON": ({"reward_model": {"ground_truth": "{", "style": ""}}, "ground truth is not JSON"),
    "list": ({"reward_model": {"ground_truth": "[1]", "style": ""}}, "not a JSON object"),
    "deep": ({"reward_model": {"ground_truth": "[" * 100_000, "style": ""}}, "not JSON"),
    "none": ({"reward_model": {"ground_truth": None, "style": ""}}, "not a JSON object"),
    "three numbers": (truth(bbox_2d=[1, 2, 3]), "bbox_2d is not 4 finite numbers"),
    "truth values": (truth(bbox_2d=[True, 2, 3, 4]), "bbox_2d is not 4 finite numbers"),
    "inverted": (truth(bbox_2d=[9, 6, 5, 9]), "does not lie in its image"),
    "beyond": (truth(bbox_2d=[5, 6, 30, 9]), "does not lie in its image"),
    "point beyond": (truth(point_2d=[[6, 20]]), "does not lie in its image"),
    "points": (truth(point_2d="x"), "not a list of points"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_listed_and_the_others_are_read(tmp_path, name):
    change, reason = BAD[name]
    result = read_umrg(table(tmp_path / "train.parquet", GOOD, {**GOOD, **change}, GOOD))
    assert len(result) == 2 and result[1].query.id == "covid_1583_X-Ray_chest_left_lung_000.png-2"
    [bad] = result.bad
    assert bad.where == "train.parquet row 1"
    with pytest.raises(InputError, match=reason):
        raise InputError(bad.reason)
    assert [entry for entry in read_source(tmp_path) if isinstance(entry, BadSample)] == [bad]


def test_tables_of_no_use(tmp_path):
    for name, data in (("empty", b""), ("words", b"PAR1 but not really PAR1"), ("cut", None)):
        whole = table(tmp_path / "whole.parquet", GOOD).read_bytes()
        (tmp_path / f"{name}.parquet").write_bytes(whole[: len(whole) // 2] + whole[-200:] if data is None else data)
        with pytest.raises(InputError, match=rf"{name}\.parquet is damaged"):
            read_umrg(tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match="has no column 'reward_model'"):
        read_umrg(table(tmp_path / "x.parquet", {key: GOOD[key] for key in ("prompt", "images")}))
    with pytest.raises(InputError, match=r"no row that can be used; the first: x\.parquet row 0 its prompt"):
        read_umrg(table(tmp_path / "x.parquet", {**GOOD, "prompt": []}))
    with pytest.raises(InputError, match="does not exist"):
        read_umrg(tmp_path / "none.parquet")


@pytest.mark.slow
def test_training_reads_a_table(folder, tmp_path, tiny, capsys):
    with pytest.raises(SystemExit) as left:
        main([
            "train", "train/sft", "reasoner=qwen3_vl", f"reasoner.checkpoint={tiny}/model", f"data.path={folder}",
            "data.split=train", "sft.train_batch_size=2", "sft.max_steps=1", "--out", str(tmp_path / "run"),
        ])  # fmt: skip
    assert not left.value.code, capsys.readouterr().err
    assert json.loads((tmp_path / "run/run.json").read_text())["samples"] == 9
