"""Pictures of an answer: mask, contour, box, points and, beside them, the truth.

The image keeps its colours. The answer is sky blue and solid, the truth yellow and dashed: a pair that people with any
kind of colour blindness tell apart, and dashes for those who print in grey. Every line lies on a dark halo, so that it
shows on white tissue and on black air. Line widths follow the picture's size. The legend stands below the picture,
never on it; a page of several pictures shows it once.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from medground.geometry import Box, Size
from medground.images.legend import ANSWER, TRUTH, dashes, with_legend
from medground.types import Grounding, Image, Region, Rollout, boxes_of

NOTHING = "The answer: nothing fits."
"""The caption under an answer without a region."""

_HALO = (8, 10, 14)
_SHORTEST, _LONGEST = 512, 1600
"""The longer side of the picture drawn: smaller images are enlarged, larger ones reduced."""
_FINE = 2
"""Shapes are drawn this many times finer and averaged down, for smooth edges."""

_Floats = NDArray[np.float32]
_Draw = ImageDraw.ImageDraw
_Spot = tuple[float, float]
_Line = tuple[_Spot, _Spot]
Corners = Box | Sequence[float]
Masks = NDArray[np.bool_] | Sequence[NDArray[np.bool_]]


def draw(
    image: Image,
    *,
    box: Corners | Sequence[Corners] | None = None,
    points: Sequence[Sequence[float]] = (),
    mask: Masks | None = None,
    target_box: Corners | Sequence[Corners] | None = None,
    target_mask: Masks | None = None,
    caption: str | None = None,
    legend: bool = True,
) -> Pillow.Image:
    """Draw an answer, and the truth where it is known, on an image.

    All coordinates are pixels of `image` (H x W x 3 uint8); masks are H x W bool; a box or a mask may be several, one per
    region. What cannot be drawn, for example an inverted box or a point outside the image, is left out: an overlay shows
    answers, it does not judge them.

    Returns:
        An RGB picture whose longer side is 512 to 1600 px, with the caption and, unless it is left out, a legend below it.

    Raises:
        ValueError: if a mask is not of the image's size.
    """
    masks, truths = _masks(mask), _masks(target_mask)
    for given in (*masks, *truths):
        if given.shape != image.shape[:2]:
            raise ValueError(f"a mask of {given.shape} does not fit an image of {image.shape[:2]}")
    masks, truths = ([given for given in several if given.any()] for several in (masks, truths))
    size = image.shape[0], image.shape[1]
    sheet = _Sheet(image)
    drawn = []
    for part in truths:
        sheet.contour(part, TRUTH, dashed=True)
    if truths:
        drawn.append("truth")
    if masks:
        sheet.fill(np.logical_or.reduce(masks), ANSWER)
        drawn.append("mask" if len(masks) == 1 else "masks")
    for part in masks:
        sheet.contour(part, ANSWER, dashed=False)
    for corners, colour, name in ((target_box, TRUTH, "true box"), (box, ANSWER, "box")):
        visible = [inside for one in _boxes(corners) if (inside := _visible(one, size)) is not None]
        for inside in visible:
            sheet.rectangle(inside, colour, dashed=colour == TRUTH)
        if visible:
            drawn.append(name if len(visible) == 1 else f"{name}es")
    spots = [(float(x), float(y)) for x, y in points if 0 <= x <= size[1] and 0 <= y <= size[0]]
    for number, spot in enumerate(spots, start=1):
        sheet.marker(spot, str(number), ANSWER)
    if spots:
        drawn.append("key points" if len(spots) > 1 else "key point")
    return with_legend(sheet.picture(), drawn if legend else [], caption)


def draw_rollout(rollout: Rollout) -> Pillow.Image:
    """Draw an answer beside the truth, without a legend: it is one of many pictures."""
    truths = rollout.sample.target.regions
    return draw_grounding(
        rollout.sample.query.image,
        rollout.grounding,
        target_box=boxes_of(truths),
        target_mask=[region.mask.data for region in truths if region.mask is not None],
        legend=False,
    )


def draw_grounding(
    image: Image, grounding: Grounding, texts: Sequence[str] = (), measures: str | None = None, **more: Any
) -> Pillow.Image:
    """Draw every region of an answer, or say below the picture that nothing fits.

    Args:
        image: H x W x 3 uint8 RGB.
        grounding: the answer.
        texts: that prompted the segmenter, one per region where there are any; they stand below the picture.
        measures: of the masks in words; they stand behind the texts.
        more: as for `draw`.
    """
    caption = "; ".join(filter(None, (concepts(grounding.regions, texts), measures)))
    return draw_regions(image, grounding.regions, caption=NOTHING if grounding.abstains else caption or None, **more)


def draw_regions(image: Image, regions: Sequence[Region], **more: Any) -> Pillow.Image:
    """Draw boxes, points and masks of regions as an answer's are, single instances one by one; `more` as for `draw`."""
    masks = [region.mask for region in regions if region.mask is not None]
    return draw(
        image,
        box=boxes_of(regions),
        points=[point for region in regions for point in region.points],
        mask=[one.data for mask in masks for one in mask.instances or (mask,)],
        **more,
    )


def concepts(regions: Sequence[Region], texts: Sequence[str] = ()) -> str:
    """Return what the segmenter was asked for in words, and what it says of it; "" where it is asked and says nothing.

    >>> from medground.types import Mask
    >>> absent = Region(label="cyst", mask=Mask(data=np.zeros((2, 2), bool), presence=0.125))
    >>> concepts([absent])
    '“cyst”: not present (presence 0.12)'
    """
    parts = []
    given = texts or [""] * len(regions)
    for region, text in zip(regions, given, strict=True):
        mask = region.mask
        stated = [] if mask is None or not mask.instances else [_counted(len(mask.instances))]
        if mask is not None and mask.presence is not None:
            stated.append(
                f"not present (presence {mask.presence:.2f})" if mask.absent else f"presence {mask.presence:.2f}"
            )
        words = text or (region.label if stated else "")
        if words or stated:
            parts.append(": ".join(filter(None, (f"“{words}”" if words else "", ", ".join(stated)))))
    return "; ".join(parts)


def _counted(instances: int) -> str:
    return f"{instances} instance{'' if instances == 1 else 's'}"


class _Sheet:
    """The picture being drawn on, at its final size."""

    def __init__(self, image: Image) -> None:
        height, width = image.shape[:2]
        longest = max(height, width)
        scale = 1.0
        if longest > _LONGEST:
            scale = _LONGEST / longest
        elif longest < _SHORTEST:
            # Whole multiples keep the pixels of a small image square and even.
            scale = float(-(-_SHORTEST // longest))
        self.size = (max(1, round(height * scale)), max(1, round(width * scale)))
        self.factors = (self.size[1] / width, self.size[0] / height)
        method = Pillow.Resampling.BICUBIC if scale > 1 else Pillow.Resampling.LANCZOS
        resized = Pillow.fromarray(image) if scale == 1 else Pillow.fromarray(image).resize(self.size[::-1], method)
        self.pixels = np.array(resized, np.float32)
        self.line = max(1.6, float(np.sqrt(self.size[0] * self.size[1])) / 290)

    def picture(self) -> Pillow.Image:
        return Pillow.fromarray(np.rint(np.clip(self.pixels, 0, 255)).astype(np.uint8))

    def fill(self, mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
        self._lay(self._resized(mask, self.size), colour, 0.26)

    def contour(self, mask: NDArray[np.bool_], colour: tuple[int, int, int], *, dashed: bool) -> None:
        """A line along the edge of the mask with a halo on both sides of it."""
        fine = self._resized(mask, (self.size[0] * _FINE, self.size[1] * _FINE)) > 0.5
        if not fine.any():
            return
        reach = max(1, round(self.line * _FINE / 2))
        line = _dilated(fine, reach) & _dilated(~fine, reach)
        halo = _dilated(line, max(1, round(0.7 * self.line * _FINE)))
        if dashed:
            square = max(2, round(7 * self.line * _FINE))
            rows, columns = (np.arange(side) // square for side in fine.shape)
            line &= (rows[:, None] + columns) % 2 == 0
        self._lay(_reduced(halo), _HALO, 0.55)
        self._lay(_reduced(line), colour, 1.0)

    def rectangle(self, box: Box, colour: tuple[int, int, int], *, dashed: bool) -> None:
        """A thin frame; a solid one has heavier corners, which is what the eye finds first."""
        x1, y1, x2, y2 = (value * factor for value, factor in zip(box, self.factors * 2, strict=True))
        arm = min(0.28 * min(x2 - x1, y2 - y1), 14 * self.line)
        sides = [((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))]
        thin = [dash for side in sides for dash in dashes(*side, 5 * self.line)] if dashed else sides
        thick = []
        if not dashed:
            for x, y, dx, dy in ((x1, y1, 1, 1), (x2, y1, -1, 1), (x2, y2, -1, -1), (x1, y2, 1, -1)):
                thick += [((x, y), (x + dx * arm, y)), ((x, y), (x, y + dy * arm))]
        for extra, ink, strength in ((1.5 * self.line, _HALO, 0.55), (0.0, colour, 1.0)):
            self._lay(self._lines(thin, self.line + extra, thick, 2 * self.line + extra), ink, strength)

    def marker(self, spot: tuple[float, float], text: str, colour: tuple[int, int, int]) -> None:
        """A numbered disc."""
        x, y = spot[0] * self.factors[0], spot[1] * self.factors[1]
        radius = max(6.5, 3.4 * self.line)

        def disc(reach: float) -> Callable[[_Draw], None]:
            corners = tuple(float(v * _FINE) for v in (x - reach, y - reach, x + reach, y + reach))
            return lambda pen: pen.ellipse(corners, fill=255)

        def digit(pen: _Draw) -> None:
            font = ImageFont.load_default(radius * 1.45 * _FINE)
            pen.text((x * _FINE, y * _FINE), text, fill=255, font=font, anchor="mm", stroke_width=0.03 * radius * _FINE)

        for paint, ink, strength in (
            (disc(radius + 0.9 * self.line), _HALO, 0.7),
            (disc(radius), (255, 255, 255), 1.0),
            (disc(radius - max(1.0, 0.45 * self.line)), tuple(int(0.45 * c) for c in colour), 1.0),
            (digit, (255, 255, 255), 1.0),
        ):
            self._lay(self._drawn(paint), (ink[0], ink[1], ink[2]), strength)

    def _lines(self, thin: list[_Line], width: float, thick: list[_Line], heavy: float) -> _Floats:
        def paint(pen: _Draw) -> None:
            for pieces, wide in ((thin, width), (thick, heavy)):
                reach = wide / 2
                for (x1, y1), (x2, y2) in pieces:
                    # A bar that reaches past its ends by half its width makes square corners.
                    bar = (min(x1, x2) - reach, min(y1, y2) - reach, max(x1, x2) + reach, max(y1, y2) + reach)
                    pen.rectangle(tuple(float(v * _FINE) for v in bar), fill=255)

        return self._drawn(paint)

    def _drawn(self, paint: Callable[[_Draw], None]) -> _Floats:
        sheet = Pillow.new("L", (self.size[1] * _FINE, self.size[0] * _FINE))
        paint(ImageDraw.Draw(sheet))
        return _reduced(np.asarray(sheet, np.float32) / np.float32(255))

    def _resized(self, mask: NDArray[np.bool_], size: Size) -> _Floats:
        sheet = Pillow.fromarray(mask.astype(np.uint8) * 255).resize(size[::-1], Pillow.Resampling.BILINEAR)
        return np.asarray(sheet, np.float32) / np.float32(255)

    def _lay(self, cover: _Floats, colour: tuple[int, int, int], strength: float) -> None:
        rows, columns = np.flatnonzero(cover.any(axis=1)), np.flatnonzero(cover.any(axis=0))
        if rows.size == 0:
            return
        window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        area = self.pixels[window]
        area += (cover[window] * np.float32(strength))[..., None] * (np.array(colour, np.float32) - area)


def _masks(given: Masks | None) -> list[NDArray[np.bool_]]:
    """Return the masks given, one or several."""
    return [] if given is None else [given] if isinstance(given, np.ndarray) else list(given)


def _boxes(given: Corners | Sequence[Corners] | None) -> list[Any]:
    """Return the boxes given, one or several."""
    if given is None or not len(given):
        return []
    return list(given) if isinstance(given[0], Sequence) else [given]


def _visible(corners: Corners, size: Size) -> Box | None:
    box = Box(*(float(value) for value in corners))
    if not box.valid:
        return None
    clipped = box.clip(size)
    return clipped if clipped.valid else None


def _dilated(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """The mask dilated `reach` times, alternately over sides and over corners too: nearly a disc.

    Shifted copies, because `scipy.ndimage.binary_dilation` takes ten times as long on the pictures drawn here.
    """
    dilated = mask.copy()
    for step in range(reach):
        previous = dilated.copy()
        dilated[1:] |= previous[:-1]
        dilated[:-1] |= previous[1:]
        if step % 2:
            previous = dilated.copy()
        dilated[:, 1:] |= previous[:, :-1]
        dilated[:, :-1] |= previous[:, 1:]
    return dilated


def _reduced(fine: ArrayLike) -> _Floats:
    """The means of squares of `_FINE` pixels: sums of shifted copies, 50 times as fast as numpy's mean of short axes."""
    array = np.asarray(fine, np.float32)
    copies = [array[row::_FINE, column::_FINE] for row in range(_FINE) for column in range(_FINE)]
    reduced: _Floats = functools.reduce(np.add, copies) / np.float32(_FINE**2)
    return reduced
