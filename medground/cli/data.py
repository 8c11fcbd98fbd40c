"""``medground data``: masks to samples, and what samples are worth."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medground.cli.progress import progress
from medground.errors import UsageError

if TYPE_CHECKING:
    from medground.data.build import Ask, Options


@click.group()
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
            self.fail(f"{value!r} is not such as 0.8,0.1,0.1 or train=0.9,test=0.1")


@data.command()
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
    help="Keep the source's, or make new ones; auto keeps them where every case states one.",
)  # fmt: skip
@click.option("--near-duplicates/--exact-duplicates", default=True, show_default=True, help="What may not part.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the splits and the questions.")
@click.option(
    "--questions", type=click.Choice(["auto", "source", "templates"]), default="auto", show_default=True,
    help="auto takes the source's where it states one, and templates elsewhere.",
)  # fmt: skip
@click.option("--question-column", metavar="WORD", help="Where the source's questions are, if not in `question`.")
@click.option("--json", "as_json", is_flag=True, help="Print build.json on stdout.")
def build(source: Path, out: Path, reader: str | None, options: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Make samples of the masks of SOURCE: box, key points, question, split.

    OUT gets images/, masks/, manifest.jsonl, build.json and rejected.jsonl (what could not be used, and why). It
    appears when it is whole.
    """
    from medground.data.build import build as make
    from medground.data.build import refuse_another
    from medground.data.readers import read_cases

    refuse_another(out)
    chosen = _reader_options(options)
    cases = read_cases(source, reader, **chosen)
    about = {"source": source.name, "reader": reader, "reader_options": chosen}
    about["questions"] = {"by": given["questions"], "column": given["question_column"]}
    with progress("reading", total=None) as advance:
        summary = make(cases, out, _build_options(given), _asker(given), about=about, advance=advance)
    if as_json:
        click.echo(json.dumps(summary))
    else:
        click.echo(_told(summary, out), err=True)


def _reader_options(texts: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"{text!r} is not KEY=VALUE", hint="such as -o window=lung")
        found[key] = int(value) if value.lstrip("-").isdecimal() else value
    return found


def _build_options(given: dict[str, Any]) -> "Options":
    from medground.data.build import Options

    words = (
        "components", "points", "min_area", "min_fraction", "max_fraction", "fractions", "splits", "near_duplicates",
        "seed",
    )  # fmt: skip
    try:
        return Options(**{word: given[word] for word in words})
    except ValueError as error:
        raise UsageError(str(error)) from error


def _asker(given: dict[str, Any]) -> "Ask":
    from medground.data.asking import FromSource, FromTemplates

    if given["questions"] == "source" or given["question_column"]:
        return FromSource(column=given["question_column"])
    return FromTemplates(seed=given["seed"], keep=given["questions"] == "auto")


def _told(summary: dict[str, Any], out: Path) -> str:
    splits = ", ".join(f"{count} {name}" for name, count in summary["by_split"].items())
    kept = "kept from the source" if summary["splits_kept"] else f"made of {summary['groups']} groups"
    rows = [f"{summary['samples']} samples of {summary['images']} images in {out}: {splits}; splits {kept}"]
    if summary["rejected"]:
        rows.append(f"{summary['rejected']} left out: see {out / 'rejected.jsonl'}")
    if summary["leaking_groups"]:
        rows.append(f"{summary['leaking_groups']} groups have samples in several splits, as the source has it")
    return "\n".join(rows)
