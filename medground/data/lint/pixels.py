"""What can be said of a line by its image and its mask."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from medground_data.question_templates import untrue
from numpy.typing import NDArray
from PIL import Image as Pillow

from medground.data.duplicates import Fingerprint, fingerprint
from medground.data.lint.findings import Line
from medground.data.region_props import region_props
from medground.data.samples import view_of
from medground.errors import InputError
from medground.geometry import Box, Size, box_iou, in_mask, mask_box
from medground.images.paths import missing_name
from medground.images.read import kind, mask_view, read_any_mask, show
from medground.images.view import PLAIN, View
from medground.types import Image

FULL = 0.95
"""A mask of more than this share of its image points at nothing."""
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


class Opened:
    """The image opened last: lines about one image most often follow one another."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.view = PLAIN
        self.image: Image
        self.print: Fingerprint
        self.turned = False

    def at(self, path: Path, view: View) -> Image:
        """The pixels of an image as a view shows it."""
        if (path, view) != (self.path, self.view):
            self.path = None
            self.image = show(path, view).image
            self.print = fingerprint(self.image)
            self.turned = kind(path) == "picture" and _turned(path)
            self.path, self.view = path, view
        return self.image


def _turned(picture: Path) -> bool:
    with Pillow.open(picture) as found:
        return found.getexif().get(0x0112, 1) not in (0, 1)


def check_pixels(line: Line, root: Path, opened: Opened) -> None:
    """Open the files of a line and check them, and its numbers against them."""
    line.image = _file(line, "image", root)
    line.mask = _file(line, "mask", root)
    if line.image is None:
        return
    try:
        view = view_of(line.words, line.number)
        image = opened.at(line.image, view)
    except InputError as error:
        line.found("unreadable_image", str(error))
        return
    line.size, line.print = (image.shape[0], image.shape[1]), opened.print
    if opened.turned:
        line.found("exif_orientation", "its image is stored turned, by an EXIF orientation")
    if image.min() == image.max():
        line.found("blank_image", f"every pixel of its image is {list(image[0, 0])}")
    stated = line.words.get("size")
    if stated is not None and stated != list(line.size):
        line.found("size_stated", f"it states the size {stated}, and its image is {list(line.size)}")
    _check_frame(line, line.size)
    if line.mask is None:
        return
    try:
        mask = read_any_mask(line.mask, mask_view(line.mask, view))
    except InputError as error:
        line.found("unreadable_mask", str(error))
        return
    if _check_mask(line, mask, line.size):
        line.pixels = hashlib.blake2b(np.packbits(mask).tobytes(), digest_size=16).hexdigest()
        line.looks = region_props(image, mask)
        _check_words(line)


def _file(line: Line, word: str, root: Path) -> Path | None:
    name = line.words.get(word)
    if not isinstance(name, str):
        return None
    try:
        path = (root / name).resolve()
        inside, exists = path.is_relative_to(root), path.is_file()
    except (OSError, ValueError):
        inside, exists = True, False
    if not inside:
        line.found("outside_folder", f"its {word} lies outside the dataset's folder")
    elif not exists:
        line.found("missing_file", f"its {word} {missing_name(name)!r} does not exist")
    return path if inside and exists else None


def _check_frame(line: Line, size: Size) -> None:
    height, width = size
    if line.box and line.box.valid and line.box.clip(size) != line.box:
        line.found("box_out_of_frame", f"its box {list(line.box)} leaves its image of {width} x {height} px")
    for x, y in line.points:
        if not (0 <= x < width and 0 <= y < height):
            line.found("point_out_of_frame", f"its point ({x:g}, {y:g}) leaves its image of {width} x {height} px")
            return


def _check_mask(line: Line, mask: Bools, size: Size) -> bool:
    """Whether anything can be measured on the mask."""
    if mask.shape != size:
        if mask.shape == size[::-1]:
            line.found("transposed_mask", f"its mask is {list(mask.shape)} and its image {list(size)}")
        else:
            line.found("size_mismatch", f"its mask is {list(mask.shape)} and its image {list(size)}")
        return False
    if not mask.any():
        line.found("empty_mask", "its mask is empty")
        return False
    if mask.mean() > FULL:
        line.found("full_mask", f"its mask covers {mask.mean():.3f} of its image")
    _check_values(line)
    turned = _check_box(line, mask)
    if not turned and not any(finding.code == "point_out_of_frame" for finding in line.findings):
        missed = [point for point in line.points if not in_mask(point, mask)]
        if missed:
            line.found("point_outside_mask", f"its point ({missed[0][0]:g}, {missed[0][1]:g}) is not on its mask")
    return True


def _check_values(line: Line) -> None:
    assert line.mask is not None
    if kind(line.mask) != "picture":
        return
    with Pillow.open(line.mask) as picture:
        if picture.format == "JPEG" or picture.mode not in ("L", "P", "I;16", "I"):
            return
        values = np.unique(np.asarray(picture))
    if len(values) > 2:
        line.found("many_valued_mask", f"its mask holds {len(values) - 1} values beside 0, all taken as one target")


def _check_box(line: Line, mask: Bools) -> bool:
    """Compare the stated box with the mask's; whether the mask is turned, which explains all that follows."""
    box, tight = line.box, mask_box(mask)
    if box is None or not box.valid or _near(box, tight):
        # A box that stops at the last foreground pixel is within a pixel of the right one, and still wrong.
        if box is not None and box == (tight.x1, tight.y1, tight.x2 - 1, tight.y2 - 1):
            line.found("inclusive_box", f"its box {list(box)} ends at the last pixel; the mask's is {list(tight)}")
        return False
    for how, turn in _TURNS.items():
        seen = turn(mask)
        if seen.shape == mask.shape and _near(box, mask_box(seen)) and _points_fit(line, seen, mask):
            line.found("turned_mask", f"its box is that of its mask {how}")
            return True
    frame = _other_frame(box, tight, mask.shape)
    if frame:
        line.found("other_frame", f"its box {list(box)} seems to count {frame}; the mask's is {_short(tight)} px")
    else:
        line.found("box_mask_mismatch", f"its box is {list(box)} and its mask's {_short(tight)}")
    return False


def _points_fit(line: Line, seen: Bools, mask: Bools) -> bool:
    """Whether the points fit the turned mask at least as well as the stored one."""
    return not line.points or int(in_mask(line.points, seen).sum()) >= int(in_mask(line.points, mask).sum())


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


def _check_words(line: Line) -> None:
    assert line.looks is not None
    for word, code in (("question", "question_contradicts_box"), ("think", "think_contradicts_box")):
        text = line.words.get(word)
        if isinstance(text, str) and (phrases := untrue(text, line.looks)):
            line.found(code, f"its {word} says {phrases[0]!r}, and its target lies wholly on the other side")
