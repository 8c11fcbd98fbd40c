"""A folder that ``save_to_disk`` of Hugging Face datasets wrote: files of Arrow, which are read without that library.

Columns are named as the words of a manifest, see `medground.data.manifest`; ``image`` and ``mask`` hold pictures, and a mask
may be run lengths. Or they are those of the published U-MRG table.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medground.data.json_text import JsonLine, read_json, shown
from medground.data.manifest import Record, parse_record, refuse_misfits
from medground.data.source_samples import BadSample, SourceSample
from medground.data.umrg.read import Store, checked_size, picture_bytes, read_row
from medground.data.umrg.schema import NEEDED, arrow
from medground.errors import InputError, UsageError
from medground.images.loaded import LoadedImage
from medground.images.paths import inside, safe_name
from medground.images.pictures import decode_mask, decode_picture, printable
from medground.images.rle import decode_rle
from medground_data.readers.umrg import sample_of_row

_STATE, _ABOUT, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"


class DatasetsReader:
    """Reads a folder that ``save_to_disk`` of Hugging Face datasets wrote."""

    description: ClassVar[str] = "a folder of Hugging Face datasets, saved to disk"

    def recognises(self, root: Path) -> bool:
        """Return True for a folder with ``dataset_dict.json``, or with ``state.json`` and ``dataset_info.json``."""
        return (root / _SPLITS).is_file() or all((root / name).is_file() for name in (_STATE, _ABOUT))

    def read(
        self, root: Path, *, image: str = "image", mask: str = "mask", question: str | None = None
    ) -> Iterator[SourceSample | BadSample]:
        """Yield a source sample per row.

        Args:
            root: the folder.
            image: the column of images.
            mask: the column of masks: pictures, or COCO run lengths.
            question: for rows that hold none.
        """
        store, seen = Store(), set[str]()
        for folder, split in _parts(root):
            names = _class_names(folder)
            for number, values in enumerate(_rows(folder)):
                where = f"{split} row {number}" if split else f"row {number}"
                try:
                    if values.keys() >= set(NEEDED):
                        yield sample_of_row(read_row(values, where, number, split or "", store, seen))
                    else:
                        _require_columns(values, image, mask)
                        words = {key: _named(names.get(key), value) for key, value in values.items()}
                        yield _sample(words, image, mask, where, split, store, question)
                except InputError as error:
                    yield BadSample(where, error.message)


def _require_columns(values: Mapping[str, Any], image: str, mask: str) -> None:
    for option, column in (("image", image), ("mask", mask)):
        if column not in values:
            raise UsageError(
                f"the dataset has no column {column!r}",
                hint=f"-o {option}=COLUMN names another; it has {', '.join(map(printable, values))}",
            )


def _parts(root: Path) -> list[tuple[Path, str | None]]:
    """The folder of each split with its name; the folder itself, without one, where there are no splits."""
    if not (root / _SPLITS).is_file():
        return [(root, None)]
    about = read_json(root / _SPLITS)
    splits = about.get("splits") if isinstance(about, dict) else None
    if not isinstance(splits, list) or not splits:
        raise InputError(f"{_SPLITS} names no splits", hint="save the dataset again")
    parts: list[tuple[Path, str | None]] = []
    for name in splits:
        inside(root, f"{name}/{_STATE}", "a split")
        parts.append((root / str(name), str(name)))
    return parts


def _class_names(folder: Path) -> dict[str, list[str]]:
    """Column -> the words that its whole numbers stand for (the feature ClassLabel)."""
    about = read_json(folder / _ABOUT) if (folder / _ABOUT).is_file() else {}
    features = about.get("features") if isinstance(about, dict) else None
    return {
        column: [str(name) for name in feature["names"]]
        for column, feature in (features.items() if isinstance(features, dict) else ())
        if isinstance(feature, dict) and isinstance(feature.get("names"), list)
    }


def _named(names: list[str] | None, value: Any) -> Any:
    return names[value] if names is not None and type(value) is int and 0 <= value < len(names) else value


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield column -> plain value of every row; one row is in memory at a time."""
    pyarrow, _ = arrow()
    state = read_json(folder / _STATE)
    files = state.get("_data_files") if isinstance(state, dict) else None
    if not isinstance(files, list) or state.get("_indices_data_files"):
        raise InputError(f"{_STATE} of {folder.name} does not list its files", hint="save the dataset again")
    for entry in files:
        path = inside(folder, entry.get("filename") if isinstance(entry, dict) else None, "a file of rows")
        try:
            with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as stream:
                for batch in stream:
                    for index in range(batch.num_rows):
                        yield batch.slice(index, 1).to_pylist()[0]
        except (pyarrow.ArrowException, OSError, MemoryError) as error:
            raise InputError(f"{path.name} is damaged or no file of Arrow", hint="save the dataset again") from error


def _sample(
    values: Mapping[str, Any],
    image: str,
    mask: str,
    where: str,
    split: str | None,
    store: Store,
    question: str | None,
) -> SourceSample:
    words = {key: value for key, value in values.items() if key not in (image, mask) and value is not None}
    record = parse_record(JsonLine(0, {**words, "image": "-"}))
    record.refuse_flaws()
    picture, target = picture_bytes(values[image], "image"), values[mask]
    if isinstance(target, dict) and "counts" in target:
        size = checked_size(picture)
        if target.get("size") != list(size):
            raise InputError(f"its mask is of size {shown(target.get('size'))} and its image {size}")
        load_mask = partial(decode_rle, target)
    else:
        drawn = picture_bytes(target, "mask")
        checked_size(picture, drawn)
        load_mask = partial(_load_mask, record, store, store.put(drawn), where)
    key = hashlib.sha256(picture).hexdigest()[:16]
    return SourceSample(
        id=safe_name(record.id or where.replace(" ", "-")),
        where=where,
        load_image=partial(_load_image, record, store, store.put(picture), where),
        load_mask=load_mask,
        image_key=key,
        group=key,
        labels=record.labels,
        question=record.question or question,
        think=record.think,
        split=split or record.split,
        box=record.box,
        points=record.points,
        spacing=record.spacing,
    )


def _load_image(record: Record, store: Store, location: tuple[int, int], where: str) -> LoadedImage:
    picture = decode_picture(io.BytesIO(store.get(location)), f"the image of {where}")
    image = LoadedImage(id=record.id or where, kind="picture", pixels=picture.pixels, window=picture.window)
    refuse_misfits(record, image)
    return image


def _load_mask(record: Record, store: Store, location: tuple[int, int], where: str) -> NDArray[np.bool_]:
    values = None if record.mask_value is None else (record.mask_value,)
    return decode_mask(io.BytesIO(store.get(location)), f"the mask of {where}", values, record.mask_threshold)
