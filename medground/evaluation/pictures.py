"""Which samples a page shows, and their pictures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from medground.evaluation.results_file import AnswerRecord, MaskRecord, SampleRecord
from medground.geometry import Box, Point
from medground.images.overlay import NOTHING, concepts, draw_regions
from medground.measures import RULE, measure_mask
from medground.types import Region, Sample, boxes_of, union

ABSENCE = "no_target_accuracy"
"""The metric of samples whose target is absent; they have no other."""
RANKING = ("dice_joint", "iou", "pdice", ABSENCE)
"""Samples are ranked by the first of these metrics that any of them has."""

Records = Sequence[SampleRecord]


def ranked_by(records: Records) -> str:
    """Return the metric by which samples are ranked."""
    names = (name for name in RANKING if any(name in record.values for record in records))
    return next(names, "iou")


class Ranked(NamedTuple):
    """Samples with a score, the best first."""

    ids: Sequence[str]
    scores: Sequence[float]

    def remark(self, name: str) -> str | None:
        """Return what there is to say where no sample is better than another; None where one is."""
        if not self.ids or self.scores[0] > self.scores[-1]:
            return None
        count = len(self.ids)
        every = f"{name} is {self.scores[0]:.3f} in " + (f"all {count} samples" if count > 1 else "the only sample")
        if self.scores[0] > 0:
            return f"{every}: none is better than another."
        why = "every answer points at something" if name == ABSENCE else "no answer shares anything with its target"
        return f"{every}: {why}, so none is called best."

    def extremes(self, best: str = "Best", typical: str = "Typical (median)", worst: str = "Worst") -> dict[str, str]:
        """Return title -> id of the best, the typical and the worst sample; of some, where all are alike.

        Args:
            best, typical, worst: their titles, to which is added how many others share the first or the last score.
        """
        count = len(self.ids)
        if not count or self.scores[0] == self.scores[-1]:
            positions = [position for position in sorted({0, count // 2, count - 1}) if 0 <= position < count]
            return {f"Sample {position + 1} of {count}": self.ids[position] for position in positions}
        titles = {best + self._ties(0): 0, worst + self._ties(count - 1): count - 1}
        if count > 2:
            titles[typical] = count // 2
        return {title: self.ids[position] for title, position in sorted(titles.items(), key=lambda item: item[1])}

    def _ties(self, position: int) -> str:
        """Return how many others have the score of a position too."""
        others = self.scores.count(self.scores[position]) - 1
        return f", as {others} other{'s' * (others > 1)}" if others else ""


def ranked(scores: Mapping[str, float]) -> Ranked:
    """Rank samples by their scores, id -> score; ties by id."""
    pairs = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    return Ranked([name for name, _ in pairs], [score for _, score in pairs])


def scores_of(records: Records, name: str) -> dict[str, float]:
    """Return id -> value of the records that have a metric."""
    return {record.id: record.values[name] for record in records if name in record.values}


class Picture(NamedTuple):
    """A sample with its answer drawn."""

    record: SampleRecord
    title: str
    image: Any
    alt: str
    score: str
    """The metric and its value."""
    remark: str
    """What there is to know about it."""
    labels: str


def picture(record: SampleRecord, sample: Sample, name: str, title: str = "") -> Picture:
    """Draw the first answer of a record beside the truth.

    Args:
        record: of the sample, with an answer.
        sample: the sample.
        name: the metric that is shown.
        title: stands above.
    """
    answer, value = record.answers[0], record.values.get(name)
    several = f"in the mean of {len(record.answers)} answers; the first is shown" if len(record.answers) > 1 else ""
    remark = ", ".join(filter(None, (several, answer.fault, _sizes(answer, sample))))
    labels = ", ".join(word for key, word in record.labels.items() if key in ("modality", "category") and word)
    score = f"{name} –" if value is None else f"{name} {value:.3f}"
    return Picture(
        record=record,
        title=title,
        image=_drawn(answer, sample),
        alt=f"{labels or 'image'}: answer and truth, {score}" + f", {answer.fault}" * bool(answer.fault),
        score=score,
        remark=remark,
        labels=labels,
    )


def _sizes(answer: AnswerRecord, sample: Sample) -> str:
    """What the masks of answer and truth measure, where the spacing is known."""
    if sample.spacing is None:
        return ""
    joint = _joint(answer)
    own = union([region.mask for region in _regions(answer) if region.mask is not None])
    mask = joint.mask() if own is None and joint is not None else own
    pairs = (("answer", None if mask is None else mask.data), ("truth", sample.target.mask))
    measured = [(word, measure_mask(one, sample.spacing)) for word, one in pairs if one is not None]
    sizes = [f"{word} {one.long_axis:.1f} x {one.short_axis:.1f} mm" for word, one in measured if one is not None]
    return f"{' and '.join(sizes)} (axes between {RULE})" if sizes else ""


def _joint(answer: AnswerRecord) -> MaskRecord | None:
    return answer.masks.get("joint") or next(iter(answer.masks.values()), None)


def _regions(answer: AnswerRecord) -> list[Region]:
    joint = _joint(answer)
    own = [region.mask or (joint if len(answer.regions) == 1 else None) for region in answer.regions]
    return [
        Region(
            box=Box(*region.box) if region.box else None,
            points=tuple(Point(*point) for point in region.points),
            label=region.label,
            mask=None if mask is None else mask.mask(),
        )
        for region, mask in zip(answer.regions, own, strict=True)
    ]


def _drawn(answer: AnswerRecord, sample: Sample) -> Any:
    regions = _regions(answer)
    return draw_regions(
        sample.query.image,
        regions,
        target_box=boxes_of(sample.target.regions),
        target_mask=[region.mask.data for region in sample.target.regions if region.mask is not None],
        caption=NOTHING if answer.abstains else concepts(regions) or None,
        legend=False,
    )


class Pictures(NamedTuple):
    """The pictures of an evaluation."""

    remark: str | None
    """Why none is called best."""
    lead: list[Picture]
    """Best, typical and worst."""
    galleries: dict[str, list[Picture]]
    """Title -> more of them."""
    names: list[str]
    """What is drawn, as in `medground.images.legend.LEGEND`."""


def pictures(records: Records, read: Callable[[str], Sample], count: int, seed: int) -> Pictures | None:
    """Return the pictures of one condition's records; None where there is nothing to show.

    Args:
        records: of one condition.
        read: gives a sample by its id.
        count: of pictures in a gallery.
        seed: of those drawn at random.
    """
    name, by_id = ranked_by(records), {record.id: record for record in records}
    order = ranked(scores_of(records, name))
    absent = ranked(scores_of(records, ABSENCE)).ids[::-1][:count]
    if not count or not order.ids:
        return None

    def drawn(chosen: str, title: str = "", metric: str = name) -> Picture:
        return picture(by_id[chosen], read(chosen), metric, title)

    lead = [drawn(chosen, title) for title, chosen in order.extremes().items()]
    shown = {picture.record.id for picture in lead}
    rest = [chosen for chosen in order.ids if chosen not in shown]
    best, worst = rest[:count], rest[count:][-count:][::-1]
    others = rest[len(best) : len(rest) - len(worst)]
    drawn_at_random = np.random.default_rng(seed).permutation(len(others))[:count]
    galleries = {
        f"The next best by {name}": best,
        f"The next worst by {name}": worst,
        "Drawn at random": [others[index] for index in sorted(drawn_at_random.tolist())],
    }
    if order.remark(name):
        galleries = {"Others": best}
    drawings_of = {title: [drawn(chosen) for chosen in ids] for title, ids in galleries.items() if ids}
    if absent and name != ABSENCE:
        drawings_of["Absent targets, wrong answers first"] = [drawn(chosen, metric=ABSENCE) for chosen in absent]
    return Pictures(
        remark=order.remark(name),
        lead=lead,
        galleries=drawings_of,
        names=drawings(records),
    )


def drawings(records: Records) -> list[str]:
    """Return what is drawn on the pictures of records, as in `medground.images.legend.LEGEND`."""
    answers = [answer for record in records for answer in record.answers[:1]]
    boxes = [[region.box for region in answer.regions if region.box] for answer in answers]
    true_boxes = [[region.box for region in record.target.regions if region.box] for record in records]
    present = {
        "truth": any(record.target.area for record in records),
        "mask": any(answer.masks for answer in answers),
        "true box": any(true_boxes),
        "box": any(boxes),
        "key points": any(region.points for answer in answers for region in answer.regions),
    }
    return [name for name, there in present.items() if there]
