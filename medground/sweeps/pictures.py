"""The same images under each variant of a sweep, side by side."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from medground.evaluation.pictures import RANKING, Picture, drawings, picture, ranked, scores_of
from medground.evaluation.results_file import SampleRecord
from medground.types import Sample

Records = Sequence[SampleRecord]


class SameImage(NamedTuple):
    """One sample under each variant."""

    title: str
    record: SampleRecord
    """Of the first variant."""
    pictures: dict[str, Picture]
    """Variant -> its answer drawn."""


class SideBySide(NamedTuple):
    """Some samples of one dataset under each variant."""

    dataset: str
    remark: str | None
    """Why none is called best."""
    images: list[SameImage]
    names: list[str]
    """What is drawn, as in `medground.images.legend.LEGEND`."""


def side_by_side(
    dataset: str, by_variant: Mapping[str, Records], read: Callable[[str], Sample], count: int
) -> SideBySide | None:
    """Draw the samples that are best, typical and worst on average over the variants, and the one they differ most on.

    Args:
        dataset: the name of the dataset.
        by_variant: variant -> the records of one condition.
        read: gives a sample by its id.
        count: of samples.
    """
    names = [name for name in RANKING if all(scores_of(records, name) for records in by_variant.values())]
    if not names or not count:
        return None
    scores = {variant: scores_of(records, names[0]) for variant, records in by_variant.items()}
    shared = [name for name in next(iter(scores.values())) if all(name in own for own in scores.values())]
    if not shared:
        return None
    values = {name: [own[name] for own in scores.values()] for name in shared}
    order = ranked({name: sum(own) / len(own) for name, own in values.items()})
    means = dict(zip(order.ids, order.scores, strict=True))
    titles = {name: f"{title}: mean {names[0]} {means[name]:.3f}" for title, name in order.extremes().items()}
    spread = {name: max(own) - min(own) for name, own in values.items()}
    widest = max(spread, key=lambda name: spread[name])
    if spread[widest] > 0:
        ends = f"{names[0]} {min(values[widest]):.3f} to {max(values[widest]):.3f}"
        also = titles.pop(widest, None)
        titles = {widest: f"Where the variants differ most: {ends}" + (f"; {also}" if also else ""), **titles}
    records = {
        variant: {record.id: record for record in own if record.id in titles} for variant, own in by_variant.items()
    }
    samples = {name: read(name) for name in list(titles)[:count]}
    return SideBySide(
        dataset=dataset,
        remark=order.remark(f"the mean {names[0]} over the variants"),
        images=[
            SameImage(
                title=title,
                record=next(iter(records.values()))[name],
                pictures={variant: picture(own[name], samples[name], names[0]) for variant, own in records.items()},
            )
            for name, title in titles.items()
            if name in samples
        ],
        names=drawings([record for own in by_variant.values() for record in own]),
    )
