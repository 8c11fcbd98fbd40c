"""Conversations as a model's inputs: the image resized to a fixed point, the chat template, ids, positions."""

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor

from medground.errors import InputError
from medground.frames import Frame
from medground.geometry import Size
from medground.segmenters.bounded import render
from medground.types import Image, Messages, image_of
from medground_qwen.families import USUAL, Layout

PER_TOKEN = ("mm_token_type_ids", "token_type_ids")
"""Processor outputs with one value per token; see `Layout.fill` for a completion's tokens."""
UNUSED = ("attention_mask", "labels")
"""Processor outputs that are no input of ours: one conversation has no padding, and no completion yet."""
OPEN, CLOSE = "<think>", "</think>"
KEPT = 512
"""Texts whose encoding is kept; the one used longest ago goes first."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """One encoded conversation."""

    ids: Tensor
    """[P] int64."""
    per_token: dict[str, Tensor]
    """[P] each, such as ``mm_token_type_ids``."""
    image: dict[str, Tensor]
    """What the vision tower is given, such as ``pixel_values`` and ``image_grid_thw``; the image's own rows."""
    positions: Tensor | None
    """[3, P] multimodal rotary positions; None for models that count tokens."""
    frame: Frame
    layout: Layout = USUAL

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    def then(self, ids: Sequence[int]) -> "Prompt":
        """Return the same with text tokens after it, for example the beginning of an answer."""
        more = torch.tensor(ids, dtype=self.ids.dtype, device=self.ids.device)
        positions = self.positions
        if positions is not None:
            after = int(positions.max()) + 1 + torch.arange(len(ids), dtype=positions.dtype, device=positions.device)
            positions = torch.cat([positions, after.expand(3, -1)], dim=1)
        return replace(
            self,
            ids=torch.cat([self.ids, more]),
            per_token={
                key: torch.cat([value, value.new_full((len(ids),), self.layout.fill.get(key, 0))])
                for key, value in self.per_token.items()
            },
            positions=positions,
        )

    def to(self, device: torch.device) -> "Prompt":
        """Return the same on a device."""
        return replace(
            self,
            ids=self.ids.to(device),
            per_token={key: value.to(device) for key, value in self.per_token.items()},
            image={key: value.to(device) for key, value in self.image.items()},
            positions=None if self.positions is None else self.positions.to(device),
        )


def resize(image: Image, size: Size) -> Image:
    """Return the image at (H, W), bicubic as the processors do it; itself where it has that size already."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Pillow.fromarray(image).resize((size[1], size[0]), Pillow.Resampling.BICUBIC))


class Encoder:
    """Conversations about one image each as a model's inputs.

    What the text becomes depends on the text and the size the image is seen at alone, so it is kept; images of one size
    go through the image processor together. What a conversation says is text: a special token's name in it is no token.

    Args:
        processor: the model's processor.
        rope: ``model.get_rope_index`` of models with multimodal rotary positions, else None.
        layout: how the architecture lays out its inputs.
        marks: special tokens that texts may hold: a dialect's own.
    """

    def __init__(self, processor: Any, rope: Any, layout: Layout = USUAL, marks: frozenset[str] = frozenset()) -> None:
        self.processor, self.rope, self.layout = processor, rope, layout
        self._known: OrderedDict[tuple[_Text, Size], _Words] = OrderedDict()
        added = processor.tokenizer.added_tokens_decoder.values()
        self._controls = [token.content for token in added if token.special and token.content not in marks]
        self._marks = marks
        pictured = (getattr(processor, f"{kind}_token", None) for kind in ("image", "video"))
        self._pictured = {token for token in pictured if isinstance(token, str)}

    def __call__(self, batch: Sequence[Messages], sizes: Sequence[Size], frames: Sequence[Frame]) -> list[Prompt]:
        """Encode conversations.

        Args:
            batch: one image each, any text.
            sizes: (H, W) each image is resized to first, a fixed point of the processor.
            frames: what each answer's numbers will count.

        Raises:
            InputError: if the text names every special token, so that none is left to stand for it.
            ValueError: if the processor changed a size all the same, so that the frame would be wrong.
        """
        images = [
            Pillow.fromarray(resize(image_of(messages), size)) for messages, size in zip(batch, sizes, strict=True)
        ]
        texts = [self._text(messages, image) for messages, image in zip(batch, images, strict=True)]
        if self.rope is None:  # what such a processor does with an image may depend on the text
            encoded = [self._both(text, image) for text, image in zip(texts, images, strict=True)]
        else:
            seen = self._images(images, sizes)
            encoded = [
                (self._words(text, image, size), inputs)
                for text, image, size, inputs in zip(texts, images, sizes, seen, strict=True)
            ]
        return [
            Prompt(
                ids=words.ids,
                per_token=words.per_token,
                image=inputs,
                positions=words.positions,
                frame=frame,
                layout=self.layout,
            )
            for (words, inputs), frame in zip(encoded, frames, strict=True)
        ]

    def words(self, messages: Messages, size: Size) -> tuple[str, Image, Tensor]:
        """Return a conversation's text, its image at `size` (H, W), and its ids [P]; known ids need no processing of pixels.

        The text lacks the token that begins it where a tokenizer puts it there.

        Raises:
            InputError: if the text names a special token: whoever reads it without the ids takes it for one.
        """
        image = resize(image_of(messages), size)
        seen = Pillow.fromarray(image)
        text = self._text(messages, seen)
        if text.parts:
            name = next(token for token in self._controls if token in text.parts[0])
            raise InputError(f"the text names the control token {name}", hint="take it out of the question")
        words = self._both(text, seen)[0] if self.rope is None else self._words(text, seen, size)
        tokenizer = self.processor.tokenizer
        begun = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
        return text.template.removeprefix(tokenizer.bos_token) if begun else text.template, image, words.ids

    def plain_ids(self, text: str) -> list[int]:
        """Return the ids of a text in which the name of a special token is text, a dialect's marks apart."""
        tokenizer, ids = self.processor.tokenizer, list[int]()
        pieces = re.split(f"({'|'.join(map(re.escape, sorted(self._marks)))})", text) if self._marks else [text]
        for piece in pieces:
            if piece in self._marks:
                ids.append(tokenizer.convert_tokens_to_ids(piece))
            elif piece or len(pieces) == 1:
                ids += tokenizer(piece, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def _text(self, messages: Messages, image: Any) -> "_Text":
        turns = _turns(messages)
        texts = [part for turn in turns for part in turn["content"] if part["type"] == "text"]
        naming = [part for part in texts if any(token in part["text"] for token in self._controls)]
        parts, marker = tuple(part["text"] for part in naming), ""
        if naming:
            for part in naming:
                part["text"] = ""
            bare = self._rendered(turns)
            tokenizer, used = self.processor.tokenizer, set(self._processed(bare, image)["input_ids"][0].tolist())
            free = [token for token in self._controls if tokenizer.convert_tokens_to_ids(token) not in used]
            free = [token for token in free if token not in bare and token not in self._pictured]
            if not free:
                raise InputError(
                    "the text names control tokens, and none is left to stand for it", hint="take them out"
                )
            marker = free[0]
            for part in naming:
                part["text"] = marker
        return _Text(self._rendered(turns), marker, parts)

    @cached_property
    def opened(self) -> str:
        """The opening tag of the thinking with which the chat template begins every answer, and what follows it; often "".

        What a model writes after it is thinking, so texts of completions begin with it.
        """
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ""}]}]
        _, tag, after = self._rendered(turns).rpartition(OPEN)
        return tag + after if tag and not after.strip() else ""

    def _rendered(self, turns: list[dict[str, Any]]) -> str:
        template, tokenizer = self.processor.chat_template, self.processor.tokenizer
        if isinstance(template, dict):
            template = template["default"]
        return render(template, turns, tokenizer.special_tokens_map, Path(tokenizer.name_or_path).name)

    def _processed(self, text: str, image: Any) -> Any:
        """Return what the processor makes of a rendered conversation, in which the text begins once.

        Raises:
            InputError: if its chat template and its processor both write the token that begins a text.
        """
        tokenizer, given = self.processor.tokenizer, {"text": [text], "images": [image], "return_tensors": "pt"}
        bos = tokenizer.bos_token
        if not bos:
            return self.processor(**given)
        begun, plain = text.startswith(bos), {"add_special_tokens": False}
        for options in [plain] if begun else [{}, plain]:
            encoded = self.processor(**given, **options)
            if int((encoded["input_ids"] == tokenizer.bos_token_id).sum()) <= text.count(bos) + (not begun):
                return encoded
        raise InputError(
            f"the chat template of {Path(tokenizer.name_or_path).name} writes {bos}, and so does its processor",
            hint="take {{ bos_token }} out of chat_template.jinja",
        )

    def _both(self, text: "_Text", image: Any) -> "tuple[_Words, dict[str, Tensor]]":
        encoded = self._processed(text.template, image)
        ids = encoded.pop("input_ids")
        per_token = {key: encoded.pop(key)[0] for key in PER_TOKEN if key in encoded}
        inputs = {key: value for key, value in encoded.items() if isinstance(value, Tensor) and key not in UNUSED}
        if text.parts:
            ids, per_token = self._inserted(text, ids[0], per_token)
        positions = None
        if self.rope is not None:
            kinds, grid = per_token["mm_token_type_ids"].unsqueeze(0), inputs["image_grid_thw"]
            positions = self.rope(ids, mm_token_type_ids=kinds, image_grid_thw=grid)[0][:, 0]
        return _Words(ids[0], per_token, positions), inputs

    def _inserted(self, text: "_Text", ids: Tensor, per_token: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the ids [1, P] and what goes with them, with the parts of the text in the places of the marker."""
        marked = (ids == self.processor.tokenizer.convert_tokens_to_ids(text.marker)).nonzero().flatten().tolist()
        columns = {"ids": ids, **per_token}
        pieces: dict[str, list[Tensor]] = {key: [] for key in columns}
        start = 0
        for index, part in zip(marked, text.parts, strict=True):
            own = torch.tensor(self.plain_ids(part), dtype=ids.dtype)
            for key, column in columns.items():
                pieces[key] += [column[start:index], own if key == "ids" else column.new_zeros(len(own))]
            start = index + 1
        whole = {key: torch.cat([*pieces[key], column[start:]]) for key, column in columns.items()}
        return whole.pop("ids").unsqueeze(0), whole

    def _words(self, text: "_Text", image: Any, size: Size) -> "_Words":
        words = self._known.pop((text, size), None) or self._both(text, image)[0]
        self._known[text, size] = words
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return words

    def _images(self, images: Sequence[Any], sizes: Sequence[Size]) -> list[dict[str, Tensor]]:
        out: list[dict[str, Tensor]] = [{}] * len(images)
        for size in dict.fromkeys(sizes):
            indices = [index for index, other in enumerate(sizes) if other == size]
            encoded = self.processor.image_processor([images[index] for index in indices], return_tensors="pt")
            grids = encoded["image_grid_thw"]
            _check_grid(grids, self.processor.image_processor.patch_size, size)
            rows = encoded["pixel_values"].split(grids.prod(dim=1).tolist())
            for index, grid, pixels in zip(indices, grids, rows, strict=True):
                out[index] = {"pixel_values": pixels, "image_grid_thw": grid.unsqueeze(0)}
        return out


@dataclass(frozen=True, slots=True)
class _Text:
    """A conversation as text."""

    template: str
    """With the chat template applied; parts that name special tokens are a marker in it."""
    marker: str
    """A special token that stands nowhere else."""
    parts: tuple[str, ...]
    """What the markers stand for, in order."""


@dataclass(frozen=True, slots=True, eq=False)
class _Words:
    """What a text becomes; see `Prompt`."""

    ids: Tensor
    per_token: dict[str, Tensor]
    positions: Tensor | None


def left_padded(prompts: Sequence[Prompt], pad: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return model inputs for all prompts, their attention mask [N, P], and the last position of each [N]."""
    longest = max(len(prompt) for prompt in prompts)

    def padded(values: Sequence[Tensor], fill: int) -> Tensor:
        rows = [torch.nn.functional.pad(value, (longest - value.shape[-1], 0), value=fill) for value in values]
        return torch.stack(rows, dim=-2)

    inputs = {"input_ids": padded([prompt.ids for prompt in prompts], pad)}
    for key in prompts[0].per_token:
        inputs[key] = padded([prompt.per_token[key] for prompt in prompts], 0)
    inputs |= joined_images(prompts)
    mask = padded([torch.ones_like(prompt.ids) for prompt in prompts], 0)
    if prompts[0].positions is None:
        counted = (mask.cumsum(-1) - 1).clamp(min=0)
        return {**inputs, "position_ids": counted}, mask, counted[:, -1]
    positions = padded([prompt.positions for prompt in prompts if prompt.positions is not None], 0)
    return {**inputs, "position_ids": positions}, mask, positions.amax(dim=(0, 2))


def joined_images(prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """Return what the vision tower is given for the images of several prompts together.

    Images of unequal size are padded with zeros to the largest, as the processors that give them do it.
    """
    return {
        key: _joined([prompt.image[key] for prompt in prompts], prompts[0].layout.along.get(key, 0))
        for key in prompts[0].image
    }


def _joined(images: Sequence[Tensor], along: int) -> Tensor:
    largest = [max(sizes) for sizes in zip(*(image.shape for image in images), strict=True)]
    padded = []
    for image in images:
        missing = [size - own for size, own in zip(largest, image.shape, strict=True)]
        missing[along] = 0
        sides = [side for more in reversed(missing) for side in (0, more)]
        padded.append(torch.nn.functional.pad(image, sides) if any(sides) else image)
    return torch.cat(padded, dim=along)


def _turns(messages: Messages) -> list[dict[str, Any]]:
    """Return the turns without pixels: the template only needs to know where the image goes."""
    return [
        {
            "role": turn["role"],
            "content": [
                {"type": "image"} if part["type"] == "image" else dict(part) for part in _parts(turn["content"])
            ],
        }
        for turn in messages
    ]


def _parts(content: Any) -> Sequence[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _check_grid(grids: Tensor, patch: int, size: Size) -> None:
    seen = (grids[:, 1:] * patch).unique(dim=0).tolist()
    if seen != [list(size)]:
        raise ValueError(f"the processor resized {size} to {seen}, so coordinates would be read in the wrong frame")
