"""nnU-Net: ``imagesTr/CASE_0000.nii.gz``, ``labelsTr/CASE.nii.gz`` and ``dataset.json``; slices of a plane the user names."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medground.data.json_text import read_json
from medground.data.source_samples import BadSample, SourceSample
from medground.errors import InputError, UsageError
from medground.images.nifti import Volume
from medground.images.paths import NIFTI_SUFFIXES, safe_name, stem
from medground.images.read import Inspect, inspect_repeated, read_mask
from medground.images.view import View

FOLDERS = (("imagesTr", "labelsTr", "train"), ("imagesTs", "labelsTs", "test"))
TABLE = "dataset.json"
MAX_LABELS = 1000
"""The most values in one slab of a label map."""


class NnUNetReader:
    """Reads imagesTr/ beside labelsTr/, NIfTI."""

    description: ClassVar[str] = "imagesTr/ beside labelsTr/, NIfTI"

    def recognises(self, root: Path) -> bool:
        """Return True for a folder with imagesTr/ beside labelsTr/."""
        return (root / "imagesTr").is_dir() and (root / "labelsTr").is_dir()

    def read(
        self,
        root: Path,
        *,
        plane: str,
        slices: str | int,
        channel: int = 0,
        window: str | None = None,
        modality: str | None = None,
        question: str | None = None,
    ) -> Iterator[SourceSample | BadSample]:
        """Yield a source sample per label of a slice.

        Args:
            root: the data set's folder.
            plane: ``axial``, ``coronal`` or ``sagittal``.
            slices: ``largest`` (of entry label the slice that holds most of it), ``all`` (every slice that holds some), or a
                slice's number.
            channel: the image's channel, the number at the end of its name.
            window: how values become grey, see `View`.
            modality: of every image; None takes the channel's name in ``dataset.json``.
            question: asked of every sample.
        """
        if str(slices) not in ("largest", "all") and not str(slices).isdigit():
            raise UsageError(f"slices={slices!r} names none", hint="give largest, all or a number")
        View(plane=plane, slice=0, window=window)  # refuses a plane or a window that is none, before any file is read
        if not (root / TABLE).is_file():
            raise InputError(f"{root.name} has no {TABLE}", hint="give the folder of one data set")
        inspect = inspect_repeated(root)
        table = read_json(root / TABLE)
        names = _labels(table)
        known = modality or _channel(table, channel)
        for images, labels, split in FOLDERS:
            for path in sorted((root / labels).glob("*")) if (root / labels).is_dir() else ():
                if path.name.lower().endswith(NIFTI_SUFFIXES):
                    image = _image(root / images, stem(path), channel)
                    try:
                        chosen = _chosen(path, image, plane, str(slices), names)
                        for number, name in chosen:
                            view = View(plane=plane, slice=number, window=window)
                            yield _sample(inspect, image, path, view, name, names[name], known, question, split)
                    except InputError as error:
                        yield BadSample(safe_name(path.name), error.message)


def _labels(table: Any) -> dict[str, tuple[int, ...]]:
    """Name -> values. ``dataset.json`` has them either way round; a region is a list of values; 0 is background."""
    stated = table.get("labels") if isinstance(table, dict) else None
    if not isinstance(stated, Mapping):
        raise InputError(f"{TABLE} has no labels", hint="see nnU-Net's documentation of it")
    labels = {}
    for key, value in stated.items():
        name, values = (value, key) if isinstance(value, str) and str(key).isdigit() else (key, value)
        numbers = [
            int(number) for number in (values if isinstance(values, list) else [values]) if str(number).isdigit()
        ]
        if numbers and numbers != [0] and str(name).lower() not in ("background", "ignore"):
            labels[str(name)] = tuple(numbers)
    return labels


def _channel(table: Any, channel: int) -> str | None:
    stated = table.get("channel_names") or table.get("modality") or {}
    name = stated.get(str(channel)) if isinstance(stated, Mapping) else None
    return str(name) if name else None


def _image(folder: Path, case: str, channel: int) -> Path:
    paths = [folder / f"{case}_{channel:04d}{suffix}" for suffix in NIFTI_SUFFIXES]
    return next((path for path in paths if path.is_file()), paths[-1])


def _chosen(
    labels: Path, image: Path, plane: str, slices: str, names: Mapping[str, tuple[int, ...]]
) -> list[tuple[int, str]]:
    """(slice, label) of the source samples of one volume."""
    volume, picture = Volume(labels), Volume(image)
    if volume.sides != picture.sides or volume.codes != picture.codes:
        raise InputError(
            f"its image is {picture.sides} {picture.codes} and it is {volume.sides} {volume.codes}",
            hint="labels lie in the voxels of their image",
        )
    axis = volume.placement(View(plane=plane, slice=0)).axis
    areas = _areas(volume, axis)
    chosen = []
    for name, values in names.items():
        area = sum((areas[value] for value in values if value in areas), np.zeros(volume.sides[axis], np.int64))
        if slices == "largest":
            chosen += [(int(area.argmax()), name)] if area.any() else []
        else:
            chosen += [(int(number), name) for number in np.flatnonzero(area) if slices in ("all", str(number))]
    return sorted(chosen)


def _areas(volume: Volume, axis: int) -> dict[int, NDArray[np.int64]]:
    """Value -> how many voxels of each slice across `axis` hold it; 0 is left out."""
    if volume.dtype.kind == "V":
        raise InputError("it is a colour volume, not a label map")
    areas: dict[int, NDArray[np.int64]] = {}
    for number, slab in enumerate(volume.slabs()):
        values = slab if (volume.slope, volume.inter) == (1.0, 0.0) else slab * volume.slope + volume.inter
        present, counts = np.unique(values[values != 0], return_counts=True)
        if len(present) > MAX_LABELS or not (present == np.rint(present)).all():
            raise InputError("it is not a label map: it holds fractions or too many values")
        for value, count in zip(present.tolist(), counts.tolist(), strict=True):
            area = areas.setdefault(int(value), np.zeros(volume.sides[axis], np.int64))
            if axis == 2:
                area[number] += count
            else:
                area += (values == value).sum(axis=1 - axis)
    return areas


def _sample(
    inspect: Inspect,
    image: Path,
    labels: Path,
    view: View,
    name: str,
    values: tuple[int, ...],
    modality: str | None,
    question: str | None,
    split: str,
) -> SourceSample:
    info = inspect(image, view)
    stated = {
        "category": name.replace("_", " "),
        **({"modality": modality} if modality else {}),
        "volume": stem(labels),
    }
    return SourceSample(
        id=safe_name(f"{info.id}__{name}"),
        where=f"{safe_name(labels.name)} {view.plane} {view.slice}",
        load_image=info.load,
        load_mask=partial(read_mask, labels, plane=view.plane, slice=view.slice, values=values),
        image_key=info.key,
        group=f"{split}/{stem(labels)}",
        labels={**info.labels, **stated},
        question=question,
        split=split,
        spacing=info.spacing,
    )
