"""A mask is read by what it shows, or refused in one sentence."""

import io
import json

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageFilter
from raster_files import png

from medground.data.manifest_dataset import read_manifest
from medground.errors import InputError, ViewError
from medground.images.mask_values import target_pixels, whole_numbers
from medground.images.pictures import decode_mask, decode_picture, png_bytes

SIDES = (60, 80)


def blob(sides=SIDES):
    y, x = np.mgrid[: sides[0], : sides[1]]
    return ((y - sides[0] * 0.5) / (sides[0] * 0.3)) ** 2 + ((x - sides[1] * 0.4) / (sides[1] * 0.2)) ** 2 < 1


TRUTH = blob()
WHITE = Pillow.fromarray(TRUTH.astype(np.uint8) * 255)


def encoded(picture, form="PNG", **options):
    buffer = io.BytesIO()
    (picture if isinstance(picture, Pillow.Image) else Pillow.fromarray(picture)).save(buffer, form, **options)
    return buffer.getvalue()


def read(data, **options):
    return decode_mask(io.BytesIO(data), "m.png", **options)


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def indexed(indices, *colours):
    picture = Pillow.fromarray(indices.astype(np.uint8), "L").copy()
    picture = Pillow.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette([channel for colour in colours for channel in colour])
    return picture


BLACK, PAPER, RED, DARK = (0, 0, 0), (255, 255, 255), (220, 20, 60), (9, 9, 9)


@pytest.mark.parametrize(
    "picture",
    [
        indexed(TRUTH, BLACK, PAPER),
        indexed(~TRUTH, PAPER, BLACK),
        indexed(TRUTH, BLACK, RED),
        indexed(~TRUTH, RED, BLACK),
        indexed(TRUTH, BLACK, DARK),
        indexed(TRUTH * 2, BLACK, PAPER, DARK),
        WHITE.convert("RGB").quantize(2),
        Pillow.fromarray(TRUTH[..., None] * np.array(RED, np.uint8)),
        Pillow.fromarray(TRUTH[..., None] * np.array((1, 0, 0), np.uint8)),
        Pillow.fromarray(TRUTH[..., None] * np.array((1, 1, 1), np.uint8)),
        Pillow.fromarray(np.dstack([TRUTH * np.uint8(255)] * 3 + [np.full(SIDES, 255, np.uint8)])),
        Pillow.fromarray(np.dstack([np.full(SIDES, 255, np.uint8)] * 3 + [TRUTH * np.uint8(128)])),
        Pillow.fromarray(TRUTH),
        Pillow.fromarray(TRUTH.astype(np.uint8)),
        Pillow.fromarray(TRUTH.astype(np.uint8) * 7),
        Pillow.fromarray(TRUTH.astype(np.uint16)),
        Pillow.fromarray(TRUTH.astype(np.uint16) * 65535),
    ],
    ids=lambda picture: picture.mode,
)
def test_one_colour_on_black_is_the_target_whatever_its_index_or_value(picture):
    assert np.array_equal(read(encoded(picture)), TRUTH)


def test_a_transparent_index_is_background():
    assert np.array_equal(read(encoded(indexed(TRUTH, RED, PAPER), transparency=0)), TRUTH)


@pytest.mark.parametrize("quality", [30, 50, 75, 90, 95, 100])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_masks_and_their_copies_as_png_are_cut_at_half_scale(quality, mode):
    jpeg = encoded(WHITE.convert(mode), "JPEG", quality=quality)
    assert overlap(read(jpeg), TRUTH) > 0.97
    assert overlap(read(encoded(Pillow.open(io.BytesIO(jpeg)))), TRUTH) > 0.97


@pytest.mark.parametrize("method", ["BICUBIC", "BILINEAR", "LANCZOS", "BOX"])
@pytest.mark.parametrize("scale", [0.5, 0.7, 1.5, 3, 5])
def test_edges_softened_by_resizing_are_cut_at_half_scale(method, scale):
    sides = tuple(round(side * scale) for side in SIDES)
    small = WHITE.resize(sides[::-1], Pillow.Resampling[method])
    assert overlap(read(encoded(small)), blob(sides)) > 0.9
    assert np.array_equal(read(encoded(small)), np.asarray(small) >= 128)
    deep = np.asarray(small).astype(np.uint16) * 257
    assert np.array_equal(read(encoded(deep)), deep >= 32768)


def test_a_colour_with_soft_edges_is_cut_at_half_of_it():
    soft = np.asarray(WHITE.filter(ImageFilter.GaussianBlur(1))) / 255
    red = np.rint(soft[..., None] * np.array(RED)).astype(np.uint8)
    assert overlap(read(encoded(red)), TRUTH) > 0.97


def test_soft_transparency_is_cut_at_half_of_it():
    alpha = np.asarray(WHITE.filter(ImageFilter.GaussianBlur(1)))
    shape = np.dstack([np.full((*SIDES, 3), 255, np.uint8), alpha])
    assert overlap(read(encoded(shape)), TRUTH) > 0.97


def test_noise_without_greys_is_no_label():
    """Compression that is nearly lossless leaves a few blacks and whites, and no grey."""
    noisy = np.where(TRUTH, 255, 0)
    noisy[::5, ::7] = np.where(TRUTH, 253, 2)[::5, ::7]
    noisy[40:46, 28:36], noisy[:9, :9], noisy[2, 3] = 254, 1, 0
    assert np.array_equal(read(encoded(noisy.astype(np.uint8))), TRUTH | (noisy == 254))


def labelled(*values):
    """A map of areas: one value for each column of 16 pixels."""
    return np.repeat(np.repeat(np.array([values]), 16, axis=1), 20, axis=0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("values", [(0, 1, 2), (0, 3, 0, 7), (0, *range(1, 12)), (0, 60, 120, 180)])
def test_every_label_of_a_label_map_is_target(dtype, values):
    labels = labelled(*values).astype(dtype)
    assert np.array_equal(read(encoded(labels)), labels > 0)
    for value in values:
        assert np.array_equal(read(encoded(labels), values=(value,)), labels == value)
    assert np.array_equal(read(encoded(labels), threshold=2), labels >= 2)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_labels_of_few_bits_count_as_stored(bits):
    stored = np.arange(2**bits, dtype=np.uint8).repeat(8)[None]
    for value in range(2**bits):
        assert np.array_equal(read(png(stored, bits, 0), values=(value,)), stored == value)


def disc_and_lines(*values):
    """A white disc, and one-pixel lines of labels far from it."""
    labels = np.where((np.indices(SIDES)[0] - 20) ** 2 + (np.indices(SIDES)[1] - 20) ** 2 < 100, 255, 0)
    for number, value in enumerate(values):
        labels[:, 60 + 4 * number] = value
    return labels.astype(np.uint8)


def one_pixel():
    picture = Pillow.new("L", (64, 64))
    picture.putpixel((32, 32), 255)
    return picture


def strip(picture):
    """A picture with an area of grey between its black and its white."""
    picture = np.asarray(picture).copy()
    picture[:20, :20], picture[:20, 20:26], picture[:20, 26:] = 255, 128, 0
    return picture


def wide_probabilities():
    y, x = np.mgrid[:120, :160]
    return np.exp(-((y - 60) ** 2 + (x - 70) ** 2) / 800)


def probabilities():
    y, x = np.mgrid[:60, :80]
    return 255 * np.exp(-((y - 30) ** 2 + (x - 40) ** 2) / 300)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (labelled(0, 1, 255).astype(np.uint8), "255 may mark what is to be ignored"),
        (labelled(0, 1, 2, 255).astype(np.uint8), "255 may mark"),
        (labelled(0, 1, 254, 254).astype(np.uint8), "254 may mark"),
        (labelled(0, 1, 65535).astype(np.uint16), "65535 may mark"),
        (labelled(0, 1, 255).astype(np.uint16), "255 may mark"),
        (labelled(0, 128, 255).astype(np.uint8), "255 may mark"),
        (labelled(0, 40000, 65535).astype(np.uint16), "65535 may mark"),
        (disc_and_lines(128), "255 may mark"),
        (disc_and_lines(100, 150), "255 may mark"),
        (strip(WHITE), "255 may mark"),
        (strip(WHITE.filter(ImageFilter.GaussianBlur(1))), "255 may mark|greys and is no label map"),
        ((wide_probabilities() * 200).astype(np.uint8), "greys and is no label map"),
        (one_pixel().resize((96, 96), Pillow.Resampling.BICUBIC), "greys and is no label map"),
        (labelled(1, 2).astype(np.uint8), "no 0 for the background: 1, 2"),
        (probabilities().astype(np.uint8), "greys and is no label map|may mark"),
        ((probabilities() * 0.8).astype(np.uint8), "greys and is no label map"),
        ((probabilities() / 2).astype(np.uint8), "greys and is no label map"),
        (np.random.default_rng(0).integers(0, 250, (60, 80)).astype(np.uint8), "greys and is no label map"),
        (np.dstack([labelled(0, 255, 0), labelled(0, 0, 255), labelled(0, 0, 0)]).astype(np.uint8), "several colours"),
        (np.dstack([labelled(0, 1, 0), labelled(0, 0, 1), labelled(0, 0, 0)]).astype(np.uint8), "several colours"),
        (np.dstack([labelled(255, 255), labelled(255, 0), labelled(255, 0)]).astype(np.uint8), "several colours"),
        (np.dstack([labelled(0, 0)] * 3 + [labelled(0, 255)]).astype(np.uint8), "black on transparent"),
        (indexed(TRUTH * 1, PAPER, RED), "several colours"),
        (indexed(labelled(0, 1, 2), BLACK, RED, (0, 128, 0)), "several colours"),
    ],
)
def test_what_cannot_be_known_is_refused(mask, reason):
    with pytest.raises(InputError, match=reason) as error:
        read(encoded(mask))
    assert error.value.hint and "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
@pytest.mark.parametrize("white", [5, 50, 128, 200])
def test_soft_edges_below_white_are_no_labels(dtype, white):
    soft = np.rint(np.asarray(WHITE.filter(ImageFilter.GaussianBlur(0.7))) * (white / 255)).astype(dtype)
    with pytest.raises(InputError, match="soft edges") as error:
        target_pixels(soft, "m", full=255 if dtype == np.uint8 else None)
    assert "mask_threshold" in str(error.value.hint)
    assert overlap(target_pixels(soft, "m", threshold=white / 2), TRUTH) > 0.97
    assert np.array_equal(target_pixels(np.where(TRUTH, white, 0).astype(dtype), "m"), TRUTH)


def test_labels_that_resizing_mixed_are_refused():
    mixed = np.asarray(Pillow.fromarray(labelled(0, 50, 0, 100).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.7)))
    with pytest.raises(InputError, match="soft edges, of"):
        read(encoded(mixed))
    lines = labelled(0, 50, 0, 100)
    lines[3], lines[:, 40] = 7, 9
    assert np.array_equal(read(encoded(lines.astype(np.uint8))), lines > 0), "thin labels stay labels"


def test_a_jpeg_in_a_tiff_is_cut_and_holds_no_label_values():
    data = encoded(WHITE, "TIFF", compression="jpeg")
    assert np.array_equal(read(data), TRUTH)
    with pytest.raises(InputError, match="lossy, scaled or inverted"):
        read(data, values=(255,))


@pytest.mark.parametrize("maximum", [1, 3, 100])
def test_a_pnm_of_another_maximum_shows_its_target_and_states_no_labels(maximum):
    data = b"P5 80 60 %d\n" % maximum + (TRUTH * np.uint8(maximum)).tobytes()
    assert np.array_equal(read(data), TRUTH)
    with pytest.raises(InputError, match="scaled"):
        read(data, values=(maximum,))
    whole = b"P5 80 60 255\n" + (TRUTH * np.uint8(maximum)).tobytes()
    assert np.array_equal(read(whole, values=(maximum,)), TRUTH)


def test_a_window_in_numbers_is_refused_where_a_pnm_is_scaled():
    def shown(maximum, window):
        data = b"P5 4 1 %d\n" % maximum + np.array([0, 1000, 2000, 4000], ">u2").tobytes()
        return decode_picture(io.BytesIO(data), "x.pgm", window).pixels[0, :, 0].tolist()

    assert shown(65535, "2000,4000")[2] == 128 and shown(4000, "full") == shown(65535, "full")
    with pytest.raises(ViewError, match="scaled"):
        shown(4000, "2000,4000")


@pytest.mark.parametrize("turned", [False, True])
def test_a_slope_along_either_axis_is_no_label_map(turned):
    """12 labels that rise by 1, one row each but the last of five: 4 of 16 rows have their value on all sides."""
    rows = np.array([0] * 4 + [*range(1, 12)] + [12] * 5, np.uint8)
    slope = np.repeat(rows[:, None], 20, axis=1)
    with pytest.raises(InputError, match="holds 13 greys and is no label map"):
        read(encoded(slope.T.copy() if turned else slope))


def test_a_lossy_mask_of_more_than_black_and_white_is_refused():
    with pytest.raises(InputError, match="lossy and not black and white"):
        read(encoded(np.repeat(labelled(0, 120, 120, 120, 240), 3, axis=1).astype(np.uint8), "JPEG"))
    with pytest.raises(InputError, match="no label values"):
        read(encoded(WHITE, "JPEG"), values=(255,))


def test_a_label_of_a_palette_is_its_index():
    labels = labelled(0, 1, 2)
    for value in (1, 2):
        assert np.array_equal(read(encoded(indexed(labels, BLACK, RED, DARK)), values=(value,)), labels == value)


def test_colours_of_sixteen_bits_are_refused():
    deep = np.repeat(TRUTH[..., None], 3, axis=2).astype(np.uint16)
    for options in ({}, {"values": (1,)}):
        with pytest.raises(InputError, match=r"colours of 16 bits|no label values"):
            read(png(deep, 16, 2), **options)


def test_fractions_need_a_threshold_and_nan_is_refused():
    share = np.array([[0.0, 0.2], [0.5, 1.0]], np.float32)
    for wanted in (None, (1,)):
        with pytest.raises(InputError, match=r"fractions, for example 0\.2"):
            target_pixels(share, "p.tif", wanted=wanted)
    assert target_pixels(share, "p.tif", threshold=0.5).tolist() == [[False, False], [True, True]]
    share[0, 0] = np.nan
    for threshold in (None, 0.5):
        with pytest.raises(InputError, match="NaN"):
            target_pixels(share, "p.tif", threshold=threshold)
    assert target_pixels(np.array([[0.0, 2.0]]), "p.tif").tolist() == [[False, True]]
    with pytest.raises(InputError, match="negative label -1"):
        target_pixels(np.array([[-1, 0, 1]]), "p.tif")


def test_labels_are_rounded_by_what_their_slope_explains():
    slope = 2 / 65535
    assert whole_numbers(np.array([0.99998, 2.0000153, 0.0]), "m", slope).tolist() == [1, 2, 0]
    assert whole_numbers(np.array([2035.0002]), "m").tolist() == [2035]
    for values, step in (([0.7], 0.7), ([0.5], 0.5), ([0.99998], 0.0), ([0.9], 1.0), ([0.502], 1 / 255)):
        with pytest.raises(InputError, match="fractions"):
            whole_numbers(np.array(values), "m", step)


def test_a_manifest_states_a_value_or_a_threshold(tmp_path):
    labels = labelled(0, 1, 255).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(png_bytes(labels))
    (tmp_path / "m.png").write_bytes(png_bytes(labels))
    line = {"image": "a.png", "mask": "m.png", "question": "where?", "split": "train"}

    def sample(**words):
        (tmp_path / "manifest.jsonl").write_text(json.dumps({**line, **words}))
        return read_manifest(tmp_path)[0].target.regions[0].mask.data

    assert np.array_equal(sample(mask_value=1), labels == 1)
    assert np.array_equal(sample(mask_threshold=1), labels >= 1)
    with pytest.raises(InputError, match="may mark"):
        sample()
    with pytest.raises(InputError, match="both stated"):
        sample(mask_value=1, mask_threshold=1)
    with pytest.raises(InputError, match="mask_threshold is not a finite number"):
        sample(mask_threshold="half")
