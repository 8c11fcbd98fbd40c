"""The last step of `make demo`: measure both runs on held-out pictures, ground three, write report.html.

    python benchmarks/demo_report.py DIR

DIR holds the phantoms (core, whole; held-core, held-whole) and the runs (sft, grpo) that the Makefile's demo made in it.
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

import medground
from medground.data.samples import Samples, read_samples
from medground.images.overlay import draw
from medground.pipeline.pipeline import GroundingResult
from medground.report import Section, figure, gallery, grid, line_chart, page, paragraph, table
from medground.runs.folder import read_events
from medground.runs.progress import progress

SEGMENTER = "toy_sam"
GAP = 16
"""Between two pictures, px."""
SMOOTH = 20
"""SFT's loss is shown as the mean over so many steps."""
TARGETS = {
    "answers that can be used": 0.99,
    "IoU on the core after SFT": 0.75,
    "gain on the whole lesion by GRPO": 0.12,
    "loss when questions are shuffled": 0.2,
}


def measured(
    folder: Path, held: Mapping[str, Samples], advance: Callable[[int], None]
) -> tuple[dict[str, Any], dict[str, list[GroundingResult]]]:
    """All numbers of the report, with the answers they come from; `advance` takes the number of answers that have come in."""
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
        ("constant box", {kind: constant_box(read_samples(folder / kind)) for kind in held}),
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
    """What was aimed at, what was reached, and whether that is enough."""
    rows = numbers["rows"]
    reached = {
        "answers that can be used": (min(rows["sft"]["valid"], rows["grpo"]["valid"]), None),
        "IoU on the core after SFT": (rows["sft"]["core"].mean, rows["sft"]["core"]),
        "gain on the whole lesion by GRPO": (numbers["gain"].mean, numbers["gain"]),
        "loss when questions are shuffled": (numbers["shuffled_loss"].mean, numbers["shuffled_loss"]),
    }
    told = []
    for name, least in TARGETS.items():
        value, spread = reached[name]
        enough = value >= least and (name != "gain on the whole lesion by GRPO" or numbers["gain"].low > 0)
        told.append([name, f"at least {least:g}", str(spread or f"{value:.3f}"), "yes" if enough else "no"])
    return told


def learnt(numbers: Mapping[str, Any], verdict: Sequence[Sequence[Any]], folder: Path) -> list[str]:
    """What came of it and where more stands, in five lines."""
    rows = numbers["rows"]
    format_, core, gain, reading = (f"{reached}; wanted {wanted}: {enough}" for _, wanted, reached, enough in verdict)
    before, after = (rows[name]["whole"].mean for name in ("sft", "grpo"))
    return [
        f"Format: share of answers that can be used {format_}",
        f"SFT, shown cores: IoU with the core {core}",
        f"GRPO, paid for whole lesions: IoU with the whole {before:.3f} to {after:.3f}, gain {gain}",
        f"Reading: asked another picture's question, IoU falls by {reading}",
        f"{folder / 'report.html'} has curves and pictures; medground ground IMAGE QUESTION --recipe {folder / 'grpo'} asks on",
    ]


def results(numbers: Mapping[str, Any]) -> Any:
    """Reasoners and baselines, one row each."""
    names = {"sft": "after SFT", "grpo": "after GRPO"}
    rows = [
        [
            names.get(name, name),
            *(_shown(row.get(key)) for key in ("valid", "core", "whole", "dice", "shuffled")),
        ]
        for name, row in numbers["rows"].items()
    ]
    columns = ["", "usable", "IoU, core", "IoU, whole", f"mask Dice, whole ({SEGMENTER})", "IoU, whole, shuffled"]
    told = f"Greedy answers to {numbers['questions']} questions about {numbers['pictures']} pictures never trained on"
    return table(columns, rows, caption=told + "; means with 95 % bootstrap intervals over pictures.", sortable=False)


def curves(folder: Path) -> list[Any]:
    """How both runs went."""
    sft, grpo = read_events(folder / "sft"), read_events(folder / "grpo")
    steps = [line["step"] for line in sft][SMOOTH - 1 :: SMOOTH]
    losses = [line["loss"] for line in sft]
    means = [float(np.mean(losses[step - SMOOTH : step])) for step in steps]
    labels = {"reward": "total", "reward/bbox_iou/mean": "box IoU", "reward/mask_dice/mean": "mask Dice"}
    lines = {said: ([line["step"] for line in grpo], [line[key] for line in grpo]) for key, said in labels.items()}
    return [
        line_chart("SFT: loss per token", {"loss": (steps, means)}, y="loss", holds=(0.0,)),
        line_chart("GRPO: rewards of sampled answers, whole lesion", lines, y="reward", holds=(0.0,)),
    ]


def overlays(found: Mapping[str, Sequence[GroundingResult]], held: Samples, places: Sequence[int]) -> Any:
    """Answers before and after beside the truth of the new convention; bright and dark lesions by turns."""
    figures = []
    for place in places:
        sample = held[place]
        pair = [_picture(found[name][place], sample.target.box, sample.target.mask) for name in ("sft", "grpo")]
        sheet = Pillow.new("RGB", (sum(each.width for each in pair) + GAP, pair[0].height), "grey")
        for index, each in enumerate(pair):
            sheet.paste(each, (index * (pair[0].width + GAP), 0))
        alt = "two answers beside the truth: left after SFT, right after GRPO"
        figures.append(figure(sheet, alt, sample.query.question, side=880))
    return grid(*figures)


def grounded(folder: Path, held: Samples) -> list[Any]:
    """Three held-out pictures through the trained reasoner's own run folder, as anyone would ask."""
    graph = medground.load(str(folder / "grpo"), f"segmenter={SEGMENTER}")
    figures = []
    for place in (12, 15, 16):
        begun = time.perf_counter()
        one = graph(held[place].query)
        told = f"{one.query.question} It wrote, in {time.perf_counter() - begun:.1f} s: {one.completion.text}"
        picture = _picture(one)
        picture.save(folder / f"grounded-{place}.png")
        figures.append(figure(picture, "box and mask", told, side=440))
    return [gallery(figures)]


def _picture(one: GroundingResult, target_box: Any = None, target_mask: Any = None) -> Any:
    prompt = one.grounding.prompt
    return draw(
        one.query.image,
        box=prompt.box if prompt else None,
        mask=one.mask.data if one.mask else None,
        target_box=target_box,
        target_mask=target_mask,
    )


def _shown(value: Any) -> str | None:
    if isinstance(value, float):
        return f"{100 * value:.1f} %"
    return None if value is None else str(value)


def _plain(value: Any) -> Any:
    return [value.mean, value.low, value.high] if isinstance(value, Interval) else value


def spent(folder: Path) -> dict[str, Any]:
    """What training took, from the runs' own records."""
    out = {}
    for name in ("sft", "grpo"):
        steps = read_events(folder / name)
        out[name] = {"steps": len(steps), "seconds": sum(line["step_time"] for line in steps)}
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    held = {kind: read_samples(folder / f"held-{kind}") for kind in ("core", "whole")}
    with progress("answers", total=4 * len(held["whole"])) as advance:
        numbers, found = measured(folder, held, advance)
    numbers["training"] = spent(folder)
    (folder / "metrics.json").write_text(json.dumps(numbers, default=lambda each: each.__dict__, indent=1) + "\n")
    told = verdicts(numbers)
    weights = read_events(folder / "sft", "start")[0]
    taken = [[name.upper(), one["steps"], f"{one['seconds']:.0f} s"] for name, one in numbers["training"].items()]
    sections = [
        Section(
            "What was tried",
            "Every picture holds a bright and a dark lesion, so the question decides which one is meant. A lesion has a core "
            "and a margin. A Qwen3-VL of random weights learnt by SFT, with a short trace, to box the core. Then GRPO moved "
            "it to boxes of the whole lesion: it saw neither trace nor target text, only the reward of what it wrote "
            "itself, box IoU and the Dice of the mask drawn from its box.",
            table(["aim", "wanted", "reached", "enough"], told, caption="Aims, on held-out pictures", sortable=False),
        ),
        Section("Results", results(numbers)),
        Section(
            "Before and after",
            "Left after SFT, right after GRPO. Blue is the answer, dashed yellow the truth of the new convention.",
            overlays(found, held["whole"], (0, 3, 4, 7)),
        ),
        Section("Curves", grid(*curves(folder))),
        Section("Three pictures grounded", *grounded(folder, held["whole"])),
        Section(
            "The runs",
            table(["", "steps", "time of the steps"], taken, caption="Training, wall clock", sortable=False),
            paragraph(
                f"Seed {weights['seed']}; versions: {', '.join(f'{k} {v}' for k, v in weights['versions'].items())}."
            ),
            paragraph("Each run folder is a recipe: medground ground IMAGE QUESTION --recipe ", str(folder / "grpo")),
        ),
    ]
    report = folder / "report.html"
    report.write_text(page("A tiny model learns to ground", sections), encoding="utf-8")
    print("", *learnt(numbers, told, folder), sep="\n")


if __name__ == "__main__":
    main()
