"""``medground volume``: one question about one volume."""

import json
from pathlib import Path

import click

from medground.cli.completion import OVERRIDE, RECIPE
from medground.errors import InputError, RunError
from medground.images.view import PLANES
from medground.images.windows import RULES, WINDOWS
from medground.images.writing.write import SUFFIXES, check_format
from medground.progress import counted
from medground.terminal import examples
from medground.types import Fault

_WINDOW = f"{', '.join([*WINDOWS, *RULES])} or CENTRE,WIDTH; without it the file's own."
_SLICE = "The slice that is asked about: its number from 0, `ask` (the reasoner is shown a montage first) or `middle`."
_WRITE = "The file of the masks; without it SEG of DICOM, else the format of PATH; repeatable."


@click.command(
    epilog=examples(
        'medground volume ct/ "Which bright round spot is new?" --slice ask --out answer',
        'medground volume ct.nii.gz "What narrows the airway?" --slice 40 --out answer segmenter=medsam2 '
        "volume.propagation=model",
    )
)
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("question")
@click.argument("overrides", nargs=-1, type=OVERRIDE, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option(
    "--recipe", type=RECIPE, default="infer/toy_volume", show_default=True, help="A recipe name, file or run folder."
)
@click.option("--slice", "slice_", metavar="N|ask|middle", help=f"{_SLICE} In place of the recipe's volume.slice.")
@click.option("--plane", type=click.Choice(PLANES), help="Of the slice; without it the one stored slice by slice.")
@click.option("--window", metavar="WINDOW", help=_WINDOW)
@click.option("--series", help="Of several DICOM series in PATH, as the error lists them.")
@click.option("--stack", type=click.IntRange(min=0), help="Of several volumes in one file or series, from 0.")
@click.option("--write", "formats", multiple=True, type=click.Choice(list(SUFFIXES)), help=_WRITE)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
def volume(
    path: Path,
    question: str,
    overrides: tuple[str, ...],
    out: Path,
    recipe: str,
    slice_: str | None,
    plane: str | None,
    window: str | None,
    series: str | None,
    stack: int | None,
    formats: tuple[str, ...],
    as_json: bool,
) -> None:
    """Ground QUESTION in the volume PATH: masks in its geometry, measures in mm and a page of three planes in --out.

    PATH is a folder of DICOM slices, an enhanced DICOM file, NIfTI or NRRD. The question is asked about one slice, which
    is never chosen silently, and what the answer points at is followed through the others.
    Research software, not a medical device.
    """
    from medground.cli.volume_results import summary, write_volume_result
    from medground.images.read_volume import read_volume
    from medground.pipeline.load import load
    from medground.pipeline.volumes import ground_volume

    source = read_volume(path, series=series, stack=stack)
    forms = formats or ("seg" if source.kind == "dicom" else source.kind,)
    for form in forms:
        check_format(form, source)
    pipeline = load(recipe, *overrides, *_slice_settings(slice_, plane))
    with counted("following", unit="slice") as progress:
        result = ground_volume(pipeline, source, question, window=window, progress=progress)
    if result.fault is Fault.UNUSABLE_INPUT:
        raise InputError(result.cause)
    written = write_volume_result(result, out, pipeline=pipeline, window=window, formats=forms)
    if as_json:
        click.echo(json.dumps(written))
    else:
        click.echo(summary(result, out, written), err=True)
    if result.fault is not None and not result.fault.of_model:
        raise RunError(f"the question was not answered: {result.fault}", hint=result.cause or None)


def _slice_settings(slice_: str | None, plane: str | None) -> list[str]:
    """Return the overrides that --slice and --plane stand for."""
    settings = [] if plane is None else [f"volume.plane={plane}"]
    if slice_ is not None:
        index, rule = (slice_, "null") if slice_.isdecimal() else ("null", slice_)
        settings += [f"volume.index={index}", f"volume.slice={rule}"]
    return settings
