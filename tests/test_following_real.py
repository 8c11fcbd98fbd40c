"""Models with memory follow organs through a real CT and a real MR: three targets, several key slices, all kinds of prompts."""

import numpy as np
import pytest
import sam2_volumes
from medground_sam2 import EdgeTam, MedSam2, Sam2, Sam3Tracker
from tiny_followers import save_edgetam, save_tracker

from medground.geometry import Point, mask_box, mask_dice
from medground.images.read_volume import read_volume
from medground.segmenters.slices import Slices
from medground.types import Mask, SpatialPrompt

pytestmark = [pytest.mark.soak, pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")]
FILES = {"ct": ("example_ct_sm", "example_seg", (1, 6, 2)), "mr": ("example_mr_sm", "example_seg_mr", (5, 6, 46))}
"""Scan -> image, label map, and three labels."""
REACH = 12.0


def load(name, folder):
    """Return a segmenter of tiny size with random weights."""
    if name in ("sam2", "medsam2"):
        options = {"image_size": sam2_volumes.SIDE, "device": "cpu", **sam2_volumes.SIZES}
        model = Sam2 if name == "sam2" else MedSam2
        return model(checkpoint=str(sam2_volumes.save_weights(folder)), **options)
    save, model = (save_edgetam, EdgeTam) if name == "edgetam" else (save_tracker, Sam3Tracker)
    return model(checkpoint=str(save(folder / name)), device="cpu")


def key_slices(slices, masks):
    """Return the prompts of three targets: a box and a mask, points, and masks on two slices."""
    first, second, third = (np.flatnonzero([slices.take(mask, k).any() for k in range(slices.count)]) for mask in masks)
    pictures = [
        {int(k): slices.take(mask, k) for k in where} for mask, where in zip(masks, (first, second, third), strict=True)
    ]
    middle = int(second[len(second) // 2])
    row, column = np.argwhere(pictures[1][middle]).mean(axis=0)
    clicks = SpatialPrompt(points=(Point(column + 0.5, row + 0.5), Point(1.0, 1.0)), labels=(1, 0))
    near, far = int(first[len(first) // 3]), int(first[2 * len(first) // 3])
    return [
        {near: SpatialPrompt(box=mask_box(pictures[0][near])), far: Mask(data=pictures[0][far])},
        {middle: clicks},
        {int(k): Mask(data=pictures[2][int(k)]) for k in (third[0], third[-1])},
    ]


@pytest.mark.parametrize("scan", FILES)
@pytest.mark.parametrize("name", ["medsam2", "sam2", "edgetam", "sam3_tracker"])
def test_organs_of_a_real_scan_are_followed_from_boxes_points_and_masks(name, scan, shared, tmp_path):
    image, labels, numbers = FILES[scan]
    base = shared / "data/volumes/totalsegmentator"
    volume, values = read_volume(base / f"{image}.nii.gz"), read_volume(base / f"{labels}.nii.gz").array()
    slices, segmenter = Slices(volume, "axial"), load(name, tmp_path)
    prompts = key_slices(slices, [values == number for number in numbers])
    masks = segmenter.propagate(volume, prompts, plane="axial", reach=REACH, patience=None)
    within = round(REACH / slices.step)
    visited = {
        k for mine in prompts for k in range(min(mine) - within, max(mine) + within + 1) if 0 <= k < slices.count
    }
    print(
        f"{name} {scan}: {segmenter.stats.misses} encodings of {len(visited)} slices, {[int(m.sum()) for m in masks]} voxels"
    )
    assert segmenter.stats.misses == len(visited)
    for mask, mine in zip(masks, prompts, strict=True):
        filled = np.flatnonzero([slices.take(mask, k).any() for k in range(slices.count)])
        assert not filled.size or min(mine) - within <= filled[0] <= filled[-1] <= max(mine) + within
        for k, prompt in mine.items():
            if isinstance(prompt, Mask):
                assert mask_dice(slices.take(mask, k), prompt.data) > 0.7, "a mask comes back"
    alone = [segmenter.propagate(volume, [mine], plane="axial", reach=REACH, patience=None)[0] for mine in prompts]
    assert all(np.array_equal(one, other) for one, other in zip(masks, alone, strict=True))
    ended = segmenter.propagate(volume, prompts, plane="axial", reach=REACH, patience=1)
    assert all(not (one & ~other).any() for one, other in zip(ended, masks, strict=True)), "patience only ends"
