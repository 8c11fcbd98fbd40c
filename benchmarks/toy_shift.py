"""Does GRPO, from rewards alone, teach families of pictures that SFT never saw? And does more SFT on the old ones?

    python benchmarks/toy_shift.py --seed 0 --out DIR [--old plain,tinted] [--new stained,speckled] [--held-seed N]

A Qwen3-VL of random weights learns by SFT, with traces, on the old families (`train/toy_sft`). From that checkpoint GRPO
goes on with questions about the new families, without traces or target text (`train/toy_shift`), and SFT goes on with the
old ones for as many CPU-seconds. All three are measured on held-out pictures of both. Results are added to
DIR/results.jsonl. Times are CPU-seconds of this process, one thread.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from demo_measure import Interval, answers, interval, ious, picture_of, shuffled, valid

import medground
from medground.data.samples import read_samples

PICTURES_OF_64 = ("--size", "64")


class Trial:
    """One seed: its folder, what was measured so far, and the clock."""

    def __init__(self, chosen: Any) -> None:
        self.chosen, self.folder = chosen, chosen.out / f"seed-{chosen.seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.results = chosen.out / "results.jsonl"
        self.cpu: dict[str, float] = {}

    def say(self, event: str, **values: Any) -> None:
        told = {"seed": self.chosen.seed, "event": event, **values}
        line = json.dumps(told, default=lambda each: [round(v, 4) for v in (each.mean, each.low, each.high)])
        print(line, flush=True)
        with self.results.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def draw(self) -> None:
        """Pictures to learn from and to be measured on, and the model of random weights."""
        seed, held = self.chosen.seed, self.chosen.held_seed
        for name, families, count, drawn in (
            ("old", self.chosen.old, 4000, 20000 + seed),
            ("new", self.chosen.new, 4000, 30000 + seed),
            ("held-old", self.chosen.old, self.chosen.held, held),
            ("held-new", self.chosen.new, self.chosen.held, held + 1),
        ):
            self._run("medground_toy.phantoms", "--out", name, "-n", count, "--seed", drawn, "--families", families,
                      "--convention", "core", "--traces", *PICTURES_OF_64)  # fmt: skip
        self._run("medground_qwen.tiny", "--out", "start", "--data", "old", "--seed", seed)

    def _run(self, module: str, *arguments: Any) -> None:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        subprocess.run(command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def train(self, name: str, recipe: str, start: Path, data: str, *overrides: str) -> Path:
        """One run; returns the model it ends with."""
        begun = time.process_time()
        done = medground.train(
            recipe, f"reasoner.checkpoint={start}", f"data.path={self.folder / data}", f"seed={self.chosen.seed}",
            *overrides, out=self.folder / name,
        )  # fmt: skip
        self.cpu[name] = time.process_time() - begun
        return self.folder / name / "checkpoints" / f"step-{done.steps:08d}" / "model"

    def measure(self, name: str) -> dict[str, Any]:
        """Greedy answers of a run on held-out pictures of both kinds."""
        graph = medground.load(str(self.folder / name), "segmenter=ellipse", "sampling.max_completion_length=32")
        found: dict[str, Any] = {}
        told: dict[str, Any] = {}
        for kind in ("old", "new"):
            held = read_samples(self.folder / f"held-{kind}")
            said = answers(graph, held)
            found[kind], pictures = ious(said, held), picture_of(held)
            told[kind] = interval(found[kind], pictures)
            told[f"{kind}_valid"] = valid(said)
            told[f"{kind}_families"] = {
                family: float(found[kind][[sample.labels["family"] == family for sample in held]].mean())
                for family in sorted({sample.labels["family"] for sample in held})
            }
            found[f"{kind}_pictures"] = pictures
        held = read_samples(self.folder / "held-new")
        found["new_shuffled"] = ious(answers(graph, shuffled(held)), held)
        told["new_shuffled"] = interval(found["new_shuffled"], pictures)
        self.say(name, cpu_s=round(self.cpu[name], 1), **told)
        return found


def gain(after: dict[str, Any], before: dict[str, Any], kind: str) -> Interval:
    """The paired difference on one kind of pictures."""
    return interval(after[kind] - before[kind], after[f"{kind}_pictures"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--old", default="plain,tinted", help="families SFT sees")
    parser.add_argument("--new", default="stained,speckled", help="families it never sees")
    parser.add_argument("--held", type=int, default=256, help="held-out questions of each kind")
    parser.add_argument("--held-seed", type=int, default=515151)
    parser.add_argument("--sft-steps", type=int, default=1300)
    parser.add_argument("--grpo-steps", type=int, default=200)
    parser.add_argument("--more-rate", type=float, default=6e-4, help="peak learning rate of the SFT that goes on")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    trial = Trial(chosen)
    trial.say("settings", **{key: str(value) for key, value in vars(chosen).items()})
    trial.draw()
    steps = chosen.sft_steps
    saved = (f"sft.max_steps={steps}", f"sft.save_every={steps}")
    model = trial.train("sft", "train/toy_sft", trial.folder / "start", "old", *saved)
    before = trial.measure("sft")
    trial.train("grpo", "train/toy_shift", model, "new", f"grpo.max_steps={chosen.grpo_steps}")
    after = trial.measure("grpo")
    as_long = max(1, round(trial.cpu["grpo"] / trial.cpu["sft"] * steps))
    saved = (f"sft.max_steps={as_long}", f"sft.save_every={as_long}", f"sft.learning_rate={chosen.more_rate}")
    trial.train("more-sft", "train/toy_sft", model, "old", *saved)
    more = trial.measure("more-sft")
    for name, one in (("grpo - sft", after), ("more-sft - sft", more)):
        trial.say(name, new=gain(one, before, "new"), old=gain(one, before, "old"))
    trial.say("grpo - more-sft", new=gain(after, more, "new"), old=gain(after, more, "old"))
    trial.say("cpu", **{name: round(each, 1) for name, each in trial.cpu.items()}, all=round(time.process_time(), 1))


if __name__ == "__main__":
    main()
