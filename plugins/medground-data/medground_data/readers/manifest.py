"""A manifest of source samples; `medground.data.manifest` states its words."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

from medground.data.manifest import MANIFEST, Record, read_record_mask, read_records, refuse_misfits
from medground.data.source_samples import BadSample, SourceSample
from medground.errors import InputError
from medground.images.loaded import ImageInfo, LoadedImage
from medground.images.paths import inside, safe_name
from medground.images.read import Inspect, inspect_repeated

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
        """Yield a source sample per line.

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
                yield BadSample(where, str(error))


def _sample(
    record: Record, where: str, root: Path, inspect: Inspect, question: str | None, window: str | None
) -> SourceSample:
    record.refuse_flaws()
    if record.mask is None:
        raise InputError("needs a mask")
    view = record.view(window)
    info = inspect(inside(root, record.image, "an image"), view)
    if isinstance(record.mask, str):
        inside(root, record.mask, "a mask")
    labels = {key: value for key, value in record.labels.items() if key not in _MEASURED}
    return SourceSample(
        id=safe_name(record.id or info.id),
        where=where,
        load_image=partial(_load_image, record, info),
        load_mask=partial(read_record_mask, record, root, view),
        image_key=info.key,
        group=info.group,
        labels={**info.labels, **labels},
        question=record.question or question,
        think=record.think,
        split=record.split,
        box=record.box,
        points=record.points,
        spacing=record.spacing or info.spacing,
        mask_file=root / record.mask if isinstance(record.mask, str) and record.mask_value is None else None,
        file=info.file,
    )


def _load_image(record: Record, info: ImageInfo) -> LoadedImage:
    image = info.load()
    refuse_misfits(record, image)
    return image
