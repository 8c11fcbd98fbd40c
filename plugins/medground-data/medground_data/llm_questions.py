"""Questions written by a reasoner, in two stages and a check: description, question with reasoning, can it be answered.

1. **Description.** The image with the target outlined, its category and its measures go to the reasoner, which describes
   the target in words.
2. **Question.** The same image and the description go back, with the words the question must not hold; the answer is
   JSON with ``question`` and ``think``. `medground_data.question_checks` judges it.
3. **Check.** The plain image with a few numbered boxes, one of them the target's, and the question; the reasoner says
   the number. Another number means that the question cannot be answered.

What fails is tried again with another seed. Every answer is stored in ``written.jsonl`` as it comes, so an interrupted
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
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from scipy import ndimage

from medground.data.category_names import VIEWS, names_of
from medground.data.region_props import RegionProps
from medground.data.source_samples import BadSample
from medground.errors import Interrupted, RunError
from medground.geometry import Box, box_iou
from medground.images.read import read_image, read_mask
from medground.protocols import Reasoner
from medground.runs.files import JsonLines
from medground.segmenters.batching import image_key
from medground.types import Image, Messages, Sampling
from medground_data.drafts import Draft
from medground_data.question_checks import judge
from medground_data.question_sources import ASKED_BY, FromTemplates, by_image

WRITTEN = "written.jsonl"
_YELLOW = (255, 221, 64)
_BATCH = 8
_BOXES = 4
"""Numbered boxes shown in the check, the target's among them."""
_ANSWER_TOKENS = {"description": 180, "question": 220, "check": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of the requests, before the first is sent."""

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
        who: tells this reasoner from another: stored answers of another are not used.
        confirm: called with the cost before the first request; raises to stop.
        check: ask whether the question can be answered (a third request per target).
        attempts: attempts at a question, the first included.
        fallback: what becomes of a target without a good question: ``template``, or ``reject``.
        seed: of the sampling and the templates.
        temperature: of the sampling.
        keep: leave the questions that the source states.
        stopped: called between batches; True stops.
        advance: called with the number of requests done.
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
    _answers: dict[str, str] = field(default_factory=dict, repr=False)

    def __call__(self, drafts: list[Draft], folder: Path) -> list[BadSample]:
        """See `medground_data.build.QuestionSource`."""
        self._answers = _read(folder / WRITTEN)
        todo = [draft for draft in drafts if not (self.keep and draft.line["question"])]
        for draft in drafts:
            draft.line[ASKED_BY] = "source"
        self.confirm(self.cost(todo))
        for draft in todo:
            draft.line["question"] = None
        others = by_image(drafts)
        faults: dict[str, list[str]] = {}
        for attempt in range(self.attempts):
            missing = [draft for draft in todo if draft.line["question"] is None]
            for start in range(0, len(missing), _BATCH):
                batch = missing[start : start + _BATCH]
                for draft, wrong in zip(batch, self._write(batch, others, folder, attempt), strict=True):
                    if wrong:
                        faults.setdefault(str(draft.line["id"]), []).append("+".join(wrong))
        return self._fall_back([draft for draft in todo if draft.line["question"] is None], drafts, folder, faults)

    def cost(self, drafts: Sequence[Draft]) -> Cost:
        """Return the cost of asking about these samples; stored answers are not deducted."""
        stages = ["description", "question", *(["check"] if self.check else [])]
        per_image = sum((draft.line["size"][0] * draft.line["size"][1]) // 784 + 2 for draft in drafts)
        words = len(_DESCRIBE) + len(_ASK) + 700 + (len(_CHECK) + 120 if self.check else 0)
        return Cost(
            requests=len(stages) * len(drafts),
            images=len(stages) * len(drafts),
            tokens_in=len(stages) * per_image + len(drafts) * words // 4,
            tokens_out=len(drafts) * sum(_ANSWER_TOKENS[stage] for stage in stages),
        )

    def _write(self, batch: Sequence[Draft], others: Any, folder: Path, attempt: int) -> list[tuple[str, ...]]:
        """Write and judge the questions of a batch; return what is wrong with each."""
        shown = [_shown(draft, folder) for draft in batch]
        described = self._ask(
            [_turn(image, _describe(draft)) for draft, image in zip(batch, shown, strict=True)],
            "description",
            folder,
            attempt,
        )
        answers = self._ask(
            [_turn(image, _ask(draft, text)) for draft, image, text in zip(batch, shown, described, strict=True)],
            "question", folder, attempt,
        )  # fmt: skip
        parsed = [_parsed(answer) for answer in answers]
        wrong = [
            ("no_json",) if pair is None else judge(*pair, str(draft.line.get("category", "")), draft.props).faults
            for draft, pair in zip(batch, parsed, strict=True)
        ]
        good = [index for index, faults in enumerate(wrong) if not faults]
        if self.check and good:
            turns, numbers = [], []
            for index in good:
                image, number = numbered(batch[index], others, folder)
                turns.append(_turn(image, _CHECK.format(question=(parsed[index] or ("", ""))[0])))
                numbers.append(number)
            for index, number, answer in zip(good, numbers, self._ask(turns, "check", folder, attempt), strict=True):
                digits = re.findall(r"\d+", answer)
                if not digits or int(digits[0]) != number:
                    wrong[index] = ("unanswerable",)
        for draft, pair, faults in zip(batch, parsed, wrong, strict=True):
            if pair is not None and not faults:
                draft.line.update({"question": pair[0], "think": pair[1], ASKED_BY: "reasoner"})
        return wrong

    def _ask(self, turns: list[Messages], stage: str, folder: Path, attempt: int) -> list[str]:
        """Return the answers to conversations; stored ones are not asked for again."""
        keys = [_key(self.who, stage, turn, self.seed + attempt) for turn in turns]
        missing = [index for index, key in enumerate(keys) if key not in self._answers]
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
            stored = JsonLines(folder / WRITTEN)
            for index, group in zip(missing, answers, strict=True):
                if group[0].fault is None:
                    self._answers[keys[index]] = group[0].text
                    stored.append({"key": keys[index], "stage": stage, "text": group[0].text})
            stored.close()
            if lost:
                raise RunError(
                    f"{len(lost)} of {len(missing)} requests were not answered: {lost[0]}",
                    hint="run the same command again: answers are stored",
                )
        self.advance(len(turns))
        return [self._answers[key] for key in keys]

    def _fall_back(
        self, failed: Sequence[Draft], drafts: list[Draft], folder: Path, faults: dict[str, list[str]]
    ) -> list[BadSample]:
        rejected = []
        if self.fallback == "template" and failed:
            written = {id(draft): dict(draft.line) for draft in drafts if draft.line["question"] is not None}
            rejected = FromTemplates(seed=self.seed, keep=True)(drafts, folder)
            for draft in drafts:
                draft.line.update(written.get(id(draft), {}))
        for draft in failed:
            why = ", then ".join(faults.get(str(draft.line["id"]), ["nothing"]))
            draft.line["writing_failed"] = why
            if self.fallback == "reject":
                rejected.append(BadSample(draft.where, f"no good question was written: {why}"))
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


def _describe(draft: Draft) -> str:
    category = str(draft.line.get("category") or "a target without a name")
    return _DESCRIBE.format(view=_view(draft), category=category, measured=measured(draft.props))


def _ask(draft: Draft, description: str) -> str:
    names = ", ".join(sorted(names_of(str(draft.line.get("category", ""))))) or "none"
    return _ASK.format(view=_view(draft), description=description.strip(), names=names, measured=measured(draft.props))


def _view(draft: Draft) -> str:
    return VIEWS.get(str(draft.line.get("modality", "")).lower(), "picture")


def measured(props: RegionProps) -> str:
    """Return the measures of a target in words, for a writer."""
    contrast = "brighter than" if props.contrast > 0.02 else "darker than" if props.contrast < -0.02 else "as bright as"
    across, down = round(100 * props.x), round(100 * props.y)
    return (
        f"its centre is at {across} % of the width from the left and {down} % of the height from the top, it covers "
        f"{100 * props.area:.1f} % of the picture, is {contrast} its surroundings and {props.elongation:.1f} times as long "
        f"as broad, in {props.components} part{'s' if props.components != 1 else ''}"
    )


def _turn(image: Image, text: str) -> Messages:
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


def _shown(draft: Draft, folder: Path) -> Image:
    """The image with the target outlined, just outside of it."""
    image, mask = read_image(folder / draft.line["image"]).copy(), read_mask(folder / draft.line["mask"])
    width = 1 + max(1, round(max(mask.shape) / 400))
    image[ndimage.binary_dilation(mask, iterations=width) & ~mask] = _YELLOW
    return image


def numbered(draft: Draft, others: Any, folder: Path) -> tuple[Image, int]:
    """Return the image with the target's box among others, and the target's number: other targets first, then empty spots."""
    height, width = draft.line["size"]
    digest = hashlib.blake2b(str(draft.line["id"]).encode(errors="surrogatepass"), digest_size=8).digest()
    rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
    target = Box(*draft.line["bbox_2d"])
    rest = [Box(*other.line["bbox_2d"]) for other in others[draft.line["image"]] if other is not draft]
    boxes = [target, *(box for box in rest if box_iou(box, target) < 0.5)][:_BOXES]
    for _ in range(40):
        x, y = rng.uniform(0, max(1.0, width - target.width)), rng.uniform(0, max(1.0, height - target.height))
        box = Box(x, y, x + target.width, y + target.height)
        if len(boxes) < _BOXES and all(box_iou(box, other) < 0.1 for other in boxes):
            boxes.append(box)
    order = rng.permutation(len(boxes))
    picture = Pillow.fromarray(read_image(folder / draft.line["image"]))
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
    for start in [match.start() for match in re.finditer(r"\{", text)][::-1]:
        try:
            answer, _ = json.JSONDecoder().raw_decode(text[start:])
        except (ValueError, RecursionError):
            continue
        if isinstance(answer, dict) and isinstance(answer.get("question"), str):
            think = answer.get("think")
            return answer["question"].strip(), think.strip() if isinstance(think, str) else ""
    return None


def _key(who: str, stage: str, turn: Messages, seed: int) -> str:
    image, text = turn[0]["content"]
    fields = [who, stage, image_key(image["image"]), text["text"], str(seed)]
    return hashlib.sha256("\0".join(fields).encode(errors="surrogatepass")).hexdigest()


def _read(path: Path) -> dict[str, str]:
    """Return the stored answers by key."""
    records = [record for record in JsonLines(path).read() if isinstance(record, dict)]
    return {record["key"]: record["text"] for record in records if {"key", "text"} <= record.keys()}
