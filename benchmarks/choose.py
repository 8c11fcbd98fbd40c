"""Train a tiny model to choose among proposed candidates by rewards alone, and compare it with the best candidate there is.

    python benchmarks/choose.py warm DIR                # once
    python benchmarks/choose.py train DIR --seed 0      # resumes what is there
    python benchmarks/choose.py table DIR               # of all seeds in DIR, as markdown

Phantoms of 64 px of the family `plain`: a bright spot and a dark one, on the left and on the right, and a question about
one of the two. Of the family `maybe` each spot may be missing, and a part of the background is then a candidate too. The
segmenter `region_growing`, prompted with a grid of points, proposes up to two candidates of each picture. `warmed` is the
model that ships as `toy_vlm`, which answers with boxes, after SFT on ideal choices. Seed S is `warmed` after GRPO on the
Dice of the chosen candidate, and on abstention where the target is absent (recipe train/choose_toy); it draws pictures and
order of its own. All are measured on the same held-out pictures, with greedy answers.

The ceiling is `candidate_dice`, the Dice of each picture's best candidate; the aim is a mean Dice of 0.9 of it.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from medground_toy.phantoms import samples, write

import medground
from medground.evaluation.results_file import SAMPLES, SampleRecord, read_records
from medground.evaluation.statistics import Estimate, estimate
from medground.pipeline.cache import StageCache

WARM_SEED = 9
"""The seed of the pictures of `warmed`; no other seed of training is it."""
AIM = 0.9
"""Of the ceiling."""
SIZE = (64, 64)
"""Of a picture, px."""
CHOICE = (
    "prompt_interface={name: choose, think: false, instructions: false, least: 64}",
    "proposer=grid", "segmenter=region_growing", "proposals={k: 2, side: 4, overlap: 0.3}",
)  # fmt: skip
"""As in the recipe train/choose_toy."""


def draw(folder: Path, seed: int, pictures: int, family: str) -> None:
    """Write questions, two for each picture."""
    if not (folder / "manifest.jsonl").exists():
        write(folder, samples(2 * pictures, seed, families=[family], size=SIZE))


def weights(run: Path) -> Path:
    """Return the newest weights of a run."""
    return max((run / "checkpoints").glob("step-*")) / "model"


def warm(chosen: argparse.Namespace) -> None:
    """Train and measure the model that all seeds start from."""
    folder = chosen.folder / "warmed"
    draw(folder / "data", 3000 + WARM_SEED, chosen.pictures, chosen.family)
    medground.train(
        "train/toy_sft", "reasoner.checkpoint=null", f"data.path={folder / 'data'}", f"seed={WARM_SEED}", *CHOICE,
        f"sft.max_steps={chosen.steps}", f"sft.learning_rate={chosen.rate}", "sft.save_every=100", out=folder / "run",
        resume=True,
    )  # fmt: skip
    measure(folder, chosen)


def train(chosen: argparse.Namespace) -> None:
    """Train and measure the model of one seed."""
    folder = chosen.folder / f"seed-{chosen.seed}"
    draw(folder / "data", 3000 + chosen.seed, chosen.pictures, chosen.family)
    medground.train(
        "train/choose_toy", f"reasoner={{name: toy_vlm, checkpoint: {weights(chosen.folder / 'warmed' / 'run')}}}",
        f"data.path={folder / 'data'}", f"seed={chosen.seed}", f"grpo.max_steps={chosen.steps}", "grpo.num_generations=8",
        f"grpo.learning_rate={chosen.rate}", f"grpo.temperature={chosen.temperature}", "grpo.save_every=50",
        out=folder / "run", resume=True,
    )  # fmt: skip
    measure(folder, chosen)


def measure(folder: Path, chosen: argparse.Namespace) -> None:
    """Answer the held-out questions with a trained model and write the evaluation, as far as it is not written yet.

    What is proposed of the held-out pictures is kept beside them.
    """
    held = folder.parent / "held"
    draw(held, chosen.held_seed, chosen.held, chosen.family)
    medground.evaluate(
        "infer/toy_vlm", f"reasoner.checkpoint={weights(folder / 'run')}", f"data.path={held}", *CHOICE,
        "sampling.max_completion_length=24", "evaluate.batch_size=32", out=folder / "answers", resume=True,
        conditions=["answer"], store=StageCache(folder.parent / "kept"),
    )  # fmt: skip
    print(f"{folder.name}: {time.process_time():.0f} CPU-s", flush=True)


def answered(folder: Path) -> list[SampleRecord]:
    """Return the records of an evaluation; none where there is none."""
    return list(read_records(folder / SAMPLES)) if (folder / SAMPLES).exists() else []


def mean(records: Sequence[SampleRecord], metric: str) -> Estimate:
    """Return the mean of a metric over the samples that have it, with its interval by picture."""
    rows = [(record.answers[0].values.get(metric), record.cluster) for record in records]
    numbers = [(value, cluster) for value, cluster in rows if value is not None]
    [result] = estimate(np.array([value for value, _ in numbers])[:, None], [cluster for _, cluster in numbers])
    assert result is not None, "an evaluation of one picture or more"
    return result


def shown(number: Estimate) -> str:
    """Return a mean with its interval."""
    if number.low is None or number.high is None:
        return f"{number.mean:.3f}"
    return f"{number.mean:.3f} ({number.low:.3f} to {number.high:.3f})"


def table(folder: Path) -> str:
    """Return the table of all models, as far as they are measured."""
    lines = [
        "| model | n present | Dice | ceiling | share of the ceiling | selection accuracy | candidate recall "
        "| n absent | no-target accuracy | aim |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        f"| aim | | | | {AIM} | | | | | |",
    ]
    seeds = sorted(folder.glob("seed-*"), key=lambda path: int(path.name[5:]))
    for trained in [folder / "warmed", *seeds]:
        records = answered(trained / "answers")
        if not records:
            continue
        dice, ceiling = (mean(records, key) for key in ("dice_joint", "candidate_dice"))
        absent = [record for record in records if "no_target_accuracy" in record.answers[0].values]
        share = dice.mean / ceiling.mean
        cells = [trained.name, f"{dice.n}", shown(dice), shown(ceiling), f"{share:.3f}"]
        cells += [shown(mean(records, key)) for key in ("selection_accuracy", "candidate_recall")]
        cells += [str(len(absent)), shown(mean(absent, "no_target_accuracy")) if absent else ""]
        cells += ["" if trained.name == "warmed" else "reached" if share >= AIM else "not reached"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    warming = commands.add_parser("warm", help="train and measure the model that all seeds start from")
    training = commands.add_parser("train", help="train and measure one seed")
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--temperature", type=float, default=1.0, help="at which GRPO draws answers")
    for command, pictures, steps, rate in ((warming, 600, 700, 1e-3), (training, 400, 300, 3e-4)):
        command.add_argument("folder", type=Path)
        command.add_argument("--pictures", type=int, default=pictures, help="to learn from, with two questions each")
        command.add_argument("--held", type=int, default=60, help="held-out pictures, with two questions each")
        command.add_argument("--held-seed", type=int, default=20261128, help="of the held-out pictures")
        command.add_argument("--family", choices=("plain", "maybe"), default="plain", help="of phantoms")
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
