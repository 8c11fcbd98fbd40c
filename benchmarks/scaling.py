"""What ranks say to one another, and how evenly work falls to them: counted on gloo, on CPUs, with a tiny real model.

    python benchmarks/scaling.py [--ranks 2] [--out FILE.md]

Bytes are the payloads handed to torch.distributed per optimiser step and rank, by operation; they are what ZeRO's
arithmetic says, whatever the network, so they are compared with it: with P parameters of w bytes, stages 1 and 2 hand in
the gradients and gather the weights, stage 3 gathers the weights in every pass too. Seconds on shared CPUs mean nothing
and are not given.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

STEPS = 3
OPERATIONS = (
    "all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_single", "_all_gather_base", "reduce", "broadcast",
    "reduce_scatter", "reduce_scatter_tensor", "_reduce_scatter_base", "all_to_all_single",
)  # fmt: skip
SHARDED = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}


def count_payloads():
    """Have every collective of torch.distributed note the bytes it is handed; returns the counter."""
    import torch
    import torch.distributed as dist

    bytes_of, depth = Counter(), [0]

    def payload(given):
        if isinstance(given, torch.Tensor):
            return given.nbytes
        return sum(payload(each) for each in given) if isinstance(given, list | tuple) else 0

    def counted(name, operation):
        def call(*given, **named):
            if not depth[0]:  # one is made of another
                bytes_of[name] += max([payload(each) for each in (*given, *named.values())], default=0)
            depth[0] += 1
            try:
                return operation(*given, **named)
            finally:
                depth[0] -= 1

        return call

    for name in OPERATIONS:
        if hasattr(dist, name):
            setattr(dist, name, counted(name, getattr(dist, name)))
    return bytes_of


def child(folder, stage):
    """One rank: a few GRPO steps; prints what it counted."""
    payloads = count_payloads()
    from medground.recipe import resolve
    from medground.training.build import build
    from medground.training.launcher import exit_process
    from medground.training.method import TrainingState

    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["engine"] = {"name": "deepspeed", "stage": stage, "shared_memory": False, "config": SHARDED}
    made = build(resolve(recipe))
    engine = made.engine
    passes = Counter()
    made.method.policy.register_forward_hook(
        lambda module, given, out: passes.update(tokens=tokens_of(given[0]), passes=1)
    )
    groups, state = 0, TrainingState()
    for step in range(STEPS + 1):
        if step == 1:  # the first one makes buffers
            payloads.clear()
            passes.clear()
            groups = 0
        result = made.method.step(state, lambda: None)
        state.step, state.drawn = state.step + 1, state.drawn + result.drawn
        groups += -(-(made.method.config.train_batch_size - engine.rank) // engine.world_size)
    found = engine.gather({"groups": groups, **passes, "payloads": dict(payloads)})
    if engine.rank == 0:
        print(
            json.dumps(
                {"stage": stage, "parameters": made.parameters, "trained": made.trained_parameters, "ranks": found}
            )
        )
    engine.shutdown()
    exit_process(0)


def tokens_of(group):
    return sum(group.prompt_lengths) + int(group.mask.sum())


def prepare(folder, batch):
    """A tiny Qwen3-VL, phantoms, and a recipe about both."""
    from medground_qwen import tiny
    from medground_toy import phantoms

    words = tiny.tokenizer()
    model = tiny.model("qwen3_vl", words, patch=8, hidden=128, layers=4)
    tiny.save(folder / "model", model, tiny.processor("qwen3_vl", words, patch=8, max_side=64))
    phantoms.write(folder / "data", phantoms.samples(4 * batch, seed=0, size=(64, 64)))
    (folder / "template.txt").write_text("{Question}", encoding="utf-8")
    recipe = {
        "reasoner": {
            "name": "qwen3_vl", "checkpoint": str(folder / "model"), "dtype": "float32", "device": "cpu",
            "train_vision": True,
        },
        "prompt_interface": {"name": "bbox", "template": str(folder / "template.txt")},
        "data": {"path": str(folder / "data")},
        "rewards": {"format_think": 1},
        "grpo": {
            "num_generations": 4, "train_batch_size": batch, "mini_batch_size": batch, "max_completion_length": 24,
            "beta": 0.01, "learning_rate": 1e-4, "max_steps": 100,
        },
    }  # fmt: skip
    (folder / "recipe.json").write_text(json.dumps(recipe))


def report(rows, ranks, batch):
    """The figures as Markdown."""
    today = datetime.date.today().isoformat()
    parameters, trained = rows[0]["parameters"], rows[0]["trained"]
    lines = [
        f"# Scaling, counted ({today})",
        "",
        f"`python benchmarks/scaling.py --ranks {ranks} --batch {batch}`: {ranks} gloo ranks, tiny Qwen3-VL in float32 with",
        f"{parameters:,} parameters ({4 * parameters / 1e6:.2f} MB), {trained:,} of them trained; {batch} queries a step, 4",
        f"completions each, one optimiser update; means of {STEPS} steps after the first. Python {platform.python_version()}.",
        "",
        "| ZeRO | payload per step and rank, MB | over the weights | largest operations |",
        "|---|---|---|---|",
    ]
    for row in rows:
        total = Counter()
        for rank in row["ranks"]:
            total.update(rank["payloads"])
        per_step = {name: value / STEPS / ranks for name, value in total.items()}
        whole = sum(per_step.values())
        largest = ", ".join(f"{name} {value / 1e6:.2f}" for name, value in Counter(per_step).most_common(3))
        lines.append(f"| {row['stage']} | {whole / 1e6:.2f} | {whole / (4 * parameters):.2f} | {largest} |")
    lines += ["", "| rank | queries | forward passes | tokens in them |", "|---|---|---|---|"]
    for number, rank in enumerate(rows[-1]["ranks"]):
        lines.append(f"| {number} | {rank['groups']} | {rank['passes']} | {rank['tokens']:,} |")
    tokens = [rank["tokens"] for rank in rows[-1]["ranks"]]
    lines += [
        "",
        f"The busiest rank computes {max(tokens) / (sum(tokens) / len(tokens)):.3f} times the mean. Forward passes are equal",
        "on all ranks, as they must be; those that only keep the others company are a prompt and one token.",
        "",
        "Payloads are counted where they are handed to `torch.distributed`: an `all_reduce` of n bytes counts n, a gather the",
        "whole of what is gathered. What crosses the wire is up to twice that (ring), and less for the part a rank has.",
        "",
    ]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(Path(given.child[0]), int(given.child[1]))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), given.batch)
        for stage in (1, 2, 3):
            start = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node",
                str(given.ranks),
            ]
            done = subprocess.run(
                [*start, __file__, "--child", name, str(stage)], stdout=subprocess.PIPE, text=True, check=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
            )  # fmt: skip
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    text = report(rows, given.ranks, given.batch)
    print(text)
    if given.out:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
