"""Readers of sources of image and mask, one file per layout; plugins add more. See `medground.data.source_samples.Reader`."""

import inspect
import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from medground.data.json_text import refuse_archive
from medground.data.source_samples import BadSample, Reader, SourceSample
from medground.errors import InputError, PluginError, UsageError, did_you_mean
from medground.images.pictures import open_file
from medground.registry import build, components

log = logging.getLogger(__name__)


def read_source(source: str | Path, reader: str | None = None, **options: Any) -> Iterator[SourceSample | BadSample]:
    """Return the samples of a source, in its own order; what cannot be used comes as `BadSample` among them.

    Args:
        source: a folder or a file.
        reader: the name of an installed reader; None takes the one whose layout the source has.
        options: the reader's own; see its ``read``.

    Raises:
        UsageError: if no reader, or more than one, recognises the source; for an option the reader does not have.
        InputError: if the source cannot be read at all, or holds no samples.
        PluginError: if the reader's plugin is broken.
    """
    root = Path(source).expanduser()
    if not root.exists():
        raise InputError(f"{root} does not exist", hint="give a folder or a file")
    if root.is_file():
        with open_file(root) as stream:
            refuse_archive(stream.read(512), root.name)
    name = find_reader(root) if reader is None else reader
    chosen = get_reader(name)
    parameters = {
        word: parameter
        for word, parameter in inspect.signature(chosen.read).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for option in options:
        if option not in parameters:
            raise UsageError(f"the reader {name} has no option {option!r}", hint=did_you_mean(option, list(parameters)))
    missing = [
        word for word, parameter in parameters.items() if parameter.default is parameter.empty and word not in options
    ]
    if missing:
        raise UsageError(f"the reader {name} needs {' and '.join(missing)}", hint=f"give {missing[0]}=...")
    return _unique(chosen.read(root, **options), root)


def get_reader(name: str) -> Reader:
    """Build the installed reader called `name`.

    Raises:
        UsageError: if there is none.
        PluginError: if its plugin is broken.
    """
    names = [component.name for component in components("reader")]
    if name not in names:
        raise UsageError(f"there is no reader {name!r}", hint=did_you_mean(name, names))
    reader: Reader = build("reader", name)
    return reader


def find_reader(root: Path) -> str:
    """Return the name of the one reader whose layout a source has.

    `folder` only where no other fits: a table says more than names. A reader whose plugin is broken is left out, with a
    warning.

    Raises:
        UsageError: if there is none, or several.
    """
    readers: dict[str, Reader] = {}
    for component in components("reader"):
        try:
            readers[component.name] = get_reader(component.name)
        except PluginError as error:
            log.warning("the reader %s is left out: %s", component.name, error)
    fitting = [name for name, reader in readers.items() if reader.recognises(root)]
    fitting = [name for name in fitting if name != "folder"] or fitting
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(
            f"{root.name} could be read as {' or as '.join(fitting)}", hint=f"name one: --reader {fitting[0]}"
        )
    known = "; ".join(f"{name}: {reader.description}" for name, reader in readers.items())
    raise UsageError(f"{root.name} has no layout that is known", hint=f"name a reader and see its options ({known})")


def _unique(samples: Iterator[SourceSample | BadSample], root: Path) -> Iterator[SourceSample | BadSample]:
    """The samples, a later one of the same id renamed ``id-2``, ``id-3``, ...; at least one of any kind."""
    seen: set[str] = set()
    empty = True
    for sample in samples:
        empty = False
        if isinstance(sample, SourceSample):
            if sample.id in seen:
                sample = replace(sample, id=next(new for n in count(2) if (new := f"{sample.id}-{n}") not in seen))
            seen.add(sample.id)
        yield sample
    if empty:
        raise InputError(f"{root.name} holds no samples", hint="see docs/data.md for what each reader expects")
