"""Measure training on one GPU in a few minutes: exactness, time and memory, ours and TRL's.

    python benchmarks/gpu.py --out REPORT.md --budget 450         one large GPU: random bfloat16 weights of released sizes
    python benchmarks/gpu.py --out REPORT.md --budget 280 --quick the same, fewer rows
    python benchmarks/gpu.py --tiny --device cpu                  small models, to test the script
    python benchmarks/gpu.py --tiny --device cpu --parts launches count what the host launches

It needs torch, transformers, peft, what medground itself needs, and this repository; TRL is compared where it is installed.
Parts come in order of importance, and every row is printed as it is measured. What the budget has no time for is named.
Same AdamW, sdpa and gradient checkpointing on all sides; one update per batch, no reference, the dapo loss.
"""

import argparse
import copy
import importlib.util
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), *(str(folder) for folder in (ROOT / "plugins").iterdir())]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.simplefilter("ignore")  # trl and datasets warn on import

import gpu_launches  # noqa: E402
import gpu_models  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from gpu_bench import BROKEN, GIB, NAN, Bench, Shape, memory_of  # noqa: E402
from grpo_sides import Ours, Query, small_model, terms  # noqa: E402
from medground_qwen import tiny  # noqa: E402

torch.backends.cudnn.allow_tf32 = False  # float32 is compared with float32
CARD = 24 * GIB - 600 * 2**20
"""A card of 24 GB, less what CUDA takes for itself."""
HAS_TRL = importlib.util.find_spec("trl") is not None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models and shapes, float32")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="by default all")
    parser.add_argument("--quick", action="store_true", help="fewer rows, and the parts of most interest")
    parser.add_argument("--budget", type=float, default=450, help="seconds in all; what does not fit is skipped")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a row, after a warm one")
    parser.add_argument("--out", type=Path)
    bench = Bench(parser.parse_args(arguments))
    for part in bench.given.parts or (QUICK if bench.given.quick else PARTS):
        bench.run(part, PARTS[part])
    bench.say("", "FAILED: " + "; ".join(bench.failed) if bench.failed else "Everything that was compared is equal.")
    return 1 if bench.failed else 0


def exact(bench: Bench) -> None:
    """bfloat16 against float32 on full-width layers: sharing may add no error to that of repeated rows."""
    if bench.given.tiny:
        model, words = small_model()
        kit = tiny.processor("qwen2_5_vl", words, patch=8, max_side=512)
        model = model.to(bench.given.device).bfloat16()
    else:
        model, kit = gpu_models.qwen2_5_vl("3B", bench.given.device, layers=4)
    shape = replace(bench.shape, queries=1)
    queries, objective = shape.asked(kit), terms(shape.completion)["dapo"].objective

    def outcome(own: Any, share: bool, part: int | None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        own.zero_grad(set_to_none=True)
        side = Ours(own, kit, queries, share=share, part=part)
        with torch.no_grad():
            logp = side.policy(side.groups[0])[0]
        side.update(objective)
        return logp, {name: p.grad for name, p in own.named_parameters() if p.grad is not None}

    wide = copy.deepcopy(model).float()
    truth = outcome(wide, False, None)
    truth = truth[0], {name: gradient.clone() for name, gradient in truth[1].items()}
    for share, part, side in ((True, None, "shared"), (True, 1, "shared, parts of 1")):
        gap = gradient_gap(outcome(wide, share, part)[1], truth[1])
        bench.note("exact", f"float32, {side}: gradient differs from repeated rows by {gap:.1e} of its norm")
        if gap > 1e-5:
            bench.failed.append(f"float32 gradient of {side}: {gap:.1e}")
    gap = sampled_gap(wide, kit, queries)
    bench.note("exact", f"float32, sampled: log-probabilities differ from the update's by at most {gap:.1e}")
    if gap > 1e-4:
        bench.failed.append(f"float32 log-probabilities of what was sampled: {gap:.1e}")
    del wide
    bench.clear()
    errors = {}
    for share, part, side in ((False, None, "repeated rows"), (True, None, "shared"), (True, 1, "shared, parts of 1")):
        logp, gradients = outcome(model, share, part)
        mask = truth[0] != 0
        errors[side] = float((logp - truth[0])[mask].abs().mean()), gradient_gap(gradients, truth[1])
        bench.note(
            "exact",
            f"bfloat16 against float32, {side}: mean |dlogp| {errors[side][0]:.2e}, gradient {errors[side][1]:.2e}",
        )
    for side in ("shared", "shared, parts of 1"):
        for own, rows, what in zip(
            errors[side], errors["repeated rows"], ("log-probabilities", "gradient"), strict=True
        ):
            if own > 1.5 * rows:
                bench.failed.append(f"bfloat16 {what} of {side}: {own:.1e} against {rows:.1e} of repeated rows")


def gradient_gap(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The norm of the difference of all gradients, as a share of the norm of all."""
    apart = sum(float((found[name].float() - gradient).norm()) ** 2 for name, gradient in expected.items())
    return float((apart / sum(float(gradient.norm()) ** 2 for gradient in expected.values())) ** 0.5)


def sampled_gap(model: Any, kit: Any, queries: Sequence[Query]) -> float:
    """The largest difference between log-probabilities as they were sampled and as the update computes them."""
    side = Ours(model, kit, queries, share=True)
    (group,) = side.rollout(24)
    with torch.no_grad():
        logp, _ = side.reasoner.policy(side.reasoner.group(queries[0].messages(), [one.ids for one in group]))
    return float((logp.cpu() - torch.tensor([one.logprobs for one in group])).abs().max())


def update(bench: Bench) -> None:
    """The update of a 4B model: ours shared, in parts, with repeated rows, and TRL at several micro-batches."""
    require(bench, "4B")
    wide = replace(bench.shape, group=16)
    if bench.given.quick:
        bench.medians = compare(bench, "update", bench.shape, parts=(None,), micros=(16,))
        compare(bench, "update", wide, parts=(None,), micros=(8,), rows=False, steps=2)
        return
    bench.medians = compare(bench, "update", bench.shape, parts=(None, 4, 1), micros=(4, 8, 16))
    compare(bench, "update", wide, parts=(None, 4, 1), micros=(8,))


def windows(bench: Bench) -> None:
    """The update of a 3B model whose vision tower computes windows one by one."""
    require(bench, "3B")
    compare(bench, "windows", bench.shape, parts=(None,), micros=(8,), steps=2)


def long(bench: Bench) -> None:
    """Long completions, where sharing saves less."""
    require(bench, "4B")
    shape = replace(bench.shape, completion=24 if bench.given.tiny else 1000)
    compare(bench, "long", shape, parts=(None,), micros=(4,), steps=2)


def compare(
    bench: Bench,
    part: str,
    shape: Shape,
    *,
    parts: Sequence[int | None],
    micros: Sequence[int],
    rows: bool = True,
    steps: int | None = None,
) -> dict[str, float]:
    """Print rows of both sides on the same recorded completions, and how many times faster ours is; return each side's best.

    Args:
        bench: the clock and the report.
        part: of the benchmark.
        shape: what is trained on.
        parts: completions of ours that run backward together; None for the whole group.
        micros: rows of TRL that do.
        rows: measure our repeated rows too.
        steps: how often each is timed; what the command line says if None.
    """
    times: dict[str, list[float]] = {"ours": [], "ours, repeated rows": [], "TRL": []}
    outcomes, guess = {}, 0.0
    sizes: list[tuple[str, int | None]] = [("ours", size) for size in parts]
    sizes += [("ours, repeated rows", min(8, shape.group))] if rows else []
    sizes += [("TRL", micro) for micro in micros if HAS_TRL]
    for side, size in sizes:
        if bench.left < 3 * guess:
            bench.say(
                f"| {part} | {shape.name} | {side} | {size or shape.group} | | | skipped: {bench.left:.0f} s left |"
            )
            continue
        try:
            if side == "TRL":
                _, work = bench.trl(shape, size or shape.group)
            else:
                _, work = bench.ours(shape, share=side == "ours", part=size)
            if side not in outcomes:
                outcomes[side] = outcome_of(bench.model, work)
            step_of = bench.step_of(work)
            times[side].append(bench.row(part, shape, side, size or shape.group, step_of, guess=guess, steps=steps))
        except BROKEN as error:
            bench.broken(f"{part}, {side}", error)
            continue
        guess = guess if math.isnan(times[side][-1]) else times[side][-1]
    best = {side: min((one for one in own if not math.isnan(one)), default=NAN) for side, own in times.items()}
    for side in ("ours, repeated rows", "TRL"):
        if not math.isnan(best[side] / best["ours"]):
            loss, cosine = difference(outcomes[side], outcomes["ours"])
            same = f"losses apart {loss:.1e}, gradient cosine {cosine:.6f}"
            bench.note(part, f"**{best[side] / best['ours']:.2f}x** faster than {side} at G={shape.group}; {same}")
            if not cosine > ALIKE:
                bench.failed.append(f"{part}: the gradient of {side} has cosine {cosine:.4f} with ours")
    return best


WATCHED = ("layers.0.self_attn.q_proj.weight", "layers.1.mlp.down_proj.weight", "language_model.norm.weight")
"""Gradients that are compared between sides: all of a large model's would not fit twice."""
ALIKE = 0.99
"""The least cosine of two sides' gradients; rounding to bfloat16 differs with the order of sums."""


def outcome_of(model: Any, work: Callable[[], float]) -> tuple[float, torch.Tensor]:
    """Loss and some gradients of an update without a step of the optimizer."""
    model.train()
    model.zero_grad(set_to_none=True)
    loss = work()
    some = [p.grad.flatten().float() for name, p in model.named_parameters() if name.endswith(WATCHED)]
    model.zero_grad(set_to_none=True)
    return loss, torch.cat(some)


def difference(found: tuple[float, torch.Tensor], expected: tuple[float, torch.Tensor]) -> tuple[float, float]:
    """How far the losses of two sides are apart, and the cosine of their gradients."""
    cosine = torch.nn.functional.cosine_similarity(found[1].double(), expected[1].double(), dim=0)
    return abs(found[0] - expected[0]), float(cosine)


SAMPLED = (20, 100)
"""Tokens for which sampling is timed; each further one takes as long as the next. The first run of the longer is not
counted: a kernel that is planned for each number of keys would be planned by the side that is timed first."""


def step(bench: Bench) -> None:
    """Sampling, all completions of both queries together on both sides, and the whole step with the updates measured before."""
    require(bench, "4B")
    shape, whole = bench.shape, dict[str, float]()
    for name, sampler in {"ours": sampler_of_ours, **({"TRL": sampler_of_trl} if HAS_TRL else {})}.items():
        sample = sampler(bench)
        first = bench.seconds(lambda sample=sample: sample(SAMPLED[1]))  # type: ignore[misc]
        few, many = (bench.seconds(lambda count=count, sample=sample: sample(count)) for count in SAMPLED)  # type: ignore[misc]
        each = (many - few) / (SAMPLED[1] - SAMPLED[0])
        sampling = many + (shape.completion - SAMPLED[1]) * each
        whole[name] = sampling + bench.medians.get(name, NAN)
        bench.note(
            "step",
            f"{name}: sampling {SAMPLED[0]} tokens {few:.2f} s, {SAMPLED[1]} tokens {many:.2f} s (the first time {first:.2f}"
            f" s), so {shape.completion} tokens {sampling:.2f} s, {1000 * each:.1f} ms each; with the update"
            f" {whole[name]:.2f} s",
        )
    if not math.isnan(whole.get("TRL", NAN) / whole["ours"]):
        bench.note("step", f"**{whole['TRL'] / whole['ours']:.2f}x** faster than TRL, the whole step")


def sampler_of_ours(bench: Bench) -> Callable[[int], None]:
    """What samples so many tokens for every completion of a step, with our attention."""
    side, _ = bench.ours(bench.shape, share=True, part=None)

    def sample(count: int) -> None:
        bench.model.eval()
        for query in side.queries:
            side.reasoner.encode(query.messages())
        side.rollout(count)

    return sample


def sampler_of_trl(bench: Bench) -> Callable[[int], None]:
    """The same with TRL's trainer and transformers' attention."""
    side, _ = bench.trl(bench.shape, 8)

    def sample(count: int) -> None:
        side.trainer.generation_config.min_new_tokens = side.trainer.generation_config.max_new_tokens = count
        side.rollout()

    return sample


def card(bench: Bench) -> None:
    """What fits a card of 24 GB: a LoRA adapter of rank 16 on a 7B model, no more memory allowed than such a card has."""
    bench.load("7B", lora_rank=16)
    with memory_of(bench, CARD):
        sides: tuple[tuple[bool, int | None], ...] = ((True, None), (True, 1), (False, 1), (False, 4))
        for group, (share, size) in product((8, 16), sides[:3] if bench.given.quick else sides):
            shape = replace(bench.shape, group=group, queries=1)
            _, work = bench.ours(shape, share=share, part=size)
            side = "ours" if share else "ours, repeated rows"
            guess = 0.0 if bench.given.tiny else 2.0
            steps = 1 if bench.given.quick else None
            bench.row("24 GB", shape, side, size or group, bench.step_of(work), guess=guess, steps=steps)


def hybrid(bench: Bench) -> None:
    """A model of gated delta nets and attention; its kernels are transformers' plain ones where no others are installed.

    Those launch thousands of small operations for a prompt and again for its completions, whose recurrent states begin
    where the prompt's end. A host that is slower than the device then gains nothing by sharing.
    """
    bench.load("hybrid")
    compare(bench, "hybrid", bench.shape, parts=(None,), micros=(), steps=2)


def segmenter(bench: Bench) -> None:
    """The segmenter in the reward: one image's boxes decoded together after one encoding, and each with its own."""
    sam, boxes = gpu_models.sam(bench.given.device, small=bench.given.tiny)
    count, draw = len(boxes), np.random.default_rng(0)
    images = iter(draw.integers(0, 255, ((count + 1) * (bench.given.steps + 1), 600, 800, 3), np.uint8))  # none twice
    once = bench.row("segmenter", None, "one encoding", count, lambda: sam.segment(next(images), boxes))
    alone = bench.row("segmenter", None, "one each", 1, lambda: [sam.segment(next(images), [box]) for box in boxes])
    bench.note("segmenter", f"**{alone / once:.1f}x** faster for {count} boxes of one image")


def profile(bench: Bench) -> None:
    """How long the device computes in one update of each side, and what; the rest of a step it waits for the host."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    require(bench, "4B")
    sides = {"ours": lambda: bench.ours(bench.shape, share=True, part=None)[1]}
    if HAS_TRL:
        sides["TRL"] = lambda: bench.trl(bench.shape, 16)[1]
    device = "cuda" if bench.gpu else "cpu"
    for name, side in sides.items():
        work = side()  # each when its turn has come: both set the model's attention function
        bench.model.train()
        work()
        with watch(activities=[getattr(ProfilerActivity, device.upper())]) as watched:
            work()
            if bench.gpu:
                torch.cuda.synchronize()
        bench.model.zero_grad(set_to_none=True)
        events = watched.key_averages()
        key = "self_device_time_total" if bench.gpu else "self_cpu_time_total"
        busy = sum(getattr(event, key) for event in events) / 1e6
        count = sum(event.count for event in events if getattr(event, key))
        step = bench.medians.get(name, NAN)
        bench.note("profile", f"{name}: {count} kernels run for {busy:.3f} s in an update; a step takes {step:.3f} s")
        table = events.table(sort_by=key.replace("device", device), row_limit=8, max_name_column_width=60)
        bench.say("", f"One update of {name}:", "", *(f"    {line}" for line in table.splitlines()), "")


def launches(bench: Bench) -> None:
    """What the host launches in an update and for each sampled token, a graph that is played left out."""
    require(bench, "4B")
    sides: dict[str, Callable[[], Callable[[], Any]]] = {
        "ours": lambda: bench.ours(bench.shape, share=True, part=None)[1],
        "ours, parts of 4": lambda: bench.ours(bench.shape, share=True, part=4)[1],
        "ours, repeated rows": lambda: bench.ours(bench.shape, share=False, part=None)[1],
    }
    if HAS_TRL:
        sides["TRL, 16 rows"] = lambda: bench.trl(bench.shape, 16)[1]
    for name, side in sides.items():
        work = side()
        bench.model.train()
        counts = gpu_launches.launches(work)
        most = ", ".join(f"{operation} {count}" for operation, count in counts.most_common(6))
        bench.note("launches", f"an update of {name}: {counts.total()}; {most}")
        bench.model.zero_grad(set_to_none=True)
    for name, sampler in {"ours": sampler_of_ours, **({"TRL": sampler_of_trl} if HAS_TRL else {})}.items():
        sample = sampler(bench)
        few, many = (
            gpu_launches.launches(lambda count=count, sample=sample: sample(count)).total()  # type: ignore[misc]
            for count in (4, 12)
        )
        bench.note("launches", f"a token of {name}: {(many - few) / 8:.0f}")


def require(bench: Bench, size: str) -> None:
    """Load a model where the part before has not."""
    if bench.size != size:
        bench.load(size)


PARTS: dict[str, Callable[[Bench], None]] = {
    "exact": exact, "update": update, "step": step, "long": long, "segmenter": segmenter, "hybrid": hybrid, "card": card,
    "windows": windows, "profile": profile, "launches": launches,
}  # fmt: skip
"""In order of importance."""
QUICK = ("exact", "update", "step", "card", "profile", "hybrid")


if __name__ == "__main__":
    sys.exit(main())
