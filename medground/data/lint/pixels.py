"""Checks of a line against its image and its mask."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from medground.data.duplicates import Fingerprint, fingerprint
from medground.data.lint.findings import Line
from medground.data.manifest import Record, misfits, read_record_mask
from medground.data.region_props import RegionProps, region_props
from medground.data.statements import untrue
from medground.errors import InputError
from medground.geometry import Box, Size, box_iou, in_mask, mask_box
from medground.images.loaded import LoadedImage
from medground.images.paths import missing_name, within
from medground.images.read import image_kind, open_image
from medground.images.view import View

FULL = 0.95
"""A mask of more than this fraction of its image points at nothing."""
_NEAR = 1.0
"""px by which a stated box may differ from the mask's."""
_SAME = 0.8
"""IoU from which a box, converted from another frame, is taken for the mask's."""

Bools = NDArray[np.bool_]
_TURNS: dict[str, Callable[[Bools], Bools]] = {
    "mirrored left to right": lambda mask: mask[:, ::-1],
    "upside down": lambda mask: mask[::-1],
    "turned by 180 degrees": lambda mask: mask[::-1, ::-1],
    "transposed": lambda mask: mask.T,
    "turned by 90 degrees": lambda mask: np.rot90(mask),
    "turned by 270 degrees": lambda mask: np.rot90(mask, 3),
}


Opener = Callable[[Path, View], tuple[LoadedImage, Fingerprint]]


def open_fingerprinted(path: Path, view: View) -> tuple[LoadedImage, Fingerprint]:
    """Open an image and take its fingerprint."""
    image = open_image(path, view)
    return image, fingerprint(image.pixels)


def check_pixels(line: Line, root: Path, open_once: Opener) -> None:
    """Open the files of a line and check them, and its numbers against them."""
    record = line.record
    image_path = _file(line, "image", record.image, root)
    if image_path is None or line.wrong & {"plane", "slice", "window"}:
        return
    try:
        view = record.view()
        image, line.fingerprint = open_once(image_path, view)
    except InputError as error:
        line.add("unreadable_image", str(error))
        return
    check_image(line, image)
    digest, masks = hashlib.blake2b(digest_size=16), []
    for number, target in enumerate(record.targets, start=1):
        before = len(line.findings)
        mask = _target_mask(line, target, root, view, image.size)
        if mask is not None:
            digest.update(np.packbits(mask).tobytes())
            masks.append(mask)
        if record.regions is not None:
            line.findings[before:] = [
                replace(one, says=f"region {number}: {one.says}") for one in line.findings[before:]
            ]
    if record.targets and len(masks) == len(record.targets):
        line.mask_digest = digest.hexdigest()
        line.props = region_props(image.pixels, np.any(masks, axis=0))
        check_statements(line, line.props)


def _target_mask(line: Line, target: Record, root: Path, view: View, size: Size) -> Bools | None:
    """Return the checked mask of one of a line's targets; None where there is none that can be used."""
    path = _file(line, "mask", target.mask, root)
    if (path is None and not isinstance(target.mask, Mapping)) or "mask_value" in line.wrong:
        return None
    try:
        mask = read_record_mask(target, root, view)
    except InputError as error:
        line.add("unreadable_mask", str(error))
        return None
    chosen = target.mask_value is not None or target.mask_threshold is not None
    return mask if check_mask(line, target, mask, size, None if chosen else path) else None


def check_image(line: Line, image: LoadedImage) -> None:
    """Check the image of a line, and the line's numbers against its size."""
    if image.reoriented:
        line.add("exif_orientation", "its image is stored turned, by an EXIF orientation")
    if image.pixels.min() == image.pixels.max():
        line.add("blank_image", f"every pixel of its image is {image.pixels[0, 0].tolist()}")
    for flaw in misfits(line.record, image.size):
        line.add(flaw.code, flaw.text)


def _file(line: Line, word: str, name: Any, root: Path) -> Path | None:
    if not isinstance(name, str):
        return None
    try:
        path = within(root, name)
    except InputError:
        line.add("outside_folder", f"its {word} lies outside the dataset's folder")
        return None
    if not path.is_file():
        line.add("missing_file", f"its {word} {missing_name(name)!r} does not exist")
        return None
    return path


def check_mask(line: Line, target: Record, mask: Bools, size: Size, path: Path | None) -> bool:
    """Check the mask of one of a line's targets; return True if anything can be measured on it.

    Args:
        line: takes the findings.
        target: with the box and points that are compared with the mask.
        mask: H×W bool.
        size: (H, W) of the image.
        path: the file of which all values but 0 are the mask; None where there is none.
    """
    if mask.shape != size:
        if mask.shape == size[::-1]:
            line.add("transposed_mask", f"its mask is {list(mask.shape)} and its image {list(size)}")
        else:
            line.add("size_mismatch", f"its mask is {list(mask.shape)} and its image {list(size)}")
        return False
    if not mask.any():
        line.add("empty_mask", "its mask is empty")
        return False
    if mask.mean() > FULL:
        line.add("full_mask", f"its mask covers {mask.mean():.3f} of its image")
    if path is not None:
        _check_values(line, path, mask)
    turned = _check_box(line, target, mask)
    if not turned and not any(finding.code == "point_out_of_frame" for finding in line.findings):
        missed = [point for point in target.points if not in_mask(point, mask)]
        if missed:
            line.add("point_outside_mask", f"its point ({missed[0][0]:g}, {missed[0][1]:g}) is not on its mask")
    return True


def _check_values(line: Line, path: Path, mask: Bools) -> None:
    if image_kind(path) != "picture":
        return
    with Pillow.open(path) as picture:
        if picture.format == "JPEG" or picture.mode not in ("L", "P", "I;16", "I"):
            return
        stored = np.asarray(picture)
    values = np.unique(stored)
    if len(values) > 2 and np.array_equal(stored != 0, mask):
        line.add("many_valued_mask", f"its mask holds {len(values) - 1} values beside 0, all taken as one target")


def _check_box(line: Line, target: Record, mask: Bools) -> bool:
    """Compare the stated box with the mask's; return True if the mask is turned, which explains all that follows."""
    box, tight = target.box, mask_box(mask)
    if box is None or not box.valid or _near(box, tight):
        # A box that stops at the last foreground pixel is within a pixel of the right one, and still wrong.
        if box is not None and box == (tight.x1, tight.y1, tight.x2 - 1, tight.y2 - 1):
            line.add("inclusive_box", f"its box {list(box)} ends at the last pixel; the mask's is {list(tight)}")
        return False
    for how, turn in _TURNS.items():
        turned = turn(mask)
        if turned.shape == mask.shape and _near(box, mask_box(turned)) and _points_fit(target, turned, mask):
            line.add("turned_mask", f"its box is that of its mask {how}")
            return True
    frame = _other_frame(box, tight, mask.shape)
    if frame:
        line.add("other_frame", f"its box {list(box)} seems to count {frame}; the mask's is {_short(tight)} px")
    else:
        line.add("box_mask_mismatch", f"its box is {list(box)} and its mask's {_short(tight)}")
    return False


def _points_fit(target: Record, turned: Bools, mask: Bools) -> bool:
    """Return True if the points fit the turned mask at least as well as the stored one."""
    points = target.points
    return not points or int(in_mask(points, turned).sum()) >= int(in_mask(points, mask).sum())


def _near(a: Box, b: Box) -> bool:
    return max(abs(one - other) for one, other in zip(a, b, strict=True)) <= _NEAR


def _other_frame(box: Box, tight: Box, size: tuple[int, ...]) -> str | None:
    height, width = size[0], size[1]
    frames = {"thousandths of the sides": (1000, 1000), "shares of the sides": (1, 1)}
    frames |= {f"an image of {side} x {side}": (side, side) for side in (224, 256, 336, 448, 512, 840, 1024)}
    fits = {
        name: box_iou(box, (tight.x1 * x / width, tight.y1 * y / height, tight.x2 * x / width, tight.y2 * y / height))
        for name, (y, x) in frames.items()
        if (y, x) != (height, width)
    }
    best = max(fits, key=lambda name: float(fits[name]))
    better = float(fits[best]) > max(_SAME, float(box_iou(box, tight)) + 0.1)
    return best if better else None


def _short(box: Box) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"


def check_statements(line: Line, props: RegionProps) -> None:
    """Check what the question and the reasoning trace say against what was measured."""
    texts = (
        ("question", line.record.question, "question_contradicts_box"),
        ("think", line.record.think, "think_contradicts_box"),
    )
    for word, text, code in texts:
        if text and (phrases := untrue(text, props)):
            line.add(code, f"its {word} says {phrases[0]!r}, and its target lies wholly on the other side")
