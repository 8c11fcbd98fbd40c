"""Measure how long one process takes to read completions and to score them with a rubric, in seconds of its CPU.

    python benchmarks/reward_throughput.py [--completions 2048] [--runs 15]

One step of the released recipe is 2 048 completions (128 queries, 16 each). Answers are the jittered truth, with the
share of malformed ones of a model early in training. Ours and the released rewards, soft and hard. Times are medians with the
garbage collector off, as `timeit` takes them, and with it on: a full collection looks at everything that the process holds.
Aims: 100 ms for soft and 150 ms for hard, on an idle core.

The last line is what it costs to run a term in a child, as a term of somebody else is run, beyond the term's own time: at most
10 % of scoring these completions or 100 ms, whichever is larger.
"""

import argparse
import gc
import json
import random
import statistics
import time

import numpy as np

from medground.geometry import Box, Point
from medground.protocols import PromptInterface
from medground.recipe import resolve
from medground.registry import build
from medground.rewards.rubric import Rubric, rubric
from medground.rewards.term import Term
from medground.types import Completion, Query, Region, RewardResult, Rollout, Sample, Target

RECIPES = ("train/soft", "train/hard", "train/base", "train/medreasoner_soft", "train/medreasoner_hard")
IMAGE = np.zeros((840, 840, 3), np.uint8)


def pairs(count: int) -> list[tuple[Completion, Sample]]:
    """Return completions with their samples: 16 of each query, one in ten malformed."""
    rng = random.Random(0)
    made: list[tuple[Completion, Sample]] = []
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
            cut = text[: rng.randrange(len(text))] if rng.random() < 0.1 else text
            made.append((Completion(text=cut, frame=None), sample))
    return made


class Theirs:
    """A term that medground does not ship: it calls one that it does."""

    needs_mask = False
    range = (0.0, 1.0)

    def __init__(self, in_process: bool) -> None:
        self.term, self.in_process = build("reward", "bbox_iou"), in_process

    def __call__(self, rollout: Rollout) -> RewardResult:
        return self.term(rollout)


def interface_of(name: str) -> PromptInterface:
    """Return the prompt interface of a recipe."""
    arguments = dict(resolve(name).data["prompt_interface"])
    interface: PromptInterface = build("prompt_interface", arguments.pop("name"), **arguments)
    return interface


def read(interface: PromptInterface, cases: list[tuple[Completion, Sample]]) -> list[Rollout]:
    """Return the completions as a prompt interface reads them."""
    return [
        Rollout(sample=sample, completion=completion, grounding=interface.parse(completion, sample.query.size))
        for completion, sample in cases
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


def measure(name: str, cases: list[tuple[Completion, Sample]]) -> tuple[float, float]:
    """Return the seconds of CPU to read all texts, and to score the results."""
    scorer, interface = rubric(name), interface_of(name)
    gc.collect()
    start = time.process_time()
    rollouts = read(interface, cases)
    middle = time.process_time()
    scorer(rollouts)
    return middle - start, time.process_time() - middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--completions", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=15)
    given = parser.parse_args()
    cases = pairs(given.completions)
    whole = []
    for name in RECIPES:
        collected = statistics.median(sum(measure(name, cases)) for _ in range(given.runs))
        gc.disable()
        times = [measure(name, cases) for _ in range(given.runs)]
        gc.enable()
        reading, scoring = (statistics.median(column) for column in zip(*times, strict=True))
        totals = [sum(pair) for pair in times]
        total = statistics.median(totals)
        whole.append(total)
        print(
            f"{name:<24} {1e3 * total:>4.0f} ms ({1e3 * min(totals):.0f} to {1e3 * max(totals):.0f}, n={given.runs}), "
            f"with the collector {1e3 * collected:.0f}   reading {1e3 * reading:.0f} ms, terms {1e3 * scoring:.0f} ms   "
            f"{given.completions / total:,.0f} completions/s"
        )
    here, apart = isolation(read(interface_of(RECIPES[0]), cases), max(5, given.runs))
    cost = [child - own for own, child in zip(here, apart, strict=True)]
    allowed = max(0.1 * whole[0], 0.1)
    print(
        f"a term in a child        {1e3 * statistics.median(cost):.0f} ms beyond its own {1e3 * statistics.median(here):.0f} "
        f"({1e3 * min(cost):.0f} to {1e3 * max(cost):.0f}, n={len(cost)}); at most {1e3 * allowed:.0f} ms"
    )


if __name__ == "__main__":
    main()
