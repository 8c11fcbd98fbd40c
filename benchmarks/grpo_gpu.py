"""Time a GRPO step on one GPU: TRL's GRPOTrainer at its best micro-batch, and ours with and without sharing.

    python benchmarks/grpo_gpu.py --out REPORT.md                 one large GPU: 3B-shaped random bf16 weights
    python benchmarks/grpo_gpu.py --tiny --device cpu             a small model, to test the script

Three parts: the update alone, on the same recorded completions, after a parity check; the rollout alone, with equal numbers
of tokens; the whole step. Same AdamW, sdpa and gradient checkpointing on all sides; one update per batch, no reference, the
dapo loss. Every figure is a median with its quartiles over the timed steps.
"""

import argparse
import gc
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")  # trl and datasets warn on import

import numpy as np  # noqa: E402
import torch  # noqa: E402
from grpo_sides import Ours, Query, Trl, query_of, small_model, terms  # noqa: E402
from medground_qwen import tiny  # noqa: E402
from medground_qwen.trainable import choose_trainable  # noqa: E402

TEXT = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One shape: visual tokens (rows, columns), text tokens, and the mean completion length."""

    visual: tuple[int, int]
    text: int
    completion: int
    group: int


def rows(groups: Sequence[int], *, small: bool) -> list[Row]:
    """What is timed: the usual shape, larger and smaller images, and where sharing gains little."""
    if small:
        return [Row(visual=(4, 4), text=40, completion=12, group=group) for group in groups]
    shapes = [((20, 20), TEXT, 300), ((30, 30), TEXT, 300), ((40, 40), TEXT, 300), ((30, 30), TEXT, 200)]
    shapes += [((30, 30), TEXT, 1000), ((10, 10), 200, 300)]  # long completions; a prompt of 300
    made = [Row(visual=v, text=t, completion=c, group=group) for v, t, c in shapes for group in groups]
    return sorted(made, key=lambda row: row != Row(visual=(30, 30), text=TEXT, completion=300, group=row.group))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small model and shape, float32")
    parser.add_argument(
        "--parts", nargs="+", choices=("update", "rollout", "step"), default=["update", "rollout", "step"]
    )
    parser.add_argument("--groups", nargs="+", type=int, default=[8, 16])
    parser.add_argument("--micro", nargs="+", type=int, default=[2, 4, 8, 16], help="TRL's rows per pass")
    parser.add_argument("--queries", type=int, default=2)
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    bench = Bench(given)
    for row in rows(given.groups, small=given.tiny):
        bench.row(row)
    bench.say("", "FAILED: parity" if bench.failed else "Parity held in every row.")
    sys.exit(1 if bench.failed else 0)


class Bench:
    """The model, and the report as it grows."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.failed = given, False
        self.file = given.out.open("w", encoding="utf-8") if given.out else None
        self.model, self.kit = small(given.device) if given.tiny else three_billion(given.device)
        choose_trainable(
            self.model, lora_rank=0, lora_alpha=None, adapter=None, train_vision=False, gradient_checkpointing=True
        )
        device = torch.cuda.get_device_name() if given.device.startswith("cuda") else "CPU"
        packages = ", ".join(f"{name} {version(name)}" for name in ("trl", "transformers", "torch", "medground"))
        size = sum(parameter.numel() for parameter in self.model.parameters()) / 1e9
        self.say(f"# A GRPO step in seconds, {date.today()}", "", f"{device}; {packages}; {' '.join(sys.argv)}", "")
        self.say(f"{size:.3g} B random parameters, {self.model.dtype}, vision tower frozen.", "")
        self.say("| part | V+T:C | G | queries | side | rows at once | seconds (quartiles) | peak GiB |")
        self.say("| --- | --- | --- | --- | --- | --- | --- | --- |")

    def say(self, *lines: str) -> None:
        for line in lines:
            print(line, flush=True)
            if self.file:
                print(line, file=self.file, flush=True)

    def row(self, row: Row) -> None:
        draw = np.random.default_rng(0)
        queries = []
        for seed in range(self.given.queries):
            lengths = draw.integers(2 * row.completion // 3, 4 * row.completion // 3 + 1, row.group).tolist()
            queries.append(query_of(self.kit, visual=row.visual, text=row.text, lengths=lengths, seed=seed))
        name = f"{row.visual[0] * row.visual[1]}+{row.text}:{row.completion} | {row.group} | {len(queries)}"
        # Back to transformers' own attention function, which sharing replaces, before TRL is timed.
        self.model.config.get_text_config()._attn_implementation = "sdpa"
        expected = None
        for micro in [micro for micro in self.given.micro if micro <= row.group and row.group % micro == 0]:
            expected = self._trl(name, queries, micro, row) or expected
        for share in (False, True):
            self._ours(name, queries, share, row, expected)

    def _trl(self, name: str, queries: list[Query], micro: int, row: Row) -> "Outcome | None":
        forbidden = Ours(self.model, self.kit, queries[:1], share=False).tokens.forbidden.tolist()
        exact = {"min_new_tokens": row.completion, "suppress_tokens": forbidden}
        settings = {**terms(row.completion)["dapo"].theirs, "gradient_checkpointing": True, "generation_kwargs": exact}
        trl = Trl(self.model, self.kit, queries, micro=micro, **settings)
        optimizer = adam(self.model)

        def step() -> None:
            trl.trainer.rollout_func, recorded = None, trl.trainer.rollout_func
            made = trl.inputs()
            trl.trainer.rollout_func = recorded
            trl.update(made)
            optimizer.step()
            optimizer.zero_grad()

        def update() -> None:
            trl.update(inputs)
            optimizer.step()
            optimizer.zero_grad()

        inputs = trl.inputs()
        outcome = outcome_of(self.model, lambda: trl.update(inputs))
        self._time(name, "TRL", micro, {"update": update, "rollout": trl.rollout, "step": step})
        return outcome

    def _ours(self, name: str, queries: list[Query], share: bool, row: Row, expected: "Outcome | None") -> None:
        objective = terms(row.completion)["dapo"].objective
        ours = Ours(self.model, self.kit, queries, share=share)
        optimizer = adam(self.model)
        self.model.train()

        def update() -> None:
            ours.update(objective)
            optimizer.step()
            optimizer.zero_grad()

        def rollout() -> None:
            self.model.eval()
            ours.rollout(row.completion)
            self.model.train()

        def step() -> None:
            self.model.eval()
            ours.resample(row.completion)
            self.model.train()
            update()

        if expected is not None:
            self._gate(name, expected, outcome_of(self.model, lambda: ours.update(objective)))
        side = "ours, shared" if share else "ours, repeated rows"
        self._time(name, side, row.group, {"update": update, "rollout": rollout, "step": step})

    def _gate(self, name: str, expected: "Outcome", found: "Outcome") -> None:
        apart, cosine = abs(found.loss - expected.loss), found.cosine(expected)
        held = apart <= 1e-3 and cosine > 0.9999
        self.failed |= not held
        self.say(f"| parity | {name} | loss apart {apart:.1e}, gradient cosine {cosine:.6f} | | | |")

    def _time(self, name: str, side: str, at_once: int, works: dict[str, Callable[[], Any]]) -> None:
        for part in self.given.parts:
            if side == "ours, repeated rows" and part == "rollout":
                continue  # sharing is of the update: our rollout is the same
            low, middle, high, peak = timed(works[part], self.given)
            self.say(f"| {part} | {name} | {side} | {at_once} | {middle:.3f} ({low:.3f}-{high:.3f}) | {peak:.2f} |")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Loss and gradients of one step."""

    loss: float
    gradients: dict[str, torch.Tensor]

    def cosine(self, other: "Outcome") -> float:
        """Between all gradients at once."""
        pairs = [(own.double(), other.gradients[name].double()) for name, own in self.gradients.items()]
        dot = sum(float((one * two).sum()) for one, two in pairs)
        square = [sum(float(pair[place].square().sum()) for pair in pairs) for place in (0, 1)]
        return dot / (square[0] * square[1]) ** 0.5


def outcome_of(model: Any, work: Callable[[], float]) -> Outcome:
    """Run an update without a step of the optimiser."""
    model.zero_grad()
    loss = work()
    # On the host: beside the weights and the optimiser's state they would count as memory of the sides.
    gradients = {name: p.grad.cpu().clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return Outcome(loss=loss, gradients=gradients)


def adam(model: Any) -> torch.optim.Optimizer:
    """The optimiser of every side; a learning rate of 0, so that all sides work on the same weights."""
    return torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.0)


def timed(work: Callable[[], Any], given: argparse.Namespace) -> tuple[float, float, float, float]:
    """Lower quartile, median and upper quartile in seconds, and the peak of allocated memory in GiB (0 on a CPU)."""
    gpu = given.device.startswith("cuda")
    gc.collect()
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for number in range(given.warm + given.steps):
        start = time.perf_counter()
        work()
        if gpu:
            torch.cuda.synchronize()
        if number >= given.warm:
            seconds.append(time.perf_counter() - start)
    low, middle, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
    return low, middle, high, torch.cuda.max_memory_allocated() / 2**30 if gpu else 0.0


def small(device: str) -> tuple[Any, Any]:
    """The model of the CPU benchmark."""
    model, words = small_model()
    return model.to(device), tiny.processor("qwen2_5_vl", words, patch=8, max_side=512)


def three_billion(device: str) -> tuple[Any, Any]:
    """Qwen2.5-VL-3B's sizes with random bfloat16 weights, made on the device; the tiny tokenizer's words."""
    import transformers

    words = tiny.tokenizer()
    config = tiny.model("qwen2_5_vl", words, patch=14).config
    text, vision = config.text_config, config.vision_config
    text.update({
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2, "max_position_embeddings": 32768,
        "layer_types": ["full_attention"] * 36, "initializer_range": 0.02, "max_window_layers": 36,
    })  # fmt: skip
    text.rope_parameters = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    vision.update({
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048,
        "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31], "initializer_range": 0.02,
    })  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForImageTextToText.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    return model.eval(), tiny.processor("qwen2_5_vl", words, patch=14, max_side=1400)


if __name__ == "__main__":
    main()
