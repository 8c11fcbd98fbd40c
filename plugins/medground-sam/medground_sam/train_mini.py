"""Train `mini_sam` on folders of images and masks, and on drawn pictures.

    python -m medground_toy.phantoms --out phantoms -n 400 --seed 1
    python -m medground_sam.train_mini real phantoms --out mini_sam.safetensors

A folder holds ``manifest.jsonl`` with one line per mask: ``image`` and ``mask``, paths in the folder; ``promptable``,
False where a box does not tell what is meant; ``set``, the data set; ``licence_class``. Lines of another class than
`PERMISSIVE` are left out, and so are the sets that ``--leave-out`` names; lines without a class are your own. Eight
minutes on one CPU core. ``--list`` writes source, commit and digest of every file that may be trained on.
"""

import argparse
import csv
import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PIL
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from medground_sam.mini_drawings import drawings
from medground_sam.mini_network import (
    Correction,
    Priors,
    box_priors,
    cut_grid,
    inputs,
    point_priors,
    prior_logits,
    tight_boxes,
)

PERMISSIVE = ("permissive", "permissive (third party)", "permissive (sister record)")
"""Classes of licence that weights may be trained on."""
LEFT_OUT = ("ct_ich", "hvsmr2", "liver_us", "octa_faz", "rings")
"""Permissive sets that the measured models never see, fixed before any training."""
BATCH, SPARE = 32, 6
"""Objects a step, and how many more are drawn, since some are too small or too large."""
CANVAS, VIEW = 144, 112
"""Pixels a side: of the part of a picture that is kept of an object, and of an augmented view of it."""
ROOM = 3.0
"""The part that is kept is so many times as large as the object."""
POINTS = 4
"""Points of a prompt, at most."""
SHARES = {"drawn": 0.4, "points": 0.25, "both": 0.1}
"""Shares of a batch: drawn pictures, prompts of points alone, and of a box and points."""


@dataclass(frozen=True, slots=True)
class Objects:
    """Objects of one data set, each cut out of its picture with room round it."""

    views: torch.Tensor
    """``[N, 4, CANVAS, CANVAS]`` uint8: red, green, blue, mask."""
    extent: torch.Tensor
    """``[N]``: the mean side of the picture, in sides of the object."""


def read_objects(folders: Sequence[Path], leave_out: Sequence[str] = ()) -> dict[str, Objects]:
    """Read the objects of every data set: whole promptable masks, and up to ten parts of a mask of several."""
    views: dict[str, list[NDArray[np.uint8]]] = defaultdict(list)
    extents: dict[str, list[float]] = defaultdict(list)
    for folder in folders:
        for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            name = row.get("set", folder.name)
            if row.get("licence_class", PERMISSIVE[0]) not in PERMISSIVE or name in leave_out:
                continue
            image, mask = _read(folder / row["image"], "RGB"), _read(folder / row["mask"], "L") > 127
            if mask.shape != image.shape[:2]:
                continue
            for part in _parts(mask, whole=row.get("promptable", True)):
                view, side = _canvas(image, part)
                views[name].append(view)
                extents[name].append(float(np.sqrt(mask.size)) / side)
    return {
        name: Objects(torch.from_numpy(np.stack(views[name])), torch.tensor(extents[name], dtype=torch.float32))
        for name in sorted(views)
    }


def write_list(folder: Path, out: Path) -> int:
    """Write the rows of a folder that may be trained on, with source, commit and digests; return their number."""
    columns = ("set", "licence", "source_repo", "commit", "source_path", "image", "image_sha256", "mask", "mask_sha256")
    count = 0
    with out.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["licence_class"] in PERMISSIVE:
                digests = {
                    f"{kind}_sha256": hashlib.sha256((folder / row[kind]).read_bytes()).hexdigest()
                    for kind in ("image", "mask")
                }
                table.writerow(row | digests)
                count += 1
    return count


def _read(path: Path, mode: str) -> NDArray[np.uint8]:
    with PIL.open(path) as image:
        return np.asarray(image.convert(mode))


def _parts(mask: NDArray[np.bool_], *, whole: bool) -> list[NDArray[np.bool_]]:
    """Return the mask where it is `whole`, and its large compact parts where it has several or is not."""
    parts = [mask] if whole and mask.any() else []
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    if count > 1 or not whole:
        compact = []
        for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
            height, width = rows.stop - rows.start, columns.stop - columns.start
            area = int((labels[rows, columns] == label).sum())
            if area >= max(64, 0.25 * height * width) and width < 0.95 * mask.shape[1]:
                compact.append((area, label))
        parts += [labels == label for _, label in sorted(compact, reverse=True)[:10]]
    return parts


def _canvas(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], float]:
    """Cut an object out of its picture; return the view and the object's longer side, px. Edge pixels are repeated."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    span = round(ROOM * side)
    indices = []
    for line in (rows, columns):
        start = round((line[0] + line[-1] + 1 - span) / 2)
        indices.append(np.arange(start, start + span))
    inside = [(index >= 0) & (index < length) for index, length in zip(indices, mask.shape, strict=True)]
    window = np.ix_(*(np.clip(index, 0, length - 1) for index, length in zip(indices, mask.shape, strict=True)))
    alone = mask[window] & inside[0][:, None] & inside[1]
    resized = [
        np.asarray(PIL.fromarray(part).resize((CANVAS, CANVAS), PIL.Resampling.BILINEAR))
        for part in (image[window], alone.astype(np.uint8) * 255)
    ]
    return np.concatenate([resized[0].transpose(2, 0, 1), resized[1][None]]), float(side)


def augmented(views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Turn, stretch, mirror and zoom objects: pictures ``[N, 3, VIEW, VIEW]``, masks, and the object's side in pixels."""
    count = len(views)
    zoom = (1.7 + 0.9 * torch.rand(count)) / ROOM
    quarter = torch.randint(4, (count,)) * (torch.pi / 2) + torch.randn(count) * 0.15
    angle = torch.where(torch.rand(count) < 0.3, torch.rand(count) * 2 * torch.pi, quarter)
    stretch = torch.exp(torch.randn(count) * 0.12)
    mirror = torch.where(torch.rand(count) < 0.5, 1.0, -1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = angle.cos() * stretch * mirror, -angle.sin() / stretch
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin() * stretch * mirror, angle.cos() / stretch
    theta[:, :, :2] *= zoom[:, None, None]
    theta[:, :, 2] = (torch.rand(count, 2) - 0.5) * 0.12
    grid = F.affine_grid(theta, [count, 4, VIEW, VIEW], align_corners=False)
    cut = F.grid_sample(views.float() / 255, grid, padding_mode="border", align_corners=False)
    return cut[:, :3], (cut[:, 3] > 0.5).float(), VIEW / ROOM / zoom


def recoloured(pictures: torch.Tensor) -> torch.Tensor:
    """Change colours, contrast, sharpness and noise at random, each of some pictures."""
    count = len(pictures)

    def some(share: float) -> torch.Tensor:
        return torch.rand(count, 1, 1, 1) < share

    mixed = (pictures * torch.distributions.Dirichlet(torch.ones(3)).sample((count,))[:, :, None, None]).sum(1, True)
    pictures = torch.where(some(0.25), mixed, torch.where(some(0.3), pictures[:, torch.randperm(3)], pictures))
    pictures = torch.where(some(0.25), 1 - pictures, pictures)
    gamma = torch.exp(torch.randn(count, 1, 1, 1) * 0.4)
    pictures = torch.where(some(0.5), pictures.clamp(1e-4, 1) ** gamma, pictures)
    pictures = torch.where(some(0.2), F.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False), pictures)
    noise = torch.randn_like(pictures) * (0.01 + 0.07 * torch.rand(count, 1, 1, 1))
    pictures = torch.where(some(0.3), pictures + noise, pictures)
    light = F.interpolate(torch.randn(count, 1, 3, 3) * 0.6, pictures.shape[-2:], mode="bicubic", align_corners=False)
    return torch.where(some(0.2), pictures * (1 + 0.4 * light), pictures)


def clicks(mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return up to `POINTS` points of a mask and their labels, as in `inputs`: two inside most often, some outside."""
    points, labels = np.zeros((POINTS, 2), np.float32), np.full(POINTS, -1)
    positive, negative = int(rng.choice([1, 2, 3], p=[0.2, 0.6, 0.2])), int(rng.random() < 0.25)
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    near = ndimage.binary_dilation(mask, iterations=int(rng.integers(4, 20)))
    for chosen, label, where in (
        (slice(0, positive), 1, depth >= 0.3 * depth.max()),
        (slice(positive, positive + negative), 0, near & ~ndimage.binary_dilation(mask, iterations=2)),
    ):
        spots = np.argwhere(where)
        number = chosen.stop - chosen.start
        if number and len(spots):
            points[chosen] = spots[rng.integers(len(spots), size=number)][:, ::-1] + 0.5
            labels[chosen] = label
    return points, labels


def batch(
    sets: Sequence[Objects], weights: NDArray[np.float64], rng: np.random.Generator, size: int = BATCH
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return inputs ``[B, CHANNELS, SIDE, SIDE]``, the prior's logits and the true coverage, both ``[B, SIDE, SIDE]``."""
    chosen = rng.choice(len(sets), size=size + SPARE, p=weights)
    rows = [int(rng.integers(len(sets[index].views))) for index in chosen]
    views = torch.stack([sets[index].views[row] for index, row in zip(chosen, rows, strict=True)])
    pictures, masks, side = augmented(views)
    extent = side * torch.stack([sets[index].extent[row] for index, row in zip(chosen, rows, strict=True)])
    drawn = torch.arange(len(views)) < SHARES["drawn"] * len(views)
    pictures[drawn], masks[drawn] = drawings(masks[drawn], VIEW)
    extent[drawn] = VIEW * torch.exp(1.2 * torch.rand(int(drawn.sum())))
    area = masks.sum((1, 2))
    usable = ((area >= 30) & (area < 0.6 * VIEW**2)).nonzero()[:, 0]
    usable = usable[torch.randperm(len(usable))[:size]]
    pictures, masks, extent = recoloured(pictures[usable]), masks[usable], extent[usable]

    count = len(usable)
    kind = torch.rand(count)
    boxed = kind >= SHARES["points"]
    clicked = kind < SHARES["points"] + SHARES["both"]
    spots, labels = torch.zeros(count, POINTS, 2), torch.full((count, POINTS), -1)
    for index in clicked.nonzero()[:, 0].tolist():
        own, kinds = clicks(masks[index].numpy() > 0.5, rng)
        spots[index], labels[index] = torch.from_numpy(own), torch.from_numpy(kinds)
    error = torch.where(torch.rand(count) < 0.3, 0.0, torch.rand(count) * 0.2)
    boxes = tight_boxes(masks)
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    boxes = boxes + (torch.rand(count, 4) * 2 - 1) * error[:, None] * sides
    priors = _either(boxed, box_priors(boxes), point_priors(spots, labels == 1, extent))
    error = torch.where(boxed, error, 0.0)

    grid = priors.to_picture(cut_grid()) / VIEW * 2 - 1
    cut = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    truth = F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]
    taken = inputs(cut, priors, boxed=boxed, points=spots, labels=labels, box_error=error)
    return taken, prior_logits(priors.margin), truth


def _either(boxed: torch.Tensor, boxes: Priors, discs: Priors) -> Priors:
    return Priors(
        torch.where(boxed[:, None], boxes.centre, discs.centre),
        torch.where(boxed[:, None], boxes.radii, discs.radii),
        torch.where(boxed, boxes.margin, discs.margin),
    )


def loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return cross-entropy and soft Dice of maps ``[B, h, w]``, summed."""
    soft = logits.sigmoid()
    overlap = (2 * (soft * truth).sum((1, 2)) + 1) / (soft.sum((1, 2)) + truth.sum((1, 2)) + 1)
    return F.binary_cross_entropy_with_logits(logits, truth) + (1 - overlap).mean()


def train(
    sets: dict[str, Objects], *, steps: int, seed: int, rate: float = 2e-3, size: int = BATCH
) -> tuple[Correction, list[float]]:
    """Return a network trained for a number of steps, its weights averaged over the last, and the loss of every step.

    A step sees `size` objects. A data set is drawn in proportion to the root of its number of objects, of which at most
    120 count.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    weights = np.array([min(len(objects.views), 120) ** 0.5 for objects in sets.values()])
    network, average = Correction(), Correction()
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05, div_factor=50)
    losses: list[float] = []
    started = time.process_time()
    for step in range(1, steps + 1):
        taken, prior, truth = batch(list(sets.values()), weights / weights.sum(), rng, size)
        with torch.autocast("cpu", torch.bfloat16):
            correction = network(taken)
        value = loss(prior + correction.float(), truth)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for mean, current in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(current, 1 - min(0.995, step / (step + 19)))
        losses.append(value.item())
        if step % 100 == 0 or step == steps:
            sys.stderr.write(
                f"step {step}/{steps} loss {np.mean(losses[-100:]):.4f} {time.process_time() - started:.0f} CPU-s\n"
            )
    return average, losses


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(prog="python -m medground_sam.train_mini", description="Train mini_sam.")
    parser.add_argument("folders", type=Path, nargs="+", help="folders with manifest.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--leave-out", nargs="*", default=[], help=f"data sets to leave out; measured: {LEFT_OUT}")
    parser.add_argument("--list", type=Path, help="file for the list of the first folder's training files")
    chosen = parser.parse_args(arguments)
    if chosen.list:
        sys.stderr.write(f"{chosen.list}: {write_list(chosen.folders[0], chosen.list)} masks\n")
    sets = read_objects(chosen.folders, chosen.leave_out)
    sys.stderr.write(f"{ {name: len(objects.views) for name, objects in sets.items()} }\n")
    network, _ = train(sets, steps=chosen.steps, seed=chosen.seed)
    note = f"{chosen.steps} steps, seed {chosen.seed}, trained on {', '.join(sets)}"
    half = {name: tensor.detach().half().contiguous() for name, tensor in network.state_dict().items()}
    save_file(half, chosen.out, metadata={"format": "pt", "note": note})
    sys.stderr.write(f"{chosen.out}: {chosen.out.stat().st_size / 1e6:.1f} MB\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
