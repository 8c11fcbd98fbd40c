"""Train a tiny model to answer nothing, one thing or several, and compare it with models that cannot.

    python benchmarks/answers.py train DIR --seed 0      # resumes what is there
    python benchmarks/answers.py table DIR               # of all seeds in DIR, as markdown

All models start from the one that ships as `toy_vlm`, which answers with one box, and learn by SFT from phantoms of 64 px.
Seed S draws pictures and order of its own; all are measured on the same held-out pictures, with greedy answers.

- `negatives` and `present` learn from the family `maybe`, whose questions ask for one spot or none. `present` sees those
  whose target is there, and `negatives` the same and some whose target is absent. Steps and settings are the same.
- `several` and `one_box` learn from the family `several`, whose questions ask for one to four spots. `several` writes a list
  of boxes. `one_box` writes one box, and learns from the largest spot. The best possible box alone is reported, too.
- `rewards` is `several` after GRPO on the F1 of its answers, if --grpo is given.

The answers of `several` are also drawn K times, which gives each a confidence: `benchmarks/selective.py --answers
DIR/seed-0/sampled` tests thresholds on it.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from medground_toy.phantoms import samples, traced, write

import medground
from medground.data.open_dataset import open_dataset
from medground.evaluation.results_file import SAMPLES, SampleRecord, read_records
from medground.evaluation.statistics import Estimate, estimate
from medground.runs.folder import read_events
from medground.types import Sample

HELD_SEED = 424242
"""The seed of the held-out pictures, for every seed of training."""
LIST = {"name": "regions", "points": False, "instructions": False}
ONE = {"name": "bbox", "instructions": False}
LONGEST = 112
"""Tokens of an answer: four boxes take 72."""
AIMS = {"accuracy": 0.9, "loss": 0.02, "f1": 0.8}


@dataclass(frozen=True)
class Arm:
    """A model: what it learns from, how it answers, and what it is measured on."""

    data: str
    held: str
    prompt_interface: Mapping[str, Any]


ARMS = {
    "present": Arm("present", "maybe", LIST),
    "negatives": Arm("negatives", "maybe", LIST),
    "several": Arm("several", "several", LIST),
    "one_box": Arm("largest", "several", ONE),
}


def largest(sample: Sample) -> Sample:
    """Return the sample with the largest of its regions alone as its target."""
    region = max(sample.target.regions, key=lambda one: one.mask.data.sum() if one.mask else 0)
    return replace(sample, target=replace(sample.target, regions=(region,)))


def with_share(drawn: Sequence[Sample], share: float) -> list[Sample]:
    """Return every sample whose target is there, and of the others the first that make `share` of all, in the same order."""
    there = sum(bool(sample.target.regions) for sample in drawn)
    left = round(there * share / (1 - share))
    chosen = []
    for sample in drawn:
        left -= not sample.target.regions
        if sample.target.regions or left >= 0:
            chosen.append(sample)
    return chosen


def draw(folder: Path, seed: int, count: int, share: float, held: int) -> None:
    """Write the pictures to learn from, with reasoning traces, and the held-out ones."""
    if (folder / "held-several" / "manifest.jsonl").exists():
        return
    maybe, several = (samples(count, 1000 + seed, families=[name], size=(64, 64)) for name in ("maybe", "several"))
    chosen = with_share(maybe, share)
    lessons = {
        "present": [sample for sample in chosen if sample.target.regions],
        "negatives": chosen,
        "several": several,
        "largest": [largest(sample) for sample in several],
    }
    for name, drawn in lessons.items():
        write(folder / name, map(traced, drawn))
    for name in ("maybe", "several"):
        write(folder / f"held-{name}", samples(held, HELD_SEED, families=[name], size=(64, 64)))


def weights(run: Path) -> Path:
    """Return the newest weights of a run."""
    return max((run / "checkpoints").glob("step-*")) / "model"


def learn(folder: Path, name: str, arm: Arm, steps: int, rate: float, seed: int) -> None:
    """Train a model from the shipped one, as far as it is not trained yet."""
    settings = (f"sft.max_steps={steps}", "sft.save_every=200", f"sft.learning_rate={rate}", f"seed={seed}")
    medground.train(
        "train/toy_sft", "reasoner.checkpoint=null", f"data.path={folder / arm.data}", *settings,
        out=folder / name, resume=True, prompt_interface=dict(arm.prompt_interface),
    )  # fmt: skip


def learn_from_rewards(folder: Path, steps: int, seed: int) -> None:
    """Train `several` further by GRPO, without traces or target text."""
    medground.train(
        "train/regions_toy", f"reasoner.checkpoint={weights(folder / 'several')}", f"data.path={folder / 'several'}",
        f"grpo.max_steps={steps}", "grpo.learning_rate=1e-4", f"grpo.max_completion_length={LONGEST}",
        f"sampling.max_completion_length={LONGEST}", "grpo.train_batch_size=8", "grpo.mini_batch_size=8",
        "grpo.num_generations=8", f"seed={seed}", out=folder / "rewards", resume=True,
    )  # fmt: skip


def measure(folder: Path, name: str, arm: Arm, *overrides: str, out: str) -> None:
    """Answer the held-out questions with a trained model and write the evaluation, as far as it is not written yet."""
    settings = ("segmenter=null", f"sampling.max_completion_length={LONGEST}", "evaluate.batch_size=32")
    medground.evaluate(
        "infer/toy_vlm", f"reasoner.checkpoint={weights(folder / name)}", f"data.path={folder / f'held-{arm.held}'}",
        *settings, *overrides, out=folder / out, resume=True, conditions=["answer"],
        prompt_interface=dict(arm.prompt_interface),
    )  # fmt: skip


def train(chosen: argparse.Namespace) -> None:
    """Draw, train and measure all models of one seed."""
    folder = chosen.folder / f"seed-{chosen.seed}"
    draw(folder, chosen.seed, chosen.samples, chosen.share, chosen.held)
    for name, arm in ARMS.items():
        if chosen.arms and name not in chosen.arms:
            continue
        begun = time.process_time()
        learn(folder, name, arm, getattr(chosen, f"{arm.held}_steps"), chosen.rate, chosen.seed)
        measure(folder, name, arm, out=f"{name}-answers")
        print(f"seed {chosen.seed}, {name}: {time.process_time() - begun:.0f} CPU-s", flush=True)
    if chosen.arms and "several" not in chosen.arms:
        return
    sampled = (f"evaluate.samples={chosen.draws}", "sampling.temperature=1")
    measure(folder, "several", ARMS["several"], *sampled, out="sampled")
    if chosen.grpo:
        learn_from_rewards(folder, chosen.grpo, chosen.seed)
        measure(folder, "rewards", ARMS["several"], out="rewards-answers")


def values(folder: Path, metric: str) -> dict[str, tuple[str, float]]:
    """Return the picture and the value of a metric, by sample, where it has one."""
    found = {}
    for record in answered(folder):
        value = record.answers[0].values.get(metric)
        if value is not None:
            found[record.id] = (record.cluster, value)
    return found


def answered(folder: Path) -> list[SampleRecord]:
    """Return the records of an evaluation; none where there is none."""
    return list(read_records(folder / SAMPLES)) if (folder / SAMPLES).exists() else []


def mean(folder: Path, metric: str) -> Estimate:
    """Return the mean of a metric with its interval by picture."""
    rows = list(values(folder, metric).values())
    return _estimate([value for _, value in rows], [cluster for cluster, _ in rows])


def gain(folder: Path, other: Path, metric: str) -> Estimate:
    """Return the mean of the paired difference of a metric, the first minus the other, with its interval by picture."""
    ours, theirs = values(folder, metric), values(other, metric)
    rows = [(cluster, value - theirs[name][1]) for name, (cluster, value) in ours.items()]
    return _estimate([value for _, value in rows], [cluster for cluster, _ in rows])


def _estimate(numbers: Sequence[float], clusters: Sequence[str]) -> Estimate:
    [found] = estimate(np.array(numbers)[:, None], clusters)
    assert found is not None, "an evaluation of one picture or more"
    return found


def best_single_box(held: Path) -> float:
    """Return the mean instance F1 of one box that is right: 2 / (1 + the number of true regions)."""
    return float(np.mean([2 / (1 + len(sample.target.regions)) for sample in open_dataset(held)]))


def shown(found: Estimate, sign: str = "") -> str:
    """Return a mean with its interval."""
    if found.low is None or found.high is None:
        return f"{found.mean:{sign}.3f}"
    return f"{found.mean:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"


def table(folder: Path) -> str:
    """Return the tables of all seeds, as far as they are measured."""
    lines = [
        "| seed | no-target accuracy | IoU where present | the same without negatives | difference | missed | aims |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        f"| aim | {AIMS['accuracy']} | | | -{AIMS['loss']} or more | | |",
    ]
    seeds = sorted(folder.glob("seed-*"), key=lambda path: int(path.name[5:]))
    for seed in seeds:
        ours, theirs = seed / "negatives-answers", seed / "present-answers"
        if answered(ours) and answered(theirs):
            accuracy, change = mean(ours, "no_target_accuracy"), gain(ours, theirs, "matched_iou")
            right = accuracy.mean >= AIMS["accuracy"] and change.mean >= -AIMS["loss"]
            cells = [
                shown(accuracy),
                *(shown(mean(each, "matched_iou")) for each in (ours, theirs)),
                shown(change, "+"),
            ]
            cells += [shown(mean(ours, "target_miss")), "reached" if right else "missed"]
            lines.append(f"| {seed.name[5:]} (n {accuracy.n} + {change.n}) | {' | '.join(cells)} |")
    lines += [
        "",
        "| seed | instance F1 | one-box model | difference | best box alone | F1 at IoU .25 | count error | aims |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        f"| aim | {AIMS['f1']} | | above 0 | | | | |",
    ]
    for seed in seeds:
        ours, theirs = seed / "several-answers", seed / "one_box-answers"
        if answered(ours) and answered(theirs):
            score, change = mean(ours, "instance_f1_50"), gain(ours, theirs, "instance_f1_50")
            right = score.mean >= AIMS["f1"] and change.mean > 0
            cells = [shown(score), shown(mean(theirs, "instance_f1_50")), shown(change, "+")]
            cells += [f"{best_single_box(seed / 'held-several'):.3f}", shown(mean(ours, "instance_f1_25"))]
            cells += [shown(mean(ours, "count_error")), "reached" if right else "missed"]
            lines.append(f"| {seed.name[5:]} (n {score.n}) | {' | '.join(cells)} |")
    after = [seed for seed in seeds if answered(seed / "rewards-answers")]
    if after:
        lines += ["", "| seed | GRPO steps | instance F1 after GRPO | gain, paired |", "| --- | --- | --- | --- |"]
    for seed in after:
        ours, before, steps = seed / "rewards-answers", seed / "several-answers", len(read_events(seed / "rewards"))
        cells = [shown(mean(ours, "instance_f1_50")), shown(gain(ours, before, "instance_f1_50"), "+")]
        lines.append(f"| {seed.name[5:]} | {steps} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *confidence(seeds)])


def confidence(seeds: Sequence[Path]) -> list[str]:
    """Return the table of what the agreement of K answers is worth."""
    lines = [
        "| seed | right | AUROC | AURC | ECE | threshold | given, of the others | wrong among the given |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for seed in seeds:
        metrics = seed / "sampled" / "metrics.json"
        if metrics.exists():
            found = json.loads(metrics.read_text(encoding="utf-8"))["conditions"]["answer"]["confidence"]
            area, chosen = Estimate(**_interval(found["auroc"])), found["selective"]
            numbers = [f"{found['right']:.3f}", shown(area), f"{found['aurc']:.3f}", f"{found['error']:.3f}"]
            lines.append(f"| {seed.name[5:]} (n {found['n']}) | {' | '.join([*numbers, *_given(chosen)])} |")
    return lines


def _given(chosen: Mapping[str, Any]) -> list[str]:
    threshold = chosen["selection"]["threshold"]
    if threshold is None:
        return ["none passes", "0", ""]
    wrong = chosen["wrong"]
    answers = "" if wrong is None else shown(Estimate(**_interval(wrong)))
    return [f"{threshold:.3f}", shown(Estimate(**_interval(chosen["given"]))), answers]


def _interval(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {name: summary[name] for name in ("mean", "low", "high", "n", "clusters")}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="draw, train and measure one seed")
    training.add_argument("folder", type=Path)
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--arms", nargs="*", choices=list(ARMS), help="train only these")
    training.add_argument("--samples", type=int, default=3000, help="questions of each family to learn from")
    training.add_argument(
        "--share", type=float, default=0.25, help="of absent targets, among the questions of `negatives`"
    )
    training.add_argument("--held", type=int, default=256, help="held-out questions of each family")
    training.add_argument("--maybe-steps", type=int, default=400, help="of SFT, on `maybe`")
    training.add_argument("--several-steps", type=int, default=800, help="of SFT, on `several`")
    training.add_argument("--rate", type=float, default=8e-4, help="peak learning rate of SFT")
    training.add_argument("--draws", type=int, default=5, help="K, answers to each question for its confidence")
    training.add_argument("--grpo", type=int, default=0, help="steps of GRPO after SFT, on `several`")
    tables = commands.add_parser("table", help="print the tables")
    tables.add_argument("folder", type=Path)
    chosen = parser.parse_args(arguments)
    if chosen.command == "train":
        train(chosen)
    else:
        print(table(chosen.folder))


if __name__ == "__main__":
    main()
