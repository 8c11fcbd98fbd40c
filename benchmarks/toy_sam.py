"""Compare the Dice of the small SAM with two baselines that ignore the image.

    python -m medground_toy.phantoms --out phantoms -n 240 --seed 900001
    python benchmarks/toy_sam.py phantoms [/path/to/pairs ...] [--weights FILE] [--out report.md]

A folder contains ``manifest.jsonl`` with ``image`` and ``mask``; lines with ``promptable: false`` are skipped. Prompts
come from the truth: its tight box, that box with each side moved by up to 10 % of its length, two interior points, and
the moved box with the points.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from medground_sam import Sam, ToySam
from medground_toy.regions import key_points
from medground_toy.segmenters import BoxFill, Ellipse
from PIL import Image as PIL

from medground.geometry import Box, mask_box, mask_dice
from medground.types import SpatialPrompt

KINDS = ("tight box", "box ±10 %", "two points", "box ±10 % and points")


def samples(folder: Path) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Yield (image, mask, modality) of every promptable line."""
    found = []
    for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        if sample.get("promptable", True):
            image = np.asarray(PIL.open(folder / sample["image"]).convert("RGB"))
            mask = np.asarray(PIL.open(folder / sample["mask"]).convert("L")) > 0
            if mask.any() and mask.shape == image.shape[:2]:
                found.append((image, mask, sample["modality"]))
    return found


def prompts(mask: np.ndarray, rng: np.random.Generator) -> dict[str, SpatialPrompt]:
    """Return one prompt of each kind."""
    tight = mask_box(mask)
    moved = np.array(tight) + rng.uniform(-0.1, 0.1, 4) * np.array([tight.width, tight.height] * 2)
    moved = Box(*moved).clip(mask.shape)
    points = tuple(key_points(mask))
    made = [
        SpatialPrompt(box=tight),
        SpatialPrompt(box=moved),
        SpatialPrompt(points=points),
        SpatialPrompt(box=moved, points=points),
    ]
    return dict(zip(KINDS, made, strict=True))


def measure(folder: Path, toy: Sam) -> list[str]:
    """Return the lines of the report about one folder."""
    rng = np.random.default_rng(0)
    rivals: dict[str, Any] = {"toy_sam": toy, "ellipse": Ellipse(), "box_fill": BoxFill()}
    dice: dict[tuple[str, str], list[float]] = defaultdict(list)
    families: dict[str, list[tuple[float, float]]] = defaultdict(list)
    found = samples(folder)
    for image, mask, modality in found:
        asked = prompts(mask, rng)
        for name, segmenter in rivals.items():
            able = [kind for kind in KINDS if name != "box_fill" or asked[kind].box is not None]
            for kind, given in zip(able, segmenter.segment(image, [asked[kind] for kind in able]), strict=True):
                dice[name, kind].append(float(mask_dice(given.data, mask)))
        families[modality].append((dice["toy_sam", KINDS[1]][-1], dice["ellipse", KINDS[1]][-1]))
    lines = [f"### {folder.name}: {len(found)} targets", "", "| prompt | toy_sam | ellipse | box_fill | margin |"]
    lines.append("|---|---|---|---|---|")
    for kind in KINDS:
        mean = {name: np.mean(dice[name, kind]) if dice[name, kind] else None for name in rivals}
        shown = ["-" if value is None else f"{value:.3f}" for value in mean.values()]
        lines.append(f"| {kind} | {' | '.join(shown)} | {mean['toy_sam'] - mean['ellipse']:+.3f} |")
    lines += ["", "| modality, box ±10 % | targets | toy_sam | ellipse | margin |", "|---|---|---|---|---|"]
    for modality, pairs in sorted(families.items()):
        ours, floor = np.mean(pairs, axis=0)
        lines.append(f"| {modality} | {len(pairs)} | {ours:.3f} | {floor:.3f} | {ours - floor:+.3f} |")
    return [*lines, ""]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--weights", help="a file of the same layout, instead of the one in the package")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(arguments)
    toy = Sam(checkpoint=chosen.weights) if chosen.weights else ToySam()
    lines = ["# toy_sam against the floors: mean Dice", ""]
    for folder in chosen.folders:
        lines += measure(folder, toy)
    print("\n".join(lines))
    if chosen.out:
        chosen.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
