"""Checks of a source sample, whose faults the dataset that is made of it would no longer show."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medground.data.lint.findings import Line
from medground.data.lint.pixels import check_image, check_mask, check_statements
from medground.data.lint.records import check_words
from medground.data.manifest import Record
from medground.data.region_props import region_props
from medground.data.source_samples import SourceSample
from medground.errors import InputError
from medground.images.loaded import LoadedImage

_REJECTED = ("blank_image", "turned_mask", "other_frame")
"""Codes that make a wrong target; other numbers are measured anew."""


@dataclass(frozen=True, slots=True)
class SourceFinding:
    """What is wrong with a source sample that is used all the same."""

    where: str
    code: str
    """A key of `medground.data.lint.CODES`."""
    says: str


def lint_source(sample: SourceSample, image: LoadedImage, mask: NDArray[np.bool_]) -> list[SourceFinding]:
    """Return the findings about a source sample.

    Args:
        sample: with what the source states.
        image: its image.
        mask: its mask, H×W bool.

    Raises:
        InputError: for one that makes a wrong target.
    """
    line = Line(
        Record(number=0, id=sample.id, question=sample.question, think=sample.think, split=sample.split, box=sample.box,
               points=sample.points, labels=sample.labels)
    )  # fmt: skip
    check_words(line)
    check_image(line, image)
    if check_mask(line, line.record, mask, image.size, sample.mask_file) and (sample.question or sample.think):
        check_statements(line, region_props(image.pixels, mask))
    for finding in line.findings:
        if finding.code in _REJECTED:
            raise InputError(finding.says, hint=finding.remedy)
    return [SourceFinding(sample.where, finding.code, finding.says) for finding in line.findings]
