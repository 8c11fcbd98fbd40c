"""Print the plan and the expected duration of `make demo`, then draw its pictures.

    python benchmarks/demo_start.py DIR

DIR gets training phantoms (core, whole) and held-out ones (held-core, held-whole): the same pictures and questions in two
conventions, which differ in the part of a lesion that is marked.
"""

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medground_toy.phantoms import samples, traced, write

from medground.progress import progress
from medground.types import Sample

HELD_SEED = 424242
"""The seed of the held-out pictures, for any seed of the demo."""
SECONDS = {"drawing": 0.00053, "pictures": 0.0031, "sft": 0.125, "grpo": 1.3, "held": 0.08, "starts": 30.0}
"""Durations on one core of a server: draw a sample, draw and write a sample in both conventions, a step of SFT, a step of GRPO,
answer a question, and everything that does not depend on a size.
"""


def drawn(n: int, seed: int, convention: Any, *, traces: bool = False) -> list[Sample]:
    """Return phantoms of the demo's family and size."""
    phantoms = samples(n, seed, families=["plain"], size=(64, 64), convention=convention)
    return [traced(sample) for sample in phantoms] if traces else phantoms


def slowness(n: int = 400) -> float:
    """Return the ratio of this machine's time for `n` samples to that in `SECONDS`."""
    begun = time.perf_counter()
    drawn(n, 0, "whole")
    return (time.perf_counter() - begun) / (n * SECONDS["drawing"])


def finished(run: Path) -> int:
    """Return the number of steps in the newest checkpoint of a run, or 0 without one."""
    return max((int(folder.name[5:]) for folder in (run / "checkpoints").glob("step-????????")), default=0)


def seconds(chosen: argparse.Namespace) -> float:
    """Return the remaining seconds of the demo on this machine."""
    steps = {name: max(0, getattr(chosen, name) - finished(chosen.folder / name)) for name in ("sft", "grpo")}
    sizes = {"pictures": chosen.samples + chosen.held, "held": chosen.held, "starts": 1, **steps}
    return slowness() * sum(SECONDS[name] * size for name, size in sizes.items())


def counted(drawn_samples: Iterable[Sample], advance: Any) -> Iterator[Sample]:
    """Yield the samples and advance the bar after each."""
    for sample in drawn_samples:
        yield sample
        advance(1)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="seed of the training pictures")
    parser.add_argument("--samples", type=int, default=4000, help="training questions")
    parser.add_argument("--held", type=int, default=256, help="held-out questions")
    parser.add_argument("--sft", type=int, default=1300, help="steps, for the estimate")
    parser.add_argument("--grpo", type=int, default=60, help="steps, for the estimate")
    chosen = parser.parse_args(arguments)
    print("A tiny vision-language model learns to ground: first from examples (SFT), then from rewards alone (GRPO).")
    minutes = max(1, round(seconds(chosen) / 60))
    print(
        f"Estimated total: {minutes} min at this machine's present speed. Ctrl-C stops the demo; `make demo` resumes it."
    )
    print(
        "\n1 of 4: Draw. Every picture has a bright and a dark lesion, and the question selects one of them.",
        flush=True,
    )
    seed, folder = 1000 + chosen.seed, chosen.folder
    with progress("pictures", total=2 * (chosen.samples + chosen.held)) as advance:
        write(folder / "core", counted(drawn(chosen.samples, seed, "core", traces=True), advance))
        write(folder / "whole", counted(drawn(chosen.samples, seed, "whole"), advance))
        write(folder / "held-core", counted(drawn(chosen.held, HELD_SEED, "core"), advance))
        write(folder / "held-whole", counted(drawn(chosen.held, HELD_SEED, "whole"), advance))


if __name__ == "__main__":
    main()
