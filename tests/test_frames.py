"""Frames: what a model's numbers count, there and back, for the families of the field."""

import importlib

import numpy as np
import pytest

from medground.errors import InputError
from medground.frames import Frame, fixed_point, pixels

FACTOR = {"qwen2_vl": 28, "qwen2_5_vl": 28, "qwen3_vl": 32}


def sizes(count: int = 500, seed: int = 0) -> list[tuple[int, int]]:
    """Random (H, W) from 28 to 4096 px with an aspect ratio of at most 20."""
    rng = np.random.default_rng(seed)
    found: list[tuple[int, int]] = []
    while len(found) < count:
        height, width = (int(value) for value in np.exp(rng.uniform(np.log(28), np.log(4097), 2)))
        if max(height, width) <= 20 * min(height, width):
            found.append((height, width))
    return found


def family_frame(family: str, size: tuple[int, int]) -> Frame:
    if family == "qwen2_5_vl":
        return Frame("pixel", fixed_point(size, factor=28, min_pixels=3136, max_pixels=12845056))
    if family == "gemma":
        return Frame("permille", (896, 896), "yx")
    if family == "internvl":
        return Frame("permille", (448, 448))
    return Frame("permille", fixed_point(size, factor=FACTOR[family], min_pixels=65536, max_pixels=16777216))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "gemma"])
def test_there_and_back_is_exact_and_rounding_costs_half_a_unit(family):
    rng = np.random.default_rng(1)
    for size in sizes():
        frame = family_frame(family, size)
        box = rng.uniform(0, 1, 4) * [size[1], size[0], size[1], size[0]]
        said = frame.from_pixels(box, size)
        assert np.abs(frame.to_pixels(said, size) - box).max() <= 1e-6
        half_unit = np.tile(frame.unit(size), 2) / 2
        assert (np.abs(frame.to_pixels(np.round(said), size) - box) <= half_unit + 1e-9).all()


def test_gemma_writes_y_first():
    frame = Frame("permille", (896, 896), "yx")
    assert frame.to_pixels([100, 200, 300, 400], (1000, 2000)).tolist() == [400, 100, 800, 300]
    assert frame.from_pixels([400, 100], (1000, 2000)).tolist() == [100, 200]


def test_points_boxes_and_stacks_convert_alike():
    frame = Frame("pixel", (50, 100))
    assert frame.to_pixels([10, 20], (100, 200)).tolist() == [20, 40]
    assert frame.to_pixels([10, 20, 30, 40], (100, 200)).tolist() == [20, 40, 60, 80]
    assert frame.to_pixels(np.ones((3, 2, 4)), (100, 200)).shape == (3, 2, 4)
    assert Frame("unit", (9, 9)).to_pixels([0.5, 0.25], (100, 200)).tolist() == [100, 25]
    assert pixels((30, 40)).to_pixels([1, 2], (30, 40)).tolist() == [1, 2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "percent", "size": (1, 1)},
        {"kind": "unit", "size": (0, 1)},
        {"kind": "unit", "size": (1, 1), "order": "xyz"},
    ],
)
def test_a_frame_that_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="frame"):
        Frame(**wrong)


def test_fixed_points_are_left_alone():
    for size in sizes():
        for factor, low, high in [(28, 3136, 12845056), (28, 3136, 1003520), (32, 65536, 16777216)]:
            once = fixed_point(size, factor=factor, min_pixels=low, max_pixels=high)
            assert low <= once[0] * once[1] <= high
            assert fixed_point(once, factor=factor, min_pixels=low, max_pixels=high) == once


@pytest.mark.parametrize("limits", [(256, 4096), (3136, 1003520), (3136, 12845056)])
def test_a_thin_image_has_a_fixed_point_within_the_limits(limits):
    """Up to 100 to 1, and many beyond: rounding sides to patches makes some thinner than 200 to 1."""
    rule = {"factor": 16, "min_pixels": limits[0], "max_pixels": limits[1]}
    for side in range(2, 40):
        for ratio in (20, 60, 100):
            once = fixed_point((side, side * ratio), **rule)
            assert limits[0] <= once[0] * once[1] <= limits[1]
            assert fixed_point(once, **rule) == once


def test_the_rule_is_applied_until_it_changes_nothing():
    """3 x 500 becomes 16 x 816 (16 * sqrt(256 / 1500) up), which is above the limit, and then 16 x 256."""
    assert fixed_point((3, 500), factor=16, min_pixels=256, max_pixels=4096) == (16, 256)


def test_a_strip_is_refused():
    with pytest.raises(InputError, match="an image of 17x3400 has no usable aspect ratio"):  # it would become 16x3392
        fixed_point((17, 3400), factor=16, min_pixels=3136, max_pixels=1003520)
    with pytest.raises(InputError, match="aspect"):
        fixed_point((1, 1000), factor=28, min_pixels=3136, max_pixels=12845056)


def processors():
    """The image processors of each Qwen family, in transformers' own classes; they construct without weights."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    qwen2 = transformers.Qwen2VLImageProcessor
    return {
        "qwen2_vl": qwen2(),
        "qwen2_5_vl": qwen2(min_pixels=3136, max_pixels=12845056),
        "capped": qwen2(min_pixels=3136, max_pixels=1003520),
        "qwen3_vl": qwen2(
            patch_size=16, temporal_patch_size=2, merge_size=2, size={"shortest_edge": 65536, "longest_edge": 16777216}
        ),
    }


def produced(processor, size: tuple[int, int]) -> tuple[int, int]:
    """The (H, W) the processor itself resizes a blank image of `size` to."""
    grid = processor(images=np.zeros((*size, 3), np.uint8), return_tensors="np")["image_grid_thw"][0]
    return int(grid[1]) * processor.patch_size, int(grid[2]) * processor.patch_size


def ours(processor, size: tuple[int, int]) -> tuple[int, int]:
    return fixed_point(
        size,
        factor=processor.patch_size * processor.merge_size,
        min_pixels=processor.size["shortest_edge"],
        max_pixels=processor.size["longest_edge"],
    )


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "capped", "qwen3_vl"])
def test_our_resize_rule_is_the_processors(family):
    processor = processors()[family]
    small = [size for size in sizes() if size[0] * size[1] < 300_000][:25]
    for size in small:
        assert ours(processor, size) == produced(processor, size)
        fixed = ours(processor, size)
        assert produced(processor, fixed) == fixed


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "capped", "qwen3_vl"])
def test_our_resize_rule_is_the_function_the_processors_call_for_500_sizes(family):
    processor = processors()[family]
    module = importlib.import_module("transformers.models.qwen2_vl.image_processing_qwen2_vl")
    limits = {
        "factor": processor.patch_size * processor.merge_size,
        "min_pixels": processor.size["shortest_edge"],
        "max_pixels": processor.size["longest_edge"],
    }
    wrong = [size for size in sizes() if ours(processor, size) != module.smart_resize(*size, **limits)]
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("family", ["capped", "qwen3_vl"])
def test_our_resize_rule_is_the_processors_for_500_sizes(family):
    processor = processors()[family]
    wrong = [size for size in sizes() if ours(processor, size) != produced(processor, size)]
    assert wrong == []


def test_internvl_tiles_and_gemmas_square_do_not_move_coordinates():
    # Both resize without keeping the aspect or cut into tiles; their numbers are thousandths of the whole image, so
    # only the frame and its order matter.
    for size in sizes(50):
        for frame in (family_frame("internvl", size), family_frame("gemma", size)):
            corner = frame.to_pixels([1000, 1000], size)
            assert corner.tolist() == [size[1], size[0]]


def test_a_picture_of_one_pixel_has_a_size_that_a_model_can_see():
    """Grown to the least number of pixels, and one without a side is refused."""
    assert fixed_point((1, 1), factor=28, min_pixels=56 * 56, max_pixels=1 << 20) == (56, 56)
    for size in ((0, 5), (5, 0)):
        with pytest.raises(InputError, match="no usable aspect ratio"):
            fixed_point(size, factor=28, min_pixels=56 * 56, max_pixels=1 << 20)
