"""The promises of the protocol, and what each component says of itself without loading anything."""

import subprocess
import sys

import pytest
from medground_sam import MedSam, Sam, SamMed2D

from medground.testing import check_segmenter


@pytest.mark.parametrize("backend", ["transformers", "official"])
@pytest.mark.lane
def test_sam(sam_file, backend):
    check_segmenter(Sam, checkpoint=sam_file, backend=backend)


@pytest.mark.parametrize("protocol", ["native", "medreasoner"])
def test_medsam(sam_file, protocol):
    check_segmenter(MedSam, checkpoint=sam_file, protocol=protocol)


@pytest.mark.parametrize("protocol", ["native", "medreasoner"])
def test_sammed2d(med2d_file, protocol):
    check_segmenter(SamMed2D, checkpoint=med2d_file, protocol=protocol)


def test_what_each_accepts_is_known_without_torch():
    code = (
        "import sys, medground_sam as m\n"
        "everything = {'box', 'points', 'negative_points'}\n"
        "assert m.Sam.accepts == m.SamMed2D.accepts == m.ToySam.accepts == everything\n"
        "assert m.MedSam.accepts == {'box'}\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
