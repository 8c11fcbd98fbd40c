"""Reasoners without weights: one looks at the image and follows rules, one says given texts, one knows the truth."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError
from medground.frames import Frame, Kind, Order
from medground.geometry import Size
from medground.protocols import PromptInterface
from medground.types import Completion, Image, Messages, Sample, Sampling, image_of, text_of
from medground_toy.proposals import Proposal, every, fit, known, propose
from medground_toy.tiles import tile_fits, tiles_of

_KEY = re.compile(r"""(['"])(\w+)\1\s*:\s*(\[\s*\[)?""")
_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*")


class _Framed:
    """A reasoner that sees the image as it is and states in which frame it writes."""

    def __init__(self, *, frame: Kind = "pixel", order: Order = "xy") -> None:
        Frame(frame, (1, 1), order)  # refuses a wrong word here rather than at the first answer
        self.kind: Kind = frame
        self.order: Order = order

    def frame(self, size: Size) -> Frame:
        """Return the declared frame, for an original of `size` (H, W)."""
        return Frame(self.kind, size, self.order)


class RuleReasoner(_Framed):
    """Cuts the image into regions and picks the one that fits the question's words (left, upper, dark, small, ...).

    It answers with the keys and the quotes of the example that the prompt shows, and thinks aloud where the prompt
    mentions a ``<think>`` block. Where the example is a list it writes every region of the tone that the question asks
    for, perhaps none; of slices of a volume under their numbers, it writes the number of one. At temperature 0 it takes the
    best region; above, it draws among the regions and shakes the box, by a seed made of the sampling seed, the conversation
    and the completion's index.

    Args:
        frame: what its numbers count: ``pixel`` of the image, ``permille`` or ``unit``.
        order: ``xy``, or ``yx`` to write y first.
    """

    def __repr__(self) -> str:
        return f"RuleReasoner(frame={self.kind!r}, order={self.order!r})"

    def generate(self, batch: Sequence[Messages], sampling: Sampling) -> list[list[Completion]]:
        """Return one inner list per conversation, ``sampling.num_generations`` long."""
        return [self._answers(messages, sampling) for messages in batch]

    def _answers(self, messages: Messages, sampling: Sampling) -> list[Completion]:
        image, prompt = image_of(messages), text_of(messages)
        frame = self.frame((image.shape[0], image.shape[1]))
        words = _WORD.findall(question_of(prompt).lower())
        tiles = tiles_of(prompt)
        proposals = propose(image) if tiles is None else []
        schema = _schema(prompt)
        fits = np.array([fit(one, words) for one in proposals]) if tiles is None else tile_fits(image, tiles, words)
        content = hashlib.sha256(prompt.encode("utf-8", "replace") + image.tobytes()).digest()
        completions = []
        for index in range(sampling.num_generations):
            noise, rng = np.zeros(len(fits)), None
            if sampling.temperature > 0:
                rng = np.random.default_rng([sampling.seed, index, *np.frombuffer(content, np.uint32)])
                noise = 0.25 * sampling.temperature * rng.gumbel(size=len(fits))
            best_index = int((fits + noise).argmax())
            if tiles is not None:
                text = f'<answer>{{"slice": {tiles.slices[best_index]}}}</answer>'
                completions.append(Completion(text=text, frame=frame))
                continue
            best = proposals[best_index]
            chosen = every(proposals, words, fits + noise) if schema.several else [best]
            boxes = [_shaken(proposal, rng, sampling.temperature) for proposal in chosen]
            text = _write(chosen, boxes, schema, prompt, words, frame)
            completions.append(Completion(text=text, frame=frame))
        return completions


class ScriptedReasoner(_Framed):
    """Says the given texts, in turn over the completions of each conversation; for tests and dry runs.

    Args:
        texts: what to say; completion i of every conversation is ``texts[i % len(texts)]``.
        frame: what the numbers in the texts count: ``pixel`` of the image, ``permille`` or ``unit``.
        order: ``xy``, or ``yx`` where the texts write y first.
    """

    def __init__(self, *, texts: Sequence[str] = ("",), frame: Kind = "pixel", order: Order = "xy") -> None:
        if isinstance(texts, str) or not texts:
            raise ValueError("texts is a list of at least one text")
        super().__init__(frame=frame, order=order)
        self.texts = tuple(texts)

    def __repr__(self) -> str:
        return f"ScriptedReasoner(texts={list(self.texts)!r}, frame={self.kind!r}, order={self.order!r})"

    def generate(self, batch: Sequence[Messages], sampling: Sampling) -> list[list[Completion]]:
        """Return one inner list per conversation, ``sampling.num_generations`` long."""
        answers = []
        for messages in batch:
            height, width = image_of(messages).shape[:2]
            frame = self.frame((height, width))
            texts = [self.texts[index % len(self.texts)] for index in range(sampling.num_generations)]
            answers.append([Completion(text=text, frame=frame) for text in texts])
        return answers


class OracleReasoner(_Framed):
    """Knows the truth, and writes it as the prompt interface says a perfect model would: no target, one or several.

    For tests and for ceilings: what remains wrong is the interface's, the segmenter's or the metric's.

    Args:
        samples: with their truth; a conversation about none of them is refused.
        interface: writes the answers.
        frame: what its numbers count: ``pixel`` of the image, ``permille`` or ``unit``.
        order: ``xy``, or ``yx`` to write y first.
    """

    def __init__(
        self, samples: Iterable[Sample], interface: PromptInterface, *, frame: Kind = "pixel", order: Order = "xy"
    ) -> None:
        super().__init__(frame=frame, order=order)
        self.interface = interface
        self._known: dict[bytes, list[Sample]] = {}
        for sample in samples:
            self._known.setdefault(_digest(sample.query.image), []).append(sample)

    def generate(self, batch: Sequence[Messages], sampling: Sampling) -> list[list[Completion]]:
        """Return one inner list per conversation, ``sampling.num_generations`` long, all alike.

        Raises:
            InputError: if a conversation is not about one of the samples.
        """
        return [[self._answer(messages)] * sampling.num_generations for messages in batch]

    def _answer(self, messages: Messages) -> Completion:
        image, text = image_of(messages), text_of(messages)
        about = [one for one in self._known.get(_digest(image), []) if one.query.question in text]
        if not about:
            raise InputError("the oracle knows no sample of that image and that question")
        sample = max(about, key=lambda one: len(one.query.question))
        frame = self.frame(sample.query.size)
        return Completion(text=self.interface.answer(sample.target, frame=frame, size=sample.query.size), frame=frame)


def _digest(image: Image) -> bytes:
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()


def question_of(prompt: str) -> str:
    """Return the question inside a prompt: what follows "Question:", else its sentences that end in "?", else all.

    >>> question_of("Find it. Question: Which dark area is on the left?\\nAnswer in JSON.")
    'Which dark area is on the left?'
    """
    marked = re.search(r"\bQuestion:\s*(\S[^\n]*)", prompt)
    if marked:
        return marked[1]
    return " ".join(re.findall(r"[^.?!\n]*\?", prompt)) or prompt


@dataclass(frozen=True, slots=True)
class _Schema:
    """The form of an answer, as a prompt shows it."""

    quote: str
    keys: tuple[tuple[str, bool], ...]
    """(key, is a list of lists)."""
    several: bool
    """Whether an answer is a list of objects."""


def _shaken(proposal: Proposal, rng: np.random.Generator | None, temperature: float) -> NDArray[np.float64]:
    """The corners of a region's box, moved by chance where there is any."""
    shake = np.zeros(4) if rng is None else rng.normal(scale=0.05 * min(temperature, 2.0), size=4)
    corners = np.array(proposal.box) + shake * np.tile([proposal.box.width, proposal.box.height], 2)
    return np.concatenate([np.minimum(corners[:2], corners[2:]), np.maximum(corners[:2], corners[2:])])


def _write(
    proposals: Sequence[Proposal],
    boxes: Sequence[NDArray[np.float64]],
    schema: _Schema,
    prompt: str,
    words: list[str],
    frame: Frame,
) -> str:
    objects = ", ".join(_object(one, box, schema, frame) for one, box in zip(proposals, boxes, strict=True))
    answer = f"<answer>{f'[{objects}]' if schema.several else objects}</answer>"
    if "<think>" not in prompt:
        return answer
    think = _think(proposals[0], words) if proposals else "Nothing in the picture fits the question."
    return f"<think>{think}</think>{answer}"


def _object(proposal: Proposal, corners: NDArray[np.float64], schema: _Schema, frame: Frame) -> str:
    height, width = frame.size
    corners = corners.clip(0, np.tile([width, height], 2))
    inside = [np.array(point).clip(corners[:2], corners[2:]) for point in proposal.points]
    values: list[Any] = []
    for key, nested in schema.keys:
        if "box" in key:
            numbers = _numbers(corners, frame)
            values.append([numbers] if nested else numbers)
        elif nested:
            values.append([_numbers(point, frame) for point in inside])
        else:
            values.append(_numbers(inside[sum("point" in k for k, _ in schema.keys[: len(values)]) % 2], frame))
    quote = schema.quote
    pairs = (f"{quote}{key}{quote}: {value}" for (key, _), value in zip(schema.keys, values, strict=True))
    return f"{{{', '.join(pairs)}}}"


def _schema(prompt: str) -> _Schema:
    """Return the form of the prompt's last example answer; ours where it shows none."""
    examples = [part.partition("</answer>")[0] for part in prompt.split("<answer>")[1:]]
    for text in [*reversed(examples), prompt]:
        keys = {key: bool(nested) for _, key, nested in _KEY.findall(text) if "box" in key or "point" in key}
        if keys:
            quote = next(q for q, key, _ in _KEY.findall(text) if key in keys)
            return _Schema(quote, tuple(keys.items()), text.lstrip().startswith("["))
    return _Schema('"', (("bbox", False), ("points_1", False), ("points_2", False)), False)


def _numbers(pixels: NDArray[np.float64], frame: Frame) -> list[float]:
    values = frame.from_pixels(pixels, frame.size)
    return [round(float(v), 4) if frame.kind == "unit" else round(float(v)) for v in values]


def _think(proposal: Proposal, words: list[str]) -> str:
    across = "left" if proposal.x < -0.15 else "right" if proposal.x > 0.15 else "middle"
    down = "upper" if proposal.y < -0.15 else "lower" if proposal.y > 0.15 else "middle"
    position = "middle" if across == down else f"{down} {across}".replace("middle ", "")
    tone = "bright" if proposal.light > 0.3 else "dark" if proposal.light < -0.3 else "grey"
    size = "large" if proposal.size > 0.3 else "small" if proposal.size < 0.12 else "medium-sized"
    known_words = known(words)
    hint = (
        f"The question points to {', '.join(known_words)}. " if known_words else "The question gives no place or tone. "
    )
    return f"{hint}A {size}, {tone} region in the {position} part stands out from what surrounds it and fits best."
