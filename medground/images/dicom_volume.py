"""A series of DICOM slices, or an enhanced multi-frame file, as a volume."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError, ViewError
from medground.images import dicom, dicom_grey, dicom_pixels
from medground.images.dicom_grey import Measured
from medground.images.dicom_seg import is_segmentation
from medground.images.dicom_slices import Slice, Unplaced, slices_of
from medground.images.dicom_stacks import arrange, choose_series, choose_stack, series_name
from medground.images.volume import Instance, Origin, Volume
from medground.images.windows import Numbers

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def dicom_volume(paths: Iterable[Path], series: str | None, stack: int | None, *, every: bool) -> Volume:
    """Return the volume that DICOM files hold; see `medground.images.read_volume.read_volume`.

    Args:
        paths: the files.
        series: which series.
        stack: which stack of the series.
        every: True if each file must be part of the volume's choices; False leaves out what holds no picture.
    """
    slices, problems, notes = _all_slices(paths, every=every)
    if not slices:
        if problems:
            raise next(iter(problems.values()))
        raise InputError(
            "there is no DICOM picture among the files", hint="give the folder of one series, or its files"
        )
    chosen = choose_series(slices, series)
    if chosen[0].series in problems:
        raise problems[chosen[0].series]
    name = series_name(chosen)
    part, (number, count) = choose_stack(chosen, stack, name)
    arranged = arrange(part, name)
    first = arranged.slices[0]
    rows, columns = first.size
    return Volume(
        id=f"{name}_{number}" if count > 1 else name, kind="dicom", modality=first.modality, group=first.group,
        shape=(columns, rows, len(part)), affine=arranged.affine, voxels=DicomVoxels(arranged.slices, name),
        notes=(*notes, *arranged.notes),
        origin=Origin(
            series=first.series, frame_of_reference=first.frame_of_reference,
            instances=tuple(
                Instance(path=one.path, digest=one.digest, uid=one.uid, frame=one.frame if one.frames > 1 else None)
                for one in arranged.slices
            ),
        ),
    )  # fmt: skip


def _all_slices(paths: Iterable[Path], *, every: bool) -> tuple[list[Slice], dict[str, InputError], list[str]]:
    """(The slices of all files, what is wrong with a series, notes); one file is in memory at once."""
    slices: list[Slice] = []
    problems: dict[str, InputError] = {}
    digests: dict[str, str] = {}
    copies = others = 0
    for path in paths:
        try:
            file = dicom.DicomFile.read(path)
            if is_segmentation(file.dataset):
                raise dicom.NoPicture(f"{file.name} is a segmentation", hint="read_mask reads it, beside its image")
        except dicom.NoPicture:
            if every:
                raise
            others += 1
            continue
        uid = str(file.dataset.get("SOPInstanceUID", "")) or file.digest
        if uid not in digests:
            digests[uid] = file.digest
            try:
                slices += slices_of(file, path)
            except Unplaced as error:
                if every:
                    raise
                problems.setdefault(str(file.dataset.get("SeriesInstanceUID", "")), error)
                others += 1
        elif digests[uid] == file.digest:
            copies += 1
        else:
            problems.setdefault(
                str(file.dataset.get("SeriesInstanceUID", "")),
                InputError(f"{file.name} has the identifier of another file and other content", hint="leave one out"),
            )
    notes = [f"{copies} files are copies of others and count once"] if copies else []
    notes += [f"{others} files hold no slice of a volume and are left out"] if others else []
    return slices, problems, notes


@dataclass(eq=False)
class DicomVoxels:
    """The voxels of slices; the file of one slice is in memory at once, and the last one is kept."""

    slices: Sequence[Slice]
    name: str
    _last: tuple[Path, dicom.DicomFile] | None = field(default=None, repr=False)

    def plane(self, axis: int, index: int) -> Numbers:
        """Return the values across one axis after the modality transformation of their slices.

        Raises:
            InputError: if a file is damaged or was changed since the volume was read.
        """
        return self._across(axis, index)[1].values

    def planes(self) -> Iterator[Numbers]:
        """Yield the values across k. Raises as `plane`."""
        for k in range(len(self.slices)):
            yield self._measured(k)[1].values.T

    def grey(self, axis: int, index: int, window: str | None) -> tuple[NDArray[np.uint8], str, dict[str, object]]:
        """Return (grey, window in words, details) across one axis: across k as the picture of that slice is shown.

        Across other axes the file's own window is the one that all slices name.

        Raises:
            ViewError: for a window that the files do not have, or that means nothing for their values.
            InputError: as `plane`.
        """
        first = self.slices[index if axis == 2 else 0]
        if axis != 2 and window in (None, "file") and len({one.window for one in self.slices}) > 1:
            if window == "file":
                raise ViewError(
                    f"{self.name} has slices of different windows", hint="take percentiles, or CENTRE,WIDTH, or a name"
                )
            window = "percentiles"
        dataset, measured, counted = self._across(axis, index)
        with dicom.sealed(self.name):
            grey, words = dicom_grey.show_measured(
                dataset, measured, first.frame, window, counted, first.modality, self.name
            )
        details: dict[str, object] = {"format": "DICOM"}
        if first.modality:
            details["modality"] = first.modality
        return grey, words, details

    def _across(self, axis: int, index: int) -> tuple["Dataset", Measured, NDArray[np.bool_] | None]:
        """(the data set of a slice, values, which of them count) across one axis, the other two axes in order."""
        if axis == 2:
            dataset, measured, counted = self._measured(index)
            return dataset, replace(measured, values=measured.values.T), None if counted is None else counted.T
        lines, counts = [], []
        for k, one in enumerate(self.slices):
            dataset, measured, counted = self._measured(k)
            lines.append(replace(measured, values=_line(measured.values, axis, index)))
            counts.append(_line(np.ones(one.size, np.bool_) if counted is None else counted, axis, index))
        together = Measured(
            values=np.stack([line.values for line in lines], axis=1),
            changed=any(line.changed for line in lines),
            hounsfield=all(line.hounsfield for line in lines),
            negative=any(line.negative for line in lines),
        )
        return dataset, together, np.stack(counts, axis=1)

    def _measured(self, k: int) -> tuple["Dataset", Measured, NDArray[np.bool_] | None]:
        """(the data set, values H×W, which of them count) of one slice."""
        one, file = self.slices[k], self._file(self.slices[k])
        with dicom.sealed(one.name):
            stored = dicom_pixels.stored_values(file.dataset, one.frame, one.name)
            if stored.shape != one.size:
                raise InputError(f"{one.name} is grey with colours", hint="export it again, as RGB")
            padding = dicom_grey.padding_range(file.dataset, dicom_pixels.pixel_element(file.dataset, one.name))
            measured = dicom_grey.measure(file.dataset, stored, one.frame, one.name)
            return file.dataset, measured, dicom_grey.counted_values(stored, padding)

    def _file(self, one: Slice) -> dicom.DicomFile:
        if self._last is None or self._last[0] != one.path:
            file = dicom.DicomFile.read(one.path)
            if file.digest != one.digest:
                raise InputError(f"{one.name} was changed since the volume was read", hint="read the volume again")
            self._last = one.path, file
        return self._last[1]


def _line(rows: Numbers, axis: int, index: int) -> Numbers:
    """What one slice, H×W, holds across a voxel axis: i counts columns, j rows. A copy, so that the slice can go."""
    return (rows[:, index] if axis == 0 else rows[index]).copy()
