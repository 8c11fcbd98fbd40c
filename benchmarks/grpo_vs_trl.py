"""Count the cost of one optimization step of GRPO: TRL's GRPOTrainer, and ours with and without a shared prompt.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/grpo_vs_trl.py [--quick] [--out REPORT.md]

Parity first: on the same weights, prompts, completions and rewards, loss and every gradient must equal TRL's. Then costs
are counted; wall-clock ratios of the same run are shown beside them. The exit code is 1 if parity or one of the promised
ratios fails. benchmarks/README.md explains the report.
"""

import argparse
import copy
import math
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler talks
warnings.simplefilter("ignore")  # trl and datasets warn on import

import torch  # noqa: E402
from grpo_arithmetic import BIG, update_ratio  # noqa: E402
from grpo_counting import FlopCount, Flops, Seen, peak_memory, watched  # noqa: E402
from grpo_sides import Ours, Parity, Query, Trl, freeze_vision, query_of, small_model, terms  # noqa: E402
from medground_qwen import tiny  # noqa: E402

TOLERANCE = 1e-5
PROMISED = {(8, False): 3.5, (16, False): 4.4, (8, True): 4.2, (16, True): 5.4}
"""How many times fewer FLOPs, by completions per group and whether the vision tower trains."""
SIDES = ("TRL", "ours, repeated rows", "ours, shared")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One step's shape: prompts of `visual` + `text` tokens, completions of `lengths`."""

    visual: tuple[int, int]
    text: int
    completion: int
    shortest: int | None = None
    group: int = 8
    vision: bool = False
    """Whether the vision tower trains."""
    queries: int = 2
    repeats: int = 3
    """How often it is timed; 0 to count only."""
    promised: bool = False
    note: str = ""

    @property
    def prompt(self) -> int:
        return self.visual[0] * self.visual[1] + self.text

    @property
    def name(self) -> str:
        return f"{self.prompt}:{self.completion}" + (f" {self.note}" if self.note else "")

    def lengths(self) -> list[int]:
        """The longest first, then evenly down to the shortest."""
        low = self.shortest or self.completion
        return [round(self.completion - (self.completion - low) * i / (self.group - 1)) for i in range(self.group)]


FULL = {"visual": (30, 30), "text": 600, "completion": 300, "queries": 1, "repeats": 0, "promised": True}
FIFTH = {"visual": (12, 15), "text": 120, "completion": 60, "promised": True}
GRID = [{"group": group, "vision": vision} for vision in (False, True) for group in (8, 16)]
SHAPES = [Shape(**FIFTH, **cell) for cell in GRID] + [
    Shape(visual=(12, 15), text=120, completion=60, shortest=40, note="ragged 40-60"),
    Shape(visual=(12, 15), text=120, completion=400, queries=1, repeats=1, note="long completions"),
    Shape(visual=(6, 6), text=24, completion=200, queries=1, repeats=1, note="short prompt"),
]
LONG = [Shape(**{**FULL, "repeats": int(cell == GRID[0])}, **cell) for cell in GRID]


@dataclass(slots=True)
class Cost:
    """One side of one step."""

    seen: Seen
    flops: Flops
    scored: int
    """Positions whose logits are made."""
    wanted: int
    """Positions whose logits are needed: the completions' tokens."""
    head: int
    """FLOPs of one position's logits, forward and backward."""
    peak: int
    seconds: float = math.nan

    def total(self, *, visible: bool = False, scored: int | None = None) -> int:
        """FLOPs; logits of the completions' positions unless another number of positions is given."""
        return self.flops.body(visible=visible) + self.head * (self.wanted if scored is None else scored)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out the shapes at full length")
    parser.add_argument("--out", type=Path, help="write the report there too")
    given = parser.parse_args()
    start = time.perf_counter()
    report = Report(given.out)
    report.add(*_heading())
    failed = _gate(report)
    model, words = small_model()
    kit = tiny.processor("qwen2_5_vl", words, patch=8, max_side=512)
    measured = {}
    for shape in SHAPES + ([] if given.quick else LONG):
        measured[shape] = _update(model, kit, shape)
        print(f"counted {shape.name} G={shape.group} vision={shape.vision}", file=sys.stderr)
    failed += _report_update(report, measured)
    failed += _report_rollout(report, model, kit, given.quick)
    _report_memory(report, model, kit)
    report.add("", f"{'FAILED: ' + '; '.join(failed) if failed else 'Everything promised holds.'}")
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    sys.exit(1 if failed else 0)


class Report:
    """Lines on stdout and, at once, in a file."""

    def __init__(self, path: Path | None) -> None:
        self.file = path.open("w", encoding="utf-8") if path else None

    def add(self, *lines: str) -> None:
        for line in lines:
            print(line, flush=True)
            if self.file:
                print(line, file=self.file, flush=True)


def _heading() -> list[str]:
    packages = ", ".join(f"{name} {version(name)}" for name in ("trl", "transformers", "torch", "medground"))
    return [
        f"# One GRPO step, TRL against medground, {date.today()}",
        "",
        f"{packages}; {platform.machine()}, CPU, float32, {torch.get_num_threads()} thread(s). "
        f"`python benchmarks/grpo_vs_trl.py{' --quick' if '--quick' in sys.argv else ''}`",
    ]


def _gate(report: Report) -> list[str]:
    """Loss and gradients of every loss both sides have; the failures."""
    report.add("", "## Parity", "", "| loss | beta | old policy | loss differs by | worst gradient differs by |")
    report.add("| --- | --- | --- | --- | --- |")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        parity = Parity(Path(folder))
        for name in terms(1):
            for beta, drift in ((0.0, 0.0), (0.0, 0.5), (0.1, 0.5)):
                found = parity.compare(name, beta=beta, drift=drift)
                old = "another" if drift else "the same"
                report.add(f"| {name} | {beta:g} | {old} | {found.loss:.1e} | {found.gradient:.1e} |")
                if not max(found.loss, found.gradient) <= TOLERANCE:
                    failed.append(f"parity of {name} with beta {beta:g}")
    report.add("", f"{found.gradients} gradients each, the vision tower's among them; tolerance {TOLERANCE:g}.")
    if failed:
        report.add("", f"FAILED: {'; '.join(failed)}; costs of unequal things are not compared.")
        sys.exit(1)
    return failed


def _queries(kit: Any, shape: Shape) -> list[Query]:
    return [
        query_of(kit, visual=shape.visual, text=shape.text, lengths=shape.lengths(), seed=seed)
        for seed in range(shape.queries)
    ]


def _works(
    model: Any, kit: Any, shape: Shape, micro: int | None = None
) -> Iterator[tuple[str, Any, Callable[[], float]]]:
    """Each side's update of the same step: its name, its model, and the work."""
    queries, term = _queries(kit, shape), terms(shape.completion)["dapo"]
    own = freeze_vision(copy.deepcopy(model), train=shape.vision)
    trl = Trl(own, kit, queries, micro=micro or shape.group, **term.theirs)
    inputs = trl.inputs()
    yield SIDES[0], own, lambda: trl.update(inputs)
    for share, name in ((False, SIDES[1]), (True, SIDES[2])):
        own = freeze_vision(copy.deepcopy(model), train=shape.vision)
        ours = Ours(own, kit, queries, share=share, part=micro)
        yield name, own, lambda ours=ours: ours.update(term.objective)  # type: ignore[misc]


def _update(model: Any, kit: Any, shape: Shape) -> dict[str, Cost]:
    costs = {name: _count(name, own, work, shape) for name, own, work in _works(model, kit, shape)}
    if not shape.repeats:
        return costs
    # On a CPU rows that fit its caches are faster: TRL, and ours with repeated rows, at the best of several micro-batches.
    timed = []
    for rows in (2, 4, shape.group):
        works = list(_works(model, kit, shape, rows))
        timed += [(name, rows, own, work) for name, own, work in works if name != SIDES[2] or rows == shape.group]
    seconds: dict[tuple[str, int], list[float]] = {(name, rows): [] for name, rows, _, _ in timed}
    for _ in range(shape.repeats):  # in turn, so that a drift of the machine meets all of them
        for name, rows, own, work in timed:
            own.zero_grad()
            start = time.perf_counter()
            work()
            seconds[name, rows].append(time.perf_counter() - start)
    for name, cost in costs.items():
        cost.seconds = min(statistics.median(found) for (side, _), found in seconds.items() if side == name)
    return costs


def _count(name: str, own: Any, work: Callable[[], float], shape: Shape) -> Cost:
    vocabulary, hidden = own.get_output_embeddings().weight.shape
    with watched(own) as seen, FlopCount(vocabulary, hidden) as counter:
        peak = peak_memory(work)
    wanted = shape.queries * sum(shape.lengths())
    every = shape.queries * shape.group * (shape.prompt + shape.completion - 1)
    scored = every if name == "TRL" else wanted
    if counter.flops.head != 8 * scored * vocabulary * hidden:  # one forward, once more in the backward, two gradients
        raise RuntimeError(f"{name}'s head made {counter.flops.head} FLOPs, not those of {scored} positions")
    return Cost(seen=seen, flops=counter.flops, scored=scored, wanted=wanted, head=6 * vocabulary * hidden, peak=peak)


def _report_update(report: Report, measured: dict[Shape, dict[str, Cost]]) -> list[str]:
    report.add("", "## Update: counted", "")
    report.add("| P:C | G | vision | queries | side | images encoded | tokens | linear | attention | head | peak MiB |")
    report.add("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for shape, costs in measured.items():
        for name, cost in costs.items():
            flops = [cost.flops.linear, cost.flops.attention, cost.head * cost.scored]
            report.add(
                f"| {_where(shape)} | {shape.queries} | {name} | {cost.seen.images} | {cost.seen.tokens} | "
                f"{' | '.join(f'{count / 1e9:.2f}' for count in flops)} | {cost.peak / 2**20:.0f} |"
            )
    report.add("", "FLOPs in 10^9, forward and backward, recomputation not counted.")
    report.add("", "## Update: how many times less", "")
    report.add(
        "| P:C | G | vision | **FLOPs** | promised | visible keys only | without head | TRL's head as run | tokens | "
        "peak memory | wall clock | wall clock, unshared |"
    )
    report.add("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    failed = []
    for shape, costs in measured.items():
        trl, repeated, shared = (costs[name] for name in SIDES)
        ratio = trl.total() / shared.total()
        promised = PROMISED[shape.group, shape.vision] if shape.promised else None
        failed += _check(shape, shared, ratio, promised)
        others = (
            trl.total(visible=True) / shared.total(visible=True),
            trl.total(scored=0) / shared.total(scored=0),
            trl.total(scored=trl.scored) / shared.total(),
            trl.seen.tokens / shared.seen.tokens,
            trl.peak / shared.peak,
            trl.seconds / shared.seconds,
            trl.seconds / repeated.seconds,
        )
        cells = ["-" if math.isnan(other) else f"{other:.2f}" for other in others]
        report.add(f"| {_where(shape)} | **{ratio:.2f}** | {promised or '-'} | {' | '.join(cells)} |")
    report.add("", "## The same arithmetic for large models, P:C = 1500:300, 900 of the prompt's tokens visual", "")
    report.add(
        "| model | G=8, frozen | G=16, frozen | G=8, trained | G=16, trained |", "| --- | --- | --- | --- | --- |"
    )
    for name, big in BIG.items():
        cells = [update_ratio(big, visual=900, text=600, completion=300, **cell) for cell in GRID]
        report.add(f"| {name} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    report.add("", "Computed from the published sizes, over visible keys; not measured.")
    return failed


def _check(shape: Shape, shared: Cost, ratio: float, promised: float | None) -> list[str]:
    failed = [f"{shared.seen.images} images for {shape.queries} queries"] if shared.seen.images != shape.queries else []
    if promised and ratio < promised:
        failed.append(f"{shape.name} G={shape.group} vision={shape.vision}: {ratio:.2f} < {promised}")
    return failed


def _where(shape: Shape) -> str:
    return f"{shape.name} | {shape.group} | {'trained' if shape.vision else 'frozen'}"


def _report_rollout(report: Report, model: Any, kit: Any, quick: bool) -> list[str]:
    """Transformers' generate as TRL calls it, and ours, the same number of new tokens."""
    report.add("", "## Rollout", "", "| P:C | G | queries | side | images encoded | prompt tokens prefilled | FLOPs |")
    report.add("| --- | --- | --- | --- | --- | --- | --- |")
    shapes = [Shape(**FIFTH, group=8), Shape(**FIFTH, group=16)] + ([] if quick else [Shape(**FULL, group=8)])
    pace, failed = [], []
    for shape in shapes:
        queries, own = _queries(kit, shape), copy.deepcopy(model)
        ours = Ours(own, kit, queries, share=True)
        exact = {"min_new_tokens": shape.completion, "suppress_tokens": ours.tokens.forbidden.tolist()}
        settings = {**terms(shape.completion)["dapo"].theirs, "generation_kwargs": exact}
        trl = Trl(copy.deepcopy(model), kit, queries, micro=shape.group, **settings)
        sampled: list[tuple[str, Any, Callable[[], Any]]] = [
            ("TRL", trl.trainer.model, trl.rollout),
            ("ours", own, lambda ours=ours, shape=shape: ours.rollout(shape.completion)),  # type: ignore[misc]
        ]
        took = {}
        for name, net, work in sampled:
            with watched(net) as seen, FlopCount(*net.get_output_embeddings().weight.shape) as counter:
                work()
            if name == "ours" and seen.images != shape.queries:
                failed.append(f"{seen.images} images in a rollout of {shape.queries} queries")
            total = counter.flops.body() + counter.flops.head
            report.add(
                f"| {shape.name} | {shape.group} | {shape.queries} | {name} | {seen.images} | {seen.prefilled} | "
                f"{total / 1e9:.2f} |"
            )
            start = time.perf_counter()
            work()
            took[name] = time.perf_counter() - start
        pace.append(f"{took['TRL'] / took['ours']:.2f} ({shape.name}, G={shape.group})")
    report.add(
        "", f"Wall clock, how many times less: {', '.join(pace)}. Decoding dominates it, and both sides decode alike."
    )
    return failed


def _report_memory(report: Report, model: Any, kit: Any) -> None:
    """What either side pays for less memory: TRL with smaller micro-batches, ours with parts of the group."""
    shape = Shape(**{**FIFTH, "queries": 1})
    report.add("", f"## Memory against FLOPs, {shape.name}, G={shape.group}, vision frozen", "")
    report.add("| rows at once | " + " | ".join(f"{name}: MiB | GFLOP" for name in SIDES) + " |")
    report.add("| --- |" + " --- | --- |" * len(SIDES))
    for rows in (8, 4, 2, 1):
        costs = [_count(name, own, work, shape) for name, own, work in _works(model, kit, shape, rows)]
        cells = [f"{cost.peak / 2**20:.0f} | {cost.total() / 1e9:.2f}" for cost in costs]
        report.add(f"| {rows} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
