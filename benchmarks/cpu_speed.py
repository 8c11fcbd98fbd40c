"""Time sampling and a GRPO step on a CPU in interleaved pairs, beside transformers, TRL, and one question after the other.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/cpu_speed.py [--sizes small large] [--pairs 5] [--out report.md]

Each pair runs both ways one after the other, in alternating order, so that a drift of the machine meets both. The ratio of a
row is the geometric mean of the pairs' ratios, with a 95 % interval from resampled pairs (seed 0). P = 300, 256 of them the
image's; 8 completions of 48 tokens a question, none of which ends early. The exit code is 1 if a promised ratio is missed.
"""

import argparse
import copy
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from grpo_sides import Ours, Query, Trl, freeze_vision, terms
from image_tree import Shape, questions_of
from medground_qwen import tiny
from medground_qwen.generate import Tokens, sample

SIZES = {"small": {"hidden": 128, "layers": 4}, "large": {"hidden": 1024, "layers": 8}}
"""About 0.8 and 93 million parameters."""
SHAPE = Shape(visual=(16, 16), text=60, completion=48)
PROMISED = {
    ("small", "sampler"): 1.5,
    ("large", "sampler"): 5.0,
    ("large", "questions"): 1.5,
    ("large", "step"): 3.0,
    ("small", "step"): 3.0,
}
TITLES = {
    "sampler": "our sampler, one question, beside transformers' generate(num_return_sequences=8)",
    "questions": "four questions of one image together, beside one by one",
    "step": "a GRPO step on four questions of one image, sampling and update, beside TRL's",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two ways of the same work."""

    size: str
    kind: str
    theirs: Callable[[], Any]
    ours: Callable[[], Any]
    tokens: int
    """Sampled by each."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--kinds", nargs="+", choices=TITLES, default=list(TITLES))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument(
        "--tokens", type=int, default=SHAPE.completion, help="of a completion; fewer to test the script"
    )
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    lines = [
        f"# CPU, interleaved pairs; {torch.get_num_threads()} thread, torch {version('torch')}, transformers "
        f"{version('transformers')}, trl {version('trl')}",
        "",
        "| parameters | what | pairs | times as fast | 95 % | promised | tokens a second, ours | theirs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    failed = []
    for size in given.sizes:
        model, kit = built(**SIZES[size])
        count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        for pair in pairs(size, model, kit, given.tokens, given.kinds):
            theirs, ours = timed(pair, given.pairs)
            mean, low, high = interval(theirs / ours)
            promised = PROMISED.get((size, pair.kind))
            lines.append(
                f"| {count:.1f} M | {TITLES[pair.kind]} | {given.pairs} | {mean:.2f} | {low:.2f} to {high:.2f} | "
                f"{promised or '-'} | {pair.tokens / np.median(ours):.1f} | {pair.tokens / np.median(theirs):.1f} |"
            )
            print(lines[-1], file=sys.stderr)
            if promised and mean < promised:
                failed.append(f"{count:.1f} M, {pair.kind}: {mean:.2f} < {promised}")
    lines += ["", "FAILED: " + "; ".join(failed) if failed else "Every promise holds."]
    print("\n".join(lines))
    if given.out:
        given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if failed else 0


def built(*, hidden: int, layers: int) -> tuple[Any, Any]:
    """A model with random weights whose vision tower is frozen, and its processor."""
    words = tiny.tokenizer()
    model = tiny.model("qwen2_5_vl", words, patch=8, hidden=hidden, layers=layers)
    return freeze_vision(model, train=False), tiny.processor("qwen2_5_vl", words, patch=8, max_side=512)


def pairs(size: str, model: Any, kit: Any, tokens: int, kinds: Sequence[str]) -> list[Pair]:
    """The three comparisons with one model."""
    queries = questions_of(kit, replace(SHAPE, completion=tokens))
    ours = Ours(copy.deepcopy(model), kit, queries, share=True, tree=True)
    endless = Tokens(end=frozenset(), pad=ours.tokens.pad, forbidden=ours.tokens.forbidden)
    one_question, questions = SHAPE.group * tokens, SHAPE.group * tokens * SHAPE.questions

    def sampled(first: int, count: int) -> Any:
        prompts = [group.prompt for group in ours.groups[first : first + count]]
        seeds = [[100 * number + row for row in range(SHAPE.group)] for number in range(first, first + count)]
        return sample(ours.model, prompts, seeds, endless, temperature=1.0, max_tokens=tokens)

    together = {
        "sampler": lambda: Pair(
            size=size, kind="sampler", theirs=generation(ours, tokens), ours=lambda: sampled(0, 1), tokens=one_question
        ),
        "questions": lambda: Pair(
            size=size,
            kind="questions",
            theirs=lambda: [sampled(number, 1) for number in range(SHAPE.questions)],
            ours=lambda: sampled(0, SHAPE.questions),
            tokens=questions,
        ),
        "step": lambda: steps(size, model, kit, queries, tokens, questions),
    }
    return [together[kind]() for kind in kinds]


def generation(ours: Ours, tokens: int) -> Callable[[], Any]:
    """transformers' own sampling of one question."""
    prompt = ours.groups[0].prompt
    inputs = {
        "input_ids": prompt.ids[None],
        "attention_mask": torch.ones_like(prompt.ids)[None],
        **{key: column[None] for key, column in prompt.per_token.items()},
        **prompt.image,
    }

    def generate() -> Any:
        with torch.no_grad():
            return ours.model.generate(
                **inputs, do_sample=True, top_k=0, num_return_sequences=SHAPE.group, max_new_tokens=tokens,
                min_new_tokens=tokens, suppress_tokens=ours.tokens.forbidden.tolist(), pad_token_id=ours.tokens.pad,
            )  # fmt: skip

    return generate


def steps(size: str, model: Any, kit: Any, queries: Sequence[Query], tokens: int, sampled: int) -> Pair:
    """Sampling and update of one step on both sides; each samples its own completions and trains on recorded ones."""
    ours = Ours(copy.deepcopy(model), kit, queries, share=True, tree=True)
    exact = {"min_new_tokens": tokens, "suppress_tokens": ours.tokens.forbidden.tolist()}
    term = terms(tokens)["dapo"]
    trl = Trl(copy.deepcopy(model), kit, queries, micro=SHAPE.group, **term.theirs, generation_kwargs=exact)
    inputs = trl.inputs()

    def theirs() -> None:
        trl.trainer.model.zero_grad()
        trl.rollout()
        trl.update(inputs)

    def own() -> None:
        ours.model.zero_grad()
        ours.rollout(tokens)
        ours.update(term.objective)

    return Pair(size=size, kind="step", theirs=theirs, ours=own, tokens=sampled)


def timed(pair: Pair, count: int) -> tuple[Any, Any]:
    """Seconds of both ways, [count] each, after one unmeasured run of each."""
    works = {"theirs": pair.theirs, "ours": pair.ours}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for order in itertools.islice(itertools.cycle((("theirs", "ours"), ("ours", "theirs"))), count):
        for name in order:
            start = time.perf_counter()
            works[name]()
            seconds[name].append(time.perf_counter() - start)
    return np.array(seconds["theirs"]), np.array(seconds["ours"])


def interval(ratios: Any) -> tuple[float, float, float]:
    """Geometric mean and its 95 % interval over resampled pairs."""
    logs = np.log(ratios)
    means = np.random.default_rng(0).choice(logs, (10_000, len(logs))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high))


if __name__ == "__main__":
    sys.exit(main())
