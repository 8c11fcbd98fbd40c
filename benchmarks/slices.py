"""Train a tiny model to choose a slice by what it earns on that slice, and measure the slice's error in mm.

    python benchmarks/slices.py warm DIR                # once
    python benchmarks/slices.py train DIR --seed 0      # resumes what is there
    python benchmarks/slices.py table DIR               # of all models in DIR, as markdown

Phantom volumes of 64 x 64 x 8 voxels, 51 mm wide and high, with one round spot somewhere in the middle half; a montage shows
all 8 slices. `warmed` is the model that ships as `toy_vlm` after SFT on ideal answers of both exchanges (recipe
train/slice_toy_sft). Seed S is `warmed` after GRPO on what it earns on the slice that it chose (recipe train/slice_toy); it
draws volumes and order of its own. All are measured with greedy answers on the same held-out volumes. `middle` is the slice
that needs no model.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from medground_toy.volumes import write_questions

import medground
from medground.evaluation.results import MetricSummary
from medground.evaluation.volume_evaluation import evaluate_volumes
from medground.runs.folder import read_events

WARM_SEED = 9
"""The seed of the volumes of `warmed`; no other seed of training is it."""
HELD_SEED = 77
"""The seed of the held-out volumes."""
METRICS = ("slice_error_mm", "slice_off_mm", "dice")
CURVES = ("slice/error_mm", "slice/off_mm", "slice/named_ratio", "slice/reward", "answer/reward")


def draw(folder: Path, seed: int, volumes: int) -> Path:
    """Write volumes with a question each; return their folder."""
    if not (folder / "volumes.jsonl").exists():
        write_questions(folder, volumes, seed, size=64, slices=8)
    return folder


def weights(run: Path) -> Path:
    """Return the newest weights of a run."""
    return max((run / "checkpoints").glob("step-*")) / "model"


def warm(chosen: argparse.Namespace) -> None:
    """Train and measure the model that all seeds start from."""
    folder = chosen.folder / "warmed"
    medground.train(
        "train/slice_toy_sft", f"data.path={draw(folder / 'data', WARM_SEED, chosen.volumes)}", f"seed={WARM_SEED}",
        f"sft.max_steps={chosen.steps}", out=folder / "run", resume=True,
    )  # fmt: skip
    measure(folder, chosen)


def train(chosen: argparse.Namespace) -> None:
    """Train and measure the model of one seed."""
    folder = chosen.folder / f"seed-{chosen.seed}"
    medground.train(
        "train/slice_toy", f"reasoner.checkpoint={weights(chosen.folder / 'warmed' / 'run')}",
        f"data.path={draw(folder / 'data', chosen.seed, chosen.volumes)}", f"seed={chosen.seed}",
        f"grpo.max_steps={chosen.steps}", f"grpo.train_batch_size={chosen.batch}", f"grpo.mini_batch_size={chosen.batch}",
        "grpo.num_generations=6", f"grpo.learning_rate={chosen.rate}", "grpo.save_every=5", out=folder / "run", resume=True,
    )  # fmt: skip
    measure(folder, chosen)


def measure(folder: Path, chosen: argparse.Namespace) -> None:
    """Answer the held-out questions with a trained model and write the evaluation, as far as it is not written yet."""
    held = draw(folder.parent / "held", HELD_SEED, chosen.held)
    for name, rule in (("answers", "ask"), ("middle", "middle")):
        evaluate_volumes(
            str(folder / "run"), f"data.path={held}", f"volume.slice={rule}", "segmenter=ellipse",
            "volume.propagation=per_slice", "volume.reach=10", out=folder / name, resume=True,
        )  # fmt: skip
    print(f"{folder.name}: {time.process_time():.0f} CPU-s", flush=True)


def shown(metric: MetricSummary) -> str:
    """Return a mean with its interval."""
    if metric.mean is None:
        return "none"
    return f"{metric.mean:.3f} ({metric.low:.3f} to {metric.high:.3f}; n {metric.n})"


def table(folder: Path) -> str:
    """Return the tables of all models, as far as they are measured."""
    lines = [f"| model | slice | {' | '.join(METRICS)} | faults |", "| --- " * (len(METRICS) + 3) + "|"]
    for model in sorted(path for path in folder.iterdir() if (path / "answers" / "metrics.json").exists()):
        for name, rule in (("answers", "ask"), ("middle", "middle")):
            measured = evaluate_volumes(str(model / name), out=model / name, resume=True)
            cells = [shown(measured.metrics[metric]) for metric in METRICS]
            lines.append(f"| {model.name} | {rule} | {' | '.join(cells)} | {measured.faults or 'none'} |")
    lines += ["", f"| run | steps | {' | '.join(CURVES)} |", "| --- " * (len(CURVES) + 2) + "|"]
    for run in sorted(folder.glob("seed-*/run")):
        steps = [event for event in read_events(run) if "slice/reward" in event]
        fifth = max(1, len(steps) // 5)
        for events in (steps[:fifth], steps[-fifth:]):
            cells = [f"{mean(events, curve):.3f}" for curve in CURVES]
            lines.append(f"| {run.parent.name} | {events[0]['step']} to {events[-1]['step']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def mean(events: Sequence[dict[str, float]], name: str) -> float:
    """Return the mean of a metric over steps."""
    return fmean(event[name] for event in events if event[name] is not None)


def main() -> None:
    """Do one part of the trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("warm", "train", "table"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--volumes", type=int, default=100, help="to train on")
    parser.add_argument("--held", type=int, default=40, help="held-out volumes")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=4, help="questions a step of GRPO")
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate of GRPO")
    chosen = parser.parse_args()
    if chosen.what == "table":
        print(table(chosen.folder))
    else:
        {"warm": warm, "train": train}[chosen.what](chosen)


if __name__ == "__main__":
    main()
