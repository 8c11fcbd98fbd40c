"""From slices of DICOM files to one stack: the series, the stack within it, its order and its affine.

Slices are sorted by their positions along the normal of rows and columns; what files are called and how they are numbered
says nothing. Whatever makes the distance of slices uncertain is refused.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from medground.errors import InputError, ViewError
from medground.images.dicom_slices import PHASES, Slice
from medground.images.placement import Floats, directions, plane_across

Key = TypeVar("Key")
_SAME = 1e-3
"""Millimetres, or direction cosines, by which slices may differ and be alike."""
_GAP = 0.1
"""The largest deviation from the usual step, as a share of it."""
_ROUNDED = 0.11
"""A deviation in mm that is always allowed: many positions are rounded to 0.1 mm."""
_UNSAID = 0.01
"""A deviation, as a share of the step, that is not worth a note."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack:
    """Slices of one volume, in order."""

    slices: tuple[Slice, ...]
    affine: Floats
    """4×4: (column, row, slice, 1) to LPS mm."""
    notes: tuple[str, ...] = ()


def series_name(slices: Sequence[Slice]) -> str:
    """Return the pseudonym of a series, which a user can type: ``series-`` and 12 digits of a hash."""
    return f"series-{hashlib.sha256(slices[0].series.encode(errors='replace')).hexdigest()[:12]}"


def choose_series(slices: Sequence[Slice], series: str | None) -> list[Slice]:
    """Return the slices of one series.

    Args:
        slices: of any number of series.
        series: its pseudonym or its SeriesInstanceUID; needed where there are several.

    Raises:
        ViewError: if there are several and none is chosen, or the chosen one is not there.
    """
    groups = list(_grouped(slices, lambda one: one.series).values())
    if series is not None:
        groups = [group for group in groups if series in (series_name(group), group[0].series)]
    if len(groups) == 1:
        return groups[0]
    known = list(_grouped(slices, lambda one: one.series).values())
    choices = "; ".join(f'series="{series_name(group)}" ({_describe(group)})' for group in known[:8])
    more = f"; and {len(known) - 8} more" if len(known) > 8 else ""
    if series is not None:
        raise ViewError(f"there is no series {series!r}", hint=f"there is {choices}{more}")
    raise ViewError(f"the files are of {len(known)} series", hint=f"choose one: {choices}{more}")


def choose_stack(slices: Sequence[Slice], stack: int | None, name: str) -> tuple[list[Slice], tuple[int, int]]:
    """Return (the slices of one stack, (its number, how many there are)): those on one grid, of one phase.

    Args:
        slices: of one series.
        stack: its number, from 0, by size and orientation, then phase; needed where there are several.
        name: of the series.

    Raises:
        ViewError: if there are several and none is chosen, or the chosen one is not there.
        InputError: if several slices share a position and nothing in the files tells them apart.
    """
    stacks = [(phase, part) for grid in _grids(slices) for phase, part in _phases(grid, name)]
    if stack is None and len(stacks) == 1:
        return stacks[0][1], (0, 1)
    if stack is not None and 0 <= stack < len(stacks):
        return stacks[stack][1], (stack, len(stacks))
    choices = "; ".join(f"stack={number} ({_describe(part)}{phase})" for number, (phase, part) in enumerate(stacks[:8]))
    more = f"; up to stack={len(stacks) - 1}" if len(stacks) > 8 else ""
    if stack is not None:
        raise ViewError(f"{name} has no stack {stack}", hint=f"there is {choices}{more}")
    raise ViewError(f"{name} holds {len(stacks)} stacks of slices", hint=f"choose one: {choices}{more}")


def arrange(slices: Sequence[Slice], name: str) -> Stack:
    """Sort the slices of a stack by position and return them with their affine.

    Raises:
        InputError: if slices are missing, shifted sideways (a tilted gantry) or off a straight line, or one alone does not
            say how thick it is.
    """
    normal = slices[0].normal
    ordered = sorted(slices, key=lambda one: float(one.position @ normal))
    step, notes = _step(ordered, name)
    first = ordered[0]
    return Stack(slices=tuple(ordered), affine=slice_affine(first, step), notes=tuple(notes))


def slice_affine(one: Slice, step: Floats) -> Floats:
    """Return the affine (column, row, slice, 1) to LPS mm of slices that begin with this one, `step` mm apart."""
    affine = np.eye(4)
    # PixelSpacing is (between rows, between columns): to the next column it is the second number, along a row.
    affine[:3, 0], affine[:3, 1] = one.axes[0] * one.spacing[1], one.axes[1] * one.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, one.position
    return affine


def _step(ordered: Sequence[Slice], name: str) -> tuple[Floats, list[str]]:
    """The way from one slice to the next, and what is to be noted of it."""
    normal, first = ordered[0].normal, ordered[0]
    if len(ordered) == 1:
        if first.thickness is None:
            raise InputError(
                f"{name} has one slice that does not say how thick it is", hint="read_image reads it as a picture"
            )
        return normal * first.thickness, [f"it has one slice: its thickness of {first.thickness:g} mm is the step"]
    positions = np.array([one.position for one in ordered])
    gaps = np.diff(positions @ normal)
    usual = float(np.median(gaps))
    allowed = max(_GAP * usual, _ROUNDED)
    worst = int(np.argmax(np.abs(gaps - usual)))
    if abs(gaps[worst] - usual) > allowed:
        raise InputError(
            f"{name} has {gaps[worst]:.4g} mm between its slices {worst} and {worst + 1} (from 0) where {usual:.4g} mm are"
            " usual",
            hint="export the missing slices again, or give a list of the files on one side of the gap",
        )
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    sideways = float(np.linalg.norm(step - (step @ normal) * normal))
    if sideways > max(_UNSAID * float(np.linalg.norm(step)), _ROUNDED / (len(ordered) - 1)):
        degrees = np.degrees(np.arctan2(sideways, step @ normal))
        raise InputError(
            f"{name} has slices that are shifted sideways by {sideways:.3g} mm each, as by a gantry tilted by {degrees:.3g}°",
            hint="resample it first (dcm2niix -o OUT FOLDER does), or ground its slices as single images",
        )
    off = float(np.linalg.norm(positions - positions[0] - np.arange(len(ordered))[:, None] * step, axis=1).max())
    if off > allowed:
        raise InputError(
            f"{name} has slices that lie off a straight line by up to {off:.3g} mm",
            hint="export it again, or ground its slices as single images",
        )
    # The step keeps no part sideways: within the tolerance it is rounding, and a grid's axes are perpendicular.
    notes = []
    if np.ptp(gaps) > max(_UNSAID * usual, _SAME):
        notes.append(f"its slices lie {gaps.min():.4g} to {gaps.max():.4g} mm apart: the mean is the step")
    return (step @ normal) * normal, notes


def _grids(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices by their size, spacing, orientation, frame of reference, unit and photometric interpretation."""
    grids: list[list[Slice]] = []
    for one in slices:
        for grid in grids:
            if _alike(one, grid[0]):
                grid.append(one)
                break
        else:
            grids.append([one])
    return grids


def _alike(one: Slice, other: Slice) -> bool:
    return (
        (one.size, one.frame_of_reference, one.interpretation, one.unit)
        == (other.size, other.frame_of_reference, other.interpretation, other.unit)
        and np.allclose(one.spacing, other.spacing, rtol=0, atol=_SAME)
        and np.allclose(one.axes, other.axes, rtol=0, atol=_SAME)
    )  # fmt: skip


def _phases(grid: list[Slice], name: str) -> list[tuple[str, list[Slice]]]:
    """Slices by what tells those of one position apart: (in words, the slices), in the order of its values."""
    shared = _shared(grid)
    if not shared:
        return [("", grid)]
    kinds = [kind for kind in PHASES if len({one.phases.get(kind) for one in grid}) > 1]
    for chosen in (*([kind] for kind in kinds), kinds):
        groups = _grouped(grid, partial(_values, kinds=chosen))
        if len(groups) > 1 and not any(_shared(group) for group in groups.values()):
            ordered = sorted(groups.items(), key=lambda item: [_number(value) for value in item[0]])
            words = " and ".join(chosen)
            return [(f", {words} {number} of {len(ordered)}", group) for number, (_, group) in enumerate(ordered, 1)]
    raise InputError(
        f"{name} has {shared} slices that share a position, and nothing in the files tells them apart",
        hint="give a list of the files of one phase",
    )


def _values(one: Slice, kinds: Sequence[str]) -> tuple[str, ...]:
    return tuple(one.phases.get(kind, "") for kind in kinds)


def _shared(slices: Sequence[Slice]) -> int:
    """How many slices lie where another one does."""
    along = np.sort([float(one.position @ slices[0].normal) for one in slices])
    return int((np.diff(along) < _SAME).sum())


def _number(text: str) -> tuple[float, str]:
    """Sorts numbers as numbers, other texts after them."""
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text


def _describe(slices: Sequence[Slice]) -> str:
    one = slices[0]
    affine = np.eye(4)
    affine[:3, :3] = np.stack([*one.axes, one.normal], axis=1)
    axes = directions(affine)
    plane = f"{plane_across(axes, 2)}, " if axes else ""
    modality = f"{one.modality}, " if one.modality else ""
    return f"{modality}{plane}{len(slices)} of {one.size[1]} x {one.size[0]}"


def _grouped(slices: Iterable[Slice], key: Callable[[Slice], Key]) -> dict[Key, list[Slice]]:
    groups: dict[Key, list[Slice]] = defaultdict(list)
    for one in slices:
        groups[key(one)].append(one)
    return dict(groups)
