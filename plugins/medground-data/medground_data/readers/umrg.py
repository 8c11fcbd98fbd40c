"""The published U-MRG table: parquet with ``prompt``, ``images``, ``masks``, ``reward_model`` and ``extra_info``."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from medground.data.source_samples import BadSample, SourceRegion, SourceSample
from medground.data.umrg import read_umrg
from medground.data.umrg.locate import is_umrg
from medground.data.umrg.read import Row
from medground.data.umrg.schema import truth
from medground.errors import InputError
from medground.images.paths import safe_name
from medground.types import Region


class UmrgReader:
    """Reads the published parquet table."""

    description: ClassVar[str] = "the published parquet table"

    def recognises(self, root: Path) -> bool:
        """Return True for a .parquet file, or a folder with train.parquet or test.parquet."""
        return is_umrg(root)

    def read(
        self, root: Path, *, split: str | None = None, limit: int | None = None
    ) -> Iterator[SourceSample | BadSample]:
        """Yield a source sample per row that has a mask, and of ours per row that states several targets or none.

        Args:
            root: the table's file or folder.
            split: ``train``, ``test``, or with the variant ``14k/train``; None takes all.
            limit: only the first so many usable rows.
        """
        table = read_umrg(root, split=split, limit=limit)
        yield from table.bad
        for row in table.entries:
            try:
                yield sample_of_row(row)
            except InputError as error:
                yield BadSample(row.where, error.message)


def sample_of_row(row: Row) -> SourceSample:
    """Return the source sample of a row of the published schema.

    Raises:
        InputError: if it states targets and has no mask.
    """
    stated = truth(row.truth, row.size).regions
    if stated and not row.masks:
        raise InputError("it has no mask")
    one = stated[0] if len(stated) == 1 and not stated[0].label else None
    return SourceSample(
        id=safe_name(row.id),
        where=row.where,
        load_image=row.load_image,
        load_mask=partial(_union, row),
        image_key=row.image_key,
        group=row.image_key,
        labels={key: value for key, value in row.labels.items() if key != "think"},
        question=row.question,
        think=row.labels.get("think"),
        split=row.split,
        box=one.box if one else None,
        points=one.points if one else (),
        spacing=row.spacing,
        regions=None if one else tuple(_region(row, index, region) for index, region in enumerate(stated)),
    )


def _region(row: Row, index: int, stated: Region) -> SourceRegion:
    mask = partial(row.load_mask, index)
    return SourceRegion(load_mask=mask, box=stated.box, points=stated.points, label=stated.label)


def _union(row: Row) -> NDArray[np.bool_]:
    union = np.zeros(row.size, bool)
    for index in range(len(row.masks)):
        union |= row.load_mask(index)
    return union
