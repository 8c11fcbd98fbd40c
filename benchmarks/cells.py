"""Measure what many regions, and tiles, are worth where the targets are cells.

    python benchmarks/cells.py [--phantoms 24] [--size 512] [--real DIR] [--tiles 128,256] [--segmenters threshold,ellipse]
        [--seed 0] [--json FILE]

Three oracles answer the question about every cell, and the same segmenter draws their masks from boxes: ``tiled`` writes the
true cells through the prompt interface `tiled` with `regions`, as whole thousandths of its tiles, and is read back; ``whole``
gives the same cells without any text; ``one box`` is the box around all of them. The union of the masks is compared with
the union of the cells. A cell is on a seam where the edge of a tile cuts it: such cells are counted apart, each with the box
IoU of the region that is assigned to it.

A list of `regions` ends after 64. Where a tile shows more cells, the oracle leaves out the smallest; they are counted, and not
found.

Phantoms have exact cells. Of DIR, a folder with ``manifest.jsonl``, the microscopy rows whose mask has four components or
more are taken, a component for a cell: nuclei that touch are one there. Intervals are 95 %, by image or group.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from medground_prompts.schema import MOST_REGIONS
from medground_toy.phantoms import phantom
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

import medground
from medground.data.manifest import MANIFEST
from medground.evaluation.statistics import Estimate, estimate
from medground.frames import Frame
from medground.geometry import Box, Size, box_iou, mask_box, mask_dice
from medground.images.read import read_image, read_mask
from medground.protocols import PromptInterface, Segmenter
from medground.types import Completion, Image, Region, Target, boxes_of

Bools = NDArray[np.bool_]
FEWEST = 4
"""With fewer cells one box says nearly the same."""
SMALLEST = 8
"""px: smaller components are debris."""


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One picture and its cells."""

    group: str
    image: Image
    cells: list[Region]
    """Each with its box and its mask."""

    @property
    def size(self) -> Size:
        return self.image.shape[0], self.image.shape[1]

    @property
    def union(self) -> Bools:
        union = np.zeros(self.size, bool)
        for cell in self.cells:
            union |= cell.mask.data if cell.mask is not None else False
        return union


@dataclass(frozen=True, slots=True)
class Assigned:
    """How the cells of a picture fare, one by one."""

    iou: NDArray[np.float64]
    """Of each cell's box with that of the region assigned to it; 0 without one."""
    surplus: int
    """Regions that are assigned to no cell with an IoU of .5."""


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """One picture measured."""

    group: str
    left_out: int
    """Cells that the lists of the tiles have no room for."""
    tiled: float
    """Dice of the union."""
    whole: float
    one_box: float
    seam: NDArray[np.float64]
    """Box IoU of the cells that the edge of a tile cuts."""
    inner: NDArray[np.float64]
    """And of the others."""
    surplus: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantoms", type=int, default=24, help="pictures drawn")
    parser.add_argument("--size", type=int, default=512, help="their side, px")
    parser.add_argument("--real", type=Path, help="a folder of real images and masks with a manifest")
    parser.add_argument("--tiles", default="128,256", help="sides of tiles, px")
    parser.add_argument("--segmenters", default="threshold,ellipse")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write every figure there")
    chosen = parser.parse_args()
    phantoms = drawn(chosen.phantoms, chosen.seed, (chosen.size, chosen.size))
    sets = [] if chosen.real is None else list(real(chosen.real).items())
    rows: list[dict[str, Any]] = []

    def tell(source: str, segmenter: str, tile: int, results: Sequence[Result]) -> None:
        rows.append({"source": source, "segmenter": segmenter, "tile": tile, **summarised(results, chosen.seed)})
        sys.stdout.write(f"{line(rows[-1])}\n")
        sys.stdout.flush()

    for name in chosen.segmenters.split(","):
        segmenter = medground.build("segmenter", name)
        for tile in map(int, chosen.tiles.split(",")):
            tell("phantoms", name, tile, measured(phantoms, segmenter, tile))
            together: list[Result] = []
            for source, fields in sets:
                results = measured(fields, segmenter, tile)
                together += results
                tell(source, name, tile, results)
            if together:
                tell("all microscopy", name, tile, together)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


def drawn(count: int, seed: int, size: Size) -> list[Field]:
    """Return phantom cells: of each picture the many purple ones."""
    fields = []
    for index in range(count):
        sample = phantom("cells", int(np.random.SeedSequence([seed, index]).generate_state(1)[0]), size=size).samples[0]
        fields.append(Field(str(index), sample.query.image, list(sample.target.regions)))
    return fields


def real(folder: Path) -> dict[str, list[Field]]:
    """Return the microscopy pictures with several cells, by their set."""
    sets: dict[str, list[Field]] = {}
    for text in (folder / MANIFEST).read_text(encoding="utf-8").splitlines():
        row = json.loads(text)
        if row["modality"] == "microscopy" and row["components"] >= FEWEST:
            mask = read_mask(folder / row["mask"])
            field = Field(row["group"], read_image(folder / row["image"]), list(components(mask)))
            if len(field.cells) >= FEWEST:
                sets.setdefault(f"{row['set']}: {row['category']}", []).append(field)
    return sets


def components(mask: Bools) -> Iterator[Region]:
    """Yield a region for each component of a mask that is no debris, joined across corners."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    for number, window in enumerate(ndimage.find_objects(labels, count), start=1):
        if (labels[window] == number).sum() >= SMALLEST:
            yield with_mask(labels == number)


def with_mask(mask: Bools) -> Region:
    return Region(box=mask_box(mask), mask=medground.Mask(data=mask))


def measured(fields: Sequence[Field], segmenter: Segmenter, tile: int) -> list[Result]:
    """Measure every picture with one segmenter and one size of tiles."""
    interface: Any = medground.build(
        "prompt_interface", "tiled", interface="regions", arguments={"points": False}, tile=tile, overlap=tile // 4
    )
    results = []
    for field in fields:
        windows = [Box(one.x1, one.y1, one.x2, one.y2) for one in interface.tiles(field.size)]
        told = listed(field.cells, windows)
        results.append(compared(field, told, through_text(field, told, interface), windows, segmenter))
    return results


def listed(cells: Sequence[Region], tiles: Sequence[Box]) -> list[Region]:
    """Return the cells that fit into the lists of all tiles: of a tile that shows more, the largest."""
    left: set[int] = set()
    for x1, y1, x2, y2 in (map(int, tile) for tile in tiles):
        shown = [
            index
            for index, cell in enumerate(cells)
            if index not in left and cell.mask is not None and cell.mask.data[y1:y2, x1:x2].any()
        ]
        left.update(sorted(shown, key=lambda index: -area(cells[index]))[MOST_REGIONS:])
    return [cell for index, cell in enumerate(cells) if index not in left]


def area(cell: Region) -> int:
    return 0 if cell.mask is None else int(cell.mask.data.sum())


def compared(
    field: Field, told: Sequence[Region], regions: Sequence[Region], tiles: Sequence[Box], segmenter: Segmenter
) -> Result:
    """Compare the regions that came through tiles with the cells as they are, and with one box around them."""
    assigned = assign(field.cells, regions)
    cut = on_seam(boxes_of(field.cells), tiles)
    return Result(
        group=field.group,
        left_out=len(field.cells) - len(told),
        tiled=union_dice(field, regions, segmenter),
        whole=union_dice(field, field.cells, segmenter),
        one_box=union_dice(field, [around(field.cells)], segmenter),
        seam=assigned.iou[cut],
        inner=assigned.iou[~cut],
        surplus=assigned.surplus,
    )


def summarised(results: Sequence[Result], seed: int) -> dict[str, Any]:
    """Return means with intervals over pictures, and counts of cells."""
    tiled, whole, one_box = (
        np.array([getattr(one, name) for one in results]) for name in ("tiled", "whole", "one_box")
    )
    columns = {
        "tiled": tiled, "whole": whole, "one box": one_box, "tiled - one box": tiled - one_box, "tiled - whole": tiled - whole,
    }  # fmt: skip
    estimates = estimate(np.transpose(list(columns.values())), [one.group for one in results], seed=seed)
    return {
        "pictures": len(results),
        "groups": len({one.group for one in results}),
        "seed": seed,
        "dice": {name: _plain(one) for name, one in zip(columns, estimates, strict=True)},
        "seam cells": _counts([one.seam for one in results]),
        "other cells": _counts([one.inner for one in results]),
        "cells left out": sum(one.left_out for one in results),
        "surplus regions": sum(one.surplus for one in results),
    }


def through_text(field: Field, told: Sequence[Region], interface: PromptInterface) -> list[Region]:
    """Return what is read of the ideal answer about some of the cells."""
    frame = Frame("permille", field.size)
    text = interface.answer(Target(regions=tuple(told)), frame=frame, size=field.size)
    grounding = interface.parse(Completion(text=text, frame=frame), field.size)
    assert grounding.fault is None, grounding.fault
    return list(grounding.regions)


def union_dice(field: Field, regions: Sequence[Region], segmenter: Segmenter) -> float:
    """Return the Dice of the union of the segmenter's masks with that of the cells."""
    prompts = [prompt for region in regions if (prompt := region.prompt("box")) is not None]
    masks = [mask.data for mask in segmenter.segment(field.image, prompts)]
    return float(mask_dice(np.any([np.zeros(field.size, bool), *masks], axis=0), field.union))


def around(cells: Sequence[Region]) -> Region:
    """Return the one box around all cells."""
    corners = np.array([cell.box for cell in cells])
    return Region(box=Box(*corners[:, :2].min(axis=0), *corners[:, 2:].max(axis=0)))


def assign(cells: Sequence[Region], regions: Sequence[Region]) -> Assigned:
    """Assign regions to cells, one to one, so that the sum of box IoUs is largest."""
    boxes = boxes_of(regions)
    iou = np.array([[float(box_iou(cell.box, box)) for box in boxes] for cell in cells if cell.box is not None])
    best = np.zeros(len(cells))
    if not boxes:
        return Assigned(best, len(regions))
    rows, columns = linear_sum_assignment(iou, maximize=True)
    best[rows] = iou[rows, columns]
    return Assigned(best, len(regions) - int((best >= 0.5).sum()))


def on_seam(boxes: Sequence[Box], tiles: Sequence[Box]) -> Bools:
    """Return which boxes an edge of a tile cuts: some tile shows a part of them, and not all."""
    cut = []
    for box in boxes:
        parts = [(min(box.x2, t.x2) - max(box.x1, t.x1), min(box.y2, t.y2) - max(box.y1, t.y1)) for t in tiles]
        cut.append(any(w > 0 and h > 0 and (w < box.width or h < box.height) for w, h in parts))
    return np.array(cut, bool)


def line(row: dict[str, Any]) -> str:
    """Return one measurement in words."""
    dice = "; ".join(f"{name} {_words(one)}" for name, one in row["dice"].items())
    cells = "; ".join(
        f"{name}: {row[name]['found']} of {row[name]['n']} found, mean IoU {row[name]['iou']:.3f}"
        for name in ("seam cells", "other cells")
        if row[name]["n"]
    )
    return (
        f"{row['source']}, {row['segmenter']}, tiles of {row['tile']} px: {row['pictures']} pictures in {row['groups']} "
        f"groups, seed {row['seed']}\n"
        f"  {dice}\n  {cells}; {row['cells left out']} left out; {row['surplus regions']} surplus regions"
    )


def _counts(values: Sequence[NDArray[np.float64]]) -> dict[str, float]:
    iou = np.concatenate([np.zeros(0), *values])
    return {"n": len(iou), "found": int((iou >= 0.5).sum()), "iou": float(iou.mean()) if len(iou) else 0.0}


def _plain(one: Estimate | None) -> dict[str, float | None]:
    return {} if one is None else {"mean": one.mean, "low": one.low, "high": one.high, "n": one.n}


def _words(one: dict[str, float | None]) -> str:
    mean, low, high = (one.get(name) for name in ("mean", "low", "high"))
    if mean is None:
        return "none"
    return f"{mean:.3f}" if low is None or high is None else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    raise SystemExit(main())
