"""The reasoner: a released vision-language checkpoint that answers, and whose policy can be trained."""

import copy
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medground.devices import declare_no_accelerator
from medground.errors import RecipeError
from medground.frames import Frame, fixed_point
from medground.geometry import Size
from medground.protocols import SamplerPrompt, Serving
from medground.types import Completion, Messages, Sampling, image_of, text_of
from medground_qwen.adapters import has_adapter, merge_adapter, save_adapter, without_adapter
from medground_qwen.attention import use_own_attention
from medground_qwen.families import LAYOUTS, USUAL, Family, picture_ids
from medground_qwen.generate import Tokens, sample
from medground_qwen.merged import checkpoint_weights
from medground_qwen.policy import GroupBatch, Policy, RowBatch, group_of, rows_of
from medground_qwen.prompts import CLOSE, OPEN, Encoder, Prompt
from medground_qwen.trainable import is_vision
from medground_qwen.tree import same_image

PASSING = ("is_local", "local_files_only", "name_or_path", "_name_or_path", "transformers_version")
"""Keys of a saved processor that say where it was, not what it does."""


class VisionLanguageReasoner:
    """See `medground.protocols.ServedReasoner`; made by the factories in `medground_qwen.factories`.

    Args:
        model: a causal language model of transformers with images.
        processor: its processor.
        family: which pixels its numbers count.
        share: compute image and prompt once per group.
        max_pixels: a smaller image limit than the processor's own, px² of the resized image.
        logprob_chunk: positions whose logits are held at a time.
        rows_at_once: completions decoded together.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        family: Family,
        *,
        share: bool = True,
        max_pixels: int | None = None,
        logprob_chunk: int = 1024,
        rows_at_once: int = 256,
    ) -> None:
        self.model, self.processor, self.family = model, processor, family
        self.max_pixels, self.rows_at_once = max_pixels, rows_at_once
        self.share = share
        use_own_attention(model.config.get_text_config())
        self._marks = family.marks(processor.tokenizer)
        self.tokens = _tokens(model, processor, self._marks)
        self.layout = LAYOUTS.get(model.config.model_type, USUAL)
        self._encoder = Encoder(processor, getattr(model.model, "get_rope_index", None), self.layout, self._marks)
        self.policy = Policy(model, forbidden=self.tokens.forbidden, chunk=logprob_chunk)
        self._frozen: Policy | None = None
        self._latest: Prompt | None = None
        self.listen: Callable[[str], None] | None = None
        """See `medground.protocols.Reasoner`."""

    def __repr__(self) -> str:
        """Return the model's type, size and settings."""
        size = sum(parameter.numel() for parameter in self.model.parameters())
        settings = f"share={self.share}, max_pixels={self.max_pixels}, rows_at_once={self.rows_at_once}"
        return f"{type(self).__name__}({self.model.config.model_type}, {size:,} parameters, {settings})"

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return next(self.model.parameters()).device

    @property
    def dialect(self) -> str | None:
        """See `medground.protocols.Reasoner`."""
        return self.family.dialect

    def frame(self, size: Size) -> Frame:
        """See `Reasoner.frame`."""
        return self.family.frame(self.seen(size))

    def seen(self, size: Size) -> Size:
        """Return the (H, W) an original of `size` is resized to: a fixed point of the processor."""
        processor = self.processor.image_processor
        limits = dict(getattr(processor, "size", None) or {})
        if "shortest_edge" not in limits or not hasattr(processor, "merge_size"):
            return size  # tiles or a fixed square: the frame counts fractions of the whole, so the size does not matter
        lowest, highest = (limits[name] // self.layout.frames for name in ("shortest_edge", "longest_edge"))
        highest = highest if self.max_pixels is None else min(self.max_pixels, highest)
        grid = processor.patch_size * processor.merge_size
        return fixed_point(size, factor=grid, min_pixels=lowest, max_pixels=highest)

    def encode(self, messages: Messages) -> Prompt:
        """Return a conversation as the model's inputs, on its device."""
        return self.encode_all([messages])[0]

    def encode_all(self, batch: Sequence[Messages]) -> list[Prompt]:
        """Return several conversations as the model's inputs, each as if it were alone; quicker than one by one."""
        sizes = [image_of(messages).shape[:2] for messages in batch]
        prompts = self._encoder(batch, [self.seen(size) for size in sizes], [self.frame(size) for size in sizes])
        return [self._with_latest_image(prompt.to(self.device)) for prompt in prompts]

    def _with_latest_image(self, prompt: Prompt) -> Prompt:
        """Return the prompt over the tensors of the latest image where its own are equal: an image is held once."""
        if self._latest is not None and same_image(self._latest, prompt):
            return replace(prompt, image=self._latest.image)
        self._latest = prompt
        return prompt

    def tokenize(self, text: str) -> list[int]:
        """Return a target text as completion ids with the end token: what supervised training teaches to write."""
        return [*self._encoder.plain_ids(self._written(text)), self.processor.tokenizer.eos_token_id]

    def _written(self, text: str) -> str:
        """Return what the model itself writes of a text: all but the opening tag that its chat template writes already.

        A text without thinking closes what the template has opened.
        """
        if not self._encoder.opened:
            return text
        return text.removeprefix(OPEN) if text.startswith(OPEN) else f"\n{CLOSE}\n\n{text}"

    def generate(
        self, batch: Sequence[Messages], sampling: Sampling, seeds: Sequence[int] | None = None
    ) -> list[list[Completion]]:
        """See `TrainableReasoner.generate`."""
        if seeds is None:
            seeds = [seed_of(sampling.seed, messages) for messages in batch]
        count = sampling.num_generations
        at_once = max(1, self.rows_at_once // count)
        out: list[list[Completion]] = []
        training = self.model.training
        self.model.eval()
        for start in range(0, len(batch), at_once):
            prompts = self.encode_all(batch[start : start + at_once])
            streams = [[seed + index for index in range(count)] for seed in seeds[start : start + at_once]]
            groups = sample(
                self.model,
                prompts,
                streams,
                self.tokens,
                temperature=sampling.temperature,
                max_tokens=sampling.max_completion_length,
                listen=self._pieces(self.listen) if self.listen and len(batch) == count == 1 else None,
            )
            out += [
                [
                    self.completion(sampled.ids, sampled.logprobs, prompt.frame, stopped=sampled.stopped)
                    for sampled in group
                ]
                for prompt, group in zip(prompts, groups, strict=True)
            ]
        self.model.train(training)
        return out

    def _pieces(self, listen: Callable[[str], None]) -> Callable[[Sequence[int]], None]:
        """Return what is given a completion's tokens as they grow, and hands on each new piece of its text."""
        given = ""

        def grown(ids: Sequence[int]) -> None:
            nonlocal given
            text = self._text(ids, stopped=ids[-1] in self.tokens.end)
            if not text.endswith("\ufffd") and text.startswith(given):  # else a character is not complete yet
                piece, given = text[len(given) :], text
                if piece:
                    listen(piece)

        return grown

    def go_on(self, batch: Sequence[Messages], prefixes: Sequence[str], sampling: Sampling) -> list[list[Completion]]:
        """See `medground.protocols.Reasoner`. Token ids and log-probabilities are not kept: a prefix was not sampled."""
        out: list[list[Completion]] = []
        training = self.model.training
        self.model.eval()
        for messages, prefix in zip(batch, prefixes, strict=True):
            ids = self._encoder.plain_ids(self._written(prefix))
            prompt, seed = self.encode(messages).then(ids), seed_of(sampling.seed, messages)
            (group,) = sample(
                self.model,
                [prompt],
                [[seed + index for index in range(sampling.num_generations)]],
                self.tokens,
                temperature=sampling.temperature,
                max_tokens=max(1, sampling.max_completion_length - len(ids)),
            )
            completions = [
                self.completion(completion.ids, completion.logprobs, prompt.frame, stopped=completion.stopped)
                for completion in group
            ]
            out.append(
                [
                    replace(
                        completion,
                        text=prefix + completion.text.removeprefix(self._encoder.opened),
                        token_ids=None,
                        logprobs=None,
                    )
                    for completion in completions
                ]
            )
        self.model.train(training)
        return out

    def group(self, messages: Messages, completions: Sequence[Completion | Sequence[int]]) -> GroupBatch | RowBatch:
        """Return a query and its completions as the policy takes them; token ids as they were sampled."""
        ids, prompt = [_ids(completion) for completion in completions], self.encode(messages)
        if self.share:
            return group_of(prompt, ids, self.tokens.pad)
        return rows_of([prompt] * len(ids), ids, self.tokens.pad)

    def rows(
        self, batch: Sequence[Messages], completions: Sequence[Sequence[int]], *, packed: bool = False
    ) -> RowBatch:
        """See `TrainableReasoner.rows`: what supervised training needs."""
        if packed and not self.family.packs:
            raise RecipeError(
                f"{type(self.model).__name__} is computed with its own attention, which cannot keep packed samples apart",
                hint="leave sft.packing out",
            )
        ids = [_ids(completion) for completion in completions]
        return rows_of(self.encode_all(batch), ids, self.tokens.pad, packed)

    def processor_digest(self) -> str:
        """See `medground.protocols.Reasoner`; where a processor was loaded from does not count."""
        digest = hashlib.sha256(repr(self.max_pixels).encode())
        with tempfile.TemporaryDirectory() as folder:
            self.processor.save_pretrained(folder)
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    digest.update(f"\0{path.name}\0".encode() + _lasting(path))
        return digest.hexdigest()

    def keep_reference(self) -> None:
        """Freeze the current policy as the reference; LoRA needs none, its reference is the model without the adapter."""
        if not has_adapter(self.model):
            self._frozen = copy.deepcopy(self.policy).requires_grad_(False).eval()

    def reference(self) -> AbstractContextManager[Policy]:
        """See `TrainableReasoner.reference`."""
        if has_adapter(self.model):
            return self._without_adapter()
        if self._frozen is None:
            raise RuntimeError("there is no reference yet: call keep_reference() before training")
        return nullcontext(self._frozen)

    @contextmanager
    def _without_adapter(self) -> Iterator[Policy]:
        with without_adapter(self.model):
            yield self.policy

    def save(self, folder: Path) -> str:
        """See `TrainableReasoner.save`; with LoRA the adapter alone is written."""
        adapted = has_adapter(self.model)
        declare_no_accelerator()
        with redirect_stdout(sys.stderr):  # saving imports DeepSpeed where it is installed, which speaks on stdout
            if adapted:
                save_adapter(self.model, folder)
                self.model.generation_config.save_pretrained(folder)
            else:
                self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        return "adapter" if adapted else "checkpoint"

    def save_merged(self, folder: Path) -> str:
        """See `medground.protocols.TrainableReasoner`."""
        if has_adapter(self.model):
            merge_adapter(self.model)
        return self.save(folder)

    def serving(self) -> Serving:
        """See `ServedReasoner.serving`."""
        forbidden = self.tokens.forbidden.tolist()
        words = self.processor.tokenizer.convert_ids_to_tokens(forbidden)
        return Serving(
            checkpoint=self.model.name_or_path,
            dtype=str(self.model.dtype).removeprefix("torch."),
            end=self.tokens.end,
            forbidden={index: word or "" for index, word in zip(forbidden, words, strict=True)},
            vision_trains=any(
                parameter.requires_grad and is_vision(name) for name, parameter in self.model.named_parameters()
            ),
        )

    def sampler_prompts(self, batch: Sequence[Messages]) -> list[SamplerPrompt]:
        """See `ServedReasoner.sampler_prompts`."""
        out = []
        for messages in batch:
            size = image_of(messages).shape[:2]
            text, image, ids = self._encoder.words(messages, self.seen(size))
            out.append(SamplerPrompt(text=text, image=image, ids=ids.numpy().astype(np.int32), frame=self.frame(size)))
        return out

    def completion(self, ids: Sequence[int], logprobs: Sequence[float], frame: Frame, *, stopped: bool) -> Completion:
        """See `ServedReasoner.completion`."""
        return Completion(
            text=self._text(ids, stopped=stopped),
            frame=frame,
            token_ids=np.asarray(ids, np.int32),
            logprobs=np.asarray(logprobs, np.float32),
            finish_reason="stop" if stopped else "length",
        )

    def _text(self, ids: Sequence[int], *, stopped: bool) -> str:
        # Of special tokens none but marks can have been sampled.
        text = self.processor.tokenizer.decode(ids[:-1] if stopped else ids, skip_special_tokens=not self._marks)
        return self._encoder.opened + text

    def checkpoint_weights(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """See `ServedReasoner.checkpoint_weights`."""
        return checkpoint_weights(self.policy, weights)


def _lasting(path: Path) -> bytes:
    """Return a saved file without what saving and loading it again changes."""
    if path.suffix != ".json":
        return path.read_bytes()
    settings = json.loads(path.read_text(encoding="utf-8"))
    return json.dumps({key: value for key, value in settings.items() if key not in PASSING}, sort_keys=True).encode()


def seed_of(seed: int, messages: Messages) -> int:
    """Return a seed for one conversation: from the run's seed and what is asked, not from its place in a batch."""
    digest = hashlib.blake2b(f"{seed}|{text_of(messages)}|".encode(errors="surrogatepass"), digest_size=6)
    digest.update(np.ascontiguousarray(image_of(messages)).data)
    return int.from_bytes(digest.digest())


def _ids(completion: Completion | Sequence[int]) -> list[int]:
    if not isinstance(completion, Completion):
        return list(completion)
    if completion.token_ids is None:
        raise ValueError("a completion without token ids cannot be scored: its text is never tokenised again")
    return [int(token) for token in completion.token_ids]


def _tokens(model: Any, processor: Any, marks: Collection[str]) -> Tokens:
    tokenizer, config = processor.tokenizer, model.config
    ends = model.generation_config.eos_token_id
    end = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    # Special tokens of a chat model that may be written: those that end the turn. Image tokens above all may not.
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= {*tokenizer.all_special_ids, *picture_ids(config)}
    written = range(model.get_output_embeddings().weight.shape[0])
    unknown = set(written) - set(tokenizer.get_vocab().values())  # the rows that fill a table up to a round number
    forbidden = (special - end - {*tokenizer.convert_tokens_to_ids(list(marks))} | unknown) & set(written)
    device = next(model.parameters()).device
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return Tokens(end=frozenset(end), pad=pad, forbidden=torch.tensor(sorted(forbidden), device=device))
