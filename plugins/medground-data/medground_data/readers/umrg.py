"""The published U-MRG table: parquet with ``prompt``, ``images``, ``masks``, ``reward_model`` and ``extra_info``."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from medground.data.source_samples import BadSample, SourceSample
from medground.data.umrg import read_umrg
from medground.data.umrg.locate import is_umrg
from medground.data.umrg.read import Row
from medground.data.umrg.schema import truth
from medground.errors import InputError
from medground.images.paths import safe_name


class UmrgReader:
    """Reads the published parquet table."""

    description: ClassVar[str] = "the published parquet table"

    def recognises(self, root: Path) -> bool:
        """Return True for a .parquet file, or a folder with train.parquet or test.parquet."""
        return is_umrg(root)

    def read(
        self, root: Path, *, split: str | None = None, limit: int | None = None
    ) -> Iterator[SourceSample | BadSample]:
        """Yield a source sample per row that has a mask.

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
        InputError: if it has no mask.
    """
    if row.mask is None:
        raise InputError("it has no mask")
    box, points, _ = truth(row.truth, row.size)
    return SourceSample(
        id=safe_name(row.id),
        where=row.where,
        load_image=row.load_image,
        load_mask=row.load_mask,
        image_key=row.image_key,
        group=row.image_key,
        labels={key: value for key, value in row.labels.items() if key != "think"},
        question=row.question,
        think=row.labels.get("think"),
        split=row.split,
        box=box,
        points=points,
        spacing=row.spacing,
    )
