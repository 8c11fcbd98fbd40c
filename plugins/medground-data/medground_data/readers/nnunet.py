"""nnU-Net: ``imagesTr/CASE_0000.nii.gz``, ``labelsTr/CASE.nii.gz`` and ``dataset.json``; slices of a plane the user names.

The Medical Segmentation Decathlon, from which nnU-Net has its layout, calls an image ``imagesTr/CASE.nii.gz``.
Pictures (``file_ending`` .png, .bmp, .tif) have neither plane nor slices.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medground.data.json_text import read_json, shown
from medground.data.source_samples import BadSample, SourceSample, SourceVolume
from medground.errors import InputError, UsageError
from medground.images.mask_frames import mask_placement, read_mask_of
from medground.images.nifti import MAX_LABELS, NiftiFile, is_nifti
from medground.images.paths import NIFTI_SUFFIXES, is_image, safe_name, stem
from medground.images.pictures import read_label_map
from medground.images.read import Inspect, inspect_repeated
from medground.images.view import View

FOLDERS = (("imagesTr", "labelsTr", "train"), ("imagesTs", "labelsTs", "test"))
TABLE = "dataset.json"


class NnUNetReader:
    """Reads imagesTr/ beside labelsTr/, NIfTI, of nnU-Net or of the Medical Segmentation Decathlon."""

    description: ClassVar[str] = "imagesTr/ beside labelsTr/, NIfTI: nnU-Net, Medical Segmentation Decathlon"

    def recognises(self, root: Path) -> bool:
        """Return True for a folder with imagesTr/ beside labelsTr/."""
        return (root / "imagesTr").is_dir() and (root / "labelsTr").is_dir()

    def read(
        self,
        root: Path,
        *,
        plane: str | None = None,
        slices: str | int | None = None,
        channel: int | None = None,
        window: str | None = None,
        modality: str | None = None,
        question: str | None = None,
    ) -> Iterator[SourceSample | BadSample]:
        """Return the source samples, one per label of a slice.

        Args:
            root: the data set's folder.
            plane: ``axial``, ``coronal`` or ``sagittal``; of NIfTI.
            slices: ``largest`` (of every label the slice that holds most of it), ``all`` (every slice that holds some), or a
                slice's number; of NIfTI.
            channel: the image's channel, from 0: the number at the end of its name, or of an image of four dimensions the
                volume, which must be chosen; None is 0 where images have one volume each.
            window: how values become grey, see `View`.
            modality: of every image; None takes the channel's name in ``dataset.json``.
            question: asked of every sample.
        """
        if not (root / TABLE).is_file():
            raise InputError(f"{root.name} has no {TABLE}", hint="give the folder of one data set")
        table = read_json(root / TABLE)
        names, known = _labels(table), modality or _channel(table, channel or 0)
        files = _label_files(root, table)
        _check_slices(plane, slices, window, volumes=any(is_nifti(path) for path, _, _ in files))
        return _samples(root, files, names, known, plane, str(slices), channel, window, question)


def _samples(
    root: Path,
    files: list[tuple[Path, Path, str]],
    names: Mapping[str, tuple[int, ...]],
    modality: str | None,
    plane: str | None,
    slices: str,
    channel: int | None,
    window: str | None,
    question: str | None,
) -> Iterator[SourceSample | BadSample]:
    inspect = inspect_repeated(root)
    for path, images, split in files:
        try:
            image, stack = _image(images, path, channel)
            for number, name in _chosen(path, image, stack, plane, slices, names):
                view = View(plane=plane, slice=number, window=window, stack=stack)
                yield _sample(inspect, image, path, view, name, names[name], modality, question, split)
        except InputError as error:
            yield BadSample(safe_name(path.name), error.message)


def _check_slices(plane: str | None, slices: str | int | None, window: str | None, *, volumes: bool) -> None:
    if not volumes:
        if plane is not None or slices is not None:
            raise UsageError("the label maps are pictures, which have no plane", hint="leave out plane and slices")
        return
    missing = [word for word, value in (("plane", plane), ("slices", slices)) if value is None]
    if missing:
        raise UsageError(f"the reader nnunet needs {' and '.join(missing)}", hint=f"give {missing[0]}=...")
    if str(slices) not in ("largest", "all") and not str(slices).isdigit():
        raise UsageError(f"slices={slices!r} names none", hint="give largest, all or a number")
    View(plane=plane, slice=0, window=window)  # refuses a plane or a window that is none, before any file is read


def _label_files(root: Path, table: Any) -> list[tuple[Path, Path, str]]:
    """(label map, folder of its image, split) of every case.

    Raises:
        InputError: if there are none of a kind that is read.
    """
    files = [
        (path, root / images, split)
        for images, labels, split in FOLDERS
        for path in sorted((root / labels).glob("*"))
        if is_image(path) and not path.name.startswith("._")  # the Decathlon's archives hold macOS's notes of files
    ]
    if not files:
        raise InputError(
            f"{root.name} holds no label maps that can be read: its file_ending is {shown(table.get('file_ending'))}",
            hint="convert them to .nii.gz or .png",
        )
    return files


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


def _image(folder: Path, labels: Path, channel: int | None) -> tuple[Path, int | None]:
    """Return the image of a case, and which of its volumes is the channel, where it has several."""
    suffixes = NIFTI_SUFFIXES if is_nifti(labels) else (labels.suffix,)
    whole, single = (
        [folder / f"{stem(labels)}{end}{suffix}" for suffix in suffixes] for end in ("", f"_{channel or 0:04d}")
    )
    for path in filter(Path.is_file, whole):
        volumes = NiftiFile(path, 0).volumes if is_nifti(path) else 1
        if volumes > 1 and channel is None:
            raise InputError(f"its image holds {volumes} volumes: name one by channel=N, 0 to {volumes - 1}")
        if volumes > 1 or not channel:
            return path, channel if volumes > 1 else None
    if not (existing := [path for path in single if path.is_file()]):
        raise InputError(f"its image {safe_name(single[0].name)} does not exist")
    return existing[0], None


def _chosen(
    labels: Path,
    image: Path,
    stack: int | None,
    plane: str | None,
    slices: str,
    names: Mapping[str, tuple[int, ...]],
) -> list[tuple[int | None, str]]:
    """(slice, label) of the source samples of one label map; a picture has no slice."""
    if not is_nifti(labels):
        present = set(np.unique(read_label_map(labels)).tolist())
        return [(None, name) for name, values in names.items() if present & set(values)]
    volume, picture = NiftiFile(labels), NiftiFile(image, stack)
    first = View(plane=plane, slice=0)
    placement = mask_placement(picture, volume, first)  # refuses another grid
    if placement != volume.placement(first):
        raise InputError("its axes run against its image's", hint="labels lie in the voxels of their image")
    axis = placement.axis
    areas = _areas(volume, axis)
    chosen: list[tuple[int | None, str]] = []
    for name, values in names.items():
        area = sum((areas[value] for value in values if value in areas), np.zeros(volume.sides[axis], np.int64))
        if slices == "largest":
            chosen += [(int(area.argmax()), name)] if area.any() else []
        else:
            chosen += [(int(number), name) for number in np.flatnonzero(area) if slices in ("all", str(number))]
    return sorted(chosen, key=lambda pair: (pair[0] or 0, pair[1]))


def _areas(volume: NiftiFile, axis: int) -> dict[int, NDArray[np.int64]]:
    """Value -> how many voxels of each slice across `axis` hold it; 0 is left out."""
    areas: dict[int, NDArray[np.int64]] = {}
    for number, values in enumerate(map(volume.labels, volume.slabs())):
        present, counts = np.unique(values[values != 0], return_counts=True)
        if len(present) > MAX_LABELS:
            raise InputError("it is not a label map: it holds too many values")
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
        where=safe_name(labels.name) if view.plane is None else f"{safe_name(labels.name)} {view.plane} {view.slice}",
        load_image=info.load,
        load_mask=partial(read_mask_of, image, labels, view, values),
        image_key=info.key,
        group=info.group,
        labels={**info.labels, **stated},
        question=question,
        split=split,
        spacing=info.spacing,
        volume=_source_volume(image, labels, values, view) if is_nifti(labels) else None,
    )


def _source_volume(image: Path, labels: Path, values: tuple[int, ...], view: View) -> SourceVolume:
    return SourceVolume(image=image, mask=labels, values=values, window=view.window, stack=view.stack)
