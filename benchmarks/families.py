"""Measure what the tests of all families bound: one row each.

    python benchmarks/families.py [name ...] [--out report.md]

Float32 on the CPU, tiny models of random weights. Differences are the largest of a token's log-probability: of two questions
sampled together from the update and from each alone, and of transformers' own `generate` (peft's model, for an adapter) from
medground after an SFT step and an export.
"""

import argparse
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "plugins" / "medground-qwen" / "tests"))

import family_checks
import other_families
from medground_toy import phantoms
from transformers.utils import logging

import medground

TOLERANCE = 1e-5
HEAD = (
    "family", "sample - update", "together - alone", "SFT loss", "GRPO gradient", "moved of trained: weights", "LoRA",
    "export: weights", "LoRA merged", "LoRA in peft", "CPU s",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=sorted(other_families.BUILDERS))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    lines, failed = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"], False
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        phantoms.write(data, phantoms.samples(4, seed=0, size=(48, 48)))
        (data / "template.txt").write_text("{Question}", encoding="utf-8")
        for name in given.names:
            if reason := other_families.why_not(name):
                lines.append(f"| {name} | not built: {reason} |" + " |" * (len(HEAD) - 2))
                continue
            cells, gap = row(name, data, Path(scratch) / name)
            failed |= gap > TOLERANCE
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], file=sys.stderr, flush=True)
    packages = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "peft"))
    report = f"{packages}; seed 0; 2 questions of 3 completions, {family_checks.WRITTEN} tokens of an export\n\n"
    report += "\n".join(lines) + "\n"
    if given.out:
        given.out.write_text(report, encoding="utf-8")
    print(report)
    return int(failed)


def row(name: str, data: Path, scratch: Path) -> tuple[list[str], float]:
    """Return the cells of a family, and the largest difference among them."""
    start, checkpoint = time.process_time(), scratch / "checkpoint"
    other_families.write(name, checkpoint)
    sampled = family_checks.sampled(other_families.reasoner(name, checkpoint))
    losses, moves, gaps = [], [], []
    for rank in (0, 2):
        run, step = family_checks.train(name, checkpoint, data, scratch / f"sft-{rank}", method="sft", rank=rank)
        losses.append(step["loss"])
        trained = other_families.reasoner(name, checkpoint, **({"lora_rank": rank} if rank else {})).model
        moved, _ = family_checks.changed(trained, medground.load(run.folder).reasoner.model)
        count = sum(parameter.requires_grad for parameter in trained.parameters())
        moves.append(f"{len(moved)} of {count}")
        for adapter in ("merge", "separate") if rank else ("merge",):
            gaps.append(family_checks.exported(run.folder, checkpoint, scratch / f"{adapter}-{rank}", adapter))
    norms = [
        family_checks.train(name, checkpoint, data, scratch / f"grpo-{rank}", method="grpo", rank=rank)[1]["grad_norm"]
        for rank in (0, 2)
    ]
    seconds = time.process_time() - start
    alone = f"{sampled.alone:.1e}" if sampled.same else "other tokens"
    cells = [name, f"{sampled.update:.1e}", alone, f"{losses[0]:.2f}", f"{norms[0]:.2f} / {norms[1]:.2f}", *moves]
    worst = max(sampled.update, sampled.alone, *gaps) if sampled.same else float("inf")
    return [*cells, *(f"{gap:.1e}" for gap in gaps), f"{seconds:.0f}"], worst


if __name__ == "__main__":
    sys.exit(main())
