"""Samples that are whole volumes: a question about a volume, and the truth as a label map of it.

A built dataset holds them as ``volumes.jsonl`` beside its manifest, a line of JSON each: ``id``, ``volume`` and ``mask`` (paths
relative to the file), ``mask_value`` (the labels that are meant), ``question``, ``window``, ``split``, ``group`` (what may not
part between splits), and labels such as ``category`` and ``modality``. They have the splits and the groups of the dataset's
slices.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medground.data.json_text import JsonLine, read_json_lines
from medground.errors import InputError
from medground.images.paths import inside
from medground.images.read_volume import read_volume
from medground.images.volume import Volume

VOLUMES = "volumes.jsonl"
_OFF = 0.1
"""Voxels by which a corner of a label map's grid may miss its volume's: affines are rounded."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VolumeSample:
    """A question about a volume with its truth; voxels are read when they are asked for."""

    id: str
    question: str
    volume: Path
    mask: Path
    values: tuple[int, ...]
    """The labels of the mask that are meant."""
    group: str
    """What may not part between splits: the patient, else the volume."""
    window: str | None = None
    """How values become grey, as of `medground.images.view.View`."""
    split: str | None = None
    labels: dict[str, str] = field(default_factory=dict)

    def read(self) -> tuple[Volume, NDArray[np.bool_]]:
        """Return the volume, and the truth in its voxels, ``[i, j, k]``.

        Raises:
            InputError: if a file cannot be read, or the two have different grids.
        """
        volume = read_volume(self.volume)
        return volume, read_truth(volume, self.mask, self.values)


def read_truth(volume: Volume, mask: Path, values: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return where a label map of a volume has one of `values`, bool ``[i, j, k]``.

    Raises:
        InputError: if it cannot be read, or lies on another grid.
    """
    labels = read_volume(mask)
    corners = np.array(np.meshgrid(*((0, side) for side in volume.shape))).reshape(3, -1).T - 0.5
    if labels.shape != volume.shape or np.abs(volume.to_voxel(labels.to_mm(corners)) - corners).max() > _OFF:
        raise InputError(
            f"{labels.id} lies on another grid than its volume {volume.id}", hint="resample the label map to the volume"
        )
    return np.isin(np.rint(labels.array()), values)


def read_volume_samples(
    folder: str | Path, *, split: str | None = None, limit: int | None = None
) -> list[VolumeSample]:
    """Return the volume samples of a built dataset.

    Args:
        folder: of the dataset.
        split: take only these.
        limit: take only the first so many of those that remain.

    Raises:
        InputError: if there are none, or naming the first line that cannot be used.
    """
    file = Path(folder).expanduser() / VOLUMES
    if not file.is_file():
        raise InputError(f"{Path(folder).name} holds no {VOLUMES}", hint="build it with medground data build --volumes")
    samples = [_parse(line, file.parent) for line in read_json_lines(file)]
    samples = [sample for sample in samples if split is None or sample.split == split][:limit]
    if not samples:
        raise InputError(f"{VOLUMES} holds no sample of the split {split}", hint="leave the split out")
    return samples


_TEXTS = ("id", "volume", "mask", "question", "group")


def _parse(line: JsonLine, folder: Path) -> VolumeSample:
    words: Any = line.value
    where = f"{VOLUMES} line {line.number}"
    if line.problem or not isinstance(words, dict):
        raise InputError(f"{where} is no JSON object")
    for key in _TEXTS:
        if not isinstance(words.get(key), str) or not words[key]:
            raise InputError(f"{where} has no text {key}", hint=f"give it {key}")
    values = words.get("mask_value")
    if not isinstance(values, list) or not values or any(type(value) is not int for value in values):
        raise InputError(f"{where} has no list of labels mask_value", hint='for example "mask_value": [1]')
    own = (*_TEXTS, "mask_value", "window", "split")
    labels = {key: value for key, value in words.items() if key not in own and isinstance(value, str)}
    try:
        volume, mask = inside(folder, words["volume"]), inside(folder, words["mask"])
    except InputError as error:
        raise InputError(f"{where} {error.message}") from error
    return VolumeSample(
        id=words["id"], question=words["question"], volume=volume, mask=mask, values=tuple(values), group=words["group"],
        window=words.get("window"), split=words.get("split"), labels=labels,
    )  # fmt: skip
