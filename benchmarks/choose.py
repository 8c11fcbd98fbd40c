"""Train a tiny model to choose among proposed candidates by rewards alone, and compare it with the best candidate there is.

    python benchmarks/choose.py train DIR --seed 0      # resumes what is there
    python benchmarks/choose.py table DIR               # of all seeds in DIR, as markdown

Phantoms of 64 px of the family `maybe`: a bright spot or none, a dark one or none, and a question about one of the two. The
segmenter `region_growing`, prompted with a grid of points, proposes up to four candidates of each picture; where a spot is
missing, they are parts of the background. `warmed` is the model that ships as `toy_vlm` after a little SFT on ideal choices;
`rewards` is `warmed` after GRPO on the Dice of the chosen candidate, and on abstention where the target is absent. Seed S draws
pictures and order of its own; all are measured on the same held-out pictures, with greedy answers.

The ceiling is `candidate_dice`, the Dice of each picture's best candidate; the aim is a mean Dice of 0.9 of it.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from medground_toy.phantoms import samples, traced, write

import medground
from medground.evaluation.results_file import SAMPLES, SampleRecord, read_records
from medground.evaluation.statistics import Estimate, estimate
from medground.pipeline.cache import StageCache

HELD_SEED = 616161
"""The seed of the held-out pictures, for every seed of training."""
AIM = 0.9
"""Of the ceiling."""
PICTURES = {"families": ["maybe"], "size": (64, 64)}
CHOICE = (
    "prompt_interface={name: choose, instructions: false, least: 64}",
    "proposer=grid",
    "segmenter=region_growing",
)
PROPOSALS = "proposals={k: 4, side: 4, overlap: 0.3}"
"""As in the recipe train/choose_toy."""
MODELS = ("warmed", "rewards")


def draw(folder: Path, seed: int, pictures: int, held: int) -> None:
    """Write the questions to learn from, with reasoning traces, and the held-out ones."""
    if (folder / "held" / "manifest.jsonl").exists():
        return
    write(folder / "data", map(traced, samples(2 * pictures, 3000 + seed, **PICTURES)))
    write(folder / "held", samples(2 * held, HELD_SEED, **PICTURES))


def weights(run: Path) -> Path:
    """Return the newest weights of a run."""
    return max((run / "checkpoints").glob("step-*")) / "model"


def learn(folder: Path, name: str, chosen: argparse.Namespace) -> None:
    """Train a model, as far as it is not trained yet."""
    common = (f"data.path={folder / 'data'}", f"seed={chosen.seed}")
    if name == "warmed":
        medground.train(
            "train/toy_sft", "reasoner.checkpoint=null", *common, *CHOICE, PROPOSALS, f"sft.max_steps={chosen.sft}",
            f"sft.learning_rate={chosen.sft_rate}", "sft.save_every=100", out=folder / name / "run", resume=True,
        )  # fmt: skip
    else:
        medground.train(
            "train/choose_toy", f"reasoner={{name: toy_vlm, checkpoint: {weights(folder / 'warmed' / 'run')}}}", *common,
            f"grpo.max_steps={chosen.grpo}", "grpo.num_generations=8", f"grpo.learning_rate={chosen.grpo_rate}",
            "grpo.save_every=20", out=folder / name / "run", resume=True,
        )  # fmt: skip


def measure(folder: Path, name: str, cache: StageCache) -> None:
    """Answer the held-out questions with a trained model and write the evaluation, as far as it is not written yet."""
    medground.evaluate(
        "infer/toy_vlm", f"reasoner.checkpoint={weights(folder / name / 'run')}", f"data.path={folder / 'held'}",
        *CHOICE, PROPOSALS, "sampling.max_completion_length=48", "evaluate.batch_size=32", out=folder / name / "answers",
        resume=True, conditions=["answer"], store=cache,
    )  # fmt: skip


def train(chosen: argparse.Namespace) -> None:
    """Draw, train and measure the models of one seed."""
    folder, cache = chosen.folder / f"seed-{chosen.seed}", StageCache()
    draw(folder, chosen.seed, chosen.pictures, chosen.held)
    for name in MODELS:
        begun = time.process_time()
        learn(folder, name, chosen)
        learned = time.process_time()
        measure(folder, name, cache)
        seconds = f"{learned - begun:.0f} CPU-s of training, {time.process_time() - learned:.0f} of measuring"
        print(f"seed {chosen.seed}, {name}: {seconds}", flush=True)


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
    """Return the table of all seeds, as far as they are measured."""
    lines = [
        "| seed | model | n present, absent | Dice | ceiling | share of the ceiling | selection accuracy | candidate recall "
        "| no-target accuracy | aim |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        f"| aim | | | | | {AIM} | | | | |",
    ]
    for seed in sorted(folder.glob("seed-*"), key=lambda path: int(path.name[5:])):
        for name in MODELS:
            records = answered(seed / name / "answers")
            if not records:
                continue
            dice, ceiling, absent = (
                mean(records, key) for key in ("dice_joint", "candidate_dice", "no_target_accuracy")
            )
            share = dice.mean / ceiling.mean
            cells = [seed.name[5:], name, f"{dice.n}, {absent.n}", shown(dice), shown(ceiling), f"{share:.3f}"]
            cells += [shown(mean(records, key)) for key in ("selection_accuracy", "candidate_recall")]
            cells += [shown(absent), ("reached" if share >= AIM else "not reached") if name == "rewards" else ""]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="draw, train and measure one seed")
    training.add_argument("folder", type=Path)
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--pictures", type=int, default=300, help="to learn from, with two questions each")
    training.add_argument("--held", type=int, default=150, help="held-out pictures, with two questions each")
    training.add_argument("--sft", type=int, default=200, help="steps of SFT")
    training.add_argument("--sft-rate", type=float, default=8e-4, help="peak learning rate of SFT")
    training.add_argument("--grpo", type=int, default=40, help="steps of GRPO")
    training.add_argument("--grpo-rate", type=float, default=2e-4, help="peak learning rate of GRPO")
    tables = commands.add_parser("table", help="print the table")
    tables.add_argument("folder", type=Path)
    chosen = parser.parse_args(arguments)
    if chosen.command == "train":
        train(chosen)
    else:
        print(table(chosen.folder))


if __name__ == "__main__":
    main()
