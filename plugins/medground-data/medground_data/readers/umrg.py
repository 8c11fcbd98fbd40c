"""The published U-MRG table: parquet with ``prompt``, ``images``, ``masks``, ``reward_model`` and ``extra_info``."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from medground.data.source_samples import BadSample, SourceSample
from medground.data.umrg import read_umrg
from medground.data.umrg.locate import is_umrg
from medground.data.umrg.read import Row, UmrgSamples
from medground.data.umrg.schema import truth
from medground.errors import InputError
from medground.images.paths import safe_name


def recognises(root: Path) -> bool:
    """A .parquet file, or a folder with train.parquet or test.parquet."""
    return is_umrg(root)


def cases(root: Path, *, split: str | None = None, limit: int | None = None) -> Iterator[SourceSample | BadSample]:
    """A case per row that has a mask.

    Args:
        root: the table's file or folder.
        split: ``train``, ``test``, or with the variant ``14k/train``; None takes all.
        limit: only the first so many usable rows.
    """
    table = read_umrg(root, split=split, limit=limit)
    yield from table.bad
    for row in table.rows:
        try:
            yield _case(table, row)
        except InputError as error:
            yield BadSample(row.where, error.message)


def _case(table: UmrgSamples, row: Row) -> SourceSample:
    if row.mask is None:
        raise InputError("it has no mask")
    box, points, _ = truth(row.truth, row.size)
    return SourceSample(
        id=safe_name(row.id),
        where=row.where,
        read_image=partial(table.image, row),
        read_mask=partial(table.mask, row),
        image_key=row.image_key,
        group=row.labels.get("patient") or row.image_key,
        labels={key: value for key, value in row.labels.items() if key != "think"},
        question=row.question,
        think=row.labels.get("think"),
        split=row.split,
        box=box,
        points=points,
        spacing=row.spacing,
    )
