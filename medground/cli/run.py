"""``medground run``: a folder or a manifest of images, resumable, one manifest line per input."""

import hashlib
import json
from pathlib import Path
from typing import Any

import click

from medground.cli.view_options import view_options
from medground.data.inputs import Input, read_inputs
from medground.errors import InputError, Interrupted, RunError
from medground.evaluation.causes import Outcomes
from medground.images.read import image_id, kind, show
from medground.images.view import PLAIN, Shown, View
from medground.pipeline.pipeline import Pipeline, load
from medground.recipe.completion import OVERRIDE, RECIPE
from medground.runs.progress import progress
from medground.runs.stopping import interruptible
from medground.types import Query


@click.command()
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
    graph = load(recipe, *overrides)
    manifest = out / "manifest.jsonl"
    _refuse_another(manifest)
    graph.recipe.write(out)
    feeds = graph.recipe.digest("reasoner", "prompt_interface", "segmenter", "prompt", "sampling")
    asked = read_inputs(inputs, question, View(plane=plane, slice=slice, window=window))
    done = _done(manifest)
    todo = [item for item in asked if done.get(item.id) != _key(feeds, item)]
    _compact(manifest, [item.id for item in asked])  # drops a line torn by a kill, so that nothing is appended to it
    with interruptible() as stopped, progress("grounding", total=len(asked), done=len(asked) - len(todo)) as advance:
        for start in range(0, len(todo), batch_size):
            if stopped():
                raise Interrupted(
                    f"stopped after {len(asked) - len(todo) + start} of {len(asked)} inputs",
                    hint="run the same command again to continue",
                )
            batch = todo[start : start + batch_size]
            answered = zip(batch, _ground(graph, batch, out, overlays), strict=True)
            _append(manifest, [{**line, "key": _key(feeds, item)} for item, line in answered])
            advance(len(batch))
    lines = _compact(manifest, [item.id for item in asked])
    _summarise(manifest, lines, graph.sampling.max_completion_length, as_json)


def _refuse_another(manifest: Path) -> None:
    """Stop before a manifest that no run wrote, such as the input's own, is taken for this run's and written over."""
    if any(not (isinstance(line, dict) and {"id", "status", "key"} <= line.keys()) for line in _read(manifest)):
        raise InputError(f"{manifest} is not the manifest of a run", hint="give another folder with --out")


def _ground(graph: Pipeline, batch: list[Input], out: Path, overlays: bool) -> list[dict[str, Any]]:
    """One manifest line per input of the batch, in order."""
    from medground.cli.results import write_result

    lines: list[dict[str, Any]] = [{} for _ in batch]
    queries: list[tuple[int, Query, Shown]] = []
    for index, item in enumerate(batch):
        try:
            if item.problem:
                raise InputError(item.problem)
            shown = show(item.image, item.view)
            queries.append((index, Query(image=shown.image, question=item.question, id=item.id), shown))
        except InputError as error:
            lines[index] = {"id": item.id, "status": "unreadable", "cause": str(error)}
    found_all = graph.batch([query for _, query, _ in queries])
    for (index, query, shown), found in zip(queries, found_all, strict=True):
        item = batch[index]
        result = write_result(
            found, out / "results", query.id, untrained=graph.untrained, overlay=overlays, shown=shown,
            source=item.image, view=item.view,
        )  # fmt: skip
        of_model = found.fault is None or found.fault.of_model
        lines[index] = {"status": "ok" if found.fault is None else "fault" if of_model else "failed", **result}
    return lines


def _key(feeds: str, item: Input) -> str:
    """What a line answers: the components asked, the image and the question."""
    if item.problem:
        return ""
    parts: list[str | int | None] = [
        feeds,
        image_id(item.image) if kind(item.image) == "dicom" else item.image.name,
        item.question,
    ]
    if item.view != PLAIN:
        parts += [item.view.plane, item.view.slice, item.view.window]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _done(manifest: Path) -> dict[str, str]:
    """Id -> key of what earlier runs finished; failures that were not the model's are tried again."""
    newest = {line["id"]: line for line in _read(manifest)}
    return {name: line["key"] for name, line in newest.items() if line["status"] in ("ok", "fault")}


def _read(manifest: Path) -> list[Any]:
    """The manifest's lines; one torn by a kill is dropped."""
    if not manifest.exists():
        return []
    lines = []
    for text in manifest.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def _append(manifest: Path, lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    with manifest.open("a", encoding="utf-8") as file:
        file.write(text)


def _compact(manifest: Path, order: list[str]) -> list[dict[str, Any]]:
    """Leave one line per input, the newest, in the order of the inputs; return them."""
    newest = {line["id"]: line for line in _read(manifest)}
    lines = [newest[name] for name in order if name in newest]
    temporary = manifest.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    temporary.replace(manifest)
    return lines


def _summarise(manifest: Path, lines: list[dict[str, Any]], limit: int, as_json: bool) -> None:
    faults: dict[str, int] = {}
    for line in lines:
        if line["status"] != "ok":
            kind = line.get("fault") or "unreadable"
            faults[kind] = faults.get(kind, 0) + 1
    usage: dict[str, float] = {}
    for name, amount in (pair for line in lines for pair in line.get("usage", {}).items()):
        usage[name] = usage.get(name, 0) + amount
    areas = [line["mask"]["area"] for line in lines if line.get("mask")]
    outcomes = Outcomes(
        answers=sum(line["status"] != "unreadable" for line in lines),
        faults={kind: count for kind, count in faults.items() if kind != "unreadable"},
        masks=len(areas),
        empty_masks=areas.count(0),
        limit=limit,
    )
    summary = {
        "inputs": len(lines),
        "ok": sum(line["status"] == "ok" for line in lines),
        "not_ok": faults,
        "masks": outcomes.masks,
        "empty_masks": outcomes.empty_masks,
        "causes": outcomes.causes(),
        "usage": usage,
    }
    if as_json:
        click.echo(json.dumps({**summary, "manifest": str(manifest)}))
    else:
        for cause in outcomes.causes():
            click.echo(cause, err=True)
        rest = "".join(f", {count} {kind}" for kind, count in sorted(faults.items()))
        rest += f"; {outcomes.empty_masks} of {outcomes.masks} masks empty" if outcomes.empty_masks else ""
        click.echo(f"{summary['ok']} of {summary['inputs']} grounded{rest}; see {manifest}", err=True)
        if usage:
            click.echo("used " + ", ".join(f"{amount:g} {name}" for name, amount in usage.items()), err=True)
    unreadable = [line for line in lines if line["status"] == "unreadable"]
    if unreadable:
        raise InputError(
            f"{len(unreadable)} of {len(lines)} inputs could not be read, the first: {unreadable[0]['cause']}",
            hint="the others are done; mend these and run the same command again",
        )
    failed = [line for line in lines if line["status"] == "failed"]
    if failed:
        raise RunError(
            f"{len(failed)} of {len(lines)} inputs were not answered, the first: {failed[0]['cause'] or failed[0]['fault']}",
            hint="the others are done; run the same command again to try these again",
        )
