"""Does selective prediction keep what it promises on simulated calibration sets whose samples come in clusters?

    python benchmarks/selective.py                     # 500 calibration sets of each kind: about a minute on one core
    python benchmarks/selective.py --sets 5000
    python benchmarks/selective.py --answers DIR       # an evaluation's own answers, with evaluate.samples

Each kind of set is calibrated on many times, and each threshold is held against the true share of wrong answers among the
given ones, which is known from a population of 400,000 clusters. That share may exceed the risk in delta of the sets.
`coverage` is the mean share of answers that are given, and `possible` the largest share that any threshold could give at this
risk. The last kinds are hard: larger clusters are harder, or confidence says nothing and every threshold is just too risky.

With --answers the population are the answers of an evaluation: a calibration set is as many of its clusters, drawn with
replacement.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medground.evaluation.confidence import confidence_table
from medground.evaluation.results_file import SAMPLES, read_records
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
    drawn = (kind.draw(np.random.default_rng([seed, 1 + index]), kind.clusters) for index in range(sets))
    return outcome_of(truth, drawn, risk=risk, delta=delta)


def resample(answers: Answers, sets: int, *, risk: float, delta: float, seed: int) -> Outcome:
    """Return what comes of calibrating on so many sets of clusters, drawn with replacement from the answers that are all."""
    members = [np.flatnonzero(answers.clusters == code) for code in range(int(answers.clusters.max()) + 1)]

    def drawn(index: int) -> Answers:
        chosen = np.random.default_rng([seed, index]).integers(0, len(members), len(members))
        rows = np.concatenate([members[code] for code in chosen])
        codes = np.repeat(np.arange(len(chosen)), [len(members[code]) for code in chosen])
        return Answers(answers.confidence[rows], answers.wrong[rows], codes)

    return outcome_of(answers, map(drawn, range(sets)), risk=risk, delta=delta)


def outcome_of(truth: Answers, sets: Iterable[Answers], *, risk: float, delta: float) -> Outcome:
    """Return what comes of calibrating on each set, held against the population."""
    covered, risks = risk_coverage(truth.confidence, truth.wrong)
    steps = np.unique(truth.confidence)[::-1]
    above, coverage, silent, count = 0, 0.0, 0, 0
    for index, answers in enumerate(sets):
        count += 1
        chosen = choose_threshold(*answers[:2], answers.clusters.tolist(), risk=risk, delta=delta, seed=index).threshold
        if chosen is None:
            silent += 1
            continue
        last = int(np.searchsorted(-steps, -chosen, side="right")) - 1
        above += last >= 0 and risks[last] > risk
        coverage += covered[last] if last >= 0 else 0.0
    allowed = covered[risks <= risk]
    return Outcome(above / count, coverage / count, silent / count, float(allowed.max(initial=0.0)))


def answers_of(folder: Path) -> Answers:
    """Return the answers of an evaluation."""
    table = confidence_table([record for record in read_records(folder / SAMPLES) if record.condition == "answer"])
    if table is None:
        raise SystemExit(f"{folder} holds no confidence: evaluate with evaluate.samples")
    return Answers(table.confidence, ~table.right, np.unique(table.clusters, return_inverse=True)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=500)
    parser.add_argument("--risk", type=float, default=0.1)
    parser.add_argument("--delta", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--answers", type=Path, help="the folder of an evaluation")
    chosen = parser.parse_args()
    how = {"risk": chosen.risk, "delta": chosen.delta, "seed": chosen.seed}
    print(f"{chosen.sets} calibration sets each, risk {chosen.risk:g}, delta {chosen.delta:g}, seed {chosen.seed}\n")
    print("| a cluster is | clusters | true risk above | ± 1.96 s.e. | coverage | possible | nothing given |")
    print("|---|---|---|---|---|---|---|")
    rows: Iterable[tuple[str, int, Outcome]]
    if chosen.answers is None:
        rows = ((kind.name, kind.clusters, simulate(kind, chosen.sets, **how)) for kind in KINDS)
    else:
        answers = answers_of(chosen.answers)
        name = f"{len(answers.wrong)} answers, {answers.wrong.mean():.1%} wrong"
        rows = [(name, int(answers.clusters.max()) + 1, resample(answers, chosen.sets, **how))]
    for name, clusters, outcome in rows:
        error = 1.96 * np.sqrt(outcome.above * (1 - outcome.above) / chosen.sets)
        print(
            f"| {name} | {clusters} | {outcome.above:.3f} | {error:.3f} | {outcome.coverage:.3f} "
            f"| {outcome.possible:.3f} | {outcome.silent:.3f} |"
        )


if __name__ == "__main__":
    main()
