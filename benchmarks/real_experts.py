"""Measure the segmenters that need no download on real images, by modality and target size, and draw typical answers.

    python benchmarks/real_experts.py real [--rows 40] [--slow 6] [--out report.md]
    python benchmarks/real_experts.py real --pictures FOLDER

Rows and prompts are those of `mini_sam.py`: promptable masks of the sets that `mini_sam` was not trained on, with the tight
box, that box with every edge moved by up to 15 % of the side, and two points. Every segmenter has its default settings.
`region_growing` is slow and gets fewer rows a set, beside the ellipse on the same rows. ``--pictures`` draws masks of
the sets whose own licence is CC BY, with edges off: of each set the one on which `mini_sam` has the median Dice, and of
all of them the two on which it gains and loses most against the ellipse.
"""

import argparse
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
from mini_sam import PROMPTS, SIZES, Dice, Row, by_component, floors, interval, measure, per_set, read_rows, size_of

import medground
from medground.geometry import mask_dice
from medground.images.overlay import draw

EXPERTS = ("mini_sam", "toy_sam", "threshold", "box_fill")
SLOW = "region_growing"
CC_BY = ("ct_ich", "hvsmr2", "liver_us", "rings")
"""The measured sets whose own licence is CC BY 4.0, see the data list of `mini_sam`."""
FLOOR = "ellipse, disc"
OFF = PROMPTS[1]


def cell(dice: Dice, ground: Dice, kind: str, rows: Sequence[Row]) -> str:
    """Return the difference of Dice to the ground per set, its interval, and the mean Dice per mask."""
    gain = dice[kind] - ground[kind]
    if np.isnan(gain).any():
        return "takes no points"
    low, high = interval(gain, rows)
    return f"{per_set(gain, rows):+.3f} [{low:+.3f}, {high:+.3f}]; {dice[kind].mean():.3f}"


def overall(rows: Sequence[Row], dices: dict[str, Dice]) -> list[str]:
    """Return the table of every segmenter over all rows."""
    ground = dices[FLOOR]
    own = [f"{per_set(ground[kind], rows):.3f}; {ground[kind].mean():.3f}" for kind in PROMPTS]
    lines = [
        f"{len(rows)} masks of {len({row.source for row in rows})} data sets, {len({row.group for row in rows})} groups. Of the"
        " first line: Dice per set; per mask. Of the others: the difference to it per set with its interval; Dice per mask.",
        "",
        f"| | {' | '.join(PROMPTS)} |",
        "|---|---|---|---|",
        f"| {FLOOR} | {' | '.join(own)} |",
    ]
    for name, dice in dices.items():
        if name != FLOOR:
            lines.append(f"| {name} | {' | '.join(cell(dice, ground, kind, rows) for kind in PROMPTS)} |")
    return [*lines, ""]


def by(title: str, keys: Sequence[str], order: Sequence[str], dices: dict[str, Dice], kind: str) -> list[str]:
    """Return the table of mean Dice per mask, a line for each value of a property."""
    shown = {name: dice for name, dice in dices.items() if not np.isnan(dice[kind]).any()}
    lines = [f"| {title}, {kind} | masks | {' | '.join(shown)} |", "|---" * (len(shown) + 2) + "|"]
    for value in order:
        chosen = np.array([key == value for key in keys])
        if chosen.any():
            means = " | ".join(f"{dice[kind][chosen].mean():.3f}" for dice in shown.values())
            lines.append(f"| {value} | {int(chosen.sum())} | {means} |")
    return [*lines, ""]


def pictures(folder: Path, rows: Sequence[Row]) -> list[str]:
    """Draw the masks that the module's text names, and return a table of what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row in rows if row.source in CC_BY]
    prompts = [row.prompts[PROMPTS.index(OFF)] for row in rows]
    segmenter = medground.build("segmenter", "mini_sam")
    masks = [segmenter.segment(row.image, [prompt])[0].data for row, prompt in zip(rows, prompts, strict=True)]
    dice = [float(mask_dice(mask, row.mask)) for mask, row in zip(masks, rows, strict=True)]
    ground = measure(rows, floors)[OFF]
    chosen = []
    for name in CC_BY:
        own = [index for index, row in enumerate(rows) if row.source == name]
        if own:
            chosen.append(("median of its set", sorted(own, key=lambda index: dice[index])[len(own) // 2]))
    order = sorted(range(len(rows)), key=lambda index: dice[index] - ground[index])
    chosen += [("largest gain", order[-1]), ("largest loss", order[0])]
    lines = ["| picture | mask | chosen as | ellipse | mini_sam |", "|---|---|---|---|---|"]
    for number, (why, index) in enumerate(chosen, 1):
        row, name = rows[index], f"real_{number}_{rows[index].source}.jpg"
        drawn = draw(row.image, box=prompts[index].box, mask=masks[index], target_mask=row.mask, legend=False)
        drawn.thumbnail((384, 384))
        drawn.save(folder / name, quality=85)
        lines.append(f"| {name} | {row.name} | {why} | {ground[index]:.3f} | {dice[index]:.3f} |")
    return [f"Of {len(rows)} masks:", "", *lines, ""]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--rows", type=int, default=40, help="most rows a data set")
    parser.add_argument("--slow", type=int, default=6, help=f"most rows a data set for {SLOW}; 0 leaves it out")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pictures", type=Path, help="draw pictures, and nothing else")
    chosen = parser.parse_args(arguments)
    rows = read_rows(chosen.folders, chosen.rows)
    if chosen.pictures:
        print("\n".join(pictures(chosen.pictures, rows)))
        return
    dices = {FLOOR: measure(rows, floors)}
    dices |= {name: measure(rows, by_component(medground.build("segmenter", name))) for name in EXPERTS}
    lines = [f"# Segmenters on real images, {date.today()}", "", *overall(rows, dices)]
    if chosen.slow:
        few = read_rows(chosen.folders, chosen.slow)
        lines += overall(
            few, {FLOOR: measure(few, floors), SLOW: measure(few, by_component(medground.build("segmenter", SLOW)))}
        )
    for kind in PROMPTS:
        modalities = [row.modality for row in rows]
        lines += by("modality", modalities, sorted(set(modalities)), dices, kind)
        lines += by("target covers", [size_of(row) for row in rows], [name for _, name in SIZES], dices, kind)
    print("\n".join(lines))
    if chosen.out:
        chosen.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
