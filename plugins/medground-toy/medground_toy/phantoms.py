"""Procedural pictures that look medical, with exact masks and questions that only hint at them.

Six families: ``ct``, ``mri``, ``xray``, ``ultrasound``, ``fundus``, ``histology``. Every picture holds several
plausible targets, at least two of them lesions or paired structures, so that the question decides which one is meant.
Lesions have a core and a margin: by the annotation convention ``core`` only the core is the target, by ``whole`` (the
default) both. The simple families ``plain``, ``tinted``, ``stained`` and ``speckled`` are for models that learn on a
laptop. In the families ``maybe``, ``several`` and ``cells`` a question asks for everything of a kind: none or one, one to
four, or none to many. Everything follows from the seed.

    python -m medground_toy.phantoms --out DIR -n 100 --seed 0 [--size 256] [--families ct,mri] [--convention core]
        [--traces]

writes ``images/*.png``, ``masks/*.png`` and ``manifest.jsonl``, one line per sample. With ``--traces`` a line has a
``think``, the reasoning that supervised training teaches: what is meant, and roughly where it is.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image as Pillow

from medground.geometry import Size, mask_box
from medground.types import Image, Mask, Query, Region, Sample, Target
from medground_toy import optics, radiology
from medground_toy.canvas import Canvas
from medground_toy.plain import plain, speckled, stained, tinted
from medground_toy.questions import EVERY, QUESTIONS, ask
from medground_toy.regions import Bools, Floats, key_points
from medground_toy.scenes import Shapes, Structure
from medground_toy.several import Kind, cells, maybe, several

Convention = Literal["core", "whole"]

_SCENES: dict[str, tuple[str, Callable[[Canvas, Shapes], tuple[Floats, list[Structure]]]]] = {
    "ct": ("CT", radiology.ct),
    "mri": ("MRI", radiology.mri),
    "xray": ("X-ray", radiology.xray),
    "ultrasound": ("Ultrasound", radiology.ultrasound),
    "fundus": ("Fundus", optics.fundus),
    "histology": ("Pathology", optics.histology),
    "plain": ("Drawing", plain),
    "tinted": ("Drawing", tinted),
    "stained": ("Drawing", stained),
    "speckled": ("Drawing", speckled),
}
SIMPLE = ("plain", "tinted", "stained", "speckled")
"""The simple families, by name; they are drawn only where they are asked for."""
FAMILIES = tuple(name for name in _SCENES if name not in SIMPLE)
"""The families that look like something, by name."""
_SEVERAL: dict[str, tuple[str, Callable[[Canvas], tuple[Floats, list[Kind]]]]] = {
    "maybe": ("Drawing", maybe),
    "several": ("Drawing", several),
    "cells": ("Microscopy", cells),
}
SEVERAL = tuple(_SEVERAL)
"""The families whose questions mean no target, one or several, by name; they are drawn only where they are asked for."""
_MODALITIES = {name: modality for name, (modality, _) in {**_SCENES, **_SEVERAL}.items()}
"""Family to modality; the order decides the seeds."""


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """One picture and everything that can be asked about it."""

    family: str
    image: Image
    """H x W x 3 uint8 RGB."""
    samples: list[Sample]
    """One per region, in the same order; of a family of `SEVERAL` one per question."""
    regions: list[Structure]
    """With both masks of every lesion."""


def phantom(
    family: str, seed: int, *, size: Size = (256, 256), convention: Convention = "whole", shapes: Shapes = "irregular"
) -> Phantom:
    """Draw one picture.

    Args:
        family: one of `FAMILIES`, `SIMPLE` or `SEVERAL`.
        seed: everything follows from it.
        size: (H, W), px.
        convention: whether the target of a lesion is its ``core`` or the ``whole`` of it, margin included. The picture
            and the question are the same.
        shapes: ``irregular`` lesions, or plain ``round`` ones; of the families of `SEVERAL` all are alike.

    Raises:
        ValueError: for a word that is not among the choices.
    """
    choices = ((family, tuple(_MODALITIES)), (convention, ("core", "whole")), (shapes, ("irregular", "round")))
    for word, known in choices:
        if word not in known:
            raise ValueError(f"{word!r} is none of {', '.join(known)}")
    rng = np.random.default_rng([seed, list(_MODALITIES).index(family)])
    canvas = Canvas(size, rng)
    if family in _SEVERAL:
        picture, kinds = _SEVERAL[family][1](canvas)
        regions = [one for kind in kinds for one in kind.structures]
        questions = [ask(str(rng.choice(EVERY[one.category])), "", one.tone) for one in kinds]
        targets = [(one.category, one.supercategory, list(one.structures)) for one in kinds]
    else:
        picture, drawn = _SCENES[family][1](canvas, shapes)
        regions = [one for one in drawn if one.whole.any() and (one.core is None or one.core.any())]
        questions = [ask(str(rng.choice(QUESTIONS[one.category])), place(one, regions), one.tone) for one in regions]
        targets = [(one.category, one.supercategory, [one]) for one in regions]
    image = _image(picture)
    drawn_samples = []
    for index, (question, (category, supercategory, structures)) in enumerate(zip(questions, targets, strict=True)):
        labels = {
            "modality": _MODALITIES[family], "category": category, "supercategory": supercategory, "family": family,
        }  # fmt: skip
        if family in _SEVERAL:
            labels["targets"] = ("none", "one", "several")[min(len(structures), 2)]
        query = Query(image=image, question=question, id=f"{family}-{seed}-{index}")
        truth = Target(regions=tuple(_region(one, convention) for one in structures))
        drawn_samples.append(Sample(query=query, target=truth, labels=labels))
    return Phantom(family, image, drawn_samples, regions)


def _image(picture: Floats) -> Image:
    levels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2)


def _region(one: Structure, convention: Convention) -> Region:
    mask = one.core if convention == "core" and one.core is not None else one.whole
    named = one.category if not one.tone or one.tone in one.category else f"{one.tone} {one.category}"
    return Region(box=mask_box(mask), points=key_points(mask), label=named, mask=Mask(data=mask))


def samples(
    n: int,
    seed: int,
    *,
    families: Sequence[str] = FAMILIES,
    size: Size = (256, 256),
    convention: Convention = "whole",
    shapes: Shapes = "irregular",
    per_image: int = 2,
) -> list[Sample]:
    """`n` samples, the families in turn, up to `per_image` different targets of every picture.

    The first samples do not depend on `n`.
    """
    drawn_samples: list[Sample] = []
    for index in range(n):
        if len(drawn_samples) >= n:
            break
        state = np.random.SeedSequence([seed, index])
        family, one_seed = families[index % len(families)], int(state.generate_state(1)[0])
        drawn = phantom(family, one_seed, size=size, convention=convention, shapes=shapes)
        order = np.random.default_rng(state).permutation(len(drawn.samples))
        drawn_samples += [drawn.samples[i] for i in sorted(order[:per_image])]
    return drawn_samples[:n]


def place(one: Structure, regions: Sequence[Structure]) -> str:
    """Left, right, upper or lower: of its rivals of the same category, or of the picture where it has none."""
    height, width = one.whole.shape
    rivals = [other for other in regions if other is not one and other.category == one.category]
    anchor = np.mean([_centre(other.whole) for other in rivals], axis=0) if rivals else np.array([height, width]) / 2
    down, across = _centre(one.whole) - anchor
    if abs(across) >= abs(down):
        return "left" if across < 0 else "right"
    return "upper" if down < 0 else "lower"


def traced(sample: Sample) -> Sample:
    """The sample with a reasoning trace among its labels: what is meant, and in which quarter of the picture, or how many."""
    category, count = sample.labels["category"], len(sample.target.regions)
    if count != 1:
        return replace(sample, labels={**sample.labels, "think": f"{count or 'no'} {category}"})
    (x, y), (height, width) = mask_box(sample.target.mask).centre, sample.query.size
    quarter = f"{'lower' if y > height / 2 else 'upper'} {'right' if x > width / 2 else 'left'}"
    return replace(sample, labels={**sample.labels, "think": f"{category}, {quarter}"})


def _centre(mask: Bools) -> Any:
    return np.argwhere(mask).mean(axis=0) + 0.5


def write(folder: Path, drawn_samples: Iterable[Sample]) -> Path:
    """Write samples as PNG files and a manifest; return the manifest's path.

    A line holds id, image and mask (paths in the folder), question, ``bbox_2d`` (x1, y1, x2, y2 in pixels, half-open)
    and ``point_2d`` (two points at pixel centres), size (H, W), and the labels. Of a family of `SEVERAL` it holds
    ``regions`` in place of mask, box and points, and the masks are the values from 1 on of one label map.
    """
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for sample in drawn_samples:
        query, regions = sample.query, sample.target.regions
        image = f"images/{query.id.rpartition('-')[0]}.png"
        mask = f"masks/{query.id}.png"
        Pillow.fromarray(query.image).save(folder / image)
        apart = "targets" in sample.labels
        values = np.zeros(query.size, np.uint8 if len(regions) < 256 else np.uint16)
        for value, region in enumerate(regions, start=1):
            values[_data(region)] = value if apart else 255
        if regions:
            Pillow.fromarray(values).save(folder / mask)
        words: list[dict[str, Any]] = [
            {"mask": mask, "bbox_2d": list(region.box or ()), "point_2d": [list(point) for point in region.points]}
            for region in regions
        ]
        if apart:
            stated = {"regions": [{**one, "mask_value": value} for value, one in enumerate(words, start=1)]}
        else:
            (stated,) = words
        line = {"id": query.id, "image": image, "question": query.question}
        lines.append(json.dumps({**line, **stated, "size": list(query.size), **sample.labels}))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest


def _data(region: Region) -> Bools:
    assert region.mask is not None
    return region.mask.data


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: write phantoms to a folder."""
    parser = argparse.ArgumentParser(prog="python -m medground_toy.phantoms", description="Write phantoms to a folder.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("-n", type=int, default=24, help="how many samples (default 24)")
    parser.add_argument("--seed", type=int, default=0, help="everything follows from it (default 0)")
    parser.add_argument("--size", type=int, default=256, help="pixels a side (default 256)")
    parser.add_argument("--families", default=",".join(FAMILIES), help="comma-separated (default: all)")
    parser.add_argument("--convention", choices=("core", "whole"), default="whole", help="what of a lesion is marked")
    parser.add_argument("--traces", action="store_true", help="write a reasoning trace to every sample")
    chosen = parser.parse_args(arguments)
    families = [name for name in chosen.families.split(",") if name]
    unknown = sorted(set(families) - set(_MODALITIES))
    if unknown or not families:
        parser.error(f"--families: {', '.join(unknown) or 'nothing'} is none of {', '.join(_MODALITIES)}")
    size = (chosen.size, chosen.size)
    drawn_samples = samples(chosen.n, chosen.seed, families=families, size=size, convention=chosen.convention)
    if chosen.traces:
        drawn_samples = [traced(sample) for sample in drawn_samples]
    sys.stdout.write(f"{write(chosen.out, drawn_samples)}: {len(drawn_samples)} samples\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
