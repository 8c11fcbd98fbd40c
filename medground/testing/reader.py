"""Does a reader keep the promises of `medground.data.source_samples.Reader`?"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from medground.data.source_samples import BadSample, Reader, SourceSample
from medground.errors import InputError
from medground.hookspecs import Factory
from medground.testing.findings import Findings, shown


def check_reader(factory: Factory, source: str | Path, /, **options: Any) -> None:
    """Check a reader on a source that has its layout, with at least one usable sample.

    Args:
        factory: makes the reader, without arguments.
        source: a folder or file that it recognises.
        options: of its ``read``.

    Raises:
        ConformanceError: listing every promise broken.
    """
    findings, root = Findings(factory), Path(source)
    reader: Any = None
    with findings.attempt("it can be made without arguments"):
        reader = factory()
    if reader is None:
        findings.conclude()
    description = getattr(reader, "description", None)
    findings.expect(isinstance(description, str) and description, "its description is a text", shown(description))
    _check_recognises(reader, root, findings)
    for parameter in list(inspect.signature(reader.read).parameters.values())[1:]:
        findings.expect(parameter.kind is parameter.KEYWORD_ONLY, "every option is keyword-only", str(parameter))
    with findings.attempt("read yields samples", str(root)):
        samples, again = list(reader.read(root, **options)), list(reader.read(root, **options))
        wrong = [shown(sample) for sample in samples if not isinstance(sample, SourceSample | BadSample)]
        findings.expect(not wrong, "read yields SourceSample or BadSample", ", ".join(wrong))
        findings.expect(_names(samples) == _names(again), "the same source gives the same samples every time")
        usable = [sample for sample in samples if isinstance(sample, SourceSample)]
        findings.expect(usable, "read yields a usable sample", str(root))
        for sample in usable:
            _check_sample(sample, findings)
    findings.conclude()


def _check_recognises(reader: Reader, root: Path, findings: Findings) -> None:
    promise = "recognises is True for its own layout and False for an empty folder"
    with findings.attempt(promise), TemporaryDirectory() as empty:
        answer = reader.recognises(root)
        findings.expect(answer is True, promise, f"{root} gives {shown(answer)}")
        answer = reader.recognises(Path(empty))
        findings.expect(answer is False, promise, f"an empty folder gives {shown(answer)}")


def _check_sample(sample: SourceSample, findings: Findings) -> None:
    named = sample.id and sample.id == Path(sample.id).name
    findings.expect(named, "an id is fit to be the name of a file", repr(sample.id))
    findings.expect(sample.group, "every sample has a group", sample.where)
    with findings.attempt("pixels are decoded or an InputError says why not", sample.where):
        try:
            image, masks = sample.load_image(), [sample.load_mask()]
            regions = [region.load_mask() for region in sample.regions or ()]
        except InputError:
            return
        for mask in [*masks, *regions]:
            findings.expect(
                mask.dtype == np.bool_ and mask.shape == image.pixels.shape[:2],
                "a mask is bool at the size of its image",
                f"{shown(mask)} for {shown(image.pixels)} ({sample.where})",
            )
        if sample.regions is not None:
            findings.expect(
                np.array_equal(masks[0], np.any([np.zeros_like(masks[0]), *regions], axis=0)),
                "the mask of several regions is their union",
                sample.where,
            )


def _names(samples: Sequence[SourceSample | BadSample]) -> list[tuple[str, str]]:
    return [(getattr(sample, "where", ""), getattr(sample, "id", "")) for sample in samples]
