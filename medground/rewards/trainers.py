"""Our rewards as the functions that other trainers call: TRL's and verl's.

A row of their data needs ``image`` (a path, a uint8 array or a PIL image; TRL's ``images`` with one image will do) or
``size`` (H, W), and ``ground_truth``: JSON or a mapping with ``bbox_2d`` (x1, y1, x2, y2, half-open) and ``point_2d``
([[x, y], ...]) in pixels of that image, perhaps ``mask`` (run-length encoded, as in COCO); of several targets a list of
these, ``[]`` of an absent one. What else it holds becomes the sample's labels.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medground.errors import InputError, RunError
from medground.frames import Frame
from medground.geometry import Box, Point, Size
from medground.images.query import as_query
from medground.images.rle import decode_rle
from medground.rewards.rubric import Rubric, Score, why_no_total
from medground.rewards.term import Term
from medground.types import Completion, Mask, Query, Region, Rollout, Sample, Target

if TYPE_CHECKING:
    from medground.pipeline.pipeline import Pipeline

OWN = ("image", "images", "size", "question", "ground_truth", "id")
"""The columns of a row that are no labels."""


class _Scorer:
    """A rubric and the pipeline that reads what it scores."""

    def __init__(
        self, reward: Rubric | Callable[[Rollout], Any], pipeline: "Pipeline", frame: Callable[[Size], Frame] | None
    ) -> None:
        self.rubric = reward if isinstance(reward, Rubric) else Rubric([Term(type(reward).__name__, reward)])
        self.pipeline = pipeline
        self.frame = frame

    def __call__(self, rows: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> list[Score]:
        samples = [_sample(row) for row in rows]
        frame = self.frame or self.pipeline.reasoner.frame
        completions = [
            Completion(text=text, frame=frame(sample.query.size)) for text, sample in zip(texts, samples, strict=True)
        ]
        return self.rubric(self.pipeline.rollouts(samples, completions, masks=self.rubric.needs_mask))


def to_trl(
    reward: Rubric | Callable[[Rollout], Any], pipeline: "Pipeline", *, frame: Callable[[Size], Frame] | None = None
) -> Callable[..., list[float | None]]:
    """Return a reward as a function for TRL's ``GRPOTrainer(reward_funcs=[...])``.

    The function gives one total per completion, and None (which TRL leaves out) where the reward abstains or fails.

    >>> import medground
    >>> pipeline = medground.load("infer/toy")
    >>> reward = medground.to_trl(medground.build("reward", "bbox_iou"), pipeline)
    >>> text = '<think>a</think><answer>{"bbox": [0, 0, 8, 8], "points_1": [1, 1], "points_2": [5, 5]}</answer>'
    >>> truth = '{"bbox_2d": [0, 0, 8, 4], "point_2d": []}'
    >>> reward(prompts=["Where?"], completions=[text], size=[[10, 20]], ground_truth=[truth])
    [0.5]

    Args:
        reward: a term, or a whole rubric.
        pipeline: reads the answers, and segments them where the reward needs masks.
        frame: what the model's numbers count, from the (H, W) of an image; by default as the pipeline's reasoner says.

    Raises:
        InputError: from the function, if a row lacks what is needed.
    """
    scorer = _Scorer(reward, pipeline, frame)

    def trl_reward(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[Any] | Any
    ) -> list[float | None]:
        count = len(completions)
        lists = {name: values for name, values in columns.items() if isinstance(values, list) and len(values) == count}
        lists.pop("completion_ids", None)
        rows = [
            {"question": _text(prompts[index]), **{name: values[index] for name, values in lists.items()}}
            for index in range(count)
        ]
        return [score.total for score in scorer(rows, [_text(completion) for completion in completions])]

    trl_reward.__name__ = "_".join(scorer.rubric.labels)
    return trl_reward


def to_verl(
    reward: Rubric | Callable[[Rollout], Any], pipeline: "Pipeline", *, frame: Callable[[Size], Frame] | None = None
) -> Callable[..., dict[str, float]]:
    """Return a reward as a ``compute_score`` function for verl; arguments as for `to_trl`.

    The image, its size and the labels are read from ``extra_info``. The function gives ``score`` and the value of every
    term, NaN of one that abstains: verl reads from the first row which values all rows have. It knows no abstention of the
    whole, so the function raises where there is no total. Neither torch nor transformers is imported for it.

    >>> import medground
    >>> score = medground.to_verl(medground.build("reward", "bbox_iou"), medground.load("infer/toy"))
    >>> text = '<think>a</think><answer>{"bbox": [0, 0, 8, 8], "points_1": [1, 1], "points_2": [5, 5]}</answer>'
    >>> score("umrg", text, '{"bbox_2d": [0, 0, 8, 4]}', {"size": [10, 20]})
    {'score': 0.5, 'BboxIou': 0.5}

    Raises:
        InputError: from the function, if a row lacks what is needed.
        RunError: from the function, where the reward abstains or fails.
    """
    scorer = _Scorer(reward, pipeline, frame)

    def compute_score(
        data_source: str, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None, **_: Any
    ) -> dict[str, float]:
        (score,) = scorer([{**(extra_info or {}), "ground_truth": ground_truth}], [solution_str])
        if score.total is None:
            raise RunError(f"an answer to {data_source} data has no score: {why_no_total([score])}")
        values = {label: math.nan if term.value is None else term.value for label, term in score.terms.items()}
        return {"score": score.total, **values}

    return compute_score


def _text(value: Any) -> str:
    """Return the text of a prompt or completion: plain, or that of the last of its messages."""
    content = value if isinstance(value, str) else value[-1]["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")


def _sample(row: Mapping[str, Any]) -> Sample:
    question, name = str(row.get("question") or ""), str(row.get("id") or "")
    images = [image for image in (row.get("image"), *(row.get("images") or ())) if image is not None]
    if len(images) > 1:
        raise InputError(f"a row holds {len(images)} images", hint="give one image")
    if images:
        query = as_query(images[0], question)
    elif _numbers(row.get("size"), 2):
        height, width = map(int, row["size"])
        query = Query(image=np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (height, width, 3)), question=question)
    else:
        raise InputError("a row holds neither an image nor its size", hint='add a column "image" or "size" [H, W]')
    labels = {key: value for key, value in row.items() if key not in OWN and isinstance(value, str)}
    return Sample(
        query=Query(image=query.image, question=question, id=name),
        target=_target(row.get("ground_truth")),
        labels=labels,
    )


def _target(truth: Any) -> Target:
    try:
        stated = json.loads(truth) if isinstance(truth, str) else truth
    except ValueError:
        stated = None
    several = isinstance(stated, list | tuple)
    entries: list[Any] = list(stated) if several else [stated]
    if not all(isinstance(entry, Mapping) for entry in entries):
        raise InputError(f"ground_truth is no object: {truth!r}", hint='give {"bbox_2d": [x1, y1, x2, y2]}')
    regions = tuple(map(_region, entries))
    if several:
        return Target(regions=regions)
    return Target(regions=regions, published={"bbox_2d": stated["bbox_2d"], "point_2d": stated.get("point_2d") or []})


def _region(stated: Mapping[str, Any]) -> Region:
    box, points, mask = stated.get("bbox_2d"), stated.get("point_2d") or [], stated.get("mask")
    if not _numbers(box, 4) or not all(_numbers(point, 2) for point in points):
        raise InputError(f"ground_truth holds no box and points: {stated!r}", hint="give finite numbers, in pixels")
    return Region(
        box=Box(*(float(number) for number in box or ())),
        points=tuple(Point(float(x), float(y)) for x, y in points),
        mask=None if mask is None else Mask(data=decode_rle(mask)),
    )


def _numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) == count
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    )
