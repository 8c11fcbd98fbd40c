"""BiomedParse's naming: ``NAME_MODALITY_SITE.png`` in ``train/``, ``NAME_MODALITY_SITE_left+lung.png`` in ``train_mask/``.

U-MRG's raw form is the same with ``_`` for ``+`` and a number at the end, in ``train/images`` and ``train/masks``.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

from medground.data.source_samples import BadSample, SourceSample
from medground.errors import InputError
from medground.images.mask_frames import read_mask_of
from medground.images.paths import list_images, safe_name, stem
from medground.images.read import inspect_repeated
from medground.images.view import PLAIN

SPLITS = ("train", "val", "test")
_NUMBER = re.compile(r"_\d{3}$")


class BiomedParseReader:
    """Reads train/ beside train_mask/, targets in the names."""

    description: ClassVar[str] = "train/ beside train_mask/, targets in the names"

    def recognises(self, root: Path) -> bool:
        """Return True for a folder with train/ beside train_mask/, or the same of another split."""
        return any((root / split).is_dir() and (root / f"{split}_mask").is_dir() for split in SPLITS)

    def read(self, root: Path, *, question: str | None = None) -> Iterator[SourceSample | BadSample]:
        """Yield a source sample per mask; modality, site and category come from the names.

        Args:
            root: the folder of the splits.
            question: asked of every sample.
        """
        folders = list(_split_folders(root))
        if not folders:
            raise InputError(
                f"{root.name} has no train/ beside train_mask/", hint="give the folder that holds the splits"
            )
        for split, images, masks in folders:
            yield from _of_split(root, split, images, masks, question)


def _split_folders(root: Path) -> Iterator[tuple[str, Path, Path]]:
    for split in SPLITS:
        for images, masks in ((split, f"{split}_mask"), (f"{split}/images", f"{split}/masks")):
            if (root / images).is_dir() and (root / masks).is_dir():
                yield split, root / images, root / masks


def _of_split(
    root: Path, split: str, images: Path, masks: Path, question: str | None
) -> Iterator[SourceSample | BadSample]:
    by_name, inspect = {stem(path): path for path in list_images(images)}, inspect_repeated(root)
    for mask in list_images(masks):
        owner = next((name for name in _prefixes(stem(mask)) if name in by_name), None)
        if owner is None:
            yield BadSample(safe_name(mask.name), "no image has the beginning of its name")
            continue
        try:
            info = inspect(by_name[owner], PLAIN)
        except InputError as error:
            yield BadSample(safe_name(mask.name), error.message)
            continue
        modality, site = owner.rsplit("_", 2)[-2:] if owner.count("_") >= 2 else ("", "")
        target = _NUMBER.sub("", stem(mask)[len(owner) + 1 :])
        labels = {"modality": modality, "site": site, "category": " ".join(re.split(r"[+_]", target)).strip()}
        yield SourceSample(
            id=safe_name(stem(mask)),
            where=safe_name(mask.name),
            load_image=info.load,
            load_mask=partial(read_mask_of, by_name[owner], mask),
            image_key=info.key,
            group=info.group,
            labels={**info.labels, **{key: value for key, value in labels.items() if value}},
            question=question,
            split=split,
            spacing=info.spacing,
            mask_file=mask,
        )


def _prefixes(name: str) -> Iterator[str]:
    """Beginnings of a name that end before an underscore, the longest first."""
    while "_" in name:
        name = name.rpartition("_")[0]
        yield name
