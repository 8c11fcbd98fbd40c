"""`mini_sam` is small, follows the image, does not follow what fills another box, and is trained on what may be used."""

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from medground_sam import MiniSam, mini, train_mini
from medground_sam.mini_cuts import corrected, pyramid
from medground_sam.mini_drawings import drawings
from medground_sam.mini_network import SIDE, Correction, box_priors, cut_grid, point_priors
from PIL import Image as PIL
from safetensors.torch import save_file

from medground.geometry import Box, ellipse, mask_box, mask_dice
from medground.testing import check_segmenter
from medground.types import SpatialPrompt

WEIGHTS = Path(mini.__file__).with_name("mini_sam.safetensors")
LIST = Path(__file__).parents[1] / "mini_sam_data.csv"


@pytest.fixture(scope="module")
def segmenter() -> MiniSam:
    return MiniSam(device="cpu")


@pytest.mark.slow
@pytest.mark.lane
def test_mini_sam_passes_the_conformance_kit():
    check_segmenter(MiniSam)


def test_the_weights_take_less_than_4_megabytes():
    assert WEIGHTS.stat().st_size < 4e6


def test_masks_follow_the_image(segmenter, scene):
    gains = []
    for seed in range(8):
        image, mask = scene(seed)
        box = mask_box(mask)
        rng = np.random.default_rng(seed)
        moved = Box(*(np.array(box) + rng.uniform(-0.1, 0.1, 4) * np.array([box.width, box.height] * 2)))
        inside = np.argwhere(mask)[rng.integers(mask.sum(), size=2)][:, ::-1] + 0.5
        points = SpatialPrompt(points=tuple(map(tuple, inside)))
        by_box, by_points = (one.data for one in segmenter.segment(image, [SpatialPrompt(box=moved), points]))
        blank = segmenter.segment(np.zeros_like(image), [points])[0].data
        floor = mask_dice(ellipse(moved, mask.shape), mask)
        gains.append((mask_dice(by_box, mask) - floor, mask_dice(by_points, mask) - mask_dice(blank, mask)))
    assert np.mean(gains, axis=0)[0] > 0.03
    assert np.mean(gains, axis=0)[1] > 0.1


@pytest.mark.parametrize("box", [Box(30, 20, 90, 100), Box(100, 90, 180, 140), Box(3, 60, 9, 190)])
def test_a_network_that_corrects_nothing_gives_the_ellipse(tmp_path, box, scene):
    save_file(Correction().state_dict(), tmp_path / "fresh.safetensors")
    segmenter = MiniSam(device="cpu")
    segmenter.load(tmp_path / "fresh.safetensors", "cpu")
    image, _ = scene(0)
    (mask,) = segmenter.segment(image, [SpatialPrompt(box=box)])
    assert mask_dice(mask.data, ellipse(box, image.shape[:2])) > 0.96


def test_a_cut_shows_the_picture_where_the_prior_lies():
    image = np.zeros((400, 300, 3), np.uint8)
    image[100:180, 60:100] = 255
    seen = []
    segmenter = MiniSam(device="cpu")
    segmenter.network = lambda taken: seen.append(taken) or torch.zeros(len(taken), SIDE, SIDE)
    segmenter.segment(image, [SpatialPrompt(box=Box(60, 100, 100, 180), points=((80, 140), (110, 100)), labels=(1, 0))])
    red, box, positive, negative = seen[0][0, [0, 3, 4, 5]]
    assert ((red > 0) == (box > 0)).float().mean() > 0.97
    assert positive.argmax() // SIDE == pytest.approx(SIDE / 2, abs=1)
    row, column = divmod(int(negative.argmax()), SIDE)
    assert (row, column) == pytest.approx((SIDE * (0.5 - 0.5 / 1.5), SIDE * (0.5 + 0.75 / 1.5)), abs=1)


def test_an_image_is_halved_until_it_is_as_small_as_a_cut():
    levels = pyramid(np.full((201, 100, 3), 7, np.uint8), "cpu")
    assert [tuple(level.shape[1:]) for level in levels] == [(201, 100), (101, 50), (51, 25)]
    assert all((level == 7).all() for level in levels)


def test_a_correction_that_fills_another_box_does_not_count():
    priors = box_priors(torch.tensor([[10.0, 10, 50, 50]] * 2))
    shrinks = torch.where(cut_grid().norm(dim=-1) < 0.2, 0.0, -9.0)  # follows a core
    cuts = torch.where(cut_grid()[..., 0] > 0.3, -9.0, 0.0) * 0.2
    both = torch.stack([shrinks, cuts])
    prior = corrected(torch.zeros_like(both), priors, box_error=0.0)
    exact, unsure = corrected(both, priors, box_error=0.0), corrected(both, priors, box_error=0.15)
    assert torch.equal(exact[0], prior[0]) and torch.equal(unsure[0], prior[0])
    assert torch.equal(corrected(both, priors, box_error=None), prior + both), "points: all of it counts"
    assert (unsure[1] - prior[1]).abs().max() > (exact[1] - prior[1]).abs().max()


def test_the_disc_of_points_is_round_the_positive_ones():
    points = torch.tensor([[[10.0, 20], [30, 20], [200, 20]]])
    disc = point_priors(points, torch.tensor([[True, True, False]]), torch.tensor([100.0]))
    assert disc.centre.tolist() == [[20, 20]] and disc.radii[0].tolist() == pytest.approx([18, 18])
    one = point_priors(points[:, :1], torch.tensor([[True]]), torch.tensor([100.0]))
    assert one.radii[0].tolist() == pytest.approx([10, 10])


def test_drawn_pictures_have_their_shape_in_the_middle():
    torch.manual_seed(0)
    disc = (cut_grid(112).norm(dim=-1) < 0.4).float().expand(40, -1, -1)
    pictures, shapes = drawings(disc, 112)
    assert pictures.shape == (40, 3, 112, 112) and pictures.min() >= 0 and pictures.max() <= 1
    assert 8 <= sum(torch.equal(shape, disc[0]) for shape in shapes) <= 32, "about half of the shapes are new"
    assert shapes[:, 50:62, 50:62].mean() > 0.8


def _folder(folder: Path, scene: Callable[..., tuple[np.ndarray, np.ndarray]]) -> None:
    lines = []
    for seed, kind in enumerate(("permissive", "non-commercial", "permissive (from memory)", "unstated")):
        image, mask = scene(seed, side=96)
        PIL.fromarray(image).save(folder / f"{seed}.png")
        PIL.fromarray(mask).save(folder / f"{seed}-mask.png")
        row = {"image": f"{seed}.png", "mask": f"{seed}-mask.png", "licence_class": kind, "set": f"set-{seed}"}
        lines.append(json.dumps(row))
    (folder / "manifest.jsonl").write_text("\n".join(lines))


def test_training_reads_permissive_rows_of_sets_that_are_not_left_out(tmp_path, scene):
    _folder(tmp_path, scene)
    assert set(train_mini.read_objects([tmp_path])) == {"set-0"}
    assert train_mini.read_objects([tmp_path], leave_out=["set-0"]) == {}


@pytest.mark.slow
def test_the_training_script_saves_a_file_of_the_shipped_layout(tmp_path, scene):
    _folder(tmp_path, scene)
    out = tmp_path / "out.safetensors"
    assert train_mini.main([str(tmp_path), "--out", str(out), "--steps", "2"]) == 0
    MiniSam(device="cpu").load(out, "cpu")


@pytest.mark.slow
def test_200_steps_on_real_images_lower_the_loss(shared):
    sets = train_mini.read_objects([shared / "data" / "real"])
    _, losses = train_mini.train(sets, steps=200, seed=3)
    assert np.mean(losses[-40:]) < np.mean(losses[:40]) - 0.05


def test_the_list_of_training_files_names_permissive_rows_by_digest(shared):
    folder = shared / "data" / "real"
    rows = {row["mask"]: row for row in map(json.loads, (folder / "manifest.jsonl").read_text().splitlines())}
    with LIST.open(newline="") as file:
        listed = list(csv.DictReader(file))
    permitted = {mask for mask, row in rows.items() if row["licence_class"] in train_mini.PERMISSIVE}
    assert {row["mask"] for row in listed} == permitted
    for row in listed[::25]:
        assert row["commit"] == rows[row["mask"]]["commit"]
        for kind in ("image", "mask"):
            assert hashlib.sha256((folder / row[kind]).read_bytes()).hexdigest() == row[f"{kind}_sha256"]
