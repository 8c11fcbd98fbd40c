"""A manifest of source samples; `medground.data.manifest` states its words."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from medground.data.manifest import MANIFEST, Record, read_record_mask, read_records, refuse_misfits
from medground.data.source_samples import BadSample, SourceRegion, SourceSample
from medground.errors import InputError
from medground.images.loaded import ImageInfo, LoadedImage
from medground.images.paths import inside, safe_name
from medground.images.read import Inspect, inspect_repeated
from medground.images.view import View

_MEASURED = ("width", "height", "mask_area", "components", "box_fill", "area_frac")
"""Not labels: figures that are measured anew."""


class ManifestReader:
    """Reads a line of JSON per mask."""

    description: ClassVar[str] = "a line of JSON per mask"

    def recognises(self, root: Path) -> bool:
        """Return True for a file of JSON lines, or a folder with manifest.jsonl."""
        return (root / MANIFEST).is_file() if root.is_dir() else root.suffix.lower() in (".jsonl", ".ndjson")

    def read(
        self, root: Path, *, question: str | None = None, window: str | None = None
    ) -> Iterator[SourceSample | BadSample]:
        """Yield a source sample per line; one with ``regions`` keeps them apart.

        Args:
            root: the manifest, or its folder.
            question: for lines that hold none.
            window: for lines that hold none, see `View`.
        """
        manifest = root / MANIFEST if root.is_dir() else root
        if not manifest.is_file():
            raise InputError(f"{root.name} has no {MANIFEST}", hint="give a manifest or its folder")
        root = manifest.parent.resolve()
        inspect = inspect_repeated(root)
        for record in read_records(manifest):
            where = f"{safe_name(manifest.name)} line {record.number}"
            try:
                yield _sample(record, where, root, inspect, question, window)
            except InputError as error:
                yield BadSample(where, str(error), category=record.labels.get("category", ""))


def _sample(
    record: Record, where: str, root: Path, inspect: Inspect, question: str | None, window: str | None
) -> SourceSample:
    record.refuse_flaws()
    if any(target.mask is None for target in record.targets):
        raise InputError("needs a mask" if record.regions is None else "needs a mask of every region")
    view = record.view(window)
    info = inspect(inside(root, record.image, "an image"), view)
    for target in record.targets:
        if isinstance(target.mask, str):
            inside(root, target.mask, "a mask")
    labels = {key: value for key, value in record.labels.items() if key not in _MEASURED}
    regions = None if record.regions is None else tuple(_region(target, root, view) for target in record.regions)
    return SourceSample(
        id=safe_name(record.id or info.id),
        where=where,
        load_image=partial(_load_image, record, info),
        load_mask=partial(_load_mask, record, root, view, info),
        image_key=info.key,
        group=info.group,
        labels={**info.labels, **labels},
        question=record.question or question,
        think=record.think,
        split=record.split,
        box=record.box,
        points=record.points,
        spacing=record.spacing or info.spacing,
        mask_file=_whole_file(record, root),
        regions=regions,
        exhaustive=record.exhaustive,
        file=info.file,
    )


def _region(target: Record, root: Path, view: View) -> SourceRegion:
    return SourceRegion(
        load_mask=partial(read_record_mask, target, root, view), box=target.box, points=target.points, label=target.label,
        mask_file=_whole_file(target, root),
    )  # fmt: skip


def _whole_file(target: Record, root: Path) -> Path | None:
    return root / target.mask if isinstance(target.mask, str) and target.mask_value is None else None


def _load_mask(record: Record, root: Path, view: View, info: ImageInfo) -> NDArray[np.bool_]:
    """The mask of all targets together; empty where there are none."""
    union = None
    for target in record.targets:
        mask = read_record_mask(target, root, view)
        if union is not None and union.shape != mask.shape:
            raise InputError(f"its masks are {list(union.shape)} and {list(mask.shape)}")
        union = mask if union is None else union | mask
    return np.zeros(info.load().size, bool) if union is None else union


def _load_image(record: Record, info: ImageInfo) -> LoadedImage:
    image = info.load()
    refuse_misfits(record, image)
    return image
