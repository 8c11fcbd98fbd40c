"""The samples of a manifest."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from medground.data.dataset import Dataset
from medground.data.manifest import Record, manifest_file, owners_of, read_record_mask, read_records, refuse_misfits
from medground.data.source_samples import refuse_mask
from medground.data.splits import complete_splits
from medground.errors import InputError
from medground.geometry import Size, mask_box
from medground.images.paths import inside
from medground.images.read import open_image
from medground.images.view import View
from medground.types import Mask, Query, Region, Sample, Target


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ManifestEntry:
    """One line of a manifest, checked but with its files unread."""

    id: str
    record: Record
    manifest: Path
    root: Path
    """The manifest's folder, links followed."""
    image: Path
    split: str
    labels: dict[str, str]

    @property
    def files(self) -> dict[str, Path]:
        """See `medground.data.dataset.Entry`."""
        masks = list(dict.fromkeys(one.mask for one in self.record.targets if isinstance(one.mask, str)))
        numbered = {f"mask {number}": self.root / mask for number, mask in enumerate(masks, start=1)}
        return {"image": self.image, **({"mask": self.root / masks[0]} if len(masks) == 1 else numbered)}

    @property
    def image_key(self) -> str:
        """See `medground.data.dataset.Entry`: a plane, a slice or a window of a file is an image of its own."""
        return json.dumps([str(self.image), self.record.plane, self.record.slice, self.record.window])

    @property
    def stated(self) -> str:
        """See `medground.data.dataset.Entry`."""
        return json.dumps(asdict(replace(self.record, number=0)), sort_keys=True, default=str)

    def load(self) -> Sample:
        """Read the image and the mask.

        Raises:
            InputError: if they cannot be read, or do not fit one another.
        """
        try:
            return self._load()
        except InputError as error:
            error.message = f"sample {self.id!r}: {error.message}"
            number, manifest = self.record.number, shlex.quote(str(self.manifest))
            line = f"to go on without it, empty its line: sed -i '{number}s/.*//' {manifest}"
            error.hint = f"{error.hint}; {line}" if error.hint else line
            raise

    def _load(self) -> Sample:
        view = self.record.view()
        image = open_image(self.image, view)
        refuse_misfits(self.record, image)
        regions = tuple(self._region(target, image.size, view) for target in self.record.targets)
        spacing = self.record.spacing or image.spacing
        return Sample(
            query=Query(image=image.pixels, question=str(self.record.question), id=self.id, spacing=spacing),
            target=Target(regions=regions),
            labels=self.labels if image.window is None else {**self.labels, "window": image.window},
            spacing=spacing,
        )

    def _region(self, target: Record, size: Size, view: View) -> Region:
        box, mask = target.box, None
        if target.mask is not None:
            mask = read_record_mask(target, self.root, view)
            refuse_mask(mask, size, box)
            box = box or mask_box(mask)
        mask_data = None if mask is None else Mask(data=mask)
        return Region(box=box, points=target.points, label=target.label, mask=mask_data)


def read_manifest(path: str | Path, *, split: str | None = None, limit: int | None = None) -> Dataset[ManifestEntry]:
    """Read the manifest of a folder (or a manifest file) and check every line.

    A line that names no split is given that of what it belongs with, see `medground.data.splits.complete_splits`: lines of
    one patient, study, volume, group or image never part.

    Args:
        path: a folder with ``manifest.jsonl``, or the file.
        split: take only these samples.
        limit: take only the first so many of those.

    Raises:
        InputError: naming the first line that cannot be used.
    """
    manifest = manifest_file(path)
    entries: dict[str, ManifestEntry] = {}
    for record in read_records(manifest):
        try:
            entry = _entry(record, manifest)
        except InputError as error:
            raise InputError(
                f"manifest line {record.number}: {error.message}", hint=error.hint or "fix or remove the line"
            ) from error
        if entry.id in entries:
            raise InputError(f"two samples are called {entry.id!r}", hint="give every line an id of its own")
        entries[entry.id] = entry
    if not entries:
        raise InputError(f"{manifest} holds no samples", hint="build it anew: medground data build")
    dataset = Dataset(_with_splits(list(entries.values())), [manifest])
    dataset = dataset if split is None else dataset.of_split(split)
    return dataset if limit is None else dataset[:limit]


def _with_splits(entries: Sequence[ManifestEntry]) -> list[ManifestEntry]:
    stated = [entry.split for entry in entries]
    if all(stated):
        return list(entries)
    splits = complete_splits(stated, [owners_of(entry.record, entry.root) for entry in entries])
    return [replace(entry, split=split) for entry, split in zip(entries, splits, strict=True)]


def _entry(record: Record, manifest: Path) -> ManifestEntry:
    root = manifest.parent.resolve()
    record.refuse_flaws()
    if record.question is None or not record.question.strip():
        raise InputError('needs a "question"')
    if record.regions is None and record.mask is None and record.box is None:
        raise InputError('needs a "mask", a "bbox_2d" or "regions"')
    image = inside(root, record.image, "an image")
    for target in record.targets:
        if isinstance(target.mask, str):
            inside(root, target.mask, "a mask")
    record.view()  # refuses a plane or a window that does not exist
    stated = {"think": record.think, "window": record.window}
    labels = {**record.labels, **{key: value for key, value in stated.items() if value is not None}}
    return ManifestEntry(
        id=record.id or f"line-{record.number}", record=record, manifest=manifest, root=root, image=image,
        split=record.split or "", labels=labels,
    )  # fmt: skip
