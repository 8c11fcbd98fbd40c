"""Does selective prediction keep what it promises on simulated calibration sets whose samples come in clusters?

    python benchmarks/selective.py                     # 500 calibration sets of each kind: about a minute on one core
    python benchmarks/selective.py --sets 5000

Each kind of set is calibrated on many times, and each threshold is held against the true share of wrong answers among the
given ones, which is known from a population of 400,000 clusters. That share may exceed the risk in delta of the sets.
`coverage` is the mean share of answers that are given, and `possible` the largest share that any threshold could give at this
risk. The last kinds are hard: larger clusters are harder, or confidence says nothing and every threshold is just too risky.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medground.evaluation.selective import choose_threshold, risk_coverage
from medground.geometry import Floats

POPULATION = 400_000
ALIKE = 0.5
"""The correlation of two samples of a cluster, of what confidence sees and of what it does not."""


class Answers(NamedTuple):
    """Simulated answers."""

    confidence: Floats
    wrong: NDArray[np.bool_]
    clusters: NDArray[np.int_]


@dataclass(frozen=True)
class Kind:
    """A kind of calibration set."""

    name: str
    clusters: int
    sizes: Callable[[np.random.Generator, int], NDArray[np.int_]]
    """Draws the sizes of so many clusters."""
    harder: float = 0.0
    """How much harder a cluster is per sample more."""
    ease: float = 0.8
    told: float = 1.6
    """An answer is wrong where noise is above ease + told·z."""

    def draw(self, rng: np.random.Generator, clusters: int) -> Answers:
        """Return answers of so many clusters: the higher z, the likelier right; confidence follows z, and only z."""
        sizes = self.sizes(rng, clusters)
        codes = np.repeat(np.arange(clusters), sizes)

        def shared() -> Floats:
            own, common = rng.normal(size=len(codes)), rng.normal(size=clusters)[codes]
            return np.asarray(np.sqrt(ALIKE) * common + np.sqrt(1 - ALIKE) * own)

        z = shared() - self.harder * (sizes[codes] - 1)
        wrong = shared() * 0.7 > self.ease + self.told * z
        return Answers(1 / (1 + np.exp(-z)), wrong, codes)


def constant(size: int) -> Callable[[np.random.Generator, int], NDArray[np.int_]]:
    """Return what draws clusters of one size."""
    return lambda rng, clusters: np.full(clusters, size)


KINDS = (
    Kind("1 sample", 500, constant(1)),
    Kind("4 samples", 250, constant(4)),
    Kind("16 samples", 150, constant(16)),
    Kind("1 to 8 samples, larger ones harder", 250, lambda rng, clusters: rng.integers(1, 9, clusters), harder=0.1),
    Kind("1 sample, confidence says nothing", 500, constant(1), ease=0.87, told=0.0),
    Kind("4 samples, confidence says nothing", 250, constant(4), ease=0.87, told=0.0),
)


class Outcome(NamedTuple):
    """What came of one kind."""

    above: float
    """Share of the sets whose threshold has a true risk above what was asked for."""
    coverage: float
    """Mean share of answers that are given."""
    silent: float
    """Share of the sets on which no threshold passes."""
    possible: float


def simulate(kind: Kind, sets: int, *, risk: float, delta: float, seed: int, population: int = POPULATION) -> Outcome:
    """Return what comes of calibrating on so many sets."""
    truth = kind.draw(np.random.default_rng([seed, 0]), population)
    covered, risks = risk_coverage(truth.confidence, truth.wrong)
    steps = np.sort(truth.confidence)[::-1]
    edges = np.append(np.flatnonzero(np.diff(steps)), len(steps) - 1)
    above, coverage, silent = 0, 0.0, 0
    for index in range(sets):
        answers = kind.draw(np.random.default_rng([seed, 1 + index]), kind.clusters)
        chosen = choose_threshold(*answers[:2], answers.clusters.tolist(), risk=risk, delta=delta, seed=index).threshold
        if chosen is None:
            silent += 1
            continue
        last = int(np.searchsorted(-steps[edges], -chosen, side="right")) - 1
        above += last >= 0 and risks[last] > risk
        coverage += covered[last] if last >= 0 else 0.0
    allowed = covered[risks <= risk]
    return Outcome(above / sets, coverage / sets, silent / sets, float(allowed.max(initial=0.0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=500)
    parser.add_argument("--risk", type=float, default=0.1)
    parser.add_argument("--delta", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    print(f"{chosen.sets} calibration sets each, risk {chosen.risk:g}, delta {chosen.delta:g}, seed {chosen.seed}\n")
    print("| a cluster is | clusters | true risk above | ± 1.96 s.e. | coverage | possible | nothing given |")
    print("|---|---|---|---|---|---|---|")
    for kind in KINDS:
        outcome = simulate(kind, chosen.sets, risk=chosen.risk, delta=chosen.delta, seed=chosen.seed)
        error = 1.96 * np.sqrt(outcome.above * (1 - outcome.above) / chosen.sets)
        print(
            f"| {kind.name} | {kind.clusters} | {outcome.above:.3f} | {error:.3f} | {outcome.coverage:.3f} "
            f"| {outcome.possible:.3f} | {outcome.silent:.3f} |"
        )


if __name__ == "__main__":
    main()
