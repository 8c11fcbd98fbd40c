"""Questions about volumes, in the worker: a mask on the grid that viewers show, and a DICOM Segmentation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError, RecipeError, UsageError
from medground.images.label_maps import label_map
from medground.images.volume import Volume
from medground.images.writing.labelled import LabelledMask
from medground.images.writing.write import encode_masks
from medground.pipeline.pipeline import Pipeline
from medground.pipeline.volumes import ground_volume
from medground.recipe.schema import SliceRule
from medground.report.stated import with_statement
from medground_serve.opened import Opened
from medground_serve.settings import MOST_REGIONS

MOST_VOXELS = 512 * 512 * 1200
RULES = (SliceRule.ask.value, SliceRule.middle.value)
NRRD, SEG = "mask.nrrd", "mask.seg.dcm"


class VolumeAnswerer:
    """Answers questions about volumes.

    Args:
        pipeline: it answers.
        opened: reads them.
        most_pixels: of a slice.
    """

    def __init__(self, pipeline: Pipeline, opened: Opened, most_pixels: int) -> None:
        self.pipeline, self.opened, self.most_pixels = pipeline, opened, most_pixels

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """Write ``mask.nrrd``, and ``mask.seg.dcm`` where it is wanted and not empty, into ``job["out"]``; return the
        result of ``medground volume --json`` with their names.

        Raises:
            MedgroundError: if the volume cannot be read, or the question cannot be asked.
        """
        volume = self._volume(Path(job["path"]))
        config = replace(self.pipeline.as_recipe.config.volume, **slice_settings(job["slice"]))
        try:
            result = ground_volume(self.pipeline, volume, job["question"], config=config, window=job["window"])
        except RecipeError as error:
            hint = "start the server with volume.propagation=per_slice, or with the recipe infer/toy_volume"
            raise UsageError(f"the recipe does not answer about volumes: {error.message}", hint=hint) from None
        out, files, notes = Path(job["out"]), {"nrrd": NRRD}, [*volume.notes]
        masks = result.masks[:MOST_REGIONS]
        if len(result.masks) > MOST_REGIONS:
            notes.append(f"the answer has {len(result.masks)} regions, of which the first {MOST_REGIONS} are given")
        labels = label_map(masks) if masks else np.zeros(volume.shape, np.uint16)
        (out / NRRD).write_bytes(nrrd_bytes(labels.astype(np.uint8), volume.affine))
        if job["seg"] and masks:
            named = [LabelledMask(data=mask, label=name) for mask, name in zip(masks, result.names, strict=False)]
            encoded = encode_masks(SEG, named, volume)
            notes += encoded.notes
            if encoded.data is not None:
                (out / SEG).write_bytes(encoded.data)
                files["seg"] = SEG
        return with_statement(result.to_dict(), self.pipeline.untrained, files, notes)

    def _volume(self, path: Path) -> Volume:
        volume = self.opened.whole(path)
        columns, rows, slices = volume.shape
        if max(columns * rows, columns * slices, rows * slices) > self.most_pixels:
            raise InputError(f"a slice of the volume has more than {self.most_pixels} pixels", hint="resample it")
        if columns * rows * slices > MOST_VOXELS:
            raise InputError(f"the volume has more than {MOST_VOXELS} voxels", hint="crop or resample it")
        if path.is_dir():
            check_complete(volume, len(list(path.iterdir())))
        return volume


def check_complete(volume: Volume, files: int) -> None:
    """Refuse a series of which some files are no slice of the volume: a viewer counts them, and shows masks displaced.

    Raises:
        InputError: if there are some.
    """
    slices = len({instance.path for instance in volume.origin.instances})
    if slices != files:
        raise InputError(
            f"{files - slices} of {files} files of the series are no slice of the volume, so a viewer would show the mask on "
            "other slices",
            hint="choose another series",
        )


def slice_settings(words: str) -> dict[str, Any]:
    """Return what `VolumeConfig` holds for a rule's name, or for a number in words.

    >>> slice_settings("12"), slice_settings("middle")["index"]
    ({'slice': None, 'index': 12}, None)

    Raises:
        UsageError: for anything else.
    """
    if words.isdecimal() and words.isascii() and len(words) < 6:
        return {"slice": None, "index": int(words)}
    if words not in RULES:
        raise UsageError("slice names no slice", hint=f"give its number from 0, {' or '.join(RULES)}")
    return {"slice": SliceRule(words), "index": None}


def nrrd_bytes(labels: NDArray[np.uint8], affine: NDArray[np.float64]) -> bytes:
    """Return labels as NRRD, uncompressed: viewers read no other 8-bit form.

    OHIF takes the bytes as they are, so their order is that of its own volume: columns fastest, then rows, then slices along
    the normal of rows and columns, as `Volume` has them. 3D Slicer places them by the header.

    Args:
        labels: ``[i, j, k]``.
        affine: (i, j, k, 1) to the LPS mm of the voxel's centre.
    """

    def vector(values: NDArray[np.float64]) -> str:
        return "({})".format(",".join(repr(float(value)) for value in values))

    lines = [
        "NRRD0004", "type: uint8", "dimension: 3", "space: left-posterior-superior",
        "sizes: {} {} {}".format(*labels.shape), "space directions: " + " ".join(map(vector, affine[:3, :3].T)),
        "kinds: domain domain domain", "encoding: raw", "space origin: " + vector(affine[:3, 3]),
    ]  # fmt: skip
    return "\n".join(lines).encode() + b"\n\n" + labels.tobytes(order="F")
