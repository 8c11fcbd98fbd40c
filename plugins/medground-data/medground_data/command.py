"""``medground data``: build, lint, describe and export datasets."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medground.errors import Interrupted, RunError, UsageError
from medground.progress import counted, progress
from medground.runs.stopping import interruptible
from medground.terminal import examples

if TYPE_CHECKING:
    from medground.data.source_samples import BadSample, SourceSample
    from medground_data.build import QuestionSource
    from medground_data.drafts import Options
    from medground_data.llm_questions import Cost


@click.group(
    epilog=examples(
        "medground data build ultrasound/ --out made",
        "medground data stats made --html made.html",
    )
)
def data() -> None:
    """Make, check, describe and export datasets."""


class _Shares(click.types.StringParamType):
    name = "shares"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """``train=0.8,val=0.1,test=0.1``, or three numbers."""
        if isinstance(value, dict):
            return value
        words = str(value).split(",")
        named = [word.partition("=") for word in words]
        if not any(equals for _, equals, _ in named):
            named = [(name, "=", word) for name, word in zip(("train", "val", "test"), words, strict=False)]
        try:
            return {name.strip(): float(share) for name, _, share in named}
        except ValueError:
            self.fail(
                f"{value!r} is neither three numbers, as 0.8,0.1,0.1, nor names with numbers, as train=0.9,test=0.1"
            )


def _recipe_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a shipped recipe."""
    from medground.recipe import names

    return [name for name in names() if name.startswith(incomplete)]


@data.command(
    epilog=examples(
        "medground data build ultrasound/ --out made --fractions 0.8,0.1,0.1",
        "medground data build coco.json --reader coco -o modality=X-ray --questions templates --out made",
    )
)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The dataset's folder; it must not exist.")
@click.option("--reader", help="How SOURCE is laid out; without it, the one that recognises it.")
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="Of the reader; repeatable.")
@click.option("--components", type=click.Choice(["all", "largest", "each"]), default="all", show_default=True)
@click.option("--points", type=click.Choice(["halves", "released"]), default="halves", show_default=True)
@click.option("--min-area", type=click.IntRange(min=1), default=16, show_default=True, help="px")
@click.option("--min-fraction", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Of the image.")
@click.option("--max-fraction", type=click.FloatRange(0, 1), default=0.95, show_default=True, help="Of the image.")
@click.option("--fractions", type=_Shares(), default="0.8,0.1,0.1", show_default=True, help="train,val,test")
@click.option(
    "--splits", type=click.Choice(["auto", "make", "keep"]), default="auto", show_default=True,
    help="Keep the source's, or make new ones; auto keeps them where every one is stated.",
)  # fmt: skip
@click.option(
    "--near-duplicates/--exact-duplicates", default=True, show_default=True, help="Which images go to one split."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the splits and the questions.")
@click.option("--group-pattern", metavar="REGEX", help="Finds the patient in an id, for example '^(s[0-9]+)_'.")
@click.option(
    "--questions", type=click.Choice(["auto", "source", "templates", "reasoner"]), default="auto", show_default=True,
    help="auto takes the source's where it states one, and templates elsewhere.",
)  # fmt: skip
@click.option(
    "--targets", type=click.Choice(["one", "every", "both"]), default="one", show_default=True,
    help="What a question means: one target, or every target of a category in its image.",
)  # fmt: skip
@click.option(
    "--negatives", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True, metavar="SHARE",
    help="Of the samples: those whose target is absent.",
)  # fmt: skip
@click.option(
    "--exhaustive", multiple=True, metavar="CATEGORY",
    help="The source marks every instance of it in every image; 'all' for all of them; repeatable.",
)  # fmt: skip
@click.option(
    "--volumes", is_flag=True, help="Write the volumes of the slices too, with a sample for each of their targets."
)
@click.option("--question-column", metavar="WORD", help="Where the source's questions are, if not in `question`.")
@click.option("--reasoner", metavar="NAME", help="With --questions reasoner: who writes, for example openai.")
@click.option("--recipe", shell_complete=_recipe_names, help="The recipe whose reasoner writes, instead of --reasoner.")
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Of its recipe: reasoner.model=...; repeatable."
)
@click.option("--attempts", type=click.IntRange(min=1), default=2, show_default=True, help="At one question.")
@click.option("--check/--no-check", default=True, show_default=True, help="Ask whether it can be answered.")
@click.option(
    "--fallback", type=click.Choice(["template", "reject"]), default="template", show_default=True,
    help="For a target without a good question: ask by template, or leave it out.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Ask the reasoner without waiting for an answer to its cost.")
@click.option("--json", "as_json", is_flag=True, help="Print build.json on stdout.")
def build(source: Path, out: Path, reader: str | None, options: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Make samples of the masks of SOURCE: box, key points, question, split.

    OUT gets images/, masks/, manifest.jsonl, build.json, findings.jsonl and rejected.jsonl (what could not be used). It
    appears when it is complete. What a reasoner writes is stored in OUT.building as it comes: run the same command again
    after an interruption.
    """
    from medground_data.build import build as make
    from medground_data.build import refuse_existing
    from medground_data.readers import find_reader, read_source

    refuse_existing(out)
    chosen = _reader_options(options)
    samples = read_source(source, reader, **chosen)
    about: dict[str, Any] = {
        "source": source.name,
        "reader": reader or find_reader(source),
        "reader_options": chosen,
    }
    about["questions"] = {word: given[word] for word in ("questions", "question_column", "reasoner", "recipe", "sets")}
    with interruptible() as stopped:
        asker = _asker(given, stopped)
        summary = make(_until(stopped, samples), out, _build_options(given), asker, about=about)
    if as_json:
        click.echo(json.dumps(summary))
    else:
        click.echo(_report(summary, out), err=True)


def _until(
    stopped: Callable[[], bool], samples: "Iterable[SourceSample | BadSample]"
) -> "Iterator[SourceSample | BadSample]":
    with progress("reading", total=None, unit="sample") as advance:  # no reader says beforehand how many there are
        for sample in samples:
            if stopped():
                raise Interrupted("stopped while the source was being read", hint="run the same command again")
            yield sample
            advance(1)


def _reader_options(texts: tuple[str, ...]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"{text!r} is not KEY=VALUE", hint="write it as in -o window=lung")
        options[key] = int(value) if value.lstrip("-").isdecimal() else value
    return options


def _build_options(given: dict[str, Any]) -> "Options":
    from medground_data.drafts import Options

    words = (
        "components", "points", "min_area", "min_fraction", "max_fraction", "fractions", "splits", "near_duplicates",
        "seed", "group_pattern", "targets", "negatives", "exhaustive", "volumes",
    )  # fmt: skip
    try:
        return Options(**{word: given[word] for word in words})
    except ValueError as error:
        raise UsageError(str(error)) from error


def _asker(given: dict[str, Any], stopped: Callable[[], bool]) -> "QuestionSource":
    from medground_data.question_sources import FromSource, FromTemplates

    if given["questions"] == "reasoner":
        return _writer(given, stopped)
    if given["questions"] == "source" or given["question_column"]:
        return FromSource(column=given["question_column"])
    return FromTemplates(seed=given["seed"], keep=given["questions"] == "auto")


def _writer(given: dict[str, Any], stopped: Callable[[], bool]) -> "QuestionSource":
    from medground.recipe import resolve
    from medground.registry import build as make
    from medground.runs.inputs import RunInputs, component_inputs
    from medground_data.llm_questions import FromReasoner

    if (given["reasoner"] is None) == (given["recipe"] is None):
        raise UsageError("questions by a reasoner need one reasoner", hint="give --reasoner NAME or --recipe RECIPE")
    resolved = resolve(given["recipe"] or {"reasoner": given["reasoner"]}, *given["sets"])
    name, arguments = resolved.component("reasoner")
    return FromReasoner(
        reasoner=make("reasoner", name, **arguments),
        who=resolved.digest("reasoner") + RunInputs(components=component_inputs(resolved, "reasoner")).digest,
        confirm=lambda cost: _confirm(cost, name, given["yes"]),
        check=given["check"],
        attempts=given["attempts"],
        fallback=given["fallback"],
        seed=given["seed"],
        stopped=stopped,
    )


def _confirm(cost: "Cost", name: str, yes: bool) -> None:
    click.echo(f"{name} would be asked: {cost}", err=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("cannot ask for confirmation: stdin is not a terminal", hint="pass --yes")
    click.confirm("ask?", abort=True, err=True)


def _report(summary: dict[str, Any], out: Path) -> str:
    splits = ", ".join(f"{count} {name}" for name, count in summary["by_split"].items())
    origin = "kept from the source" if summary["splits_kept"] else f"made of {summary['groups']} groups"
    rows = [f"{summary['samples']} samples of {summary['images']} images in {out}: {splits}; splits {origin}"]
    if summary["targets"].keys() - {"one"}:
        counts = ", ".join(f"{count} {name}" for name, count in summary["targets"].items())
        rows.append(f"targets of a question: {counts}")
    if "volume_samples" in summary:
        rows.append(f"{summary['volume_samples']} samples of whole volumes")
    if summary["rejected"]:
        rows.append(f"{summary['rejected']} left out: see {out / 'rejected.jsonl'}")
    if summary["splits_replaced"]:
        rows.append(f"{summary['splits_replaced']} samples stated a split and got a new one")
    if findings := summary["findings"]:
        counts = ", ".join(f"{count} {code}" for code, count in findings.items())
        rows.append(f"the linter says of the source: {counts}; see {out / 'findings.jsonl'}")
    if summary["leaking_groups"]:
        rows.append(f"{summary['leaking_groups']} groups have samples in several splits, as the source has it")
    return "\n".join(rows)


@data.command(
    epilog=examples(
        "medground data lint made",
        "medground data lint made --json",
    )
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on stdout.")
def lint(folder: Path, as_json: bool) -> None:
    """Find what is wrong with the dataset in FOLDER; exit with 1 where anything is an error."""
    from medground.data.lint import lint as examine

    with counted("checking", unit="line") as report:
        findings, count = examine(folder, progress=report)
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        click.echo(json.dumps({"lines": count, "errors": errors, "findings": [one.to_dict() for one in findings]}))
    else:
        for one in findings:
            click.echo(f"line {one.line}  {one.severity}  {one.code}  {one.id}: {one.says}; {one.remedy}")
        click.echo(f"{count} lines, {errors} errors, {len(findings) - errors} warnings", err=True)
    if errors:
        raise RunError(f"{folder.name} has {errors} errors", hint="each line above names the error and its fix")


@data.command(
    epilog=examples(
        "medground data stats made --split train",
        "medground data stats made --html made.html --pictures 24",
    )
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--split", help="Only these samples.")
@click.option("--html", type=click.Path(path_type=Path), help="Write one self-contained page there.")
@click.option(
    "--pictures", type=click.IntRange(min=0), default=12, show_default=True, help="Samples drawn on the page."
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON on stdout, a row per sample included.")
def stats(folder: Path, split: str | None, html: Path | None, pictures: int, as_json: bool) -> None:
    """Say what the dataset in FOLDER holds: counts, sizes, floors, lengths."""
    from medground.data.open_dataset import open_dataset
    from medground.data.stats import measure, rows, summary
    from medground_data.stats_view import as_page, show

    samples = open_dataset(folder, split=split)
    with progress("measuring", total=len(samples), unit="sample") as advance:
        measured = measure(samples, advance)
    figures = summary(measured)
    if html is not None:
        html.write_text(as_page(figures, measured, samples, pictures), encoding="utf-8")
        click.echo(f"wrote {html}", err=True)
    if as_json:
        click.echo(json.dumps({**figures, "rows": rows(measured)}))
    else:
        show(figures)


@data.command(
    epilog=examples(
        "medground data export made --to umrg.parquet",
        "medground data export made --to coco --format coco --split test",
    )
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--to", type=click.Path(path_type=Path), required=True, help="FILE.parquet, or a folder that is not there."
)
@click.option("--format", "kind", type=click.Choice(["umrg", "coco"]), default="umrg", show_default=True)
@click.option("--split", help="Only these samples.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON on stdout.")
def export(folder: Path, to: Path, kind: str, split: str | None, as_json: bool) -> None:
    """Write the dataset in FOLDER as the published parquet table, or as COCO."""
    from medground.data.export import export as write
    from medground_data.build import building

    with building(to):
        counts = write(folder, to, kind, split=split)
    if as_json:
        click.echo(json.dumps(counts))
    else:
        click.echo(
            "\n".join(f"{count} samples in {to if to.is_file() else to / name}" for name, count in counts.items()),
            err=True,
        )
