"""Questions written by a reasoner, in two stages and a check: description, question with reasoning, can it be answered.

1. **Description.** The image with the target outlined, its category and its measures go to the reasoner, which describes
   the target in words.
2. **Question.** The same image and the description go back, with the words the question must not hold; the answer is
   JSON with ``question`` and ``think``. `medground_data.question_checks` judges it.
3. **Check.** The plain image with a few numbered boxes, one of them the target's, and the question; the reasoner says
   the number. Another number means that the question cannot be answered.

What fails is tried again with another seed. Every answer is kept in ``written.jsonl`` as it comes, so an interrupted
build asks only for what is missing. Box and points always come from the mask, never from a model.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from medground.data.region_props import RegionProps
from medground.data.source_samples import BadSample
from medground.errors import Interrupted, RunError
from medground.geometry import Box, box_iou
from medground.images.pictures import read_image, read_mask
from medground.protocols import Reasoner
from medground.segmenters.batching import image_key
from medground.types import Image, Messages, Sampling
from medground_data.build import Row
from medground_data.question_checks import judge
from medground_data.question_sources import ASKED_BY, FromTemplates, by_image
from medground_data.vocabulary import VIEWS, names_of

WRITTEN = "written.jsonl"
_YELLOW = (255, 221, 64)
_BATCH = 8
_BOXES = 4
"""Numbered boxes shown in the check, the target's among them."""
_ANSWER_TOKENS = {"description": 180, "question": 220, "check": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What asking will take, before anything is asked."""

    requests: int
    """If every first attempt is good; a repeated attempt costs as much again."""
    images: int
    """Images sent, one per request."""
    tokens_in: int
    """Estimated: a token per 28 x 28 px and per 4 letters."""
    tokens_out: int

    def __str__(self) -> str:
        return (
            f"{self.requests} requests with {self.images} images, about {self.tokens_in:,} tokens in and "
            f"{self.tokens_out:,} out, more where an answer has to be asked for again"
        )


@dataclass(kw_only=True)
class FromReasoner:
    """Lets a reasoner write the questions.

    Args:
        reasoner: any component that answers conversations.
        who: what distinguishes this reasoner from another: answers of another are not taken for its own.
        confirm: told the cost before the first request; raises to stop.
        check: whether to ask if the question can be answered (a third request per target).
        attempts: how often a question that fails is written anew, the first time included.
        fallback: what becomes of a target none of whose questions is good: ``template``, or ``reject``.
        seed: of the sampling and the templates.
        temperature: of the sampling.
        keep: leave the questions that the source states.
        stopped: asked between batches.
        advance: told how many requests are done.
    """

    reasoner: Reasoner
    who: str
    confirm: Callable[[Cost], None]
    check: bool = True
    attempts: int = 2
    fallback: str = "template"
    seed: int = 0
    temperature: float = 0.7
    keep: bool = False
    stopped: Callable[[], bool] = lambda: False
    advance: Callable[[int], None] = lambda count: None
    _kept: dict[str, str] = field(default_factory=dict, repr=False)

    def __call__(self, rows: list[Row], folder: Path) -> list[BadSample]:
        """See `medground_data.build.Ask`."""
        self._kept = _read(folder / WRITTEN)
        todo = [row for row in rows if not (self.keep and row.line["question"])]
        for row in rows:
            row.line[ASKED_BY] = "source"
        self.confirm(self.cost(todo))
        for row in todo:
            row.line["question"] = None
        others = by_image(rows)
        faults: dict[str, list[str]] = {}
        for attempt in range(self.attempts):
            left = [row for row in todo if row.line["question"] is None]
            for start in range(0, len(left), _BATCH):
                batch = left[start : start + _BATCH]
                for row, wrong in zip(batch, self._write(batch, others, folder, attempt), strict=True):
                    if wrong:
                        faults.setdefault(str(row.line["id"]), []).append("+".join(wrong))
        return self._fall_back([row for row in todo if row.line["question"] is None], rows, folder, faults)

    def cost(self, rows: Sequence[Row]) -> Cost:
        """What asking about these samples takes; answers that are kept already are not counted off."""
        stages = ["description", "question", *(["check"] if self.check else [])]
        per_image = sum((row.line["size"][0] * row.line["size"][1]) // 784 + 2 for row in rows)
        words = len(_DESCRIBE) + len(_ASK) + 700 + (len(_CHECK) + 120 if self.check else 0)
        return Cost(
            requests=len(stages) * len(rows),
            images=len(stages) * len(rows),
            tokens_in=len(stages) * per_image + len(rows) * words // 4,
            tokens_out=len(rows) * sum(_ANSWER_TOKENS[stage] for stage in stages),
        )

    def _write(self, batch: Sequence[Row], others: Any, folder: Path, attempt: int) -> list[tuple[str, ...]]:
        """Write and judge the questions of a batch; what is wrong with each."""
        shown = [_shown(row, folder) for row in batch]
        described = self._ask(
            [_turn(image, _describe(row)) for row, image in zip(batch, shown, strict=True)],
            "description",
            folder,
            attempt,
        )
        answers = self._ask(
            [_turn(image, _ask(row, text)) for row, image, text in zip(batch, shown, described, strict=True)],
            "question", folder, attempt,
        )  # fmt: skip
        parsed = [_parsed(answer) for answer in answers]
        wrong = [
            ("no_json",) if pair is None else judge(*pair, str(row.line.get("category", "")), row.looks).faults
            for row, pair in zip(batch, parsed, strict=True)
        ]
        good = [index for index, faults in enumerate(wrong) if not faults]
        if self.check and good:
            turns, numbers = [], []
            for index in good:
                image, number = numbered(batch[index], others, folder)
                turns.append(_turn(image, _CHECK.format(question=(parsed[index] or ("", ""))[0])))
                numbers.append(number)
            for index, number, said in zip(good, numbers, self._ask(turns, "check", folder, attempt), strict=True):
                digits = re.findall(r"\d+", said)
                if not digits or int(digits[0]) != number:
                    wrong[index] = ("unanswerable",)
        for row, pair, faults in zip(batch, parsed, wrong, strict=True):
            if pair is not None and not faults:
                row.line.update({"question": pair[0], "think": pair[1], ASKED_BY: "reasoner"})
        return wrong

    def _ask(self, turns: list[Messages], stage: str, folder: Path, attempt: int) -> list[str]:
        """Answers to conversations, those that are kept without asking again."""
        keys = [_key(self.who, stage, turn, self.seed + attempt) for turn in turns]
        missing = [index for index, key in enumerate(keys) if key not in self._kept]
        if missing:
            if self.stopped():
                raise Interrupted("stopped while questions were being written", hint="run the same command again")
            sampling = Sampling(
                temperature=self.temperature,
                max_completion_length=4 * _ANSWER_TOKENS[stage] + 32,
                seed=self.seed + attempt,
            )
            answers = self.reasoner.generate([turns[index] for index in missing], sampling)
            lost = [group[0].fault for group in answers if group[0].fault is not None]
            with (folder / WRITTEN).open("a", encoding="utf-8") as file:
                for index, group in zip(missing, answers, strict=True):
                    if group[0].fault is None:
                        self._kept[keys[index]] = group[0].text
                        file.write(json.dumps({"key": keys[index], "stage": stage, "text": group[0].text}) + "\n")
            if lost:
                raise RunError(
                    f"{len(lost)} of {len(missing)} requests were not answered: {lost[0]}",
                    hint="run the same command again: what was answered is kept",
                )
        self.advance(len(turns))
        return [self._kept[key] for key in keys]

    def _fall_back(
        self, left: Sequence[Row], rows: list[Row], folder: Path, faults: dict[str, list[str]]
    ) -> list[BadSample]:
        rejected = []
        if self.fallback == "template" and left:
            asked = {id(row): dict(row.line) for row in rows if row.line["question"] is not None}
            rejected = FromTemplates(seed=self.seed, keep=True)(rows, folder)
            for row in rows:
                row.line.update(asked.get(id(row), {}))
        for row in left:
            why = ", then ".join(faults.get(str(row.line["id"]), ["nothing"]))
            row.line["writing_failed"] = why
            if self.fallback == "reject":
                rejected.append(BadSample(row.where, f"no good question was written: {why}"))
        return rejected


_DESCRIBE = """One target in this {view} is outlined in yellow: {category}. Describe it to a colleague who cannot see the \
outline, in at most 120 words: where it lies in the picture (left and right are those of the picture), its size, how bright \
it is compared with what surrounds it, its shape, border and texture, and what lies next to it. Then say in one sentence \
what it does, or why somebody would look for it. Measured: {measured}."""

_ASK = """One target in this {view} is outlined in yellow. A colleague describes it:

{description}

Write one question about the picture whose only answer is this target, as a clinician would ask who has not named it. It \
asks by place, look, function or clinical reason. It must not name the target nor hold any of these words: {names}. It must \
not mention the outline, which the reader will not see, nor coordinates. Left and right are those of the picture. It has 6 \
to 40 words and ends with a question mark.

Then write the reasoning that leads from the question to the target by what can be seen, in two to five sentences, without \
coordinates and without the outline.

Measured: {measured}. Answer with JSON only: {{"question": "...", "think": "..."}}"""

_CHECK = """The boxes in this picture are numbered. Which one answers the question: {question} Answer with the number only, \
or 0 if none does."""


def _describe(row: Row) -> str:
    category = str(row.line.get("category") or "a target without a name")
    return _DESCRIBE.format(view=_view(row), category=category, measured=measured(row.looks))


def _ask(row: Row, description: str) -> str:
    names = ", ".join(sorted(names_of(str(row.line.get("category", ""))))) or "none"
    return _ASK.format(view=_view(row), description=description.strip(), names=names, measured=measured(row.looks))


def _view(row: Row) -> str:
    return VIEWS.get(str(row.line.get("modality", "")).lower(), "picture")


def measured(looks: RegionProps) -> str:
    """What is measured of a target, in words for a writer."""
    tone = "brighter than" if looks.tone > 0.02 else "darker than" if looks.tone < -0.02 else "as bright as"
    across, down = round(100 * looks.x), round(100 * looks.y)
    return (
        f"its centre is at {across} % of the width from the left and {down} % of the height from the top, it covers "
        f"{100 * looks.area:.1f} % of the picture, is {tone} its surroundings and {looks.elongation:.1f} times as long "
        f"as broad, in {looks.parts} part{'s' if looks.parts != 1 else ''}"
    )


def _turn(image: Image, text: str) -> Messages:
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


def _shown(row: Row, folder: Path) -> Image:
    """The image with the target outlined, just outside of it."""
    image, mask = read_image(folder / row.line["image"]).copy(), read_mask(folder / row.line["mask"])
    grown = mask
    for _ in range(max(1, round(max(mask.shape) / 400))):
        grown = _spread(grown)
    image[_spread(grown) & ~mask] = _YELLOW
    return image


def _spread(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    around = np.pad(mask, 1)
    spread: NDArray[np.bool_] = (
        around[1:-1, 1:-1] | around[:-2, 1:-1] | around[2:, 1:-1] | around[1:-1, :-2] | around[1:-1, 2:]
    )
    return spread


def numbered(row: Row, others: Any, folder: Path) -> tuple[Image, int]:
    """The image with the target's box among others, and the target's number: other targets first, then empty places."""
    height, width = row.line["size"]
    digest = hashlib.blake2b(str(row.line["id"]).encode(errors="surrogatepass"), digest_size=8).digest()
    rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
    target = Box(*row.line["bbox_2d"])
    rest = [Box(*other.line["bbox_2d"]) for other in others[row.line["image"]] if other is not row]
    boxes = [target, *(box for box in rest if box_iou(box, target) < 0.5)][:_BOXES]
    for _ in range(40):
        x, y = rng.uniform(0, max(1.0, width - target.width)), rng.uniform(0, max(1.0, height - target.height))
        box = Box(x, y, x + target.width, y + target.height)
        if len(boxes) < _BOXES and all(box_iou(box, other) < 0.1 for other in boxes):
            boxes.append(box)
    order = rng.permutation(len(boxes))
    picture = Pillow.fromarray(read_image(folder / row.line["image"]))
    pen, letter = ImageDraw.Draw(picture), max(14.0, max(height, width) / 28)
    for number, index in enumerate(order, start=1):
        corners = tuple(float(value) for value in boxes[index])
        pen.rectangle(corners, outline=_YELLOW, width=max(1, round(letter / 10)))
        pen.text(
            (corners[0], corners[1]),
            str(number),
            fill=_YELLOW,
            font=ImageFont.load_default(letter),
            stroke_width=2,
            stroke_fill=(0, 0, 0),
        )
    return np.asarray(picture), int(np.flatnonzero(order == 0)[0]) + 1


def _parsed(text: str) -> tuple[str, str] | None:
    """(question, think) of an answer; the last JSON object in it that has a question."""
    for start in [found.start() for found in re.finditer(r"\{", text)][::-1]:
        try:
            found, _ = json.JSONDecoder().raw_decode(text[start:])
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and isinstance(found.get("question"), str):
            think = found.get("think")
            return found["question"].strip(), think.strip() if isinstance(think, str) else ""
    return None


def _key(who: str, stage: str, turn: Messages, seed: int) -> str:
    image, text = (part for part in turn[0]["content"])
    parts = [who, stage, image_key(image["image"]), text["text"], str(seed)]
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()


def _read(path: Path) -> dict[str, str]:
    """Answers by key; a line torn by a kill is made whole by the next, and skipped."""
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")
    found = {}
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            found[entry["key"]] = entry["text"]
        except (ValueError, KeyError, TypeError):
            continue
    return found
