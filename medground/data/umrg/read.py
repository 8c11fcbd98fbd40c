"""A U-MRG table as samples.

The table is read once, row by row: each row is checked, its image and mask by their headers, and their bytes are put
into a temporary file without a name, so that any row can then be had at once while next to nothing is held in memory. A
row that cannot be used is listed in `bad`, and the others are read.
"""

import hashlib
import itertools
import json
import re
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from medground.data.source_samples import BadSample
from medground.data.umrg.locate import files
from medground.data.umrg.schema import NAMED, NEEDED, arrow, truth
from medground.errors import InputError, did_you_mean
from medground.geometry import Size
from medground.images.pictures import decode_image, decode_mask, encoded_size
from medground.types import Query, Sample, Target

MAX_GROUP_BYTES = 8_000_000_000
"""The most bytes that a row group may claim, unpacked."""
MAX_ROW_BYTES = 100_000_000
"""The largest image or mask of a row."""
_MODALITIES = {
    "CT": "CT", "MRI": "MRI", "X-Ray": "X-ray", "XRay": "X-ray", "Ultrasound": "ultrasound", "US": "ultrasound",
    "Dermoscopy": "dermoscopy", "Endoscopy": "endoscopy", "Fundus": "fundus", "OCT": "OCT", "Pathology": "pathology",
}  # fmt: skip
"""What a published id says between underscores -> modality."""
_TOKENS = {name.lower(): modality for name, modality in _MODALITIES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row that can be used, without its pixels."""

    id: str
    where: str
    question: str
    truth: str
    size: Size
    """(H, W) of its image."""
    image: tuple[int, int]
    """(offset, length) of its bytes in the temporary file."""
    mask: tuple[int, int] | None
    image_key: str
    split: str
    labels: dict[str, str] = field(default_factory=dict)
    spacing: tuple[float, float] | None = None


class Store:
    """Bytes in a temporary file without a name, which goes when nothing refers to it any more."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by the line below
        weakref.finalize(self, self._file.close)

    def put(self, data: bytes) -> tuple[int, int]:
        """Keep bytes; return their place."""
        at = self._file.seek(0, 2)
        self._file.write(data)
        return at, len(data)

    def get(self, place: tuple[int, int]) -> bytes:
        """The bytes of a place."""
        self._file.seek(place[0])
        return self._file.read(place[1])


class UmrgSamples(Sequence[Sample]):
    """The usable rows of a table; indexing one decodes its image and mask.

    Args:
        rows: checked rows.
        bad: the others, with their places and reasons.
        store: holds the rows' images.
        files: what was read.
    """

    def __init__(self, rows: Sequence[Row], bad: Sequence[BadSample], store: Store, files: Sequence[Path]) -> None:
        self.rows, self.bad, self.files = list(rows), list(bad), list(files)
        self._store = store

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "UmrgSamples": ...
    def __getitem__(self, index: int | slice) -> "Sample | UmrgSamples":
        if isinstance(index, slice):
            return UmrgSamples(self.rows[index], self.bad, self._store, self.files)
        row = self.rows[index]
        image = self.image(row)
        box, points, published = truth(row.truth, (image.shape[0], image.shape[1]))
        return Sample(
            query=Query(image=image, question=row.question, id=row.id),
            target=Target(box=box, points=points, mask=self.mask(row), published=published),
            labels=row.labels,
            spacing=row.spacing,
        )

    @property
    def ids(self) -> list[str]:
        """The id of every sample, in order; nothing is read."""
        return [row.id for row in self.rows]

    def where(self, keep: Callable[[Mapping[str, str]], bool]) -> "UmrgSamples":
        """The rows whose labels `keep` says True to; perhaps none."""
        rows = [row for row in self.rows if keep(row.labels)]
        return UmrgSamples(rows, self.bad, self._store, self.files)

    def image(self, row: Row) -> Any:
        """A row's image, H×W×3 uint8 RGB.

        Raises:
            InputError: if its pixels are damaged.
        """
        return decode_image(self._store.get(row.image), f"the image of {row.where}")

    def mask(self, row: Row) -> Any:
        """A row's mask, H×W bool, or None where it has none. Errors as `image`."""
        return None if row.mask is None else decode_mask(self._store.get(row.mask), f"the mask of {row.where}")


def read_umrg(path: str | Path, *, split: str | None = None, limit: int | None = None) -> UmrgSamples:
    """Read a table of the published schema.

    Args:
        path: see `medground.data.umrg.locate.files`.
        split: ``train`` or ``test``; with the variant ``14k/train``, ``6k/test``; None takes every row.
        limit: take only the first so many usable rows.

    Raises:
        InputError: if there is no such table, it is damaged, or no row of it can be used.
        UsageError: if several variants are there and `split` names none.
        PluginError: without pyarrow.
    """
    found = files(path, split)
    store = Store()
    rows: list[Row] = []
    bad: list[BadSample] = []
    seen: set[str] = set()
    for number, (part, table) in enumerate((part, table) for part, tables in found.items() for table in tables):
        where = (
            table.name if number == 0 or table.name != next(iter(found.values()))[0].name else f"{part} {table.name}"
        )
        for each in _rows(table, part, where, store, seen):
            if isinstance(each, BadSample):
                bad.append(each)
            else:
                rows.append(each)
            if limit is not None and len(rows) >= limit:
                return UmrgSamples(rows, bad, store, [path for tables in found.values() for path in tables])
    if not rows:
        first = f"; the first: {bad[0].where} {bad[0].reason}" if bad else ""
        raise InputError(
            f"{Path(path).name} holds no row that can be used{first}", hint="see docs/data.md for its columns"
        )
    return UmrgSamples(rows, bad, store, [path for tables in found.values() for path in tables])


def _rows(path: Path, split: str, where: str, store: Store, seen: set[str]) -> Iterator[Row | BadSample]:
    for number, values in enumerate(_values(path)):
        place = f"{where} row {number}"
        try:
            yield _row(values, place, number, split, store, seen)
        except InputError as error:
            yield BadSample(place, error.message)


def _values(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file as plain values, one by one."""
    pyarrow, parquet = arrow()
    try:
        with parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            missing = [name for name in NEEDED if name not in names]
            if missing:
                raise InputError(
                    f"{path.name} has no column {missing[0]!r}",
                    hint=did_you_mean(missing[0], [str(name) for name in names]),
                )
            about = table.metadata
            claims = [about.row_group(index).total_byte_size for index in range(about.num_row_groups)]
            if max(claims, default=0) > MAX_GROUP_BYTES or min(claims, default=0) < 0:
                raise InputError(
                    f"{path.name} claims {max(claims) / 1e9:.0f} GB in one row group", hint="write it in smaller groups"
                )
            columns = [name for name in (*NEEDED, "masks", "extra_info") if name in names]
            for batch in table.iter_batches(batch_size=1, columns=columns):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, MemoryError) as error:
        raise InputError(f"{path.name} is damaged or not a parquet file", hint="download or write it again") from error


def _row(values: dict[str, Any], where: str, number: int, split: str, store: Store, seen: set[str]) -> Row:
    image = _one(values.get("images"), "image")
    mask = _one(values["masks"], "mask") if values.get("masks") else None
    size = encoded_size(image, "its image")
    if mask is not None and encoded_size(mask, "its mask") != size:
        raise InputError(f"its mask is {encoded_size(mask, 'its mask')} and its image {size}")
    told = values.get("reward_model")
    text = told.get("ground_truth") if isinstance(told, dict) else None
    truth(text, size)
    question = _question(values.get("prompt"))
    about = values.get("extra_info")
    labels, spacing = _labels(about if isinstance(about, dict) else {})
    name = str((about or {}).get("id") or f"row-{number}") if isinstance(about, dict) else f"row-{number}"
    name = next(new for n in itertools.count(1) if (new := name if n == 1 else f"{name}-{n}") not in seen)
    seen.add(name)
    if "modality" not in labels and (modality := _modality(name)):
        labels["modality"] = modality
    return Row(
        id=name,
        where=where,
        question=question,
        truth=str(text),
        size=size,
        image=store.put(image),
        mask=None if mask is None else store.put(mask),
        image_key=hashlib.sha256(image).hexdigest()[:16],
        split=split,
        labels=labels,
        spacing=spacing,
    )


def _question(prompt: Any) -> str:
    first = prompt[0] if isinstance(prompt, list) and prompt else None
    content = first.get("content") if isinstance(first, dict) else None
    if not isinstance(content, str) or not content.strip():
        raise InputError("its prompt holds no question")
    return content


def _one(images: Any, what: str) -> bytes:
    """The bytes of the one image of a list; `datasets` stores {bytes, path}, others plain bytes."""
    if not isinstance(images, list) or len(images) != 1:
        raise InputError(f"it holds {len(images) if isinstance(images, list) else 'no'} {what}s, not one")
    data = images[0].get("bytes") if isinstance(images[0], dict) else images[0]
    if not isinstance(data, bytes) or not data:
        raise InputError(f"its {what} is not inside the table")
    if len(data) > MAX_ROW_BYTES:
        raise InputError(f"its {what} takes {len(data) / 1e6:.0f} MB")
    return data


def _labels(about: dict[str, Any]) -> tuple[dict[str, str], tuple[float, float] | None]:
    found = {str(key): str(value) for key, value in about.items() if key not in ("id", "labels") and _plain(value)}
    try:
        rest = json.loads(about["labels"]) if isinstance(about.get("labels"), str) else {}
    except (ValueError, RecursionError):
        rest = {}
    rest = rest if isinstance(rest, dict) else {}
    spacing = rest.pop("spacing", None)
    found |= {str(key): str(value) for key, value in rest.items() if _plain(value)}
    # Ours writes the row's number there, which is no label.
    if rest or set(about) >= {*NAMED, "index", "labels"}:
        found.pop("index", None)
    good = isinstance(spacing, list) and len(spacing) == 2 and all(type(each) in (int, float) for each in spacing)
    return found, (float(spacing[0]), float(spacing[1])) if good else None


def _plain(value: Any) -> bool:
    return type(value) in (str, int, float, bool) and value != ""


def _modality(name: str) -> str | None:
    words = [word.lower() for word in re.split(r"[_+]", name)]
    return next((_TOKENS[word] for word in words if word in _TOKENS), None)
