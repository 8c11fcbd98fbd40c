"""Train a tiny model to choose among proposed candidates by rewards alone, and compare it with the best candidate there is.

    python benchmarks/choose.py warm DIR                # once
    python benchmarks/choose.py train DIR --seed 0      # resumes what is there
    python benchmarks/choose.py table DIR               # of all seeds in DIR, as markdown

Phantoms of 64 px of the family `maybe`: a bright spot or none, a dark spot or none, and a question about all of one tone, in
the same words whether there is one. The segmenter `region_growing`, prompted with a grid of points, proposes up to two
candidates of each picture. `warmed` is the model that ships as `toy_vlm`, which answers with boxes, after SFT on ideal
choices. Seed S is `warmed` after GRPO on the Dice of the chosen candidate, and on abstention where the target is absent
(recipe train/choose_toy); it draws pictures and order of its own, half of the pictures with both spots. All are measured on the
same held-out pictures, drawn as they come, with greedy answers. Beside them stand choosers that never look: one answer to
every question, all answers with equal chance, and to each wording the answer that does best for it on the held-out questions
themselves, which is the most that text alone can reach.

The ceiling is `candidate_dice`, the Dice of each picture's best candidate; where there is no target, 1. The aim is a mean Dice
of 0.9 of it, on the questions that have a target and on all of them, where the Dice of a rightly absent target is 1.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from medground_toy.phantoms import samples, write
from numpy.typing import NDArray

import medground
from medground.evaluation.results_file import SAMPLES, SampleRecord, read_records
from medground.evaluation.statistics import Estimate, estimate
from medground.pipeline.cache import StageCache
from medground.types import Sample

WARM_SEED = 9
"""The seed of the pictures of `warmed`; no other seed of training is it."""
AIM = 0.9
"""Of the ceiling."""
SIZE = (64, 64)
"""Of a picture, px."""
CHOOSES = (
    "prompt_interface={name: choose, think: false, instructions: false, least: 64}",
    "proposer=grid", "segmenter=region_growing",
)  # fmt: skip
CHOICE = (*CHOOSES, "proposals={k: 2, side: 5, overlap: 0.3, least_score: 0.15}")
"""As in the recipe train/choose_toy."""
ROUGH = (*CHOOSES, "proposals={k: 2, side: 4, overlap: 0.3}")
"""How `warmed` learns: where a spot is missing a part of the background is a candidate, and some spots are not found."""
FIXED = {"always 1": "1", "always 2": "2", "none": "null"}
"""Answers that never look."""


def draw(folder: Path, drawn: Sequence[Sample]) -> None:
    """Write questions where there are none yet."""
    if not (folder / "manifest.jsonl").exists():
        write(folder, drawn)


def questions(seed: int, pictures: int) -> list[Sample]:
    """Return questions of the family, two for each picture."""
    return samples(2 * pictures, seed, families=["maybe"], size=SIZE)


def balanced(seed: int, pictures: int) -> list[Sample]:
    """Return such questions of which half are about pictures with both spots, as a quarter are by chance.

    Where one spot is missing, 1 is the number of the other; only with both is an answer that is always 1 wrong.
    """
    drawn = questions(seed, 4 * pictures)
    pairs = list(zip(drawn[::2], drawn[1::2], strict=True))
    both = [pair for pair in pairs if all(sample.target.regions for sample in pair)][: pictures // 2]
    others = [pair for pair in pairs if not all(sample.target.regions for sample in pair)][: pictures - len(both)]
    return [sample for pair in [*both, *others] for sample in pair]


def weights(run: Path) -> Path:
    """Return the newest weights of a run."""
    return max((run / "checkpoints").glob("step-*")) / "model"


def warm(chosen: argparse.Namespace) -> None:
    """Train and measure the model that all seeds start from, and measure the answers that never change."""
    folder = chosen.folder / "warmed"
    draw(folder / "data", questions(3000 + WARM_SEED, chosen.pictures))
    medground.train(
        "train/toy_sft", "reasoner.checkpoint=null", f"data.path={folder / 'data'}", f"seed={WARM_SEED}", *ROUGH,
        f"sft.max_steps={chosen.steps}", f"sft.learning_rate={chosen.rate}", "sft.save_every=100", out=folder / "run",
        resume=True,
    )  # fmt: skip
    measure(folder, chosen)
    for name, text in FIXED.items():
        script = json.dumps(f'<answer>{{"choice": {text}}}</answer>')
        answer(chosen.folder / name, chosen, f"reasoner={{name: scripted, texts: [{script}]}}")


def train(chosen: argparse.Namespace) -> None:
    """Train and measure the model of one seed."""
    folder = chosen.folder / f"seed-{chosen.seed}"
    draw(folder / "data", balanced(3000 + chosen.seed, chosen.pictures))
    medground.train(
        "train/choose_toy", f"reasoner={{name: toy_vlm, checkpoint: {weights(chosen.folder / 'warmed' / 'run')}}}",
        f"data.path={folder / 'data'}", f"seed={chosen.seed}", f"grpo.max_steps={chosen.steps}", "grpo.num_generations=8",
        f"grpo.learning_rate={chosen.rate}", f"grpo.temperature={chosen.temperature}", "grpo.save_every=50",
        out=folder / "run", resume=True,
    )  # fmt: skip
    measure(folder, chosen)


def measure(folder: Path, chosen: argparse.Namespace) -> None:
    """Answer the held-out questions with a trained model."""
    answer(folder, chosen, f"reasoner.checkpoint={weights(folder / 'run')}")
    print(f"{folder.name}: {time.process_time():.0f} CPU-s", flush=True)


def answer(folder: Path, chosen: argparse.Namespace, reasoner: str) -> None:
    """Answer the held-out questions and write the evaluation, as far as it is not written yet.

    What is proposed of the held-out pictures is kept beside them.
    """
    held = folder.parent / "held"
    draw(held, questions(chosen.held_seed, chosen.held))
    medground.evaluate(
        "infer/toy_vlm", reasoner, f"data.path={held}", *CHOICE, "sampling.max_completion_length=24",
        "evaluate.batch_size=32", out=folder / "answers", resume=True, conditions=["answer"],
        store=StageCache(folder.parent / "kept"),
    )  # fmt: skip


def answered(folder: Path) -> list[SampleRecord]:
    """Return the records of an evaluation; none where there is none."""
    return list(read_records(folder / SAMPLES)) if (folder / SAMPLES).exists() else []


def values(records: Sequence[SampleRecord], metric: str) -> NDArray[np.float64]:
    """Return a metric of every sample; NaN where it has none."""
    return np.array([record.answers[0].values.get(metric, np.nan) for record in records])


def mean(numbers: NDArray[np.float64], records: Sequence[SampleRecord]) -> Estimate:
    """Return the mean of the numbers there are, with its interval by picture."""
    there = np.isfinite(numbers)
    clusters = [record.cluster for record, yes in zip(records, there, strict=True) if yes]
    [result] = estimate(numbers[there, None], clusters)
    assert result is not None, "an evaluation of one picture or more"
    return result


def shown(number: Estimate) -> str:
    """Return a mean with its interval."""
    if number.low is None or number.high is None:
        return f"{number.mean:.3f}"
    return f"{number.mean:.3f} ({number.low:.3f} to {number.high:.3f})"


def by_text(records: Sequence[SampleRecord], options: Sequence[NDArray[np.float64]]) -> NDArray[np.intp]:
    """Return for every sample the number of the option with the highest mean over the samples with its question."""
    texts = np.array([record.question for record in records])
    means = np.array([[option[texts == text].mean() for option in options] for text in texts])
    best: NDArray[np.intp] = means.argmax(axis=1)
    return best


def row(name: str, records: Sequence[SampleRecord], dice: NDArray[np.float64], *, trained: bool) -> str:
    """Return a line of the table for the Dice of every sample, 1 where a target is rightly absent."""
    ceiling = values(records, "candidate_dice")
    absent = np.isnan(ceiling)
    present = np.where(absent, np.nan, dice)
    share = np.nanmean(present) / np.nanmean(ceiling)
    of_all = dice.mean() / np.where(absent, 1.0, ceiling).mean()
    cells = [name, shown(mean(present, records)), f"{share:.3f}"]
    cells += [shown(mean(values(records, "selection_accuracy"), records)) if trained else ""]
    cells += [shown(mean(np.where(absent, dice, np.nan), records)), f"{of_all:.3f}"]
    return f"| {' | '.join([*cells, 'reached' if min(share, of_all) >= AIM else 'not reached'])} |"


def table(folder: Path) -> str:
    """Return the table of all models, as far as they are measured."""
    lines = [
        "| model | Dice, target present | share of the ceiling | selection accuracy | no-target accuracy "
        "| share of the ceiling, all questions | aim |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    fixed = {name: answered(folder / name / "answers") for name in FIXED}
    options = [values(records, "union_dice") for records in fixed.values()]
    records = fixed["none"]
    lines += [row(name, records, option, trained=False) for name, option in zip(FIXED, options, strict=True)]
    lines.append(row("any, with equal chance", records, np.mean(options, axis=0), trained=False))
    best = by_text(records, options)
    text = np.choose(best, options)
    lines.append(row("the best for each wording", records, text, trained=False))
    seeds = sorted(folder.glob("seed-*"), key=lambda path: int(path.name[5:]))
    for trained in [folder / "warmed", *seeds]:
        if own := answered(trained / "answers"):
            lines.append(row(trained.name, own, values(own, "union_dice"), trained=True))
    ceiling, recall = (mean(values(records, key), records) for key in ("candidate_dice", "candidate_recall"))
    counts = f"{ceiling.n} questions with a target, {len(records) - ceiling.n} without"
    return "\n".join([*lines, "", f"{counts}; ceiling {shown(ceiling)}, candidate recall {shown(recall)}."])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    warming = commands.add_parser("warm", help="train and measure the model that all seeds start from")
    training = commands.add_parser("train", help="train and measure one seed")
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--temperature", type=float, default=1.2, help="at which GRPO draws answers")
    for command, pictures, steps, rate in ((warming, 600, 700, 1e-3), (training, 200, 300, 3e-4)):
        command.add_argument("folder", type=Path)
        command.add_argument("--pictures", type=int, default=pictures, help="to learn from, with two questions each")
        command.add_argument("--held", type=int, default=100, help="held-out pictures, with two questions each")
        command.add_argument("--held-seed", type=int, default=20261201, help="of the held-out pictures")
        command.add_argument("--steps", type=int, default=steps)
        command.add_argument("--rate", type=float, default=rate, help="peak learning rate")
    tables = commands.add_parser("table", help="print the table")
    tables.add_argument("folder", type=Path)
    chosen = parser.parse_args(arguments)
    if chosen.command == "table":
        print(table(chosen.folder))
    else:
        {"warm": warm, "train": train}[chosen.command](chosen)


if __name__ == "__main__":
    main()
