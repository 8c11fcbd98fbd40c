"""Preprocessing of images and prompts equals independently computed numbers."""

import hashlib

import numpy as np
import pytest
from medground_sam.contract import MEAN, STD, as_rgb, contract, prepare, to_input

from medground.errors import InputError, RecipeError

SAM, MEDSAM, MED2D = (contract(model, "native") for model in ("sam", "medsam", "sammed2d"))


def test_sam_pads_to_the_right_and_below_after_normalising():
    image = np.full((50, 100, 3), 255, np.uint8)
    built = prepare(SAM, image, 64)
    assert built.shape == (3, 64, 64) and built.dtype == np.float32
    np.testing.assert_allclose(built[:, :32, :], np.broadcast_to(((255 - MEAN) / STD)[:, None, None], (3, 32, 64)))
    assert (built[:, 32:] == 0).all()


def test_a_strip_keeps_at_least_one_row():
    assert prepare(SAM, np.full((1, 1000, 3), 9, np.uint8), 128)[0, 0].any()
    np.testing.assert_allclose(to_input(SAM, [[500, 0.5]], (1, 1000), 128), [[64, 0.5]])


# Digests of scikit-image 0.26's resize(order=3, preserve_range=True, anti_aliasing=True) to 128 x 128, cast to uint8.
@pytest.mark.parametrize(
    ("height", "width", "grey", "digest"),
    [
        (1, 1000, False, "c7e3e1ebffd5e1d4"),
        (37, 512, True, "b2ee59873607196d"),
        (840, 840, False, "f59d6bd7a2c28a9d"),
        (200, 30, False, "4060df7b137f35bb"),
    ],
)
def test_medsam_resizes_as_scikit_image_to_the_bit(height, width, grey, digest):
    from medground_sam.contract import _spline

    image = np.random.default_rng(height).integers(0, 256, (height, width, 1 if grey else 3)).astype(np.uint8)
    image = np.repeat(image, 3, axis=2) if grey else image
    assert hashlib.blake2b(_spline(image, 128).tobytes(), digest_size=8).hexdigest() == digest


def test_medsam_rescales_each_image_to_zero_to_one():
    image = np.random.default_rng(0).integers(40, 90, (64, 64, 3)).astype(np.uint8)
    built = prepare(MEDSAM, image, 64)
    assert (built.min(), built.max()) == (0, 1)
    np.testing.assert_allclose(built[1, 3, 5], (image[3, 5, 1] - image.min()) / np.ptp(image), rtol=1e-6)
    assert (prepare(MEDSAM, np.full((9, 9, 3), 7, np.uint8), 16) == 0).all()


def test_sammed2d_swaps_channels_normalises_then_takes_the_nearest():
    image = np.zeros((4, 6, 3), np.uint8)
    image[..., 0] = np.arange(24).reshape(4, 6)  # red
    built = prepare(MED2D, image, 3)
    rows, columns = [0, 1, 2], [0, 2, 4]  # floor(i * old / new)
    np.testing.assert_allclose(built[2], (image[np.ix_(rows, columns)][..., 0] - MEAN[2]) / STD[2], rtol=1e-6)
    np.testing.assert_allclose(built[0], -MEAN[0] / STD[0])


@pytest.mark.parametrize("old", [1, 7, 100, 255, 257, 840, 1023])
def test_nearest_samples_stay_inside(old):
    from medground_sam.contract import _nearest

    index = _nearest(old, 256)
    assert index.min() == 0 and index.max() <= old - 1 and (np.diff(index) >= 0).all()
    # OpenCV multiplies by a rounded step, so an exact multiple may fall one sample short; an oracle has it.
    assert (np.arange(256) * old // 256 - index).max() <= 1 and (np.arange(256) * old // 256 - index).min() >= 0


def test_prompts_move_with_the_pixels():
    corner = [[200, 100]]
    np.testing.assert_allclose(to_input(SAM, corner, (100, 200), 1024), [[1024, 512]])
    np.testing.assert_allclose(to_input(MEDSAM, corner, (100, 200), 1024), [[1024, 1024]])
    np.testing.assert_allclose(to_input(MED2D, corner, (100, 200), 256), [[256, 256]])


def test_grey_images_are_accepted_and_other_shapes_and_dtypes_refused():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert (as_rgb(grey) == grey[..., None]).all() and as_rgb(grey[..., None]).shape == (2, 3, 3)
    for wrong in (np.zeros((2, 3, 4), np.uint8), np.zeros((2, 3, 3), np.float32), np.zeros((0, 3, 3), np.uint8)):
        with pytest.raises(InputError, match="H x W x 3 uint8"):
            as_rgb(wrong)


def test_an_unknown_protocol_is_named():
    with pytest.raises(RecipeError, match=r"medsam has no protocol 'medreasonr'.*did you mean 'medreasoner'"):
        contract("medsam", "medreasonr")
