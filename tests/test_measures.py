"""Axes, areas and volumes in mm by a named rule, and metrics of volumes equal to MONAI's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medground.evaluation.surface import hd95, surface_dice
from medground.evaluation.volumes import volume_metrics
from medground.measures import RULE, measure_mask, measure_volume


def ellipse(long, short, angle, shift=(0.0, 0.0), spacing=(1.0, 1.0)):
    """An ellipse of half axes `long` and `short` in mm: the pixels whose centre lies in it."""
    side = [int(2 * long / step) + 8 for step in spacing]
    y, x = np.mgrid[: side[0], : side[1]] + 0.5
    y, x = (y - side[0] / 2 - shift[0]) * spacing[0], (x - side[1] / 2 - shift[1]) * spacing[1]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return (u / long) ** 2 + (v / short) ** 2 <= 1


def longest_of_all_pairs(mask, spacing):
    """The longest distance between two face midpoints."""
    points = []
    for y, x in np.argwhere(mask):
        for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            inside = 0 <= y + dy < mask.shape[0] and 0 <= x + dx < mask.shape[1] and mask[y + dy, x + dx]
            if not inside:
                points.append(((x + 0.5 + dx / 2) * spacing[1], (y + 0.5 + dy / 2) * spacing[0]))
    points = np.array(points)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    return float(apart.max())


@pytest.mark.parametrize("seed", range(4))
def test_axes_of_ellipses_are_within_half_a_pixel_on_average_and_within_one_singly(seed):
    """Of 100 ellipses each of many sizes, shapes and directions, nearly round ones too."""
    dice, errors = np.random.default_rng(seed), []
    for _ in range(100):
        short = dice.uniform(4, 30)
        long = short * dice.uniform(1, 3)
        measures = measure_mask(ellipse(long, short, dice.uniform(0, np.pi), dice.uniform(-0.5, 0.5, 2)))
        errors.append((measures.long_axis - 2 * long, measures.short_axis - 2 * short))
    errors = np.array(errors)
    assert (errors.mean(axis=0) > (0.35, 0.2)).all() and (errors.mean(axis=0) < (0.5, 0.4)).all()
    within = np.abs(errors) <= 0.5
    assert (within.mean(axis=0) > (0.4, 0.65)).all() and np.abs(errors).max() < 1.1


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    long=st.floats(6, 20), ratio=st.floats(1.05, 2.5), angle=st.floats(0, np.pi),
    spacing=st.tuples(st.floats(0.4, 1.5), st.floats(0.4, 1.5)),
)  # fmt: skip
def test_axes_in_mm_are_within_a_pixel_of_the_ellipse_whatever_its_pixels(long, ratio, angle, spacing):
    mask = ellipse(long, long / ratio, angle, spacing=spacing)
    measures = measure_mask(mask, spacing)
    coarsest = max(spacing)
    assert abs(measures.long_axis - 2 * long) < coarsest
    assert abs(measures.short_axis - 2 * long / ratio) < 1.5 * coarsest
    assert measures.area == pytest.approx(mask.sum() * spacing[0] * spacing[1])
    assert measures.long_axis >= measures.short_axis


def longest_across(mask, spacing, ends):
    """The longest distance between two points of the outline on a line perpendicular to one through `ends`."""
    padded, pieces = np.pad(mask, 1), []
    for y in range(mask.shape[0] + 1):
        for x in range(mask.shape[1] + 1):
            around = padded[y : y + 2, x : x + 2]
            faces = [
                ((x, y - 0.5), around[0, 0] != around[0, 1]), ((x + 0.5, y), around[0, 1] != around[1, 1]),
                ((x, y + 0.5), around[1, 0] != around[1, 1]), ((x - 0.5, y), around[0, 0] != around[1, 0]),
            ]  # fmt: skip
            there = [np.multiply(point, spacing[::-1]) for point, is_face in faces if is_face]
            pieces += [there[n : n + 2] for n in range(0, len(there), 2)]
    along = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
    turned = np.array(pieces) @ np.array([along, (-along[1], along[0])]).T
    longest = 0.0
    for line in turned[..., 0].ravel():
        met = []
        for (t0, s0), (t1, s1) in turned:
            if min(t0, t1) - 1e-9 <= line <= max(t0, t1) + 1e-9:
                met += [s0, s1] if abs(t0 - t1) < 1e-9 else [s0 + (line - t0) / (t1 - t0) * (s1 - s0)]
        longest = max(longest, np.ptp(met))
    return longest


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    mask=st.integers(0, 2**30 - 1).map(lambda bits: np.array([(bits >> n) & 1 for n in range(30)], bool).reshape(5, 6)),
    spacing=st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)),
)
def test_the_axes_are_the_longest_of_all_pairs_and_the_longest_across(mask, spacing):
    measures = measure_mask(mask, spacing)
    if not mask.any():
        assert measures is None
        return
    assert measures.long_axis == pytest.approx(longest_of_all_pairs(mask, spacing))
    ends, across = (np.array(pair) * spacing[::-1] for pair in (measures.long_ends, measures.short_ends))
    assert measures.short_axis == pytest.approx(longest_across(mask, spacing, ends))
    assert np.linalg.norm(ends[1] - ends[0]) == pytest.approx(measures.long_axis)
    assert np.linalg.norm(across[1] - across[0]) == pytest.approx(measures.short_axis)
    assert (ends[1] - ends[0]) @ (across[1] - across[0]) == pytest.approx(0, abs=1e-6)


def test_one_pixel_and_a_line_have_axes():
    one = measure_mask(np.eye(1, 1, dtype=bool), (2.0, 1.0))
    assert (one.long_axis, one.short_axis, one.area, one.centroid) == (2.0, 1.0, 2.0, (0.5, 0.5))
    line = measure_mask(np.ones((1, 7), bool), (2.0, 1.0))
    assert line.long_axis == 7.0 and line.short_axis == 2.0


def test_the_short_axis_lies_between_two_points_of_the_outline():
    """A bar 9 px long has a bump of 2 px up and another down: the bar with one bump is 3 px across, its hull 3.46 px."""
    mask = np.zeros((5, 9), bool)
    mask[2] = mask[:2, 2] = mask[3:, 6] = True
    measures = measure_mask(mask)
    assert measures.long_axis == pytest.approx(9) and measures.short_axis == pytest.approx(3)
    assert {x for x, _ in measures.short_ends} <= {2.5, 6.5}


def test_a_mask_of_noise_is_measured_without_comparing_all_pairs():
    """263,000 pieces of outline: pairs of them would fill the memory."""
    mask = np.random.default_rng(0).random((256, 256)) < 0.5
    measures = measure_mask(mask)
    assert 355 < measures.short_axis <= measures.long_axis < 365


def test_without_spacing_measures_are_pixels_and_say_so():
    words = measure_mask(np.ones((3, 4), bool)).to_dict()
    assert words["area_px2"] == 12 and "long_axis_px" in words and not [key for key in words if "mm" in key]
    assert words["axes"] == RULE == "face midpoints"
    assert "axes between face midpoints" in str(measure_mask(np.ones((3, 4), bool), (1.0, 1.0)))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.9, 2.5)])
def test_a_ball_has_its_volume_and_its_centre(spacing):
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-20, 30, 5)
    radius = 14.0
    sides = (90, 60, 70)
    where = np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"), axis=-1) * spacing + affine[:3, 3]
    centre = np.array([affine[n, 3] + spacing[n] * sides[n] / 2 for n in range(3)])
    measures = measure_volume(np.linalg.norm(where - centre, axis=-1) <= radius, affine)
    assert measures.volume_ml == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.02)
    assert np.abs(np.array(measures.centroid) - centre).max() < 0.1
    assert measures.largest.long_axis == pytest.approx(2 * radius, abs=max(spacing[:2]))
    assert abs(affine[2, 3] + measures.slice * spacing[2] - centre[2]) < 2 * spacing[2]


def test_a_volume_is_measured_along_its_own_axes_however_they_lie():
    turned = np.eye(4)
    turned[:3, :3] = np.array([[0, 0, 3], [-0.5, 0, 0], [0, 2, 0]])
    mask = np.zeros((8, 8, 4), bool)
    mask[2:6, 3:5, 1:3] = True
    measures = measure_volume(mask, turned)
    assert measures.volume_ml == pytest.approx(16 * 3 / 1000)
    assert np.allclose(measures.centroid, turned[:3, :3] @ (3.5, 3.5, 1.5))
    assert measures.largest.area == pytest.approx(8 * 0.5 * 2) and measures.slices == 2
    assert measure_volume(np.zeros((2, 2, 2), bool), turned) is None


def blob(dice, shape, spacing):
    noise = ndimage.gaussian_filter(dice.normal(size=shape), [3 / step for step in spacing])
    index = np.indices(shape)
    far = sum(((axis - (side - 1) / 2) / (side * 0.33)) ** 2 for axis, side in zip(index, shape, strict=True))
    return (noise / noise.std() * 0.35 + 1 - far) > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # MONAI warns of its own arguments
def test_metrics_of_volumes_are_those_of_monai():
    torch = pytest.importorskip("torch", reason="needs torch")
    metrics = pytest.importorskip("monai.metrics", reason="needs monai")
    dice = np.random.default_rng(0)
    for number in range(12):
        spacing = tuple(dice.uniform((0.4, 0.4, 1.0), (1.2, 1.2, 5.0)))
        shape = tuple(dice.integers((20, 20, 8), (36, 36, 14)))
        first = blob(dice, shape, spacing)
        second = ndimage.binary_dilation(first) if number % 3 == 0 else blob(dice, shape, spacing)
        a, b = (torch.tensor(mask)[None, None].float() for mask in (first, second))
        options = {"include_background": True, "spacing": spacing}
        theirs = {
            "hd95_mm": metrics.compute_hausdorff_distance(a, b, percentile=95, **options).item(),
            "surface_dice_2mm": metrics.compute_surface_dice(a, b, [2.0], **options).item(),
            "dice": metrics.compute_dice(a, b, include_background=True).item(),
        }
        ours = volume_metrics(first, second, spacing)
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, abs=2e-6), name


def test_empty_volumes_have_defined_metrics():
    empty, full = np.zeros((3, 4, 5), bool), np.ones((3, 4, 5), bool)
    spacing = (1.0, 1.0, 2.0)
    assert volume_metrics(empty, empty, spacing) == {"dice": 1.0, "surface_dice_2mm": 1.0, "hd95_mm": 0.0}
    for pair in ((empty, full), (full, empty)):
        assert volume_metrics(*pair, spacing) == {"dice": 0.0, "surface_dice_2mm": 0.0, "hd95_mm": None}
    with pytest.raises(ValueError, match="cannot be compared"):
        volume_metrics(full, full[:2], spacing)


def test_the_tolerance_of_the_surface_dice_is_in_mm():
    a, b = np.zeros((1, 1, 9), bool), np.zeros((1, 1, 9), bool)
    a[..., 2] = b[..., 4] = True
    assert hd95(a, b, (1, 1, 2.5)) == 5.0
    assert [surface_dice(a, b, tolerance, (1, 1, 2.5)) for tolerance in (4.9, 5.0)] == [0.0, 1.0]
    assert "surface_dice_0.5mm" in volume_metrics(a, b, (1, 1, 2.5), tolerance=0.5)
