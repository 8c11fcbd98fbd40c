"""Queries from what people have at hand: a file, an array, a picture in memory."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps

from medground.errors import InputError, UsageError
from medground.images.read import open_image
from medground.images.view import PLAIN, View
from medground.types import Image, Query

ImageSource = str | os.PathLike[str] | NDArray[Any] | Pillow.Image
"""A file's path, an array of grey or RGB bytes, or a PIL image."""


def as_query(
    source: ImageSource | Query,
    question: str | None,
    *,
    plane: str | None = None,
    slice: int | None = None,
    window: str | None = None,
) -> Query:
    """Return the query that an image and a question make; a query is returned as it is.

    Args:
        source: the image, or the whole query.
        question: what is asked.
        plane: of a volume's file: ``axial``, ``coronal`` or ``sagittal``.
        slice: of a volume's file, or the frame of a film's, from 0.
        window: of a DICOM or NIfTI file: how values become grey.

    Raises:
        InputError: if the image cannot be read, or is of another kind.
        UsageError: if a question is missing or given twice, or a view is given of what is no file.
    """
    view = View(plane=plane, slice=slice, window=window)
    if not isinstance(source, str | os.PathLike) and view != PLAIN:
        raise UsageError(
            f"plane, slice and window are given for a {type(source).__name__}", hint="give the file's path"
        )
    if isinstance(source, Query):
        if question is not None:
            raise UsageError("the question is given twice", hint="leave it out: the query has one")
        return source
    if question is None:
        raise UsageError("the question is missing", hint='call the pipeline with (image, "question")')
    if isinstance(source, str | os.PathLike):
        image = open_image(Path(source), view)
        return Query(image=image.pixels, question=question, id=image.id, spacing=image.spacing)
    return Query(image=_pixels(source), question=question)


def _pixels(source: NDArray[Any] | Pillow.Image) -> Image:
    """Return an image in memory as H x W x 3 uint8 RGB; nothing is stretched, dropped or guessed."""
    if isinstance(source, Pillow.Image):
        if source.mode not in ("L", "RGB"):
            raise InputError(
                f"the image has PIL mode {source.mode!r}, which is neither grey nor RGB",
                hint='pass image.convert("RGB") if that shows what you mean',
            )
        source = np.asarray(ImageOps.exif_transpose(source))
    if not isinstance(source, np.ndarray):
        raise InputError(
            f"the image is a {type(source).__name__}", hint="pass a path, a uint8 array, a PIL image or a Query"
        )
    grey = source.ndim == 2
    if source.dtype != np.uint8 or not source.size or not (grey or (source.ndim == 3 and source.shape[2] == 3)):
        raise InputError(
            f"the image array is {source.dtype} of shape {source.shape}, not uint8 of shape (H, W) or (H, W, 3)",
            hint="window it to 0..255 first, or pass the file's path",
        )
    return np.ascontiguousarray(np.repeat(source[..., None], 3, axis=2) if grey else source)
