"""Teach the demo's tiny model on real images, and compare its boxes with boxes that no image was looked at for.

    python benchmarks/real_reasoner.py /path/to/real --out reasoner --seed 0 [--share 0.5] [--sft 500] [--grpo 30]

Of the folder's data sets those with many promptable masks are used, whatever their licence: nothing of it ships. Three of
ten groups of each set are held out. Images are stretched to 64 x 64 px, which changes no box IoU. SFT starts from random
weights, GRPO from SFT's end. Beside them stand the mean training box of the question's category and the box in the middle.
One line per measurement goes to OUT/results.jsonl: mean box IoU with its 95 % interval over groups.
"""

import argparse
import json
import subprocess
import sys
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_measure import Numbers, answers, centre_box, ious, overlaps, valid
from numpy.typing import NDArray
from PIL import Image as PIL

import medground
from medground.data.open_dataset import open_dataset
from medground.evaluation.statistics import estimate
from medground.geometry import Box, mask_box

SIDE = 64
HELD = 3
"""Of ten groups, so many are held out."""
SEEN = 200
"""So many training questions are measured, too."""
MEAN, MIDDLE = "mean box of the category", "box in the middle"
SAME_VIDEOS = ("cvc_clinicdb", "cvc_colondb", "cvc_endoscene")


def held_out(group: str) -> bool:
    """Return True for groups that no training sees, whatever the seed."""
    return zlib.crc32(group.encode()) % 10 < HELD


def chosen_rows(real: Path, least: int) -> list[dict[str, Any]]:
    """Return the promptable rows of data sets of at least so many; sets that share videos are one set and one group."""
    rows = [json.loads(line) for line in (real / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["promptable"]]
    for row in rows:
        if row["set"] in SAME_VIDEOS:
            row["set"] = row["group"] = "cvc"
    count = Counter(row["set"] for row in rows)
    return [row for row in rows if count[row["set"]] >= least]


def shrunk(path: Path) -> NDArray[np.bool_]:
    """Return a mask at 64 px: a pixel counts if it covers a part of the target, so that none vanishes."""
    with PIL.open(path) as picture:
        mask = np.asarray(picture.convert("L")) > 127
    small = np.zeros((SIDE, SIDE), dtype=bool)
    rows, columns = np.nonzero(mask)
    small[rows * SIDE // mask.shape[0], columns * SIDE // mask.shape[1]] = True
    return small


def quarter(box: Box) -> str:
    """Return the quarter of the image that the centre of a box is in, in words."""
    (x, y), middle = box.centre, SIDE / 2
    return f"{'upper' if y < middle else 'lower'} {'left' if x < middle else 'right'}"


def write(rows: Sequence[dict[str, Any]], real: Path, out: Path) -> None:
    """Write rows as a dataset of 64 px images, each with a question that names the category."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for number, row in enumerate(rows):
        with PIL.open(real / row["image"]) as picture:
            small = picture.convert("RGB").resize((SIDE, SIDE), PIL.Resampling.BILINEAR)
        small.save(out / "images" / f"{number}-image.png")
        mask = shrunk(real / row["mask"])
        box = mask_box(mask)
        PIL.fromarray(mask).save(out / "images" / f"{number}-mask.png")
        line = {
            "id": str(number),
            "image": f"images/{number}-image.png",
            "mask": f"images/{number}-mask.png",
            "question": f"Where is the {row['category']} in this {row['modality']} image?",
            "think": f"{row['category']}, {quarter(box)}",
            "bbox_2d": list(box),
            "size": [SIDE, SIDE],
            "modality": row["modality"],
            "category": row["category"],
        }
        lines.append(json.dumps(line))
    (out / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def mean_boxes(train: Sequence[dict[str, Any]], held: Sequence[dict[str, Any]]) -> list[Box]:
    """Return for every held-out row the mean box, in 64 px, of the training rows of its set and category."""
    boxes: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in train:
        scale = np.array([SIDE / row["width"], SIDE / row["height"]] * 2)
        boxes[row["set"], row["category"]].append(np.array(row["bbox"]) * scale)
    all_boxes = [box for own in boxes.values() for box in own]
    return [Box(*np.mean(boxes.get((row["set"], row["category"]), all_boxes), axis=0)) for row in held]


def shown(values: Numbers, groups: Sequence[str]) -> list[float]:
    """Return the mean and its 95 % interval over groups."""
    [mean] = estimate(values[:, None], groups)
    assert mean is not None and mean.low is not None and mean.high is not None, "needs two groups or more"
    return [round(value, 4) for value in (mean.mean, mean.low, mean.high)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("real", type=Path, help="a folder with manifest.jsonl")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="share of the training groups")
    parser.add_argument("--least", type=int, default=70, help="masks of a data set that is used")
    parser.add_argument("--sft", type=int, default=500, help="steps")
    parser.add_argument("--grpo", type=int, default=30, help="steps; 0 for none")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = chosen_rows(chosen.real, chosen.least)
    held = [row for row in rows if held_out(row["group"])]
    groups = np.array(sorted({row["group"] for row in rows if not held_out(row["group"])}))
    kept = np.random.default_rng(chosen.seed).permutation(groups)[: round(chosen.share * len(groups))]
    train = [row for row in rows if row["group"] in set(kept.tolist())]
    folder = chosen.out / f"seed-{chosen.seed}-share-{chosen.share:g}"
    write(train, chosen.real, folder / "train")
    write(held, chosen.real, folder / "held")
    samples, seen = open_dataset(folder / "held"), open_dataset(folder / "train")
    some = np.random.default_rng(0).permutation(len(seen))[:SEEN].tolist()
    names = [row["group"] for row in held]
    floor = overlaps(mean_boxes(train, held), samples)
    values = {MEAN: floor, MIDDLE: overlaps([centre_box((SIDE, SIDE))] * len(held), samples)}
    common = {"seed": chosen.seed, "share": chosen.share, "images": len({row["image"] for row in train})}

    def record(what: str, **more: Any) -> None:
        line = {**common, "what": what, "iou": shown(values[what], names), "n": len(held), **more}
        print(json.dumps(line), flush=True)
        with (chosen.out / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    record(MEAN)
    record(MIDDLE)
    start = folder / "start"
    command = ["--out", start, "--data", folder / "train", "--seed", chosen.seed]
    subprocess.run([sys.executable, "-m", "medground_qwen.tiny", *map(str, command)], check=True)
    for name, recipe, steps in (("sft", "train/toy_sft", chosen.sft), ("grpo", "train/toy", chosen.grpo)):
        if not steps:
            continue
        changes = {f"{name}.max_steps": steps, f"{name}.save_every": steps, "seed": chosen.seed}
        changes |= {"reasoner.checkpoint": start, "data.path": folder / "train"}
        begun = time.process_time()
        medground.train(recipe, *(f"{key}={value}" for key, value in changes.items()), out=folder / name)
        took = round(time.process_time() - begun)
        start = max((folder / name / "checkpoints").glob("step-*"), key=lambda path: path.stat().st_mtime) / "model"
        graph = medground.load(str(folder / name), "segmenter=ellipse", "sampling.max_completion_length=48")
        results = answers(graph, samples)
        values[name] = ious(results, samples)
        known = [seen[index] for index in some]
        record(
            name,
            steps=steps,
            cpu_seconds=took,
            usable=round(valid(results), 3),
            over_mean_box=shown(values[name] - floor, names),
            on_training_images=round(float(ious(answers(graph, known), known).mean()), 4),
        )
    np.savez(folder / "ious.npz", **values)


if __name__ == "__main__":
    main()
