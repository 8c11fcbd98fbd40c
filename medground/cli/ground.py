"""``medground ground``: one question about one image."""

import json
from pathlib import Path
from typing import Any

import click

from medground.cli.completion import OVERRIDE, RECIPE
from medground.cli.view_options import view_options
from medground.errors import InputError, RunError
from medground.evaluation.causes import Outcomes, is_empty
from medground.images.loaded import LoadedImage
from medground.images.overlay import concepts
from medground.images.read import open_image
from medground.images.view import View
from medground.images.writing.write import SUFFIXES, check_format
from medground.measures import measure_mask
from medground.pipeline.load import load
from medground.pipeline.result import GroundingResult
from medground.terminal import examples
from medground.types import Fault, Query

_WRITE = "Write the masks in the geometry of IMAGE too: DICOM SEG, RTSTRUCT or secondary capture (sc), NIfTI, NRRD."


@click.command(
    epilog=examples(
        'medground ground scan.png "Which bright spot on the left is new?" --recipe infer/toy',
        'medground ground ct.nii.gz "What narrows the airway?" --slice 40 --plane axial --write nrrd segmenter=medsam2',
    )
)
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("question")
@click.argument("overrides", nargs=-1, type=OVERRIDE, metavar="[KEY=VALUE]...")
@click.option(
    "--recipe", type=RECIPE, default="infer/toy", show_default=True, help="A recipe name, file or run folder."
)
@view_options
@click.option("--out", type=click.Path(path_type=Path), default=Path("grounded"), show_default=True)
@click.option("--write", "formats", multiple=True, type=click.Choice(list(SUFFIXES)), help=_WRITE)
@click.option("--force", is_flag=True, help="Write a SEG of ultrasound or endoscopy, which viewers may refuse, too.")
@click.option("--mask", is_flag=True, help="Put the mask into the JSON too, as COCO run lengths (mask.rle).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
def ground(
    image: Path,
    question: str,
    overrides: tuple[str, ...],
    recipe: str,
    plane: str | None,
    slice: int | None,
    window: str | None,
    out: Path,
    formats: tuple[str, ...],
    force: bool,
    mask: bool,
    as_json: bool,
) -> None:
    """Ground QUESTION in IMAGE: write the text, box, points, mask and overlay into --out.

    An answer may be that nothing fits, which is no failure, or several regions, written as a label map too.

    IMAGE is a picture, a DICOM file, or one slice of a NIfTI volume, whose mask comes as NIfTI too.
    Research software, not a medical device.
    """
    from medground.cli.results import write_result

    view = View(plane=plane, slice=slice, window=window)
    loaded = open_image(image, view)
    for form in formats:
        check_format(form, image, view=view, force=force)
    pipeline = load(recipe, *overrides)
    answer = pipeline(Query(image=loaded.pixels, question=question, id=loaded.id, spacing=loaded.spacing))
    if answer.fault is Fault.UNUSABLE_INPUT:
        raise InputError(answer.cause)
    result = write_result(
        answer, out, loaded.id, untrained=pipeline.untrained, image=loaded, source=image, view=view, run_lengths=mask,
        formats=formats, force=force,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(_summary(answer, loaded, out, result, pipeline.sampling.max_completion_length), err=True)
    if answer.fault is not None and not answer.fault.of_model:
        raise RunError(f"the question was not answered: {answer.fault}", hint=answer.cause or None)


def _outcomes(answer: GroundingResult, limit: int) -> Outcomes:
    return Outcomes(
        answers=1,
        faults={} if answer.fault is None else {answer.fault: 1},
        masks=int(answer.grounding.mask is not None),
        empty_masks=int(answer.grounding.mask is not None and is_empty(answer.grounding.mask)),
        limit=limit,
    )


def _summary(answer: GroundingResult, image: LoadedImage, out: Path, result: dict[str, Any], limit: int) -> str:
    lines = [f"question  {answer.query.question}"]
    if image.details:
        lines.append("view      " + ", ".join(f"{key} {value}" for key, value in image.details.items()))
    if answer.reasoning:
        lines.append(f"think     {answer.reasoning.strip()}")
    if answer.fault is None and answer.grounding.abstains:
        lines.append("answer    nothing in the image fits the question")
    texts = [prompt.text if prompt else "" for prompt in answer.prompts]
    for number, region in enumerate(answer.regions, start=1):
        details = [region.label] if region.label else []
        details += [] if region.confidence is None else [f"confidence {region.confidence:.2f}"]
        if stated := concepts([region], texts[number - 1 : number]):
            details.append(stated)
        if details or len(answer.regions) > 1:
            lines.append(f"region    {', '.join([str(number), *details])}")
        if region.box:
            lines.append("box       " + ", ".join(f"{value:.1f}" for value in region.box) + "  (x1, y1, x2, y2 px)")
        if region.points:
            lines.append("points    " + "  ".join(f"({x:.1f}, {y:.1f})" for x, y in region.points))
    if answer.regions and answer.mask is not None:
        lines.append(f"mask      {int(answer.mask.data.sum())} px, own score {answer.mask.score:.2f}")
        measures = measure_mask(answer.mask.data, answer.query.spacing)
        lines += [] if measures is None else [f"measures  {measures}"]
    if answer.fault is not None:
        lines.append(f"fault     {answer.fault}")
    lines += [f"why       {cause}" for cause in _outcomes(answer, limit).causes()]
    lines += [f"note      {note}" for note in result["notes"]]
    lines += [f"{kind:<9} {out / name}" for kind, name in result["files"].items()]
    return "\n".join(lines)
