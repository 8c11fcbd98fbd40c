"""Measure both runs of `make demo` on held-out pictures, ground three of them and write report.html.

    python benchmarks/demo_report.py DIR

DIR contains the phantoms (core, whole; held-core, held-whole) and the runs (sft, grpo) of the Makefile's demo.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from demo_measure import (
    Interval,
    answers,
    centre_box,
    constant_box,
    dices,
    interval,
    ious,
    overlaps,
    picture_of,
    shuffled,
    valid,
)
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

import medground
from medground.data.dataset import Dataset
from medground.data.open_dataset import open_dataset
from medground.geometry import box_iou
from medground.images.overlay import draw
from medground.pipeline.result import GroundingResult
from medground.progress import progress
from medground.report import Line, Table, render
from medground.runs.folder import read_events

SEGMENTER = "toy_sam"
GAP = 16
"""Gap between two pictures, px."""
PANEL, INK = (18, 21, 27), (232, 234, 238)
STAGES = {"sft": "after SFT", "grpo": "after GRPO"}
SMOOTH = 20
"""Number of steps over which the loss of SFT is averaged."""
TARGETS = {
    "answers that can be used": 0.99,
    "IoU on the core after SFT": 0.75,
    "gain on the whole lesion by GRPO": 0.12,
    "loss when questions are shuffled": 0.2,
}

Pictures = list[tuple[Any, str]]
"""Images with the text below each."""


def measured(
    folder: Path, held: Mapping[str, Dataset[Any]], advance: Callable[[int], None]
) -> tuple[dict[str, Any], dict[str, list[GroundingResult]]]:
    """Return all numbers of the report and the answers; `advance` is called with the number of new answers."""
    pictures = picture_of(held["whole"])
    mixed = shuffled(held["whole"])
    found, rows, scores = {}, {}, {}
    for name in ("sft", "grpo"):
        graph = medground.load(str(folder / name), f"segmenter={SEGMENTER}", "sampling.max_completion_length=32")
        found[name] = answers(graph, held["whole"])
        advance(len(mixed))
        asked_wrongly = answers(graph, mixed)
        advance(len(mixed))
        scores[name] = {
            "core": ious(found[name], held["core"]),
            "whole": ious(found[name], held["whole"]),
            "dice": dices(found[name], held["whole"]),
            "shuffled": ious(asked_wrongly, held["whole"]),
        }
        rows[name] = {"valid": valid(found[name])}
        rows[name] |= {key: interval(values, pictures) for key, values in scores[name].items()}
    size = held["core"][0].query.size
    for name, boxes in (
        ("constant box", {kind: constant_box(open_dataset(folder / kind)) for kind in held}),
        ("centre box", dict.fromkeys(held, centre_box(size))),
    ):
        rows[name] = {
            kind: interval(overlaps([boxes[kind]] * len(pictures), held[kind]), pictures) for kind in ("core", "whole")
        }
    numbers = {
        "questions": len(pictures),
        "pictures": int(pictures.max()) + 1,
        "rows": rows,
        "gain": interval(scores["grpo"]["whole"] - scores["sft"]["whole"], pictures),
        "gain_dice": interval(scores["grpo"]["dice"] - scores["sft"]["dice"], pictures),
        "shuffled_loss": interval(scores["grpo"]["whole"] - scores["grpo"]["shuffled"], pictures),
    }
    return numbers, found


def verdicts(numbers: Mapping[str, Any]) -> list[list[Any]]:
    """Return rows of target, bound, value and verdict."""
    rows = numbers["rows"]
    reached = {
        "answers that can be used": (min(rows["sft"]["valid"], rows["grpo"]["valid"]), None),
        "IoU on the core after SFT": (rows["sft"]["core"].mean, rows["sft"]["core"]),
        "gain on the whole lesion by GRPO": (numbers["gain"].mean, numbers["gain"]),
        "loss when questions are shuffled": (numbers["shuffled_loss"].mean, numbers["shuffled_loss"]),
    }
    verdict = []
    for name, least in TARGETS.items():
        value, spread = reached[name]
        enough = value >= least and (name != "gain on the whole lesion by GRPO" or numbers["gain"].low > 0)
        verdict.append([name, f"at least {least:g}", str(spread or f"{value:.3f}"), "yes" if enough else "no"])
    return verdict


def learnt(numbers: Mapping[str, Any], verdict: Sequence[Sequence[Any]], folder: Path) -> list[str]:
    """Return the summary in five lines."""
    rows = numbers["rows"]
    format_, core, gain, reading = (f"{reached}; wanted {wanted}: {enough}" for _, wanted, reached, enough in verdict)
    before, after = (rows[name]["whole"].mean for name in ("sft", "grpo"))
    return [
        f"Format: share of usable answers {format_}",
        f"SFT, trained on cores: IoU with the core {core}",
        f"GRPO, rewarded for whole lesions: IoU with the whole {before:.3f} to {after:.3f}, gain {gain}",
        f"Reading: with another picture's question, IoU falls by {reading}",
        f"{folder / 'report.html'} has curves and pictures; try medground ground IMAGE QUESTION --recipe {folder / 'grpo'}",
    ]


def results(numbers: Mapping[str, Any]) -> Table:
    """Return the table of reasoners and baselines, one row each."""
    rows = [
        [
            STAGES.get(name, name),
            *(_shown(row.get(key)) for key in ("valid", "core", "whole", "dice", "shuffled")),
        ]
        for name, row in numbers["rows"].items()
    ]
    columns = ["model", "usable", "IoU, core", "IoU, whole", f"mask Dice, whole ({SEGMENTER})", "IoU, whole, shuffled"]
    caption = f"Greedy answers to {numbers['questions']} questions about {numbers['pictures']} held-out pictures"
    return Table(columns, rows, caption + "; means with 95 % bootstrap intervals over pictures.", sortable=False)


def curves(folder: Path) -> tuple[Line, dict[str, Line]]:
    """Return the curves of both runs."""
    sft, grpo = read_events(folder / "sft"), read_events(folder / "grpo")
    steps = [line["step"] for line in sft][SMOOTH - 1 :: SMOOTH]
    losses = [line["loss"] for line in sft]
    means = [float(np.mean(losses[step - SMOOTH : step])) for step in steps]
    labels = {"reward": "total", "reward/bbox_iou/mean": "box IoU", "reward/mask_dice/mean": "mask Dice"}
    lines = {said: ([line["step"] for line in grpo], [line[key] for line in grpo]) for key, said in labels.items()}
    return (steps, means), lines


def overlays(found: Mapping[str, Sequence[GroundingResult]], held: Dataset, places: Sequence[int]) -> Pictures:
    """Return pictures of both answers with the truth of the new convention, bright and dark lesions in turn."""
    figures = []
    for place in places:
        sample = held[place]
        truth = sample.target.region.box
        pair, numbers = [], []
        for name, stage in STAGES.items():
            answer = found[name][place].grounding.region
            overlap = float(box_iou(answer.box, truth)) if answer and answer.box else 0.0
            pair.append((f"{stage}: box IoU {overlap:.2f}", _picture(found[name][place], truth, sample.target.mask)))
            numbers.append(f"{overlap:.2f} {stage}")
        caption = f"{sample.query.question} Box IoU {', '.join(numbers)}."
        figures.append((_sheet(pair, sample.query.question), caption))
    return figures


def _sheet(pair: Sequence[tuple[str, Any]], question: str) -> Any:
    """Return pictures side by side, each under its title, and above them the question."""
    size = pair[0][1].height // 17
    font, row = ImageFont.load_default(size), 2 * size
    width = sum(picture.width for _, picture in pair) + GAP * (len(pair) - 1)
    while font.getlength(question) > width - GAP and size > 8:
        size -= 1
        font = ImageFont.load_default(size)
    sheet = Pillow.new("RGB", (width, 2 * row + max(picture.height for _, picture in pair)), PANEL)
    pen, left = ImageDraw.Draw(sheet), 0
    pen.text((GAP // 2, row / 2), question, fill=INK, font=font, anchor="lm")
    for title, picture in pair:
        pen.text((left + GAP // 2, 1.5 * row), title, fill=INK, font=ImageFont.load_default(row // 2), anchor="lm")
        sheet.paste(picture, (left, 2 * row))
        left += picture.width + GAP
    return sheet


def grounded(folder: Path, held: Dataset) -> Pictures:
    """Return figures of three held-out pictures, grounded with the run folder as the recipe."""
    graph = medground.load(str(folder / "grpo"), f"segmenter={SEGMENTER}")
    figures = []
    for place in (12, 15, 16):
        begun = time.perf_counter()
        one = graph(held[place].query)
        caption = f"{one.query.question} It wrote, in {time.perf_counter() - begun:.1f} s: {one.completion.text}"
        picture = _picture(one)
        _picture(one, caption=one.query.question).save(folder / f"grounded-{place}.png")
        figures.append((picture, caption))
    return figures


def _picture(one: GroundingResult, target_box: Any = None, target_mask: Any = None, caption: str | None = None) -> Any:
    """Draw an answer; the page has one legend for all of its pictures, a picture with a caption has its own."""
    prompt = one.grounding.region
    return draw(
        one.query.image,
        box=prompt.box if prompt else None,
        mask=one.mask.data if one.mask else None,
        target_box=target_box,
        target_mask=target_mask,
        caption=caption,
        legend=caption is not None,
    )


def _shown(value: Any) -> str | None:
    if isinstance(value, float):
        return f"{100 * value:.1f} %"
    return None if value is None else str(value)


def _plain(value: Any) -> Any:
    return [value.mean, value.low, value.high] if isinstance(value, Interval) else value


def spent(folder: Path) -> dict[str, Any]:
    """Return steps and seconds of both runs from their records."""
    out = {}
    for name in ("sft", "grpo"):
        steps = read_events(folder / name)
        out[name] = {"steps": len(steps), "seconds": sum(line["step_time"] for line in steps)}
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    held = {kind: open_dataset(folder / f"held-{kind}") for kind in ("core", "whole")}
    with progress("answers", total=4 * len(held["whole"])) as advance:
        numbers, found = measured(folder, held, advance)
    numbers["training"] = spent(folder)
    (folder / "metrics.json").write_text(
        json.dumps(numbers, default=lambda interval: interval.__dict__, indent=1) + "\n"
    )
    verdict = verdicts(numbers)
    weights = read_events(folder / "sft", "start")[0]
    taken = [[name.upper(), one["steps"], f"{one['seconds']:.0f} s"] for name, one in numbers["training"].items()]
    page = render(
        "demo.html",
        folder=Path(__file__).parent,
        title="A tiny model learns to ground",
        aims=verdict,
        results=results(numbers),
        overlays=overlays(found, held["whole"], (0, 3, 4, 7)),
        curves=curves(folder),
        grounded=grounded(folder, held["whole"]),
        taken=taken,
        seed=weights["seed"],
        versions=", ".join(f"{key} {value}" for key, value in weights["versions"].items()),
        run=folder / "grpo",
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    print("", *learnt(numbers, verdict, folder), sep="\n")


if __name__ == "__main__":
    main()
