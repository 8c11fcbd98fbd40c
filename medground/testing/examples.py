"""Images and prompts that components meet in real work: odd sizes, strips, grey ones, prompts half outside."""

import numpy as np

from medground.geometry import Box, Point, Size
from medground.types import Image, Mask, Messages, Query, Region, SpatialPrompt, Target

TEXTS = ("bright region", "dark region", "lesion", "organ")
"""Concepts of the images below; a segmenter need not know them."""
SIZES: dict[str, Size] = {"37x53 image": (37, 53), "1x1000 strip": (1, 1000), "1000x1 strip": (1000, 1)}


def image(size: Size, *, grey: bool = False, seed: int = 0) -> Image:
    """Return a bright ellipse on noise, H x W x 3 uint8; with `grey` the three channels are equal."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    y, x = (rows + 0.5) / size[0], (columns + 0.5) / size[1]
    inside = ((x - 0.5) / 0.25) ** 2 + ((y - 0.5) / 0.3) ** 2 <= 1
    channels = generator.integers(0, 60, (*size, 1 if grey else 3)) + 150 * inside[..., None]
    return np.ascontiguousarray(np.broadcast_to(channels, (*size, 3)), dtype=np.uint8)


def images() -> dict[str, Image]:
    """Return one image of each awkward shape, by what it is."""
    examples = {what: image(size) for what, size in SIZES.items()}
    return examples | {"grey 64x48 image": image((64, 48), grey=True)}


def box(size: Size) -> Box:
    """Return a box round the middle of an image of `size`, at least a pixel each way."""
    height, width = size
    left, top = int(0.25 * width), int(0.2 * height)
    return Box(left, top, max(left + 1, round(0.75 * width)), max(top + 1, round(0.8 * height)))


def points(size: Size) -> tuple[Point, Point]:
    """Return two key points inside `box(size)`."""
    x1, y1, x2, y2 = box(size)
    return Point(x1 + 0.3 * (x2 - x1), y1 + 0.4 * (y2 - y1)), Point(x1 + 0.7 * (x2 - x1), y1 + 0.6 * (y2 - y1))


def target(size: Size) -> Target:
    """Return a filled box as truth: the box, two points inside, its mask."""
    mask = np.zeros(size, dtype=bool)
    x1, y1, x2, y2 = (int(value) for value in box(size))
    mask[y1:y2, x1:x2] = True
    return Target(regions=(Region(box=box(size), points=points(size), mask=Mask(data=mask)),))


def prompts(size: Size, accepts: frozenset[str]) -> list[SpatialPrompt]:
    """Return one prompt for each combination of the kinds accepted."""
    frame, pair = box(size), points(size)
    combinations = []
    if "box" in accepts:
        combinations.append(SpatialPrompt(box=frame))
    if "points" in accepts:
        combinations += [SpatialPrompt(points=pair), SpatialPrompt(points=pair[:1])]
    if {"box", "points"} <= accepts:
        combinations.append(SpatialPrompt(box=frame, points=pair))
    if {"points", "negative_points"} <= accepts:
        combinations.append(SpatialPrompt(points=pair, labels=(1, 0)))
    if "text" in accepts:
        combinations += [SpatialPrompt(text=TEXTS[0]), SpatialPrompt(text=TEXTS[1])]
    if {"text", "box"} <= accepts:
        combinations.append(SpatialPrompt(text=TEXTS[0], box=frame))
    if "exemplars" in accepts:
        combinations += [SpatialPrompt(exemplars=(frame,)), SpatialPrompt(exemplars=(frame, Box(0, 0, 1, 1)))]
    if {"text", "exemplars"} <= accepts:
        combinations.append(SpatialPrompt(text=TEXTS[0], exemplars=(frame,)))
    return combinations


def other_prompts(size: Size, accepts: frozenset[str]) -> list[SpatialPrompt]:
    """Return four prompts of one kind and two of every other that is accepted; they differ in everything.

    Never three: arrays of three rows look like pictures.
    """
    x1, y1, x2, y2 = box(size)
    boxes = [
        Box(x1 + left, y1 + top, x2 - right, y2 - bottom)
        for left, top, right, bottom in ((0, 0, 0, 0), (1, 2, 1, 2), (3, 1, 4, 3), (2, 3, 3, 1))
    ]
    kinds = {
        "box": [SpatialPrompt(box=one) for one in boxes],
        "points": [SpatialPrompt(points=(Point(one.x1 + 0.5, one.y1 + 0.5),)) for one in boxes],
        "text": [SpatialPrompt(text=text) for text in TEXTS],
        "exemplars": [SpatialPrompt(exemplars=(one,)) for one in boxes],
    }
    first, *others = [prompts for kind, prompts in kinds.items() if kind in accepts] or [kinds["points"]]
    # Four of another kind would be a batch of the same shape, and what is worked out from the embedding alone would repeat.
    return first + [prompt for prompts in others for prompt in prompts[:2]]


def wordy_prompts() -> dict[str, SpatialPrompt]:
    """Return texts that people and models write, by what is odd about them; each is answered with a mask."""
    return {
        "a text in words that nobody knows": SpatialPrompt(text="zyqqx vlorp"),
        "a text of 2,000 words": SpatialPrompt(text=f"{TEXTS[0]}, " * 1000),
        "a text of other letters": SpatialPrompt(text="светлая область — 明るい領域 🫁"),
        "a text in two lines": SpatialPrompt(text=TEXTS[0].replace(" ", "\n")),
    }


def hostile_prompts(size: Size) -> dict[str, SpatialPrompt]:
    """Return prompts that no segmenter is trained for, by what is odd about them."""
    height, width = size
    return {
        "a box half outside": SpatialPrompt(box=Box(-width / 2, -height / 2, width / 2, height / 2)),
        "a box wholly outside": SpatialPrompt(box=Box(2 * width, 2 * height, 3 * width, 3 * height)),
        "a box without area": SpatialPrompt(box=Box(width / 2, height / 2, width / 2, height / 2)),
        "an inverted box": SpatialPrompt(box=Box(width, height, 0, 0)),
        "a box inside one pixel": SpatialPrompt(box=Box(0.2, 0.2, 0.4, 0.4)),
        "a point on the far corner": SpatialPrompt(points=(Point(width, height),)),
        "a point outside": SpatialPrompt(points=(Point(-5.0, 3.0 * height),)),
        "a background point alone": SpatialPrompt(points=points(size)[:1], labels=(0,)),
        "a box and a point outside it": SpatialPrompt(box=box(size), points=(Point(0.0, 0.0),)),
    }


def conversations() -> list[Messages]:
    """Return three conversations about three images: one user turn each, image first."""
    questions = [
        ((56, 84), "Which region explains the shadow on this side?"),
        ((37, 53), "Where would you look first, and why?"),
        ((64, 48), "Welcher Bereich erklärt die Beschwerden?"),
    ]
    return [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": image(size, seed=number)},
                    {"type": "text", "text": f"{question} Think, then answer with a box and two points as JSON."},
                ],
            }
        ]
        for number, (size, question) in enumerate(questions)
    ]


def query(size: Size = (37, 53)) -> Query:
    """Return one question about `image(size)`."""
    return Query(image=image(size), question="Which region explains the shadow on this side?", id="conformance")
