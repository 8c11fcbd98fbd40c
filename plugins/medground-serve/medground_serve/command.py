"""``medground serve``: the page and the HTTP interface."""

import asyncio
import logging
import secrets
from pathlib import Path

import click

from medground.errors import MedgroundError
from medground.terminal import examples

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
DEFAULT_RECIPE = "infer/toy"
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_DICOMWEB = "A DICOMweb server, whose series viewers ask about; credentials are in the environment (see the documents)."


def _recipe_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a shipped recipe."""
    from medground.recipe import names

    return [name for name in names() if name.startswith(incomplete)]


@click.command(
    epilog=examples(
        "medground serve",
        "medground serve infer/toy segmenter=mini_sam --compare region_growing --port 0",
    )
)
@click.argument("recipe", default=DEFAULT_RECIPE, shell_complete=_recipe_names)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--compare", default="", metavar="SEGMENTER", help="A second segmenter, drawn beside the first on demand."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address that is listened on.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="A name that browsers reach it by; repeatable.")
@click.option("--waiting", type=click.IntRange(min=0), default=8, show_default=True, help="Requests that may wait.")
@click.option("--max-mb", type=click.IntRange(min=1), default=64, show_default=True, help="Of an upload, in MB.")
@click.option("--max-megapixels", type=click.IntRange(1, 64), default=25, show_default=True, help="Of an image.")
@click.option("--answer-seconds", type=click.FloatRange(min=1), default=120, show_default=True, help="Of one answer.")
@click.option("--dicomweb", metavar="URL", help=_DICOMWEB)
@click.option("--dicomweb-netrc", type=_FILE, help="A netrc file with its user and password.")
@click.option("--dicomweb-ca", type=_FILE, help="Certificates (PEM) that are trusted in place of the system's.")
@click.option("--ohif", type=_FOLDER, help="The folder of OHIF's build, which is then served under /ohif/.")
@click.option("--labels", type=click.Path(path_type=Path), help="Where labels are saved that 3D Slicer sends.")
@click.option("--session-minutes", type=click.FloatRange(min=0.1), default=30, show_default=True, help="Of an image.")
def serve(
    recipe: str,
    overrides: tuple[str, ...],
    compare: str,
    port: int,
    host: str,
    allow_host: tuple[str, ...],
    waiting: int,
    max_mb: int,
    max_megapixels: int,
    answer_seconds: float,
    dicomweb: str | None,
    dicomweb_netrc: Path | None,
    dicomweb_ca: Path | None,
    ohif: Path | None,
    labels: Path | None,
    session_minutes: float,
) -> None:
    """Answer questions about images on a page and over HTTP, with the models of RECIPE.

    The address that is printed holds a token: who has it can ask. Nothing is opened, and nothing but this machine can connect,
    unless --host says so. Images are deleted when nobody asks about them, and when the server ends.
    Research software, not a medical device.
    """
    from medground.recipe import check, resolve
    from medground_serve.app import build
    from medground_serve.archive import archive
    from medground_serve.comparison import comparison_recipe
    from medground_serve.folder import private_folder
    from medground_serve.listening import bind, server
    from medground_serve.ohif import check_folder
    from medground_serve.settings import Settings
    from medground_serve.store import ImageStore
    from medground_serve.worker import Worker

    if ohif is not None:
        check_folder(ohif)
    check(resolve(recipe, *overrides))
    if compare:
        check(comparison_recipe(recipe, overrides, compare))
    settings = Settings(
        recipe=recipe,
        overrides=overrides,
        compare=compare,
        token=secrets.token_urlsafe(24),
        hosts=_hosts(host, allow_host),
        most_waiting=waiting,
        most_bytes=max_mb * 1_000_000,
        most_pixels=max_megapixels * 1_000_000,
        answer_seconds=answer_seconds,
        session_seconds=session_minutes * 60,
        archive=archive(dicomweb, netrc_file=dicomweb_netrc, authority=dicomweb_ca) if dicomweb else None,
        ohif=ohif,
        labels=labels,
    )
    failures: list[MedgroundError] = []

    def failed(error: MedgroundError) -> None:
        failures.append(error)
        listening.should_exit = True

    worker = Worker(settings, failed)
    with private_folder() as folder, bind(host, port, every=bool(allow_host)) as socket:
        store = ImageStore(
            folder,
            most_bytes=settings.most_stored,
            most_images=settings.most_images,
            seconds=settings.session_seconds,
        )
        listening = server(build(settings, worker, store), settings, worker.close)
        name = allow_host[0] if allow_host else f"[{host}]" if ":" in host else host
        address = f"http://{name}:{socket.getsockname()[1]}"
        click.echo(f"{address}/#{settings.token}")
        if ohif is not None:
            click.echo(f"{address}/viewer#{settings.token}")
        for library in ("uvicorn", "python_multipart"):  # they write what clients sent
            logging.getLogger(library).setLevel(logging.CRITICAL)
        asyncio.run(listening.serve(sockets=[socket]))
    if failures:
        raise failures[0]


def _hosts(host: str, allowed: tuple[str, ...]) -> frozenset[str]:
    """Return the names that the Host header may give."""
    own = f"[{host}]" if ":" in host else host
    return LOOPBACK | {own.lower()} | {name.lower() for name in allowed}
