"""How models write where something is when nobody tells them how: each dialect's marks, grid and frame, and where that is said.

A dialect reads text into entries with our own keys (``bbox``, ``points``, ``label``), whose numbers count a `Frame`. Bins and
percent become fractions (``unit``). What a bin's number names follows the model's own code:

- ``qwen``: JSON ``bbox_2d`` or ``point_2d`` and ``label``; numbers as the reasoner's frame says, pixels of the resized image
  for Qwen2.5-VL and thousandths for Qwen3-VL (QwenLM/Qwen3-VL, cookbooks/2d_grounding.ipynb).
- ``gemma``: JSON ``box_2d``, y first, in thousandths (the convention of Gemini, ai.google.dev, image understanding; Google
  names no other for Gemma 3 and MedGemma: huggingface.co/google/gemma-3-4b-it/discussions/38).
- ``internvl``: ``<ref>``/``<box>`` in thousandths (OpenGVLab/InternVL, internvl_chat/eval/refcoco/evaluate_grounding.py,
  which divides by 1000).
- ``paligemma``: four ``<locNNNN>``, y first, 0 to 1023: N stands for N/1023, so that 0 and 1023 are the image's edges
  (google-research/big_vision, big_vision/pp/proj/paligemma/segmentation.py rounds 1023 times the fraction and
  big_vision/evaluators/proj/paligemma/transfers/segmentation.py divides by 1023; roboflow/supervision divides by 1024).
- ``florence``: four ``<loc_N>``, x first, 0 to 999: N stands for the middle of its bin, (N + 0.5)/1000
  (huggingface/transformers, src/transformers/models/florence2/processing_florence2.py, `dequantize`).
- ``molmo``: ``<point x y>`` and ``<points x1 y1 x2 y2 ...>`` in percent (huggingface.co/allenai/Molmo-7B-D-0924).
- ``molmo2``: ``<points coords="image id x y id x y">`` in thousandths (huggingface.co/allenai/Molmo2-8B, where
  `_points_from_num_str` divides by 1000).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from medground.frames import Frame, Order
from medground.geometry import Size
from medground.types import Fault, Region
from medground_prompts import ideal
from medground_prompts.reading import between, bounded_value, json_quotes, unfenced

Entries = list[dict[str, Any]]
BRACKETS = 512
"""As of `ListSchema`."""
NAMELESS = "target"
"""What a region without a label is called where a dialect needs a name."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to write regions."""

    box: str | None
    """How a model is asked for boxes, around ``{Question}``; None where it writes none."""
    points: str | None
    """How it is asked for points, one per region; None where it writes none."""
    form: str
    """What an answer looks like, for ``{Answer}`` in a template."""
    read: Callable[[str], Entries | Fault]
    write: Callable[[Sequence[Region], Frame | None, Size | None], str]
    """From regions, the dialect's frame and the size of the image to a text."""
    frame: Callable[[Frame | None, Size], Frame | None]
    """From the reasoner's frame and the size (H, W) of the image to the frame that the entries count."""
    nothing: str | None
    """The answer that nothing fits; None where a model has no word for it."""


def _own(kind: Any, order: Order = "xy") -> Callable[[Frame | None, Size], Frame]:
    return lambda frame, size: Frame(kind, size if frame is None else frame.size, order)


def _json_entries(text: str, *, box: str) -> Entries | Fault:
    """Read a JSON list of objects, or one object: in a code fence, in prose, in either quotes."""
    content = _json_part(text)
    if content is None:
        return Fault.NO_ANSWER
    values = [_value(candidate) for candidate in (content, json_quotes(content))]
    value = next((value for value in values if value is not None), None)
    if value is None:
        return Fault.BAD_JSON
    entries = [value] if isinstance(value, dict) else value
    return [_renamed(entry, box) if isinstance(entry, dict) else {} for entry in entries]


def _json_part(text: str) -> str | None:
    """Return what a text says in JSON: its first code fence, or from the first bracket to the last."""
    start = text.find("```")
    end = text.find("```", start + 3) if start >= 0 else -1
    if end > start:
        return unfenced(text[start : end + 3])
    opening = min((at for at in map(text.find, "[{") if at >= 0), default=-1)
    closing = max(map(text.rfind, "]}"))
    return text[opening : closing + 1] if 0 <= opening < closing else None


def _value(content: str) -> Any:
    value = bounded_value(content, list, BRACKETS)
    return bounded_value(content, dict, BRACKETS) if value is None else value


def _renamed(entry: Mapping[str, Any], box: str) -> dict[str, Any]:
    renamed = {key: entry[key] for key in ("label", "confidence") if key in entry}
    if box in entry:
        renamed["bbox"] = entry[box]
    if "point_2d" in entry:
        renamed["points"] = [entry["point_2d"]]
    return renamed


def _write_json(regions: Sequence[Region], frame: Frame | None, size: Size | None, *, box: str) -> str:
    import json

    objects = []
    for region in regions:
        values = ideal.box_and_points(region, frame, size)
        shape = {box: values["bbox"]} if region.box is not None else {"point_2d": values["points"][0]}
        objects.append({**shape, "label": region.label or NAMELESS})
    return json.dumps(objects, ensure_ascii=False)


def _read_internvl(text: str) -> Entries | Fault:
    entries: Entries = []
    start, seen = 0, False
    while box := between(text, "box", start):
        ref = between(text, "ref", start, box[0])
        label = text[slice(*ref)].strip() if ref else ""
        boxes = bounded_value(text[slice(*box)].strip(), list, BRACKETS)
        if boxes is None:
            return Fault.BAD_JSON
        many = boxes if boxes and all(isinstance(one, list) for one in boxes) else [boxes]
        entries += [{"bbox": one, "label": label} for one in many]
        start, seen = box[1], True
    if seen:
        return entries
    bare = _json_part(text)  # some answers are the brackets alone; the model's own evaluation reads those too
    if bare is None:
        return Fault.NO_ANSWER
    boxes = bounded_value(bare, list, BRACKETS)
    if boxes is None:
        return Fault.BAD_JSON
    return [{"bbox": one} for one in (boxes if boxes and isinstance(boxes[0], list) else [boxes])]


def _write_internvl(regions: Sequence[Region], frame: Frame | None, size: Size | None) -> str:
    parts = []
    for region in regions:
        box = ideal.box_and_points(region, frame, size)["bbox"]
        parts.append(f"<ref>{region.label or NAMELESS}</ref><box>[{box}]</box>")
    return "".join(parts)


_PALIGEMMA = re.compile(r"<loc(\d{4})>|<seg\d{3}>|([^<]++)|<")
_FLORENCE = re.compile(r"<loc_(\d{1,4})>|</?s>|<pad>|([^<]++)|<")


def _read_paligemma(text: str) -> Entries | Fault:
    """Read ``<loc><loc><loc><loc> name ; ...``."""
    entries: Entries = []
    for part in text.split(";"):
        tokens = [(match[1], match[2]) for match in _PALIGEMMA.finditer(part)]
        bins = [int(number) for number, _ in tokens if number]
        if not bins:
            continue
        label = "".join(word for _, word in tokens if word).strip()
        right = len(bins) == 4 and max(bins) <= 1023
        entries.append({"bbox": [number / 1023 for number in bins] if right else None, "label": label})
    return entries or Fault.NO_ANSWER


def _read_florence(text: str) -> Entries | Fault:
    """Read ``name<loc><loc><loc><loc>...name...``: each four bins are a box of the name before them."""
    entries: Entries = []
    label, bins = "", list[int]()
    for match in [*_FLORENCE.finditer(text), None]:
        if match is not None and match[1]:
            bins.append(int(match[1]))
            continue
        for start in range(0, len(bins), 4):
            four = bins[start : start + 4]
            right = len(four) == 4 and max(four) <= 1000
            entries.append({"bbox": [(number + 0.5) / 1000 for number in four] if right else None, "label": label})
        bins = []
        if match is not None and match[2]:
            label = match[2].strip()
    return entries or Fault.NO_ANSWER


def _bins(region: Region, frame: Frame | None, size: Size | None, *, last: int, shift: float) -> list[int]:
    """Return the bins of a box: the nearest, and two different ones along each side."""
    if frame is None or size is None or region.box is None:
        raise ValueError("an answer in location tokens needs a box, and the (H, W) of the original image as `size`")
    scale = last if shift == 0 else last + 1
    exact = [float(number) * scale - shift for number in frame.from_pixels(region.box, size)]
    bins = [min(max(round(number), 0), last) for number in exact]
    for axis in range(2):
        if bins[axis] == bins[axis + 2]:
            bins[axis], bins[axis + 2] = (bins[axis], bins[axis] + 1) if bins[axis] < last else (last - 1, last)
    return bins


def _write_paligemma(regions: Sequence[Region], frame: Frame | None, size: Size | None) -> str:
    tokens = ["".join(f"<loc{n:04}>" for n in _bins(one, frame, size, last=1023, shift=0.0)) for one in regions]
    return " ; ".join(f"{token} {one.label or NAMELESS}" for token, one in zip(tokens, regions, strict=True))


def _write_florence(regions: Sequence[Region], frame: Frame | None, size: Size | None) -> str:
    tokens = ["".join(f"<loc_{n}>" for n in _bins(one, frame, size, last=999, shift=0.5)) for one in regions]
    return "".join(f"{one.label or NAMELESS}{token}" for token, one in zip(tokens, regions, strict=True))


_ATTRIBUTE = re.compile(r'([a-z]{1,9})(\d{0,3})="([^"]*)"')
_NOTHING = "there are none"


def _read_molmo(text: str, *, thousandths: bool) -> Entries | Fault:
    """Read the points of ``<point ...>`` and ``<points ...>`` tags, each a region of its own."""
    entries: Entries = []
    start, seen = text.find("<point"), False
    while start >= 0:
        end = text.find(">", start)
        if end < 0:
            break
        values = _ATTRIBUTE.findall(text[start:end])
        label = next((value for name, _, value in values if name == "alt"), "") or _inner(text, end)
        entries += [{"points": [point], "label": label} for point in _points(values, thousandths)]
        start, seen = text.find("<point", end), True
    if not entries and not seen and text.strip().rstrip(".").casefold() == _NOTHING:
        return []
    return entries or (Fault.BAD_POINTS if seen else Fault.NO_ANSWER)


def _inner(text: str, end: int) -> str:
    tag = text.find("<", end)
    return text[end + 1 : tag].strip() if text.startswith("</point", tag) else ""


def _points(values: Sequence[tuple[str, str, str]], thousandths: bool) -> list[list[float] | None]:
    if thousandths:
        points: list[list[float] | None] = []
        for coords in [value for name, _, value in values if name == "coords"]:
            for group in re.split(r"[;\t]", coords):
                numbers = [_number(word) for word in group.replace(",", " ").split()[1:]]
                points += [_pair(numbers[at + 1 : at + 3], 1.0) for at in range(0, len(numbers), 3)]
        return points
    across = {index: value for name, index, value in values if name == "x"}
    down = {index: value for name, index, value in values if name == "y"}
    return [_pair([_number(value), _number(down.get(index, ""))], 100.0) for index, value in across.items()]


def _pair(numbers: Sequence[float | None], scale: float) -> list[float] | None:
    pair = [number / scale for number in numbers if number is not None]
    return pair if len(pair) == len(numbers) == 2 else None


def _number(word: str) -> float | None:
    return float(word) if re.fullmatch(r"\d{1,6}(\.\d{0,6})?", word, re.ASCII) else None


def _write_molmo(regions: Sequence[Region], frame: Frame | None, size: Size | None) -> str:
    parts = []
    for region in regions:
        (x, y), *_ = ideal.box_and_points(region, frame, size)["points"]
        name = region.label or NAMELESS
        parts.append(f'<point x="{100 * x:.1f}" y="{100 * y:.1f}" alt="{name}">{name}</point>')
    return "\n".join(parts)


def _write_molmo2(regions: Sequence[Region], frame: Frame | None, size: Size | None) -> str:
    pairs = [ideal.box_and_points(region, frame, size)["points"][0] for region in regions]
    coords = " ".join(f"{number} {x:03.0f} {y:03.0f}" for number, (x, y) in enumerate(pairs, start=1))
    return f'<points coords="1 {coords}">{regions[0].label or NAMELESS}</points>'


_JSON_LIST = "Write a JSON list with an object for each, [] where nothing in the image fits: "

DIALECTS: Mapping[str, Dialect] = {
    "qwen": Dialect(
        box="{Question}\nLocate every region that this is about and output the bbox coordinates in JSON format. "
        + _JSON_LIST + "{Answer}.",
        points="{Question}\nPoint to every region that this is about and output the point coordinates in JSON format. "
        + _JSON_LIST + '[{"point_2d": [x, y], "label": "name"}].',
        form='[{"bbox_2d": [x1, y1, x2, y2], "label": "name"}]',
        read=partial(_json_entries, box="bbox_2d"),
        write=partial(_write_json, box="bbox_2d"),
        frame=lambda frame, size: frame,
        nothing="[]",
    ),
    "gemma": Dialect(
        box="{Question}\nDetect every region that this is about. The boxes are [ymin, xmin, ymax, xmax], from 0 to 1000. "
        + _JSON_LIST + "{Answer}.",
        points=None,
        form='[{"box_2d": [ymin, xmin, ymax, xmax], "label": "name"}]',
        read=partial(_json_entries, box="box_2d"),
        write=partial(_write_json, box="box_2d"),
        frame=_own("permille", "yx"),
        nothing="[]",
    ),
    "internvl": Dialect(
        box="Please provide the bounding box coordinate of the region this sentence describes: <ref>{Question}</ref>",
        points=None,
        form="<ref>name</ref><box>[[x1, y1, x2, y2]]</box>",
        read=_read_internvl,
        write=_write_internvl,
        frame=_own("permille"),
        nothing=None,
    ),
    "paligemma": Dialect(
        box="detect {Question}\n",
        points=None,
        form="<loc0000><loc0000><loc1023><loc1023> name",
        read=_read_paligemma,
        write=_write_paligemma,
        frame=_own("unit", "yx"),
        nothing=None,
    ),
    "florence": Dialect(
        box="Locate the phrases in the caption: {Question}",
        points=None,
        form="name<loc_0><loc_0><loc_999><loc_999>",
        read=_read_florence,
        write=_write_florence,
        frame=_own("unit"),
        nothing=None,
    ),
    "molmo": Dialect(
        box=None,
        points="Point to every region that this is about: {Question}",
        form='<point x="x" y="y" alt="name">name</point>',
        read=partial(_read_molmo, thousandths=False),
        write=_write_molmo,
        frame=_own("unit"),
        nothing="There are none.",
    ),
    "molmo2": Dialect(
        box=None,
        points="Point to every region that this is about: {Question}",
        form='<points coords="1 1 x y 2 x y">name</points>',
        read=partial(_read_molmo, thousandths=True),
        write=_write_molmo2,
        frame=_own("permille"),
        nothing="There are none.",
    ),
}  # fmt: skip
"""By name."""
