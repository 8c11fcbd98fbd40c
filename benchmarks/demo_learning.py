"""Does a tiny vision-language model learn to ground, and does GRPO then teach it what SFT did not?

    python benchmarks/demo_learning.py --seed 0 [--sft-steps N] [--grpo-steps N] [--out FILE.jsonl]

A Qwen3-VL of random weights learns by SFT, with a trace, to box the *core* of the lesion that a question is about. Then
GRPO, with neither trace nor target text, moves it to another convention: core and margin. Every picture holds two lesions,
so the question decides. Times are CPU-seconds of this process.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from medground_qwen import tiny
from medground_qwen.families import QWEN3_VL
from medground_qwen.reasoner import VisionLanguageReasoner
from medground_toy.phantoms import phantom
from medground_toy.questions import QUESTIONS

from medground.geometry import Box, box_iou, mask_box, mask_dice
from medground.graph import RolloutGraph
from medground.grpo.advantage import advantages
from medground.grpo.loss import Objective, denominator, policy_loss
from medground.recipe import resolve
from medground.rubric import rubric
from medground.types import Sample, Sampling, Target

SIDE = 64
"""Pictures are this many px a side; the model sees them in patches of 8."""
PLACES = ("upper left", "upper right", "lower left", "lower right")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclass(frozen=True)
class Pair:
    """One question about one picture, with the truth by both conventions."""

    core: Sample
    whole: Sample


def drawn(count: int, seed: int, families: Sequence[str], shapes: Any) -> list[Pair]:
    """Every lesion of `count` pictures, the families in turn; what has no core has no second convention."""
    found = []
    for index in range(count):
        state = np.random.SeedSequence([seed, index])
        family, one_seed = families[index % len(families)], int(state.generate_state(1)[0])
        one = phantom(family, one_seed, size=(SIDE, SIDE), shapes=shapes)
        for sample, region in zip(one.samples, one.regions, strict=True):
            if region.core is not None:
                core = Target(box=mask_box(region.core), points=(), mask=region.core)
                found.append(Pair(replace(sample, target=core), sample))
    return found


def trace(sample: Sample) -> str:
    """What the SFT reasons: what is meant, and roughly where it is."""
    x, y = sample.target.box.centre
    return f"{sample.labels['category']}, {PLACES[2 * (y > SIDE / 2) + (x > SIDE / 2)]}"


def build(seed: int, families: Sequence[str], chosen: Any) -> tuple[VisionLanguageReasoner, Any]:
    """A reasoner of random weights, and the resolved recipe around it."""
    template = Path(tempfile.mkdtemp()) / "question.txt"
    template.write_text("<image>\n{Question}", encoding="utf-8")
    recipe = resolve(
        {
            "prompt_interface": {"name": "bbox", "template": str(template)},
            "segmenter": chosen.segmenter,
            "rewards": {"format_seg": 0.2, "bbox_iou": 1, "mask_dice": chosen.mask},
        }
    )
    categories = sorted({pair.core.labels["category"] for pair in drawn(40, 0, families, "round")})
    asked = [
        f"<|im_start|>user\n{question.format(place=place, there=f'{place} part of the picture', tone=tone)}"
        for category in categories
        for question in QUESTIONS[category]
        for place in ("left", "right", "upper", "lower")
        for tone in ("bright", "dark")
    ]
    answers = [f'{category}, {place}{{"bbox": [1, ]}}\nassistant\n' for category in categories for place in PLACES]
    ticks = [int(np.ceil(tick * 1000 / SIDE - 0.5)) for tick in range(SIDE + 1)]
    words = tiny.tokenizer(asked + 10 * answers, vocabulary=chosen.vocabulary, numbers=ticks, tags=TAGS)
    model = tiny.model(
        "qwen3_vl", words, patch=8, seed=seed, hidden=chosen.hidden, layers=chosen.layers, grid=SIDE // 8
    )
    kit = tiny.processor("qwen3_vl", words, patch=8, max_side=SIDE)
    return VisionLanguageReasoner(model, kit, QWEN3_VL), recipe


class Trial:
    """One seed: a reasoner, its data, and what was measured."""

    def __init__(self, chosen: Any) -> None:
        self.chosen = chosen
        torch.set_num_threads(1)
        families = chosen.families.split(",")
        self.reasoner, self.recipe = build(chosen.seed, families, chosen)
        self.graph = RolloutGraph(self.recipe, rubric(self.recipe))
        self.interface = self.graph.grounding.prompt_interface
        self.rng = np.random.default_rng(chosen.seed)
        self.pool = drawn(chosen.pool, 1000 + chosen.seed, families, chosen.shapes)
        self.held = drawn(chosen.held, chosen.held_seed, families, chosen.shapes)
        self.say("ready", parameters=sum(p.numel() for p in self.reasoner.model.parameters()), pool=len(self.pool))

    def say(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, "cpu_s": round(time.process_time(), 1), **_rounded(values)})
        print(line, flush=True)
        if self.chosen.out:
            with self.chosen.out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def draws(self, count: int, convention: str) -> Iterator[list[Sample]]:
        """Batches without end: the pool in random order, each pair in either convention."""
        order: list[int] = []
        while True:
            while len(order) < count:
                order += self.rng.permutation(len(self.pool)).tolist()
            batch, order = order[:count], order[count:]
            yield [getattr(self.pool[i], convention) for i in batch]

    def optimiser(self, rate: float) -> torch.optim.AdamW:
        return torch.optim.AdamW(self.reasoner.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01)

    def update(self, optimiser: torch.optim.Optimizer, rate: float) -> None:
        torch.nn.utils.clip_grad_norm_(list(self.reasoner.parameters()), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        optimiser.zero_grad()

    def sft(self) -> None:
        chosen, reasoner = self.chosen, self.reasoner
        optimiser, batches = self.optimiser(chosen.sft_rate), self.draws(chosen.sft_batch, "core")
        losses = []
        for step in range(chosen.sft_steps):
            batch = next(batches)
            targets = [
                reasoner.tokenize(
                    self.interface.answer(
                        each.target, trace(each), frame=reasoner.frame(each.query.size), size=each.query.size
                    )
                )
                for each in batch
            ]
            rows = reasoner.rows([self.interface.render(each.query) for each in batch], targets)
            logp, _ = reasoner.policy(rows)
            loss = -logp.sum() / rows.mask.sum()
            loss.backward()
            losses.append(float(loss))
            through = step / chosen.sft_steps
            rate = chosen.sft_rate * min(1.0, (step + 1) / 50) * (0.02 + 0.98 * (1 + np.cos(np.pi * through)) / 2)
            self.update(optimiser, rate)
            if (step + 1) % chosen.every == 0:
                self.say("sft", step=step + 1, loss=np.mean(losses[-chosen.every :]), **self.glance("core"))

    def grpo(self) -> None:
        chosen, reasoner, objective = self.chosen, self.reasoner, Objective()
        optimiser, batches = self.optimiser(chosen.grpo_rate), self.draws(chosen.queries, "whole")
        seen = []
        for step in range(chosen.grpo_steps):
            batch = next(batches)
            messages = [self.interface.render(each.query) for each in batch]
            sampling = Sampling(
                num_generations=chosen.group, temperature=chosen.temperature, max_completion_length=chosen.length
            )
            seeds = [hash((chosen.seed, step, place)) % 2**40 for place in range(len(batch))]
            completions = reasoner.sample(messages, sampling, seeds)
            scored = self.graph.score(batch, completions)
            rewards = torch.tensor([[float(score.total) for score in group.scores] for group in scored])
            gains = advantages(rewards, scale=chosen.scale)
            groups = [reasoner.group(*pair) for pair in zip(messages, completions, strict=True)]
            below = sum(denominator(objective, group.mask) for group in groups)
            for group, gain in zip(groups, gains, strict=True):
                if bool(gain.any()):
                    logp, _ = reasoner.policy(group, chosen.temperature)
                    (policy_loss(objective, logp, gain, group.mask)[0] / below).backward()
            decay = 1 - 0.9 * max(0.0, step / chosen.grpo_steps - 0.5) * 2
            self.update(optimiser, chosen.grpo_rate * min(1.0, (step + 1) / 5) * decay)
            seen.append(float(rewards.mean()))
            if (step + 1) % chosen.grpo_every == 0:
                self.say("grpo", step=step + 1, reward=np.mean(seen[-chosen.grpo_every :]), **self.glance("whole"))

    def answers(self, pairs: Sequence[Pair], shuffled: bool = False) -> tuple[list[Box | None], Any]:
        """Greedy boxes, and the groups by the core convention."""
        asked = [pair.core.query for pair in pairs]
        if shuffled:
            questions = np.random.default_rng(0).permutation([query.question for query in asked])
            asked = [replace(query, question=str(text)) for query, text in zip(asked, questions, strict=True)]
        sampling = Sampling(temperature=0.0, max_completion_length=self.chosen.length)
        completions = self.reasoner.generate([self.interface.render(query) for query in asked], sampling)
        groups = self.graph.score([pair.whole for pair in pairs], completions)
        prompts = [group.rollouts[0].grounding.prompt for group in groups]
        return [prompt.box if prompt else None for prompt in prompts], groups

    def glance(self, convention: str) -> dict[str, float]:
        """A quick look at 64 held-out questions."""
        pairs = self.held[:64]
        boxes, _ = self.answers(pairs)
        return {"iou": ious(boxes, pairs, convention).mean(), "valid": np.mean([box is not None for box in boxes])}

    def measure(self, when: str) -> dict[str, np.ndarray]:
        """Everything on all held-out questions."""
        pairs = self.held
        boxes, groups = self.answers(pairs)
        found = {convention: ious(boxes, pairs, convention) for convention in ("core", "whole")}
        shuffled, _ = self.answers(pairs, shuffled=True)
        found["shuffled"] = found["whole"] - ious(shuffled, pairs, "whole")
        found["shuffled_core"] = found["core"] - ious(shuffled, pairs, "core")
        found["dice"] = np.array(
            [
                float(mask_dice(group.rollouts[0].mask.data, pair.whole.target.mask)) if group.rollouts[0].mask else 0.0
                for group, pair in zip(groups, pairs, strict=True)
            ]
        )
        valid = np.mean([group.rollouts[0].grounding.fault is None for group in groups])
        texts = [group.rollouts[0].completion.text for group in groups[:3]]
        self.say(when, n=len(pairs), valid=valid, texts=texts, **{key: interval(each) for key, each in found.items()})
        return found

    def baselines(self) -> None:
        """A box in the middle, and of the training boxes the one that fits the others best."""
        for convention in ("core", "whole"):
            seen = [getattr(pair, convention).target.box for pair in self.pool[:300]]
            best = max(seen, key=lambda box: sum(float(box_iou(box, other)) for other in seen))
            middle = Box(SIDE / 4, SIDE / 4, 3 * SIDE / 4, 3 * SIDE / 4)
            for name, box in (("constant", best), ("centre", middle)):
                found = ious([box] * len(self.held), self.held, convention)
                self.say("baseline", name=name, convention=convention, box=list(box), iou=interval(found))


def ious(boxes: Sequence[Box | None], pairs: Sequence[Pair], convention: str) -> np.ndarray:
    """Box IoU with the truth of a convention; no answer is 0."""
    truths = [getattr(pair, convention).target.box for pair in pairs]
    return np.array(
        [0.0 if box is None else float(box_iou(box, truth)) for box, truth in zip(boxes, truths, strict=True)]
    )


def interval(values: np.ndarray) -> list[float]:
    """The mean and its 95 % percentile bootstrap interval over questions; of differences, it is paired."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (4000, len(values)))].mean(axis=1)
    return [float(values.mean()), *np.quantile(means, (0.025, 0.975)).tolist()]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(float(value), 4) if isinstance(value, float) else value


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", default="plain")
    parser.add_argument("--shapes", default="irregular", choices=("irregular", "round"))
    parser.add_argument("--pool", type=int, default=2000, help="pictures")
    parser.add_argument("--held", type=int, default=80, help="pictures")
    parser.add_argument("--held-seed", type=int, default=99)
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=700)
    parser.add_argument("--sft-steps", type=int, default=1300)
    parser.add_argument("--sft-batch", type=int, default=16)
    parser.add_argument("--sft-rate", type=float, default=1.2e-3)
    parser.add_argument("--every", type=int, default=200)
    parser.add_argument("--grpo-steps", type=int, default=60)
    parser.add_argument("--grpo-every", type=int, default=10)
    parser.add_argument("--grpo-rate", type=float, default=2e-4)
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--group", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--scale", default="group")
    parser.add_argument("--segmenter", default="ellipse")
    parser.add_argument("--mask", type=float, default=0.5, help="weight of the mask term")
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--start", type=Path, help="weights to start from instead of SFT")
    parser.add_argument("--save", type=Path, help="where to write the weights after SFT")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(arguments)
    trial = Trial(chosen)
    trial.say("settings", **{key: str(value) for key, value in vars(chosen).items()})
    trial.baselines()
    if chosen.start:
        trial.reasoner.model.load_state_dict(torch.load(chosen.start, weights_only=True))
    else:
        trial.sft()
    if chosen.save:
        torch.save(trial.reasoner.model.state_dict(), chosen.save)
    before = trial.measure("after_sft")
    if chosen.grpo_steps:
        trial.grpo()
        after = trial.measure("after_grpo")
        trial.say("gain", **{key: interval(after[key] - before[key]) for key in ("core", "whole", "dice")})


if __name__ == "__main__":
    main()
