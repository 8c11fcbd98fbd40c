"""Filters of a dataset by its labels: what training leaves out, what an evaluation is about.

A filter is ``{label: [values]}``: the samples whose label has one of the values, for any of the labels named.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from medground.data.dataset import AnyEntry, Dataset, Entry
from medground.errors import InputError, RecipeError, did_you_mean

Filter = dict[str, list[Any]]


def select(dataset: Dataset[AnyEntry], *, only: Any = None, leave_out: Any = None) -> Dataset[AnyEntry]:
    """Return the samples that the filter `only` holds and the filter `leave_out` does not; None filters nothing.

    Raises:
        RecipeError: if a filter is not written as one.
        InputError: if a filter holds no sample at all, or no sample is left.
    """
    selected = dataset
    for written, wanted in ((only, True), (leave_out, False)):
        if written is None:
            continue
        values = _values(written)
        if not any(_holds(values, labels) for labels in dataset.labels):
            raise InputError(f"no sample is in the filter {written}", hint=_hint(dataset.labels, values))
        selected = selected.where(partial(_matches, values, wanted))
    if not len(selected):
        raise InputError(
            f"the filters exclude every sample: only={only}, leave_out={leave_out}", hint="relax only or leave_out"
        )
    return selected


def _values(written: Any) -> dict[str, frozenset[str]]:
    lists = list(written.values()) if isinstance(written, dict) else []
    if not lists or not all(isinstance(values, list) and values for values in lists):
        raise RecipeError(f"{written!r} is no filter of a dataset", hint="write {label: [value, value]}")
    return {label: frozenset(map(str, values)) for label, values in written.items()}


def _holds(values: Mapping[str, frozenset[str]], labels: Mapping[str, str]) -> bool:
    return any(labels.get(label) in wanted for label, wanted in values.items())


def _matches(values: Mapping[str, frozenset[str]], wanted: bool, entry: Entry) -> bool:
    return _holds(values, entry.labels) == wanted


def _hint(every: list[Mapping[str, str]], values: Mapping[str, frozenset[str]]) -> str:
    """The value that was meant, perhaps."""
    label, wanted = next(iter(values.items()))
    known = {labels[label] for labels in every if label in labels}
    return did_you_mean(min(wanted), known) if known else f"no sample has a label {label!r}"
