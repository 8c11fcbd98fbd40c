"""BiomedParse's naming: ``NAME_MODALITY_SITE.png`` in ``train/``, ``NAME_MODALITY_SITE_left+lung.png`` in ``train_mask/``.

U-MRG's raw form is the same with ``_`` for ``+`` and a number at the end, in ``train/images`` and ``train/masks``.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from medground.data.source_samples import BadSample, SourceSample
from medground.errors import InputError
from medground.images.paths import images as image_files
from medground.images.paths import safe_name, stem
from medground.images.read import opened, read_any_mask
from medground.images.view import View

SPLITS = ("train", "val", "test")
_NUMBER = re.compile(r"_\d{3}$")


def recognises(root: Path) -> bool:
    """A folder with train/ beside train_mask/, or the same of another split."""
    return any((root / split).is_dir() and (root / f"{split}_mask").is_dir() for split in SPLITS)


def cases(root: Path, *, question: str | None = None) -> Iterator[SourceSample | BadSample]:
    """A case per mask; modality, site and category come from the names.

    Args:
        root: the folder of the splits.
        question: asked of every case.
    """
    parts = list(_parts(root))
    if not parts:
        raise InputError(f"{root.name} has no train/ beside train_mask/", hint="give the folder that holds the splits")
    for split, images, masks in parts:
        yield from _of_split(root, split, images, masks, question)


def _parts(root: Path) -> Iterator[tuple[str, Path, Path]]:
    for split in SPLITS:
        for images, masks in ((split, f"{split}_mask"), (f"{split}/images", f"{split}/masks")):
            if (root / images).is_dir() and (root / masks).is_dir():
                yield split, root / images, root / masks


def _of_split(
    root: Path, split: str, images: Path, masks: Path, question: str | None
) -> Iterator[SourceSample | BadSample]:
    by_name = {stem(path): path for path in image_files(images)}
    for mask in image_files(masks):
        owner = next((name for name in _prefixes(stem(mask)) if name in by_name), None)
        if owner is None:
            yield BadSample(safe_name(mask.name), "no image has the beginning of its name")
            continue
        try:
            found = opened(by_name[owner], root, View())
        except InputError as error:
            yield BadSample(safe_name(mask.name), error.message)
            continue
        modality, site = owner.rsplit("_", 2)[-2:] if owner.count("_") >= 2 else ("", "")
        target = _NUMBER.sub("", stem(mask)[len(owner) + 1 :])
        labels = {"modality": modality, "site": site, "category": " ".join(re.split(r"[+_]", target)).strip()}
        yield SourceSample(
            id=safe_name(stem(mask)),
            where=safe_name(mask.name),
            read_image=found.read,
            read_mask=partial(read_any_mask, mask),
            image_key=found.key,
            group=found.group,
            labels={**found.labels, **{key: value for key, value in labels.items() if value}},
            question=question,
            split=split,
            spacing=found.spacing,
        )


def _prefixes(name: str) -> Iterator[str]:
    """Beginnings of a name that end before an underscore, the longest first."""
    while "_" in name:
        name = name.rpartition("_")[0]
        yield name
