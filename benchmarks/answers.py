"""Train a tiny model to answer nothing, one thing or two, and compare it with models that cannot.

    python benchmarks/answers.py train DIR --seed 0      # resumes what is there
    python benchmarks/answers.py table DIR               # of all seeds in DIR, as markdown

All models start from the one that ships as `toy_vlm`, which answers with one box, and learn by SFT from phantoms of 64 px of
the family `maybe`, whose pictures hold a bright spot or none and a dark one or none. A question asks for everything bright,
everything dark, or everything of either tone: its target is nothing, one spot or two. Seed S draws pictures and order of its
own; all are measured on the same held-out pictures, with greedy answers.

- `negatives` and `present` write a list of boxes. `present` sees the questions whose target is there. `negatives` sees the
  same, as many in a step and as many steps, and besides them questions whose target is absent.
- `several` is `negatives` after more SFT on questions of all three kinds, of new pictures, of which two in five mean two spots.
- `one_box` writes one box, and learns from the largest spot of the same questions as `present`. The F1 of the best possible
  box alone is reported, too: with two targets it is 2/3.
- `rewards` is `several` after GRPO on the F1 of its answers.

The answers of `several` are also drawn K times, which gives each a confidence: `benchmarks/selective.py --answers
DIR/seed-0/several/sampled` tests thresholds on it.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from medground_toy.phantoms import samples, traced, write

import medground
from medground.evaluation.results_file import SAMPLES, SampleRecord, read_records
from medground.evaluation.statistics import Estimate, estimate
from medground.runs.folder import read_events
from medground.types import Region, Sample, Target

HELD_SEED = 515151
"""The seed of the held-out pictures, for every seed of training."""
LIST = {"name": "regions", "points": False, "instructions": False}
ONE = {"name": "bbox", "instructions": False}
LONGEST = 64
"""Tokens of an answer: two boxes take 36."""
BATCH = 16
"""Questions in a step whose target is there; `negatives` sees others besides."""
ACCURACY, LOSS, F1 = 0.9, 0.02, 0.8
"""The aims: no-target accuracy, the most that negatives may cost in IoU, instance F1."""


PICTURES = {"families": ["maybe"], "size": (64, 64)}
EITHER = (
    "Where is every patch that does not belong there?",
    "Which patches, if any, need a biopsy?",
    "What findings would you report, however many?",
)
"""Questions about both tones."""
ARMS = {"negatives": LIST, "present": LIST, "several": LIST, "one_box": ONE}
"""Model -> its prompt interface."""


def asked(pictures: int, seed: int) -> list[Sample]:
    """Return the questions about so many pictures: about bright, dark, and either."""
    drawn, found = samples(2 * pictures, seed, **PICTURES), []
    for index, (bright, dark) in enumerate(zip(drawn[::2], drawn[1::2], strict=True)):
        regions = sorted((*bright.target.regions, *dark.target.regions), key=_first_pixel)
        labels = {**bright.labels, "category": "nodule", "targets": ("none", "one", "several")[len(regions)]}
        query = replace(bright.query, question=EITHER[index % len(EITHER)], id=f"{bright.query.id[:-1]}2")
        both = Sample(query=query, target=Target(regions=tuple(regions)), labels=labels)
        found += [bright, dark, both]
    return found


def _first_pixel(region: Region) -> int:
    return int(region.mask.data.argmax()) if region.mask else 0


def largest(sample: Sample) -> Sample:
    """Return the sample with the largest of its regions alone as its target."""
    region = max(sample.target.regions, key=lambda one: one.mask.data.sum() if one.mask else 0)
    return replace(sample, target=replace(sample.target, regions=(region,)))


def with_share(drawn: Sequence[Sample], share: float, counts: Sequence[int]) -> list[Sample]:
    """Return every sample with so many targets, and of the others the first that make `share` of all, in the same order."""
    wanted = [len(sample.target.regions) in counts for sample in drawn]
    left = round(sum(wanted) * share / (1 - share))
    chosen = []
    for sample, inside in zip(drawn, wanted, strict=True):
        left -= not inside
        if inside or left >= 0:
            chosen.append(sample)
    return chosen


def draw(folder: Path, seed: int, pictures: int, share: float, held: int) -> None:
    """Write the questions to learn from, with reasoning traces, and the held-out ones."""
    if (folder / "held" / "manifest.jsonl").exists():
        return
    chosen = with_share(asked(pictures, 1000 + seed), share, (1, 2))
    there = [sample for sample in chosen if sample.target.regions]
    lessons = {"present": there, "negatives": chosen, "one_box": [largest(sample) for sample in there]}
    lessons["several"] = with_share(asked(3 * pictures, 2000 + seed), 0.6, (2,))
    for name, drawn in lessons.items():
        write(folder / name / "data", map(traced, drawn))
    write(folder / "held", asked(held, HELD_SEED))


def weights(run: Path) -> Path:
    """Return the newest weights of a run."""
    return max((run / "checkpoints").glob("step-*")) / "model"


def learn(folder: Path, name: str, chosen: argparse.Namespace) -> None:
    """Train a model, as far as it is not trained yet."""
    batch = round(BATCH / (1 - chosen.share)) if name == "negatives" else BATCH
    steps = {"one_box": chosen.one_box_steps, "several": chosen.more_steps}.get(name, chosen.steps)
    start = weights(folder / "negatives" / "run") if name == "several" else "null"
    medground.train(
        "train/toy_sft", f"reasoner.checkpoint={start}", f"data.path={folder / name / 'data'}", f"seed={chosen.seed}",
        f"sft.train_batch_size={batch}", f"sft.micro_batch_size={batch}", f"sft.max_steps={steps}", "sft.save_every=100",
        f"sft.learning_rate={chosen.rate}", out=folder / name / "run", resume=True, prompt_interface=dict(ARMS[name]),
    )  # fmt: skip


def learn_from_rewards(folder: Path, steps: int, seed: int) -> None:
    """Train `several` further by GRPO, without traces or target text."""
    medground.train(
        "train/regions_toy", f"reasoner.checkpoint={weights(folder / 'several' / 'run')}",
        f"data.path={folder / 'several' / 'data'}", f"grpo.max_steps={steps}", "grpo.learning_rate=1e-4",
        f"grpo.max_completion_length={LONGEST}", f"sampling.max_completion_length={LONGEST}", "grpo.train_batch_size=16",
        "grpo.mini_batch_size=16", "grpo.num_generations=8", f"seed={seed}", out=folder / "rewards" / "run", resume=True,
    )  # fmt: skip


def measure(folder: Path, name: str, *overrides: str, out: str = "answers") -> None:
    """Answer the held-out questions with a trained model and write the evaluation, as far as it is not written yet."""
    settings = ("segmenter=null", f"sampling.max_completion_length={LONGEST}", "evaluate.batch_size=32")
    medground.evaluate(
        "infer/toy_vlm", f"reasoner.checkpoint={weights(folder / name / 'run')}", f"data.path={folder / 'held'}",
        *settings, *overrides, out=folder / name / out, resume=True, conditions=["answer"],
        prompt_interface=dict(ARMS.get(name, LIST)),
    )  # fmt: skip


def train(chosen: argparse.Namespace) -> None:
    """Draw, train and measure the models of one seed."""
    folder = chosen.folder / f"seed-{chosen.seed}"
    draw(folder, chosen.seed, chosen.pictures, chosen.share, chosen.held)
    for name in chosen.models:
        begun = time.process_time()
        if name in ARMS:
            learn(folder, name, chosen)
            measure(folder, name)
        elif name == "rewards":
            learn_from_rewards(folder, chosen.grpo, chosen.seed)
            measure(folder, name)
        else:
            draws = (f"evaluate.samples={chosen.draws}", "sampling.temperature=1")
            measure(folder, "several", *draws, out="sampled")
        print(f"seed {chosen.seed}, {name}: {time.process_time() - begun:.0f} CPU-s", flush=True)


def answered(folder: Path) -> list[SampleRecord]:
    """Return the records of an evaluation; none where there is none."""
    return list(read_records(folder / SAMPLES)) if (folder / SAMPLES).exists() else []


def mean(records: Sequence[SampleRecord], metric: str, *, minus: Sequence[SampleRecord] = ()) -> Estimate:
    """Return the mean of a metric over the samples that have it, with its interval by picture.

    Args:
        records: of an evaluation.
        metric: its name.
        minus: of another evaluation of the same samples: the mean is that of the paired difference then.
    """
    others = {record.id: record.answers[0].values.get(metric) for record in minus}
    numbers, clusters = [], []
    for record in records:
        value, other = record.answers[0].values.get(metric), others.get(record.id, 0.0)
        if value is not None and other is not None:
            numbers.append(value - other)
            clusters.append(record.cluster)
    [found] = estimate(np.array(numbers)[:, None], clusters)
    assert found is not None, "an evaluation of one picture or more"
    return found


def of_count(records: Sequence[SampleRecord], *counts: int) -> list[SampleRecord]:
    """Return the records about so many targets."""
    return [record for record in records if len(record.target.regions) in counts]


def shown(found: Estimate, sign: str = "") -> str:
    """Return a mean with its interval."""
    if found.low is None or found.high is None:
        return f"{found.mean:{sign}.3f}"
    return f"{found.mean:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"


def table(folder: Path) -> str:
    """Return the tables of all seeds, as far as they are measured."""
    seeds = sorted(folder.glob("seed-*"), key=lambda path: int(path.name[5:]))
    return "\n".join([*absence(seeds), "", *two_targets(seeds), "", *after_rewards(seeds), "", *confidence(seeds)])


def absence(seeds: Sequence[Path]) -> list[str]:
    """Return the table of `negatives` against `present`."""
    lines = [
        "| seed | n absent, present | no-target accuracy | IoU where present | the same without negatives | difference "
        "| missed | aims |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        f"| aim | | {ACCURACY} | | | {-LOSS} or more | | |",
    ]
    for seed in seeds:
        ours, theirs = answered(seed / "negatives" / "answers"), answered(seed / "present" / "answers")
        if ours and theirs:
            accuracy, change = mean(ours, "no_target_accuracy"), mean(ours, "matched_iou", minus=theirs)
            reached = accuracy.mean >= ACCURACY and change.mean >= -LOSS
            cells = [
                shown(accuracy),
                *(shown(mean(each, "matched_iou")) for each in (ours, theirs)),
                shown(change, "+"),
            ]
            cells += [shown(mean(ours, "target_miss")), "reached" if reached else "not reached"]
            lines.append(f"| {seed.name[5:]} | {accuracy.n}, {change.n} | {' | '.join(cells)} |")
    return lines


def two_targets(seeds: Sequence[Path]) -> list[str]:
    """Return the table of `several` against `one_box`, and against the best box alone, on questions about two spots."""
    lines = [
        "| seed | n | instance F1, two targets | one-box model | difference | best box alone | F1 at IoU .25 | F1, one or two "
        "| count error | no-target accuracy | aims |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        f"| aim | | {F1} | | above 0 | | | | | | |",
    ]
    for seed in seeds:
        every = answered(seed / "several" / "answers")
        ours, theirs = of_count(every, 2), of_count(answered(seed / "one_box" / "answers"), 2)
        if ours:
            score, rival, change = mean(ours, "instance_f1_50"), "not trained", ""
            if theirs:
                rival = shown(mean(theirs, "instance_f1_50"))
                change = shown(mean(ours, "instance_f1_50", minus=theirs), "+")
            cells = [shown(score), rival, change, f"{2 / 3:.3f}"]
            cells += [shown(mean(ours, "instance_f1_25")), shown(mean(of_count(every, 1, 2), "instance_f1_50"))]
            reached = score.mean >= F1  # above the best box alone, and so above every model of one box
            cells += [shown(mean(ours, "count_error")), shown(mean(every, "no_target_accuracy"))]
            cells += ["reached" if reached else "not reached"]
            lines.append(f"| {seed.name[5:]} | {score.n} | {' | '.join(cells)} |")
    return lines


def after_rewards(seeds: Sequence[Path]) -> list[str]:
    """Return the table of `rewards` against `several`; the F1 is that of all questions, absent targets included."""
    lines = ["| seed | steps of GRPO | F1, all questions | gain | gain, IoU | no-target accuracy |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for seed in seeds:
        ours, before = (answered(seed / name / "answers") for name in ("rewards", "several"))
        if ours and before:
            cells = [str(len(read_events(seed / "rewards" / "run"))), shown(mean(ours, "instance_f1_50"))]
            cells += [shown(mean(ours, metric, minus=before), "+") for metric in ("instance_f1_50", "matched_iou")]
            lines.append(f"| {seed.name[5:]} | {' | '.join([*cells, shown(mean(ours, 'no_target_accuracy'))])} |")
    return lines


def confidence(seeds: Sequence[Path]) -> list[str]:
    """Return the table of what the agreement of K answers is worth."""
    lines = [
        "| seed | n | right | AUROC | AURC | ECE | threshold | given, of the others | wrong among the given |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for seed in seeds:
        metrics = seed / "several" / "sampled" / "metrics.json"
        found = json.loads(metrics.read_text(encoding="utf-8")).get("confidence") if metrics.exists() else None
        if found is not None:
            numbers = [
                f"{found['right']:.3f}",
                _summary(found["auroc"]),
                f"{found['aurc']:.3f}",
                f"{found['error']:.3f}",
            ]
            lines.append(f"| {seed.name[5:]} | {found['n']} | {' | '.join([*numbers, *_given(found['selective'])])} |")
    return lines


def _given(chosen: Mapping[str, Any]) -> list[str]:
    threshold = chosen["selection"]["threshold"]
    if threshold is None:
        return ["none passes", "0", ""]
    return [f"{threshold:.3f}", _summary(chosen["given"]), "" if chosen["wrong"] is None else _summary(chosen["wrong"])]


def _summary(row: Mapping[str, Any]) -> str:
    if row["mean"] is None:
        return "undefined"
    return shown(Estimate(**{name: row[name] for name in ("mean", "low", "high", "n", "clusters")}))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="draw, train and measure one seed")
    training.add_argument("folder", type=Path)
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--models", nargs="+", choices=[*ARMS, "sampled", "rewards"], default=[*ARMS, "sampled"])
    training.add_argument("--pictures", type=int, default=1000, help="to learn from, with three questions each")
    training.add_argument(
        "--share", type=float, default=0.2, help="of absent targets, among the questions of `negatives`"
    )
    training.add_argument("--held", type=int, default=250, help="held-out pictures, with three questions each")
    training.add_argument("--steps", type=int, default=700, help="of SFT, of `negatives` and `present`")
    training.add_argument("--more-steps", type=int, default=400, help="of SFT, of `several`")
    training.add_argument("--one-box-steps", type=int, default=100, help="of SFT")
    training.add_argument("--rate", type=float, default=8e-4, help="peak learning rate of SFT")
    training.add_argument("--draws", type=int, default=5, help="K, answers to each question for its confidence")
    training.add_argument("--grpo", type=int, default=20, help="steps of GRPO, of `rewards`")
    tables = commands.add_parser("table", help="print the tables")
    tables.add_argument("folder", type=Path)
    chosen = parser.parse_args(arguments)
    if chosen.command == "train":
        train(chosen)
    else:
        print(table(chosen.folder))


if __name__ == "__main__":
    main()
