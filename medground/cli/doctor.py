"""``medground doctor``: say what is installed and works; ``doctor frames`` follows coordinates through a recipe."""

import importlib.metadata
import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medground.cli.completion import OVERRIDE, RECIPE
from medground.errors import RunError
from medground.terminal import examples

if TYPE_CHECKING:
    from medground.cli.plugins import PluginStatus

SAFE_SINCE = {
    "torch": "2.10",  # loading a foreign .pt is unsafe below, even with weights_only
    "transformers": "5.17",
    "pillow": "12.3",
    "pydicom": "3.0.2",
}
"""The oldest version of each library that is safe to use, where one matters."""
LIBRARIES = (
    "numpy", "pillow", "omegaconf", "pluggy", "torch", "torchvision", "transformers", "peft", "safetensors",
    "segment-anything", "sam2", "open-clip-torch", "pydicom", "nibabel",
)  # fmt: skip
"""The libraries whose versions are shown."""


@click.group(
    invoke_without_command=True,
    epilog=examples(
        "medground doctor",
        "medground doctor --strict --json",
    ),
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on stdout.")
@click.option("--strict", is_flag=True, help="Exit with 4 if a plugin does not work with what is installed.")
@click.pass_context
def doctor(context: click.Context, as_json: bool, strict: bool) -> None:
    """Say what is installed, what is missing, and which plugins do not work with it.

    Every plugin is imported in a process of its own and builds something tiny of what it offers, which takes some seconds.
    """
    if context.invoked_subcommand is not None:
        return
    from medground.cli.plugins import examine, refuse_broken

    core, libraries = _core(), {name: _library(name) for name in LIBRARIES}
    if not as_json:
        click.echo(f"medground {core['medground']}, Python {core['python']}, {core['system']}")
        for name, library in libraries.items():
            click.echo(f"  {name:<18} {library['version'] or 'not installed':<16} {library['problem']}".rstrip())
        click.echo("checking every plugin, which takes some seconds ...", err=True)
    rows = examine()
    if as_json:
        click.echo(json.dumps({**core, "libraries": libraries, "plugins": [asdict(row) for row in rows]}))
    else:
        for row in rows:
            click.echo("  " + _line(row))
    if strict:
        refuse_broken(rows)


def _core() -> dict[str, str]:
    return {
        "medground": importlib.metadata.version("medground"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _line(row: "PluginStatus") -> str:
    """Describe one plugin, with what to do where there is anything to do."""
    status = f"{row.module:<24} {row.status}"
    return status + (f": {row.cause} ({row.remedy})" if row.cause else "")


def _library(name: str) -> dict[str, str]:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return {"version": "", "problem": ""}
    safe = SAFE_SINCE.get(name, "0")
    too_old = _numbers(version) < _numbers(safe)
    return {"version": version, "problem": f"older than {safe}: upgrade before loading files of others" * too_old}


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split("+")[0].split(".") if number.isdigit()]


@doctor.command(
    epilog=examples(
        "medground doctor frames infer/toy",
        "medground doctor frames infer/qwen3_vl_8b --image scan.png --out hops.png",
    )
)
@click.argument("recipe", type=RECIPE)
@click.argument("overrides", nargs=-1, type=OVERRIDE, metavar="[KEY=VALUE]...")
@click.option("--image", type=click.Path(path_type=Path), help="An image to check with; a synthetic one otherwise.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("frames.png"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the hops as JSON on stdout.")
def frames(recipe: str, overrides: tuple[str, ...], image: Path | None, out: Path, as_json: bool) -> None:
    """Send a known target through RECIPE's coordinates and print the drift of every hop.

    The target is rendered as the perfect answer in the reasoner's frame, parsed back, and handed on as the segmenter
    would get it. Fails where a hop drifts by more than half a model unit; warns where one unit exceeds a pixel.
    """
    from medground.cli.frames import draw_hops, follow
    from medground.pipeline.load import load

    report = follow(load(recipe, *overrides), image)
    draw_hops(report, out)
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        for line in report.lines():
            click.echo(line)
        click.echo(f"drawn in {out}")
    if not report.ok:
        raise RunError(
            f"coordinates drift by {report.worst:.3f} model units, more than half of one",
            hint="the frame the reasoner declares is not the one its answers count",
        )
