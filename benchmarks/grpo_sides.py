"""The two sides that are compared: TRL's GRPOTrainer and ours, on the same weights, prompts, completions and rewards.

TRL builds its own inputs: its data loader, processor call, padding, shuffling and splitting run as they do in training;
only what was sampled and what it was worth are given, through its `rollout_func` and a reward function.
"""

import copy
import os
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from medground_qwen import tiny
from medground_qwen.families import QWEN2_5_VL
from medground_qwen.generate import Sampled, Tokens, sample
from medground_qwen.policy import Policy
from medground_qwen.reasoner import VisionLanguageReasoner
from medground_qwen.trainable import is_vision
from PIL import Image as Pillow
from torch import Tensor

from medground.training.grpo.advantage import advantages
from medground.training.grpo.loss import Objective, normalizer, policy_loss

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func says that it is experimental

TRL_CHUNK = 32768
"""Columns of the vocabulary that TRL's head computes at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One image with one question, and what was sampled for it."""

    image: np.ndarray[Any, Any]
    text: str
    completions: list[list[int]]
    rewards: list[float]

    def messages(self) -> list[dict[str, Any]]:
        content = [{"type": "image", "image": self.image}, {"type": "text", "text": self.text}]
        return [{"role": "user", "content": content}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One loss in both vocabularies."""

    objective: Objective
    theirs: dict[str, Any]
    """The same as fields of GRPOConfig."""


def terms(max_length: int, beta: float = 0.0) -> dict[str, Term]:
    """Every loss that both sides have. CISPO's cap is absolute in TRL, a distance from 1 here."""
    clip = {"epsilon": 0.2, "epsilon_high": 0.28}
    made = {
        "grpo": (Objective(**clip, beta=beta), {**clip}),
        "dr_grpo": (Objective(**clip, beta=beta, aggregation="constant", max_length=max_length), {**clip}),
        "dapo": (Objective(**clip, beta=beta, aggregation="token"), {**clip}),
        "cispo": (
            Objective(cispo=True, epsilon_high=0.5, beta=beta, aggregation="token"),
            {"epsilon": 0.2, "epsilon_high": 1.5},
        ),
        "gspo": (
            Objective(ratio="sequence", epsilon=0.02, epsilon_high=0.03, beta=beta),
            {"loss_type": "grpo", "epsilon": 0.02, "epsilon_high": 0.03, "importance_sampling_level": "sequence"},
        ),
    }
    return {
        name: Term(objective=ours, theirs={"loss_type": name, "beta": beta, "max_completion_length": max_length, **its})
        for name, (ours, its) in made.items()
    }


class Trl:
    """A real GRPOTrainer around `model`, with what was sampled given to it.

    Args:
        model: trained in place; its frozen parameters stay frozen.
        processor: its processor.
        queries: the step's queries; every one has as many completions.
        micro: rows per forward pass.
        checkpoint: the folder `model` came from, which TRL loads its reference from when beta is not 0.
        settings: fields of GRPOConfig.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        queries: Sequence[Query],
        *,
        micro: int,
        checkpoint: str | None = None,
        **settings: Any,
    ) -> None:
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer
        from trl.trainer import utils

        # Its head reserves a tile this wide whatever the vocabulary: for a tiny one that would be a memory of nothing.
        vocabulary = model.get_output_embeddings().weight.shape[0]
        utils._CHUNKED_LOGPROB_CHUNK_SIZE = min(TRL_CHUNK, vocabulary)
        if checkpoint is not None:
            model.config._name_or_path = checkpoint
        self.queries = queries
        group = len(queries[0].completions)
        rows = len(queries) * group
        config = GRPOConfig(
            **{
                "output_dir": tempfile.gettempdir(),
                "per_device_train_batch_size": micro,
                "gradient_accumulation_steps": rows // micro,
                "num_generations": group,
                "shuffle_dataset": False,
                "max_completion_length": max(len(ids) for query in queries for ids in query.completions),
                "gradient_checkpointing": False,
                "bf16": False,
                "use_cpu": next(model.parameters()).device.type == "cpu",
                "report_to": [],
                "logging_strategy": "no",
                "save_strategy": "no",
                "disable_tqdm": True,
                "dataloader_pin_memory": False,
                **settings,
            }
        )
        asked = [{"prompt": [{"role": "user", "content": query.text}]} for query in queries]
        table = Dataset.from_list(asked).add_column("number", list(range(len(queries))))
        table.set_transform(self._with_images)
        self.trainer = GRPOTrainer(
            model,
            reward_funcs=self._rewards,
            args=config,
            train_dataset=table,
            processing_class=processor,
            rollout_func=self._recorded,
        )
        self.trainer.current_gradient_accumulation_steps = rows // micro
        self.trainer.model.train()  # there is no dropout to switch on; TRL chooses its training branch by it
        self.batch = next(iter(self.trainer.get_train_dataloader()))
        self.micro_batches = rows // micro

    def _with_images(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {**rows, "image": [Pillow.fromarray(self.queries[number].image) for number in rows["number"]]}

    def _recorded(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        flat = [ids for query in self.queries for ids in query.completions]
        if len(flat) != len(prompts):
            raise RuntimeError(f"TRL asked for {len(prompts)} completions, {len(flat)} were recorded")
        return {"prompt_ids": trainer._tokenize_prompts(prompts)[0], "completion_ids": flat, "logprobs": None}

    def _rewards(self, completions: list[Any], **_: Any) -> list[float]:
        return [reward for query in self.queries for reward in query.rewards]

    def inputs(self) -> list[dict[str, Any]]:
        """The micro-batches of one optimisation step, as the trainer itself makes them."""
        made = []
        for step in range(self.micro_batches):
            self.trainer._step = step
            made.append(self.trainer._prepare_inputs(self.batch))
        return made

    def update(self, inputs: Sequence[dict[str, Any]]) -> float:
        """Loss of the step, with its gradient left in the parameters."""
        total = 0.0
        for part in inputs:
            loss = self.trainer.compute_loss(self.trainer.model, part)
            loss.backward()
            total += float(loss.detach())
        return total

    def rollout(self) -> list[list[int]]:
        """The trainer's own transformers rollout of the step: token ids, row by row."""
        recorded, self.trainer.rollout_func = self.trainer.rollout_func, None
        prompts = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": Pillow.fromarray(query.image)},
                        {"type": "text", "text": query.text},
                    ],
                }
            ]
            for query in self.queries
            for _ in query.completions
        ]
        found: list[list[int]] = self.trainer._generate(prompts)[1]
        self.trainer.rollout_func = recorded
        return found


class Ours:
    """Our update and rollout around a model of the same weights.

    Args:
        model: trained in place.
        processor: its processor.
        queries: the step's queries.
        share: compute image and prompt once per group.
        plain: give forbidden tokens their share of the softmax, as TRL does; in training they have none.
        part: completions that run backward together; the whole group if None.
        tree: all queries are about one image, which is computed once for them.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        queries: Sequence[Query],
        *,
        share: bool,
        plain: bool = True,
        part: int | None = None,
        tree: bool = False,
    ) -> None:
        self.model, self.queries, self.part, self.tree = model, queries, part, tree
        self.reasoner = reasoner = VisionLanguageReasoner(model, processor, QWEN2_5_VL, share=share)
        self.tokens, self.policy = reasoner.tokens, reasoner.policy
        if plain:
            self.policy = Policy(model, forbidden=self.tokens.forbidden[:0])
        self.groups = [reasoner.group(query.messages(), query.completions) for query in queries]
        rewards = torch.tensor([query.rewards for query in queries])
        self.advantages = advantages(rewards).to(reasoner.device)

    def update(self, objective: Objective, *, drift: float = 0.0, reference: Policy | None = None) -> float:
        """Loss of the step, with its gradient left in the parameters.

        Args:
            objective: which loss.
            drift: how far the policy that sampled is away, see `drifted`.
            reference: whose log-probabilities the KL term is measured from.
        """
        z = sum(normalizer(objective, group.mask) for group in self.groups)
        total = 0.0
        with self.policy.image_once(self.groups) if self.tree else nullcontext(self.groups) as groups:
            for group, gains in zip(groups, self.advantages, strict=True):
                total += self._group(group, gains, objective, z, drift, reference)
        return total

    def _group(
        self, group: Any, gains: Tensor, objective: Objective, z: float, drift: float, reference: Policy | None
    ) -> float:
        """The share of one group in the loss, run backward."""
        at_once, total = self.part or len(gains), 0.0
        whole = at_once >= len(gains)
        with nullcontext(group) if whole else self.policy.prompt_once(group) as once:
            for start in range(0, len(gains), at_once):
                some = once.part(start, start + at_once)
                logp, _ = self.policy(some)
                old = drifted(logp.detach(), some.ids, drift) if drift else None
                ref = None
                if reference is not None:
                    with torch.no_grad():
                        ref, _ = reference(group.part(start, start + at_once))
                gain = gains[start : start + at_once]
                loss = policy_loss(objective, logp, gain, some.mask, old_logps=old, ref_logps=ref)[0] / z
                loss.backward()
                total += float(loss.detach())
        return total

    def rollout(self, count: int) -> list[list[Sampled]]:
        """As many tokens for every completion of the step: no end token is known, so that lengths are equal."""
        endless = Tokens(end=frozenset(), pad=self.tokens.pad, forbidden=self.tokens.forbidden)
        seeds = [
            [1000 * number + row for row in range(len(query.completions))] for number, query in enumerate(self.queries)
        ]
        return sample(
            self.model, [group.prompt for group in self.groups], seeds, endless, temperature=1.0, max_tokens=count
        )

    def resample(self, count: int) -> None:
        """Encode the queries anew and put fresh completions of `count` tokens in place of the recorded ones."""
        for number, query in enumerate(self.queries):
            self.groups[number] = self.reasoner.group(query.messages(), query.completions)
        self.groups = [
            self.reasoner.group(query.messages(), [one.ids for one in sampled])
            for query, sampled in zip(self.queries, self.rollout(count), strict=True)
        ]


def drifted(logp: Tensor, ids: Tensor, scale: float) -> Tensor:
    """Log-probabilities of an imagined older policy: a fixed function of the token and its place, whatever the row order."""
    place = torch.arange(ids.shape[1], device=ids.device)
    return logp + scale * torch.sin(ids * 12.9898 + place * 78.233).to(logp.dtype)


def small_model(
    *, hidden: int = 64, wide: int = 1536, layers: int = 2, vision: int = 32, vision_wide: int = 512
) -> Any:
    """A Qwen2.5-VL whose parts take shares of the work like those of the 3B and 7B models, and its processor's words."""
    words = tiny.tokenizer()
    config = tiny.model("qwen2_5_vl", words, patch=8, hidden=hidden, layers=layers, vision=vision).config
    config.text_config.intermediate_size = wide
    config.vision_config.intermediate_size = vision_wide
    torch.manual_seed(0)
    return model_of(config), words


def model_of(config: Any) -> Any:
    """A model from random weights."""
    import transformers

    return transformers.Qwen2_5_VLForConditionalGeneration(config).eval()


def freeze_vision(model: Any, *, train: bool) -> Any:
    """Train the vision tower or not."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(train or not is_vision(name))
    return model


def query_of(processor: Any, *, visual: tuple[int, int], text: int, lengths: Sequence[int], seed: int) -> Query:
    """A random image, a question and random completions with random rewards.

    Args:
        processor: the model's processor.
        visual: rows and columns of the image, in tokens of the language model.
        text: tokens of the prompt that are not the image's, the chat template's own among them.
        lengths: of the completions, tokens.
        seed: of all of it.
    """
    draw = np.random.default_rng(seed)
    side = processor.image_processor.patch_size * processor.image_processor.merge_size
    image = draw.integers(0, 255, (visual[0] * side, visual[1] * side, 3)).astype(np.uint8)
    words = processor.tokenizer
    turn = [{"role": "user", "content": [{"type": "image"}]}]
    template = words(words.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))["input_ids"]
    spare = text - (len(template) - 1)  # the template's one image token becomes the image's own
    if spare < 1:
        raise ValueError(f"the chat template alone takes {len(template) - 1} tokens, more than {text}")
    ordinary = np.setdiff1d(np.arange(len(words)), words.all_special_ids)
    return Query(
        image=image,
        text="x" * spare,  # one token each: the tiny tokenizer has seen no double x
        completions=[draw.choice(ordinary, length).tolist() for length in lengths],
        rewards=draw.random(len(lengths)).round(2).tolist(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far the two sides are apart in one step."""

    theirs: float
    loss: float
    """Difference of the losses, relative to the loss or to the mean |advantage| where advantages cancel in it."""
    gradient: float
    """The largest over parameters of max |difference| / max |gradient|."""
    worst: str
    gradients: int


class Parity:
    """One small step, ragged and with two queries of unequal length, for the comparison of both sides.

    Args:
        folder: where a checkpoint is written, from which TRL loads its reference.
    """

    def __init__(self, folder: Path) -> None:
        words = tiny.tokenizer()
        self.folder = folder
        self.processor = tiny.processor("qwen2_5_vl", words, patch=8, max_side=256)
        self.model = tiny.model("qwen2_5_vl", words, patch=8)
        tiny.save(folder, self.model, self.processor)
        sizes = ((3, 4), 60, (17, 5, 1, 9)), ((5, 3), 44, (8, 12, 20, 3))
        self.queries = [
            query_of(self.processor, visual=visual, text=text, lengths=lengths, seed=seed)
            for seed, (visual, text, lengths) in enumerate(sizes)
        ]

    def compare(
        self, name: str, *, beta: float = 0.0, drift: float = 0.0, corrected: bool = True, ours: str | None = None
    ) -> Difference:
        """Loss and every gradient of both sides, the vision tower trained.

        Args:
            name: one of `terms`.
            beta: weight of the KL term; the reference is the policy moved by noise.
            drift: how far the policy that sampled is away, see `drifted`.
            corrected: TRL's `use_bias_correction_kl`, our estimator ``k3_ratio``.
            ours: another loss for our side, to see that the comparison notices.
        """
        longest = max(len(ids) for query in self.queries for ids in query.completions)
        term, wanted = terms(longest, beta)[name], terms(longest, beta)[ours or name].objective
        wanted = replace(wanted, estimator="k3_ratio" if corrected else "k3")
        settings = {**term.theirs, "use_bias_correction_kl": corrected}
        theirs = Trl(
            copy.deepcopy(self.model), self.processor, self.queries, micro=4, checkpoint=str(self.folder), **settings
        )
        if beta:
            _move(theirs.trainer.ref_model)
        inputs = theirs.inputs()
        for part in inputs if drift else ():
            part["old_per_token_logps"] = drifted(_logps(theirs.trainer, part), part["completion_ids"], drift)
        loss = theirs.update(inputs)
        mine = Ours(copy.deepcopy(self.model), self.processor, self.queries, share=True)
        reference = copy.deepcopy(mine.policy) if beta else None
        if reference is not None:
            _move(reference.model)
        own = mine.update(wanted, drift=drift, reference=reference)
        scale = max(abs(loss), float(mine.advantages.abs().mean()))
        return _difference(loss, abs(own - loss) / scale, theirs.trainer.model, mine.model)


def _logps(trainer: Any, part: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        found: Tensor = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([part["prompt_ids"], part["completion_ids"]], dim=1),
            torch.cat([part["prompt_mask"], part["completion_mask"]], dim=1),
            part["completion_ids"].size(1),
            **{key: part[key] for key in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")},
        )[0]
    return found


def _move(model: Any) -> None:
    """The same small step away from the weights, whichever side's copy it is."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


def _difference(theirs: float, apart_by: float, their_model: Any, our_model: Any) -> Difference:
    expected = {name: p.grad for name, p in their_model.named_parameters() if p.grad is not None}
    found = {name: p.grad for name, p in our_model.named_parameters() if p.grad is not None}
    if expected.keys() != found.keys():
        raise RuntimeError(f"gradients differ in their parameters: {sorted(expected.keys() ^ found.keys())}")
    apart = {name: float((found[name] - g).abs().max() / g.abs().max().clamp(min=1e-6)) for name, g in expected.items()}
    worst = max(apart, key=apart.__getitem__)
    return Difference(
        theirs=theirs,
        loss=apart_by,
        gradient=apart[worst],
        worst=worst,
        gradients=len(apart),
    )
