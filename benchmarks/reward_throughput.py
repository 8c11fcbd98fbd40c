"""Measure how many completions per second a rubric scores in one process: parsing and terms.

    python benchmarks/reward_throughput.py [--completions 2048] [--runs 5]

One step of the released recipe is 2 048 completions (128 queries, 16 each). Answers are the jittered truth, with the
share of malformed ones of a model early in training. Ours and the released rewards, soft and hard.

The last line is what it costs to run a term in a child, as a term of somebody else is run, beyond the term's own time: at most
10 % of scoring these completions or 100 ms, whichever is larger.
"""

import argparse
import json
import random
import statistics
import time

import numpy as np

from medground.geometry import Box, Point
from medground.recipe import resolve
from medground.registry import build
from medground.rewards.rubric import Rubric, rubric
from medground.rewards.term import Term
from medground.types import Completion, Query, Region, RewardResult, Rollout, Sample, Target

RECIPES = ("train/soft", "train/hard", "train/base", "train/medreasoner_soft", "train/medreasoner_hard")
IMAGE = np.zeros((840, 840, 3), np.uint8)


def pairs(count: int) -> list[tuple[str, Sample]]:
    """Return completions with their samples: 16 of each query, one in ten malformed."""
    rng = random.Random(0)
    made: list[tuple[str, Sample]] = []
    while len(made) < count:
        x1, y1 = rng.randrange(400), rng.randrange(400)
        box = [x1, y1, x1 + rng.randrange(30, 400), y1 + rng.randrange(30, 400)]
        points = [[rng.randrange(box[0], box[2]), rng.randrange(box[1], box[3])] for _ in "12"]
        region = Region(box=Box(*box), points=tuple(Point(*point) for point in points))
        target = Target(regions=(region,), published={"bbox_2d": box, "point_2d": points})
        sample = Sample(query=Query(image=IMAGE, question="", id=str(len(made))), target=target)
        for _ in range(min(16, count - len(made))):
            near = [value + rng.randint(-30, 30) for value in box]
            said = [[value + rng.randint(-30, 30) for value in point] for point in points]
            answer = json.dumps({"bbox": near, "points_1": said[0], "points_2": said[1]})
            text = f"<think>{'A dense area below the hilum. ' * 20}</think><answer>{answer}</answer>"
            made.append((text[: rng.randrange(len(text))] if rng.random() < 0.1 else text, sample))
    return made


class Theirs:
    """A term that medground does not ship: it calls one that it does."""

    needs_mask = False
    range = (0.0, 1.0)

    def __init__(self, in_process: bool) -> None:
        self.term, self.in_process = build("reward", "bbox_iou"), in_process

    def __call__(self, rollout: Rollout) -> RewardResult:
        return self.term(rollout)


def rollouts_of(name: str, cases: list[tuple[str, Sample]]) -> list[Rollout]:
    """Return the completions as the prompt interface of a recipe reads them."""
    arguments = dict(resolve(name).data["prompt_interface"])
    interface = build("prompt_interface", arguments.pop("name"), **arguments)
    completions = [Completion(text=text, frame=None) for text, _ in cases]
    return [
        Rollout(sample=sample, completion=completion, grounding=interface.parse(completion, sample.query.size))
        for completion, (_, sample) in zip(completions, cases, strict=True)
    ]


def isolation(rollouts: list[Rollout], runs: int) -> tuple[list[float], list[float]]:
    """Return the seconds of one term, in turn in this process and in a child."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    rubrics = {where: Rubric([Term("theirs", Theirs(where))]) for where in seconds}
    for _ in range(runs):
        for where, scorer in rubrics.items():
            start = time.perf_counter()
            scorer(rollouts)
            seconds[where].append(time.perf_counter() - start)
    return seconds[True], seconds[False]


def measure(name: str, cases: list[tuple[str, Sample]]) -> tuple[float, float]:
    """Return the seconds to parse all texts, and to score the results."""
    scorer = rubric(name)
    start = time.perf_counter()
    rollouts = rollouts_of(name, cases)
    read = time.perf_counter()
    scorer(rollouts)
    return read - start, time.perf_counter() - read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--completions", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    cases = pairs(given.completions)
    whole = []
    for name in RECIPES:
        times = [measure(name, cases) for _ in range(given.runs)]
        read, score = (statistics.median(column) for column in zip(*times, strict=True))
        total = statistics.median(sum(pair) for pair in times)
        whole.append(total)
        spread = f"{given.completions / max(map(sum, times)):,.0f} to {given.completions / min(map(sum, times)):,.0f}"
        print(
            f"{name:<24} {given.completions / total:>8,.0f} completions/s ({spread}, n={given.runs})   "
            f"reading {1e6 * read / given.completions:.0f} us, terms {1e6 * score / given.completions:.0f} us each"
        )
    here, apart = isolation(rollouts_of(RECIPES[0], cases), max(5, given.runs))
    cost = [child - own for own, child in zip(here, apart, strict=True)]
    allowed = max(0.1 * whole[0], 0.1)
    print(
        f"a term in a child        {1e3 * statistics.median(cost):.0f} ms beyond its own {1e3 * statistics.median(here):.0f} "
        f"({1e3 * min(cost):.0f} to {1e3 * max(cost):.0f}, n={len(cost)}); at most {1e3 * allowed:.0f} ms"
    )


if __name__ == "__main__":
    main()
