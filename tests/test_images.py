"""Every kind of picture is read as what it shows."""

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageCms
from raster_files import nifti, png, tiff

from medground.errors import InputError, ViewError
from medground.images import pictures
from medground.images.pictures import png_bytes, write_mask
from medground.images.read import image_size, open_image, read_image, read_mask
from medground.images.rle import decode_rle, encode_rle


def colours(height=6, width=9):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def saved(tmp_path, picture, name="x.png", **options):
    picture.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_lossless_formats_come_back_exactly(tmp_path, suffix):
    result = read_image(saved(tmp_path, Pillow.fromarray(colours()), f"x.{suffix}"))
    assert np.array_equal(result, colours()) and result.flags["C_CONTIGUOUS"] and result.flags["WRITEABLE"]


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_formats_come_back_nearly(tmp_path, suffix):
    flat = np.full((40, 30, 3), (200, 90, 40), np.uint8)
    result = read_image(str(saved(tmp_path, Pillow.fromarray(flat), f"x.{suffix}", quality=95)))
    assert result.shape == flat.shape and np.abs(result.astype(int) - flat).max() <= 3


def test_grey_is_repeated_and_one_bit_is_black_and_white(tmp_path):
    grey = colours()[..., 0]
    assert np.array_equal(read_image(saved(tmp_path, Pillow.fromarray(grey))), np.repeat(grey[..., None], 3, 2))
    bits = Pillow.fromarray(grey > 99)
    assert np.array_equal(read_image(saved(tmp_path, bits))[..., 1], (grey > 99) * np.uint8(255))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_windowed_as_scans_are(tmp_path, suffix):
    deep = (np.arange(1000, dtype=np.uint16).reshape(20, 50) * 4).clip(None, 3996)
    path = saved(tmp_path, Pillow.fromarray(deep), f"x.{suffix}")
    # The percentiles 0.5 and 99.5 of 0, 4, ..., 3996 are 19.98 and 3976.02; a marker of 65535 among them moves neither end.
    assert open_image(path).window == "percentiles: 19.98 to 3976.02"
    assert np.array_equal(read_image(path)[..., 0], np.rint((deep - 19.98).clip(0, 3956.04) / 3956.04 * 255))
    assert np.array_equal(read_image(path, window="full")[..., 0], np.rint(deep / 3996 * 255))
    assert read_image(path, window="2000,1001")[0, :2, 0].tolist() == [0, 0]
    deep[0, 0] = 65535
    shown = open_image(saved(tmp_path, Pillow.fromarray(deep), f"m.{suffix}"))
    assert (
        shown.pixels[0, 0, 0] == 255
        and shown.pixels[10, :, 0].mean() > 100
        and "percentiles" in shown.details["window"]
    )
    for window in ("file", "lung"):
        with pytest.raises(ViewError, match=f"states no {window} window"):
            read_image(path, window=window)
    constant = saved(tmp_path, Pillow.fromarray(np.full((3, 3), 777, np.uint16)), f"y.{suffix}")
    assert not read_image(constant).any()


def test_floats_are_stretched_over_what_is_finite(tmp_path):
    deep = np.array([[-1.0, 0.0, 1.0], [np.nan, np.inf, -np.inf]], np.float32)
    result = read_image(saved(tmp_path, Pillow.fromarray(deep), "x.tif"))
    assert result[..., 2].tolist() == [[0, 128, 255], [0, 255, 0]]
    empty = saved(tmp_path, Pillow.fromarray(np.full((2, 2), np.nan, np.float32)), "y.tif")
    assert not read_image(empty).any()


def test_palettes_are_looked_up(tmp_path):
    picture = Pillow.fromarray(colours()).quantize(5)
    assert np.array_equal(read_image(saved(tmp_path, picture)), np.asarray(picture.convert("RGB")))


def test_alpha_is_composited_on_black(tmp_path):
    alpha = np.tile(np.array([0, 128, 255], np.uint8), (6, 3))
    layers = np.dstack([colours(), alpha])
    expected = np.rint(colours() * (alpha[..., None] / 255.0))
    assert np.abs(read_image(saved(tmp_path, Pillow.fromarray(layers))) - expected).max() <= 1
    grey = Pillow.fromarray(np.dstack([colours()[..., 0], alpha]))
    assert np.abs(read_image(saved(tmp_path, grey))[..., 0] - expected[..., 0]).max() <= 1


def test_a_transparent_colour_becomes_black(tmp_path):
    picture = Pillow.fromarray(np.full((4, 4, 3), (9, 8, 7), np.uint8))
    assert not read_image(saved(tmp_path, picture, transparency=(9, 8, 7))).any()


def test_cmyk_becomes_rgb(tmp_path):
    inks = np.zeros((8, 8, 4), np.uint8)
    inks[..., 0] = 255
    result = read_image(saved(tmp_path, Pillow.fromarray(inks, "CMYK"), "x.tif"))
    assert result[0, 0].tolist() == [0, 255, 255]


def test_lab_becomes_rgb(tmp_path):
    flat = Pillow.new("RGB", (8, 8), (200, 90, 40))
    profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    lab = ImageCms.applyTransform(flat, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    result = read_image(saved(tmp_path, lab, "x.tif"))
    assert np.abs(result.astype(int) - np.asarray(flat)).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    # What each value says of the stored array, written independently of the reader's table.
    upright = colours(5, 7)
    undo = {1: "", 2: "h", 3: "hv", 4: "v", 5: "t", 6: "ht", 7: "hvt", 8: "vt"}[orientation]
    stored = upright
    for step in undo:
        stored = {"h": stored[:, ::-1], "v": stored[::-1], "t": stored.swapaxes(0, 1)}[step]
    for name in ("x.png", "x.tif"):
        path = saved(tmp_path, Pillow.fromarray(np.ascontiguousarray(stored)), name, exif=exif)
        assert np.array_equal(read_image(path), upright)
        assert open_image(path).reoriented == ("orientation" in open_image(path).details) == (orientation > 1)
        assert image_size(path) == upright.shape[:2]
        mask = saved(tmp_path, Pillow.fromarray(np.ascontiguousarray(stored[..., 0] > 99)), f"m{name}", exif=exif)
        assert np.array_equal(read_mask(mask), upright[..., 0] > 99)


def test_several_frames_are_refused_and_one_is_not(tmp_path):
    frames = [Pillow.fromarray(colours() // (k + 1)) for k in range(3)]
    for name in ("x.gif", "x.tif", "x.png", "x.webp"):
        many = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:])
        with pytest.raises(InputError, match="several frames"):
            read_image(many)
    assert read_image(saved(tmp_path, frames[0], "y.gif")).shape == (6, 9, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_any_aspect_is_read(tmp_path, size):
    assert read_image(saved(tmp_path, Pillow.new("RGB", size[::-1]))).shape == (*size, 3)


def test_masks_round_trip(tmp_path):
    mask = colours()[..., 0] > 128
    write_mask(tmp_path / "m.png", mask)
    stored = np.asarray(Pillow.open(tmp_path / "m.png"))
    assert stored.dtype == np.uint8 and set(np.unique(stored)) == {0, 255}
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask)
    for wrong in (mask.astype(np.uint8), mask[None]):
        with pytest.raises(ValueError, match="H x W bool"):
            write_mask(tmp_path / "m.png", wrong)


@pytest.mark.parametrize(("runs", "counts"), [((0, 5, 3, 2), "053M"), ((0, 25, 3, 5), "0i03\\O"), ((1, 1, 40), "11X1")])
def test_run_lengths_are_written_as_coco_writes_them(runs, counts):
    """From the fourth run on, the difference to the run two before: 2 - 5 = -3, and 5 - 25 = -20, of two groups.

    -3 is 29 in five bits, with the sign bit 16. -20 is 12 with 32 for more, then 31; 25 has bit 16, so a 0 follows it, and
    40 is 8 with more, then 1. Every character is 48 above its group.
    """
    mask = np.repeat([index % 2 == 1 for index in range(len(runs))], runs)[:, None]
    assert encode_rle(mask) == {"size": [sum(runs), 1], "counts": counts}
    assert np.array_equal(decode_rle({"size": [sum(runs), 1], "counts": counts}), mask)


def test_palettes_of_two_bits_and_big_endian_numbers_with_signs_are_read_from_tiff(tmp_path):
    indices = np.array([[0, 1, 2, 3]], np.uint8)
    colours = [0, 65535, 0, 0, 0, 0, 65535, 0, 0, 0, 0, 65535]  # of the four, red, then green, then blue
    (tmp_path / "p.tif").write_bytes(tiff(indices, 2, 3, tags=[(320, "H", colours)]))
    assert read_image(tmp_path / "p.tif").tolist() == [[[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    (tmp_path / "b.tif").write_bytes(tiff(np.array([[-2, 0, 300]], np.int16), 16, 1, order=">"))
    assert read_mask(tmp_path / "b.tif", values=(300,)).tolist() == [[False, False, True]]


def ramp(dtype, low, high):
    return np.linspace(low, high, 201).astype(dtype)[None].repeat(3, axis=0)


@pytest.mark.parametrize(
    ("samples", "photometric", "rises"),
    [
        (ramp("u2", 0, 60000), 1, True),
        (ramp("u2", 0, 60000), 0, False),
        (ramp("u1", 0, 250), 0, False),
        (ramp("i1", -128, 127), 1, True),
        (ramp("i2", -30000, 30000), 1, True),
        (ramp("u4", 0, 2**32 - 1), 1, True),
        (ramp("f4", -1, 1), 1, True),
    ],
)
def test_tiff_samples_rise_and_fall_as_their_photometric_interpretation_says(tmp_path, samples, photometric, rises):
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(samples, samples.dtype.itemsize * 8, photometric))
    steps = np.diff(read_image(path)[0, :, 0].astype(int))
    assert (steps >= 0).all() == rises and (steps <= 0).all() != rises
    if photometric == 0:
        with pytest.raises(InputError, match="inverted, so it holds no label values"):
            read_mask(path, values=(1,))
    if photometric == 1 and samples.dtype.kind in "iu":
        assert np.array_equal(read_mask(path, values=(int(samples[0, 100]),)), samples == samples[0, 100])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(ramp("f8", 0, 1), 64, 1), "TIFF of 1 x 64-bit floats, black is zero, which cannot be read"),
        (tiff(ramp("f2", 0, 1), 16, 1), "1 x 16-bit floats"),
        (tiff(ramp("f4", 0, 1), 32, 0), "1 x 32-bit floats, white is zero"),
        (tiff(ramp("u2", 0, 9), 16, None), "without a known photometric interpretation"),
        (tiff(np.zeros((3, 4, 3), np.uint16), 16, 2, planes=2), "3 x 16-bit unsigned integers, RGB, in planes"),
        (tiff(np.zeros((3, 4, 4), np.uint8), 8, 2), "4 x 8-bit unsigned integers, RGB"),
        (tiff(ramp("u1", 0, 9), 8, 1, tags=[(259, "H", [34887])]), "black is zero, LERC"),
        (tiff(ramp("u1", 0, 9), 8, 1, tags=[(259, "H", [50000])]), "black is zero, Zstandard"),
        (tiff(ramp("u1", 0, 9), 8, 1, tags=[(259, "H", [50001])]), "black is zero, WebP"),
        (tiff(ramp("f8", 0, 9), 64, 1, tags=[(259, "H", [8])]), "black is zero, Deflate"),
        (tiff(ramp("u1", 0, 9), 8, 1, tags=[(259, "H", [9])]), "black is zero, compression 9"),
        (tiff(ramp("i2", 0, 9), 16, 1, order=">", tags=[(259, "H", [5])]), "big-endian, LZW"),
        (tiff(ramp("u1", 0, 3), 2, 3, tags=[(320, "H", [255] * 12)]), "palette"),
        (b"MM\0+\0\x08\0\0" + b"\0" * 60, "BigTIFF, big-endian"),
        (b"BM" + b"\0" * 26 + b"\x08\0" + b"\0" * 16 + b"\2\0\0\0" + b"\0" * 40, "BMP of 8 bits with two colours"),
        (nifti(np.zeros((2, 2, 2), np.uint8)), "NIfTI without its suffix"),
        (nifti(np.zeros((2, 2, 2), np.uint8), magic=b"ni1\0"), "half of a NIfTI pair"),
        (b"\xff\xd8\xff\xc1\0\x0b\x0c\0\x08\0\x08\x01\x01\x11\0" + b"\0" * 400, "JPEG of a rare coding .*12-bit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_coding_that_would_be_misread_is_refused_by_name(tmp_path, data, reason):
    (tmp_path / "x.tif").write_bytes(data)
    for read in (read_image, read_mask):
        with pytest.raises(InputError, match=reason) as error:
            read(tmp_path / "x.tif")
        assert error.value.hint


def test_a_large_tiff_is_read(tmp_path):
    path = saved(tmp_path, Pillow.fromarray(colours()), "x.tif", big_tiff=True)
    assert path.read_bytes()[:4] == b"II+\0"
    assert np.array_equal(read_image(path), colours())


def test_inks_without_adobes_marker_are_refused(tmp_path):
    path = saved(tmp_path, Pillow.new("CMYK", (8, 8)), "x.jpg")
    data = path.read_bytes()
    assert read_image(path).shape == (8, 8, 3)
    at = data.index(b"\xff\xee")
    path.write_bytes(data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :])
    with pytest.raises(InputError, match="four inks"):
        read_image(path)


@pytest.mark.parametrize(("bits", "colour"), [(4, 0), (16, 0), (16, 2)])
def test_a_transparent_value_of_other_than_eight_bits_is_refused(tmp_path, bits, colour):
    samples = np.zeros((2, 2, 3) if colour else (2, 2), np.uint16)
    (tmp_path / "x.png").write_bytes(png(samples, bits, colour, transparent=b"\0\1" * (3 if colour else 1)))
    with pytest.raises(InputError, match=f"transparent value of {bits} bits"):
        read_image(tmp_path / "x.png")


def test_png_bytes_of_images_and_masks(tmp_path):
    (tmp_path / "x.png").write_bytes(png_bytes(colours()))
    assert np.array_equal(read_image(tmp_path / "x.png"), colours())


def test_limits_are_checked_before_decoding(tmp_path, monkeypatch):
    path = saved(tmp_path, Pillow.new("L", (100, 101)))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 10_000)
    with pytest.raises(InputError, match=r"x\.png claims 100 x 101 pixels"):
        read_image(path)
    monkeypatch.setattr(pictures, "MAX_BYTES", 50)
    with pytest.raises(InputError, match="MB"):
        read_image(path)


def test_errors_name_the_file_and_never_its_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.png").touch()
    (tmp_path / "words.png").write_text("not a picture")
    for name, reason in (
        ("missing.png", "does not exist"),
        ("folder", "is not a file"),
        ("empty.png", "is empty"),
        ("words.png", "is not an image"),
        ("a\x00b.png", "does not exist"),
        ("a" * 300 + ".png", "cannot be looked up|does not exist"),
    ):
        with pytest.raises(InputError, match=reason) as caught:
            read_image(tmp_path / name)
        assert caught.value.hint and caught.value.exit_code == 3
        assert str(tmp_path) not in str(caught.value) and "\x00" not in str(caught.value)
