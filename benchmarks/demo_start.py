"""The first step of `make demo`: say what will be done and how long it will take, then draw the pictures.

    python benchmarks/demo_start.py DIR

DIR gets the phantoms to learn from (core, whole) and those held out (held-core, held-whole): the same pictures and questions
in two conventions, what of a lesion is marked.
"""

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medground_toy.phantoms import samples, traced, write

from medground.runs.progress import progress
from medground.types import Sample

HELD_SEED = 424242
"""Of the pictures held out, whatever the demo's seed is."""
SECONDS = {"drawing": 0.00053, "pictures": 0.0031, "sft": 0.125, "grpo": 1.3, "held": 0.08, "starts": 30.0}
"""On one core of a server: a sample drawn, a sample drawn and written in both conventions, a step of SFT, a step of GRPO, a
question measured, and what does not depend on a size.
"""


def drawn(n: int, seed: int, convention: Any, *, traces: bool = False) -> list[Sample]:
    """Phantoms of the demo's family and size."""
    found = samples(n, seed, families=["plain"], size=(64, 64), convention=convention)
    return [traced(sample) for sample in found] if traces else found


def slowness(n: int = 400) -> float:
    """How much longer this machine takes than the one `SECONDS` was measured on, by drawing `n` samples."""
    begun = time.perf_counter()
    drawn(n, 0, "whole")
    return (time.perf_counter() - begun) / (n * SECONDS["drawing"])


def finished(run: Path) -> int:
    """Steps in the newest checkpoint of a run; 0 where there is none."""
    return max((int(folder.name[5:]) for folder in (run / "checkpoints").glob("step-????????")), default=0)


def seconds(chosen: argparse.Namespace) -> float:
    """How long the demo will take from here, on this machine."""
    steps = {name: max(0, getattr(chosen, name) - finished(chosen.folder / name)) for name in ("sft", "grpo")}
    sizes = {"pictures": chosen.samples + chosen.held, "held": chosen.held, "starts": 1, **steps}
    return slowness() * sum(SECONDS[name] * size for name, size in sizes.items())


def counted(found: Iterable[Sample], advance: Any) -> Iterator[Sample]:
    """The samples, each counted once it was taken."""
    for sample in found:
        yield sample
        advance(1)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the pictures to learn from")
    parser.add_argument("--samples", type=int, default=4000, help="questions to learn from")
    parser.add_argument("--held", type=int, default=256, help="questions to measure with")
    parser.add_argument("--sft", type=int, default=1300, help="steps, for the estimate")
    parser.add_argument("--grpo", type=int, default=60, help="steps, for the estimate")
    chosen = parser.parse_args(arguments)
    print("A tiny vision-language model learns to ground: first from examples (SFT), then by reward alone (GRPO).")
    minutes = max(1, round(seconds(chosen) / 60))
    print(
        f"Estimated total: {minutes} min at this machine's speed now. Ctrl-C stops; `make demo` goes on where it was."
    )
    print(
        "\n1 of 4: Draw. Every picture holds a bright and a dark lesion, so the question decides which one is meant.",
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
