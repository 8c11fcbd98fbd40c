"""The samples of a U-MRG table.

The table is read once, row by row: each row is checked, its image and mask by their headers, and their bytes are put
into a temporary file without a name, so that any row can be read at once and next to nothing is held in memory. A row that
cannot be used is listed in `Dataset.bad`, and the others are read.
"""

import hashlib
import io
import itertools
import json
import re
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medground.data.dataset import Dataset
from medground.data.json_text import id_text, shown
from medground.data.manifest import spacing_of
from medground.data.source_samples import BadSample, refuse_mask
from medground.data.umrg.locate import files
from medground.data.umrg.schema import NAMED, NEEDED, arrow, truth
from medground.errors import InputError, did_you_mean
from medground.geometry import Size
from medground.images.loaded import LoadedImage
from medground.images.pictures import decode_mask, decode_picture, encoded_size, orientation_of
from medground.types import Mask, Query, Sample, Target

MAX_GROUP_BYTES = 8_000_000_000
"""The most bytes that a row group may claim, unpacked."""
MAX_ROW_BYTES = 100_000_000
"""The largest image or mask of a row."""
_MODALITIES = {
    "CT": "CT", "MRI": "MRI", "X-Ray": "X-ray", "XRay": "X-ray", "Ultrasound": "ultrasound", "US": "ultrasound",
    "Dermoscopy": "dermoscopy", "Endoscopy": "endoscopy", "Fundus": "fundus", "OCT": "OCT", "Pathology": "pathology",
}  # fmt: skip
"""Word of a published id -> modality."""
_TOKENS = {name.lower(): modality for name, modality in _MODALITIES.items()}


class Store:
    """Bytes in a temporary file without a name, which goes when nothing refers to it any more."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by the line below
        weakref.finalize(self, self._file.close)

    def put(self, data: bytes) -> tuple[int, int]:
        """Store bytes; return their (offset, length)."""
        offset = self._file.seek(0, 2)
        self._file.write(data)
        return offset, len(data)

    def get(self, location: tuple[int, int]) -> bytes:
        """Return the bytes at an (offset, length)."""
        self._file.seek(location[0])
        return self._file.read(location[1])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One row that can be used, without its pixels."""

    id: str
    where: str
    question: str
    truth: str
    size: Size
    """(H, W) of its image."""
    store: Store
    """Holds the bytes of its image and masks."""
    image: tuple[int, int]
    """(offset, length) of its bytes in the store."""
    masks: tuple[tuple[int, int], ...]
    """As of the image, one for each region that the row states; () where it has none."""
    image_key: str
    split: str
    labels: Mapping[str, str] = field(default_factory=dict)
    spacing: tuple[float, float] | None = None

    def load_image(self) -> LoadedImage:
        """Decode the image.

        Raises:
            InputError: if its pixels are damaged.
        """
        stream = io.BytesIO(self.store.get(self.image))
        picture = decode_picture(stream, f"the image of {self.where}")
        return LoadedImage(
            id=self.id, kind="picture", pixels=picture.pixels, spacing=self.spacing, window=picture.window,
            reoriented=picture.reoriented,
        )  # fmt: skip

    def load_mask(self, index: int = 0) -> NDArray[np.bool_]:
        """Decode one of a row's masks, H×W bool. Raises as `load_image`."""
        return decode_mask(io.BytesIO(self.store.get(self.masks[index])), f"the mask of {self.where}")

    @property
    def files(self) -> Mapping[str, Path]:
        """None: the table holds the images. See `medground.data.dataset.Entry`."""
        return {}

    @property
    def stated(self) -> str:
        """See `medground.data.dataset.Entry`."""
        content = [self.store.get(part) for part in (self.image, *self.masks)]
        digests = [hashlib.sha256(data).hexdigest() for data in content]
        return json.dumps([self.question, self.truth, dict(self.labels), self.spacing, *digests], sort_keys=True)

    def load(self) -> Sample:
        """Decode image and mask. Raises as `load_image`."""
        image = self.load_image()
        stated = truth(self.truth, image.size)
        regions = stated.regions
        if self.masks:
            masks = [self.load_mask(index) for index in range(len(self.masks))]
            for mask in masks:
                refuse_mask(mask, image.size, None)
            pairs = zip(regions, masks, strict=True)
            regions = tuple(replace(region, mask=Mask(data=mask)) for region, mask in pairs)
        return Sample(
            query=Query(image=image.pixels, question=self.question, id=self.id, spacing=self.spacing),
            target=Target(regions=regions, published=stated.published),
            labels=self.labels,
            spacing=self.spacing,
        )


def read_umrg(path: str | Path, *, split: str | None = None, limit: int | None = None) -> Dataset[Row]:
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
    tables = [(name, table) for name, tables in files(path, split).items() for table in tables]
    store = Store()
    rows: list[Row] = []
    bad: list[BadSample] = []
    seen: set[str] = set()
    for name, table in tables:
        first = table is tables[0][1] or table.name != tables[0][1].name
        for row in _rows(table, name, table.name if first else f"{name} {table.name}", store, seen):
            if isinstance(row, BadSample):
                bad.append(row)
            else:
                rows.append(row)
            if limit is not None and len(rows) >= limit:
                return Dataset(rows, [table for _, table in tables], bad)
    if not rows:
        why = f"; the first: {bad[0].where} {bad[0].reason}" if bad else ""
        raise InputError(
            f"{Path(path).name} holds no row that can be used{why}", hint="see docs/data.md for its columns"
        )
    return Dataset(rows, [table for _, table in tables], bad)


def _rows(path: Path, split: str, where: str, store: Store, seen: set[str]) -> Iterator[Row | BadSample]:
    for number, values in enumerate(_values(path)):
        name = f"{where} row {number}"
        try:
            yield read_row(values, name, number, split, store, seen)
        except InputError as error:
            yield BadSample(name, error.message)


def _values(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file as plain values."""
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


def read_row(values: dict[str, Any], where: str, number: int, split: str, store: Store, seen: set[str]) -> Row:
    """Check one row of the published schema.

    Args:
        values: its columns as plain values.
        where: names it in messages.
        number: stands for an id where it has none.
        split: that it is in.
        store: takes the bytes of its pictures.
        seen: the ids so far; its own is added.

    Raises:
        InputError: if it cannot be used.
    """
    image, *more = _bytes(values.get("images"), "image")
    if more:
        raise InputError(f"it holds {len(more) + 1} images, not one")
    masks = _bytes(values["masks"], "mask") if values.get("masks") else []
    size = checked_size(image, *masks)
    reward_model = values.get("reward_model")
    text = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    regions = truth(text, size).regions
    if masks and len(masks) != len(regions):
        raise InputError(f"it holds {len(masks)} masks, and its ground truth {len(regions)} boxes")
    question = _question(values.get("prompt"))
    about = values.get("extra_info")
    labels, spacing = _labels(about if isinstance(about, dict) else {})
    name = (isinstance(about, dict) and id_text(about.get("id"))) or f"row-{number}"
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
        store=store,
        image=store.put(image),
        masks=tuple(store.put(mask) for mask in masks),
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


def _bytes(images: Any, what: str) -> list[bytes]:
    """Return the bytes of a list's images, one at least; `datasets` stores {bytes, path}, others plain bytes."""
    if not isinstance(images, list) or not images:
        raise InputError(f"it holds {len(images) if isinstance(images, list) else 'no'} {what}s, not one")
    return [picture_bytes(cell, what) for cell in images]


def picture_bytes(cell: Any, what: str) -> bytes:
    """Return the bytes of a picture in a cell of a table; `datasets` stores {bytes, path}, others plain bytes.

    Raises:
        InputError: if they are not there, or too many.
    """
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes) or not data:
        raise InputError(f"its {what} is not inside the table")
    if len(data) > MAX_ROW_BYTES:
        raise InputError(f"its {what} takes {len(data) / 1e6:.0f} MB")
    return data


def checked_size(image: bytes, *masks: bytes) -> Size:
    """Return the (H, W) of an encoded image, which is that of its masks.

    Raises:
        InputError: if one of them cannot be read, they are of several sizes, or the image is stored turned.
    """
    size = encoded_size(image, "its image")
    if orientation_of(io.BytesIO(image), "its image") != 1:
        raise InputError("its image is stored turned (EXIF), and its numbers may count it as stored or as shown")
    for mask in masks:
        if encoded_size(mask, "its mask") != size:
            raise InputError(f"its mask is {encoded_size(mask, 'its mask')} and its image {size}")
    return size


def _labels(about: dict[str, Any]) -> tuple[dict[str, str], tuple[float, float] | None]:
    labels = {str(key): str(value) for key, value in about.items() if key not in ("id", "labels") and _plain(value)}
    try:
        rest = json.loads(about["labels"]) if isinstance(about.get("labels"), str) else {}
    except (ValueError, RecursionError):
        rest = {}
    rest = rest if isinstance(rest, dict) else {}
    spacing = spacing_of(stated := rest.pop("spacing", None))
    if spacing is None and stated is not None:
        raise InputError(f"its spacing is not 2 positive numbers: {shown(stated)}")
    labels |= {str(key): str(value) for key, value in rest.items() if _plain(value)}
    # Ours writes the row's number there, which is no label.
    if rest or set(about) >= {*NAMED, "index", "labels"}:
        labels.pop("index", None)
    return labels, spacing


def _plain(value: Any) -> bool:
    return type(value) in (str, int, float, bool) and value != ""


def _modality(name: str) -> str | None:
    words = [word.lower() for word in re.split(r"[_+]", name)]
    return next((_TOKENS[word] for word in words if word in _TOKENS), None)
