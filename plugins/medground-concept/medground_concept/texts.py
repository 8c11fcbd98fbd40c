"""Concepts in words as numbers of a model."""

import logging
from collections.abc import Sequence
from typing import Any

import torch

from medground.errors import InputError
from medground.segmenters.weight_files import RELEASED

log = logging.getLogger(__name__)


class Tokens:
    """The tokenizer of a checkpoint, for texts of at most `length` tokens.

    Args:
        tokenizer: as `medground.segmenters.folders.load_tokenizer` returns it.
        length: tokens that the model reads.
        vocabulary: tokens that the model knows.
        device: where the numbers lie.
        padding: ``max_length`` fills every text to `length`, ``longest`` to the longest of a call.

    Raises:
        InputError: if the tokenizer has more tokens than the model.
    """

    def __init__(self, tokenizer: Any, length: int, vocabulary: int, device: str, padding: str) -> None:
        if len(tokenizer) > vocabulary:
            raise InputError(f"the tokenizer has {len(tokenizer):,} tokens, its model {vocabulary:,}", hint=RELEASED)
        self.tokenizer, self.length, self.device, self.padding = tokenizer, length, device, padding

    def __call__(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token ids ``[N, L]`` and the mask of those that are no padding; what is longer is cut, with a warning.

        The names of special tokens are read as words; a character that is no Unicode is read as a question mark.
        """
        words = [text.encode("utf-8", "replace").decode() for text in texts]
        whole = self.tokenizer(words, truncation=False, split_special_tokens=True, verbose=False)["input_ids"]
        for text, ids in zip(texts, whole, strict=True):
            if len(ids) > self.length:
                log.warning("%d tokens of a text are read, of %d: %.60r ...", self.length, len(ids), text)
        encoded = self.tokenizer(
            words,
            padding=self.padding,
            max_length=self.length,
            truncation=True,
            split_special_tokens=True,
            return_tensors="pt",
        )
        return encoded["input_ids"].to(self.device), encoded["attention_mask"].to(self.device)
