"""Measure the peak memory and the FLOPs of a group's update: repeated rows, the prompt once, and the prompt once in parts.

    python benchmarks/prompt_memory.py [--architecture qwen2_5_vl|qwen3_5] [--checkpointing] [--out report.md]

One query with P:C = 1500:300, 576 of the prompt's tokens visual, a language model of 4 layers with random weights in
float32, the vision tower frozen. The promises are those of an update without gradient checkpointing. Memory is what the
allocator held above weights and gradients, from torch's own events, so it does not depend on the machine.
All ways must give one gradient.
"""

import argparse
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from grpo_counting import FlopCount, peak_memory
from grpo_sides import Ours, freeze_vision, query_of, terms
from medground_qwen import tiny
from medground_qwen.calls import checkpoint_activations

PROMPT, COMPLETION, SIDE = 1500, 300, 24
WANTED = {8: 8.0, 16: 14.0}
"""How many times less memory parts of one completion take, by the size of the group."""
TOLERANCE = 1e-5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=("qwen2_5_vl", "qwen3_5"), default="qwen2_5_vl")
    parser.add_argument("--groups", nargs="+", type=int, default=[8, 16])
    parser.add_argument("--shrink", type=int, default=1, help="divide all lengths, to test the script")
    parser.add_argument("--checkpointing", action="store_true", help="compute activations again in the backward pass")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    model, kit = built(given.architecture)
    if given.checkpointing:
        checkpoint_activations(model.train())
    lines = [
        f"# A group's update, {given.architecture}, torch {version('torch')}, transformers {version('transformers')}",
        "",
    ]
    lines += [
        "| P:C | G | way | peak MiB | less | GFLOP | less | gradient apart |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    failed = []
    for group in given.groups:
        rows, short = measured(model, kit, group, given.shrink)
        lines += rows
        failed += [] if given.shrink > 1 or given.checkpointing else short
    lines += ["", "FAILED: " + "; ".join(failed) if failed else "Every promise holds."]
    print("\n".join(lines))
    if given.out:
        given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if failed else 0


def built(architecture: str) -> tuple[Any, Any]:
    """A small model whose vision tower is frozen, and its processor."""
    if architecture == "qwen3_5":
        from gpu_models import qwen3_5

        model, kit = qwen3_5("cpu", small=True)
    else:
        words = tiny.tokenizer()
        model = tiny.model("qwen2_5_vl", words, patch=8, hidden=256, layers=4)
        kit = tiny.processor("qwen2_5_vl", words, patch=8, max_side=512)
    return freeze_vision(model, train=False), kit


def measured(model: Any, kit: Any, group: int, shrink: int) -> tuple[list[str], list[str]]:
    """The rows of one group's size, and what falls short."""
    side, prompt, completion = SIDE // shrink, PROMPT // shrink, COMPLETION // shrink
    query = query_of(kit, visual=(side, side), text=prompt - side * side, lengths=[completion] * group, seed=0)
    objective = terms(completion)["dapo"].objective
    ways: dict[str, tuple[bool, int | None]] = {
        "repeated rows": (False, None), "prompt once": (True, None), "in parts of 4": (True, 4), "in parts of 1": (True, 1),
    }  # fmt: skip
    rows, failed, first = [], [], None
    for way, (share, part) in ways.items():
        ours = Ours(model, kit, [query], share=share, part=part)
        peak, flops, gradients = counted(model, lambda ours=ours: ours.update(objective))  # type: ignore[misc]
        first = first or (peak, flops, gradients)
        apart = gap(gradients, first[2])
        less = first[0] / peak
        rows.append(
            f"| {prompt}:{completion} | {group} | {way} | {peak / 2**20:.0f} | {less:.1f}x | {flops / 1e9:.1f} | "
            f"{first[1] / flops:.2f}x | {apart:.1e} |"
        )
        print(rows[-1], file=sys.stderr)
        if apart > TOLERANCE:
            failed.append(f"{way}, G={group}: gradient {apart:.1e}")
        if part == 1 and less < WANTED.get(group, 0.0):
            failed.append(f"{way}, G={group}: {less:.1f}x < {WANTED[group]}x")
    return rows, failed


def counted(model: Any, work: Callable[[], float]) -> tuple[int, int, dict[str, torch.Tensor]]:
    """Peak memory beside weights and gradients, FLOPs, and the gradients."""
    model.zero_grad(set_to_none=True)
    with FlopCount(*model.get_output_embeddings().weight.shape) as counter:
        work()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    peak = peak_memory(work)  # the gradients are there already
    return peak, counter.flops.body() + counter.flops.head, gradients


def gap(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The norm of the difference of all gradients, as a share of the norm of all."""
    apart = sum(float((found[name] - gradient).norm()) ** 2 for name, gradient in expected.items())
    return float((apart / sum(float(gradient.norm()) ** 2 for gradient in expected.values())) ** 0.5)


if __name__ == "__main__":
    sys.exit(main())
