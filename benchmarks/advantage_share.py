"""Does the reward card know before training which term will decide the advantage?

    OMP_NUM_THREADS=1 python benchmarks/advantage_share.py --out benchmarks/advantage_share_cpu_DATE.md    # ten minutes
    OMP_NUM_THREADS=1 python benchmarks/advantage_share.py --steps 30

20 rubrics, of seeds 0 to 19: four to six of the shipped terms that apply to an answer of one box and its mask, with weights
log-uniform in [0.5, 2]. For each, the prediction is what ``medground reward audit RECIPE --sample 16`` says of completions
that the shipped tiny reasoner draws before training. Then that reasoner is trained with the rubric, and the term with the
largest share of the variance of the advantages over all training completions is measured. Beside it stand two rules that
look at no completion: the largest weight, and the largest weight x range. Nothing is chosen by the results: rubrics, steps
and sizes are constants of this file.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from medground_toy import phantoms
from scipy.stats import binomtest

from medground.recipe import resolve
from medground.registry import build
from medground.runs.folder import read_events
from medground.training.grpo.prediction import sampled_shares, saved_shares
from medground.training.run import train

SEEDS = range(20)
POOL = (
    "format_think", "format_seg", "abstention", "confidence", "bbox_iou", "bbox_align", "bbox_scale", "bbox_area_valid",
    "bbox_position_valid", "regions_f1", "mask_dice", "mask_iou", "boundary", "regions_mask_f1",
)  # fmt: skip
STEPS, QUESTIONS = 12, 16
SIZES = ("grpo.train_batch_size=8", "grpo.mini_batch_size=8", "grpo.num_generations=8")
NONE = {"format_think": None, "format_seg": None, "bbox_iou": None, "mask_dice": None}
"""The terms of train/toy."""


class Trial(NamedTuple):
    """One rubric: which term is first, by each rule and as measured."""

    weights: dict[str, float]
    card: str | None
    share: float
    """That the card predicts for its first term."""
    weight: str
    reach: str
    """By weight x range."""
    measured: str | None
    measured_share: float
    late: str | None
    """As measured after the first half of the steps."""
    rise: float
    """Of the mean reward, from the first quarter of the steps to the last."""


def rubric_of(seed: int) -> dict[str, float]:
    """Return the terms and weights of a seed."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(POOL, rng.integers(4, 7), replace=False)
    return {
        str(label): float(weight)
        for label, weight in zip(labels, np.exp(rng.uniform(-1, 1, len(labels)) * math.log(2)), strict=True)
    }


def reach(label: str, weight: float) -> float:
    """Return how far a term can move the reward."""
    low, high = build("reward", label).range
    return weight * float(high - low)


def trial(seed: int, steps: int, data: Path, folder: Path) -> Trial:
    """Predict, train and measure with one rubric."""
    weights = rubric_of(seed)
    settings = (f"data.path={data}", f"seed={seed}", f"grpo.max_steps={steps}", *SIZES)
    recipe = resolve("train/toy", *settings, values={"rewards": NONE | weights})
    predicted = sampled_shares(recipe, QUESTIONS)
    train(recipe, out=folder)
    measured, late = saved_shares(recipe, folder), saved_shares(recipe, folder, after=steps // 2)
    rewards = [event["reward"] for event in read_events(folder)]
    quarter = max(1, steps // 4)
    return Trial(
        weights,
        predicted.first,
        max(predicted.shares.values()),
        max(weights, key=lambda label: weights[label]),
        max(weights, key=lambda label: reach(label, weights[label])),
        measured.first,
        max(measured.shares.values()),
        late.first,
        float(np.mean(rewards[-quarter:]) - np.mean(rewards[:quarter])),
    )


def report(trials: list[Trial], steps: int, seconds: float) -> str:
    """Return the result file."""
    count = len(trials)
    rules = {
        "reward card": [one.card == one.measured for one in trials],
        "largest weight": [one.weight == one.measured for one in trials],
        "largest weight x range": [one.reach == one.measured for one in trials],
        "reward card, against the later half of the steps": [one.card == one.late for one in trials],
    }
    lines = ["# Which term decides the advantage, predicted before training", ""]
    lines += [
        f"`python benchmarks/advantage_share.py --steps {steps}`: {count} rubrics (seeds {SEEDS[0]} to {SEEDS[count - 1]}), "
        f"{QUESTIONS} questions x 8 completions for a prediction, {steps} steps of 8 x 8 completions to measure; "
        f"{seconds / 60:.0f} minutes.",
        "",
        "| rule | hits | share, 95 % interval (Wilson) |",
        "|---|---|---|",
    ]
    for rule, hits in rules.items():
        low, high = binomtest(sum(hits), count).proportion_ci(method="wilson")
        lines.append(f"| {rule} | {sum(hits)} of {count} | {sum(hits) / count:.2f} [{low:.2f}, {high:.2f}] |")
    rises = [one.rise for one in trials]
    lines += [
        "",
        f"The mean reward rose in {sum(rise > 0 for rise in rises)} runs, by {np.median(rises):.3f} in the median.",
    ]
    lines += ["", "| seed | terms x weights | card | measured | later | largest weight | weight x range | rise |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for seed, one in zip(SEEDS, trials, strict=False):
        terms = ", ".join(f"{label} {weight:.2f}" for label, weight in one.weights.items())
        lines.append(
            f"| {seed} | {terms} | {one.card} ({one.share:.2f}) | {one.measured} ({one.measured_share:.2f}) | {one.late} "
            f"| {one.weight} | {one.reach} | {one.rise:.3f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all trials; print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rubrics", type=int, default=len(SEEDS), help="only the first so many")
    parser.add_argument("--steps", type=int, default=STEPS, help="of training")
    arguments = parser.parse_args()
    started, trials = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "drawn"
        phantoms.write(data, phantoms.samples(64, seed=0, size=(64, 64), families=("plain",), convention="core"))
        for seed in SEEDS[: arguments.rubrics]:
            trials.append(trial(seed, arguments.steps, data, Path(scratch) / f"run-{seed}"))
            print(seed, trials[-1], flush=True)
    text = report(trials, arguments.steps, time.perf_counter() - started)
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
