"""A folder of images and a folder of masks, paired by name.

A mask of ``images/A.png`` is ``masks/A.png``, ``masks/A__left-lung.png`` (any number, the category after the two
underscores) or ``masks/left-lung/A.png``. The two folders may also lie in ``train/``, ``val/`` and ``test/``.
"""

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


def recognises(root: Path) -> bool:
    """A folder with images/ and masks/, itself or in a split's folder."""
    return any(True for _ in _parts(root, "images", "masks"))


def cases(
    root: Path,
    *,
    images: str = "images",
    masks: str = "masks",
    category: str | None = None,
    modality: str | None = None,
    question: str | None = None,
    window: str | None = None,
) -> Iterator[SourceSample | BadSample]:
    """A case per mask.

    Args:
        root: the folder.
        images: the images' folder, in it.
        masks: the masks' folder, in it.
        category: of every mask whose name says none.
        modality: of every image.
        question: asked of every case.
        window: of DICOM images, see `View`.
    """
    parts = list(_parts(root, images, masks))
    if not parts:
        raise InputError(f"{root.name} has no {images}/ beside {masks}/", hint="name them: images=... masks=...")
    given = {name: value for name, value in (("category", category), ("modality", modality)) if value is not None}
    for split, folder in parts:
        by_name = _masks_by_name(folder / masks)
        files = image_files(folder / images)
        for image in files:
            name = image.relative_to(folder / images).parent / stem(image)
            own = _own_masks(by_name, name.as_posix(), {stem(each) for each in files})
            yield from _of_image(image, root, own, View(window=window), given, question, split)


def _parts(root: Path, images: str, masks: str) -> Iterator[tuple[str | None, Path]]:
    for split in (None, *SPLITS):
        folder = root / (split or "")
        if (folder / images).is_dir() and (folder / masks).is_dir():
            yield split, folder


def _masks_by_name(folder: Path) -> dict[str, list[tuple[Path, str | None]]]:
    """Image name -> its masks with the category their own names say."""
    found: dict[str, list[tuple[Path, str | None]]] = {}
    for path in image_files(folder):
        where, name = path.relative_to(folder).parent, stem(path)
        owner, _, category = name.partition("__")
        found.setdefault((where / name).as_posix(), []).append((path, None))
        if category:
            found.setdefault((where / owner).as_posix(), []).append((path, _words(category)))
        if where.parts:
            found.setdefault((Path(*where.parts[1:]) / name).as_posix(), []).append((path, _words(where.parts[0])))
    return found


def _own_masks(
    by_name: dict[str, list[tuple[Path, str | None]]], name: str, all_names: set[str]
) -> list[tuple[Path, str | None]]:
    """The masks of one image. ``A__x.png`` is not a mask of ``A`` where there is an image ``A__x``."""
    found = by_name.get(name, [])
    return [
        (path, word) for path, word in found if word is None or stem(path) == stem(name) or stem(path) not in all_names
    ]


def _of_image(
    image: Path,
    root: Path,
    masks: list[tuple[Path, str | None]],
    view: View,
    given: dict[str, str],
    question: str | None,
    split: str | None,
) -> Iterator[SourceSample | BadSample]:
    try:
        picture = opened(image, root, view)
    except InputError as error:
        yield BadSample(safe_name(image.name), str(error))
        return
    if not masks:
        yield BadSample(picture.name, "no mask has its name")
    for path, category in masks:
        labels = {**picture.labels, **given, **({"category": category} if category else {})}
        yield SourceSample(
            id=safe_name(f"{picture.id}__{category}" if category else picture.id),
            where=picture.name,
            read_image=picture.read,
            read_mask=partial(read_any_mask, path),
            image_key=picture.key,
            group=picture.group,
            labels=labels,
            question=question,
            split=split,
            spacing=picture.spacing,
            file=picture.file,
        )


def _words(name: str) -> str:
    """A category as a file name spells it: dashes and underscores are spaces."""
    return " ".join(name.replace("_", " ").replace("-", " ").split())
