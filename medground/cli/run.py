"""``medground run``: a folder or a manifest of images, resumable, one manifest line per input."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import click

from medground.cli.completion import OVERRIDE, RECIPE
from medground.cli.view_options import view_options
from medground.data.inputs import Input, read_inputs
from medground.errors import InputError, Interrupted, RunError
from medground.evaluation.causes import Outcomes
from medground.images.loaded import LoadedImage
from medground.images.read import open_image
from medground.images.view import View
from medground.pipeline.load import load
from medground.pipeline.pipeline import Pipeline
from medground.progress import progress
from medground.recipe import resolve
from medground.runs.files import JsonLines, content_sha256, lock_folder
from medground.runs.folder import write_recipe
from medground.runs.inputs import RunInputs, component_inputs
from medground.runs.jsonable import restore
from medground.runs.stopping import interruptible
from medground.terminal import examples
from medground.types import Fault, Query

ASKED = ("reasoner", "prompt_interface", "proposer", "segmenter")
"""The components that make a result."""


@click.command(
    epilog=examples(
        'medground run images/ --question "What is abnormal here?" --out answers',
        "medground run made/manifest.jsonl --recipe infer/toy --out answers --no-overlays segmenter=ellipse",
    )
)
@click.argument("inputs", metavar="INPUT", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, type=OVERRIDE, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where results and manifest.jsonl go.")
@click.option(
    "--recipe", type=RECIPE, default="infer/toy", show_default=True, help="A recipe name, file or run folder."
)
@click.option("--question", help="Asked of every image of a folder, or of manifest lines without one.")
@view_options
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(min=1))
@click.option("--overlays/--no-overlays", default=True, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout.")
def run(
    inputs: Path,
    overrides: tuple[str, ...],
    out: Path,
    recipe: str,
    question: str | None,
    plane: str | None,
    slice: int | None,
    window: str | None,
    batch_size: int,
    overlays: bool,
    as_json: bool,
) -> None:
    """Ground every image of INPUT, a folder or a manifest of {"image", "question"} lines.

    --plane, --slice and --window hold for every image; a manifest's lines may name their own.

    OUT/manifest.jsonl gets a line per input, failures included. Run the same command again after an interruption:
    what is done stays done. Research software, not a medical device.
    """
    resolved = resolve(recipe, *overrides)
    pipeline = load(resolved)
    with lock_folder(out):
        manifest = JsonLines(out / "manifest.jsonl", allow_nan=True)
        _refuse_another(manifest)
        write_recipe(resolved, out)
        settings = resolved.digest(*ASKED, "proposals", "prompt", "text_from", "sampling")
        content = RunInputs(components=component_inputs(resolved, *ASKED)).digest
        items = read_inputs(inputs, question, View(plane=plane, slice=slice, window=window))
        keys = {item.id: _key(settings + content, item) for item in items}
        done = _done(manifest, out / "results", overlays)
        todo = [item for item in items if not keys[item.id] or done.get(item.id) != keys[item.id]]
        _compact(manifest, [item.id for item in items])
        with (
            interruptible() as stopped,
            progress("grounding", total=len(items), done=len(items) - len(todo), unit="input") as advance,
        ):
            for start in range(0, len(todo), batch_size):
                if stopped():
                    raise Interrupted(
                        f"stopped after {len(items) - len(todo) + start} of {len(items)} inputs",
                        hint="run the same command again to continue",
                    )
                batch = todo[start : start + batch_size]
                answered = zip(batch, _ground(pipeline, batch, out, overlays), strict=True)
                # An image that has changed since its key was made has none: it is done again next time.
                current = {item.id: keys[item.id] == _key(settings + content, item) for item in batch}
                manifest.append(*({**line, "key": keys[item.id] * current[item.id]} for item, line in answered))
                advance(len(batch))
        lines = _compact(manifest, [item.id for item in items])
        manifest.close()
    _summarise(manifest.path, lines, pipeline.sampling.max_completion_length, as_json)


class _MaskFigures(TypedDict):
    area: int
    score: float
    measures: NotRequired[Any]
    presence: NotRequired[float | None]
    absent: NotRequired[bool]
    instances: NotRequired[list[Any]]


class _Line(TypedDict):
    """What is read again of a line of the manifest."""

    id: str
    status: str
    key: str
    files: NotRequired[dict[str, str]]
    mask: NotRequired[_MaskFigures | None]
    regions: NotRequired[list[Any]]
    usage: NotRequired[dict[str, float]]
    fault: NotRequired[str | None]
    cause: NotRequired[str]


def _refuse_another(manifest: JsonLines) -> None:
    """Stop before a manifest that no run wrote, such as the input's own, is taken for this run's and written over."""
    for line in manifest.read():
        try:
            restore(_Line, {word: line[word] for word in _Line.__annotations__ if word in line})
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{manifest.path} is not the manifest of a run", hint="give another folder with --out"
            ) from error


def _ground(pipeline: Pipeline, batch: list[Input], out: Path, overlays: bool) -> list[dict[str, Any]]:
    """Return one manifest line per input of the batch, in order."""
    from medground.cli.results import write_result

    lines: list[dict[str, Any]] = [{} for _ in batch]
    queries: list[tuple[int, Query, LoadedImage]] = []
    for index, item in enumerate(batch):
        try:
            if item.problem:
                raise InputError(item.problem)
            image = open_image(item.image, item.view)
            queries.append((index, _query(item, image), image))
        except InputError as error:
            lines[index] = {"id": item.id, "status": "unreadable", "cause": str(error)}
    answers = pipeline.batch([query for _, query, _ in queries])
    for (index, query, image), answer in zip(queries, answers, strict=True):
        item = batch[index]
        if answer.fault is Fault.UNUSABLE_INPUT:
            lines[index] = {"id": item.id, "status": "unreadable", "cause": answer.cause}
            continue
        result = write_result(
            answer, out / "results", query.id, untrained=pipeline.untrained, overlay=overlays, image=image,
            source=item.image, view=item.view,
        )  # fmt: skip
        of_model = answer.fault is None or answer.fault.of_model
        lines[index] = {"status": "ok" if answer.fault is None else "fault" if of_model else "failed", **result}
    return lines


def _query(item: Input, image: LoadedImage) -> Query:
    return Query(image=image.pixels, question=item.question, id=item.id, spacing=image.spacing)


def _key(feeds: str, item: Input) -> str:
    """Return what a line answers: the components asked, the content of the image and the question; empty if it cannot be."""
    try:
        content = "" if item.problem else content_sha256(item.image)
    except OSError:
        content = ""
    parts = [feeds, content, item.question, item.view.plane, item.view.slice, item.view.window]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest() if content else ""


def _done(manifest: JsonLines, results: Path, overlays: bool) -> dict[str, str]:
    """Return Id -> key of what earlier runs finished and all of whose files are there; failures of others are tried again."""
    newest = {line["id"]: line for line in manifest.read()}
    return {
        name: line["key"]
        for name, line in newest.items()
        if line["status"] in ("ok", "fault")
        and (not overlays or "overlay" in line.get("files", {}))
        and all((results / file).is_file() for file in [f"{name}.json", *line.get("files", {}).values()])
    }


def _compact(manifest: JsonLines, order: list[str]) -> list[dict[str, Any]]:
    """Leave one line per input, the newest, in the order of the inputs; return them."""
    newest = {line["id"]: line for line in manifest.read()}
    lines = [newest[name] for name in order if name in newest]
    manifest.rewrite(lines)
    return lines


def _summarise(manifest: Path, lines: list[dict[str, Any]], limit: int, as_json: bool) -> None:
    faults = Counter(line.get("fault") or "unreadable" for line in lines if line["status"] != "ok")
    usage: Counter[str] = Counter()
    for line in lines:
        usage.update(line.get("usage", {}))
    nothing = sum(line["status"] == "ok" and line.get("regions") == [] for line in lines)
    masks = [line["mask"] for line in lines if line.get("mask") and line.get("regions") != []]
    absent = sum(mask["absent"] for mask in masks)
    outcomes = Outcomes(
        answers=sum(line["status"] != "unreadable" for line in lines),
        faults={kind: count for kind, count in faults.items() if kind != "unreadable"},
        masks=len(masks),
        empty_masks=sum(mask["area"] == 0 for mask in masks) - absent,
        limit=limit,
    )
    summary = {
        "inputs": len(lines),
        "ok": sum(line["status"] == "ok" for line in lines),
        "nothing_fits": nothing,
        "not_ok": faults,
        "masks": outcomes.masks,
        "empty_masks": outcomes.empty_masks,
        "absent_masks": absent,
        "causes": outcomes.causes(),
        "usage": usage,
    }
    if as_json:
        click.echo(json.dumps({**summary, "manifest": str(manifest)}))
    else:
        for cause in outcomes.causes():
            click.echo(cause, err=True)
        rest = "".join(f", {count} {kind}" for kind, count in sorted(faults.items()))
        rest += f"; in {nothing} nothing fits the question" if nothing else ""
        rest += f"; {outcomes.empty_masks} of {outcomes.masks} masks empty" if outcomes.empty_masks else ""
        rest += f"; {absent} not present, as the segmenter says" if absent else ""
        click.echo(f"{summary['ok']} of {summary['inputs']} grounded{rest}; see {manifest}", err=True)
        if usage:
            click.echo("used " + ", ".join(f"{amount:g} {name}" for name, amount in usage.items()), err=True)
    unreadable = [line for line in lines if line["status"] == "unreadable"]
    if unreadable:
        raise InputError(
            f"{len(unreadable)} of {len(lines)} inputs could not be read, the first: {unreadable[0]['cause']}",
            hint="the others are done; fix these and run the same command again",
        )
    failed = [line for line in lines if line["status"] == "failed"]
    if failed:
        raise RunError(
            f"{len(failed)} of {len(lines)} inputs were not answered, the first: {failed[0]['cause'] or failed[0]['fault']}",
            hint="the others are done; run the same command again to try these again",
        )
