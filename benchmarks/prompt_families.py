"""Compare a prompt computed once with repeated rows in every family that the tests build: one row each.

    python benchmarks/prompt_families.py [name ...] [--out report.md]

Float32 on the CPU, every parameter trained, the vision tower too, four completions of 1 to 11 tokens. Differences: the largest
of a log-probability, and of the whole gradient as a share of its norm, for the group at once and one completion at a time.
FLOPs are those that torch counts, which leaves out the fused attention of the CPU.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "plugins" / "medground-qwen" / "tests"))

import other_families
import torch
from medground_qwen.factories import hf_vlm
from prompt_memory import gap
from qwen_inputs import conversation
from torch.utils.flop_counter import FlopCounterMode
from transformers.utils import logging

COMPLETIONS = [[5, 9, 30, 41, 7, 200, 61, 33, 12, 40, 41], [8, 8], [90, 91, 92, 93, 94, 95, 96, 97, 98], [17]]
TOLERANCE = 1e-5
Outcome = tuple[torch.Tensor, dict[str, torch.Tensor], int]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=sorted(other_families.BUILDERS))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    lines = [
        f"# A prompt computed once, by family; torch {version('torch')}, transformers {version('transformers')}",
        "",
    ]
    lines += [
        "| family | prompt | dlogp | gradient | gradient in parts of 1 | fewer FLOPs |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    print("\n".join(lines), flush=True)
    failed = []
    for name in given.names:
        row, worst = compared(name)
        lines.append(row)
        print(row, flush=True)
        failed += [name] if worst > TOLERANCE else []
    lines += ["", f"FAILED: {', '.join(failed)}" if failed else f"All differences are at most {TOLERANCE:g}."]
    print("\n".join(lines[-2:]))
    if given.out:
        given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if failed else 0


def compared(name: str) -> tuple[str, float]:
    """The row of a family, and its largest difference."""
    if reason := other_families.why_not(name):
        return f"| {name} | | | | | not built: {reason} |", 0.0
    with tempfile.TemporaryDirectory() as folder:
        other_families.write(name, Path(folder))
        reasoner = hf_vlm(checkpoint=folder, frame="permille", dtype="float32", device="cpu", train_vision=True)
    messages = conversation("Which of them is on the left?", 64, 64)
    found = [outcome(reasoner, reasoner.group(messages, COMPLETIONS), size) for size in (4, 1)]
    reasoner.share = False
    rows = reasoner.group(messages, COMPLETIONS)
    logp, gradients, flops = outcome(reasoner, rows, 4)
    apart = max(float((own - logp).abs().max()) for own, _, _ in found)
    gaps = [gap(own, gradients) for _, own, _ in found]
    saved = flops / found[1][2]
    cells = f"{rows.prompt_lengths[0]} | {apart:.1e} | {gaps[0]:.1e} | {gaps[1]:.1e} | {saved:.2f}x"
    return f"| {name} | {cells} |", max(apart, *gaps)


def outcome(reasoner: Any, group: Any, size: int) -> Outcome:
    """Log-probabilities, gradients and operations of a weighted sum, `size` completions at a time."""
    reasoner.model.zero_grad(set_to_none=True)
    weight = torch.randn(group.mask.shape, generator=torch.Generator().manual_seed(1))
    pad: Callable[..., torch.Tensor] = torch.nn.functional.pad
    rows = []
    with FlopCounterMode(display=False) as counter, reasoner.policy.prompt_once(group) as once:
        for start in range(0, len(group.ids), size):
            logp, _ = reasoner.policy(once.part(start, start + size))
            (logp * weight[start : start + size, : logp.shape[1]]).sum().backward()
            rows.append(pad(logp.detach(), (0, group.ids.shape[1] - logp.shape[1])))
    gradients = {name: p.grad.clone() for name, p in reasoner.model.named_parameters() if p.grad is not None}
    return torch.cat(rows), gradients, counter.get_total_flops()


if __name__ == "__main__":
    sys.exit(main())
