"""Open a dataset, whole or in part: a manifest, or a table of the published schema."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medground.data.dataset import Dataset, GivenSample
from medground.data.filters import Filter, select
from medground.data.manifest import MANIFEST
from medground.data.manifest_dataset import read_manifest
from medground.data.umrg import read_umrg
from medground.data.umrg.locate import is_hub_id, is_umrg
from medground.errors import UsageError, did_you_mean
from medground.types import Sample

DATASET_READERS: Mapping[str, Callable[..., Dataset[Any]]] = {"manifest": read_manifest, "umrg": read_umrg}
"""Name, as ``data.reader`` states it, and what reads the dataset."""


def open_dataset(
    path: str | Path | Sequence[Sample],
    *,
    split: str | None = None,
    limit: int | None = None,
    reader: str | None = None,
    only: Filter | None = None,
    leave_out: Filter | None = None,
) -> Dataset[Any]:
    """Open a dataset; the image of a sample is read when the sample is asked for.

    >>> dataset = open_dataset("made", split="train", limit=100)  # doctest: +SKIP
    >>> dataset[0].query, len(dataset)  # doctest: +SKIP

    Args:
        path: a folder with ``manifest.jsonl``, or the file; a ``.parquet`` file or its folder; a fetched hub id; or
            samples: a `medground.data.dataset.Dataset`, or another sequence of them, which has no splits.
        split: take only these samples; no meaning for samples without splits.
        limit: take only the first so many of those that remain.
        reader: a name of `DATASET_READERS`; None takes the one that fits the path.
        only: ``{label: [values]}``: take only samples with one of these values, of any of the labels.
        leave_out: leave these samples out, written likewise.

    Raises:
        UsageError: if there is no such reader.
        InputError: naming what cannot be used: the first bad line of a manifest; of a table, only if no row is usable; if
            no sample is left.
        RecipeError: if a filter is not written as one.
        PluginError: without what the reader needs.
    """
    if not isinstance(path, str | Path):
        dataset = path if isinstance(path, Dataset) else Dataset([GivenSample(sample) for sample in path])
        dataset = dataset if split is None or not any(dataset.splits) else dataset.of_split(split)
        return (
            dataset[:limit]
            if only is None and leave_out is None
            else select(dataset, only=only, leave_out=leave_out)[:limit]
        )
    if reader is None:
        reader = "umrg" if not (Path(path).expanduser() / MANIFEST).is_file() and _is_table(path) else "manifest"
    if reader not in DATASET_READERS:
        raise UsageError(f"there is no reader {reader!r} of samples", hint=did_you_mean(reader, DATASET_READERS))
    if only is None and leave_out is None:
        return DATASET_READERS[reader](path, split=split, limit=limit)
    return select(DATASET_READERS[reader](path, split=split), only=only, leave_out=leave_out)[:limit]


def _is_table(path: str | Path) -> bool:
    return is_umrg(path) or (not Path(path).expanduser().exists() and is_hub_id(path))
