"""Procedural pictures that look medical, with exact masks and questions that only hint at them.

Six families: ``ct``, ``mri``, ``xray``, ``ultrasound``, ``fundus``, ``histology``. Every picture holds several
plausible targets, at least two of them lesions or paired structures, so that the question decides which one is meant.
Lesions have a core and a margin: by the annotation convention ``core`` only the core is the target, by ``whole`` (the
default) both. The simple families ``plain``, ``tinted``, ``stained`` and ``speckled`` are for models that learn on a
laptop. Everything follows from the seed.

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
from medground_toy.questions import QUESTIONS, ask
from medground_toy.regions import Bools, Floats, key_points
from medground_toy.scenes import Shapes, Structure

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


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """One picture and everything that can be asked about it."""

    family: str
    image: Image
    """H x W x 3 uint8 RGB."""
    samples: list[Sample]
    """One per region, in the same order."""
    regions: list[Structure]
    """With both masks of every lesion."""


def phantom(
    family: str, seed: int, *, size: Size = (256, 256), convention: Convention = "whole", shapes: Shapes = "irregular"
) -> Phantom:
    """Draw one picture.

    Args:
        family: one of `FAMILIES` or of `SIMPLE`.
        seed: everything follows from it.
        size: (H, W), px.
        convention: whether the target of a lesion is its ``core`` or the ``whole`` of it, margin included. The picture
            and the question are the same.
        shapes: ``irregular`` lesions, or plain ``round`` ones.

    Raises:
        ValueError: for a word that is not among the choices.
    """
    for word, choices in ((family, tuple(_SCENES)), (convention, ("core", "whole")), (shapes, ("irregular", "round"))):
        if word not in choices:
            raise ValueError(f"{word!r} is none of {', '.join(choices)}")
    rng = np.random.default_rng([seed, list(_SCENES).index(family)])
    modality, draw = _SCENES[family]
    picture, regions = draw(Canvas(size, rng), shapes)
    levels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    image = levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2)
    regions = [one for one in regions if one.whole.any() and (one.core is None or one.core.any())]
    samples = []
    for index, one in enumerate(regions):
        template = str(rng.choice(QUESTIONS[one.category]))
        mask = one.core if convention == "core" and one.core is not None else one.whole
        labels = {"modality": modality, "category": one.category, "supercategory": one.supercategory, "family": family}
        question = ask(template, place(one, regions), one.tone)
        query = Query(image=image, question=question, id=f"{family}-{seed}-{index}")
        region = Region(box=mask_box(mask), points=key_points(mask), mask=Mask(data=mask))
        samples.append(Sample(query=query, target=Target(regions=(region,)), labels=labels))
    return Phantom(family, image, samples, regions)


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
    """The sample with a reasoning trace among its labels: what is meant, and in which quarter of the picture."""
    (x, y), (height, width) = mask_box(sample.target.mask).centre, sample.query.size
    quarter = f"{'lower' if y > height / 2 else 'upper'} {'right' if x > width / 2 else 'left'}"
    return replace(sample, labels={**sample.labels, "think": f"{sample.labels['category']}, {quarter}"})


def _centre(mask: Bools) -> Any:
    return np.argwhere(mask).mean(axis=0) + 0.5


def write(folder: Path, drawn_samples: Iterable[Sample]) -> Path:
    """Write samples as PNG files and a manifest; return the manifest's path.

    A line holds id, image and mask (paths in the folder), question, ``bbox_2d`` (x1, y1, x2, y2 in pixels, half-open)
    and ``point_2d`` (two points at pixel centres), size (H, W), and the labels.
    """
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for sample in drawn_samples:
        query, target = sample.query, sample.target
        (region,) = target.regions
        image = f"images/{query.id.rpartition('-')[0]}.png"
        mask = f"masks/{query.id}.png"
        Pillow.fromarray(query.image).save(folder / image)
        Pillow.fromarray(np.asarray(target.mask).astype(np.uint8) * 255).save(folder / mask)
        line = {"id": query.id, "image": image, "mask": mask, "question": query.question}
        numbers = {"bbox_2d": list(region.box or ()), "point_2d": [list(point) for point in region.points]}
        lines.append(json.dumps({**line, **numbers, "size": list(query.size), **sample.labels}))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest


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
    unknown = sorted(set(families) - set(_SCENES))
    if unknown or not families:
        parser.error(f"--families: {', '.join(unknown) or 'nothing'} is none of {', '.join(_SCENES)}")
    size = (chosen.size, chosen.size)
    drawn_samples = samples(chosen.n, chosen.seed, families=families, size=size, convention=chosen.convention)
    if chosen.traces:
        drawn_samples = [traced(sample) for sample in drawn_samples]
    sys.stdout.write(f"{write(chosen.out, drawn_samples)}: {len(drawn_samples)} samples\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
