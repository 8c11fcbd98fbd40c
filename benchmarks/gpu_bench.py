"""The clock, the report and the model in hand of `gpu.py`."""

import argparse
import gc
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import gpu_models
import numpy as np
import torch
from grpo_sides import Ours, Query, Trl, query_of, small_model, terms
from medground_qwen import tiny
from medground_qwen.trainable import choose_trainable

GIB = 2**30
NAN = float("nan")
BROKEN = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ImportError, OSError, AssertionError)
"""What a part or a side of it may end in, on a machine that is lent once, without ending the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What is trained on: visual tokens (rows, columns), text tokens, the mean completion length, the group."""

    visual: tuple[int, int] = (30, 30)
    text: int = 600
    completion: int = 300
    group: int = 8
    queries: int = 2

    @property
    def name(self) -> str:
        return f"{self.visual[0] * self.visual[1]}+{self.text}:{self.completion} | {self.group} | {self.queries}"

    def asked(self, kit: Any) -> list[Query]:
        """Queries with recorded completions of unequal length."""
        draw = np.random.default_rng(0)
        low, high = 2 * self.completion // 3, 4 * self.completion // 3 + 1
        lengths = [draw.integers(low, high, self.group).tolist() for _ in range(self.queries)]
        return [
            query_of(kit, visual=self.visual, text=self.text, lengths=own, seed=seed)
            for seed, own in enumerate(lengths)
        ]


SMALL = Shape(visual=(4, 4), text=40, completion=12)


class Bench:
    """The clock, the report as it grows, and the model in hand."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.start = given, time.perf_counter()
        self.gpu = given.device.startswith("cuda")
        self.failed: list[str] = []
        self.file = given.out.open("w", encoding="utf-8") if given.out else None
        self.model: Any = None
        self.kit: Any = None
        self.size = ""
        self.medians: dict[str, float] = {}
        self.shape = SMALL if given.tiny else Shape()
        device = torch.cuda.get_device_name() if self.gpu else "CPU"
        packages = ", ".join(f"{name} {_version(name)}" for name in ("torch", "transformers", "peft", "trl"))
        self.say(f"# Training on one GPU, {date.today()}", "", f"{device}; {packages}; {' '.join(sys.argv)}", "")
        self.say("Peak memory: in all, and in brackets beyond weights and optimizer.", "")
        self.say("| part | V+T:C | G | queries | side | rows at once | seconds (lowest, highest; n) | peak GiB | |")
        self.say("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return float(self.given.budget - (time.perf_counter() - self.start))

    def say(self, *lines: str) -> None:
        for line in lines:
            print(line, flush=True)
            if self.file:
                print(line, file=self.file, flush=True)

    def note(self, part: str, text: str) -> None:
        self.say(f"| {part} | | | | | | | | {text} ({time.perf_counter() - self.start:.0f} s) |")

    def broken(self, part: str, error: BaseException) -> None:
        """Say what a part or a side ended in."""
        traceback.print_exception(error)
        self.note(part, f"**broken**: {type(error).__name__}: {' '.join(str(error).split())[:160]}")
        if not isinstance(error, torch.OutOfMemoryError):
            self.failed.append(f"{part} is broken")
        self.clear()

    def run(self, part: str, work: "Callable[[Bench], None]") -> None:
        """Run a part; one that breaks is a failure of the run, and the others go on."""
        if self.left <= 0:
            self.note(part, "skipped: no time left")
            return
        try:
            work(self)
        except BROKEN as error:
            self.broken(part, error)
            return
        self.note(part, "done")

    def row(
        self,
        part: str,
        shape: Shape | None,
        side: str,
        rows: int,
        work: Callable[[], Any],
        *,
        guess: float = 0.0,
        steps: int | None = None,
    ) -> float:
        """Time `work` after a warm run and print a row; return the median in seconds, NaN where there was no time or memory.

        Args:
            part: of the benchmark.
            shape: what is trained on.
            side: who computes.
            rows: completions that run together.
            work: one step.
            guess: seconds that a step is thought to take.
            steps: how often it is timed; what the command line says if None.
        """
        where = f"| {part} | {shape.name if shape else ' | | '} | {side} | {rows} |"
        if self.left < 2 * guess:
            self.say(f"{where} | | skipped: {self.left:.0f} s left |")
            return NAN
        self.clear()
        try:
            work()
            held = torch.cuda.memory_allocated() if self.gpu else 0
            seconds = [self.seconds(work)]
            while len(seconds) < (steps or self.given.steps) and self.left > seconds[-1]:
                seconds.append(self.seconds(work))
        except torch.OutOfMemoryError:
            self.say(f"{where} | | no memory |")
            return NAN
        peak = torch.cuda.max_memory_allocated() if self.gpu else 0
        middle = statistics.median(seconds)
        spread = f"{middle:.3f} ({min(seconds):.3f}, {max(seconds):.3f}; {len(seconds)})"
        self.say(f"{where} {spread} | {peak / GIB:.2f} ({(peak - held) / GIB:.2f}) | |")
        return middle

    def seconds(self, work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        work()
        if self.gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def clear(self) -> None:
        gc.collect()
        if self.gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def load(self, size: str, **trained: Any) -> None:
        """Put a model in the place of the one in hand, with what trains of it."""
        for parameter in self.model.parameters() if self.model is not None else ():
            parameter.grad, parameter.data = None, torch.empty(0)  # whoever still holds it
        self.model, self.size = None, size
        self.clear()
        held = f"; {torch.cuda.memory_allocated() / GIB:.2f} GiB were held before it" if self.gpu else ""
        if self.given.tiny:
            model, words = small_model()
            self.model, self.kit = (
                model.to(self.given.device),
                tiny.processor("qwen2_5_vl", words, patch=8, max_side=512),
            )
        elif size == "hybrid":
            self.model, self.kit = gpu_models.qwen3_5(self.given.device, small=False)
        elif size == "4B":
            self.model, self.kit = gpu_models.qwen3_vl(self.given.device)
        else:
            self.model, self.kit = gpu_models.qwen2_5_vl(size, self.given.device)
        if self.given.tiny and size == "hybrid":
            self.model, self.kit = gpu_models.qwen3_5(self.given.device, small=True)
        settings = {"lora_rank": 0, "gradient_checkpointing": True, **trained}
        choose_trainable(self.model, lora_alpha=None, adapter=None, train_vision=False, **settings)
        count = sum(parameter.numel() for parameter in self.model.parameters()) / 1e9
        self.note(
            "model", f"{size}: {count:.3g} B random parameters, {self.model.dtype}, {settings}, vision frozen{held}"
        )

    def step_of(self, update: Callable[[], Any]) -> Callable[[], None]:
        """One update with its step of AdamW; a learning rate of 0, so that all sides work on the same weights."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=0.0)

        def step() -> None:
            self.model.train()
            update()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def ours(self, shape: Shape, *, share: bool, part: int | None) -> tuple[Ours, Callable[[], float]]:
        side = Ours(self.model, self.kit, shape.asked(self.kit), share=share, part=part)
        objective = terms(shape.completion)["dapo"].objective
        return side, lambda: side.update(objective)

    def trl(self, shape: Shape, micro: int) -> tuple[Trl, Callable[[], float]]:
        """TRL's side; its transformers' attention function is put back, which ours replaces."""
        self.model.config.get_text_config()._attn_implementation = "sdpa"
        queries = shape.asked(self.kit)
        forbidden = Ours(self.model, self.kit, queries[:1], share=False).tokens.forbidden.tolist()
        self.model.config.get_text_config()._attn_implementation = "sdpa"
        exact = {"min_new_tokens": shape.completion, "suppress_tokens": forbidden}
        settings = {
            **terms(shape.completion)["dapo"].theirs,
            "gradient_checkpointing": True,
            "generation_kwargs": exact,
        }
        side = Trl(self.model, self.kit, queries, micro=micro, **settings)
        self.model.disable_input_require_grads()  # no gradient enters the frozen tower, on any side
        inputs = side.inputs()
        return side, lambda: side.update(inputs)


@contextmanager
def memory_of(bench: Bench, most: int) -> Iterator[None]:
    """Enter to be refused more of the device's memory than `most` bytes."""
    if bench.gpu:
        torch.cuda.set_per_process_memory_fraction(min(1.0, most / torch.cuda.get_device_properties(0).total_memory))
    try:
        yield
    finally:
        if bench.gpu:
            torch.cuda.set_per_process_memory_fraction(1.0)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
