"""Sources of image and mask, one file per layout: each gives cases, and bad cases for what it cannot use.

A reader is a module with ``cases(root, **options) -> Iterator[SourceSample | BadSample]`` and ``recognises(root) -> bool``.
"""

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from medground.data.source_samples import BadSample, SourceSample
from medground.errors import InputError, UsageError, did_you_mean

READERS = {
    "folder": "images/ and masks/ by name",
    "manifest": "a line of JSON per mask",
    "umrg": "the published parquet table",
    "coco": "one JSON file of images and annotations",
    "biomedparse": "train/ beside train_mask/, targets in the names",
    "sam_med2d": "image2label or label2image tables",
    "nnunet": "imagesTr/ beside labelsTr/, NIfTI",
    "slake": "imgs/ and mask.txt, questions as JSON",
}
"""Name, which is also the module's, and what it reads."""


def read_cases(source: str | Path, reader: str | None = None, **options: Any) -> Iterator[SourceSample | BadSample]:
    """The cases of a source, in its own order; what cannot be used comes as `BadSample` among them.

    Args:
        source: a folder or a file.
        reader: a name of `READERS`; None takes the one whose layout the source has.
        options: the reader's own; see its ``cases``.

    Raises:
        UsageError: if no reader, or more than one, recognises the source; for an option the reader does not have.
        InputError: if the source cannot be read at all, or holds no cases.
    """
    root = Path(source).expanduser()
    if not root.exists():
        raise InputError(f"{root} does not exist", hint="give a folder or a file")
    module = importlib.import_module(f"{__name__}.{reader_of(root) if reader is None else known(reader)}")
    name, takes = module.__name__.rpartition(".")[2], inspect.signature(module.cases).parameters
    for option in options:
        if option not in takes or option == "root":
            raise UsageError(
                f"the reader {name} has no option {option!r}", hint=did_you_mean(option, [each for each in takes][1:])
            )
    missing = [each for each, about in takes.items() if about.default is about.empty and each not in ("root", *options)]
    if missing:
        raise UsageError(f"the reader {name} needs {' and '.join(missing)}", hint=f"give {missing[0]}=...")
    return _unique(module.cases(root, **options), root)


def known(name: str) -> str:
    """`name`, if there is such a reader.

    Raises:
        UsageError: if there is none.
    """
    if name not in READERS:
        raise UsageError(f"there is no reader {name!r}", hint=did_you_mean(name, READERS))
    return name


def reader_of(root: Path) -> str:
    """The one reader whose layout a source has; `folder` only where no other fits, since a table says more than names.

    Raises:
        UsageError: if there is none, or several.
    """
    fitting = [name for name in READERS if importlib.import_module(f"{__name__}.{name}").recognises(root)]
    fitting = [name for name in fitting if name != "folder"] or fitting
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(
            f"{root.name} could be read as {' or as '.join(fitting)}", hint=f"name one: reader={fitting[0]}"
        )
    told = "; ".join(f"{name}: {about}" for name, about in READERS.items())
    raise UsageError(f"{root.name} has no layout that is known", hint=f"name a reader and see its options ({told})")


def _unique(cases: Iterator[SourceSample | BadSample], root: Path) -> Iterator[SourceSample | BadSample]:
    """The cases, a later one of the same id renamed ``id-2``, ``id-3``, ...; at least one of any kind."""
    seen: set[str] = set()
    something = False
    for case in cases:
        something = True
        if isinstance(case, SourceSample):
            if case.id in seen:
                case = replace(case, id=next(new for n in count(2) if (new := f"{case.id}-{n}") not in seen))
            seen.add(case.id)
        yield case
    if not something:
        raise InputError(f"{root.name} holds no cases", hint="see docs/data.md for what each reader expects")
