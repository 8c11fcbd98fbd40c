"""``medground ground``: one question about one image."""

import json
from pathlib import Path

import click

from medground.cli.view_options import view_options
from medground.errors import RunError
from medground.evaluation.causes import Outcomes, is_empty
from medground.images.read import image_id
from medground.images.read import show as show_image
from medground.images.view import Shown, View
from medground.pipeline.pipeline import GroundingResult, load
from medground.recipe.completion import OVERRIDE, RECIPE
from medground.types import Query


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("question")
@click.argument("overrides", nargs=-1, type=OVERRIDE, metavar="[KEY=VALUE]...")
@click.option(
    "--recipe", type=RECIPE, default="infer/toy", show_default=True, help="A recipe name, file or run folder."
)
@view_options
@click.option("--out", type=click.Path(path_type=Path), default=Path("grounded"), show_default=True)
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
    as_json: bool,
) -> None:
    """Ground QUESTION in IMAGE: write the text, box, points, mask and overlay into --out.

    IMAGE is a picture, a DICOM file, or one slice of a NIfTI volume, whose mask comes as NIfTI too.
    Research software, not a medical device.
    """
    from medground.cli.results import write_result

    view = View(plane=plane, slice=slice, window=window)
    shown = show_image(image, view)
    name = image_id(image, view)
    graph = load(recipe, *overrides)
    found = graph(Query(image=shown.image, question=question, id=name))
    result = write_result(found, out, name, untrained=graph.untrained, shown=shown, source=image, view=view)
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(_told(found, shown, out, result["files"], graph.sampling.max_completion_length), err=True)
    if found.fault is not None and not found.fault.of_model:
        raise RunError(f"the question was not answered: {found.fault}", hint=found.cause or None)


def _outcomes(found: GroundingResult, limit: int) -> Outcomes:
    return Outcomes(
        answers=1,
        faults={} if found.fault is None else {found.fault: 1},
        masks=int(found.mask is not None),
        empty_masks=int(found.mask is not None and is_empty(found.mask)),
        limit=limit,
    )


def _told(found: GroundingResult, shown: Shown, out: Path, files: dict[str, str], limit: int) -> str:
    lines = [f"question  {found.query.question}"]
    if shown.about:
        lines.append("view      " + ", ".join(f"{key} {value}" for key, value in shown.about.items()))
    if found.grounding.think:
        lines.append(f"think     {found.grounding.think.strip()}")
    prompt = found.grounding.prompt
    if prompt and prompt.box:
        lines.append("box       " + ", ".join(f"{value:.1f}" for value in prompt.box) + "  (x1, y1, x2, y2 px)")
    if prompt and prompt.points:
        lines.append("points    " + "  ".join(f"({x:.1f}, {y:.1f})" for x, y in prompt.points))
    if found.mask is not None:
        lines.append(f"mask      {int(found.mask.data.sum())} px, own score {found.mask.score:.2f}")
    if found.fault is not None:
        lines.append(f"fault     {found.fault}")
    lines += [f"why       {cause}" for cause in _outcomes(found, limit).causes()]
    lines += [f"{kind:<9} {out / name}" for kind, name in files.items()]
    return "\n".join(lines)
