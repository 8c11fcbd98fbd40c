"""Parts of a dataset by its labels: what training leaves out, what an evaluation is about.

A part is ``{label: [values]}``: the samples whose label has one of the values, for any of the labels named.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from medground.data.samples import Samples, read_samples
from medground.data.umrg import UmrgSamples
from medground.errors import InputError, RecipeError, did_you_mean

AnySamples = Samples | UmrgSamples


def read_part(
    path: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    reader: str | None = None,
    only: Any = None,
    leave_out: Any = None,
) -> Samples | UmrgSamples:
    """As `read_samples`, but the first `limit` of a part: see `part_of`."""
    if only is None and leave_out is None:
        return read_samples(path, split=split, limit=limit, reader=reader)
    return part_of(read_samples(path, split=split, reader=reader), only=only, leave_out=leave_out)[:limit]


def part_of(samples: AnySamples, *, only: Any = None, leave_out: Any = None) -> AnySamples:
    """The samples in the part `only` and not in the part `leave_out`; None keeps every one, or leaves none out.

    Raises:
        RecipeError: if a part is not written as one.
        InputError: if a part holds no sample at all, or nothing is left.
    """
    found = samples
    for part, inside in ((only, True), (leave_out, False)):
        if part is None:
            continue
        values = _values(part)
        if not len(samples.where(partial(_is, values, True))):
            raise InputError(f"no sample is in the part {part}", hint=_known(samples, values))
        found = found.where(partial(_is, values, inside))
    if not len(found):
        raise InputError(f"no sample is left: only {only}, without {leave_out}", hint="mend the parts")
    return found


def _values(part: Any) -> dict[str, frozenset[str]]:
    if not isinstance(part, dict) or not part or not all(isinstance(each, list) and each for each in part.values()):
        raise RecipeError(f"{part!r} is no part of a dataset", hint="write {label: [value, value]}")
    return {label: frozenset(map(str, values)) for label, values in part.items()}


def _is(values: Mapping[str, frozenset[str]], inside: bool, labels: Mapping[str, str]) -> bool:
    return inside == any(labels.get(label) in wanted for label, wanted in values.items())


def _known(samples: Samples | UmrgSamples, values: Mapping[str, frozenset[str]]) -> str:
    """The value that was meant, perhaps."""
    label, wanted = next(iter(values.items()))
    known: set[str] = set()

    def look(labels: Mapping[str, str]) -> bool:
        known.update(labels[key] for key in (label,) if key in labels)
        return False

    samples.where(look)
    return did_you_mean(min(wanted), known) if known else f"no sample has a label {label!r}"
