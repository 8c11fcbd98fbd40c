"""Compare GRPO on families of pictures that SFT did not use with more SFT on the old family.

    make demo                                          # this starts from its SFT run; any seed
    python benchmarks/toy_shift.py demo --out shift

SFT used pictures of the family `plain` only, with traces. From its checkpoint GRPO trains on questions about `tinted`,
`stained` and `speckled`, without traces or target text (`train/toy_shift`). For comparison, SFT continues on `plain` for
about as many CPU-seconds. All three are measured on held-out pictures, with the convention of SFT. Results are appended to
OUT/results.jsonl. Times are CPU-seconds of one thread.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_measure import Interval, Numbers, answers, interval, ious, picture_of, shuffled, valid

import medground
from medground.data.dataset import Dataset
from medground.data.open_dataset import open_dataset
from medground.runs.folder import read_events

NEW = ("tinted", "stained", "speckled")


class Trial:
    """The folder, the held-out pictures and the clock of one seed."""

    def __init__(self, chosen: Any) -> None:
        self.demo, self.results = chosen.demo, chosen.out / "results.jsonl"
        self.seed = read_events(self.demo / "sft", "start")[0]["seed"]
        self.folder = chosen.out / f"seed-{self.seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, families, count, drawn in (
            ("new", ",".join(NEW), chosen.samples, 30000 + self.seed),
            ("held-old", "plain", chosen.held, chosen.held_seed),
            ("held-new", ",".join(NEW), 3 * chosen.held, chosen.held_seed + 1),
        ):
            command = ["--out", name, "-n", count, "--seed", drawn, "--families", families]
            command = [sys.executable, "-m", "medground_toy.phantoms", *command, "--size", 64, "--convention", "core"]
            subprocess.run([str(part) for part in command], check=True, cwd=self.folder, stdout=subprocess.DEVNULL)
        self.held = {kind: open_dataset(self.folder / f"held-{kind}") for kind in ("old", "new")}

    def say(self, event: str, **values: Any) -> None:
        told = {"seed": self.seed, "event": event, **values}
        line = json.dumps(told, default=lambda each: [round(v, 4) for v in (each.mean, each.low, each.high)])
        print(line, flush=True)
        with self.results.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def train(self, name: str, recipe: str, data: Path, *overrides: str) -> float:
        """Continue from the demo's SFT and return the CPU-seconds."""
        start = max((self.demo / "sft" / "checkpoints").glob("step-*")) / "model"
        given = (f"reasoner.checkpoint={start}", f"data.path={data}", f"seed={self.seed}", *overrides)
        begun = time.process_time()
        medground.train(recipe, *given, out=self.folder / name)
        return time.process_time() - begun

    def measure(self, name: str, run: Path) -> dict[str, Numbers]:
        """Return the IoU of a run's greedy answers, by kind of picture."""
        graph = medground.load(str(run), "segmenter=ellipse", "sampling.max_completion_length=32")
        found, told = {}, {}
        for kind, held in self.held.items():
            said = answers(graph, held)
            found[kind] = ious(said, held)
            told |= {kind: self.mean(found, kind), f"{kind} usable": valid(said)}
            told |= {family: float(values.mean()) for family, values in by_family(found[kind], held).items()}
        mixed = ious(answers(graph, shuffled(self.held["new"])), self.held["new"])
        self.say(name, **told, **{"new, shuffled": interval(mixed, picture_of(self.held["new"]))})
        return found

    def mean(self, values: Mapping[str, Numbers], kind: str) -> Interval:
        return interval(values[kind], picture_of(self.held[kind]))


def by_family(values: Numbers, held: Dataset) -> dict[str, Numbers]:
    """Return the values of each family's questions."""
    families = np.array([entry.labels["family"] for entry in held.entries])
    return {family: values[families == family] for family in np.unique(families).tolist()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="the folder of `make demo`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=900, help="questions about the new families to learn from")
    parser.add_argument("--held", type=int, default=64, help="held-out questions a family")
    parser.add_argument("--held-seed", type=int, default=515151)
    parser.add_argument("--more-steps", type=int, default=400, help="steps of more SFT: as long as GRPO takes")
    parser.add_argument("--more-rate", type=float, default=6e-4, help="peak learning rate of the SFT that goes on")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    trial = Trial(chosen)
    before = trial.measure("after SFT on plain", trial.demo / "sft")
    spent = trial.train("grpo", "train/toy_shift", trial.folder / "new")
    after = trial.measure("after GRPO on the new", trial.folder / "grpo")
    steps = chosen.more_steps
    saved = (f"sft.max_steps={steps}", f"sft.save_every={steps}", f"sft.learning_rate={chosen.more_rate}")
    also = trial.train("more-sft", "train/toy_sft", trial.demo / "core", *saved)
    more = trial.measure("after more SFT on plain", trial.folder / "more-sft")
    for name, one, other in (
        ("GRPO - SFT", after, before),
        ("more SFT - SFT", more, before),
        ("GRPO - more SFT", after, more),
    ):
        trial.say(name, **{kind: trial.mean({kind: one[kind] - other[kind]}, kind) for kind in trial.held})
    trial.say("CPU-seconds", **{"GRPO": round(spent, 1), "more SFT": round(also, 1)})


if __name__ == "__main__":
    main()
