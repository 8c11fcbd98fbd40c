"""Folders that Hugging Face datasets saves to disk are read, without that library."""

import io
import json

import numpy as np
import pytest
from click.testing import CliRunner
from medground_data.command import data
from medground_data.readers import read_source
from medground_data.readers.datasets import DatasetsReader
from medground_toy import phantoms
from PIL import Image

from medground.data.export import export
from medground.data.open_dataset import open_dataset
from medground.data.source_samples import BadSample
from medground.errors import InputError, UsageError
from medground.images.rle import encode_rle
from medground.testing import check_reader

datasets = pytest.importorskip("datasets", reason="needs Hugging Face datasets, which writes the folders")


@pytest.fixture(scope="module", autouse=True)
def quiet():
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def made():
    """Return samples of 40 x 48 px."""
    return list(phantoms.samples(5, seed=4, size=(40, 48)))


def rows(samples, **more):
    """Return columns as a user would make them."""
    return {
        "image": [Image.fromarray(sample.query.image) for sample in samples],
        "mask": [Image.fromarray(sample.target.mask.astype(np.uint8) * 255) for sample in samples],
        "question": [sample.query.question for sample in samples],
        "id": [sample.query.id for sample in samples],
        "bbox_2d": [list(sample.target.region.box) for sample in samples],
        "point_2d": [[list(point) for point in sample.target.region.points] for sample in samples],
        **more,
    }


def assert_same(cases, samples):
    for case, sample in zip(cases, samples, strict=True):
        assert np.array_equal(case.load_image().pixels, sample.query.image)
        assert np.array_equal(case.load_mask(), sample.target.mask)
        assert (case.id, case.question) == (sample.query.id, sample.query.question)
        assert (case.box, case.points) == (sample.target.region.box, sample.target.region.points)


def test_columns_named_as_a_manifest_are_read(made, tmp_path):
    words = {"modality": ["CT"] * 5, "spacing": [[0.5, 0.25]] * 5, "think": ["Round."] * 5, "patient": list("aabbc")}
    datasets.Dataset.from_dict(rows(made, **words)).save_to_disk(tmp_path / "saved", num_shards=2)
    cases = list(read_source(tmp_path / "saved"))
    assert_same(cases, made)
    assert [case.labels for case in cases] == [{"modality": "CT", "patient": name} for name in "aabbc"]
    assert {(case.split, case.think, case.spacing) for case in cases} == {(None, "Round.", (0.5, 0.25))}
    check_reader(DatasetsReader, tmp_path / "saved")


def test_splits_and_names_of_classes_are_kept(made, tmp_path):
    features = datasets.Features(
        {
            "image": datasets.Image(), "mask": datasets.Image(), "id": datasets.Value("string"),
            "category": datasets.ClassLabel(names=["liver", "spleen"]),
        }
    )  # fmt: skip
    columns = {key: value for key, value in rows(made, category=[0, 1, 0, 1, 1]).items() if key in features}
    whole = datasets.Dataset.from_dict(columns, features=features)
    parts = {"train": whole.select([0, 2]), "test": whole.select([1, 3, 4])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    cases = list(read_source(tmp_path / "saved", question="Where?"))
    assert [(case.split, case.labels["category"]) for case in cases] == [
        ("train", "liver"), ("train", "liver"), ("test", "spleen"), ("test", "spleen"), ("test", "spleen"),
    ]  # fmt: skip
    assert {case.question for case in cases} == {"Where?"}


def test_other_columns_are_named_by_options(made, tmp_path):
    columns = rows(made)
    columns["scan"], columns["segmentation"] = columns.pop("image"), [encode_rle(s.target.mask) for s in made]
    del columns["mask"]
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "saved")
    assert_same(list(read_source(tmp_path / "saved", image="scan", mask="segmentation")), made)
    with pytest.raises(UsageError, match="has no column 'image'") as caught:
        list(read_source(tmp_path / "saved"))
    assert caught.value.hint.startswith("-o image=COLUMN names another; it has question, id")


def test_the_published_table_is_read_from_such_a_folder(made, tmp_path):
    """As `datasets` loads what ``medground data export`` writes, and saves it."""
    phantoms.write(tmp_path / "made", made)
    export(tmp_path / "made", tmp_path / "all.parquet")
    table = datasets.Dataset.from_parquet(str(tmp_path / "all.parquet"), cache_dir=str(tmp_path / "cache"))
    table.save_to_disk(tmp_path / "saved")
    assert_same(list(read_source(tmp_path / "saved")), list(open_dataset(tmp_path / "all.parquet")))


def test_a_dataset_is_built_from_such_a_folder(made, tmp_path):
    datasets.Dataset.from_dict(rows(made)).save_to_disk(tmp_path / "saved")
    small = ["--min-fraction", "0", "--min-area", "1"]
    run = CliRunner().invoke(
        data, ["build", str(tmp_path / "saved"), "--out", str(tmp_path / "built"), *small, "--json"]
    )
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["samples"] == 5
    built = {sample.query.id: sample.query.question for sample in open_dataset(tmp_path / "built")}
    assert built == {sample.query.id: sample.query.question for sample in made}


def test_rows_that_cannot_be_used_are_named_and_the_others_read(made, tmp_path):
    columns = rows(made)
    columns["mask"][1] = columns["mask"][1].resize((24, 20))
    columns["bbox_2d"][2] = [9.0, 9.0, 3.0, 3.0]
    columns["image"][3] = {"path": "/etc/hostname", "bytes": None}
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    columns["image"][4].save(turned, "PNG", exif=exif)
    columns["image"][4] = {"path": None, "bytes": turned.getvalue()}
    features = datasets.Features({"image": {"path": datasets.Value("string"), "bytes": datasets.Value("binary")}})
    columns["image"] = [
        image if isinstance(image, dict) else {"path": None, "bytes": png(image)} for image in columns["image"]
    ]
    pictures = datasets.Dataset.from_dict({"image": columns.pop("image")}, features=features)
    whole = datasets.concatenate_datasets([pictures, datasets.Dataset.from_dict(columns)], axis=1)
    whole.save_to_disk(tmp_path / "saved")
    first, *bad = read_source(tmp_path / "saved")
    assert_same([first], made[:1])
    assert bad == [
        BadSample("row 1", "its mask is (20, 24) and its image (40, 48)"),
        BadSample("row 2", "its box [9.0, 9.0, 3.0, 3.0] has its corners reversed"),
        BadSample("row 3", "its image is not inside the table"),
        BadSample("row 4", "its image is stored turned (EXIF), and its numbers may count it as stored or as shown"),
    ]


def png(picture):
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("data-00000-of-00001.arrow", "PAR1", "damaged or no file of Arrow"),
        ("state.json", "[]", "does not list its files"),
        ("state.json", '{"_data_files": [{"filename": "../../other.arrow"}]}', "a file of rows"),
        ("state.json", '{"_data_files": [], "_indices_data_files": [{}]}', "does not list its files"),
    ],
)
def test_a_folder_that_is_not_as_saved_is_refused(made, tmp_path, file, text, problem):
    datasets.Dataset.from_dict(rows(made)).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / file).write_text(text)
    with pytest.raises(InputError, match=problem):
        list(DatasetsReader().read(tmp_path / "saved"))


def test_splits_stay_inside_the_folder(tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["../elsewhere"]}')
    with pytest.raises(InputError):
        list(DatasetsReader().read(tmp_path / "saved"))
