"""Measure `mini_sam` on sets of real images that its training left out, beside what ignores the image and beside GrabCut.

    python benchmarks/mini_sam.py real pairs --weights seed0.safetensors seed1.safetensors seed2.safetensors \\
        [--whole all.safetensors] [--phantoms phantoms] [--rivals box_fill grabcut toy_sam] [--rows 80] [--out report.md]

A folder contains ``manifest.jsonl`` as `medground_sam.train_mini` reads it. Measured are promptable rows of the sets that
training left out (`train_mini.LEFT_OUT`) and of every set that may not be trained on; at most 80 rows a set. Choices after
training, such as how much of a correction counts, are made on the sets of `LEFT_OUT`: the tables keep the others apart.
Prompts come from the truth: its tight box, that box with every edge moved by up to 15 % of the side, and two points
inside. GrabCut needs ``pip install opencv-python-headless``; without it its rows read "not measured".
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from medground_sam import MiniSam, ToySam
from medground_sam.mini_network import point_priors
from medground_sam.train_mini import LEFT_OUT, PERMISSIVE
from medground_toy.segmenters import BoxFill
from numpy.typing import NDArray
from PIL import Image as PIL
from scipy import ndimage

from medground.geometry import Box, ellipse, mask_box, mask_dice
from medground.types import SpatialPrompt

PROMPTS = ("box", "box ±15 %", "two points")
SAME_VIDEOS = ("cvc_clinicdb", "cvc_colondb", "cvc_endoscene")
SEEN_AGAIN = ("BUSI", "DSB 2018")
"""Data sets of the folder ``pairs`` that training has seen in the folder ``real``."""
SIZES = ((0.01, "under 1 %"), (0.05, "1 to 5 %"), (0.2, "5 to 20 %"), (1.01, "over 20 %"))
RESAMPLES = 1000
WHOLE = "trained on all permissive sets"
Dice = dict[str, NDArray[np.float64]]
"""Per prompt, the Dice of every row; NaN where there is none."""


@dataclass(eq=False)
class Row:
    """A mask with its picture and its prompts."""

    name: str
    source: str
    """The data set."""
    modality: str
    group: str
    chosen_on: bool
    """True for sets on which choices were made after training."""
    image: NDArray[np.uint8] = field(repr=False)
    mask: NDArray[np.bool_] = field(repr=False)

    @functools.cached_property
    def prompts(self) -> tuple[SpatialPrompt, ...]:
        """Return one prompt per kind of `PROMPTS`; they follow from the row's name."""
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        tight = mask_box(self.mask)
        moved = np.array(tight) + rng.uniform(-0.15, 0.15, 4) * np.array([tight.width, tight.height] * 2)
        rows, columns = (slice(int(low), int(high)) for low, high in ((tight.y1, tight.y2), (tight.x1, tight.x2)))
        depth = ndimage.distance_transform_edt(np.pad(self.mask[rows, columns], 1))[1:-1, 1:-1]
        spots = np.argwhere(depth >= 0.3 * depth.max())
        points = spots[rng.integers(len(spots), size=2)][:, ::-1] + 0.5 + np.array([tight.x1, tight.y1])
        return (
            SpatialPrompt(box=tight),
            SpatialPrompt(box=Box(*moved.tolist())),
            SpatialPrompt(points=tuple(map(tuple, points.tolist()))),
        )


def read_rows(folders: Sequence[Path], most: int) -> list[Row]:
    """Return the rows to measure, at most so many a set, chosen by a fixed seed."""
    rows: list[Row] = []
    for folder in folders:
        lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
        np.random.default_rng(0).shuffle(lines)
        count: dict[str, int] = defaultdict(int)
        for line in lines:
            own = line.get("set", line["dataset"])
            trained = line.get("licence_class") in PERMISSIVE and own not in LEFT_OUT
            if not line["promptable"] or trained or own in SEEN_AGAIN or count[own] == most:
                continue
            count[own] += 1
            with PIL.open(folder / line["image"]) as image, PIL.open(folder / line["mask"]) as mask:
                pixels, truth = np.asarray(image.convert("RGB")), np.asarray(mask.convert("L")) > 127
            if truth.shape == pixels.shape[:2]:
                source = "cvc" if own in SAME_VIDEOS else own if "set" in line else f"pairs: {own}"
                group = line.get("group", line["image"])
                rows.append(Row(line["id"], source, line["modality"], group, own in LEFT_OUT, pixels, truth))
    return rows


def measure(rows: Sequence[Row], masks: Callable[[Row], Sequence[NDArray[np.bool_] | None]]) -> Dice:
    """Return the Dice of what `masks` gives for every row, one per kind of prompt; None counts as no value."""
    dice = {kind: np.full(len(rows), np.nan) for kind in PROMPTS}
    for index, row in enumerate(rows):
        for kind, mask in zip(PROMPTS, masks(row), strict=True):
            if mask is not None:
                dice[kind][index] = mask_dice(mask, row.mask)
    return dice


def by_component(component: Any) -> Callable[[Row], list[NDArray[np.bool_] | None]]:
    """Return a function for `measure` that asks a segmenter, for the kinds of prompt it takes."""

    def masks(row: Row) -> list[NDArray[np.bool_] | None]:
        able = [prompt.kinds <= component.accepts for prompt in row.prompts]
        given = iter(component.segment(row.image, [p for p, ok in zip(row.prompts, able, strict=True) if ok]))
        return [next(given).data if ok else None for ok in able]

    return masks


def by_mini_sam(weights: Path, *, informed: bool) -> Callable[[Row], list[NDArray[np.bool_] | None]]:
    """Return a function for `measure` that runs `mini_sam`; `informed`, it knows how far off the boxes of a kind may be."""
    models = [MiniSam(box_error=error, device="cpu") for error in ((0.0, 0.15) if informed else (0.1,))]
    for model in models:
        model.load(weights, "cpu")

    def masks(row: Row) -> list[NDArray[np.bool_] | None]:
        exact, moved, points = row.prompts
        first = models[0].segment(row.image, [exact, points])
        (second,) = models[-1].segment(row.image, [moved])
        return [first[0].data, second.data, first[1].data]

    return masks


def floors(row: Row) -> list[NDArray[np.bool_] | None]:
    """Return the ellipse of every box, and the disc that `mini_sam` starts from for points."""
    height, width = row.mask.shape
    masks: list[NDArray[np.bool_] | None] = []
    for prompt in row.prompts:
        box = prompt.box
        if box is None:
            points, side = torch.tensor([prompt.points]), torch.tensor([height * width]).sqrt()
            disc = point_priors(points, torch.ones(points.shape[:2], dtype=torch.bool), side)
            (x, y), radius = disc.centre[0].tolist(), float(disc.radii[0, 0])
            box = Box(x - radius, y - radius, x + radius, y + radius)
        masks.append(ellipse(box, row.mask.shape))
    return masks


def grabcuts(row: Row) -> list[NDArray[np.bool_] | None]:
    """Return the masks of OpenCV's GrabCut for the boxes."""
    return [None if prompt.box is None else _grabcut(row, prompt.box) for prompt in row.prompts]


def _grabcut(row: Row, box: Box) -> NDArray[np.bool_]:
    """Run three rounds from the ellipse of the box, on a cut of at most 128 px."""
    import cv2

    height, width = row.mask.shape
    (x, y), reach = box.centre, (0.75 * box.width, 0.75 * box.height)
    left, right = max(0, int(x - reach[0])), min(width, int(x + reach[0]) + 1)
    top, bottom = max(0, int(y - reach[1])), min(height, int(y + reach[1]) + 1)
    scale = min(1.0, 128 / max(right - left, bottom - top))
    size = (max(4, round((right - left) * scale)), max(4, round((bottom - top) * scale)))
    cut = np.ascontiguousarray(cv2.resize(row.image[top:bottom, left:right, ::-1], size, interpolation=cv2.INTER_AREA))
    columns = (np.arange(size[0]) + 0.5) / size[0] * (right - left) + left
    lines = (np.arange(size[1]) + 0.5) / size[1] * (bottom - top) + top
    u, v = (columns - x) / (box.width / 2), (lines[:, None] - y) / (box.height / 2)
    radius, inside = np.hypot(u, v), np.maximum(abs(u), abs(v)) < 1
    marks = np.where(radius < 0.5, cv2.GC_FGD, np.where(radius < 1, cv2.GC_PR_FGD, cv2.GC_PR_BGD))
    marks = np.where(inside, marks, cv2.GC_BGD).astype(np.uint8)
    with contextlib.suppress(cv2.error):  # no pixel of one of the two kinds: the ellipse stands
        cv2.grabCut(cut, marks, None, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)
    inner = np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    mask = np.zeros(row.mask.shape, bool)
    mask[top:bottom, left:right] = cv2.resize(inner, (right - left, bottom - top)) > 0.5
    return mask


def per_set(gain: NDArray[np.float64], rows: Sequence[Row]) -> float:
    """Return the mean over data sets of at least four rows of the mean of their rows."""
    values: dict[str, list[float]] = defaultdict(list)
    for value, row in zip(gain, rows, strict=True):
        values[row.source].append(float(value))
    return float(np.mean([np.mean(own) for own in values.values() if len(own) >= 4] or [np.nan]))


def interval(gain: NDArray[np.float64], rows: Sequence[Row]) -> tuple[float, float]:
    """Return the 95 % interval of `per_set`: data sets are drawn again, then groups in each."""
    groups: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for value, row in zip(gain, rows, strict=True):
        groups[row.source][row.group].append(float(value))
    sets = [
        np.array([(sum(own), len(own)) for own in named.values()])
        for named in groups.values()
        if sum(map(len, named.values())) >= 4
    ]
    if not sets:
        return np.nan, np.nan
    rng = np.random.default_rng(0)
    means = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        drawn = []
        for chosen in rng.integers(len(sets), size=len(sets)):
            own = sets[chosen]
            total, count = own[rng.integers(len(own), size=len(own))].sum(0)
            drawn.append(total / count)
        means[index] = np.mean(drawn)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _gain(dice: Sequence[Dice], ground: Dice, kind: str, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean over models of Dice minus that of the ground, for the chosen rows."""
    return np.asarray(np.mean([one[kind][chosen] for one in dice], axis=0) - ground[kind][chosen])


def summary(rows: Sequence[Row], ground: Dice, models: dict[str, list[Dice]], chosen: NDArray[np.bool_]) -> list[str]:
    """Return the table of all models over the chosen rows."""
    some = [row for row, yes in zip(rows, chosen, strict=True) if yes]
    own = [per_set(ground[kind][chosen], some) for kind in PROMPTS]
    lines = [
        f"{len(some)} masks of {len({row.source for row in some})} data sets. Each cell: the difference to the ellipse (of"
        " points: the disc) per set with its interval; then per mask.",
        "",
        f"| | {' | '.join(PROMPTS)} |",
        "|---|---|---|---|",
        f"| ellipse, disc: Dice per set | {' | '.join(f'{value:.3f}' for value in own)} |",
    ]
    for name, dice in models.items():
        cells = []
        for kind in PROMPTS:
            gain = _gain(dice, ground, kind, chosen)
            if np.isnan(gain).any():
                cells.append("not measured")
                continue
            low, high = interval(gain, some)
            cells.append(f"{per_set(gain, some):+.3f} [{low:+.3f}, {high:+.3f}]; {gain.mean():+.3f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def split(
    rows: Sequence[Row],
    ground: Dice,
    dice: Sequence[Dice],
    name: str,
    key: Callable[[Row], str],
    order: Sequence[str] = (),
) -> list[str]:
    """Return the table of one model by some property of the rows: per mask, the ground's Dice and the difference."""
    keys = np.array([key(row) for row in rows])
    lines = [f"| {name} | masks | {' | '.join(PROMPTS)} |", "|---|---|---|---|---|"]
    for value in order or sorted(set(keys)):
        chosen = keys == value
        if not chosen.any():
            continue
        cells = [
            f"{ground[kind][chosen].mean():.3f} {_gain(dice, ground, kind, chosen).mean():+.3f}" for kind in PROMPTS
        ]
        lines.append(f"| {value} | {int(chosen.sum())} | {' | '.join(cells)} |")
    return [*lines, ""]


def size_of(row: Row) -> str:
    """Return the name of the row's size: the share of the picture that its mask covers."""
    return next(name for limit, name in SIZES if row.mask.mean() < limit)


def report(rows: Sequence[Row], seeds: Sequence[Path], whole: Path | None, rivals: Sequence[str]) -> list[str]:
    """Return the tables about real images."""
    ground = measure(rows, floors)
    informed = [measure(rows, by_mini_sam(path, informed=True)) for path in seeds]
    uninformed = [measure(rows, by_mini_sam(path, informed=False)) for path in seeds]
    models = {f"mini_sam, mean of {len(seeds)} seeds": informed}
    models |= {f"seed {index}": [dice] for index, dice in enumerate(informed)}
    models["mean, not told how far off the box is"] = uninformed
    known: dict[str, Callable[[Row], list[NDArray[np.bool_] | None]]] = {
        "box_fill": by_component(BoxFill()),
        "toy_sam": by_component(ToySam(device="cpu")),
    }
    if importlib.util.find_spec("cv2"):
        known["grabcut"] = grabcuts
    nothing: Dice = {kind: np.full(len(rows), np.nan) for kind in PROMPTS}
    models |= {name: [measure(rows, known[name]) if name in known else nothing] for name in rivals}
    chosen_on = np.array([row.chosen_on for row in rows])
    lines = ["## Left out, choices made on them", "", *summary(rows, ground, models, chosen_on)]
    if whole:
        models[WHOLE] = [measure(rows, by_mini_sam(whole, informed=True))]
        models[f"{WHOLE}, not told"] = [measure(rows, by_mini_sam(whole, informed=False))]
    lines += ["## Never seen, nothing chosen on them", "", *summary(rows, ground, models, ~chosen_on)]
    lines += ["## All: Dice of the ellipse or disc, and the mean difference per mask", ""]
    lines += split(rows, ground, informed, "modality", lambda row: row.modality)
    lines += split(rows, ground, informed, "target covers", size_of, [name for _, name in SIZES])
    return lines + split(rows, ground, informed, "data set", lambda row: f"{row.source} ({row.modality})")


def drawn(folder: Path, seeds: Sequence[Path], whole: Path | None) -> list[str]:
    """Return the table about phantoms, beside `toy_sam`, which has seen such phantoms alone."""
    rows = []
    for line in map(json.loads, (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()):
        with PIL.open(folder / line["image"]) as image, PIL.open(folder / line["mask"]) as mask:
            pixels, truth = np.asarray(image.convert("RGB")), np.asarray(mask.convert("L")) > 127
        rows.append(Row(line["id"], "phantoms", line["modality"], line["image"], False, pixels, truth))
    models = {"ellipse, disc": measure(rows, floors), "toy_sam": measure(rows, by_component(ToySam(device="cpu")))}
    models |= {f"mini_sam, seed {i}": measure(rows, by_mini_sam(path, informed=True)) for i, path in enumerate(seeds)}
    if whole:
        models[f"mini_sam, {WHOLE}"] = measure(rows, by_mini_sam(whole, informed=True))
        models[f"mini_sam, {WHOLE}, not told"] = measure(rows, by_mini_sam(whole, informed=False))
    lines = [f"## {len(rows)} phantoms: mean Dice", "", f"| | {' | '.join(PROMPTS)} |", "|---|---|---|---|"]
    for name, dice in models.items():
        lines.append(f"| {name} | {' | '.join(f'{dice[kind].mean():.3f}' for kind in PROMPTS)} |")
    return [*lines, ""]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="trained without LEFT_OUT, one per seed")
    parser.add_argument("--whole", type=Path, help="weights trained on all permissive sets")
    parser.add_argument("--phantoms", type=Path)
    parser.add_argument("--rivals", nargs="*", default=["box_fill", "grabcut", "toy_sam"])
    parser.add_argument("--rows", type=int, default=80, help="most rows a data set")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lines = [f"# mini_sam on sets that it has not seen, {date.today()}", ""]
    if chosen.folders:
        lines += report(read_rows(chosen.folders, chosen.rows), chosen.weights, chosen.whole, chosen.rivals)
    if chosen.phantoms:
        lines += drawn(chosen.phantoms, chosen.weights, chosen.whole)
    print("\n".join(lines))
    if chosen.out:
        chosen.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
