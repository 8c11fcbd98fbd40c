"""Teach the demo's tiny model on real images, and compare its boxes with boxes that no image was looked at for.

    for seed in 0 1 2; do
        python benchmarks/real_reasoner.py real --out reasoner --seed $seed
        for share in 0.25 0.5; do
            python benchmarks/real_reasoner.py real --out reasoner --seed $seed --share $share --grpo 0
        done
    done
    python benchmarks/real_reasoner.py real --out reasoner --table

Of the folder's data sets those with many promptable masks are used, whatever their licence: nothing of it ships. About three
of ten groups are held out. Images are stretched to 64 x 64 px, and boxes are whole pixels of that. SFT starts from random
weights, GRPO from SFT's end. Beside them stand the mean training box of the question's category and the box in the middle.
One line per measurement goes to OUT/results.jsonl: mean box IoU with its 95 % interval over groups. A trace is short, the
category and the quarter: without one SFT teaches a general sentence, which takes more tokens than an answer may have here.
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
from demo_measure import Numbers, answered_boxes, answers, centre_box, ious, overlaps, valid
from numpy.typing import NDArray
from PIL import Image as PIL

import medground
from medground.data.open_dataset import open_dataset
from medground.evaluation.statistics import estimate
from medground.geometry import Box, box_iou, mask_box
from medground.types import Sample

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


def elsewhere(boxes: Sequence[Box | None], samples: Sequence[Sample], held: Sequence[dict[str, Any]]) -> Numbers:
    """Return the mean IoU of each box with the truths of other groups of its set and category; NaN where there is none.

    An answer that follows from the question alone fits them as well as its own image.
    """
    truths = np.array([sample.target.regions[0].box for sample in samples])
    kinds = [(row["set"], row["category"]) for row in held]
    means = np.full(len(boxes), np.nan)
    for index, box in enumerate(boxes):
        own = held[index]["group"]
        others = [i for i, kind in enumerate(kinds) if kind == kinds[index] and held[i]["group"] != own]
        if others:
            means[index] = 0.0 if box is None else np.mean(box_iou(np.array(box), truths[others]))
    return means


def table(out: Path, held: Sequence[dict[str, Any]]) -> list[str]:
    """Return the tables of all runs in a folder: mean over seeds, intervals over groups."""
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if (folder_of(out, line["seed"], line["share"]) / "ious.npz").exists()]
    names = [row["group"] for row in held]
    text = [
        "| | share of groups | images | seeds | usable | box IoU | each seed | minus the mean box | on training images |"
    ]
    text.append("|---" * 9 + "|")
    full: dict[str, Numbers] = {}
    for what in (MEAN, MIDDLE, "sft", "grpo"):
        for share in sorted({line["share"] for line in lines}):
            own = [line for line in lines if line["what"] == what and line["share"] == share]
            if not own:
                continue
            runs = [np.load(folder_of(out, line["seed"], share) / "ious.npz") for line in own]
            mean, floor = (np.mean([run[name] for run in runs], axis=0) for name in (what, MEAN))
            full[what] = mean
            images = round(np.mean([line["images"] for line in own]))
            seeds = ", ".join(f"{line['iou'][0]:.3f}" for line in own)
            cells = [what, f"{share:.0%}", str(images), str(len(own))]
            trained = "usable" in own[0]
            usable = f"{np.mean([line['usable'] for line in own]):.1%}" if trained else ""
            seen = f"{np.mean([line['on_training_images'] for line in own]):.3f}" if trained else ""
            above = "" if what == MEAN else cell(mean - floor, names, "+.3f")
            text.append(f"| {' | '.join([*cells, usable, cell(mean, names), seeds, above, seen])} |")
    return [*text, "", *by_set(full, held), "", *control(out, names)]


def by_set(full: dict[str, Numbers], held: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table of mean IoU by data set, with all training images."""
    text = [f"| set | masks | {' | '.join(full)} |", "|---" * (len(full) + 2) + "|"]
    sets = np.array([row["set"] for row in held])
    for name in sorted(set(sets)):
        means = " | ".join(f"{values[sets == name].mean():.3f}" for values in full.values())
        text.append(f"| {name} | {int((sets == name).sum())} | {means} |")
    return text


def control(out: Path, names: Sequence[str]) -> list[str]:
    """Return the table of answers compared with the truth of their own image, and with those of other images."""
    text = ["| trained model | own image | other images of the category | difference |", "|---|---|---|---|"]
    for what in ("sft", "grpo"):
        runs = [np.load(file) for file in sorted(out.glob("seed-*-share-1/ious.npz"))]
        own, other = (np.mean([run[name] for run in runs], axis=0) for name in (what, f"{what}, elsewhere"))
        some = np.isfinite(other)
        groups = [name for name, yes in zip(names, some, strict=True) if yes]
        text.append(
            f"| {what} | {own[some].mean():.3f} | {other[some].mean():.3f} | {cell((own - other)[some], groups, '+.3f')} |"
        )
    return text


def cell(values: Numbers, groups: Sequence[str], form: str = ".3f") -> str:
    """Return the mean and its interval as text."""
    mean, low, high = (format(value, form) for value in shown(values, groups))
    return f"{mean} [{low}, {high}]"


def folder_of(out: Path, seed: int, share: float) -> Path:
    """Return the folder of a run."""
    return out / f"seed-{seed}-share-{share:g}"


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
    parser.add_argument("--table", action="store_true", help="train nothing; print the tables of all runs in OUT")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = chosen_rows(chosen.real, chosen.least)
    held = [row for row in rows if held_out(row["group"])]
    if chosen.table:
        print("\n".join(table(chosen.out, held)))
        return
    groups = np.array(sorted({row["group"] for row in rows if not held_out(row["group"])}))
    kept = np.random.default_rng(chosen.seed).permutation(groups)[: round(chosen.share * len(groups))]
    train = [row for row in rows if row["group"] in set(kept.tolist())]
    folder = folder_of(chosen.out, chosen.seed, chosen.share)
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
        boxes = answered_boxes(results)
        values[name], values[f"{name}, elsewhere"] = overlaps(boxes, samples), elsewhere(boxes, samples, held)
        known = [seen[index] for index in some]
        record(
            name,
            steps=steps,
            cpu_seconds=took,
            usable=round(valid(results), 3),
            over_mean_box=shown(values[name] - floor, names),
            on_training_images=round(float(ious(answers(graph, known), known).mean()), 4),
        )
    np.savez(folder / "ious.npz", allow_pickle=False, **values)


if __name__ == "__main__":
    main()
