"""What a writer is given: masks with names and codes, and the algorithm that drew them."""

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medground import __version__

_LONGEST = 64
"""Characters of a DICOM label (VR LO)."""


class Code(NamedTuple):
    """A coded concept of SNOMED CT.

    >>> Code("10200004", "Liver").meaning
    'Liver'
    """

    value: str
    meaning: str


ANATOMY = Code("91723000", "Anatomical Structure")
ABNORMALITY = Code("49755003", "Morphologically Abnormal Structure")
TISSUE = Code("85756007", "Tissue")
_TERMS = {
    ANATOMY: {
        "adrenal gland": "23451007", "aorta": "15825003", "bladder": "89837001", "bone": "272673000", "brain": "12738006",
        "breast": "76752008", "colon": "71854001", "esophagus": "32849002", "gallbladder": "28231008", "heart": "80891009",
        "hippocampus": "5366008", "kidney": "64033007", "liver": "10200004", "lung": "39607008", "lymph node": "59441001",
        "pancreas": "15776009", "prostate": "41216001", "rectum": "34402009", "spinal cord": "2748008",
        "spleen": "78961009", "stomach": "69695003", "thyroid": "69748006", "trachea": "44567001", "uterus": "35039007",
        "vertebra": "51282000",
    },
    ABNORMALITY: {
        "abscess": "44132006", "cyst": "367643001", "edema": "79654002", "hematoma": "35566002", "hemorrhage": "50960005",
        "lesion": "52988006", "mass": "4147007", "metastasis": "128462008", "neoplasm": "108369006", "nodule": "27925004",
        "tumor": "108369006", "ulcer": "56208002",
    },
}  # fmt: skip
"""Category -> word -> SNOMED CT code of the type."""


def codes_of(label: str) -> tuple[Code, Code]:
    """Return the (category, type) that a label ends with; (tissue, tissue) where it ends with no known term.

    >>> codes_of("left lung nodule")[1]
    Code(value='27925004', meaning='Nodule')
    >>> codes_of("mass effect")[1].meaning
    'Tissue'
    """
    words = re.sub(r"[^a-z]+", " ", label.lower()).strip().replace("tumour", "tumor")
    for category, terms in _TERMS.items():
        for term, value in terms.items():
            if re.search(rf"(^| ){term}s?$", words):
                return category, Code(value, term.capitalize())
    return TISSUE, TISSUE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledMask:
    """A mask to be written: one region.

    >>> LabelledMask(data=np.ones((2, 3), bool), label="liver").type
    Code(value='10200004', meaning='Liver')
    """

    data: NDArray[np.bool_]
    """Of a volume ``[i, j, k]``, of an image H×W, of its size."""
    label: str = ""
    """What it is, in words; it is written into the file."""
    codes: tuple[Code, Code] | None = None
    """(category, type) of SNOMED CT; None takes those of `codes_of`."""

    @property
    def category(self) -> Code:
        """The coded category: anatomical structure, morphologically abnormal structure, or tissue."""
        return (self.codes or codes_of(self.label))[0]

    @property
    def type(self) -> Code:
        """The coded type."""
        return (self.codes or codes_of(self.label))[1]

    def named(self, number: int) -> "LabelledMask":
        """Return the same mask with a label fit for every format: one line of at most 64 characters, never empty."""
        label = " ".join(re.sub(r"[\\\x00-\x1f\x7f]", " ", self.label).split())[:_LONGEST].strip()
        return replace(self, label=label or f"region {number}", codes=self.codes or codes_of(self.label))


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """What drew the masks, as files that can say it do.

    >>> Algorithm().name
    'medground'
    """

    name: str = "medground"
    version: str = __version__
