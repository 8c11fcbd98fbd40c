"""Measure the time of parsing a completion and its growth with length.

    python benchmarks/parser.py [--texts 100000] [--seed 0]

First every parser of `bbox_points`, the lists of `regions` and `multi_point`, and every dialect read fuzzed texts of their own
kind: median, 99th percentile and maximum per text, texts per second of processor time, and how many raised (none may). Promise:
p99 within 1 ms. Then the attack strings at 8, 16, 32 and 64 thousand characters, best of 50 each in turn, with the largest
growth per doubling over all of them. Promise: at most 2.5 times. Times below 20 microseconds consist of fixed costs and
count as 20. Other work on the machine increases wall times, above all the maximum; processor time is that of parsing alone.
"""

import argparse
import itertools
import runpy
import time
from pathlib import Path

import numpy as np
from medground_prompts import BboxPoints, MultiPoint, Regions
from medground_prompts.dialects import DIALECTS
from medground_prompts.interfaces import Interface
from medground_prompts.parsers import PARSERS
from medground_prompts.reading import MAX_CHARS

from medground.frames import pixels
from medground.types import Completion

TESTS = Path(__file__).resolve().parents[1] / "plugins" / "medground-prompts" / "tests"
CORPUS = runpy.run_path(str(TESTS / "malformed_completions.py"))
ATTACKS, completions, list_completions = (CORPUS[name] for name in ("ATTACKS", "completions", "list_completions"))
LISTS: dict[str, Interface] = {
    "regions": Regions(label=True, confidence=True),
    "regions strict": Regions(parser="strict"),
    "multi_point": MultiPoint(),
    **{f"native {name}": Regions(style="native", dialect=name) for name in DIALECTS},
}
INTERFACES: dict[str, Interface] = {**{name: BboxPoints(parser=name) for name in PARSERS}, **LISTS}
SIZE = (840, 840)
LENGTHS = (8_000, 16_000, 32_000, 64_000)
FLOOR = 20e-6


def seconds(interface: Interface, text: str) -> tuple[float, float]:
    """Return wall and processor time of one parse."""
    completion = Completion(text=text, frame=pixels(SIZE))
    start = time.perf_counter(), time.process_time()
    interface.parse(completion, SIZE)
    return time.perf_counter() - start[0], time.process_time() - start[1]


def fuzz(texts: int, seed: int) -> None:
    print(f"{texts} fuzzed texts, seed {seed}; microseconds per text")
    for name, interface in INTERFACES.items():
        times, raised = [], 0
        corpus = list_completions if name in LISTS else completions
        for text in itertools.islice(corpus(seed), texts):
            try:
                times.append(seconds(interface, text))
            except Exception as error:  # noqa: BLE001 what is counted here is exactly that anything escapes
                raised += 1
                print(f"  {name} raised {error!r} on {text!r}")
        for kind, column in zip(("wall", "cpu"), np.transpose(times) * 1e6, strict=True):
            p50, p99, top = np.percentile(column, [50, 99, 100])
            rate = len(column) / column.sum() * 1e6
            print(
                f"  {name:<17} {kind:<4} p50 {p50:6.1f}  p99 {p99:6.1f}  max {top:8.1f}  {rate:8.0f}/s  raised {raised}"
            )


def attacks() -> None:
    print("attack strings of 8, 16, 32, 64 thousand characters: milliseconds (slowest parser), growth per doubling")
    for attack, make in ATTACKS.items():
        texts = [make(length) for length in LENGTHS]
        assert len(texts[-1]) <= MAX_CHARS, f"{attack}: beyond the cap nothing is read"
        rows = {}
        for name, interface in INTERFACES.items():
            runs = [[seconds(interface, text)[0] for text in texts] for _ in range(50)]
            rows[name] = [max(FLOOR, best) for best in np.min(runs, axis=0)]
        growth = {name: max(after / before for before, after in itertools.pairwise(row)) for name, row in rows.items()}
        steepest = max(growth, key=lambda name: growth[name])
        slowest = max(rows, key=lambda name: rows[name][-1])
        figures = "  ".join(f"{each * 1e3:7.3f}" for each in rows[slowest])
        print(f"  {attack:<26} {figures}   {slowest:<17} x{growth[steepest]:.2f} {steepest}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    fuzz(given.texts, given.seed)
    attacks()


if __name__ == "__main__":
    main()
