"""A folder of images and a folder of masks, paired by name.

A mask of ``images/A.png`` is ``masks/A.png``, ``masks/A__left-lung.png`` (any number, the category after the two
underscores) or ``masks/left-lung/A.png``. The two folders may also lie in ``train/``, ``val/`` and ``test/``.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

from medground.data.source_samples import BadSample, SourceSample
from medground.errors import InputError
from medground.images.paths import list_images, missing_name, safe_name, stem
from medground.images.read import inspect_image, read_mask
from medground.images.view import View

SPLITS = ("train", "val", "test")


class FolderReader:
    """Reads images/ and masks/ by name."""

    description: ClassVar[str] = "images/ and masks/ by name"

    def recognises(self, root: Path) -> bool:
        """Return True for a folder with images/ and masks/, itself or in a split's folder."""
        return any(True for _ in _split_folders(root, "images", "masks"))

    def read(
        self,
        root: Path,
        *,
        images: str = "images",
        masks: str = "masks",
        category: str | None = None,
        modality: str | None = None,
        question: str | None = None,
        window: str | None = None,
    ) -> Iterator[SourceSample | BadSample]:
        """Yield a source sample per mask.

        Args:
            root: the folder.
            images: the images' folder, in it.
            masks: the masks' folder, in it.
            category: of every mask whose name states none.
            modality: of every image.
            question: asked of every sample.
            window: of DICOM images, see `View`.
        """
        folders = list(_split_folders(root, images, masks))
        if not folders:
            raise InputError(f"{root.name} has no {images}/ beside {masks}/", hint="name them: images=... masks=...")
        given = {name: value for name, value in (("category", category), ("modality", modality)) if value is not None}
        for split, folder in folders:
            by_name = _masks_by_name(folder / masks)
            files = list_images(folder / images)
            for image in files:
                name = image.relative_to(folder / images).parent / stem(image)
                own = _own_masks(by_name, name.as_posix(), {stem(file) for file in files})
                yield from _of_image(image, root, own, View(window=window), given, question, split)


def _split_folders(root: Path, images: str, masks: str) -> Iterator[tuple[str | None, Path]]:
    for split in (None, *SPLITS):
        folder = root / (split or "")
        if (folder / images).is_dir() and (folder / masks).is_dir():
            yield split, folder


def _masks_by_name(folder: Path) -> dict[str, list[tuple[Path, str | None]]]:
    """Image name -> its masks with the category that their own names state."""
    masks: dict[str, list[tuple[Path, str | None]]] = {}
    for path in list_images(folder):
        where, name = path.relative_to(folder).parent, stem(path)
        owner, _, category = name.partition("__")
        masks.setdefault((where / name).as_posix(), []).append((path, None))
        if category:
            masks.setdefault((where / owner).as_posix(), []).append((path, _words(category)))
        if where.parts:
            masks.setdefault((Path(*where.parts[1:]) / name).as_posix(), []).append((path, _words(where.parts[0])))
    return masks


def _own_masks(
    by_name: dict[str, list[tuple[Path, str | None]]], name: str, all_names: set[str]
) -> list[tuple[Path, str | None]]:
    """The masks of one image. ``A__x.png`` is not a mask of ``A`` where there is an image ``A__x``."""
    return [
        (path, word)
        for path, word in by_name.get(name, [])
        if word is None or stem(path) == stem(name) or stem(path) not in all_names
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
        info = inspect_image(image, root, view)
    except InputError as error:
        yield BadSample(missing_name(image.name), str(error))
        return
    if not masks:
        yield BadSample(info.name, "no mask has its name")
    for path, category in masks:
        labels = {**info.labels, **given, **({"category": category} if category else {})}
        yield SourceSample(
            id=safe_name(f"{info.id}__{category}" if category else info.id),
            where=info.name,
            load_image=info.load,
            load_mask=partial(read_mask, path, image=image),
            image_key=info.key,
            group=info.group,
            labels=labels,
            question=question,
            split=split,
            spacing=info.spacing,
            file=info.file,
        )


def _words(name: str) -> str:
    """A category as a file name spells it: dashes and underscores are spaces."""
    return " ".join(name.replace("_", " ").replace("-", " ").split())
