"""A mask lies where its image does, however the two files are turned, cut or scaled."""

import itertools
import json

import numpy as np
import pytest
from medground_data.readers import read_source
from PIL import Image as Pillow

from medground.data.open_dataset import open_dataset
from medground.errors import InputError, UsageError
from medground.images.mask_frames import read_mask_of
from medground.images.pictures import UPRIGHT, png_bytes
from medground.images.polygons import polygon_mask
from medground.images.read import open_image
from medground.images.rle import encode_rle
from medground.images.view import View


def exif_picture(path, pixels, orientation):
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    Pillow.fromarray(pixels).save(path, exif=exif)


def stored_scene(size):
    """A picture with a bright block off its middle, and the block's mask."""
    mask = np.zeros(size, bool)
    mask[3:9, 2:14] = True
    return np.repeat((mask * 200 + 20).astype(np.uint8)[..., None], 3, axis=2), mask


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
def test_a_mask_of_the_stored_picture_turns_with_it(tmp_path, orientation, suffix):
    pixels, mask = stored_scene((20, 30))
    exif_picture(tmp_path / f"a.{suffix}", pixels, orientation)
    upright = open_image(tmp_path / f"a.{suffix}").pixels[..., 0] > 120
    (tmp_path / "stored.png").write_bytes(png_bytes(mask))
    (tmp_path / "shown.png").write_bytes(png_bytes(np.ascontiguousarray(upright)))
    if orientation >= 5:
        for name in ("stored", "shown"):
            assert np.array_equal(read_mask_of(tmp_path / f"a.{suffix}", tmp_path / f"{name}.png"), upright)
        return
    with pytest.raises(InputError, match="and its mask does not say whether it is of the stored picture"):
        read_mask_of(tmp_path / f"a.{suffix}", tmp_path / "stored.png")
    exif_picture(tmp_path / "own.png", mask.astype(np.uint8) * 255, orientation)
    assert np.array_equal(read_mask_of(tmp_path / f"a.{suffix}", tmp_path / "own.png"), upright)
    (tmp_path / "even.png").write_bytes(png_bytes(np.ones((20, 30), bool)))
    assert read_mask_of(tmp_path / f"a.{suffix}", tmp_path / "even.png").all()


def test_run_lengths_and_boxes_of_a_turned_picture_are_turned_or_refused(tmp_path):
    pixels, mask = stored_scene((20, 30))
    exif_picture(tmp_path / "t.jpg", pixels, 6)

    def write(**words):
        line = {"id": "a", "image": "t.jpg", "question": "Which bright block is meant?", **words}
        (tmp_path / "manifest.jsonl").write_text(json.dumps(line))

    write(mask=encode_rle(mask))
    shown = open_dataset(tmp_path)[0]
    assert np.array_equal(shown.target.mask, shown.query.image[..., 0] > 120)
    [source] = read_source(tmp_path)
    assert np.array_equal(source.load_mask(), shown.target.mask)
    write(bbox=[2, 3, 14, 9])
    with pytest.raises(InputError, match="its box may count the picture as stored or as shown"):
        open_dataset(tmp_path)[0]
    write(mask=encode_rle(mask), spacing=[0.5, 0.25])
    with pytest.raises(InputError, match="its spacing may be that of the picture as stored or as shown"):
        open_dataset(tmp_path)[0]
    write(mask=encode_rle(mask), spacing=[0.5, 0.25], size=[30, 20])
    assert open_dataset(tmp_path)[0].spacing == (0.5, 0.25)
    write(bbox=[11, 2, 17, 14], size=[30, 20])
    assert open_dataset(tmp_path)[0].target.region.box == (11, 2, 17, 14)


@pytest.mark.slow
def test_a_mask_on_a_flipped_or_permuted_grid_lies_where_its_image_does(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="needs nibabel")
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, (5, 7, 6)).astype(np.int16)
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] @ np.diag([0.7, 1.3, 2.0])
    affine[:3, 3] = [11, -7, 3]
    image = tmp_path / "i.nii"
    nibabel.save(nibabel.Nifti1Image(labels * 100, affine), image)
    for axes, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        turned = nibabel.Nifti1Image(labels, affine).as_reoriented(np.array(list(zip(axes, signs, strict=True)), float))
        nibabel.save(turned, tmp_path / "m.nii")
        for plane in ("axial", "coronal", "sagittal"):
            view = View(plane=plane, slice=1, window="full")
            assert np.array_equal(
                read_mask_of(image, tmp_path / "m.nii", view), open_image(image, view).pixels[..., 0] > 128
            ), (axes, signs, plane)


@pytest.mark.parametrize("shift", [0.5, 1.0, 5.0])
def test_a_mask_on_another_grid_is_refused(tmp_path, shift):
    nibabel = pytest.importorskip("nibabel", reason="needs nibabel")
    labels, affine = np.ones((5, 7, 6), np.int16), np.eye(4)
    nibabel.save(nibabel.Nifti1Image(labels, affine), tmp_path / "i.nii")
    affine[2, 3] = shift
    nibabel.save(nibabel.Nifti1Image(labels, affine), tmp_path / "m.nii")
    with pytest.raises(InputError, match=r"m\.nii lies on another grid than its image i\.nii"):
        read_mask_of(tmp_path / "i.nii", tmp_path / "m.nii", View(plane="axial", slice=1))


def _extent(polygon):
    return max(polygon[::2]) - polygon[0], max(polygon[1::2]) - polygon[1]


def coco(folder, size, stated, polygon, **image):
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    Pillow.fromarray(noise).save(folder / "a.png")
    height, width = stated
    table = {
        "images": [{"id": 0, "file_name": "a.png", "height": height, "width": width, **image}],
        "categories": [{"id": 0, "name": "liver"}],
        "annotations": [
            {
                "id": 0,
                "image_id": 0,
                "category_id": 0,
                "segmentation": [polygon],
                "bbox": [*polygon[:2], *_extent(polygon)],
            }
        ],
    }
    (folder / "all.json").write_text("\ufeff" + json.dumps(table))
    return list(read_source(folder))


def test_coco_polygons_count_the_stated_size(tmp_path):
    square = [10, 10, 30, 10, 30, 20, 10, 20]
    [sample] = coco(tmp_path, (60, 80), (120, 160), square)
    rows, columns = np.nonzero(sample.load_mask())
    assert (rows.min(), rows.max(), columns.min(), columns.max(), len(rows)) == (5, 9, 5, 14, 50)
    [bad] = coco(tmp_path, (60, 80), (120, 120), square)
    assert bad.reason == "its image is 60 x 80, and the file says 120 x 120"
    [bad] = coco(tmp_path, (60, 80), ("120", 160), square)
    assert "states a height and width of" in bad.reason


def test_coco_annotations_of_the_stored_picture_turn_with_it(tmp_path):
    pixels, _ = stored_scene((20, 30))
    exif_picture(tmp_path / "a.jpg", pixels, 6)
    square = [2, 3, 14, 3, 14, 9, 2, 9]
    [sample] = coco(tmp_path, (20, 30), (20, 30), square, file_name="a.jpg")
    assert sample.box is None
    assert np.array_equal(sample.load_mask(), sample.load_image().pixels[..., 0] > 120)
    [sample] = coco(tmp_path, (20, 30), (30, 20), [11, 2, 17, 2, 17, 14, 11, 14], file_name="a.jpg")
    assert np.array_equal(sample.load_mask(), sample.load_image().pixels[..., 0] > 120)
    [bad] = coco(tmp_path, (20, 30), (None, None), square, file_name="a.jpg")
    assert "stored turned (EXIF), and the file states no height and width" in bad.reason


def test_coco_ids_are_one_of_one_kind(tmp_path):
    square = [10, 10, 30, 10, 30, 20, 10, 20]
    coco(tmp_path, (60, 80), (60, 80), square)
    table = json.loads((tmp_path / "all.json").read_text(encoding="utf-8-sig"))

    def reasons(images, image_id):
        annotations = [{**table["annotations"][0], "image_id": image_id}]
        (tmp_path / "all.json").write_text(json.dumps({**table, "images": images, "annotations": annotations}))
        return [getattr(sample, "reason", None) for sample in read_source(tmp_path)]

    image = table["images"][0]
    assert reasons([image], "0") == [None]
    for images, image_id, count in (([image, image], 0, 2), ([{**image, "id": None}], None, 0), ([image], 0.0, 0)):
        reason, *others = reasons(images, image_id)
        assert f"is that of {count} entries of the file, not of one" in reason
        assert others in ([], [None])  # an image that no usable annotation is about


def test_coco_groups_are_words_of_the_image(tmp_path):
    [sample] = coco(tmp_path, (60, 80), (60, 80), [10, 10, 30, 10, 30, 20], patient=0, study="s")
    assert (sample.labels["patient"], sample.labels["study"]) == ("0", "s")


@pytest.mark.slow
def test_polygons_are_filled_as_row_by_row():
    rng = np.random.default_rng(5)
    for _ in range(60):
        height, width = (int(side) for side in rng.integers(1, 40, 2))
        polygons = [rng.integers(-10, 90, (rng.integers(3, 9), 2)) / 2 for _ in range(rng.integers(1, 5))]
        expected = np.zeros((height, width), bool)
        for polygon, row, column in itertools.product(polygons, range(height), range(width)):
            inside = False
            for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
                if (y1 <= row + 0.5) != (y2 <= row + 0.5):
                    inside ^= x1 + (row + 0.5 - y1) * (x2 - x1) / (y2 - y1) <= column + 0.5
            expected[row, column] |= inside
        assert np.array_equal(polygon_mask(polygons, (height, width)), expected)


def test_nnunet_pictures_are_read_by_their_file_ending(tmp_path):
    labels = np.zeros((20, 30), np.uint8)
    labels[3:9, 2:14], labels[12:18, 20:28] = 1, 2
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).mkdir()
    Pillow.fromarray(labels * 100).save(tmp_path / "imagesTr/c1_0000.png")
    Pillow.fromarray(labels).save(tmp_path / "labelsTr/c1.png")
    table = {"labels": {"background": 0, "liver": 1, "tumour": 2}, "file_ending": ".png", "channel_names": {"0": "CT"}}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    samples = list(read_source(tmp_path))
    assert [sample.labels["category"] for sample in samples] == ["liver", "tumour"]
    assert [int(sample.load_mask().sum()) for sample in samples] == [72, 48]
    with pytest.raises(UsageError, match="pictures, which have no plane"):
        list(read_source(tmp_path, plane="axial", slices="all"))
    (tmp_path / "labelsTr/c1.png").rename(tmp_path / "labelsTr/c1.nrrd")
    (tmp_path / "dataset.json").write_text(json.dumps({**table, "file_ending": ".nrrd"}))
    with pytest.raises(InputError, match="no label maps that can be read: its file_ending is"):
        list(read_source(tmp_path))
