"""`data build` writes samples of a source as a dataset, lists rejected ones and never overwrites."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from medground_data.build import Options, build
from medground_data.command import data
from medground_data.question_sources import FromSource, FromTemplates
from medground_data.readers import read_source
from medground_toy import phantoms
from PIL import Image as Pillow

from medground.data.open_dataset import open_dataset
from medground.data.source_samples import BadSample, SourceSample
from medground.errors import InputError
from medground.geometry import Box, in_mask, mask_box
from medground.images.loaded import LoadedImage
from medground.images.pictures import png_bytes
from medground.images.read import open_image, read_image, read_mask

ASK = FromTemplates(keep=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    phantoms.write(folder, phantoms.samples(24, seed=3, size=(96, 96)))
    return folder


def lines(folder, name="manifest.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def loaded(pixels, window=None):
    return LoadedImage(id="x", kind="picture", pixels=pixels, window=window)


def source_sample(image=None, mask=None, **words):
    rng = np.random.default_rng(5)
    image = rng.integers(0, 255, (40, 50, 3)).astype(np.uint8) if image is None else image
    mask = np.pad(np.ones((20, 10), bool), ((5, 15), (10, 30))) if mask is None else mask
    given = {"id": "a", "where": "line 1", "image_key": "a", "group": "a", "question": "Which one?", **words}
    return SourceSample(load_image=lambda: loaded(image), load_mask=lambda: mask, **given)


@pytest.mark.slow
def test_a_built_dataset_opens_with_open_dataset(source, tmp_path):
    summary = build(read_source(source), tmp_path / "out", Options(), ASK)
    read = open_dataset(tmp_path / "out")
    assert len(read) == summary["samples"] == summary["cases"] == 24
    for sample, there in zip(read, phantoms.samples(24, seed=3, size=(96, 96)), strict=True):
        assert np.array_equal(sample.query.image, there.query.image)
        assert np.array_equal(sample.target.mask, there.target.mask)
        assert sample.target.region.box == mask_box(there.target.mask)
        assert in_mask(sample.target.region.points, sample.target.mask).all()
        assert sample.query.question == there.query.question
        assert sample.labels["category"] == there.labels["category"]
        assert sample.labels["asked_by"] == "source"
    assert set(summary["by_split"]) == {"train", "val", "test"}
    assert not (tmp_path / "out.building").exists()
    assert json.loads((tmp_path / "out" / "build.json").read_text())["digest"] == summary["digest"]


@pytest.mark.slow
def test_a_build_is_deterministic_to_the_byte(source, tmp_path):
    digests = {
        build(read_source(source), tmp_path / name, Options(seed=4), FromTemplates(seed=4))["digest"] for name in "ab"
    }
    other = build(read_source(source), tmp_path / "c", Options(seed=5), FromTemplates(seed=5))["digest"]
    assert len(digests) == 1
    assert other not in digests


def test_bad_samples_are_listed_and_good_ones_built(tmp_path):
    def broken():
        raise InputError("x.png is damaged or incomplete")

    empty, small = np.zeros((40, 50), bool), np.zeros((40, 50), bool)
    small[3:5, 3:6] = True
    samples = [
        BadSample("line 1", "is not JSON"),
        replace(source_sample(where="line 2"), load_image=broken),
        source_sample(where="line 3", id="c", mask=empty),
        source_sample(where="line 4", id="d", mask=np.ones((50, 40), bool)),
        source_sample(where="line 5", id="e", mask=small),
        source_sample(where="line 6", id="f", mask=np.ones((40, 50), bool)),
        source_sample(where="line 7", id="g", box=Box(30, 5, 40, 25)),
        source_sample(where="line 8", id="../h"),
        source_sample(where="line 9", id="good", box=Box(10, 5, 20, 25)),
    ]
    summary = build(samples, tmp_path / "out", Options(), ASK)
    assert (summary["cases"], summary["samples"], summary["rejected"]) == (9, 1, 8)
    reasons = {row["where"]: row["reason"] for row in lines(tmp_path / "out", "rejected.jsonl")}
    for number, word in enumerate(
        ("JSON", "damaged", "empty", "transposed", "6 px", "more than", "mirrored", "file name"), start=1
    ):
        assert word in reasons[f"line {number}"]
    assert [row["id"] for row in lines(tmp_path / "out")] == ["good"]
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == ["good.png"]


def test_components_selects_all_the_largest_or_each(tmp_path):
    mask = np.zeros((40, 50), bool)
    mask[2:12, 2:12] = mask[20:38, 20:48] = mask[0, 49] = True
    for components, boxes in {
        "all": [[2, 0, 50, 38]],
        "largest": [[20, 20, 48, 38]],
        "each": [[20, 20, 48, 38], [2, 2, 12, 12]],
    }.items():
        out = tmp_path / components
        build([source_sample(mask=mask)], out, Options(components=components), ASK)
        assert [row["bbox_2d"] for row in lines(out)] == boxes
        for sample in open_dataset(out):
            assert mask_box(sample.target.mask) == sample.target.region.box
    assert [row["id"] for row in lines(tmp_path / "each")] == ["a-1", "a-2"]
    assert lines(tmp_path / "each", "rejected.jsonl")[0]["where"] == "line 1, component 3"


def test_build_never_overwrites_and_leaves_nothing_after_a_failure(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="already holds something"):
        build(read_source(source), out, Options(), ASK)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    with pytest.raises(InputError, match="not one sample"):
        build([BadSample("line 1", "is not JSON")], tmp_path / "other", Options(), ASK)
    assert not (tmp_path / "other").exists()
    build([source_sample()], tmp_path / "other", Options(), ASK)  # over what the failed one left beside it
    assert len(open_dataset(tmp_path / "other")) == 1


def test_patients_and_look_alikes_stay_in_one_split(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [
        np.asarray(Pillow.fromarray(rng.integers(0, 255, (6, 6, 3)).astype(np.uint8)).resize((50, 40)))
        for _ in range(30)
    ]
    samples = [
        source_sample(
            image=picture, id=f"{copy}-{n}", image_key=f"{copy}-{n}", group=f"p{n // 2}" if copy == "a" else f"{copy}{n}"
        )
        for n, picture in enumerate(pictures)
        for copy, picture in (("a", picture), ("b", picture), ("c", np.clip(picture.astype(int) + 2, 0, 255).astype(np.uint8)))
    ]  # fmt: skip
    summary = build(samples, tmp_path / "out", Options(fractions={"train": 0.5, "test": 0.5}), ASK)
    split = {row["id"]: row["split"] for row in lines(tmp_path / "out")}
    for n in range(0, 30, 2):
        assert len({split[f"{copy}-{m}"] for copy in "abc" for m in (n, n + 1)}) == 1
    assert summary["groups"] == 15
    assert summary["leaking_groups"] == 0
    assert 30 <= summary["by_split"]["train"] <= 60


def test_stated_splits_are_kept_and_their_leaks_reported(tmp_path):
    samples = [source_sample(id=str(n), split="train" if n else "test") for n in range(3)]
    summary = build(samples, tmp_path / "out", Options(), ASK)
    assert summary["splits_kept"]
    assert summary["leaking_groups"] == 1
    result = build(samples, tmp_path / "made", Options(splits="make"), ASK)
    assert result["leaking_groups"] == 0
    with pytest.raises(InputError, match="cannot be kept: 1 samples state none"):
        build([source_sample()], tmp_path / "kept", Options(splits="keep"), ASK)


def test_images_are_copied_unchanged_unless_they_contain_text(tmp_path):
    plain, worded, photo = (tmp_path / name for name in ("plain.png", "worded.jpg", "photo.jpg"))
    picture = phantoms.phantom("xray", 1, size=(40, 50)).image
    plain.write_bytes(png_bytes(picture[..., 0]))
    Pillow.fromarray(picture).save(photo, quality=80)
    exif = Pillow.Exif()
    exif[0x010E] = "CANARY^JOHN"
    Pillow.fromarray(picture).save(worded, exif=exif, comment=b"CANARY")
    samples = [
        replace(
            source_sample(id=path.stem, image_key=path.name), load_image=lambda path=path: open_image(path), file=path
        )
        for path in (plain, photo, worded)
    ]
    build(samples, tmp_path / "out", Options(), ASK)
    files = {row["id"]: tmp_path / "out" / row["image"] for row in lines(tmp_path / "out")}
    assert files["plain"].read_bytes() == plain.read_bytes()
    assert files["photo"].read_bytes() == photo.read_bytes()
    assert np.array_equal(read_image(files["worded"]), read_image(worded))
    assert all(b"CANARY" not in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_group_names_are_not_in_the_dataset(tmp_path):
    build([source_sample(group="CANARY^JOHN", image_key="CANARY.png")], tmp_path / "out", Options(), ASK)
    assert all(b"CANARY" not in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_spacing_is_in_the_built_manifest(tmp_path):
    build([source_sample(spacing=(0.5, 0.7))], tmp_path / "out", Options(), ASK)
    assert open_dataset(tmp_path / "out")[0].spacing == (0.5, 0.7)


def test_questions_come_from_the_source_or_from_a_column(tmp_path):
    samples = [source_sample(id="a"), source_sample(id="b", question=None, labels={"asks": "Which dark one?"})]
    build(samples, tmp_path / "own", Options(), FromSource())
    assert [row["question"] for row in lines(tmp_path / "own")] == ["Which one?"]
    assert lines(tmp_path / "own", "rejected.jsonl") == [{"where": "line 1", "reason": "states no question"}]
    build(samples, tmp_path / "column", Options(), FromSource(column="asks"))
    assert [(row["id"], row["question"]) for row in lines(tmp_path / "column")] == [("b", "Which dark one?")]
    with pytest.raises(InputError, match="not one sample"):
        build(samples, tmp_path / "none", Options(), FromSource(column="nowhere"))


def test_data_build_prints_a_summary_and_writes_the_dataset(source, tmp_path):
    run = CliRunner()
    result = run.invoke(
        data, ["build", str(source), "--out", str(tmp_path / "out"), "--questions", "templates", "--json"]
    )
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["samples"] == 24
    assert {row["asked_by"] for row in lines(tmp_path / "out")} == {"template"}
    assert run.invoke(data, ["build", str(source), "--out", str(tmp_path / "x"), "--fractions", "0.9,0.3"]).exception
    report = run.invoke(
        data, ["build", str(source), "--out", str(tmp_path / "told"), "--fractions", "train=0.5,test=0.5"]
    )
    assert "24 samples of" in report.stderr
    assert set(json.loads((tmp_path / "told" / "build.json").read_text())["by_split"]) == {"train", "test"}


def test_invalid_build_options_are_refused():
    for words in ({"points": "best"}, {"fractions": {"train": 0.5}}, {"fractions": {"dev": 1.0}}, {"splits": "so"}):
        with pytest.raises(ValueError):
            Options(**words)


def test_a_jpeg_with_a_wrong_suffix_is_read(tmp_path):
    wrong = tmp_path / "wrong.png"
    buffer = io.BytesIO()
    Pillow.fromarray(phantoms.phantom("ct", 1, size=(40, 50)).image).save(buffer, "JPEG")
    wrong.write_bytes(buffer.getvalue())
    build(
        [replace(source_sample(), load_image=lambda: open_image(wrong), file=wrong)], tmp_path / "out", Options(), ASK
    )
    row = lines(tmp_path / "out")[0]
    assert row["image"].endswith(".jpg")
    assert read_mask(tmp_path / "out" / row["mask"]).shape == (40, 50)


def test_patients_are_found_in_ids_by_a_pattern(tmp_path):
    rng = np.random.default_rng(1)
    samples = [
        source_sample(
            id=f"p{n // 3}_s{n}",
            image_key=str(n),
            group=str(n),
            image=rng.integers(0, 255, (40, 50, 3)).astype(np.uint8),
        )
        for n in range(30)
    ]
    summary = build(samples, tmp_path / "out", Options(group_pattern=r"^(p\d+)_"), ASK)
    split = {row["id"]: row["split"] for row in lines(tmp_path / "out")}
    assert summary["groups"] == 10
    assert all(len({split[f"p{n}_s{3 * n + k}"] for k in range(3)}) == 1 for n in range(10))
    assert len({row["group"] for row in lines(tmp_path / "out")}) == 10
    with pytest.raises(ValueError, match="no regular expression"):
        Options(group_pattern="(")


def test_the_window_used_is_recorded(tmp_path):
    def windowed():
        return loaded(np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8), window="file 40,400")

    view = {"plane": "axial", "slice": "7", "window": "file"}
    build([replace(source_sample(), load_image=windowed, labels=view)], tmp_path / "out", Options(), ASK)
    labels = open_dataset(tmp_path / "out")[0].labels
    assert (labels["window_used"], labels["source_plane"], labels["source_slice"]) == ("file 40,400", "axial", "7")
